"""What several test files share: the `long` mark, the program run in process and outside, data."""

import gc
import gzip
import hashlib
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_mlp import cli, mnist_files
from mnist_mlp.config import load_config
from mnist_mlp.views.notebook import train_model
from scripts.forked import Outcome as Outcome
from scripts.forked import Program as Program

REPOSITORY = Path(__file__).parent.parent


LEFT_OUT = pytest.StashKey[int]()
"""How many tests marked `long` were left out."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `long` too")


def pytest_configure(config: pytest.Config) -> None:
    """Hide a GPU, except under `pytest -m cuda`: on one, `device: auto` gives other numbers.

    Fixtures that several tests share come before `_alone`, and need its one thread too.
    """
    torch.set_num_threads(1)
    if config.getoption("markexpr") != "cuda":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests marked `long`, unless asked for them; skip `cuda` without a GPU."""
    for item in items:
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device here, or not `pytest -m cuda`"))
    config.stash[LEFT_OUT] = 0
    if not config.getoption("--all") and "long" not in config.getoption("markexpr"):
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if item not in long]
        config.hook.pytest_deselected(items=long)
        config.stash[LEFT_OUT] = len(long)


def pytest_collection_finish() -> None:
    """What is imported by now is no garbage."""
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Under pytest-xdist only the workers collect: tell the main process the number."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left out"] = session.config.stash[LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = getattr(node, "workeroutput", {}).get("left out", 0)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if left_out := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{left_out} tests marked long were left out; scripts/test --all runs them"
        )


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test in a folder of its own, with no data root from outside and no outside mirror."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MNIST_MLP_DATA", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody listens
    torch.set_num_threads(1)


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """The console script, in process: the same function that the installed script calls."""

    def run(*arguments: str | Path) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["mnist-mlp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), captured.out, captured.err)

    return run


def program(*arguments: str | Path, timeout: float = 120) -> Outcome:
    """The program in a process of its own, in the current folder and environment."""
    return Program(*arguments).wait(timeout)


@pytest.fixture(scope="session")
def shared_digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What digits_run is a copy of; not to be changed."""
    run_dir = tmp_path_factory.mktemp("shared") / "digits-001"
    train_model(load_config("digits", ["train.epochs=2"]), run_dir)
    return run_dir


@pytest.fixture
def digits_run(shared_digits_run: Path, tmp_path: Path) -> Path:
    """A copy of runs/digits-001 as `train --config digits train.epochs=2` leaves it."""
    shutil.copytree(shared_digits_run, tmp_path / "runs" / "digits-001")
    return Path("runs/digits-001")


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    """The root of the real MNIST; a test that uses it skips where there is none."""
    root = os.environ.get("MNIST_MLP_TEST_DATA")
    if not root:
        pytest.skip("MNIST_MLP_TEST_DATA names no root of the real MNIST")
    return Path(root)


@pytest.fixture
def small_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of archives in MNIST's format, of 20 and 10 random images, with md5s to match."""
    archives = tmp_path / "archives"
    archives.mkdir()
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        contents = {
            f"{part}-images-idx3-ubyte": struct.pack(">4i", 0x803, count, 28, 28)
            + pixels.numpy().tobytes(),
            f"{part}-labels-idx1-ubyte": struct.pack(">2i", 0x801, count)
            + bytes(i % 10 for i in range(count)),
        }
        for name, content in contents.items():
            archive = gzip.compress(content)
            (archives / f"{name}.gz").write_bytes(archive)
            monkeypatch.setitem(mnist_files.FILE_MD5, name, _md5(content))
            monkeypatch.setitem(mnist_files.ARCHIVE_MD5, f"{name}.gz", _md5(archive))
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    return archives


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
