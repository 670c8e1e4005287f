"""From a picture of a digit to the 28×28 that the network sees, as MNIST's makers made theirs.

They cropped each digit, scaled its longer side to 20 pixels keeping the ratio, and put its centre
of mass into the centre of 28×28 (yann.lecun.com/exdb/mnist). Other people's pictures need two
things more: the paper has to be told from the ink, and what was drawn with a thin pen becomes as
thick as MNIST's. The explorer page does the same, step by step, in JavaScript.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_mlp.errors import ImageError

Grey = NDArray[np.float64]
Invert = Literal["auto", "yes", "no"]

WORKING_SIDE = 800
"""Pixels of the longer side at most; a larger picture is shrunk by a whole factor first."""
SIDE, BOX_SIDE = 28, 20
RING = 0.04
"""The border that shows the paper, as a part of the shorter side."""
FAINTEST = 0.08
"""The least contrast of ink, of the way from the paper to black or white."""
LEAST_ROOM = 0.25
"""The least that this way is taken for, of that from black to white."""
THRESHOLD = 0.15
"""Below this part of full ink a pixel is paper."""
SPECK = 0.05
"""A stain with less ink than this part of the largest one is not of the digit."""
FINE_SIDE = 4 * BOX_SIDE
"""Pixels of the longer side in which strokes are measured and thickened."""
THINNEST, THICKENED = 1.5, 2.5
"""Strokes thinner than this, in pixels of the 20, are thickened to that; MNIST's are 1.5 to 5."""


@dataclass(frozen=True)
class Seen:
    """What became of a picture; the crop is (top, bottom, left, right) in the ink's pixels."""

    ink: Grey  # (H, W), 0 paper, 1 ink
    crop: tuple[int, int, int, int]
    pixels: NDArray[np.uint8]  # (28, 28), as MNIST has them: bright ink on black


def see(grey: Grey, invert: Invert = "auto") -> Seen:
    """Find the digit in a picture and put it into 28×28.

    Args:
        grey: (H, W), from 0 (black) to 1 (white).
        invert: yes: dark ink on light paper; no: light on dark; auto: whichever stands out.

    Raises:
        ImageError: There is no ink in it.
    """
    ink = find_ink(shrink(grey, math.ceil(max(grey.shape) / WORKING_SIDE)), invert)
    rows, columns = (np.flatnonzero(ink.any(axis=axis)) for axis in (1, 0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    return Seen(
        ink=ink,
        crop=(int(top), int(bottom), int(left), int(right)),
        pixels=centre(scale(thicken(ink[top:bottom, left:right]))),
    )


def shrink(grey: Grey, factor: int) -> Grey:
    """The means of blocks of factor × factor pixels; those at the right and below may be smaller.

    Args:
        grey: (H, W), or (H, W, channels).
        factor: 1 leaves it as it is.
    """
    if factor == 1:
        return grey
    for axis in (0, 1):
        length = grey.shape[axis]
        starts = np.arange(0, length, factor)
        counts = np.minimum(factor, length - starts)
        counts = counts.reshape([-1 if i == axis else 1 for i in range(grey.ndim)])
        grey = np.add.reduceat(grey, starts, axis=axis) / counts
    return grey


def find_ink(grey: Grey, invert: Invert = "auto") -> Grey:
    """How much of each pixel is ink: (H, W), 0 for paper, 1 for full ink.

    Raises:
        ImageError: There is none.
    """
    paper, noise = _paper(grey)
    difference = grey - paper
    lighter = (difference**3).sum() > 0 if invert == "auto" else invert == "no"
    # As a part of what there is between the paper and pure white or black: light that is weaker on
    # one side weakens both paper and ink.
    room = np.maximum(LEAST_ROOM, 1 - paper if lighter else paper)
    strength, noise = (difference if lighter else -difference) / room, noise / room.mean()
    darkest = strength.max()
    if darkest < max(FAINTEST, 6 * noise):
        raise ImageError("blank: no ink stands out from its background")
    full = np.median(strength[strength > darkest / 2])
    floor = min(3 * noise, full / 4)
    ink = np.clip((strength - floor) / (full - floor), 0, 1)
    stains, _ = ndimage.label(ink > THRESHOLD, structure=np.ones((3, 3)))
    amounts = np.bincount(stains.ravel(), weights=ink.ravel())
    amounts[0] = 0
    kept: Grey = np.where((amounts >= SPECK * amounts.max())[stains] & (stains > 0), ink, 0)
    return kept


def _paper(grey: Grey) -> tuple[Grey, float]:
    """The paper under uneven light (H, W), and its noise, one standard deviation.

    A quadratic surface through the border, by least squares; what is far from it, such as ink that
    reaches the border, is left out and the rest fitted again.
    """
    y, x = (np.linspace(-1, 1, length) for length in grey.shape)
    ring = max(1, round(RING * min(grey.shape)))
    border = np.ones(grey.shape, dtype=bool)
    border[ring:-ring, ring:-ring] = False
    rows, columns = np.nonzero(border)
    terms = np.stack(_terms(y[rows], x[columns]), axis=1)  # (pixels of the border, 6)
    b = grey[border]
    used = np.ones(len(b), dtype=bool)
    for _ in range(8):
        coefficients = np.linalg.lstsq(terms[used], b[used])[0]
        residuals = np.abs(b - terms @ coefficients)
        noise = 1.4826 * float(np.median(residuals))  # a normal distribution's, from its median
        used = residuals <= max(2.5 * noise, 1 / 255)
    surface: Grey = sum(
        c * term for c, term in zip(coefficients, _terms(y[:, None], x), strict=True)
    )
    return surface, noise


def _terms(y: Grey, x: Grey) -> list[Grey]:
    return [np.ones_like(y * x), x, y, x * x, x * y, y * y]


def thicken(ink: Grey) -> Grey:
    """Ink whose strokes are too thin for MNIST with thicker ones; any other as it is."""
    fine = np.pad(scale(ink, FINE_SIDE), FINE_SIDE // BOX_SIDE)
    # A stroke's area is its length × its width; each of its two edges adds its length to this sum.
    edges = np.hypot(*np.gradient(fine)).sum()
    width = 2 * fine.sum() / edges * BOX_SIDE / FINE_SIDE
    if width >= THINNEST:
        return ink
    radius = (THICKENED - width) / 2 * FINE_SIDE / BOX_SIDE
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    thick: Grey = ndimage.grey_dilation(
        np.pad(fine, reach), footprint=x * x + y * y <= radius**2, mode="constant"
    )
    rows, columns = (np.flatnonzero(thick.any(axis=axis)) for axis in (1, 0))
    return thick[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def scale(ink: Grey, side: int = BOX_SIDE) -> Grey:
    """Ink scaled so that its longer side is so many pixels, the ratio kept."""
    longer = max(ink.shape)
    rows, columns = (
        _resample(length, max(1, round(side * length / longer))) for length in ink.shape
    )
    scaled = rows @ ink @ columns.T
    normal: Grey = scaled / scaled.max()  # a thin line, or a small one, is as bright as MNIST's
    return normal


def _resample(before: int, after: int) -> Grey:
    """(after, before): each output is a mean of inputs, the nearest counting most (a triangle)."""
    ratio = before / after
    centres = (np.arange(after)[:, None] + 0.5) * ratio - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(before) - centres) / max(1, ratio))
    normal: Grey = weights / weights.sum(axis=1, keepdims=True)
    return normal


def centre(box: Grey) -> NDArray[np.uint8]:
    """A box of at most 20×20 put into 28×28, its centre of mass into the centre, as bytes.

    As in MNIST, where all 10,000 test images have theirs less than a pixel right of and below it.
    """
    out = np.zeros((SIDE, SIDE), dtype=np.uint8)
    starts = []
    for axis, length in enumerate(box.shape):
        mass = box.sum(axis=1 - axis)
        middle = float(mass @ (np.arange(length) + 0.5) / mass.sum())
        starts.append(min(max(math.ceil(SIDE / 2 - middle), 0), SIDE - length))
    top, left = starts
    out[top : top + box.shape[0], left : left + box.shape[1]] = np.rint(255 * box)
    return out
