"""Step 8: for each epoch, for each batch: forward, loss, backward, update; then evaluate.

`fit` yields what happens and prints nothing.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mnist_mlp.backprop import Backward, autograd
from mnist_mlp.data import Dataset, epoch_order
from mnist_mlp.errors import DivergedError
from mnist_mlp.evaluate import evaluate_model

PROGRESS_S = 0.2
"""Seconds between two `Progress` reports, each of which waits for the device."""


@dataclass(frozen=True)
class Progress:
    """Where a running epoch is; with the model and the optimizer, enough to go on from there.

    `losses` holds the mean loss of each of the epoch's batches so far, `correct` counts its
    examples so far that were read right.
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
    optimizer: Optimizer,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    schedule: LRScheduler | None = None,
    backward: Backward | None = None,
    test_each_epoch: bool = True,
    resume: Progress | None = None,
) -> Iterator[Progress | EpochResult]:
    """Train a model in place, yielding an `EpochResult` for epochs 0 (untrained) to `epochs`.

    Between them come `Progress` reports, a few a second. Whenever it yields, the model is whole:
    the last update is done and the next not begun.

    Args:
        model: From images (B, 784) to logits (B, 10), on the data's device.
        data: The test set is reported and decides nothing.
        optimizer: Step 7.
        epochs: Passes over the training set.
        batch_size: Examples an update; the last batch of an epoch may be smaller.
        seed: Decides the order of the examples.
        schedule: Stepped once an update.
        backward: Step 6; by default autograd.
        test_each_epoch: False: evaluate the test set once, after the last epoch.
        resume: Go on after this position: the model, the optimizer and the schedule must be as
            they were there. Row 0 is not yielded again.

    Raises:
        DivergedError: A loss or a weight was not finite; names the first such update.
    """
    backward = backward or autograd(model)
    images, labels = data.train  # (N, 784), (N,)
    examples, batches = len(labels), math.ceil(len(labels) / batch_size)
    # Numbers stay on the device until one is reported: reading one waits for all work before it.
    losses = torch.empty(batches, device=images.device)
    predictions = torch.empty_like(labels)

    def result(epoch: int, train_loss: float, train_accuracy: float, rate: float) -> EpochResult:
        with_test = test_each_epoch or epoch == epochs
        validation = evaluate_model(model, *data.validation) if data.validation else None
        test = evaluate_model(model, *data.test) if with_test else None
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
        untrained = evaluate_model(model, *data.train)
        yield result(0, untrained.loss, untrained.accuracy, _learning_rate(optimizer))

    started = reported = time.monotonic()
    model.train()
    for epoch in range(resume.epoch if resume else 1, epochs + 1):
        order = epoch_order(examples, seed, epoch).to(images.device)  # (N,)
        targets = labels[order]
        split = (torch.split(t, batch_size) for t in (order, targets, predictions))
        steps = list(zip(*split, strict=True))
        before = seen_before = correct_before = 0
        if resume and resume.epoch == epoch:
            before, correct_before = len(resume.losses), resume.correct
            seen_before = before * batch_size  # never the ragged last batch
            losses[:before] = resume.losses
        rate = _learning_rate(optimizer)
        for batch in range(before, batches):
            index, y, prediction = steps[batch]
            loss, logits = backward(images[index], y)  # Steps 2-6: (B, 784), (B,) -> (), (B, 10)
            rate = _learning_rate(optimizer)
            optimizer.step()  # Step 7
            if schedule:
                schedule.step()
            losses[batch] = loss
            torch.argmax(logits, dim=1, out=prediction)

            last = batch == batches - 1
            if last or time.monotonic() - reported > PROGRESS_S:
                done, seen = batch + 1, min((batch + 1) * batch_size, examples)
                _check_losses(losses[:done], (epoch - 1) * batches, epoch)
                right = predictions[seen_before:seen] == targets[seen_before:seen]
                correct = correct_before + int(right.sum())
                running = Progress(
                    epoch=epoch,
                    updates=(epoch - 1) * batches + done,
                    examples_seen=(epoch - 1) * examples + seen,
                    loss=_mean_loss(losses[:done], batch_size, seen),
                    accuracy=correct / seen,
                    losses=losses[:done],
                    correct=correct,
                )
                yield running
                reported = time.monotonic()
        if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
            raise _diverged(epoch * batches, epoch, "a weight after")
        yield result(epoch, running.loss, running.accuracy, rate)


def _mean_loss(losses: Tensor, batch_size: int, examples: int) -> float:
    """The mean over examples of batches' mean losses, the last batch weighing its own size."""
    total = losses.double().sum() * batch_size
    return float(total - losses[-1] * (len(losses) * batch_size - examples)) / examples


def _check_losses(losses: Tensor, updates_before: int, epoch: int) -> None:
    bad = losses.isfinite().logical_not().nonzero()
    if len(bad):
        raise _diverged(updates_before + int(bad[0]) + 1, epoch, "the loss of")


def _diverged(update: int, epoch: int, what: str) -> DivergedError:
    return DivergedError(
        f"training diverged: {what} update {update} (epoch {epoch}) is not a finite number\n"
        "optimizer.learning_rate or optimizer.weight_decay is too large"
    )


def _learning_rate(optimizer: Optimizer) -> float:
    return float(optimizer.param_groups[0]["lr"])
