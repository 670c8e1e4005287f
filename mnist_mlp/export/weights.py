"""A network's weights in one safetensors file, for any program that reads the format."""

import json
from pathlib import Path

import safetensors.torch

from mnist_mlp.constants import CLASSES
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.checkpoint import ZEROS, Checkpoint, fill_digest, weights_sha256

INPUT = "float32 pixels in [0, 1], bright ink on black, 28 rows of 28"
"""What every network of ours takes; as (batch, 784), (batch, 28, 28) or (batch, 1, 28, 28)."""


def describe(checkpoint: Checkpoint) -> dict[str, str]:
    """What a program, or a person, has to know of an exported network."""
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
    """Write the network's tensors: `layer1.weight` (128, 784), `layer1.bias` (128,) and so on.

    Raises:
        OSError: It cannot be written; what was there is still there.
    """
    metadata = describe(checkpoint) | {"content_sha256": ZEROS}
    tensors = {name: tensor.contiguous() for name, tensor in checkpoint.model.state_dict().items()}
    write_atomically(output, fill_digest(safetensors.torch.save(tensors, metadata)))
