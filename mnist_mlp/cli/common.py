"""What the commands share: their options, their console, and how they find their inputs."""

import json
from collections.abc import Callable
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from mnist_mlp.config import Config, load_config
from mnist_mlp.runs.directory import newest_run
from mnist_mlp.updates.ranks import rank
from mnist_mlp.views import terminal

if TYPE_CHECKING:
    from mnist_mlp.runs.checkpoint import Checkpoint

_CONFIG = Option("--config", help="A YAML file, or the name of a bundled config.")
ConfigName = Annotated[str, _CONFIG]
OptionalConfigName = Annotated[str | None, _CONFIG]
Overrides = Annotated[
    list[str] | None, Argument(metavar="KEY=VALUE", help="Config values, such as train.epochs=3.")
]
Target = Annotated[
    Path | None, Argument(metavar="RUN|CHECKPOINT", help="Default: the newest run under runs/.")
]
Best = Annotated[bool, Option("--best", help="The best epoch by validation, not the newest.")]
Root = Annotated[str | None, Option(help="Data root: beats MNIST_MLP_DATA and the config.")]
Device = Annotated[Literal["auto", "cpu", "cuda"] | None, Option(help="Overrides the config.")]
SHARED = {
    "json_": Annotated[bool, Option("--json", help="Print JSON, and only JSON, to stdout.")],
    "quiet": Annotated[bool, Option("--quiet", help="Print only errors and --json.")],
    "debug": Annotated[bool, Option("--debug", help="Show an error's traceback.")],
}
"""Each command has them, or all but one. Only `main` looks for `--debug`."""
Command = Callable[..., None]


def command(without: str = "", progress: bool = False) -> Callable[[Command], Command]:
    """Add the `SHARED` options to a command. They make the console, the function's first argument.

    Of the processes of a distributed job only rank 0 prints.
    """

    def decorate(function: Command) -> Command:
        @wraps(function)
        def run(json_: bool = False, quiet: bool = False, debug: bool = False, **own: Any) -> None:
            leads = rank() == 0
            with terminal.open_console(json_ and leads, quiet or not leads, progress) as console:
                function(console, **own)

        # Typer reads a command's options from its signature.
        _, *own = signature(function).parameters.values()
        shared = [
            Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=option)
            for name, option in SHARED.items()
            if name != without
        ]
        run.__signature__ = Signature([*own, *shared])  # type: ignore[attr-defined]
        return run

    return decorate


def read_config(
    name: str, overrides: Overrides = None, root: Root = None, device: Device = None
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
