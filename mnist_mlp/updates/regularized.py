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
from mnist_mlp.steps.train import TorchUpdater
from mnist_mlp.updates.deformation import Deformation


@dataclass(eq=False)
class RegularizedUpdater(TorchUpdater):
    """`TorchUpdater` on deformed images, followed by an average of the weights; each optional.

    The seed decides the deformations, which differ from epoch to epoch.
    """

    deformation: Deformation | None = None
    average: "WeightAverage | None" = None
    seed: int = 0

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        if self.deformation:
            noise = self.deformation.sample(len(order), self.seed, epoch)
            self.noise = noise.to(order.device)
        for batch in super().run_epoch(epoch, order, learning_rates, done, logits):
            if self.average:
                self.average.update((epoch - 1) * len(learning_rates) + batch + 1)
            yield batch

    def examples(self, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 784), deformed, and labels (B,)."""
        images, labels = super().examples(rows)
        return (self.deformation(images, self.noise[rows]) if self.deformation else images), labels

    def network(self) -> nn.Sequential:
        """The averaged network if there is an average, with batch normalisation folded in."""
        return fold_batch_norm(self.average.model if self.average else self.model)


class WeightAverage:
    """A running average of a model's weights, which varies less from update to update.

    After update k the average moves 1 − min(decay, (1 + k) / (10 + k)) of the way to the weights:
    a large part at first, while the weights still change much.
    """

    def __init__(self, model: nn.Sequential, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model), decay
        self._weights, self._averages = ([*named_floats(m).values()] for m in (model, self.model))

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Include the weights after update k, counted from 1."""
        step = 1 - min(self.decay, (1 + k) / (10 + k))
        torch._foreach_lerp_(self._averages, self._weights, step)


def named_floats(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers by name, sharing its memory, without integer counts."""
    return {name: t for name, t in model.state_dict().items() if t.is_floating_point()}
