"""What several test files share: the program run in process and outside, and small data."""

import gzip
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from mnist_mlp import cli, mnist_files

REPOSITORY = Path(__file__).parent.parent


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


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
    """The program as its own process."""
    process = subprocess.run(
        [sys.executable, "-m", "mnist_mlp", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return Outcome(process.returncode, process.stdout, process.stderr)


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
    files = {}
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
            files[name] = mnist_files.MnistFile(_md5(content), _md5(archive), len(archive))
    monkeypatch.setattr(mnist_files, "MNIST_FILES", files)
    monkeypatch.setattr("torchvision.datasets.MNIST.mirrors", [])
    return archives


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
