"""Turn a greyscale picture of a digit into 28×28 pixels like MNIST's.

The authors of MNIST cropped each digit, scaled its longer side to 20 pixels and placed its centre
of mass at the centre of 28×28 (yann.lecun.com/exdb/mnist). Other pictures need two more steps:
separating ink from paper, and thickening strokes that are thinner than MNIST's. The explorer page
repeats all steps in preprocess.js, which tests hold to the same results within 1/255.
"""

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from mnist_mlp.constants import SIDE
from mnist_mlp.errors import ImageError

Grey = NDArray[np.float64]
Pixels = NDArray[np.uint8]
Invert = Literal["auto", "yes", "no"]
"""yes: dark ink on light paper; no: light ink on dark paper; auto: detect which."""

BOX_SIDE = 20  # pixels of the digit's longer side
BORDER = 0.04  # of the shorter side: width of the border that is taken for paper
MIN_CONTRAST = 0.08  # of the range from the paper to pure black or white: the weakest ink
MIN_RANGE = 0.25  # of the range from black to white: lower bound on the range above
INK_THRESHOLD = 0.15  # of full ink: pixels with less are paper
MIN_COMPONENT = 0.05  # of the largest connected component's ink: components with less are dropped
FINE_SIDE = 4 * BOX_SIDE  # pixels of the longer side at which stroke width is measured
# Strokes thinner than the first get the second width, in pixels of the box. MNIST's are 1.5 to 5.
MIN_STROKE, THICKENED_STROKE = 1.5, 2.5


def prepare(grey: Grey, invert: Invert = "auto") -> Pixels:
    """Find the digit in a picture (H, W), from 0 (black) to 1 (white).

    Returns it as MNIST stores it: (28, 28), bright ink on black.

    Raises:
        ImageError: The picture contains no ink.
    """
    return centre(scale(thicken(_crop(find_ink(grey, invert)))))


def shrink(grey: Grey, factor: int) -> Grey:
    """Average blocks of factor × factor pixels in (..., H, W); blocks at the end may be smaller."""
    for axis in (-2, -1):
        starts = np.arange(0, grey.shape[axis], factor)
        counts = np.diff(starts, append=grey.shape[axis])
        grey = np.add.reduceat(grey, starts, axis) / (counts if axis == -1 else counts[:, None])
    return grey


def find_ink(grey: Grey, invert: Invert = "auto") -> Grey:
    """Separate ink from paper: (H, W), 0 for paper to 1 for full ink.

    Raises:
        ImageError: Nothing differs enough from the paper.
    """
    paper, noise = _fit_paper(grey)
    difference = grey - paper
    lighter = (difference**3).sum() > 0 if invert == "auto" else invert == "no"
    # Weak light dims paper and ink alike, so ink is measured relative to the range between the
    # paper and pure white or black.
    full_range = np.maximum(MIN_RANGE, 1 - paper if lighter else paper)
    strength = (difference if lighter else -difference) / full_range
    noise /= full_range.mean()
    strongest = strength.max()
    if strongest < max(MIN_CONTRAST, 6 * noise):
        raise ImageError("blank: no ink stands out from its background")
    full = np.median(strength[strength > strongest / 2])
    floor = min(3 * noise, full / 4)
    ink = np.clip((strength - floor) / (full - floor), 0, 1)
    components, _ = ndimage.label(ink > INK_THRESHOLD, structure=np.ones((3, 3)))
    amounts = np.bincount(components.ravel(), weights=ink.ravel())
    amounts[0] = 0  # the paper
    kept: Grey = np.where((amounts >= MIN_COMPONENT * amounts.max())[components], ink, 0)
    return kept


def _fit_paper(grey: Grey) -> tuple[Grey, float]:
    """Estimate the paper's brightness under uneven light (H, W), and its noise (one sigma).

    A quadratic surface is fitted to the border, without outliers such as ink that reaches it.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, length) for length in grey.shape), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)  # (H, W, 6)
    width = max(1, round(BORDER * min(grey.shape)))
    border = np.ones(grey.shape, dtype=bool)
    border[width:-width, width:-width] = False
    border_terms, brightness = terms[border], grey[border]  # (pixels, 6), (pixels,)
    inliers = np.ones(len(brightness), dtype=bool)
    for _ in range(8):
        coefficients = np.linalg.lstsq(border_terms[inliers], brightness[inliers])[0]
        residuals = np.abs(brightness - border_terms @ coefficients)
        noise = 1.4826 * float(np.median(residuals))  # sigma of a normal distribution
        inliers = residuals <= max(2.5 * noise, 1 / 255)
    paper: Grey = terms @ coefficients
    return paper, noise


def _crop(ink: Grey) -> Grey:
    """Cut away the empty rows and columns around the ink."""
    (box,) = ndimage.find_objects((ink > 0).astype(int))
    cropped: Grey = ink[box]
    return cropped


def thicken(ink: Grey) -> Grey:
    """Thicken strokes that are thinner than MNIST's; return other ink unchanged."""
    fine = np.pad(scale(ink, FINE_SIDE), FINE_SIDE // BOX_SIDE)
    # A stroke's area is length × width. Its two edges add twice its length to this sum.
    edges = np.hypot(*np.gradient(fine)).sum()
    width = 2 * fine.sum() / edges * BOX_SIDE / FINE_SIDE
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
