"""A forked program is what a started one is; scripts/forked.py."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.forked import Mark, Program
from tests.conftest import REPOSITORY


def test_it_has_the_folder_the_environment_and_the_arguments_of_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("some.yaml").write_text("seed: 41")
    monkeypatch.setenv("MNIST_MLP_DATA", "/from/here")
    outcome = Program("validate", "--config", "some.yaml", "train.epochs=43").wait().expect(0)
    for line in ("seed: 41", "  root: /from/here", "  epochs: 43"):
        assert line in outcome.out.splitlines()
    monkeypatch.delenv("MNIST_MLP_DATA")
    assert "  root: data\n" in Program("validate", "--config", "some.yaml").wait().out


def test_another_package_in_the_folder_is_not_imported(tmp_path: Path) -> None:
    Path("mnist_mlp").mkdir()
    Path("mnist_mlp/__init__.py").write_text("1 / 0")
    script = tmp_path / "elsewhere" / "script.py"
    script.parent.mkdir()
    script.write_text(
        "from scripts.forked import Program\n"
        "if __name__ == '__main__':\n"
        "    print(Program('count-params').wait())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    printed = subprocess.check_output([sys.executable, script], env=environment, text=True)
    assert "total   109,386 parameters" in printed


def say_hello(mark: Mark) -> None:
    mark("hello")
    print("hello")


def wait_a_minute(mark: Mark) -> None:
    mark("waiting")
    time.sleep(60)


def fail(_mark: Mark) -> None:
    raise ValueError("a hook's own")


def test_it_calls_its_hooks_and_tells_how_it_ended() -> None:
    process = Program("--version", hooks=[say_hello])
    assert process.until("hello")
    assert not process.until("something else")
    assert process.wait() == (0, "hello\nmnist-mlp 0.1.0\n", "")
    assert not process.running
    assert Program("train", "--config", "nope").wait().code == 2
    assert Program("--version", hooks=[fail]).wait().code == 1

    process = Program("--version", hooks=[wait_a_minute])
    assert process.until("waiting")
    assert process.running
    process.send(signal.SIGKILL)
    assert process.wait() == (-signal.SIGKILL, "", "")


def test_one_that_hangs_is_told() -> None:
    process = Program("--version", hooks=[wait_a_minute])
    with pytest.raises(AssertionError, match=r"no the end within 0\.5 s"):
        process.wait(timeout=0.5)
    process.close()
    assert not process.running


def test_it_takes_another_copy_of_the_package(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "mnist_mlp", "mnist_mlp")
    Path("mnist_mlp/__main__.py").write_text("def main():\n    print(__file__)\n")
    outcome = Program(package=tmp_path).wait()
    assert Path(outcome.out.strip()) == tmp_path / "mnist_mlp" / "__main__.py"
