"""Trained networks, and an exported explorer page, that several test files share."""

import os
from pathlib import Path

import pytest
import torch

from mnist_mlp import load_config, train_model
from mnist_mlp.export.page import export_html
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint
from mnist_mlp.steps.data import Dataset, load_dataset


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A network trained on the digits for two epochs."""
    config = load_config("digits", ["train.epochs=2"], environment={})
    run = tmp_path_factory.mktemp("export") / "run"
    return load_checkpoint(train_model(config, run).run_dir or "")


@pytest.fixture(scope="session")
def explorer_data() -> Dataset:
    root = os.environ.get("MNIST_MLP_TEST_DATA")
    return load_dataset("mnist", root) if root else load_dataset("digits")


@pytest.fixture(scope="session")
def explorer_checkpoint(
    explorer_data: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> Checkpoint:
    torch.set_num_threads(1)
    if explorer_data.name == "mnist":
        overrides = [f"data.root={os.environ['MNIST_MLP_TEST_DATA']}", "train.epochs=2"]
        config = load_config("sprint", overrides, environment={})
    else:
        config = load_config("digits", ["train.epochs=5"], environment={})
    run = tmp_path_factory.mktemp("explorer") / "run"
    return load_checkpoint(train_model(config, run).run_dir or "")


@pytest.fixture(scope="session")
def html(
    explorer_checkpoint: Checkpoint,
    explorer_data: Dataset,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    path = tmp_path_factory.mktemp("page") / "page.html"
    export_html(explorer_checkpoint, explorer_data, path)
    return path
