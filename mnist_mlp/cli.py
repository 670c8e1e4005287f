"""The command line: parse, call, print.

Nothing here imports torch before a command needs it, so that `--help` and a config's errors are
quick. What people read goes to stdout, or to stderr where stdout is kept for `--json`.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich import box, progress
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mnist_mlp.config import (
    DATA_ROOT_VARIABLE,
    LESSON_LAYER_SIZES,
    Config,
    bundled_configs,
    load_config,
)
from mnist_mlp.errors import FILE_SYSTEM_EXIT_CODE, MnistMlpError

if TYPE_CHECKING:
    from mnist_mlp.evaluate import Evaluation
    from mnist_mlp.run import RunEvent, RunResult, RunStart
    from mnist_mlp.train import EpochResult

LN_10 = 2.302585
"""The loss of a guess that gives every digit the same probability."""
INTERRUPTED = 130

app = typer.Typer(
    name="mnist-mlp",
    help="Train, evaluate and take apart the 784-128-64-10 network that reads handwritten digits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    str, typer.Option("--config", help="A YAML file, or the bare name of a bundled config.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config overrides, such as train.epochs=3."),
]
Target = Annotated[
    Path | None,
    typer.Argument(metavar="RUN|CHECKPOINT", help="Default: the newest run under runs/."),
]
RootOption = Annotated[
    str | None,
    typer.Option("--root", help="The data root. Beats MNIST_MLP_DATA, which beats the config."),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Beats the config.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, alone, on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors and --json only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mnist-mlp {metadata.version('mnist-mlp')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print it."),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def train(
    config: ConfigOption,
    overrides: Overrides = None,
    device: DeviceOption = None,
    root: RootOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where to record it. Default: a new runs/<config>-NNN.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Go the whole way on two batches; keep only a download."),
    ] = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a network as a config says."""
    loaded = _load(config, overrides, root, device)
    with _console(json_, quiet) as console:
        from mnist_mlp.run import run_events

        result = _show_run(console, run_events(loaded, run_dir, dry_run=dry_run))
    if json_:
        _print_json(result.to_json())


@app.command(name="eval")
def evaluate(
    target: Target = None,
    split: Annotated[
        Literal["test", "validation", "train"], typer.Option(help="Which examples.")
    ] = "test",
    device: DeviceOption = None,
    root: RootOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Evaluate a trained network: loss, accuracy, every digit, the confusion matrix."""
    with _console(json_, quiet) as console:
        from mnist_mlp.checkpoint import load_checkpoint, weights_sha256
        from mnist_mlp.evaluate import evaluate_model
        from mnist_mlp.run import cpu_threads, load_config_dataset, newest_run, resolve_device

        place = resolve_device(device or "auto")
        checkpoint = load_checkpoint(target or newest_run())
        config = checkpoint.config
        data = load_config_dataset(config, root or os.environ.get(DATA_ROOT_VARIABLE))
        with cpu_threads(config.threads):  # as in training, so that the figures are the same
            evaluation = evaluate_model(checkpoint.model.to(place), *data.to(place).split(split))
        console.print(f"{checkpoint.path}: {data.name}, {split} split")
        _show_evaluation(console, evaluation)
    if json_:
        _print_json(
            {
                "dataset": data.name,
                "split": split,
                "examples": evaluation.examples,
                "loss": evaluation.loss,
                "accuracy": evaluation.accuracy,
                "per_class": [asdict(scores) for scores in evaluation.per_class],
                "confusion_matrix": evaluation.confusion_matrix,
                "weights_sha256": weights_sha256(checkpoint.model),
            }
        )


@app.command(name="count-params")
def count_params(
    config: Annotated[
        str | None, typer.Option("--config", help="Whose network. Default: the lesson's.")
    ] = None,
    overrides: Overrides = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Count the network's parameters, layer by layer, and compare with the lesson's 109,386."""
    loaded = _load(config or "lesson", overrides)
    import torch

    from mnist_mlp.model import LESSON_PARAMETERS, build_mlp, count_parameters

    sizes = loaded.model.layer_sizes
    with torch.device("meta"):  # shapes without memory: nothing is computed with it
        layers = count_parameters(build_mlp(sizes, loaded.model.activation))
    total = sum(layer.parameters for layer in layers)
    matches = total == LESSON_PARAMETERS
    if json_:
        _print_json(
            {
                "layers": [asdict(layer) for layer in layers],
                "total": total,
                "lesson_total": LESSON_PARAMETERS,
                "matches_lesson": matches,
            }
        )
    else:
        for layer in layers:
            typer.echo(f"{layer.name}  {layer}")
        verdict = "as" if matches else "not as"
        typer.echo(f"total   {total:,} parameters, {verdict} in the lesson ({LESSON_PARAMETERS:,})")
    if sizes == LESSON_LAYER_SIZES and not matches:
        raise typer.Exit(1)


@app.command()
def validate(
    config: ConfigOption,
    overrides: Overrides = None,
    root: RootOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the resolved config, or every error in it at once."""
    loaded = _load(config, overrides, root)
    if json_:
        _print_json(loaded.model_dump(mode="json"))
    else:
        typer.echo(loaded.to_yaml(), nl=False)
    for key in loaded.ignored_settings():
        typer.echo(f"mnist-mlp: note: {key} has no effect under this config", err=True)


@app.command()
def configs(json_: JsonOption = False, debug: DebugOption = False) -> None:
    """List the bundled configs, whose bare names --config takes."""
    found = {
        name: {
            "name": name,
            "path": str(path),
            "description": path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "),
        }
        for name, path in bundled_configs().items()
    }
    if json_:
        _print_json(list(found.values()))
        return
    width = max(map(len, found))
    for name, row in found.items():
        typer.echo(f"{name:{width}}  {row['description']}")


@app.command()
def download(
    root: RootOption = None,
    config: ConfigOption = "mnist",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Fetch MNIST's four files, unless they are there, and check every byte of them."""
    data = _load(config, None, root).data
    with _console(json_, quiet) as console:
        from mnist_mlp.data import MNIST_FILES, fetch_mnist

        origins = fetch_mnist(Path(data.root), data.mirrors)
        raw = Path(data.root) / "MNIST" / "raw"
        for name, origin in origins.items():
            console.print(f"{raw / name}  {origin}, md5 {MNIST_FILES[name].md5}")
    if json_:
        _print_json(
            {
                "root": data.root,
                "files": [
                    {"name": name, "origin": origin, "md5": MNIST_FILES[name].md5}
                    for name, origin in origins.items()
                ],
            }
        )


def main() -> NoReturn:
    """The console script: run a command and exit with its documented code."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:  # Typer has turned the KeyboardInterrupt into this
            code = _fail("interrupted; checkpoints saved so far are whole", code)
    except MnistMlpError as error:
        code = _fail(str(error), error.exit_code)
    except typer.TyperException as error:
        code = _fail(f"{error.format_message()} See mnist-mlp --help.", error.exit_code)
    except BrokenPipeError:
        _close_stdout()
        code = 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", FILE_SYSTEM_EXIT_CODE)
    except Exception as error:
        code = _fail(
            f"a fault of ours, please report it: {type(error).__name__}: {error}\n"
            "run again with --debug to see where",
            1,
        )
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()
    typer.echo(f"mnist-mlp: {message}", err=True)
    return code


def _load(
    config: str, overrides: list[str] | None, root: str | None = None, device: str | None = None
) -> Config:
    options = {"data.root": root, "device": device}
    # A JSON string is a YAML string whatever is in it.
    extra = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    return load_config(config, [*(overrides or ()), *extra])


class _Console(Console):
    """A console that outlives its reader: a closed pipe silences it and stops nothing."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _close_stdout()


def _close_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _console(json_: bool, quiet: bool) -> Iterator[Console]:
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


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, allow_nan=False))


def _show_run(console: Console, events: Iterator["RunEvent"]) -> "RunResult":
    """Print a run as it happens: a live line on a terminal, a line an epoch everywhere."""
    from mnist_mlp.run import RunResult, RunStart
    from mnist_mlp.train import EpochResult

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(bar_width=None),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(compact=True),
    )
    live = console.is_terminal and not console.quiet
    with progress.Progress(*columns, console=console, transient=True, disable=not live) as bar:
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
                    description=f"epoch {event.epoch}/{epochs}  update {event.updates:,}  "
                    f"loss {event.loss:.4f}  accuracy {event.accuracy:.2%}",
                    rate=f"{speed:,.0f} examples/s" if speed else "",
                )
    assert isinstance(event, RunResult)  # noqa: S101 - the last event always is
    return event


def _show_start(console: Console, start: "RunStart") -> None:
    config, where = start.config, start.environment
    sizes = "-".join(map(str, config.model.layer_sizes))
    examples = ", ".join(f"{count:,} {name}" for name, count in start.examples.items())
    console.print(f"data      {start.dataset}: {examples} examples")
    console.print(f"network   {sizes}, {start.parameters:,} parameters, {config.model.activation}")
    threads = where["threads"]
    console.print(
        f"training  {config.optimizer.name}, batch size {config.train.batch_size}, "
        f"{where['backward']}, {where['device']}, {threads} thread{'s' * (threads > 1)}"
    )
    if start.run_dir:
        console.print(f"run       {start.run_dir}")


def _show_epoch(console: Console, row: "EpochResult", epochs: int) -> None:
    parts = [
        f"epoch {row.epoch:>{len(str(epochs))}}/{epochs}" if row.epoch else "untrained",
        f"loss {row.train_loss:.4f}" + ("" if row.epoch else f" (ln 10 = {LN_10:.4f})"),
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


def _show_evaluation(console: Console, evaluation: "Evaluation") -> None:
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
    console.print(scores)
    console.print("confusion matrix: true digits in rows, what they were read as in columns")
    console.print(matrix)
