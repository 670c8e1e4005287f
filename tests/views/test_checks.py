from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mnist_mlp.config import load_config
from mnist_mlp.lesson.claims import Claim
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint, weights_sha256
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.checks import check_network
from mnist_mlp.views.notebook import train_model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    train_model(load_config("digits", ["train.epochs=2"]), run_dir)
    return load_checkpoint(run_dir)


def checks(checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult]) -> dict[str, Claim]:
    test = evaluate_model(checkpoint.model, *data.test)
    return {check.claim: check for check in check_network(checkpoint, data, rows, test)}


def check(found: dict[str, Claim], words: str) -> Claim:
    (claim,) = (claim for claim in found if words in claim)
    return found[claim]


def test_the_checks_hold_on_a_sound_network_and_leave_it_alone(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult]
) -> None:
    before = weights_sha256(checkpoint.model)
    found = checks(checkpoint, data, rows)
    assert [c.verdict for c in found.values()] == ["holds"] * 9
    assert [c.step for c in found.values()] == [1, 2, 3, 4, 5, 6, 7, 8, 8]
    assert weights_sha256(checkpoint.model) == before
    assert all(p.grad is None and p.dtype == torch.float32 for p in checkpoint.model.parameters())


def test_the_checks_see_what_is_wrong(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult]
) -> None:
    dark = data._replace(train=data.train._replace(pixels=data.train.pixels // 2))
    assert check(checks(checkpoint, dark, rows), "black to white").verdict == "differs"
    odd = [replace(rows[0], train_loss=2.5), *rows[1:]]
    assert check(checks(checkpoint, data, odd), "ln 10").verdict == "differs"
    assert not any("ln 10" in claim for claim in checks(checkpoint, data, []))

    gone = replace(checkpoint, path=Path("gone"))
    assert not any("in its file" in claim for claim in checks(gone, data, rows))

    other = load_checkpoint(checkpoint.path)
    with torch.no_grad():
        other.model.get_parameter("layer3.bias")[4] += 100.0
    found = checks(other, data, rows)
    assert check(found, "that training recorded").verdict == "differs"
    assert check(found, "in its file").verdict == "differs"

    within = replace(checkpoint, update=checkpoint.update + 1)  # whose accuracy nobody recorded
    assert not any("recorded" in claim for claim in checks(within, data, rows))


def test_another_network_is_not_held_to_the_lessons_numbers(tmp_path: Path) -> None:
    overrides = ["model.layer_sizes=[784,10]", "model.activation=tanh", "train.epochs=1"]
    train_model(load_config("digits", overrides), tmp_path / "one-layer")
    checkpoint = load_checkpoint(tmp_path / "one-layer")
    data = load_config_dataset(checkpoint.config)
    found = checks(checkpoint, data, [])
    assert check(found, "numbers of the network").verdict == "rule"
    assert check(found, "stacked layers").verdict == "rule"
    assert check(found, "∂L/∂W").verdict == "holds"  # no activation: the formula covers it

    overrides = ["model.layer_sizes=[784,20,10]", "model.activation=tanh", "train.epochs=1"]
    train_model(load_config("digits", overrides), tmp_path / "tanh")
    found = checks(load_checkpoint(tmp_path / "tanh"), data, [])
    assert check(found, "∂L/∂W").verdict == "rule"
    assert check(found, "stacked layers").verdict == "holds"
    assert check(found, "reduces the loss").verdict == "holds"
