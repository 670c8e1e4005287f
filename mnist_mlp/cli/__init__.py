"""The command line: `app` holds the commands, `main` runs one and sets the exit code.

A command imports torch, and what needs it, inside its function, so that `--help` and a config's
errors come at once. Its output goes to stdout, or to stderr where `--json` prints to stdout.
"""

import os
import re
import sys
import time
import traceback
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from mnist_mlp import errors
from mnist_mlp.cli import checks, images, networks
from mnist_mlp.config import resembling_key
from mnist_mlp.updates.ranks import processes, rank
from mnist_mlp.views.terminal import Output

app = typer.Typer(
    name="mnist-mlp",
    help="Train, evaluate and take apart the 784-128-64-10 network that reads handwritten digits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        Output().print(f"mnist-mlp {metadata.version('mnist-mlp')}")
        raise typer.Exit


_VERSION = typer.Option("--version", callback=_print_version, is_eager=True, help="Print version.")


@app.callback()
def _program(version: Annotated[bool, _VERSION] = False) -> None:
    pass


app.command()(networks.train)
app.command(name="eval")(networks.evaluate)
for _command in (
    checks.count_params, checks.check_lesson, images.trace, images.predict, networks.report,
    networks.export, networks.handout, networks.sweep, networks.runs, checks.validate,
    checks.configs, checks.download,
):  # fmt: skip
    app.command()(_command)


def main() -> NoReturn:
    """Run the command in `sys.argv` and exit with its documented code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the parent process closed it
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - open until the end
        getattr(sys, name).reconfigure(errors="replace")
    if dashed := next((word for word in sys.argv if re.match("[–—−]+[a-z]", word)), None):
        hint = f"begins with a dash that is no hyphen; type --{dashed.lstrip('–—−')}"
        sys.exit(_fail(f"{dashed} {hint}", errors.UsageError.exit_code))
    code = _run()
    if processes() > 1:
        # PyTorch's communication threads can crash the interpreter's shutdown ("terminate called"),
        # which torchrun would report as a failed process. So skip the shutdown.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(int(code or 0))
    sys.exit(code)


def _run() -> str | int | None:
    """Run the command; print an error, and return the exit code."""
    try:
        code: str | int | None = app(prog_name="mnist-mlp", standalone_mode=False)
    except errors.MnistMlpError as error:
        # Every process of a distributed job raises these; only rank 0 prints them.
        shared = (errors.UsageError, errors.DivergedError, errors.StoppedError)
        silent = rank() > 0 and isinstance(error, shared)
        if silent:
            time.sleep(1)  # torchrun ends the other processes as soon as the first one fails
        return _fail("" if silent else str(error), error.exit_code)
    except typer.TyperException as error:
        # Empty for a bare `mnist-mlp`, which printed its help; several lines for a missing choice.
        message = " ".join(error.format_message().split())
        option = re.search("No such option: --([a-z-]+)", message)
        if option and (key := resembling_key(option[1].replace("-", "_"))):
            message = f"{message.rstrip('.')}; {key}=VALUE sets a value of the config."
        return _fail(f"{message} See mnist-mlp --help." if message else "", error.exit_code)
    except SystemExit as error:  # Typer's own, after it has printed help or completions
        return 0 if isinstance(error.__context__, BrokenPipeError) else error.code
    except OSError as error:
        file = f"{error.filename}: " if error.filename else ""
        return _fail(f"{file}{error.strerror or error}", 5)
    except Exception as error:
        # PyTorch raises a plain RuntimeError where the CPU's memory does not suffice.
        if isinstance(error, MemoryError) or re.search("(allocate|out of) memory", str(error)):
            message = "not enough memory; reduce model.layer_sizes or train.batch_size"
            return _fail(message, errors.UsageError.exit_code)
        message = f"internal error: {type(error).__name__}: {error}; please report it"
        return _fail(f"{message}\nrun again with --debug for the traceback", 1)
    return code


def _fail(message: str, code: int) -> int:
    if "--debug" in sys.argv:
        traceback.print_exc()
    if message:
        with suppress(OSError):  # stderr may be closed or full
            typer.echo(f"mnist-mlp: {message}", err=True)
    return code
