"""A run that begins with the weights of another."""

import json
import signal
from pathlib import Path

import pytest

from mnist_mlp.config import load_config
from mnist_mlp.errors import StoppedError, UsageError
from mnist_mlp.runs.checkpoint import load_checkpoint, weights_sha256
from mnist_mlp.runs.directory import list_checkpoints
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps import train
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.views.notebook import train_model
from tests.runs.test_training import digits

FIRST = ["train.epochs=2", "train.batch_size=100", "data.validation=100"]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.batch_size=2", "data.validation=1000", "train.epochs=1"),  # the compiled loop
        ("optimizer.name=adamw", "optimizer.learning_rate=0.001"),
        ("model.batch_norm=true",),
    ],
)
def test_a_run_begins_with_the_weights_of_another(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its row 0 is their evaluation; a run stopped anywhere ends as one that was not."""
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    first = train_model(load_config("digits", [*FIRST, *overrides]), "first")
    config = load_config("digits", [*FIRST, *overrides, "seed=1"])
    whole = train_model(config, "whole", init_from="first")
    known = evaluate_model(first.model, *load_config_dataset(config).train)
    assert json.loads(Path("whole/metrics.jsonl").read_text().splitlines()[0])[
        "train_loss"
    ] == pytest.approx(known.loss, rel=1e-5)
    begun = load_checkpoint("whole/checkpoints/epoch-000.safetensors")
    for checkpoint in (begun, load_checkpoint("whole")):
        assert checkpoint.environment["init_from"] == {
            "run": "first",
            "checkpoint": f"epoch-{first.epochs:03d}.safetensors",
            "weights_sha256": first.weights_sha256,
        }
    if "batch_norm" not in str(overrides):  # otherwise folded again, which rounds
        assert weights_sha256(begun.model) == first.weights_sha256

    stops = iter([None, None, None, signal.SIGTERM])
    events = run_events(config, "parts", init_from="first", stop=lambda: next(stops))
    with pytest.raises(StoppedError):
        list(events)
    for left in list_checkpoints(Path("parts"))[1:]:
        left.unlink()  # resume from the weights that it began with
    *_, end = run_events(config, "parts", resume=True)
    assert isinstance(end, RunResult)
    assert end.weights_sha256 == whole.weights_sha256
    environment = json.loads(Path("parts/environment.json").read_text())
    assert environment["init_from"]["weights_sha256"] == first.weights_sha256


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "its network is 784-32-10 relu, the config's 784-128-64-10 relu"),
        (
            ("model.layer_sizes=784,32,10", "model.activation=tanh"),
            "its network is 784-32-10 relu, the config's 784-32-10 tanh",
        ),
        (("model.layer_sizes=784,32,10", "model.batch_norm=true"), "has no batch norm; set model"),
    ],
)
def test_weights_of_another_network_are_refused_before_anything_is_made(
    overrides: tuple[str, ...], message: str
) -> None:
    train_model(load_config("digits", ["train.epochs=1", "model.layer_sizes=784,32,10"]), "first")
    with pytest.raises(UsageError, match=message):
        train_model(load_config("digits", overrides), init_from="first")
    assert not Path("runs").exists()


def test_a_run_that_lost_the_weights_it_began_with_is_not_resumed() -> None:
    config = digits()
    train_model(config, "first")
    train_model(config, "second", init_from="first")
    for path in list_checkpoints(Path("second")):
        path.unlink()  # as if it had been killed before the first
    with pytest.raises(UsageError, match=r"second: ended before it saved the weights"):
        list(run_events(config, "second", resume=True))
