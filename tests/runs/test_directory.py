import os
import threading
from pathlib import Path

import pytest

from mnist_mlp.errors import CheckpointError, UsageError
from mnist_mlp.runs import directory
from mnist_mlp.runs.directory import list_checkpoints, newest_run
from mnist_mlp.views.notebook import train_model
from tests.runs.test_training import digits


def test_a_run_directory_is_never_mixed_into() -> None:
    train_model(digits(), "here")
    with pytest.raises(UsageError, match=r"here: already holds a checkpoint.*--resume here"):
        train_model(digits(), "here")
    Path("mine").mkdir()
    Path("mine/config.yaml").write_text("seed: 1")
    with pytest.raises(UsageError, match="mine: holds files that are no run's"):
        train_model(digits(), "mine")
    assert Path("mine/config.yaml").read_text() == "seed: 1"
    Path("file").touch()
    with pytest.raises(UsageError, match="file: a file, not a folder"):
        train_model(digits(), "file")


def test_starts_at_once_choose_different_directories() -> None:
    chosen = []
    barrier = threading.Barrier(8)

    def start() -> None:
        barrier.wait()
        chosen.append(directory._new_directory("run"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(chosen)) == 8


def test_the_newest_run_is_that_of_the_youngest_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="no run with a checkpoint here"):
        newest_run()
    swept = train_model(digits(), "runs/digits-sweep/seed=0").run_dir
    with pytest.raises(CheckpointError, match=f"or name one, such as {swept}$"):
        newest_run()
    first = train_model(digits()).run_dir
    second = train_model(digits("name=another")).run_dir
    Path("runs/zzz").mkdir()
    assert newest_run() == second
    assert first
    os.utime(list_checkpoints(first)[-1], (2e9, 2e9))
    assert newest_run() == first
