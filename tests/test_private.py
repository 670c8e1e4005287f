"""What is recorded, shown or exported tells of this machine no more than reproduces a run."""

import json
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from inspect import getmembers, isfunction, signature
from pathlib import Path

import pytest

import mnist_mlp
from mnist_mlp.runs import learner
from tests.conftest import Outcome

HELP = "import mnist_mlp as m; [help(getattr(m, name)) for name in dir(m)]"
SECRET, TOKEN = "alice-of-wonderland", "tok-5f3e9a71"


def holding(text: str) -> list[str]:
    """The files below the current folder that hold a text."""
    paths = (path for path in sorted(Path().rglob("*")) if path.is_file())
    return [str(path) for path in paths if text.encode() in path.read_bytes()]


def test_files_hold_no_environment_and_pages_no_folder(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data's folder stands in what the run is resumed from, and nowhere else."""
    monkeypatch.setenv("API_TOKEN", TOKEN)
    monkeypatch.setenv("USER", SECRET)
    root = f"data.root=/home/{SECRET}/data"
    assert run("train", "--config", "digits", "train.epochs=1", root, "report=true").code == 0
    for format_ in ("html", "safetensors", "onnx", "pt2"):
        assert run("export", "--format", format_).code == 0
    assert holding(TOKEN) == []
    assert holding(SECRET) == [
        "runs/digits-001/checkpoints/epoch-001.safetensors", "runs/digits-001/config.yaml",
    ]  # fmt: skip
    assert holding(str(Path.cwd())) == holding(sys.prefix) == []
    assert set(json.loads(Path("runs/digits-001/environment.json").read_text())) == {
        "python", "platform", "versions", "device", "device_name", "cpu_capability", "threads",
        "processes", "seed", "git_commit", "backward", "compiler_problem", "init_from",
        "same_bits_with",
    }  # fmt: skip


def test_no_signature_holds_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", HELP],
        capture_output=True, text=True, env={"API_TOKEN": TOKEN},
    )  # fmt: skip
    assert shown.returncode == 0, shown
    assert "load_config" in shown.stdout
    assert TOKEN not in shown.stdout + shown.stderr
    monkeypatch.setenv("API_TOKEN", TOKEN)
    for module in pkgutil.walk_packages(mnist_mlp.__path__, "mnist_mlp."):
        if not module.name.endswith("__main__"):
            for _, member in getmembers(import_module(module.name), isfunction):
                assert TOKEN not in str(signature(member)), member


def test_why_numba_failed_is_told_without_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ImportError(f"cannot load /home/{SECRET}/lib/numba.so: no such file\nmore")

    monkeypatch.setattr(learner, "_compiled_updater", fail)
    config = mnist_mlp.load_config("digits", ["train.batch_size=2"])
    built = learner.assemble(config, mnist_mlp.load_dataset("digits"))
    assert built.compiler_problem == "ImportError: cannot load … no such file"
