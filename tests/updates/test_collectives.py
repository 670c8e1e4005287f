"""What processes tell each other; test_shared.py has the rest, by training."""

import os
from functools import partial
from pathlib import Path

from scripts.forked import Hook, Mark, Program
from tests.conftest import program
from tests.updates.test_shared import free_port, process_of


def go_to(_mark: Mark, *, folder: Path) -> None:
    os.chdir(folder)


def test_processes_that_read_different_checkpoints_do_not_go_on(tmp_path: Path) -> None:
    """As on two machines that share no folder. A run of another seed has other weights."""
    port, started = free_port(), []
    for rank in (0, 1):
        folder = tmp_path / f"machine-{rank}"
        folder.mkdir()
        run = ("--config", "digits", "train.epochs=1", f"seed={rank}", "--run-dir", folder / "run")
        program("train", *run).expect(0)
    for rank in (0, 1):
        hooks: list[Hook] = [
            process_of(rank, 2, port),
            partial(go_to, folder=tmp_path / f"machine-{rank}"),
        ]
        started.append(Program("train", "--resume", "run", "train.epochs=2", hooks=hooks))
    ends = [process.wait(120) for process in started]
    assert {end.code for end in ends} <= {4, 9}
    assert sum("run: not the same for all processes" in end.err for end in ends) == 1
