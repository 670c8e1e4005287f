"""The data and the metrics of the checkpoint that a test file trains."""

import pytest

from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.train import EpochResult


@pytest.fixture(scope="module")
def data(checkpoint: Checkpoint) -> Dataset:
    return load_config_dataset(checkpoint.config)


@pytest.fixture(scope="module")
def rows(checkpoint: Checkpoint) -> list[EpochResult]:
    return checkpoint.rows()
