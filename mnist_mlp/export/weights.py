"""Export the weights alone, as a safetensors file."""

import json
from pathlib import Path

import safetensors.torch

from mnist_mlp.constants import CLASSES
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.checkpoint import ZEROS, Checkpoint, fill_digest, weights_sha256

INPUT = "float32 pixels in [0, 1], bright ink on black, 28 rows of 28"
"""The input of every network; its shape is (batch, 784), (batch, 28, 28) or (batch, 1, 28, 28)."""


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the metadata of an exported network: its inputs, outputs, layers and origin."""
    config = checkpoint.config
    accuracy = checkpoint.metrics.get("test_accuracy")
    return {
        "producer": "mnist-mlp",
        "input": INPUT,
        "output": "logits; softmax makes them probabilities",
        "classes": json.dumps([str(digit) for digit in range(CLASSES)]),
        "layer_sizes": json.dumps(list(config.model.layer_sizes)),
        "activation": config.model.activation,
        "dataset": config.data.dataset,
        "epoch": str(checkpoint.epoch),
        "update": str(checkpoint.update),
        **({} if accuracy is None else {"test_accuracy": str(accuracy)}),
        "weights_sha256": weights_sha256(checkpoint.model),
    }


def export_safetensors(checkpoint: Checkpoint, output: Path) -> None:
    """Write the tensors `layer1.weight` (128, 784), `layer1.bias` (128,) and so on."""
    metadata = describe(checkpoint) | {"content_sha256": ZEROS}
    content = safetensors.torch.save(checkpoint.model.state_dict(), metadata)
    write_atomically(output, fill_digest(content))
