"""A sweep trains every combination once, however often it is stopped."""

import contextlib
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from mnist_mlp.errors import UsageError
from mnist_mlp.runs.checkpoint import load_checkpoint
from mnist_mlp.runs.directory import list_checkpoints
from mnist_mlp.runs.sweep import plan
from tests.conftest import Outcome, Program, program

RATES = "optimizer.learning_rate=0.03,0.1,1e15"
SMALL = ("sweep", "--config", "digits", RATES, "seed=0,1", "train.epochs=2", "data.validation=200")
VALIDATION = ("--split", "validation", "--json")


def fresh(*arguments: str) -> subprocess.Popen[str]:
    """The program in a process that may have children."""
    command = [sys.executable, "-m", "mnist_mlp", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def weights(folder: str) -> dict[str, str]:
    """Each run's weights, by the name of its folder."""
    runs = [path for path in Path("runs", folder).iterdir() if list_checkpoints(path)]
    return {run.name: str(load_checkpoint(run).model.state_dict()) for run in sorted(runs)}


def test_every_combination_is_an_ordinary_run(run: Callable[..., Outcome]) -> None:
    outcome = run(*SMALL, "--csv", "table.csv", "--json")
    assert outcome.code == 0, outcome
    told = json.loads(outcome.out)
    low, high, lost = told["groups"]
    assert lost["finished"] == 0
    assert outcome.err.count("diverged\n") == 2
    for row in (low, high):
        accuracies = [
            json.loads(run("eval", each["run_dir"], *VALIDATION).out)["accuracy"]
            for each in told["runs"]
            if each["values"]["optimizer.learning_rate"] == row["optimizer.learning_rate"]
        ]
        mean = sum(accuracies) / 2
        assert row["validation"] == pytest.approx(mean)
        assert row["validation_deviation"] == pytest.approx(abs(accuracies[0] - mean) * 2**0.5)
    best = max(low, high, key=lambda row: row["validation"])
    assert [row for row in told["groups"] if row["best"]] == [best]
    written = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    assert [row["optimizer.learning_rate"] for row in written] == ["0.03", "0.1", "1e15"]
    assert written[0]["validation"] == str(low["validation"])
    assert run("train", "--resume", told["runs"][0]["run_dir"], "train.epochs=3").code == 0


def test_what_is_finished_is_not_trained_again(run: Callable[..., Outcome]) -> None:
    first = run(*SMALL, "--json").out
    files = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("epoch-*.safetensors")}
    assert run(*SMALL, "--json").out == first
    assert {path: path.stat().st_mtime_ns for path in files} == files
    refused = run(*SMALL, "train.batch_size=20").err
    assert "seed=0: a run of train.batch_size=16, not 20; choose another --name" in refused
    assert run(*SMALL, "--root", "elsewhere", "--json").out == first


def test_several_jobs_train_the_same(run: Callable[..., Outcome]) -> None:
    assert run(*SMALL).code == 0
    outcome = fresh(*SMALL, "--jobs", "3", "--name", "jobs")
    out, err = outcome.communicate()
    assert (outcome.returncode, err, out.count("diverged\n")) == (0, "", 2)
    assert weights("jobs") == weights("digits-sweep")


@pytest.mark.parametrize("jobs", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_stopped_sweep_saves_and_goes_on(jobs: int) -> None:
    command = ("sweep", "--config", "digits", "seed=0,1,2", "train.epochs=30")
    process = fresh(*command, "--jobs", str(jobs))
    while not Path("runs/digits-sweep/seed=1/checkpoints/epoch-002.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 143
    assert err == "mnist-mlp: stopped by SIGTERM; the same command goes on\n"
    assert load_checkpoint("runs/digits-sweep/seed=1").epoch < 30
    assert program(*command).code == 0
    assert program(*command, "--name", "whole").code == 0
    assert weights("digits-sweep") == weights("whole")


@pytest.mark.parametrize("seconds", [0, 0.5, pytest.param(1, marks=pytest.mark.long), 1.5, 2.5])
def test_ctrl_c_at_any_time_is_told_once(seconds: float) -> None:
    """As a terminal sends it: to the sweep and to all that it has started."""
    command = ("sweep", "--config", "digits", "seed=0,1,2,3", "train.epochs=3000", "--jobs", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "mnist_mlp", *command], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a parent may ignore it
    )  # fmt: skip
    caught, status = 0, Path(f"/proc/{process.pid}/status")
    while not caught & 1 << signal.SIGTERM - 1:  # until the program has its handlers
        caught = int(re.findall(r"SigCgt:\s+(\w+)", status.read_text())[0], 16)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    go_on = "; the same command goes on"
    assert err in {f"mnist-mlp: stopped by SIGINT{rest}\n" for rest in ("", go_on)}
    assert "lost" not in out


def test_a_combination_ends_with_its_sweep() -> None:
    process = fresh("sweep", "--config", "digits", "seed=0,1", "train.epochs=9000", "--jobs", "2")
    runs = [Path(f"runs/digits-sweep/seed={seed}") for seed in (0, 1)]
    while not all((run / "checkpoints/epoch-002.safetensors").exists() for run in runs):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    for run in runs:
        FileLock(run / ".lock").acquire(timeout=20)
        assert 2 < load_checkpoint(run).epoch < 9000


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_that_cannot_train_says_so_by_its_exit_code(jobs: int) -> None:
    command = "sweep", "--config", "digits", "seed=0,1", "device=cuda", "--jobs", str(jobs)
    process = fresh(*command)
    _, err = process.communicate()
    assert process.returncode == 7
    assert err.count("finds no CUDA device here") == 1


@pytest.mark.parametrize(
    ("rates", "kills"), [("0.1,0.2", 1), pytest.param("0.05,0.1,0.2", 3, marks=pytest.mark.long)]
)
def test_a_killed_sweep_loses_nothing(rates: str, kills: int) -> None:
    """The long one: 27 runs, killed three times."""
    sizes = ["model.layer_sizes=784-32-10,784-16-10,784-10"] * (kills > 1)
    command = (
        "sweep", "--config", "digits", f"optimizer.learning_rate={rates}", *sizes, "seed=0,1,2",
        "train.epochs=3", "--json",
    )  # fmt: skip
    chance = random.Random(0)
    for _ in range(kills):
        process = Program(*command)
        time.sleep(chance.uniform(1.5, 3))
        process.send(signal.SIGKILL)
        process.close()
    broken = program(*command)
    assert broken.code == 0, broken
    whole = json.loads(program(*command, "--name", "whole").out)

    def table(rows: dict[str, Any]) -> Any:
        return rows["groups"], [each["values"] for each in rows["runs"]]

    assert table(json.loads(broken.out)) == table(whole)
    assert len(whole["runs"]) == (27 if kills > 1 else 6)
    assert weights("digits-sweep") == weights("whole")


def test_values_are_split_at_commas_outside_brackets() -> None:
    trials = plan("digits", ["model.layer_sizes=[784,10],784-32-10", "seed=1,2", "report=false"])
    assert [trial.config.model.layer_sizes for trial in trials[::2]] == [(784, 10), (784, 32, 10)]
    assert [trial.config.seed for trial in trials] == [1, 2, 1, 2]
    assert [trial.run_dir.name for trial in trials[1:3]] == [
        "layer_sizes=-784,10-,seed=2", "layer_sizes=784-32-10,seed=1",
    ]  # fmt: skip
    spaced = plan("digits", ["seed=0, 1,0"])
    assert [trial.run_dir.name for trial in spaced] == ["seed=0", "seed=1"]
    rooted = plan("digits", ["seed=0,1"], root="a, b #c")
    assert [trial.config.data.root for trial in rooted] == ["a, b #c", "a, b #c"]
    both = plan("digits", ["optimizer.name=sgd,adam", "schedule.name=cosine,constant"])
    assert both[1].run_dir == Path("runs/digits-sweep/optimizer.name=sgd,schedule.name=constant")


def test_two_keys_that_end_alike_are_told_apart(run: Callable[..., Outcome]) -> None:
    keys = "optimizer.name=sgd,adam", "schedule.name=constant,cosine"
    outcome = run("sweep", "--config", "digits", *keys, "train.epochs=1", "data.validation=100")
    told = outcome.out.splitlines()
    assert told[1].startswith("optimizer.name=sgd schedule.name=cosine ")
    (head,) = [line.split() for line in told if "validation" in line.split() and "runs" in line]
    assert head[:2] == ["optimizer.name", "schedule.name"]


@pytest.mark.parametrize("overrides", [["seed=1"], ["seed=1,1"], []])
def test_a_sweep_needs_something_to_vary(overrides: list[str]) -> None:
    with pytest.raises(UsageError, match="nothing to vary: give a key several values"):
        plan("digits", overrides)


def test_a_lost_process_is_told_and_the_others_go_on() -> None:
    process = fresh("sweep", "--config", "digits", "seed=0,1", "train.epochs=60", "--jobs", "2")
    lock = Path("runs/digits-sweep/seed=0/.lock")
    while not Path("runs/digits-sweep/seed=0/checkpoints/epoch-002.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    holders = []
    for path in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # it has just ended, or is another's
            if path.readlink() == lock.absolute():
                holders.append(int(path.parts[2]))
    os.kill(holders[0], signal.SIGKILL)
    out, err = process.communicate()
    told = "mnist-mlp: 1 of 2 combinations were not trained: its process was lost\n"
    assert (process.returncode, err) == (9, told)
    assert "seed=0  its process was lost\n" in out
    assert re.search(r"seed=1 .*% test", out)
