import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mnist_mlp.config import Config, load_config
from mnist_mlp.errors import DivergedError
from mnist_mlp.runs import record
from mnist_mlp.runs import training as run_module
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mnist_mlp.runs.directory import list_checkpoints
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult, train
from mnist_mlp.views.notebook import train_model
from tests.conftest import Outcome


def digits(*overrides: str) -> Config:
    return load_config("digits", ["train.epochs=2", "device=cpu", *overrides])


def metrics(run_dir: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_run_directory_records_the_run() -> None:
    config = digits("data.validation=100", "checkpoint.keep=1")
    result = train_model(config)
    run = Path("runs/digits-001")
    assert result.run_dir == run
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "checkpoints", "config.yaml", "environment.json", "metrics.jsonl",
    ]  # fmt: skip

    assert load_config(run / "config.yaml", environment={}) == config

    environment = json.loads((run / "environment.json").read_text())
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["threads"] == 1
    assert environment["seed"] == 0
    assert environment["backward"] == "chain_rule"

    rows = metrics(run)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert list(rows[0]) == [
        "epoch", "updates", "examples_seen", "learning_rate", "train_loss", "train_accuracy",
        "validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "seconds",
    ]  # fmt: skip
    assert rows[0]["train_loss"] == result.initial_loss
    assert rows[2]["train_loss"] == result.train_loss
    assert rows[2]["test_accuracy"] == result.test_accuracy
    assert rows[2]["validation_accuracy"] == result.validation_accuracy

    checkpoint = load_checkpoint(run)
    assert checkpoint.path == run / "checkpoints" / "epoch-002.safetensors"
    assert checkpoint.config == config
    assert (checkpoint.epoch, checkpoint.update) == (2, result.updates)
    assert checkpoint.metrics == rows[2]
    evaluation = evaluate_model(checkpoint.model, *load_config_dataset(config).test)
    assert evaluation.accuracy == result.test_accuracy


def test_a_run_can_be_repeated_from_its_record_bit_for_bit() -> None:
    first = train_model(digits("seed=5", "optimizer.momentum=0.9", "schedule.name=cosine"))
    assert first.run_dir
    again = train_model(load_config(first.run_dir / "config.yaml", environment={}))
    assert again.run_dir == Path("runs/digits-002")
    assert again.weights_sha256 == first.weights_sha256
    assert train_model(digits("seed=6")).weights_sha256 != first.weights_sha256


def test_checkpoints_are_kept_as_configured() -> None:
    def kept(*overrides: str) -> list[str]:
        result = train_model(digits("train.epochs=5", *overrides))
        assert result.run_dir
        return [path.stem for path in list_checkpoints(result.run_dir)]

    assert kept("checkpoint.keep=2") == ["epoch-004", "epoch-005"]
    assert kept("checkpoint.every_epochs=2") == ["epoch-002", "epoch-004", "epoch-005"]
    assert kept("checkpoint.every_epochs=9") == ["epoch-005"]


def test_a_dry_run_goes_the_whole_way_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []

    def note_save(checkpoint: Checkpoint) -> None:
        save_checkpoint(checkpoint)
        saved.append(load_checkpoint(checkpoint.path).update)

    monkeypatch.setattr(record, "save_checkpoint", note_save)
    *_, result = run_events(digits("train.epochs=7"), "wanted", dry_run=True)
    assert isinstance(result, RunResult)
    assert (result.run_dir, result.epochs, result.updates) == (None, 1, 2)
    assert saved == [2]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_finds_out_a_place_that_cannot_be_written() -> None:
    with pytest.raises(OSError, match="/proc/"):
        list(run_events(digits(), "/proc/nowhere/run", dry_run=True))


def test_a_run_that_died_before_its_first_checkpoint_starts_over() -> None:
    events = run_events(digits(), "here")
    next(events)
    next(events)
    events.close()
    assert len(metrics(Path("here"))) == 1
    train_model(digits(), "here")
    assert [row["epoch"] for row in metrics(Path("here"))] == [0, 1, 2]


def test_a_diverged_run_keeps_its_last_good_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DivergedError, match=r"update 2 .*\n.*nothing was saved"):
        train_model(digits("optimizer.learning_rate=1e15"), "at-once")
    assert list_checkpoints(Path("at-once")) == []

    def train_that_breaks(*arguments: object, **keywords: object) -> object:
        for event in train(*arguments, **keywords):  # type: ignore[arg-type]
            yield event
            if isinstance(event, EpochResult) and event.epoch == 1:
                raise DivergedError("the loss of update 91")

    monkeypatch.setattr(run_module, "train", train_that_breaks)
    with pytest.raises(DivergedError, match=r"update 91; the last good checkpoint is late/.*001"):
        train_model(digits(), "late")
    assert load_checkpoint("late").epoch == 1


def test_a_persons_own_copy_is_neither_used_nor_deleted() -> None:
    train_model(digits("checkpoint.keep=1"), "run")
    ours = list_checkpoints(Path("run"))
    copy = Path("run/checkpoints/backup-20260101.safetensors")
    copy.write_bytes(ours[0].read_bytes())
    list(run_events(digits("checkpoint.keep=1", "train.epochs=4"), "run", resume=True))
    assert copy.exists()
    assert [path.stem for path in list_checkpoints(Path("run"))] == ["epoch-004"]


def test_the_result_in_json_has_the_keys_of_the_contract() -> None:
    result = train_model(digits())
    assert set(result.to_json()) == {
        "run_dir", "dataset", "epochs", "updates", "examples_seen", "initial_loss", "train_loss",
        "validation_accuracy", "test_loss", "test_accuracy", "seconds", "parameters",
        "warnings",
        "weights_sha256",
    }  # fmt: skip
    assert result.to_json()["validation_accuracy"] is None
    assert replace(result, run_dir=None).to_json()["run_dir"] is None


@pytest.mark.cuda
def test_cuda_trains_as_the_cpu_does() -> None:
    on_cpu = train_model(digits("device=cpu"))
    on_cuda = train_model(digits("device=cuda"))
    assert on_cuda.initial_loss == pytest.approx(on_cpu.initial_loss, rel=1e-5)
    assert on_cuda.train_loss == pytest.approx(on_cpu.train_loss, rel=1e-2)
    assert on_cuda.run_dir
    assert load_checkpoint(on_cuda.run_dir).epoch == 2


def test_digits_yaml_reaches_what_it_should() -> None:
    result = train_model(load_config("digits"))
    assert result.test_accuracy is not None
    assert result.test_accuracy >= 0.96


def test_the_test_set_waits_for_the_end_where_the_config_says_so() -> None:
    result = train_model(digits("train.test_each_epoch=false"))
    assert result.run_dir
    assert [row["test_loss"] is None for row in metrics(result.run_dir)] == [True, True, False]


@pytest.mark.parametrize("ending", ["train.epochs=2", "train.patience=1"])
def test_the_test_set_is_never_evaluated_where_the_config_says_so(
    ending: str, run: Callable[..., Outcome]
) -> None:
    settings = ("data.test=false", "data.validation=100", "optimizer.learning_rate=0.9", ending)
    outcome = run("train", "--config", "digits", *settings, "--run-dir", "run", "--json")
    assert outcome.code == 0, outcome
    result = json.loads(outcome.out)
    assert result["test_accuracy"] is result["test_loss"] is None
    assert " test" not in outcome.err.partition("untrained")[2]
    rows = metrics(Path("run"))
    assert len(rows) == result["epochs"] + 1
    assert {row[key] for row in rows for key in ("test_loss", "test_accuracy")} <= {None}
    assert all(row["validation_loss"] for row in rows)
    resumed = run("train", "--resume", "run", "--json")
    assert json.loads(resumed.out)["weights_sha256"] == result["weights_sha256"]
    assert metrics(Path("run")) == rows
    swept = run("sweep", "seed=0,1", "--config", "digits", *settings[:2], "train.epochs=1")
    assert swept.code == 0, swept
    trials = [line for line in swept.out.splitlines() if line.startswith("seed=")]
    assert [(" validation" in line, " test" in line) for line in trials] == [(True, False)] * 2


def test_a_report_is_refused_where_the_test_set_is_not_used(run: Callable[..., Outcome]) -> None:
    outcome = run("train", "--config", "digits", "data.test=false", "report=true")
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert "report: must be false where data.test is" in outcome.err
