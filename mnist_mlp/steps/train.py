"""Step 8: for each epoch, for each training example: forward, loss, backward, update; evaluate.

`train` is that loop. It yields what happens and prints nothing. `TorchUpdater` is the readable way
to make its updates, from the functions of Steps 1 to 7. `mnist_mlp.updates` has other ways.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.constants import CLASSES
from mnist_mlp.errors import DivergedError
from mnist_mlp.steps.backprop import Backward, autograd
from mnist_mlp.steps.data import Dataset, Split, epoch_order, to_images
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.loss import cross_entropies
from mnist_mlp.steps.model import fold_batch_norm
from mnist_mlp.steps.results import EpochResult as EpochResult

PROGRESS_S = 0.2  # seconds between two `Progress` reports, each of which waits for the device


@dataclass(frozen=True)
class Position:
    """Where to resume: in `epoch` (from 1), after its first n examples, which are whole batches.

    `losses` (n,) are theirs, and `correct` of them were classified correctly. From the last report
    of an epoch, where n is all examples, one resumes with the next epoch and n = 0.
    """

    epoch: int
    losses: Tensor
    correct: int


@dataclass(frozen=True)
class Progress:
    """How far training is. `loss` and `accuracy` are means over this epoch's examples so far.

    `position.losses` is a view: copy it to keep it beyond the next event.
    """

    epoch: int
    updates: int
    examples_seen: int
    loss: float
    accuracy: float
    position: Position


class Updater(Protocol):
    """What `train` needs of a way to make updates. One update is Steps 2 to 7 on one batch.

    Subclass it: every method but `run_epoch` has a default.
    """

    model: nn.Sequential
    batch_size: int

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """Make an epoch's updates. Yields the newest batch's number, from 0: often, and the last.

        Args:
            epoch: From 1.
            order: (N,), the examples' indices. Each update takes the next `batch_size` of them.
            learning_rates: One for each update.
            done: Skip this many batches: their updates were made before the run was stopped.
            logits: (N, 10), the same tensor in every epoch. Each update writes its rows, row i for
                example order[i]: the network's answer before the update.
        """
        ...

    def network(self) -> nn.Sequential:
        """The network to evaluate and save: the model, with batch normalisation folded in."""
        return fold_batch_norm(self.model)

    def report_due(self, batch: int, overdue: bool) -> bool:
        """Whether to report progress after a batch; several processes must all decide alike.

        `overdue`: the last report was more than `PROGRESS_S` ago.
        """
        return overdue


@dataclass(eq=False)
class TorchUpdater(Updater):
    """Updates by PyTorch's modules and optimizers, one step of the lesson after the other.

    The optimizer has the model's parameters in one group, and `backward` belongs to the model.
    """

    model: nn.Sequential
    optimizer: Optimizer
    backward: Backward
    train: Split
    batch_size: int

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        self.model.train()
        self.order = order
        for batch in range(done, len(learning_rates)):
            rows = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
            self.optimizer.param_groups[0]["lr"] = learning_rates[batch]
            logits[rows] = self.update(rows)
            yield batch

    def update(self, rows: slice | Tensor) -> Tensor:
        """Update on the examples order[rows]. Returns their logits (B, 10) from before."""
        images, labels = self.examples(rows)
        logits = self.backward(images, labels)  # forward pass, loss, backward pass
        self.optimizer.step()  # update
        return logits

    def examples(self, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """The images (B, 784) and labels (B,) of order[rows]."""
        index = self.order[rows]
        pixels, labels = (tensor.index_select(0, index) for tensor in self.train)
        return to_images(pixels), labels


def fit(
    model: nn.Sequential,
    data: Dataset,
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    learning_rates: Iterable[float] | None = None,
    backward: Backward | None = None,
    test_each_epoch: bool = True,
) -> Iterator[Progress | EpochResult]:
    """Train a model in place with a PyTorch optimizer, while one iterates over what this yields.

    See `train`, which yields it. The model maps images (B, 784) to logits (B, 10), on the data's
    device; the optimizer has its parameters in one group. The seed decides the order of the
    examples; an epoch's last batch may be smaller. `learning_rates` has one for each update of the
    run; by default it is the optimizer's own. `backward` is `chain_rule(model)`, or by default
    `autograd(model)`. The test split decides nothing; without `test_each_epoch` it is evaluated
    after the last epoch only.

    A DivergedError names the update where a loss, or at an epoch's end a weight, is not finite. A
    ValueError if there are fewer learning rates than updates.
    """
    updater = TorchUpdater(model, optimizer, backward or autograd(model), data.train, batch_size)
    own_rates = repeat(float(optimizer.param_groups[0]["lr"]))
    return train(
        updater,
        data,
        epochs=epochs,
        learning_rates=own_rates if learning_rates is None else learning_rates,
        seed=seed,
        test_each_epoch=test_each_epoch,
    )


def train(
    updater: Updater,
    data: Dataset,
    *,
    epochs: int,
    learning_rates: Iterable[float],
    seed: int = 0,
    test_each_epoch: bool | None = True,
    resume: Position | None = None,
) -> Iterator[Progress | EpochResult]:
    """Step 8. Yields an `EpochResult` for epoch 0 (untrained), 1, ... and `Progress` in between.

    `fit` explains most arguments. With None for `test_each_epoch` the test split is never used.
    With `resume`, training goes on from there: the model and the optimizer must be as they were,
    and epoch 0 is left out.
    """
    tracker = _Tracker(updater, data, learning_rates, epochs, test_each_epoch)
    if not resume:
        yield tracker.evaluate()  # the untrained network
    for epoch in range(resume.epoch if resume else 1, epochs + 1):  # for each epoch:
        order = epoch_order(len(data.train.labels), seed, epoch).to(data.train.labels.device)
        rates, done = tracker.begin(epoch, order, resume)
        # for each training example, in batches: forward pass, loss, backward pass, update
        for batch in updater.run_epoch(epoch, order, rates, done, tracker.logits):
            if progress := tracker.progress(batch):
                yield progress
        yield tracker.evaluate()  # evaluate on the test set


@dataclass(eq=False)
class _Tracker:
    """What stands around Step 8: learning rates, where to resume, progress, results, finiteness.

    Numbers stay on the device until they are reported: reading one waits for the device.
    """

    updater: Updater
    data: Dataset
    learning_rates: Iterable[float]
    epochs: int
    test_each_epoch: bool | None

    def __post_init__(self) -> None:
        examples, device = len(self.data.train.labels), self.data.train.labels.device
        if (first := next(rates := iter(self.learning_rates), None)) is None:
            raise ValueError("there are no learning_rates")
        self.learning_rate, self.learning_rates = first, chain([first], rates)
        self.batches = math.ceil(examples / self.updater.batch_size)
        self.logits = torch.empty(examples, CLASSES, device=device)
        self.losses = torch.empty(examples, device=device)
        self.epoch, self.started = 0, 0.0

    def begin(self, epoch: int, order: Tensor, resume: Position | None) -> tuple[list[float], int]:
        """Begin an epoch, or resume within it. Returns its learning rates and its batches done."""
        self.reported = time.monotonic()
        self.started = self.started or self.reported
        skipped = (epoch - 1 - self.epoch) * self.batches
        rates = list(islice(self.learning_rates, skipped, skipped + self.batches))
        if len(rates) < self.batches:
            raise ValueError(f"learning_rates ends within epoch {epoch}")
        self.epoch, self.learning_rate = epoch, rates[-1]
        self.targets = self.data.train.labels[order]
        self.measured = self.correct = 0
        if resume and resume.epoch == epoch:
            self.measured, self.correct = len(resume.losses), resume.correct
            self.losses[: self.measured] = resume.losses
        return rates, self.measured // self.updater.batch_size

    def progress(self, batch: int) -> Progress | None:
        """Measure the batches since the last report, if one is due; it is after the last batch."""
        overdue = time.monotonic() - self.reported > PROGRESS_S
        if batch < self.batches - 1 and not self.updater.report_due(batch, overdue):
            return None
        new = slice(self.measured, min((batch + 1) * self.updater.batch_size, len(self.targets)))
        logits, targets = self.logits[new], self.targets[new]
        self.losses[new] = losses = cross_entropies(logits, targets)
        before = (self.epoch - 1) * self.batches  # updates of earlier epochs
        if len(bad := losses.isfinite().logical_not().nonzero()):
            first_bad = (new.start + int(bad[0])) // self.updater.batch_size
            raise self._diverged("the loss of", before + first_bad + 1)
        self.correct += int((logits.argmax(dim=1) == targets).sum())
        self.measured = new.stop
        self.loss = float(self.losses[: self.measured].sum(dtype=torch.float64)) / self.measured
        self.accuracy = self.correct / self.measured
        self.reported = time.monotonic()
        return Progress(
            epoch=self.epoch,
            updates=before + batch + 1,
            examples_seen=(self.epoch - 1) * len(self.targets) + self.measured,
            loss=self.loss,
            accuracy=self.accuracy,
            position=Position(self.epoch, self.losses[: self.measured], self.correct),
        )

    def evaluate(self) -> EpochResult:
        """The row of the epoch that has just ended, or of the untrained network."""
        network, data, epoch = self.updater.network(), self.data, self.epoch
        if not epoch:
            untrained = evaluate_model(network, *data.train)
            self.loss, self.accuracy = untrained.loss, untrained.accuracy
        if not all(bool(weight.isfinite().all()) for weight in self.updater.model.parameters()):
            raise self._diverged("a weight after", epoch * self.batches)
        last = epoch == self.epochs and self.test_each_epoch is not None
        with_test = self.test_each_epoch or last
        splits = {"validation": data.validation, "test": data.test if with_test else None}
        held_out: dict[str, float | None] = {}
        for name, split in splits.items():
            evaluation = evaluate_model(network, *split) if split else None
            if evaluation and not math.isfinite(evaluation.loss):
                raise self._diverged("the loss after", epoch * self.batches)
            held_out[f"{name}_loss"] = evaluation.loss if evaluation else None
            held_out[f"{name}_accuracy"] = evaluation.accuracy if evaluation else None
        return EpochResult(
            epoch=epoch,
            updates=epoch * self.batches,
            examples_seen=epoch * len(data.train.labels),
            learning_rate=self.learning_rate,
            train_loss=self.loss,
            train_accuracy=self.accuracy,
            **held_out,
            seconds=time.monotonic() - self.started if self.started else 0.0,
        )

    def _diverged(self, what: str, update: int) -> DivergedError:
        return DivergedError(
            f"training diverged: {what} update {update} (epoch {self.epoch}) is not a finite number"
            "\noptimizer.learning_rate or optimizer.weight_decay is too large"
        )
