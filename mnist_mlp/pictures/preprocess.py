"""Turn a greyscale picture of a digit into 28×28 pixels like MNIST's.

The authors of MNIST cropped each digit, scaled its longer side to 20 pixels and placed its centre
of mass at the centre of 28×28 (yann.lecun.com/exdb/mnist). Other pictures need two more steps:
separating ink from paper, and thickening strokes that are thinner than MNIST's. The explorer page
repeats all steps in preprocess.js, which tests hold to the same results within 1/255.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist_mlp.constants import SIDE
from mnist_mlp.pictures.ink import Found, Grey, Invert, find_ink

Pixels = NDArray[np.uint8]

BOX_SIDE = 20  # pixels of the digit's longer side
FINE_SIDE = 4 * BOX_SIDE  # pixels of the longer side at which stroke width is measured
# Strokes thinner than the first get the second width, in pixels of the box. MNIST's are 1.5 to 5.
MIN_STROKE, THICKENED_STROKE = 1.5, 2.5
MAX_STROKE, MAX_LENGTH = 7.5, 66  # pixels of the box: what has more is not a digit


def prepare(grey: Grey, invert: Invert = "auto") -> tuple[Pixels, Found]:
    """Find the digit in a picture (H, W), from 0 (black) to 1 (white).

    Returns it as MNIST stores it, (28, 28), bright ink on black; and how it was found, with a
    refusal if it does not look like one digit. An ImageError where the picture is blank.
    """
    found = find_ink(grey, invert)
    cropped = _crop(found.ink)
    width, length = measure(scale(cropped, FINE_SIDE))
    refusal = found.refusal
    if not refusal and (width > MAX_STROKE or length > MAX_LENGTH):
        refusal = "no digit: what stands out is not a few strokes"
    pixels = centre(scale(thicken(cropped)))
    steps = {"grey": grey} | found.steps | {"input": pixels / 255}
    return pixels, replace(found, refusal=refusal, steps=steps)


def _crop(ink: Grey) -> Grey:
    """Cut away the empty rows and columns around the ink."""
    (box,) = ndimage.find_objects((ink > 0).astype(int))
    cropped: Grey = ink[box]
    return cropped


def measure(fine: Grey) -> tuple[float, float]:
    """The strokes' width and length, in pixels of the box, of ink scaled to `FINE_SIDE`."""
    fine = np.pad(fine, FINE_SIDE // BOX_SIDE)
    # A stroke's area is length × width. Its two edges add twice its length to this sum.
    edges = np.hypot(*np.gradient(fine)).sum()
    unit = FINE_SIDE / BOX_SIDE
    return 2 * fine.sum() / edges / unit, edges / 2 / unit


def thicken(ink: Grey) -> Grey:
    """Thicken strokes that are thinner than MNIST's; return other ink unchanged."""
    fine = scale(ink, FINE_SIDE)
    width, _ = measure(fine)
    if width >= MIN_STROKE:
        return ink
    radius = (THICKENED_STROKE - width) / 2 * FINE_SIDE / BOX_SIDE
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = x * x + y * y <= radius**2
    return _crop(ndimage.grey_dilation(np.pad(fine, reach), footprint=disc, mode="constant"))


def scale(ink: Grey, side: int = BOX_SIDE) -> Grey:
    """Scale ink so that its longer side has `side` pixels, and its maximum to 1."""
    height, width = (max(1, round(side * length / max(ink.shape))) for length in ink.shape)
    image = Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR)
    scaled = np.array(image, dtype=np.float64)
    scaled /= scaled.max()  # thin or small digits become as bright as MNIST's
    return scaled


def centre(box: Grey) -> Pixels:
    """Place a box of at most 20×20 in 28×28 with its centre of mass at the centre, as bytes.

    Rounded as in MNIST: there it lies up to one pixel to the right of and below the centre.
    """
    out = np.zeros((SIDE, SIDE), dtype=np.uint8)
    top, left = (
        min(max(math.ceil(SIDE / 2 - middle - 0.5), 0), SIDE - length)
        for middle, length in zip(ndimage.center_of_mass(box), box.shape, strict=True)
    )
    out[top : top + box.shape[0], left : left + box.shape[1]] = np.rint(255 * box)
    return out
