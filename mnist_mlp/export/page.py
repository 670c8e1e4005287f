"""Export the explorer: one HTML file that computes the lesson's steps with a run's own network.

The folder explorer holds the template, style sheet and JavaScript; network.js repeats
`steps.backprop`. The page also contains the weights, some test images, and PyTorch's logits and
gradients for them, with which it compares its own results when it opens.
"""

import base64
import copy
import dataclasses
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_mlp.constants import CLASSES
from mnist_mlp.errors import UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.checkpoint import Checkpoint, weights_sha256
from mnist_mlp.steps.backprop import chain_rule, is_linear_relu_stack
from mnist_mlp.steps.data import Dataset, Split, to_images
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult

MAX_BYTES = 1_200_000  # of the whole page
IMAGES = 100  # test images in the page's gallery, on which the page can also train
MISTAKES = 30  # misclassified images among them at most
MAX_HIDDEN = 3  # hidden layers
CHECKED_IMAGES, SAMPLED_ENTRIES = 3, 64  # of the gradient check: images, entries of each tensor


def export_html(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult], output: Path
) -> None:
    """Write the explorer page, at most `MAX_BYTES` long.

    The data set is the checkpoint's, on the CPU. The rows are those of the run's metrics.jsonl; if
    there are none, the page says that it has no curves.

    Raises:
        UsageError: The page does not support this network.
        OSError: The file cannot be written; an existing file is left unchanged.
    """
    _check_supported(checkpoint)
    template = _template()

    def page(extra: int) -> bytes:
        # Without < no text in the data can end its script element.
        json_data = json.dumps(_page_data(checkpoint, data, rows, extra), allow_nan=False)
        texts = {
            "title": escape(checkpoint.run_name),
            "data": json_data.replace("<", "\\u003c"),
        }
        filled = re.sub(r"\{\{(title|data)\}\}", lambda match: texts[match[1]], template)
        return filled.encode(errors="replace")

    content = page(extra=0)
    if len(content) > MAX_BYTES:
        raise UsageError(
            f"the page would take {len(content):,} bytes, more than {MAX_BYTES:,}: the network is "
            "too large for it; 784-128-64-10 fits with room to spare"
        )
    # Fill the remaining space with more misclassified images, 1,300 bytes each. With them other
    # images are chosen for the gradient check, whose numbers may be up to 5,000 bytes longer.
    if extra := max(0, MAX_BYTES - 5_000 - len(content)) // 1_300:
        content = page(extra)
    write_atomically(output, content)


def _check_supported(checkpoint: Checkpoint) -> None:
    sizes = checkpoint.config.model.layer_sizes
    if not (
        is_linear_relu_stack(checkpoint.model)
        and (sizes[0], sizes[-1]) == (784, CLASSES)
        and 1 <= len(sizes) - 2 <= MAX_HIDDEN
    ):
        raise UsageError(
            f"{checkpoint.path}: {'-'.join(map(str, sizes))} with "
            f"{checkpoint.config.model.activation}; the page covers ReLU networks of 784 inputs, "
            f"{CLASSES} outputs and 1 to {MAX_HIDDEN} hidden layers"
        )


def _template() -> str:
    """Return page.html with its style sheet and scripts inserted and their hashes in its CSP."""
    folder = files("mnist_mlp.export") / "explorer"
    parts = {part.name: part.read_text(encoding="utf-8") for part in folder.iterdir()}
    page = re.sub(r"\{\{(\w+\.\w+)\}\}", lambda match: parts[match[1]], parts["page.html"])
    for tag in ("style", "script"):
        content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        digest = hashlib.sha256(content.encode()).digest()
        page = page.replace(f"hash-of-{tag}", base64.b64encode(digest).decode())
    return page


def _page_data(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult], extra: int
) -> dict[str, Any]:
    model = copy.deepcopy(checkpoint.model).double()
    chosen = _choose(model, data.test, extra)
    pixels, labels = data.test.pixels[chosen], data.test.labels[chosen]
    with torch.no_grad():
        logits = model(to_images(pixels).double())
    weights = nn.utils.parameters_to_vector(checkpoint.model.parameters()).detach()
    return {
        "run": checkpoint.run_name,
        "dataset": data.name,
        "sizes": checkpoint.config.model.layer_sizes,
        "weights": _base64(weights.numpy().astype("<f4")),
        "weights_sha256": weights_sha256(checkpoint.model),
        "images": _base64(pixels.numpy()),
        "indexes": chosen,
        "labels": labels.tolist(),
        "training": min(IMAGES, len(chosen)),
        "logits": _base64(logits.numpy().astype("<f8")),
        "gradients": list(_gradient_samples(model, pixels, labels)),
        "never_lit": torch.nonzero(data.train.pixels.amax(dim=0) == 0).flatten().tolist(),
        "training_images": len(data.train.labels),
        "confusion": evaluate_model(checkpoint.model, *data.test).confusion_matrix,
        "rows": [dataclasses.asdict(row) for row in rows],
        "epoch": checkpoint.epoch,
        "update": checkpoint.update,
        "seed": checkpoint.config.seed,
        "config": checkpoint.config.shareable().to_yaml(),
        "environment": checkpoint.environment,
    }


@torch.no_grad()
def _choose(model: nn.Module, test: Split, extra: int) -> list[int]:
    """Choose test images: `IMAGES` for the gallery, then up to `extra` more misclassified ones.

    The gallery begins with the most confident mistakes and then has correctly classified images
    of all ten digits. The extra images begin with one of each cell of the confusion matrix that
    the gallery does not show.
    """
    p = torch.softmax(model(test.images.double()), dim=1)
    confidence, predicted = p.max(dim=1)
    wrong = torch.nonzero(predicted != test.labels).flatten()
    mistakes: list[int] = wrong[confidence[wrong].argsort(descending=True)].tolist()
    correct: list[int] = torch.nonzero(predicted == test.labels).flatten().tolist()

    cells = list(zip(test.labels.tolist(), predicted.tolist(), strict=True))
    seen: Counter[tuple[int, int]] = Counter()
    rank = {}  # of each image within its cell of the confusion matrix, from 0
    for i in mistakes + correct:
        rank[i] = seen[cells[i]]
        seen[cells[i]] += 1

    gallery = mistakes[:MISTAKES]
    by_rank = sorted(correct, key=lambda i: (rank[i], cells[i]))[: IMAGES - len(gallery)]
    gallery += sorted(by_rank, key=lambda i: (cells[i], i))
    others = sorted(mistakes[MISTAKES:], key=lambda i: rank[i] > 0)
    return gallery + others[:extra]


def _gradient_samples(
    model: nn.Sequential, pixels: Tensor, labels: Tensor
) -> Iterator[dict[str, Any]]:
    """Yield each tensor's gradient for a few images: its norm, largest entry and samples."""
    generator = np.random.default_rng(0)
    backward = chain_rule(model)
    for position in np.linspace(0, len(labels) - 1, CHECKED_IMAGES).astype(int).tolist():
        one = slice(position, position + 1)
        backward(to_images(pixels[one]).double(), labels[one])
        tensors = []
        for name, parameter in model.named_parameters():
            flat = np.asarray(parameter.grad).ravel()
            # Most entries are 0, so half of the samples are the largest ones.
            order = np.argsort(-np.abs(flat), kind="stable")
            largest, rest = np.split(order, [SAMPLED_ENTRIES // 2])
            sampled = np.concatenate([largest, generator.permutation(rest)])[:SAMPLED_ENTRIES]
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
