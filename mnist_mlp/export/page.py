"""Export the explorer: one HTML file that computes the lesson's steps with a run's own network.

The folder explorer holds the template, style sheet and JavaScript; network.js repeats
`steps.backprop`. The page also contains the weights, some test images, and PyTorch's logits and
gradients for them, with which it compares its own results when it opens.
"""

import base64
import copy
import hashlib
import json
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mnist_mlp.errors import UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.lesson.measures import gradients
from mnist_mlp.runs.checkpoint import Checkpoint, weights_sha256
from mnist_mlp.steps.backprop import autograd
from mnist_mlp.steps.data import Dataset, Split, to_images
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.views.predictions import find_mistakes, predict_probabilities

MAX_BYTES = 1_200_000  # of the whole page
IMAGES = 100  # test images chosen at random, on which the page measures and can train
MAX_HIDDEN = 8  # hidden layers
CHECKED_IMAGES, SAMPLED_ENTRIES = 3, 64  # of the gradient check: images, entries of each tensor


def export_html(checkpoint: Checkpoint, data: Dataset, output: Path) -> None:
    """Write the explorer page, at most `MAX_BYTES` long.

    The data set is the checkpoint's, on the CPU. Without a metrics.jsonl the page has no curves. A
    UsageError where the page does not support this network.
    """
    if (hidden := len(checkpoint.config.model.layer_sizes) - 2) > MAX_HIDDEN:
        raise UsageError(
            f"{checkpoint.path}: {hidden} hidden layers; the page covers at most {MAX_HIDDEN}"
        )
    content = _page(_page_data(checkpoint, data, extra=0))
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"the page would take {len(content):,} bytes, more than {MAX_BYTES:,}: the network is "
            "too large for it; 784-128-64-10 fits with room to spare"
        )
    # Fill the remaining space with misclassified images, 1,300 bytes each.
    extra = (MAX_BYTES - len(content)) // 1_300
    write_atomically(output, _page(_page_data(checkpoint, data, extra)))


def _page(data: dict[str, Any]) -> bytes:
    """Fill page.html with the style sheet, the scripts and the data; give its CSP their hashes."""
    folder = Path(__file__).with_name("explorer")
    parts = {part.name: part.read_text(encoding="utf-8") for part in folder.iterdir()}
    parts["title"] = escape(data["run"])
    # Without < no text in the data can end its script element.
    parts["data"] = json.dumps(data, allow_nan=False, default=vars).replace("<", "\\u003c")
    page = re.sub(r"\{\{([\w.]+)\}\}", lambda match: parts[match[1]], parts["page.html"])
    for tag in ("style", "script"):
        content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = hashlib.sha256(content.encode()).digest()
        page = page.replace(f"hash-of-{tag}", base64.b64encode(digest).decode(), 1)
    return page.encode(errors="replace")


def _page_data(checkpoint: Checkpoint, data: Dataset, extra: int) -> dict[str, Any]:
    model = copy.deepcopy(checkpoint.model).double()
    chosen = _choose(checkpoint.model, data.test, extra)
    pixels, labels = data.test.pixels[chosen], data.test.labels[chosen]
    with torch.no_grad():
        logits = model(to_images(pixels).double())
    losses = functional.cross_entropy(logits, labels, reduction="none")
    weights = nn.utils.parameters_to_vector(checkpoint.model.parameters()).detach()
    return {
        "run": checkpoint.run_name,
        "dataset": data.name,
        "sizes": checkpoint.config.model.layer_sizes,
        "activation": checkpoint.config.model.activation,
        "weights": _base64(weights.numpy().astype("<f4")),
        "weights_sha256": weights_sha256(checkpoint.model),
        "images": _base64(pixels.numpy()),
        "indexes": chosen,
        "labels": labels.tolist(),
        "random": min(IMAGES, len(chosen)),
        "logits": _base64(logits.numpy().astype("<f8")),
        "gradients": list(_gradient_samples(model, pixels, labels, losses)),
        "never_lit": torch.nonzero(data.train.pixels.amax(dim=0) == 0).flatten().tolist(),
        "training_images": len(data.train.labels),
        "confusion": evaluate_model(checkpoint.model, *data.test).confusion_matrix,
        "rows": checkpoint.rows(),
        "epoch": checkpoint.epoch,
        "update": checkpoint.update,
        "seed": checkpoint.config.seed,
        "config": checkpoint.config.shareable().to_yaml(),
        "environment": checkpoint.environment,
    }


def random_images(test: Split) -> list[int]:
    """The test images on which the page measures: the same whatever the network."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randperm(len(test.labels), generator=generator)[:IMAGES].tolist())


def _choose(model: nn.Module, test: Split, extra: int) -> list[int]:
    """Choose test images: `IMAGES` at random, then up to `extra` misclassified ones.

    The latter begin with one of each cell of the confusion matrix; the most confident mistakes
    come first.
    """
    sample = random_images(test)
    found = find_mistakes(predict_probabilities(model, test.pixels), test.labels.numpy())
    mistakes = [mistake for mistake in found if mistake.index not in sample]
    first = {(mistake.label, mistake.guess): mistake for mistake in reversed(mistakes)}
    mistakes.sort(key=lambda mistake: mistake != first[mistake.label, mistake.guess])
    return sample + [mistake.index for mistake in mistakes[:extra]]


def _gradient_samples(
    model: nn.Sequential, pixels: Tensor, labels: Tensor, losses: Tensor
) -> Iterator[dict[str, Any]]:
    """Yield each tensor's gradient for some of the random images, those with the largest losses.

    Of each gradient: its norm, largest entry and samples.
    """
    generator = np.random.default_rng(0)
    for position in losses[:IMAGES].topk(CHECKED_IMAGES).indices.tolist():
        one = slice(position, position + 1)
        found = gradients(model, autograd, to_images(pixels[one]).double(), labels[one])
        tensors = []
        for name, gradient in found.items():
            flat = gradient.numpy().ravel()
            sampled = np.argsort(-np.abs(flat), kind="stable")
            # Most entries are 0, so half of the samples are the largest ones.
            generator.shuffle(sampled[SAMPLED_ENTRIES // 2 :])
            sampled = sampled[:SAMPLED_ENTRIES]
            tensors.append(
                {
                    "name": name,
                    "norm": float(np.linalg.norm(flat)),
                    "largest": float(np.abs(flat).max()),
                    "positions": sampled.tolist(),
                    "values": flat[sampled].tolist(),
                }
            )
        yield {"image": position, "tensors": tensors}


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()
