"""Updates that make the network read new images better: deformed images, averaged weights.

Batch normalisation helps too: `build_mlp` inserts it, and `network` folds it into the layers. The
network that comes out is as plain as one trained without any of this.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnist_mlp.steps.model import fold_batch_norm
from mnist_mlp.steps.train import TorchUpdater, Updater
from mnist_mlp.updates.deformation import Deformation


@dataclass(eq=False)
class DeformingUpdater(TorchUpdater):
    """`TorchUpdater` on images that are deformed anew in each epoch; the seed decides how."""

    deformation: Deformation | None = None
    seed: int = 0

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        if self.deformation:
            self.noise = self.deformation.sample(len(order), self.seed, epoch).to(order.device)
        yield from super().run_epoch(epoch, order, learning_rates, done, logits)

    def examples(self, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 784), deformed, and labels (B,)."""
        images, labels = super().examples(rows)
        return (self.deformation(images, self.noise[rows]) if self.deformation else images), labels


class AveragingUpdater(Updater):
    """The updates of another updater, followed by a running average of its model's weights.

    After update k the average moves 1 − min(decay, (1 + k) / (10 + k)) of the way to the weights:
    a large part at first, while the weights still change much.
    """

    def __init__(self, updater: Updater, decay: float) -> None:
        self.updater, self.decay = updater, decay
        self.model, self.batch_size = updater.model, updater.batch_size
        self.complete, self.report_due = updater.complete, updater.report_due  # type: ignore[method-assign]
        self.average = copy.deepcopy(self.model)
        pair = (self.average, self.model)
        self._averages, self._weights = ([*named_floats(model).values()] for model in pair)

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`. The other updater must yield after every batch."""
        for batch in self.updater.run_epoch(epoch, order, learning_rates, done, logits):
            self.include((epoch - 1) * len(learning_rates) + batch + 1)
            yield batch

    @torch.no_grad()
    def include(self, k: int) -> None:
        """Include the weights after update k, counted from 1, in the average."""
        step = 1 - min(self.decay, (1 + k) / (10 + k))
        torch._foreach_lerp_(self._averages, self._weights, step)

    def network(self) -> nn.Sequential:
        """The averaged network, with batch normalisation folded in."""
        return fold_batch_norm(self.average)


def named_floats(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by name, sharing its memory, without integer counts."""
    return {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
