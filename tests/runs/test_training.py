import json
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from mnist_mlp.config import Config, ModelConfig, load_config
from mnist_mlp.errors import CheckpointError, DeviceError, DivergedError, UsageError
from mnist_mlp.runs import directory, learner, record
from mnist_mlp.runs import training as run_module
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mnist_mlp.runs.directory import list_checkpoints, newest_run
from mnist_mlp.runs.environment import load_config_dataset, resolve_device, threads_of
from mnist_mlp.runs.training import (
    RunResult,
    RunStart,
    run_events,
    train_model,
)
from mnist_mlp.steps.backprop import is_linear_relu_stack
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, Updater, train


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
    assert environment["backward"] == "fused"

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


def test_a_run_that_died_before_its_first_checkpoint_starts_over() -> None:
    events = run_events(digits(), "here")
    next(events)
    next(events)
    events.close()
    assert len(metrics(Path("here"))) == 1
    train_model(digits(), "here")
    assert [row["epoch"] for row in metrics(Path("here"))] == [0, 1, 2]


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


def test_the_newest_run_is_that_of_the_youngest_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="no run with a checkpoint here"):
        newest_run()
    first = train_model(digits()).run_dir
    second = train_model(digits("name=another")).run_dir
    Path("runs/zzz").mkdir()
    assert newest_run() == second
    assert first
    os.utime(list_checkpoints(first)[-1], (2e9, 2e9))
    assert newest_run() == first


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_are_those_asked_for_and_put_back(threads: str) -> None:
    before = torch.get_num_threads()
    events = run_events(digits(f"threads={threads}"), "here")
    start = next(events)
    assert isinstance(start, RunStart)
    assert start.environment["threads"] == int(threads) == torch.get_num_threads()
    events.close()
    assert torch.get_num_threads() == before


def test_the_rule_for_threads() -> None:
    cores = min(2, len(os.sched_getaffinity(0)))
    for overrides, threads in [
        (["train.batch_size=31"], 1),
        (["train.batch_size=32"], cores),
        (["train.batch_size=255", "optimizer.name=adam"], 1),
        (["train.batch_size=256", "optimizer.name=adam"], cores),
        (["threads=3"], 3),
    ]:
        assert threads_of(digits(*overrides)) == threads


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == resolve_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="finds no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"


def test_the_result_in_json_has_the_keys_of_the_contract() -> None:
    result = train_model(digits())
    assert set(result.to_json()) == {
        "run_dir", "dataset", "epochs", "updates", "examples_seen", "initial_loss", "train_loss",
        "validation_accuracy", "test_loss", "test_accuracy", "seconds", "parameters",
        "weights_sha256",
    }  # fmt: skip
    assert result.to_json()["validation_accuracy"] is None
    assert replace(result, run_dir=None).to_json()["run_dir"] is None


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
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


def test_the_test_set_waits_for_the_end_where_the_config_says_so() -> None:
    result = train_model(digits("train.test_each_epoch=false"))
    assert result.run_dir
    assert [row["test_loss"] is None for row in metrics(result.run_dir)] == [True, True, False]


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
