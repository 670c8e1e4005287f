"""What the commands share: their options, how they find their inputs, and how they print."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mnist_mlp.config import Config, load_config
from mnist_mlp.runs.directory import newest_run
from mnist_mlp.views import terminal

if TYPE_CHECKING:
    from mnist_mlp.runs.checkpoint import Checkpoint

_CONFIG = typer.Option("--config", help="A YAML file, or the name of a bundled config.")
ConfigName = Annotated[str, _CONFIG]
OptionalConfigName = Annotated[str | None, _CONFIG]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config overrides, such as train.epochs=3."),
]
Target = Annotated[
    Path | None,
    typer.Argument(metavar="RUN|CHECKPOINT", help="Default: the newest run under runs/."),
]
Best = Annotated[bool, typer.Option("--best", help="The best epoch by validation, not the newest.")]
Root = Annotated[str | None, typer.Option(help="Data root: beats MNIST_MLP_DATA and the config.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Overrides the config.")
]
Split = Annotated[Literal["test", "validation", "train"], typer.Option(help="Which examples.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, and only JSON, to stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors and --json.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show an error's traceback.")]
"""Every command has it; only `main` looks for it."""


def read_config(
    name: str,
    overrides: list[str] | None = None,
    root: str | None = None,
    device: str | None = None,
) -> Config:
    """Load a config with the overrides and options of a command line."""
    options = {"data.root": root, "device": device}
    # A JSON string is also a YAML string, whatever characters it contains.
    extra = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    return load_config(name, [*(overrides or ()), *extra])


def read_checkpoint(target: Path | None, best: bool = False) -> "Checkpoint":
    """Load the checkpoint that a command line names, or the newest run's."""
    from mnist_mlp.runs.checkpoint import load_checkpoint

    return load_checkpoint(target or newest_run(), best=best)


def print_text(text: str) -> None:
    """Print to stdout; a reader that has closed the pipe is no error."""
    try:
        typer.echo(text)
    except BrokenPipeError:
        terminal.discard(sys.stdout)


def print_json(value: Any) -> None:
    """Print a value to stdout as one line of JSON."""
    print_text(json.dumps(value, allow_nan=False))
