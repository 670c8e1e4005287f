"""Predict the digits in picture files."""

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from mnist_mlp.errors import ImageError
from mnist_mlp.files import write_atomically
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.pictures.preprocess import Invert, Pixels, prepare
from mnist_mlp.pictures.read import SUFFIXES, read_grey
from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.loss import softmax


@dataclass(frozen=True)
class Prediction(NotebookHtml):
    """A network's answer for one picture."""

    file: Path
    pixels: Pixels  # (28, 28), the network's input
    probabilities: list[float]  # of the ten digits

    @property
    def digit(self) -> int:
        """The most probable digit."""
        return self.probabilities.index(self.confidence)

    @property
    def confidence(self) -> float:
        """The probability of the most probable digit."""
        return max(self.probabilities)

    def to_json(self) -> dict[str, Any]:
        """The row of `predict --json`."""
        return {
            "file": str(self.file),
            "digit": self.digit,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
        }


def predict_file(model: nn.Module, path: str | Path, invert: Invert = "auto") -> Prediction:
    """Read a picture, preprocess it and classify it with a network on the CPU.

    Raises:
        ImageError: The file cannot be read, or contains no ink.
    """
    path = Path(path)
    try:
        pixels = prepare(read_grey(path), invert)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    image = to_images(torch.from_numpy(pixels).view(1, -1))  # (1, 784)
    with torch.no_grad():
        return Prediction(path, pixels, softmax(model(image))[0].tolist())


def save_seen(prediction: Prediction, folder: Path) -> Path:
    """Write a prediction's 28×28 pixels to a new PNG file in a folder, named after the picture."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = prediction.file.stem
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    path = next(p for name in names if not (p := folder / f"{name}.png").exists())
    content = io.BytesIO()
    Image.fromarray(prediction.pixels).save(content, "PNG")
    write_atomically(path, content.getvalue())
    return path


def label_of(path: Path) -> int | None:
    """The label in a file name that begins with a digit followed by `_` or `.`, else None."""
    match = re.match(r"([0-9])[_.]", path.name)
    return int(match[1]) if match else None


def pictures_of(paths: list[Path]) -> Iterator[Path]:
    """Yield the files, and for each folder the pictures in it, sorted by name."""
    for path in paths:
        inside = path.iterdir() if path.is_dir() else []
        found = sorted(p for p in inside if p.suffix.lower() in SUFFIXES)
        yield from found or [path]  # `read_grey` reports a folder without pictures
