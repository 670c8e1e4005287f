import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import pytest
import safetensors.torch
import torch
from pydantic import ValidationError

from mnist_mlp.config import Config, ModelConfig, TrainConfig, load_config
from mnist_mlp.runs import learner
from mnist_mlp.runs import training as run_module
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.learner import assemble, updater_kind
from mnist_mlp.runs.training import RunStart, run_events
from mnist_mlp.steps.backprop import is_linear_relu_stack
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, Updater
from mnist_mlp.updates import compiled as compiled_module
from mnist_mlp.updates.compiled import CompiledUpdater
from mnist_mlp.updates.deformation import DeformingUpdater
from mnist_mlp.views.notebook import train_model
from tests.conftest import REPOSITORY
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


LONG = "train.batch_size=2"  # on digits: enough updates to be compiled


@pytest.mark.parametrize(
    ("overrides", "backward", "updater"),
    [
        ([], "chain_rule", DeformingUpdater),
        (["train.backward=autograd"], "autograd", DeformingUpdater),
        (["model.batch_norm=true"], "autograd", DeformingUpdater),
        ([LONG], "compiled", CompiledUpdater),
        ([LONG, "train.backward=chain_rule"], "chain_rule", DeformingUpdater),
        ([LONG, "train.backward=autograd"], "autograd", DeformingUpdater),
        ([LONG, "model.activation=tanh"], "autograd", DeformingUpdater),
        ([LONG, "optimizer.momentum=0.9", "optimizer.nesterov=true"], "compiled", CompiledUpdater),
        ([LONG, "optimizer.name=adamw"], "compiled", CompiledUpdater),
        ([LONG, "augment.rotation=5"], "compiled", CompiledUpdater),
        ([LONG, "data.validation=137", "model.batch_norm=true"], "compiled", CompiledUpdater),
    ],
)
def test_auto_takes_the_shortest_way_and_records_it(
    overrides: list[str], backward: str, updater: type[Updater]
) -> None:
    config = digits(*overrides)
    assert type(assemble(config, load_config_dataset(config)).updater) is updater
    start = next(run_events(config))
    assert isinstance(start, RunStart)
    assert start.environment["backward"] == backward
    assert start.environment["compiler_problem"] is None
    assert (" for " in start.environment["versions"]["numba"]) == (backward == "compiled")


@pytest.mark.parametrize(
    ("sizes", "batch_size", "kind"),
    [
        ("[784,128,64,10]", 60000, "compiled"),
        ("[784,512,256,10]", 255, "compiled"),
        ("[784,512,256,10]", 256, "torch"),
        ("[784,2048,1024,10]", 1, "compiled"),
        ("[784,65001,10]", 1, "torch"),
        (f"[784,{'9,' * 15}10]", 64, "compiled"),
        (f"[784,{'9,' * 16}10]", 64, "torch"),
    ],
)
def test_wide_networks_on_large_batches_and_deep_ones_are_left_to_matrix_products(
    sizes: str, batch_size: int, kind: str
) -> None:
    overrides = [f"model.layer_sizes={sizes}", f"train.batch_size={batch_size}"]
    config = load_config("lesson", overrides, environment={})
    assert updater_kind(config, "cpu") == kind
    assert updater_kind(config, "cuda") == "graphed"


@pytest.mark.parametrize("broken", ["raise ImportError('no wheel')", "njit = None"])
def test_without_numba_pytorch_makes_the_updates_and_a_line_says_so(
    broken: str, tmp_path: Path
) -> None:
    package = tmp_path / "broken" / "numba"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(broken)
    shutil.copytree(REPOSITORY / "mnist_mlp", package.parent / "mnist_mlp")
    shutil.copytree(REPOSITORY / "configs", package.parent / "mnist_mlp" / "configs")
    outcome = subprocess.run(
        [sys.executable, "-m", "mnist_mlp", "train", "--config", "digits", LONG, "train.epochs=1"],
        env={**os.environ, "PYTHONPATH": str(package.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("note")]
    assert "Numba does not work here, so PyTorch makes the updates: " in line
    environment = json.loads(Path("runs/digits-001/environment.json").read_text())
    assert environment["compiler_problem"] in line
    assert environment["backward"] == "chain_rule"


def test_a_loop_that_does_not_compile_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (LONG, "train.epochs=1", "optimizer.name=adamw", "optimizer.learning_rate=0.001")
    usual = train_model(digits(*overrides, "train.backward=chain_rule")).weights_sha256

    def broken(*_: object) -> None:
        raise MemoryError("LLVM")

    monkeypatch.setattr(compiled_module._MAKE_UPDATES, "prepare", broken)
    assert train_model(digits(*overrides)).weights_sha256 == usual


def test_the_network_of_a_result_is_as_plain_as_any() -> None:
    for overrides in ((LONG,), (LONG, "model.batch_norm=true", "data.validation=137")):
        model = train_model(digits(*overrides, "train.epochs=1")).model
        assert safetensors.torch.save(model.state_dict())
        for parameter in model.parameters():
            assert parameter.is_contiguous()
            assert parameter.untyped_storage().nbytes() == 4 * parameter.numel()


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("sizes", [(784, 10), (784, 20, 10)])
def test_a_config_and_its_network_agree_on_where_the_chain_rule_applies(
    activation: Literal["relu", "tanh"], batch_norm: bool, sizes: tuple[int, ...]
) -> None:
    config = ModelConfig(layer_sizes=sizes, activation=activation, batch_norm=batch_norm)
    model = build_mlp(sizes, activation, batch_norm=batch_norm)
    applies = is_linear_relu_stack(model)
    refused = pytest.raises(ValidationError, match="must be auto or autograd")
    with nullcontext() if applies else refused:
        Config(model=config, train=TrainConfig(backward="chain_rule"))


def test_whole_runs_by_either_way_to_the_gradients_are_the_same_training() -> None:
    config = ("train.epochs=2", LONG, "data.validation=137", "optimizer.learning_rate=0.01")
    compiled, usual = (
        metrics(train_model(digits(*config, f"train.backward={way}")).run_dir or Path())
        for way in ("auto", "autograd")
    )
    for ours, theirs in zip(compiled, usual, strict=True):
        assert ours == pytest.approx(theirs | {"seconds": ours["seconds"]}, rel=2e-3)
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
