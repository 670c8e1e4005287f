"""The reference trainer for the lesson's network: a 784-128-64-10 MLP that reads digits.

The public functions are handed out lazily, so that importing this package loads no torch.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# torch's threads wait for each other in a loop. Where another program has one of their cores they
# wait long, and keep that core from the thread that they wait for: by default two threads can then
# be 100 times slower than one, with this bound 5 times, and alone none. GNU's OpenMP reads it once,
# when torch is loaded: import this package first.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"

_HOME = {
    "Config": "config",
    "load_config": "config",
    "Dataset": "steps.data",
    "load_dataset": "steps.data",
    "build_mlp": "steps.model",
    "count_parameters": "steps.model",
    "cross_entropy": "steps.loss",
    "softmax": "steps.loss",
    "evaluate_model": "steps.evaluate",
    "fit": "steps.train",
    "load_checkpoint": "runs.checkpoint",
    "train_model": "runs.training",
    "MnistMlpError": "errors",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from mnist_mlp.config import Config as Config
    from mnist_mlp.config import load_config as load_config
    from mnist_mlp.errors import MnistMlpError as MnistMlpError
    from mnist_mlp.runs.checkpoint import load_checkpoint as load_checkpoint
    from mnist_mlp.runs.training import train_model as train_model
    from mnist_mlp.steps.data import Dataset as Dataset
    from mnist_mlp.steps.data import load_dataset as load_dataset
    from mnist_mlp.steps.evaluate import evaluate_model as evaluate_model
    from mnist_mlp.steps.loss import cross_entropy as cross_entropy
    from mnist_mlp.steps.loss import softmax as softmax
    from mnist_mlp.steps.model import build_mlp as build_mlp
    from mnist_mlp.steps.model import count_parameters as count_parameters
    from mnist_mlp.steps.train import fit as fit


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
