"""What people read: runs, evaluations, the lesson's claims, traces, on a terminal or in a pipe."""

import errno
import logging
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from rich import box, progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from mnist_mlp.lesson.claims import Claim
    from mnist_mlp.lesson.trace import Trace
    from mnist_mlp.pictures.predict import Prediction
    from mnist_mlp.runs.listing import RunSummary
    from mnist_mlp.runs.training import RunEvent, RunResult, RunStart
    from mnist_mlp.steps.evaluate import Evaluation
    from mnist_mlp.steps.train import EpochResult


class _Console(Console):
    """A console that outlives its reader: a closed pipe silences it and stops nothing.

    A closed terminal does the same; it differs in the error that a write ends in.
    """

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        self.quiet = True
        discard(self.file)


def discard(stream: IO[str]) -> None:
    """Send what is still to be printed to a stream nowhere, once nobody reads it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def open_console(json_: bool, quiet: bool) -> Iterator[Console]:
    """Where people read; the package's log (downloads) goes there too."""
    console = _Console(stderr=json_, quiet=quiet, highlight=False, markup=False, soft_wrap=True)
    logger, handler = logging.getLogger("mnist_mlp"), logging.Handler()
    handler.emit = lambda record: console.print(record.getMessage())  # type: ignore[method-assign]
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield console
    finally:
        logger.removeHandler(handler)


def show_run(console: Console, events: Iterator["RunEvent"]) -> "RunResult":
    """Print a run as it happens: a live line on a terminal, a line an epoch everywhere."""
    from mnist_mlp.runs.training import RunResult, RunStart
    from mnist_mlp.steps.train import EpochResult

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=4),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(compact=True),
    )
    live = console.is_terminal and not console.quiet
    with progress.Progress(
        *columns,
        console=console,
        transient=True,
        disable=not live,
        refresh_per_second=4,  # there is no more news, and drawing takes time from training
    ) as bar:
        task = bar.add_task("loading", total=None, rate="")
        for event in events:
            if isinstance(event, RunStart):
                epochs = event.config.train.epochs
                bar.update(task, description="", total=epochs * event.examples["train"])
                _show_start(console, event)
            elif isinstance(event, EpochResult):
                _show_epoch(console, event, epochs)
            elif isinstance(event, RunResult):
                _show_result(console, event)
            else:
                speed = bar.tasks[task].speed
                bar.update(
                    task,
                    completed=event.examples_seen,
                    description=f"epoch {event.epoch}/{epochs} update {event.updates:,} "
                    f"loss {event.loss:.4f} accuracy {event.accuracy:.2%}",
                    rate=f"{speed / 1000:.1f}k examples/s" if speed else "",
                )
    assert isinstance(event, RunResult)  # noqa: S101 - the last event always is
    return event


def _show_start(console: Console, start: "RunStart") -> None:
    config, where = start.config, start.environment
    sizes = "-".join(map(str, config.model.layer_sizes))
    examples = ", ".join(f"{count:,} {name}" for name, count in start.examples.items())
    console.print(f"data      {start.dataset}: {examples} examples")
    console.print(f"network   {sizes}, {start.parameters:,} parameters, {config.model.activation}")
    threads, count = where["threads"], where["processes"]
    together = f", {count} processes" if count > 1 else ""
    console.print(
        f"training  {config.optimizer.name}, batch size {config.train.batch_size}, "
        f"{where['backward']}, {where['device']}, {threads} thread{'s' * (threads > 1)}{together}"
    )
    helps = {
        "deformed images": any(config.augment.model_dump().values()),
        "batch normalisation": config.model.batch_norm,
        "averaged weights": config.optimizer.average,
    }
    if any(helps.values()):
        console.print(f"with      {', '.join(name for name, used in helps.items() if used)}")
    if start.run_dir:
        resumed = "" if start.resumed_at is None else f", resumed after update {start.resumed_at:,}"
        console.print(f"run       {start.run_dir}{resumed}")


def _show_epoch(console: Console, row: "EpochResult", epochs: int) -> None:
    parts = [
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}" if row.epoch else "untrained",
        f"loss {row.train_loss:.4f}" + ("" if row.epoch else f" (ln 10 = {math.log(10):.4f})"),
        f"accuracy {row.train_accuracy:.2%}",
    ]
    if row.validation_accuracy is not None:
        parts.append(f"validation {row.validation_accuracy:.2%}")
    if row.test_accuracy is not None:
        parts.append(f"test {row.test_accuracy:.2%}")
    if row.epoch:
        parts.append(f"{row.seconds:.1f} s")
    console.print("  ".join(parts))


def _show_result(console: Console, result: "RunResult") -> None:
    console.print(
        f"{result.examples_seen:,} forward and backward passes in {result.updates:,} updates, "
        f"{result.seconds:.1f} s"
    )
    console.print(
        f"{result.dataset} test accuracy {result.test_accuracy:.2%}, loss {result.test_loss:.4f}"
    )
    saved = f"saved in {result.run_dir}" if result.run_dir else "dry run: all well, nothing kept"
    console.print(saved)


def show_evaluation(console: Console, evaluation: "Evaluation") -> None:
    """Loss and accuracy, then a row a digit, then the confusion matrix."""
    console.print(
        f"{evaluation.examples:,} examples  loss {evaluation.loss:.4f}  "
        f"accuracy {evaluation.accuracy:.2%}"
    )
    scores = Table("digit", "precision", "recall", "F1", "support", box=box.SIMPLE)
    for row in evaluation.per_class:
        values = (f"{value:.2%}" for value in (row.precision, row.recall, row.f1))
        scores.add_row(str(row.digit), *values, f"{row.support:,}")
    matrix = Table("true", *map(str, range(10)), box=box.SIMPLE)
    for digit, counts in enumerate(evaluation.confusion_matrix):
        cells = (
            Text(str(n) if n else "·", "bold" if k == digit else "") for k, n in enumerate(counts)
        )
        matrix.add_row(str(digit), *cells)
    for table in (scores, matrix):
        for column in table.columns:
            column.justify = "right"
            column.overflow = "fold"  # a figure is never cut
    console.print(scores)
    console.print("confusion matrix: true digits in rows, what they were read as in columns")
    console.print(matrix)


STEPS = {
    1: "Step 1: input as a vector",
    2: "Step 2: layer computation",
    3: "Step 3: stacking layers",
    4: "Step 4: output as probabilities",
    5: "Step 5: measuring error",
    6: "Step 6: computing gradients",
    7: "Step 7: updating weights",
    8: "Step 8: repeat",
    None: "The numbers of GPT-3",
}


def show_claims(console: Console, claims: list["Claim"]) -> None:
    """A table of each step: what the lesson says, what is computed, and why they differ."""
    for step, title in STEPS.items():
        table = Table(box=box.SIMPLE, title=title, title_justify="left", expand=True)
        table.add_column("claim", ratio=5)
        table.add_column("the lesson", ratio=4)
        table.add_column("computed", ratio=6)
        table.add_column("verdict", width=7)
        table.add_column("ok", width=3)
        for claim in claims:
            if claim.step == step:
                note = f"\n({claim.note})" if claim.note else ""
                ok = "yes" if claim.ok else "NO"
                table.add_row(claim.claim, claim.lesson, claim.computed + note, claim.verdict, ok)
        console.print(table, soft_wrap=False)
    verdicts = Counter(claim.verdict for claim in claims)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    console.print(f"{sum(claim.ok for claim in claims)} of {len(claims)} rows ok: {counts}")


def show_prediction(
    console: Console, prediction: "Prediction", label: int | None, width: int, whole: bool
) -> None:
    """A line for a picture; with `whole` also what the network saw, and what it says of it."""
    verdict = "" if label in (None, prediction.digit) else f"  labelled {label}"
    console.print(
        f"{prediction.file!s:{width}}  {prediction.digit}  {prediction.confidence:7.2%}{verdict}"
    )
    if whole:
        _show_pixels(console, prediction.pixels / 255)
        for digit, p in enumerate(prediction.probabilities):
            console.print(f"{digit}  {p:7.2%}  {'█' * round(30 * p)}".rstrip())


def show_runs(console: Console, runs: Sequence["RunSummary"]) -> None:
    """A row a run; the time is that of this machine."""
    if not runs:
        console.print("no runs here yet; begin with: mnist-mlp train --config digits")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("run", overflow="fold")
    table.add_column("data", no_wrap=True)
    for name in ("epochs", "valid.", "test", "seconds", "last epoch"):
        table.add_column(name, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(
            str(run.path),
            run.dataset,
            f"{run.epochs}" if run.finished else f"{run.epochs} of {run.epochs_wanted}",
            _percent(run.validation_accuracy),
            _percent(run.test_accuracy),
            "–" if run.seconds is None else f"{run.seconds:,.1f}",
            f"{run.last_epoch.astimezone():%Y-%m-%d}" if run.last_epoch else "–",
        )
    console.print(table)


def _percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{accuracy:.2%}"


def show_differences(
    console: Console, runs: Sequence["RunSummary"], keys: Mapping[str, Sequence[object]]
) -> None:
    """A row for each key of the configs in which the runs differ."""
    if not keys:
        console.print("their configs are the same")
        return
    table = Table("config", *(str(run.path) for run in runs), box=box.SIMPLE, pad_edge=False)
    for key, values in keys.items():
        table.add_row(key, *map(str, values))
    console.print(table)


SHADES = " ░▒▓█"


def _show_pixels(console: Console, image: "Tensor | NDArray[np.float64]") -> None:
    """An image (28, 28) in [0, 1] as blocks, two characters a pixel."""
    for row in image.tolist():
        console.print("".join(2 * SHADES[round(4 * pixel)] for pixel in row).rstrip())


def show_trace(console: Console, trace: "Trace") -> None:
    """The eight steps as a person reads them: a few values of each array, and its size."""

    def heading(step: int | str, text: str) -> None:
        console.print(f"\nStep {step}: {text}")

    heading(1, "the image as a vector x of 784 numbers")
    _show_pixels(console, trace.input.view(28, 28))
    lit = int((trace.input > 0).sum())
    console.print(f"x = {_values(trace.input)}  {lit} of 784 are not 0")

    heading("2-3", "z = W·a + b, a = activation(z), layer after layer")
    for layer in trace.layers:
        console.print(f"{layer.name}  z ({len(layer.z)}) = {_values(layer.z)}")
        if layer is not trace.layers[-1]:
            fired = int((layer.a > 0).sum())
            console.print(f"{'':{len(layer.name)}}  a ({len(layer.a)}) = {_values(layer.a)}")
            console.print(f"{'':{len(layer.name)}}  {fired} of {len(layer.a)} neurons fired")

    heading(4, "p = softmax(logits)")
    for digit, (logit, p) in enumerate(zip(trace.logits, trace.probabilities, strict=True)):
        true = "  <- the true label" if digit == trace.label else ""
        bar = "█" * round(30 * float(p))
        console.print(f"{digit}  logit {float(logit):8.4f}  p {float(p):.4f}  {bar}{true}")

    heading(5, f"loss = −log p[{trace.label}]")
    console.print(f"−log {float(trace.probabilities[trace.label]):.6f} = {trace.loss:.6f}")

    heading(6, "the chain rule, from the loss back to W₁")
    for factor in trace.factors:
        shape = " × ".join(map(str, factor.value.shape))
        console.print(f"{factor.name:12} ({shape}) {factor.meaning}")
        console.print(f"{'':12} norm {float(factor.value.norm()):.4g}, {_values(factor.value)}")
    for name, gradient in trace.gradients.items():
        shape = " × ".join(map(str, gradient.shape))
        console.print(f"∂L/∂({name})  ({shape})  norm {float(gradient.norm()):.4g}")

    heading(7, f"W ← W − {trace.learning_rate:g} × ∂L/∂W, b likewise")
    squared = sum(float(gradient.square().sum()) for gradient in trace.gradients.values())
    console.print(
        f"to first order the loss falls by learning_rate × ‖gradient‖² = "
        f"{trace.learning_rate * squared:.4g}"
    )

    heading(8, "once more, after the update")
    console.print(f"loss {trace.loss:.6f} before, {trace.loss_after:.6f} after")


def _values(tensor: "Tensor", most: int = 5) -> str:
    """The first values of an array."""
    flat = tensor.flatten()
    shown = " ".join(f"{value:.3g}" for value in flat[:most].tolist())
    return f"[{shown}{' ...' if len(flat) > most else ''}]"
