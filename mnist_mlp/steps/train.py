"""Step 8: for each epoch, for each batch: forward, loss, backward, update; then evaluate.

`fit` yields what happens and prints nothing.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.constants import CLASSES
from mnist_mlp.errors import DivergedError
from mnist_mlp.steps.backprop import Backward, autograd
from mnist_mlp.steps.data import Dataset, epoch_order
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.loss import cross_entropies
from mnist_mlp.updates.fused import TorchUpdates, Updates

PROGRESS_S = 0.2
"""Seconds between two `Progress` reports, each of which waits for the device."""


@dataclass(frozen=True)
class Progress:
    """Where a running epoch is; with the model and the optimizer, enough to go on from there.

    `losses` holds the loss of each of the epoch's examples so far, just before the update that it
    was part of, `correct` counts those that were read right. The next event overwrites `losses`.
    """

    epoch: int
    updates: int
    examples_seen: int
    loss: float
    accuracy: float
    losses: Tensor
    correct: int


@dataclass(frozen=True)
class EpochResult:
    """A row of metrics.jsonl.

    Losses are mean cross-entropies in nats. `train_loss` and `train_accuracy` are of each batch
    just before its own update; in row 0, the untrained network, of the whole training set.
    `learning_rate` is that of the last update (row 0: of the first one to come), `seconds` runs
    from the first update.
    """

    epoch: int
    updates: int
    examples_seen: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    seconds: float


def fit(
    model: nn.Module,
    data: Dataset,
    optimizer: Optimizer | None,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    learning_rates: Iterable[float] | None = None,
    backward: Backward | None = None,
    updates: Updates | None = None,
    test_each_epoch: bool = True,
    resume: Progress | None = None,
    inference: Callable[[], nn.Module] | None = None,
) -> Iterator[Progress | EpochResult]:
    """Train a model in place, yielding an `EpochResult` for epochs 0 (untrained) to `epochs`.

    Between them come `Progress` reports, a few a second. Whenever it yields, the model is whole:
    the last update is done and the next not begun.

    Args:
        model: From images (B, 784) to logits (B, 10), on the data's device.
        data: The test set is reported and decides nothing.
        optimizer: Step 7; not needed where `updates` and `learning_rates` are given.
        epochs: Passes over the training set.
        batch_size: Examples an update; the last batch of an epoch may be smaller.
        seed: Decides the order of the examples.
        learning_rates: One for each update of the whole run; by default the optimizer's own.
        backward: Step 6; by default autograd.
        updates: How updates are made; by default by `backward` and the optimizer.
        test_each_epoch: False: evaluate the test set once, after the last epoch.
        resume: Go on after this position: the model and the optimizer must be as they were there.
            Row 0 is not yielded again.
        inference: Gives the network that is evaluated, where that is not the model itself.

    Raises:
        DivergedError: A loss or a weight was not finite; names the first such update.
    """
    if optimizer:
        updates = updates or TorchUpdates(
            model, optimizer, backward or autograd(model), data.train, batch_size
        )
        learning_rates = learning_rates or repeat(float(optimizer.param_groups[0]["lr"]))
    if not (updates and learning_rates):
        raise ValueError("fit needs an optimizer, or updates and learning_rates")
    labels = data.train.labels  # (N,)
    examples, batches = len(labels), math.ceil(len(labels) / batch_size)
    rates = iter(learning_rates)

    def result(epoch: int, train_loss: float, train_accuracy: float, rate: float) -> EpochResult:
        with_test = test_each_epoch or epoch == epochs
        network = inference() if inference else model
        validation = evaluate_model(network, *data.validation) if data.validation else None
        test = evaluate_model(network, *data.test) if with_test else None
        for evaluation in (validation, test):
            if evaluation and not math.isfinite(evaluation.loss):
                raise _diverged(epoch * batches, epoch, "the loss after")
        return EpochResult(
            epoch=epoch,
            updates=epoch * batches,
            examples_seen=epoch * examples,
            learning_rate=rate,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
            test_loss=test.loss if test else None,
            test_accuracy=test.accuracy if test else None,
            seconds=time.monotonic() - started if epoch else 0.0,
        )

    if resume is None:
        untrained = evaluate_model(inference() if inference else model, *data.train)
        rate = next(rates)
        rates = chain([rate], rates)
        yield result(0, untrained.loss, untrained.accuracy, rate)

    started = reported = time.monotonic()
    model.train()
    # Numbers stay on the device until one is reported: reading one waits for all work before it.
    logits = torch.empty(examples, CLASSES, device=labels.device)
    losses = torch.empty(examples, device=labels.device)
    first = resume.epoch if resume else 1
    for _ in islice(rates, (first - 1) * batches):
        pass
    for epoch in range(first, epochs + 1):
        order = epoch_order(examples, seed, epoch).to(labels.device)  # (N,)
        targets = labels[order]
        seen = correct = 0
        if resume and resume.epoch == epoch:
            seen, correct = len(resume.losses), resume.correct
            losses[:seen] = resume.losses
        epoch_rates = list(islice(rates, batches))
        if len(epoch_rates) < batches:
            raise ValueError(f"learning_rates ends within epoch {epoch}")
        done = seen // batch_size  # never the ragged last batch
        made = updates.epoch(order, logits, epoch_rates, done, epoch)
        for batch, _ in enumerate(made, start=done):
            last = batch == batches - 1
            if last or updates.due(batch, overdue=time.monotonic() - reported > PROGRESS_S):
                new = slice(seen, min((batch + 1) * batch_size, examples))
                updates.settle(logits[new])
                seen = new.stop
                losses[new] = cross_entropies(logits[new], targets[new])
                correct += int((logits[new].argmax(dim=1) == targets[new]).sum())
                if len(bad := losses[new].isfinite().logical_not().nonzero()):
                    update = (epoch - 1) * batches + (new.start + int(bad[0])) // batch_size + 1
                    raise _diverged(update, epoch, "the loss of")
                running = Progress(
                    epoch=epoch,
                    updates=(epoch - 1) * batches + batch + 1,
                    examples_seen=(epoch - 1) * examples + seen,
                    loss=float(losses[:seen].sum(dtype=torch.float64)) / seen,
                    accuracy=correct / seen,
                    losses=losses[:seen],
                    correct=correct,
                )
                yield running
                reported = time.monotonic()
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise _diverged(epoch * batches, epoch, "a weight after")
        yield result(epoch, running.loss, running.accuracy, epoch_rates[-1])


def _diverged(update: int, epoch: int, what: str) -> DivergedError:
    return DivergedError(
        f"training diverged: {what} update {update} (epoch {epoch}) is not a finite number\n"
        "optimizer.learning_rate or optimizer.weight_decay is too large"
    )
