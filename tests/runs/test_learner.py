import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from mnist_mlp.config import ModelConfig
from mnist_mlp.runs import learner
from mnist_mlp.runs import training as run_module
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.training import RunStart, run_events, train_model
from mnist_mlp.steps.backprop import is_linear_relu_stack
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, Updater
from tests.runs.test_training import digits, metrics


def test_the_optimizer_and_the_seeds_that_run_are_the_configs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def note_optimizer(parameters: Any, **settings: Any) -> torch.optim.Optimizer:
        asked.update(settings)
        return build_optimizer(parameters)

    def note_train(updater: Updater, _: Any, **settings: Any) -> Iterator[EpochResult]:
        asked.update(settings, batch_size=updater.batch_size)
        return iter(())

    monkeypatch.setattr(learner, "build_optimizer", note_optimizer)
    monkeypatch.setattr(run_module, "train", note_train)
    settings = {
        "learning_rate": 0.02, "momentum": 0.3, "nesterov": True, "weight_decay": 0.01,
    }  # fmt: skip
    overrides = [f"optimizer.{key}={json.dumps(value)}" for key, value in settings.items()]
    with pytest.raises(IndexError):  # that nothing came of it
        train_model(digits("seed=9", "train.batch_size=7", *overrides))
    expected = settings | {"name": "sgd", "seed": 9, "batch_size": 7, "epochs": 2}
    assert {key: asked[key] for key in expected} == expected

    held_out = [
        load_config_dataset(digits("data.validation=50", f"seed={seed}")).split("validation")
        for seed in (0, 1)
    ]
    assert not torch.equal(held_out[0].images, held_out[1].images)


def rates(*overrides: str) -> list[float]:
    result = train_model(digits(*overrides))
    assert result.run_dir
    return [row["learning_rate"] for row in metrics(result.run_dir)]


def test_the_schedule_that_runs_is_the_configs() -> None:
    step = ("schedule.name=step", "schedule.step_epochs=1", "schedule.gamma=0.5", "train.epochs=3")
    assert rates(*step) == pytest.approx([0.1, 0.1, 0.05, 0.025])
    assert rates("schedule.name=step", "schedule.step_epochs=2") == pytest.approx([0.1] * 3)
    last = 0.05 * (1 + math.cos(math.pi * 179 / 180))  # 180 updates, none of them at exactly 0
    assert rates("schedule.name=cosine")[-1] == pytest.approx(last)
    peak_after_an_epoch = rates("schedule.name=one_cycle", "schedule.warmup_fraction=0.5")
    assert peak_after_an_epoch[1] == pytest.approx(0.1)
    assert rates("schedule.name=one_cycle", "schedule.warmup_fraction=0.1")[1] < 0.09


@pytest.mark.parametrize("backward", ["chain_rule", "autograd"])
def test_the_backward_of_the_config_is_the_one_that_runs(
    backward: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "autograd" if backward == "chain_rule" else "chain_rule"
    monkeypatch.delattr(learner, other)
    next(run_events(digits(f"train.backward={backward}", "optimizer.name=adam")))
    with pytest.raises(NameError, match=other):
        next(run_events(digits(f"train.backward={other}", "optimizer.name=adam")))


@pytest.mark.parametrize(
    ("overrides", "backward", "updates"),
    [
        ([], "fused", "FusedUpdater"),
        (["train.backward=chain_rule"], "chain_rule", "TorchUpdater"),
        (["train.backward=autograd"], "autograd", "TorchUpdater"),
        (["model.activation=tanh"], "autograd", "TorchUpdater"),
        (["optimizer.momentum=0.9"], "chain_rule", "TorchUpdater"),
        (["optimizer.weight_decay=0.1"], "chain_rule", "TorchUpdater"),
        (["optimizer.name=adamw"], "chain_rule", "TorchUpdater"),
        (["optimizer.average=0.9"], "chain_rule", "RegularizedUpdater"),
        (["augment.rotation=5"], "chain_rule", "RegularizedUpdater"),
        (["model.batch_norm=true"], "autograd", "RegularizedUpdater"),
    ],
)
def test_auto_takes_the_shortest_way_and_records_it(
    overrides: list[str], backward: str, updates: str
) -> None:
    start = next(run_events(digits(*overrides)))
    assert isinstance(start, RunStart)
    assert (start.environment["backward"], start.environment["updates"]) == (backward, updates)


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("sizes", [(784, 10), (784, 20, 10)])
def test_a_config_and_its_network_agree_on_where_the_chain_rule_applies(
    activation: Literal["relu", "tanh"], batch_norm: bool, sizes: tuple[int, ...]
) -> None:
    config = ModelConfig(layer_sizes=sizes, activation=activation, batch_norm=batch_norm)
    model = build_mlp(sizes, activation, batch_norm=batch_norm)
    assert config.is_linear_relu_stack == is_linear_relu_stack(model)


def test_whole_runs_by_either_way_to_the_gradients_are_the_same_training() -> None:
    config = ("train.epochs=5", "train.batch_size=50", "data.validation=137")
    fused, usual = (
        metrics(train_model(digits(*config, f"train.backward={way}")).run_dir or Path())
        for way in ("auto", "autograd")
    )
    for ours, theirs in zip(fused, usual, strict=True):
        assert ours == pytest.approx(theirs | {"seconds": ours["seconds"]}, rel=2e-3)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
