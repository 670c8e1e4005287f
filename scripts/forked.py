"""`mnist-mlp` in processes forked from one that has imported it, so that a start costs no import.

The tests and scripts/faults.py use this. What only a fresh interpreter shows (start-up, signals
during imports, which modules are imported) needs `python -m mnist_mlp` instead.
"""

import contextlib
import gc
import importlib
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import mnist_mlp
from mnist_mlp.signals import STOP_SIGNALS

TIMEOUT_S = 60.0
"""A process that takes longer counts as hanging."""

Mark = Callable[[str], None]
Hook = Callable[[Mark], None]
"""A function that the new process calls before the program; it sends marks to the parent."""


def _modules() -> list[str]:
    """What the server imports: all of the package, and what the package imports late."""
    (package,) = map(Path, mnist_mlp.__path__)
    paths = (path.relative_to(package.parent) for path in sorted(package.rglob("*.py")))
    names = [".".join(path.with_suffix("").parts) for path in paths if path.stem != "__main__"]
    late = ["sklearn.datasets", "sklearn.model_selection", "torchvision.datasets.mnist"]
    return [__name__, *(name.removesuffix(".__init__") for name in names), *late]


gc.set_threshold(500_000)  # as the program does; here for the server, which imports this first
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(_modules())


class Outcome(NamedTuple):
    """How a process ended, and what it printed."""

    code: int
    out: str
    err: str

    def expect(self, *codes: int) -> "Outcome":
        """Check the exit code, and that an error is reported without a traceback."""
        assert self.code in codes, self
        assert "Traceback" not in self.err, self
        assert not self.code or self.err.splitlines()[-1], self
        return self


class Program:
    """`mnist-mlp` with these arguments, in the current folder and environment.

    Args:
        arguments: The command line after `mnist-mlp`.
        hooks: Called in the new process, first to last, before the program.
        package: The folder of another copy of the package, to be imported instead.
    """

    def __init__(
        self, *arguments: str | Path, hooks: Sequence[Hook] = (), package: Path | None = None
    ) -> None:
        self._receiver, sender = CONTEXT.Pipe(duplex=False)
        self._printed = Path(tempfile.mkdtemp(prefix="printed-"))
        for name in ("out", "err"):
            (self._printed / name).touch()
        one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # A process with threads is not to be forked. The server looks for modules in its folder
        # first: in the current one another copy of the package may lie.
        with mock.patch.dict(os.environ, one_thread), contextlib.chdir(Path(__file__).parents[1]):
            forkserver.ensure_running()
        where = (Path.cwd(), self._printed, dict(os.environ), package)
        self._process = CONTEXT.Process(
            target=_run, args=(*where, [str(a) for a in arguments], sender, tuple(hooks)),
            daemon=True,
        )  # fmt: skip
        self._process.start()
        sender.close()
        self.marks: list[str] = []

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self._process.is_alive()

    @property
    def errors(self) -> str:
        """What it has printed to stderr so far."""
        return (self._printed / "err").read_text()

    def until(self, mark: str, times: int = 1, timeout: float = TIMEOUT_S) -> bool:
        """Wait until a hook has sent this mark so often; False if the program ended before."""
        deadline = time.monotonic() + timeout
        while self.marks.count(mark) < times:
            assert self._receiver.poll(max(0, deadline - time.monotonic())), (
                f"no {mark} within {timeout} s: {self.errors}"
            )
            try:
                self.marks.append(self._receiver.recv())
            except EOFError:
                return False
        return True

    def send(self, number: int) -> None:
        """Send a signal."""
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.kill(self._process.pid or 0, number)

    def wait(self, timeout: float = TIMEOUT_S) -> Outcome:
        """Wait for the end."""
        self.until("the end", timeout=timeout)
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"it hangs: {self.errors}"
        out, err = ((self._printed / name).read_text() for name in ("out", "err"))
        self.close()
        return Outcome(code, out, err)

    def close(self) -> None:
        """Kill the process where it still runs, and forget what it printed."""
        self._process.kill()
        self._process.join()
        self._receiver.close()
        shutil.rmtree(self._printed, ignore_errors=True)


def _run(
    folder: Path,
    printed: Path,
    environment: dict[str, str],
    package: Path | None,
    arguments: list[str],
    sender: Any,
    hooks: Sequence[Hook],
) -> None:
    """Become the program: what the new process does."""
    assert len(os.listdir("/proc/self/task")) == 1, "forked with threads"  # noqa: PTH208
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(printed / name, os.O_WRONLY | os.O_APPEND), number)
    for stop in STOP_SIGNALS:  # a parent in the background ignores some
        signal.signal(stop, signal.default_int_handler)
    if package:
        for name in [name for name in sys.modules if name.partition(".")[0] == "mnist_mlp"]:
            del sys.modules[name]
        sys.path.insert(0, str(package))
    for hook in hooks:
        hook(sender.send)
    # New streams: the old ones remember what kind of files the server's were.
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["mnist-mlp", *arguments]
    try:
        importlib.import_module("mnist_mlp.__main__").main()
    finally:
        try:
            sys.stderr.flush()
        except OSError:  # which changes no exit code where Python itself ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
