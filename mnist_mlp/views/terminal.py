"""Output for people, on a terminal or in a pipe: a run as it happens, predictions, traces."""

import errno
import json
import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from rich import progress
from rich.console import Console

from mnist_mlp.constants import show_loss
from mnist_mlp.steps.results import EpochResult

if TYPE_CHECKING:
    from torch import Tensor

    from mnist_mlp.lesson.trace import Trace
    from mnist_mlp.pictures.predict import Prediction
    from mnist_mlp.runs.training import RunEvent, RunResult, RunStart

LIVE = find_spec("ipywidgets") is not None  # whether a notebook can show a live line


class Output(Console):
    """A console that goes silent when its pipe or terminal is closed; the program goes on.

    Where stdout is for JSON, its text goes to stderr.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, soft_wrap=True, **settings)

    def print_result(self, value: Any) -> None:
        """Where stdout is for JSON, print a result there in one line; of a dataclass its fields."""
        if self.stderr:
            Output().out(json.dumps(value, allow_nan=False, default=vars))

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:  # the error of a closed terminal
                raise
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Send all further output to /dev/null."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


@contextmanager
def open_console(json_: bool, quiet: bool, progress: bool = False) -> Iterator[Output]:
    """A console on stdout, for what a command says; it prints the package's log too.

    Where stdout is for JSON, stderr gets only warnings, or with `progress` all that is said.
    """
    loud = Output(stderr=json_, quiet=quiet)
    logger, handler = logging.getLogger("mnist_mlp"), logging.Handler()
    handler.emit = lambda record: loud.print(record.getMessage())  # type: ignore[method-assign]
    silent = quiet or (json_ and not progress)
    logger.setLevel(logging.WARNING if silent else logging.INFO)
    logger.addHandler(handler)
    try:
        yield Output(stderr=json_, quiet=silent)
    finally:
        logger.removeHandler(handler)


def live(console: Console) -> progress.Progress:
    """A live line, on a terminal or in a notebook; a task's field `rate` stands beside its bar."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=4),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=console.quiet or not (console.is_terminal or (console.is_jupyter and LIVE)),
        refresh_per_second=4,  # drawing takes time from training
    )


def show_run(console: Console, events: Iterator["RunEvent"]) -> "RunResult":
    """Print a run as it happens: a line per epoch, and on a terminal a live progress line."""
    from mnist_mlp.runs.training import RunResult, RunStart

    with live(console) as bar:
        task = bar.add_task("loading", total=None, rate="")
        for event in events:
            if isinstance(event, RunStart):
                start, epochs = event, event.config.train.epochs
                bar.update(task, description="", total=epochs * event.examples["train"])
                _show_start(console, event)
            elif isinstance(event, str):
                console.print(f"warning   {event}")
            elif isinstance(event, EpochResult):
                _show_epoch(console, event, start)
            elif isinstance(event, RunResult):
                _show_result(console, event, start)
            else:
                speed = bar.tasks[task].speed
                rate = f"{speed / 1000:.1f}k examples/s" if speed else ""
                line = (
                    f"epoch {event.epoch}/{epochs} update {event.updates:,} "
                    f"loss {show_loss(event.loss)} accuracy {event.accuracy:.2%}"
                )
                bar.update(task, completed=event.examples_seen, description=line, rate=rate)
    assert isinstance(event, RunResult)  # noqa: S101 - the last event always is
    return event


def _show_start(console: Console, start: "RunStart") -> None:
    config, where = start.config, start.environment
    begun, problem = where["init_from"], where["compiler_problem"]
    threads, processes = where["threads"], where["processes"]
    sizes = "-".join(map(str, config.model.layer_sizes))
    examples = ", ".join(f"{count:,} {name}" for name, count in start.examples.items())
    used = ["deformed images"] * config.augment.deforms
    used += ["batch normalisation"] * config.model.batch_norm
    resumed = "" if start.resumed_at is None else f", resumed after update {start.resumed_at:,}"
    lines = [
        ("data", f"{config.data.dataset}: {examples} examples"),
        ("network", f"{sizes}, {start.parameters:,} parameters, {config.model.activation}"),
        ("weights", begun and f"of {begun['run']}, {begun['checkpoint']}"),
        (
            "training",
            f"{config.optimizer.name}, batch size {config.train.batch_size}, "
            f"{where['backward']}, {where['device']}, {threads} thread{'s' * (threads > 1)}"
            + (f", {processes} processes" if processes > 1 else ""),
        ),
        ("note", problem and f"Numba does not work here, so PyTorch makes the updates: {problem}"),
        ("with", ", ".join(used)),
        *(("note", f"{key} has no effect in this config") for key in config.ignored_settings()),
        ("run", start.run_dir and f"{start.run_dir}{resumed}"),
    ]
    for label, text in lines:
        if text:
            console.print(f"{label:8}  {text}")


def _show_epoch(console: Console, row: EpochResult, start: "RunStart") -> None:
    epochs, loss = start.config.train.epochs, f"loss {show_loss(row.train_loss)}"
    if row.epoch or start.environment["init_from"]:
        parts = [f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}", loss]
    else:
        parts = ["untrained", f"{loss} (ln 10 = {math.log(10):.4f})"]
    parts.append(f"accuracy {row.train_accuracy:.2%}")
    for split in ("validation", "test"):
        if (accuracy := getattr(row, f"{split}_accuracy")) is not None:
            parts.append(f"{split} {accuracy:.2%}")
    if row.epoch:
        parts.append(f"{row.seconds:.1f} s")
    console.print("  ".join(parts))


def _show_result(console: Console, result: "RunResult", start: "RunStart") -> None:
    train, shared = start.config.train, start.environment["same_bits_with"]
    if result.epochs < train.epochs:
        patience = f"{train.patience} epochs (train.patience)"
        console.print(f"stopped early: no better validation loss for {patience}")
    console.print(
        f"{result.examples_seen:,} forward and backward passes in {result.updates:,} updates, "
        f"{result.seconds:.1f} s"
    )
    if result.test_accuracy is not None:
        loss = show_loss(result.test_loss or 0)
        console.print(f"{result.dataset} test accuracy {result.test_accuracy:.2%}, loss {loss}")
    if not result.run_dir:
        console.print("dry run: all steps worked; nothing was kept")
        return
    console.print(f"saved in {result.run_dir}")
    needs = [f"{shared['device']} {shared['device_name']} {shared['cpu_capability']}"]
    needs += [shared["backward"]]
    needs += [f"{n} {shared[n]}" for n in ("threads", "processes") if shared[n] > 1]
    needs += [f"{n} {shared[n].partition('+')[0]}" for n in ("torch", "numba") if n in shared]
    console.print(f"same bits on {', '.join(needs)}")


def show_prediction(
    console: Console, prediction: "Prediction", label: int | None, width: int, whole: bool
) -> None:
    """Print a line for a picture; if `whole`, also the network's input and its probabilities."""
    verdict = "" if prediction.sure else "  unsure"
    verdict += "" if label in (None, prediction.digit) else f"  labelled {label}"
    console.print(
        f"{prediction.file!s:{width}}  {prediction.digit}  {prediction.confidence:7.2%}{verdict}"
    )
    if whole:
        if prediction.left_out:
            console.print(f"left out: {', '.join(prediction.left_out)}")
        console.print(_pixels((prediction.pixels / 255).tolist()))
        for digit, p in enumerate(prediction.probabilities):
            console.print(f"{digit}  {p:7.2%}  {bar(p)}".rstrip())


def show_trace(console: Console, trace: "Trace") -> None:
    """Print the eight steps, as trace.txt has them: of each array a few values and its size."""
    from mnist_mlp.views.pages import fill_template

    squared = sum(float(gradient.square().sum()) for gradient in trace.gradients.values())
    fall = trace.learning_rate * squared
    form = {"bar": bar, "pixels": _pixels, "values": _values}
    console.print(fill_template("trace.txt", trace=trace, fall=fall, **form))


def _pixels(image: list[list[float]]) -> str:
    """An image with pixels in [0, 1] as blocks, two characters per pixel."""
    return "\n".join("".join(2 * " ░▒▓█"[round(4 * x)] for x in row).rstrip() for row in image)


def bar(p: "float | Tensor") -> str:
    """A probability as a bar."""
    return "█" * round(30 * float(p))


def _values(tensor: "Tensor") -> str:
    """The first values of an array."""
    first = " ".join(f"{value:.3g}" for value in tensor.flatten()[:5].tolist())
    return f"[{first}{' ...' if tensor.numel() > 5 else ''}]"
