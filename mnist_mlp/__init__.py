"""The reference trainer for the lesson's network: a 784-128-64-10 MLP that reads digits.

The public names are imported when they are first used, so that importing the package is quick.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# PyTorch's OpenMP threads wait for each other by spinning. Where another program uses one of their
# cores, they spin on the core that the awaited thread needs: two threads are then up to 100 times
# slower than one, and with this limit 5 times. GNU's OpenMP reads it when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

__version__ = "0.1.0"

_PUBLIC = {
    "config": ["Config", "load_config"],
    "errors": ["MnistMlpError"],
    "runs.checkpoint": ["load_checkpoint"],
    "runs.training": ["train_model"],
    "steps.data": ["Dataset", "load_dataset"],
    "steps.evaluate": ["evaluate_model"],
    "steps.loss": ["cross_entropy", "softmax"],
    "steps.model": ["build_mlp", "count_parameters"],
    "steps.train": ["fit"],
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = ["__version__", *_MODULES]

if TYPE_CHECKING:  # the same names, for type checkers
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
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
