"""What the configs reach on the real MNIST."""

import json
import math
import statistics
from pathlib import Path

import pytest

from mnist_mlp.config import load_config
from mnist_mlp.steps.data import Dataset, load_dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.views.notebook import train_model
from tests.conftest import program

pytestmark = [pytest.mark.mnist, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("seeds", [range(1), pytest.param(range(5), marks=pytest.mark.long)])
def test_mnist_yaml_over_seeds(seeds: range, mnist_root: Path) -> None:
    overrides = [f"data.root={mnist_root}", "train.test_each_epoch=false"]
    results = [train_model(load_config("mnist", [*overrides, f"seed={seed}"])) for seed in seeds]
    accuracies = [result.test_accuracy or 0 for result in results]
    assert min(accuracies) >= 0.983, accuracies
    if len(seeds) > 1:  # one seed may lie below the mean
        assert statistics.mean(accuracies) >= 0.985, accuracies


def test_lesson_yaml_to_the_letter(mnist_root: Path) -> None:
    outcome = program("train", "--config", "lesson", "--root", mnist_root, "--json", timeout=1000)
    result = json.loads(outcome.out)
    assert result["test_accuracy"] >= 0.975
    passes = result["examples_seen"]
    assert passes == result["updates"] == 60_000 * result["epochs"]
    assert f"{passes:,} forward and backward passes" in outcome.err


def test_the_same_seed_twice_is_the_same_bits(mnist_root: Path) -> None:
    config = load_config("mnist", [f"data.root={mnist_root}", "train.epochs=1", "seed=7"])
    assert train_model(config).weights_sha256 == train_model(config).weights_sha256


@pytest.fixture(scope="module")
def mnist(mnist_root: Path) -> Dataset:
    return load_dataset("mnist", mnist_root)


def test_an_untrained_network_scores_ln_10_on_mnist(mnist: Dataset) -> None:
    for seed in range(20):
        assert abs(evaluate_model(build_mlp(seed=seed), *mnist.test).loss - math.log(10)) < 0.1
