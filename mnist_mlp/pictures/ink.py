"""Find the ink of one digit in a greyscale picture, as a document scanner would.

The explorer page repeats each step in ink.js, to the same results.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mnist_mlp.errors import ImageError

Grey = NDArray[np.float64]
Mask = NDArray[np.bool_]
Invert = Literal["auto", "yes", "no"]
"""yes: dark ink on light paper; no: light ink on dark paper; auto: detect which."""

# The first, MIN_INK and STRONG are not round: no ratio of bytes equals them, so that rounding,
# which differs in the browser, decides nothing.
MIN_CONTRAST = 0.081  # of the range from the paper to pure black or white: the weakest ink
MIN_RANGE = 0.25  # of the range from black to white: lower bound on the range above
PAPER_WINDOW = 0.4  # of the shorter side: what is dark and narrower than this is not paper
USUAL_SIDE = 16  # pixels of the longer side at which the usual brightness is measured
USUAL_WINDOW = 0.8  # of the shorter side: where it is measured
DENOISED_SIDE = 400  # pixels of the shorter side for each pixel that smoothing reaches
RULED_SIDE = 100  # pixels: a picture with a shorter side has no ruled lines
RULING = 0.025  # of the shorter side: a line is thinner
RULING_RUN, RULING_LENGTH = 1 / 12, 0.6  # of the width: its straight pieces and its whole, at least
MIN_INK = 0.151  # of full ink: pixels with less are paper
STRONG = 0.503  # of the strongest ink: the median of what has more is full ink
KEPT_LEVEL = 0.3  # of the digit's darkness: what is fainter does not belong to it
SAME_LEVEL = 0.5  # of the digit's darkness: pieces whose darkness is less do not belong to it
MIN_PIECE = 0.05  # of the digit's ink: pieces with less are specks
# Of the digit's longer side: pieces less far apart belong together. More in height than in width,
# where the neighbour of a digit stands.
GAPS = (0.35, 0.2)
# Of the digit's ink and darkness: what is apart and has more of both could be a digit as well.
RIVAL_INK, RIVAL_LEVEL = 0.4, 0.75
MAX_PIECES = 4  # a digit has at most
MAX_CLUTTER = 0.1  # of the digit's darkness: the mean of what is between and around its strokes
# By the number of the picture's sides that a piece touches: how likely it is the digit, compared
# with other pieces and with what is lighter than the paper.
AT_BORDER = np.array([1, 0.1, 0.01, 0.001, 0.001])
AT_BORDER_MILD = np.array([1, 0.3, 0.1, 0.1, 0.1])


@dataclass(frozen=True)
class Found:
    """The ink of a digit, and how it was found."""

    ink: Grey  # (H, W): 0 for paper to 1 for full ink
    score: float  # the higher, the more the ink looks like the thing that was meant
    left_out: list[str]  # what else is in the picture
    refusal: str | None  # why it does not look like one digit
    steps: dict[str, Grey]  # what each step made of the picture, (H, W) from 0 to 1


@dataclass(frozen=True)
class Pieces:
    """Connected dark pieces. The arrays have an entry for each; entry 0, the paper, is 0."""

    labels: NDArray[np.int32]  # (H, W): the number of each pixel's piece, 0 for paper
    ink: Grey  # the sum of its strength
    level: Grey  # its mean strength, weighted by strength
    size: NDArray[np.int64]  # the longer side of its bounding box
    sides: NDArray[np.int64]  # how many of the picture's sides it touches
    score: Grey
    main: int  # the piece with the highest score: the most likely digit


def find_ink(grey: Grey, invert: Invert = "auto") -> Found:
    """Separate one digit's ink from all else in a picture (H, W), 0 (black) to 1 (white).

    An ImageError where nothing differs enough from the paper.
    """
    reach = round(min(grey.shape) / DENOISED_SIDE)
    smooth = ndimage.uniform_filter(grey, 2 * reach + 1)
    detail = np.abs(grey - ndimage.uniform_filter(grey, 3))
    # A normal distribution's quartile of absolute values is 0.32 sigma.
    noise = _quartile(detail) / 0.32 / (2 * reach + 1)
    # The median brightness around each pixel, measured in blocks.
    factor = -(-max(grey.shape) // USUAL_SIDE)
    small = shrink(grey, factor)
    usual = ndimage.median_filter(small, _odd(USUAL_WINDOW * min(small.shape)))
    usual = usual.repeat(factor, 0).repeat(factor, 1)[: grey.shape[0], : grey.shape[1]]
    dark = _find_dark(smooth, usual, noise) if invert != "no" else None
    light = _find_dark(1 - smooth, 1 - usual, noise) if invert != "yes" else None
    if not (dark or light):
        raise ImageError("blank: no ink stands out from its background")
    return max(filter(None, (dark, light)), key=lambda found: found.score)


def shrink(grey: Grey, factor: int) -> Grey:
    """Average blocks of factor × factor pixels in (..., H, W); blocks at the end may be smaller."""
    for axis in (-2, -1):
        starts = np.arange(0, grey.shape[axis], factor)
        counts = np.diff(starts, append=grey.shape[axis])
        grey = np.add.reduceat(grey, starts, axis) / (counts if axis == -1 else counts[:, None])
    return grey


def _find_dark(light: Grey, usual: Grey, noise: float) -> Found | None:
    """Find dark ink. `usual` is the brightness around each pixel, `noise` one sigma of `light`."""
    shorter = min(light.shape)
    window = _odd(max(3, PAPER_WINDOW * shorter))
    # The lightest in each window, then the darkest of these: light and shadow, and what lies beyond
    # the paper, keep their edges; ink disappears.
    paper = ndimage.grey_closing(light, size=(window, window))
    # Weak light dims paper and ink alike, so ink is measured relative to the paper.
    full_range = np.maximum(MIN_RANGE, paper)
    strength = (paper - light) / full_range
    strength = np.maximum(strength - _quartile(strength), 0)
    noise /= full_range.mean()
    weakest = max(MIN_CONTRAST, 6 * noise)
    if strength.max() < weakest:
        return None
    threshold = max(MIN_CONTRAST / 2, 4 * noise)
    unruled = strength
    if shorter >= RULED_SIDE:
        unruled = _remove_lines(_remove_lines(strength, threshold).T, threshold).T
    if unruled.max() < weakest:  # the digit itself is a line
        unruled = strength
    pieces = _separate(unruled, threshold)
    kept, border, left_out, refusal = _choose(pieces)
    vanished = (strength > threshold) & (unruled <= threshold)
    if vanished.sum() > RULING_LENGTH * shorter:
        left_out.insert(0, "ruled lines")
    chosen = kept[pieces.labels]
    keep = ndimage.maximum_filter(chosen, 2 * round(shorter / DENOISED_SIDE) + 3)
    clutter = _clutter(unruled, chosen, border[pieces.labels]) / pieces.level[pieces.main]
    if not refusal and clutter > MAX_CLUTTER:
        refusal = "no digit on plain paper: there is as much around the strokes"
    inside = unruled[keep]
    full = np.median(inside[inside > STRONG * inside.max()])
    floor = min(3 * noise, full / 4)
    ink = np.clip((unruled - floor) / (full - floor), 0, 1)
    ink[~keep | (ink <= MIN_INK)] = 0
    # Paper within a loop is lighter than the ink around it, but not than the paper around that.
    evidence = np.minimum(strength, np.maximum(usual - light, 0))[chosen] ** 3
    if not evidence.any():
        return None
    score = float(evidence.sum() * AT_BORDER_MILD[pieces.sides[pieces.main]])
    shown = np.where(chosen, 1.0, 0.4 * (pieces.labels > 0))
    steps = {"paper": paper, "darkness": strength, "unruled": unruled, "pieces": shown, "ink": ink}
    return Found(ink, score, left_out, refusal, steps)


def _remove_lines(strength: Grey, threshold: float) -> Grey:
    """Remove long thin horizontal lines, but not the strokes that cross them."""
    height, width = strength.shape
    dark = ndimage.maximum_filter1d((strength > threshold).astype(np.uint8), 3, axis=0)
    runs = ndimage.grey_opening(dark, (1, _odd(RULING_RUN * width)))
    labels, _ = ndimage.label(runs, np.ones((3, 3)))
    spans = [box[1].stop - box[1].start for box in ndimage.find_objects(labels)]
    long = np.array([0, *spans]) > RULING_LENGTH * width
    lines = ndimage.maximum_filter1d(long[labels], 3, axis=0)
    thick = ndimage.grey_opening(strength, (_odd(max(3, RULING * min(height, width))), 1))
    return np.where(lines, thick, strength)


def _separate(strength: Grey, threshold: float) -> Pieces:
    """Divide the ink into pieces at the threshold that separates the digit best."""
    highest = strength.max() / 2
    best, chosen = _pieces(strength, threshold), threshold
    while (threshold := 2 * threshold) < highest:
        pieces = _pieces(strength, threshold)
        if pieces.score.max() > best.score.max():
            best, chosen = pieces, threshold
    return _pieces(strength, max(chosen, KEPT_LEVEL * float(best.level[best.main])))


def _pieces(strength: Grey, threshold: float) -> Pieces:
    labels, count = ndimage.label(strength > threshold, np.ones((3, 3)))
    inside = np.flatnonzero(labels)
    owner, values = labels.ravel()[inside], strength.ravel()[inside]
    ink = np.bincount(owner, values, count + 1).astype(np.float64)
    level = np.bincount(owner, values**2, count + 1) / np.maximum(ink, 1e-12)
    boxes = [(y.start, y.stop, x.start, x.stop) for y, x in ndimage.find_objects(labels)]
    top, bottom, left, right = np.array([(1, 1, 1, 1), *boxes]).T
    height, width = strength.shape
    sides = (top == 0) * 1 + (left == 0) + (bottom == height) + (right == width)
    score: Grey = ink * level * AT_BORDER[sides]
    size = np.maximum(bottom - top, right - left)
    return Pieces(labels, ink, level, size, sides, score, int(score.argmax()))


def _choose(pieces: Pieces) -> tuple[Mask, Mask, list[str], str | None]:
    """Decide which pieces are the digit and which neighbours at the border, (pieces,) each.

    Say what is left out, and why none is a digit.
    """
    main = pieces.main
    around = tuple(_odd(gap * int(pieces.size[main])) for gap in GAPS)
    groups, _ = ndimage.label(ndimage.maximum_filter(pieces.labels > 0, around), np.ones((3, 3)))
    group = np.zeros(len(pieces.ink), dtype=np.int64)
    group[pieces.labels.ravel()] = groups.ravel()
    big = pieces.ink >= MIN_PIECE * pieces.ink[main]  # not a speck, nor the paper
    border = big & (pieces.sides > 0) & (pieces.sides[main] == 0)
    faint = big & ~border & (pieces.level < SAME_LEVEL * pieces.level[main])
    apart = big & ~border & ~faint & (group != group[main])
    kept = big & ~border & ~faint & ~apart
    rival = apart & (pieces.ink > RIVAL_INK * pieces.ink[kept].sum())
    rival &= pieces.level > RIVAL_LEVEL * pieces.level[main]
    refusal = None
    if rivals := rival.sum():
        refusal = f"{rivals + 1} things could be the digit; leave one in the picture"
    elif (count := kept.sum()) > MAX_PIECES:
        refusal = f"no digit: what stands out is in {count} pieces"
    reasons = {"at the border": border, "fainter": faint, "apart": apart}
    left_out = [f"{which.sum()} {reason}" for reason, which in reasons.items() if which.any()]
    return kept, border, left_out, refusal


def _clutter(strength: Grey, chosen: Mask, border: Mask) -> float:
    """The mean strength of all else in a box around what is chosen."""
    rows, columns = np.flatnonzero(chosen.any(axis=1)), np.flatnonzero(chosen.any(axis=0))
    size = max(np.ptp(rows), np.ptp(columns)) + 1
    margin = size // 5
    box = tuple(slice(max(0, x[0] - margin), x[-1] + 1 + margin) for x in (rows, columns))
    near = ndimage.maximum_filter(chosen | border, 2 * (size // 20) + 3)
    around = strength[box][~near[box]]
    return float(around.mean()) if around.size else 0.0


def _quartile(values: Grey) -> float:
    return float(np.partition(values.ravel(), values.size // 4)[values.size // 4])


def _odd(length: float) -> int:
    return 2 * int(length / 2) + 1
