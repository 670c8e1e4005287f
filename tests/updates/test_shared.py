"""Several processes compute what one computes, and outlive each other under torchrun."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_mlp.runs.checkpoint import load_checkpoint
from scripts.forked import Hook, Mark
from tests.conftest import Outcome, Program, program

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
DIGITS = ("--config", "digits", "train.epochs=12", "train.batch_size=20", "data.validation=101")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def together(processes: int, *arguments: str | Path) -> Outcome:
    """The program in so many forked processes, which find each other as under torchrun."""
    port = free_port()
    started = [
        Program(*arguments, hooks=[process_of(rank, processes, port)]) for rank in range(processes)
    ]
    codes, outs, errs = zip(*(process.wait(120) for process in started), strict=True)
    return Outcome(max(codes), "".join(outs), "".join(errs))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def process_of(rank: int, processes: int, port: int) -> Hook:
    variables = {
        "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes,
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "CUDA_VISIBLE_DEVICES": "",
    }  # fmt: skip
    return partial(set_variables, variables={name: str(value) for name, value in variables.items()})


def set_variables(_mark: Mark, *, variables: dict[str, str]) -> None:
    os.environ.update(variables)


class Job:
    """The program in so many processes of torchrun."""

    def __init__(self, processes: int, *arguments: str | Path, restarts: int = 0) -> None:
        how = [f"--nproc-per-node={processes}", f"--max-restarts={restarts}", "-m", "mnist_mlp"]
        self.process = subprocess.Popen(
            [*TORCHRUN, *how, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip

    def wait(self) -> Outcome:
        out, err = self.process.communicate(timeout=120)
        return Outcome(self.process.returncode, out, err)

    def workers(self) -> list[int]:
        """By rank: in the order in which torchrun starts them."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]


def rows(run: str) -> list[dict[str, Any]]:
    path = Path(run, "metrics.jsonl")
    if not path.exists():
        return []
    return [json.loads(line) | {"seconds": 0} for line in path.read_text().splitlines()]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def same_training(run: str, other: str) -> None:
    for ours, theirs in zip(rows(run), rows(other), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-5)
    weights, expected = (load_checkpoint(path).model.state_dict() for path in (run, other))
    for name, tensor in weights.items():
        assert (tensor - expected[name]).norm() <= 1e-5 * expected[name].norm(), name


@pytest.mark.parametrize(
    ("processes", "overrides"),
    [
        (2, ("train.batch_size=50",)),
        # Three processes and two examples: one has nothing to do. 437 examples are enough.
        (3, ("train.batch_size=2", "data.validation=1000", "optimizer.learning_rate=0.003")),
        (3, ("train.batch_size=2", "data.validation=1000",
             "augment.rotation=9", "augment.elastic=0.3", "optimizer.learning_rate=0.003")),
        (
            2,
            (
                "train.batch_size=47", "train.backward=autograd", "optimizer.name=adamw",
                "optimizer.learning_rate=0.001", "schedule.name=one_cycle",
            ),
        ),
    ],
)  # fmt: skip
def test_several_processes_make_the_updates_of_one(
    processes: int, overrides: tuple[str, ...]
) -> None:
    arguments = ("train", "--config", "digits", "train.epochs=1", *overrides, "--json")
    outcome = together(processes, *arguments, "--run-dir", "several")
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["run_dir"] == "several"
    assert outcome.err.count("epoch 1/1") == 1
    assert f"{processes} processes" in outcome.err
    assert program(*arguments, "--run-dir", "one").code == 0
    same_training("several", "one")
    environment = json.loads(Path("several/environment.json").read_text())
    assert environment["processes"] == processes


def test_batch_normalisation_takes_one_process() -> None:
    outcome = together(2, "train", "--config", "digits", "model.batch_norm=true")
    assert outcome.code == 2
    assert outcome.err.count("mnist-mlp: model.batch_norm: trains in one process") == 1
    assert not Path("runs").exists()


@pytest.mark.mnist
def test_two_processes_make_an_epoch_of_mnist_as_one_does(mnist_root: Path) -> None:
    arguments = ("train", "--config", "lesson", "--root", mnist_root, "train.epochs=1",
                 "train.batch_size=64", "optimizer.learning_rate=0.03")  # fmt: skip
    assert together(2, *arguments, "--run-dir", "several").code == 0
    # One process alone would take the compiled loop, which rounds otherwise.
    assert program(*arguments, "train.backward=autograd", "--run-dir", "one").code == 0
    same_training("several", "one")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run of two processes that nothing happens to."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert together(2, "train", *DIGITS, "--run-dir", folder / "run").code == 0
    yield folder / "run"
    shutil.rmtree(folder)


def same_bits(run: str, uninterrupted: Path) -> None:
    assert rows(run) == rows(str(uninterrupted))
    for name, tensor in load_checkpoint(run).model.state_dict().items():
        assert tensor.equal(load_checkpoint(uninterrupted).model.state_dict()[name]), name


@pytest.mark.parametrize("victim", [pytest.param(0, marks=pytest.mark.long), 1])
def test_a_job_whose_process_dies_goes_on_where_torchrun_may_restart_it(
    victim: int, uninterrupted: Path
) -> None:
    job = Job(2, "train", *DIGITS, "--json", restarts=1)
    run = "runs/digits-001"
    until(lambda: len(rows(run)) > 3)
    os.kill(job.workers()[victim], signal.SIGKILL)
    outcome = job.wait()
    assert outcome.code == 0, outcome
    assert json.loads(outcome.out)["run_dir"] == run
    assert "resumed after update" in outcome.err
    assert [path.name for path in Path("runs").iterdir()] == ["digits-001"]
    same_bits(run, uninterrupted)


def test_a_job_whose_process_dies_ends_and_can_be_resumed_by_fewer() -> None:
    job = Job(2, "train", *DIGITS, "--run-dir", "run")
    until(lambda: len(rows("run")) > 3)
    os.kill(job.workers()[1], signal.SIGKILL)
    outcome = job.wait()
    assert outcome.code != 0
    assert "exitcode  : -9" in outcome.err  # torchrun's own words
    resumed = program("train", "--resume", "run")
    assert resumed.code == 0, resumed
    assert "not bit for bit: processes was 2, is 1" in resumed.out
    assert [row["epoch"] for row in rows("run")] == list(range(13))


def wait_a_second(_mark: Mark) -> None:
    """For other processes, rather than half an hour."""
    distributed = torch.distributed
    distributed.init_process_group = partial(
        distributed.init_process_group, timeout=timedelta(seconds=1)
    )


def test_a_lost_process_is_told_in_words() -> None:
    """A process alone in a job of two: torchrun is not there to end it."""
    hooks = [process_of(1, 2, port=9), wait_a_second]
    outcome = Program("train", "--config", "digits", hooks=hooks).wait(100)
    assert outcome.code == 9, outcome
    assert "mnist-mlp: rank 1: another process of this job has ended or cannot be" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_stopped_job_is_saved_and_goes_on(uninterrupted: Path) -> None:
    job = Job(2, "train", *DIGITS, "--run-dir", "run")
    until(lambda: len(rows("run")) > 3)
    job.process.send_signal(signal.SIGTERM)
    outcome = job.wait()
    assert outcome.code != 0
    assert outcome.err.count("mnist-mlp: stopped by SIGTERM after update") == 1
    assert together(2, "train", "--resume", "run").code == 0
    same_bits("run", uninterrupted)


def test_what_one_process_alone_meets_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of rank 1, whose data are not there; and one that is alone whatever its rank."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "1")
    outcome = program("count-params", "--config", "nosuch")
    assert (outcome.code, "no such config file" in outcome.err) == (2, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = program("eval", "nosuch")
    assert (outcome.code, "no such run" in outcome.err) == (4, True)
    outcome = program("count-params", "--config", "nosuch")
    assert (outcome.code, outcome.err) == (2, "")


def test_a_mistake_is_told_once() -> None:
    outcome = Job(2, "train", "--config", "digits", "train.epochs=0").wait()
    assert outcome.code != 0
    assert outcome.err.count('mnist-mlp: override "train.epochs=0"') == 1


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
