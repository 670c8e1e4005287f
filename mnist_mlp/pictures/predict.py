"""A person's picture file to the vector that the network sees, and what it says of it."""

import io
import itertools
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import nn

from mnist_mlp.errors import ImageError
from mnist_mlp.files import write_atomically
from mnist_mlp.pictures.preprocess import WORKING_SIDE, Grey, Invert, Seen, see, shrink
from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.loss import softmax

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
MAX_PIXELS = 50_000_000
DECODED_WHOLE = 4_000_000
"""Pixels of a JPEG above which its decoder is asked for a smaller picture."""
STRIP_PIXELS = 1_000_000
LUMINANCE = (0.299, 0.587, 0.114)
"""Of red, green and blue: ITU-R BT.601."""

# What EXIF's orientation means for rows and columns: transposed or not, then which are reversed.
_TURNS = {
    2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
    5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """What a network says of one picture."""

    file: Path
    seen: Seen
    probabilities: list[float]

    @property
    def digit(self) -> int:
        """The most probable one."""
        return self.probabilities.index(self.confidence)

    @property
    def confidence(self) -> float:
        """The probability of the most probable digit."""
        return max(self.probabilities)

    def to_json(self) -> dict[str, Any]:
        """All but the picture."""
        return {
            "file": str(self.file),
            "digit": self.digit,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
        }


def predict_file(model: nn.Module, path: Path, invert: Invert = "auto") -> Prediction:
    """Read a picture, find the digit in it, and ask a network which it is.

    Args:
        model: From images (B, 784) to logits (B, 10), on the CPU.
        path: A PNG, JPEG, BMP, WebP or GIF of one frame.
        invert: See `preprocess.see`.

    Raises:
        ImageError: It cannot be read, or there is no digit in it.
    """
    try:
        seen = see(read_grey(path), invert)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from None
    image = to_images(torch.from_numpy(seen.pixels).view(1, -1))  # (1, 784)
    with torch.no_grad():
        return Prediction(path, seen, softmax(model(image))[0].tolist())


def save_seen(prediction: Prediction, folder: Path) -> Path:
    """Write the 28×28 of a prediction as a PNG into a folder, under a name that is free there."""
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    Image.fromarray(prediction.seen.pixels).save(content, "PNG")
    stem = prediction.file.stem
    endings = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    path = next(p for ending in endings if not (p := folder / f"{stem}{ending}.png").exists())
    write_atomically(path, content.getvalue())
    return path


def label_of(path: Path) -> int | None:
    """The label that a file's name tells: a digit, then `_` or `.`."""
    match = re.match(r"([0-9])[_.]", path.name)
    return int(match[1]) if match else None


def pictures_of(paths: list[Path]) -> Iterator[Path]:
    """The files that are named, and in place of each folder the pictures in it, by name."""
    for path in paths:
        if not path.is_dir():
            yield path
        elif found := sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES):
            yield from found
        else:
            yield path  # which cannot be read, and is told so


def read_grey(path: Path) -> Grey:
    """A picture as a person sees it, turned as its EXIF says: (H, W), 0 black to 1 white.

    A large one is shrunk by a whole factor on the way, strip by strip. What is transparent is
    white or black, whichever is farther from the rest.

    Raises:
        ImageError: It is none of `FORMATS`, damaged, animated or too large.
    """
    if path.is_dir():
        raise ImageError(f"a folder without pictures ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise ImageError("no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd and can be read all the same
            with Image.open(path, formats=FORMATS) as image:
                _refuse_unread(image)
            with Image.open(path, formats=FORMATS) as image:
                return _read(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # Pillow's decoders raise of every kind, of what a file says
        raise ImageError(f"damaged: {error or type(error).__name__}") from None


def _refuse_unread(image: ImageFile.ImageFile) -> None:
    """Refuse what can be told without decoding it, which takes memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} × {height} are more than {MAX_PIXELS:,} pixels; make it smaller")
    # A photograph may carry a second one, for depth or a preview; it is no animation.
    if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated; save one frame of it")
    if image.format == "PNG":
        image.verify()  # its checksums, and so that it is whole


def _read(image: ImageFile.ImageFile) -> Grey:
    width, height = image.size
    turn = image.getexif().get(0x0112)
    if width * height > DECODED_WHOLE:
        image.draft(image.mode, (2 * WORKING_SIDE, 2 * WORKING_SIDE))  # JPEG only
    image.load()
    grey = _composite(image)
    if turn in _TURNS:
        transposed, upside_down, mirrored = _TURNS[turn]
        grey = grey.T if transposed else grey
        grey = grey[:: -1 if upside_down else 1, :: -1 if mirrored else 1]
    return grey


def _composite(image: Image.Image) -> Grey:
    """Luminance (H, W) of a picture, shrunk, its transparent part filled in."""
    width, height = image.size
    factor = -(-max(image.size) // WORKING_SIDE)
    rows = factor * max(1, STRIP_PIXELS // (factor * width))
    strips = [
        shrink(_luminance(image.crop((0, top, width, min(top + rows, height)))), factor)
        for top in range(0, height, rows)
    ]
    light, opacity = np.moveaxis(np.concatenate(strips), -1, 0)
    dark = light.sum() < opacity.sum() / 2
    grey: Grey = light + (1 - opacity) * dark
    return grey


def _luminance(image: Image.Image) -> Grey:
    """Light that a picture's pixels send, and how opaque they are: (H, W, 2), each from 0 to 1."""
    if image.mode.startswith("I"):  # 16 bits
        light = np.asarray(image, dtype=np.float64) / 0xFFFF
        return np.stack([light.clip(0, 1), np.ones_like(light)], axis=-1)
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    colours = np.asarray(image.convert("RGBA"), dtype=np.float64) / 255
    opacity = colours[..., 3]
    return np.stack([colours[..., :3] @ LUMINANCE * opacity, opacity], axis=-1)
