"""Predict the digits in picture files."""

import io
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from mnist_mlp.errors import ImageError
from mnist_mlp.files import write_atomically
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.pictures.ink import Invert
from mnist_mlp.pictures.preprocess import Pixels, prepare
from mnist_mlp.pictures.read import SUFFIXES, read_grey
from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.loss import softmax

TURN = 10  # degrees
SURE = 0.9  # the mean probability over an image and its variants, from which on an answer is sure


@dataclass(frozen=True)
class Prediction(NotebookHtml):
    """A network's answer for one picture."""

    file: Path
    pixels: Pixels  # (28, 28), the network's input
    probabilities: list[float]  # of the ten digits
    sure: bool  # whether it reads the picture moved and turned a little in the same way
    left_out: list[str]  # what else is in the picture

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
        names = ("digit", "confidence", "sure", "probabilities")
        return {"file": str(self.file)} | {name: getattr(self, name) for name in names}


def predict_file(
    model: nn.Module, path: str | Path, invert: Invert = "auto", steps: str | Path | None = None
) -> Prediction:
    """Read a picture, preprocess it and classify it with a network on the CPU.

    With `steps`, what each step made of the picture is saved in that folder, one PNG file a step.
    An ImageError where the file cannot be read, or nothing in it looks like one digit.
    """
    path = Path(path)
    try:
        pixels, found = prepare(read_grey(path), invert)
        if steps:
            for number, (name, picture) in enumerate(found.steps.items(), 1):
                grey = np.rint(255 * np.clip(picture, 0, 1)).astype(np.uint8)
                save_picture(grey, Path(steps), f"{path.stem}-{number}-{name}")
        if found.refusal:
            raise ImageError(found.refusal)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    # The image, and its variants: moved by a pixel, turned a little.
    moved = [np.roll(pixels, by, axis) for axis in (0, 1) for by in (-1, 1)]
    turned = [ndimage.rotate(pixels, angle, reshape=False, order=1) for angle in (-TURN, TURN)]
    images = torch.from_numpy(np.stack([pixels, *moved, *turned])).flatten(1)  # (N, 784)
    with torch.no_grad():
        probabilities = softmax(model(to_images(images)))  # (N, 10)
    digit = probabilities[0].argmax()
    sure = bool(probabilities[:, digit].mean() > SURE)
    return Prediction(path, pixels, probabilities[0].tolist(), sure, found.left_out)


def save_picture(grey: Pixels, folder: Path, stem: str) -> None:
    """Write bytes (H, W) to a new PNG file in a folder; its name begins with the stem."""
    folder.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    path = next(p for name in names if not (p := folder / f"{name}.png").exists())
    write_atomically(path, to_png(grey))


def to_png(grey: Pixels) -> bytes:
    """Bytes (H, W) as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(grey).save(content, "PNG")
    return content.getvalue()


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
