"""Early stopping by the validation loss."""

import json
import signal
from pathlib import Path

import pytest

from mnist_mlp.config import load_config
from mnist_mlp.errors import ConfigError, StoppedError
from mnist_mlp.runs.checkpoint import load_checkpoint
from mnist_mlp.runs.listing import summarise
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps import train
from mnist_mlp.views.notebook import train_model
from tests.conftest import program
from tests.updates.test_shared import together

SETTINGS = [
    "data.validation=200", "optimizer.learning_rate=0.3", "train.test_each_epoch=false",
    "train.epochs=40", "device=cpu",
]  # fmt: skip


def losses(run: str) -> list[float]:
    lines = Path(run, "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["validation_loss"] for line in lines]


def test_training_ends_after_so_many_epochs_without_a_better_loss() -> None:
    result = train_model(load_config("digits", [*SETTINGS, "train.patience=3"]), "early")
    train_model(load_config("digits", [*SETTINGS, "train.epochs=15"]), "whole")
    seen = losses("early")
    assert seen == losses("whole")[: len(seen)]
    since = [n - seen.index(min(seen[: n + 1])) for n in range(len(seen))]
    assert since[-1] == 3
    assert max(since[:-1]) < 3
    assert result.epochs == len(seen) - 1 < 40
    assert result.test_accuracy is not None
    rows = [json.loads(line) for line in Path("early/metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["test_loss"] is not None] == [len(seen) - 1]
    assert load_checkpoint("early", best=True).epoch == seen.index(min(seen))
    assert summarise(Path("early")).finished


def test_the_best_epoch_is_by_accuracy_or_with_patience_by_loss() -> None:
    rows: list[dict[str, float | None]] = [
        {"validation_loss": 0.3, "validation_accuracy": 0.9},
        {"validation_loss": 0.2, "validation_accuracy": 0.8},
        {"validation_loss": None, "validation_accuracy": None},
    ]
    for settings, best in (([], 0), (["train.patience=1"], 1)):
        config = load_config("digits", ["data.validation=9", *settings])
        scores = [config.validation_score(row) for row in rows]
        assert scores[2] is None
        assert scores.index(max(score for score in scores if score is not None)) == best


def test_a_stopped_run_runs_out_of_patience_as_one_that_was_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    config = load_config("digits", [*SETTINGS, "train.patience=2"])
    whole = train_model(config, "whole")
    for part in (0.05, 0.3, 0.6):  # rounding on another CPU may change how long it trains
        stop = iter([None] * int(part * whole.updates) + [signal.SIGTERM]).__next__
        with pytest.raises(StoppedError):
            list(run_events(config, "parts", resume=Path("parts").exists(), stop=stop))
    for _ in range(2):  # once to the end, once more with nothing left to do
        *_, end = run_events(config, "parts", resume=True)
        assert isinstance(end, RunResult)
        assert (end.weights_sha256, end.epochs) == (whole.weights_sha256, whole.epochs)
        assert losses("parts") == losses("whole")


def test_more_patience_goes_on() -> None:
    first = train_model(load_config("digits", [*SETTINGS, "train.patience=1"]), "run")
    *_, second = run_events(
        load_config("digits", [*SETTINGS, "train.epochs=8"]), "run", resume=True
    )
    assert isinstance(second, RunResult)
    assert first.epochs < second.epochs == 8


def test_processes_run_out_of_patience_together() -> None:
    arguments = ("train", "--config", "digits", *SETTINGS, "train.patience=1")
    assert program(*arguments, "--run-dir", "one").code == 0
    assert together(2, *arguments, "--run-dir", "two").code == 0
    assert len(losses("two")) == len(losses("one"))
    outcome = together(2, "train", "--resume", "two", "train.patience=2")
    assert outcome.code == 0, outcome
    assert outcome.out.count("stopped early: no better validation loss for 2 epochs") == 1


def test_patience_needs_a_validation_split() -> None:
    with pytest.raises(ConfigError, match=r"train\.patience: must be null without a validation"):
        load_config("digits", ["train.patience=3"])
