"""Settings that cannot learn are told, with the likely cause; those that learn are not."""

import json
from collections.abc import Callable

import pytest
import torch

from mnist_mlp.config import load_config
from mnist_mlp.constants import show_loss
from mnist_mlp.runs import training
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps.data import Dataset, Split, load_dataset
from mnist_mlp.steps.train import EpochResult
from tests.conftest import Outcome

Change = Callable[[Dataset], Dataset]
ADAM, ADAMW = "optimizer.name=adam", "optimizer.name=adamw"


def rate(value: float) -> str:
    return f"optimizer.learning_rate={value}"


def shuffled(data: Dataset) -> Dataset:
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))
    return data._replace(train=Split(data.train.pixels, data.train.labels[order]))


def blank(data: Dataset) -> Dataset:
    return data._replace(train=Split(torch.zeros_like(data.train.pixels), data.train.labels))


# What cannot learn, the epoch after which it can be known, and a part of what is said.
HOPELESS: list[tuple[list[str], int, str, Change | None]] = [
    ([rate(0.5)], 4, "learning_rate=0.5 is probably too large for sgd", None),
    ([rate(1)], 2, "learning_rate=1 is probably too large for sgd", None),
    ([rate(10)], 2, "neurons of relu", None),
    ([rate(1e5)], 2, "learning_rate=100000 is probably too large for sgd", None),
    ([rate(0.1), "optimizer.momentum=0.9"], 6, "above the ", None),
    ([rate(1), "model.activation=tanh"], 2, "learning_rate=1 is probably too large for sgd", None),
    ([rate(0.1), ADAM], 2, "every image is read as ", None),
    ([rate(0.5), ADAMW], 2, "learning_rate=0.5 is probably too large for adamw", None),
    ([rate(10), ADAM], 2, "no better than guessing (ln 10 = 2.3026)", None),
    ([rate(0.01), "model.activation=sigmoid"], 4, "sigmoid", None),
    ([rate(1e-5)], 2, "learning_rate=1e-05 is probably too small", None),
    ([rate(1e-8)], 2, "learning_rate=1e-08 is probably too small", None),
    (["optimizer.weight_decay=1"], 2, "weight_decay=1 is probably too large", None),
    ([rate(0.01), "train.epochs=4"], 3, "", shuffled),
    ([], 3, "every image is read as ", blank),
]
LEARNING = [
    *[[rate(value)] for value in (0.001, 0.003, 0.01, 0.03, 0.1, 0.2, 0.3)],
    *[[rate(value), name] for value in (1e-5, 1e-4, 1e-3, 0.01, 0.03) for name in (ADAM, ADAMW)],
    *[[rate(0.01), f"model.activation={name}"] for name in ("tanh", "gelu", "identity")],
    *[[rate(value), "model.activation=sigmoid"] for value in (0.1, 1, 3)],
    [rate(0.01), "optimizer.momentum=0.9"],
    *[[rate(value), "model.batch_norm=true"] for value in (0.1, 1)],
    [rate(0.1), "model.batch_norm=true", ADAMW],
    [rate(0.001), "model.activation=sigmoid", ADAM],
    *[[f"optimizer.weight_decay={value}"] for value in (0.01, 0.1)],
]


def advice(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, change: Change | None
) -> tuple[list[str], int, RunResult]:
    """What is said after epochs, the epoch of the first, and the result."""
    if change:
        data = change(load_dataset("digits"))
        monkeypatch.setattr(training, "load_config_dataset", lambda _config: data)
    config = load_config("digits", ["train.epochs=12", "device=cpu", *settings])
    said = list[str]()
    when = epoch = 0
    for event in run_events(config, "run"):
        if isinstance(event, EpochResult):
            epoch = event.epoch
        elif isinstance(event, str) and epoch:
            said, when = [*said, event], when or epoch
    assert isinstance(event, RunResult)
    return said, when, event


@pytest.mark.parametrize(
    ("settings", "latest", "part", "change"),
    [pytest.param(*row, marks=[pytest.mark.long] * (n % 3 > 0)) for n, row in enumerate(HOPELESS)],
)
def test_what_cannot_learn_is_told_once(
    settings: list[str],
    latest: int,
    part: str,
    change: Change | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (said,), when, result = advice(settings, monkeypatch, change)
    assert when <= latest
    assert said.startswith(f"after epoch {when} the loss is ")
    assert part in said
    assert "\n" not in said
    assert said in result.warnings


@pytest.mark.parametrize("settings", [
    pytest.param(s, marks=[pytest.mark.long] if n % 4 else []) for n, s in enumerate(LEARNING)
])  # fmt: skip
def test_what_learns_is_not_warned(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert advice(settings, monkeypatch, None)[0] == []


def test_there_are_thirty_that_learn() -> None:
    assert len(LEARNING) == 30


def test_settings_that_do_not_work_together_are_told_before_training(
    run: Callable[..., Outcome],
) -> None:
    outcome = run("train", "--config", "digits", ADAM, rate(0.1), "train.epochs=3", "--json")
    warnings = json.loads(outcome.out)["warnings"]
    assert len(warnings) == 2
    assert warnings[0] == (
        "optimizer.learning_rate=0.1 is large for adam, for which 0.0001 to 0.01 is usual"
    )
    lines = outcome.err.splitlines()
    assert [line for line in lines if line.startswith("warning")] == [
        f"warning   {warning}" for warning in warnings
    ]
    assert lines.index(f"warning   {warnings[0]}") < lines.index(
        next(line for line in lines if line.startswith("epoch 1/"))
    )
    assert (
        json.loads(run("train", "--config", "digits", "train.epochs=1", "--json").out)["warnings"]
        == []
    )


def test_absurd_losses_are_short(run: Callable[..., Outcome]) -> None:
    outcome = run("train", "--config", "digits", rate(1e5), "train.epochs=1")
    assert "loss 7.4e+34" in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())
    assert [show_loss(loss) for loss in (0.00004, 2.3026, 99999.0, 123456.0)] == [
        "0.0000", "2.3026", "99999.0000", "1.2e+05",
    ]  # fmt: skip
