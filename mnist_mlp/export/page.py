"""A run as a page that shows its network thinking and learning: one file that needs nothing else.

The page's parts lie in the folder explorer, as they are written: a template, a style sheet and
plain JavaScript, whose mathematics (network.js) is `steps.backprop`'s. Here they are joined
with a network's own numbers, and with PyTorch's answers, by which the page checks itself when it
opens.
"""

import base64
import copy
import dataclasses
import hashlib
import json
import re
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
from mnist_mlp.lesson.measures import gradients
from mnist_mlp.runs.checkpoint import Checkpoint, run_name, weights_sha256
from mnist_mlp.steps.backprop import chain_rule, is_linear_relu_stack
from mnist_mlp.steps.data import Dataset, Split, to_images
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult

MAX_BYTES = 1_200_000
"""Of the whole page."""
IMAGES = 100
"""Test images to choose from; the page learns from these too."""
MISTAKES = 30
"""Of those, at most so many that the network reads wrong, the most confident first."""
CHECKED, SAMPLED = 3, 64
"""Images whose gradients the page is held to, and entries of each tensor."""
MAX_HIDDEN = 3

SCRIPTS = (
    "network.js",
    "preprocess.js",
    "draw.js",
    "state.js",
    "input.js",
    "layers.js",
    "linear.js",
    "loss.js",
    "backward.js",
    "update.js",
    "evidence.js",
    "main.js",
)


def export_html(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult], output: Path
) -> None:
    """Write the page.

    Args:
        checkpoint: Whose network; ReLU, 784 inputs, ten classes and one to three hidden layers.
        data: The checkpoint's, on the CPU.
        rows: Of the run's metrics.jsonl; without any, the page has no curves and says so.
        output: The HTML file, of at most `MAX_BYTES`.

    Raises:
        UsageError: The network is not one that the page covers.
        OSError: It cannot be written; what was there is still there.
    """
    _refuse_uncovered(checkpoint)
    parts = files("mnist_mlp.export") / "explorer"
    script = "\n".join((parts / name).read_text(encoding="utf-8") for name in SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}\n}})();\n'
    style = (parts / "style.css").read_text(encoding="utf-8")
    template = (parts / "page.html").read_text(encoding="utf-8")

    def page(extra: int) -> bytes:
        content = {
            "script_hash": _csp_hash(script),
            "style_hash": _csp_hash(style),
            "title": escape(run_name(checkpoint)),
            "style": style,
            "data": _json(_page_data(checkpoint, data, rows, extra)),
            "script": script,
        }
        filled = re.sub(r"\{\{(\w+)\}\}", lambda place: content[place[1]], template)
        return filled.encode(errors="replace")

    whole = page(extra=0)
    if len(whole) > MAX_BYTES:
        raise UsageError(
            f"the page would take {len(whole):,} bytes, more than {MAX_BYTES:,}: the network is "
            "too large for it; 784-128-64-10 fits with room to spare"
        )
    # Each further image that the network reads wrong takes its pixels, its logits and a little; the
    # sampled gradients are then of other images, and no longer than this by more than the rest.
    room = max(0, MAX_BYTES - 5_000 - len(whole)) // 1_300
    write_atomically(output, page(extra=room) if room else whole)


def _refuse_uncovered(checkpoint: Checkpoint) -> None:
    sizes = checkpoint.config.model.layer_sizes
    covered = (
        is_linear_relu_stack(checkpoint.model)
        and (sizes[0], sizes[-1]) == (784, CLASSES)
        and 1 <= len(sizes) - 2 <= MAX_HIDDEN
    )
    if not covered:
        raise UsageError(
            f"{checkpoint.path}: {'-'.join(map(str, sizes))} with "
            f"{checkpoint.config.model.activation}; the page covers ReLU networks of 784 inputs, "
            f"{CLASSES} outputs and 1 to {MAX_HIDDEN} hidden layers"
        )


def _page_data(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult], extra: int
) -> dict[str, Any]:
    model = copy.deepcopy(checkpoint.model).double()
    with torch.no_grad():
        chosen, further = _choose(model, data.test)
        chosen += further[:extra]
        pixels, labels = data.test.pixels[chosen], data.test.labels[chosen]
        logits = model(to_images(pixels).double())
    ink = data.train.pixels.amax(dim=0)
    return {
        "run": run_name(checkpoint),
        "dataset": data.name,
        "sizes": checkpoint.config.model.layer_sizes,
        "weights": _base64(np.concatenate([_flat(p) for p in checkpoint.model.parameters()])),
        "weights_sha256": weights_sha256(checkpoint.model),
        "images": _base64(pixels.numpy()),
        "indexes": chosen,
        "labels": labels.tolist(),
        "training": min(IMAGES, len(chosen)),
        "logits": _base64(logits.numpy().astype("<f8")),
        "gradients": list(_gradient_samples(model, pixels, labels)),
        "never_lit": torch.nonzero(ink == 0).flatten().tolist(),
        "training_images": len(data.train.labels),
        "confusion": evaluate_model(checkpoint.model, *data.test).confusion_matrix,
        "rows": [dataclasses.asdict(row) for row in rows],
        "epoch": checkpoint.epoch,
        "update": checkpoint.update,
        "seed": checkpoint.config.seed,
        "config": checkpoint.config.to_yaml(),
        "environment": checkpoint.environment,
    }


def _choose(model: nn.Module, test: Split) -> tuple[list[int], list[int]]:
    """Indexes of the test images to choose from, the worst mistakes first, and of more mistakes.

    Among the first are all ten digits; the others begin with one of each pair of digits that is
    not among the first.
    """
    p = torch.softmax(model(test.images.double()), dim=1)
    confidence, said = p.max(dim=1)
    wrong = torch.nonzero(said != test.labels).flatten()
    mistakes: list[int] = wrong[confidence[wrong].argsort(descending=True)].tolist()
    worst = mistakes[:MISTAKES]

    wanted = min(IMAGES, len(test.labels)) - len(worst)
    right: list[int] = []
    by_digit = [
        torch.nonzero((test.labels == k) & (said == test.labels)).flatten().tolist()
        for k in range(CLASSES)
    ]
    for place in range(len(test.labels)):
        right += [found[place] for found in by_digit if place < len(found)]
        if len(right) >= wanted:
            break
    chosen = worst + sorted(right[:wanted], key=lambda i: (int(test.labels[i]), i))

    def cell(i: int) -> tuple[int, int]:
        return int(test.labels[i]), int(said[i])

    shown = {cell(i) for i in worst}
    first: list[int] = []
    others: list[int] = []
    for i in mistakes[MISTAKES:]:
        (others if cell(i) in shown else first).append(i)
        shown.add(cell(i))
    return chosen, first + others


def _gradient_samples(
    model: nn.Sequential, pixels: Tensor, labels: Tensor
) -> Iterator[dict[str, Any]]:
    """Of three images far apart in the list: each tensor's norm, largest and sampled entries."""
    generator = np.random.default_rng(0)
    for position in np.linspace(0, len(labels) - 1, CHECKED).astype(int).tolist():
        one = slice(position, position + 1)
        found = gradients(model, chain_rule, to_images(pixels[one]).double(), labels[one])
        tensors = []
        for name, gradient in found.items():
            flat = gradient.flatten().numpy()
            # Most entries of a gradient are 0; what is compared should mostly not be.
            order = np.argsort(-np.abs(flat), kind="stable")
            half = order[: SAMPLED // 2]
            rest = order[SAMPLED // 2 :]
            rest = generator.choice(rest, min(SAMPLED - len(half), len(rest)), replace=False)
            at = np.concatenate([half, rest])
            tensors.append(
                {
                    "name": name,
                    "norm": float(np.linalg.norm(flat)),
                    "largest": float(np.abs(flat).max()),
                    "positions": at.tolist(),
                    "values": flat[at].tolist(),
                }
            )
        yield {"image": position, "tensors": tensors}


def _flat(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float32]]:
    return tensor.detach().flatten().numpy().astype("<f4")


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def _json(value: dict[str, Any]) -> str:
    """JSON that ends no script element and starts no comment, whatever the texts in it are."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def _csp_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
