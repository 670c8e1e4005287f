"""Images for the compiled loop: lists of their pixels that are not 0, and deformed images.

The compiled functions get the arrays that they fill: Numba takes seconds to compile allocations.
"""

from typing import Any, NamedTuple

import numpy as np
import torch

from mnist_mlp.constants import INPUT_SIZE, SIDE
from mnist_mlp.updates.deformation import GRID, interpolation
from mnist_mlp.updates.machine_code import Array, disjoint

PADDED = 32
"""A row's pixels, padded to whole vector registers. A loop of fixed length is faster."""


@disjoint
def _append(image: Array, scale: float, at: int, inputs: Array, values: Array) -> int:
    """List an image's pixels that are not 0, from a place of the lists on; return the end.

    The lists have room for one entry more.
    """
    real = values.dtype.type
    # Every pixel is written, and a dark one overwritten by the next: faster than a branch.
    for pixel in range(len(image)):
        inputs[at], values[at] = pixel + 1, real(image[pixel]) / real(scale)
        at += image[pixel] != 0
    return at


def empty_lists(examples: int, most: int, dtype: Any) -> tuple[Array, Array, Array]:
    """Room for the lists of some examples, and for that many pixels in all; see `list_lit`."""
    starts = np.zeros(examples + 1, np.int64)
    return starts, np.empty(most + 1, np.uint16), np.empty(most + 1, dtype)


def list_lit(images: Array, scale: float, starts: Array, inputs: Array, values: Array) -> None:
    """List the pixels of images (N, 784) that are not 0, divided by the scale.

    Those of image i are at starts[i]:starts[i + 1] of inputs, which count pixels from 1, and of
    values.
    """
    for n in range(len(images)):
        starts[n + 1] = _append(images[n], scale, starts[n], inputs, values)


class Canvas(NamedTuple):
    """What is the same for every deformed image, and room for one at a time."""

    weights: Array  # (4, 32): those of `interpolation`, padded
    across: Array  # (32,): where pixels are, from −1 to 1
    image: Array  # (784,)
    framed: Array  # an image in a frame of dark pixels, row by row
    widened: Array  # (2, 4, 32): the grids' rows, interpolated, of x and of y
    shifts: Array  # (2, 32): by how many pixels a row's pixels are displaced
    points: Array  # (2, 32): where a row's pixels are in the framed image


def new_canvas(dtype: Any) -> Canvas:
    """A canvas for numbers of this type."""
    weights = np.zeros((GRID, PADDED), dtype)
    weights[:, :SIDE] = interpolation(torch.device("cpu")).numpy()
    across = ((np.arange(PADDED) + 0.5) * (2 / SIDE) - 1).astype(dtype)
    image, framed = np.zeros(INPUT_SIZE, dtype), np.zeros((SIDE + 2) * (SIDE + 3) + 1, dtype)
    widened = np.zeros((2, GRID, PADDED), dtype)
    shifts, points = np.zeros((2, 2, PADDED), dtype)
    return Canvas(weights, across, image, framed, widened, shifts, points)


@disjoint
def _frame(image: Array, scale: float, bright: Array, framed: Array) -> None:
    """An image's pixels divided by the scale, in a row (784,), and in a frame of dark pixels."""
    for i in range(SIDE * SIDE):  # in one loop, which vector instructions make fastest
        bright[i] = bright.dtype.type(image[i]) / bright.dtype.type(scale)
    for y in range(SIDE):
        for x in range(SIDE):
            framed[(y + 1) * (SIDE + 2) + x + 1] = bright[y * SIDE + x]


@disjoint
def _interpolate(factors: Array, rows: Array, total: Array) -> None:
    """The sum of the rows of a grid, each times its factor."""
    for j in range(PADDED):
        total[j] = 0
        for k in range(GRID):
            total[j] += factors[k] * rows[k, j]


@disjoint
def _points(by_x: float, x: Array, start: float, shifts: Array, points: Array) -> None:
    """Where a row's pixels are in the framed image, along one axis: by_x · x + start + shift."""
    real = points.dtype.type
    for j in range(PADDED):
        p = by_x * x[j] + start + shifts[j]
        # What lies beyond the frame is as dark as the frame. (`min` and `max` take longer.)
        p = p if p > real(0) else real(0)
        points[j] = p if p < real(SIDE + 1) else real(SIDE + 1)


@disjoint
def _resample(framed: Array, px: Array, py: Array, row: Array) -> None:
    """A row of a deformed image: the framed one's values at (px, py), between pixels too."""
    real = row.dtype.type
    for j in range(SIDE):
        left, top = np.uint32(px[j]), np.uint32(py[j])
        right, below = px[j] - real(left), py[j] - real(top)
        i = np.uint64(top * np.uint32(SIDE + 2) + left)
        a, b = framed[i], framed[i + np.uint64(1)]
        c, d = framed[i + np.uint64(SIDE + 2)], framed[i + np.uint64(SIDE + 3)]
        upper, lower = a + right * (b - a), c + right * (d - c)
        row[j] = upper + below * (lower - upper)


def deform_and_list(
    pixels: Array,
    index: Array,
    scale: float,
    coefficients: Array,
    canvas: Canvas,
    starts: Array,
    inputs: Array,
    values: Array,
) -> None:
    """What `list_lit` does for the images pixels[index] (N, 784), deformed as `deform` does it.

    No two arrays may overlap.
    """
    real = values.dtype.type
    half, shift = real(SIDE / 2), real(SIDE / 2 + 0.5)  # from −1 to 1 to pixels of the frame
    weights, across, image, framed, widened, shifts, points = canvas
    elastic = coefficients.shape[2] > 3
    for n in range(len(index)):
        _frame(pixels[index[n]], scale, image, framed)
        for k in range(2 * GRID if elastic else 0):  # both axes' rows
            axis, row = divmod(k, GRID)
            grid = coefficients[n, axis, 3:]
            _interpolate(grid[GRID * row :], weights, widened[axis, row])
        for y in range(SIDE):
            for axis in range(2):
                by_x, by_y, start = coefficients[n, axis, :3]
                if elastic:
                    _interpolate(weights[:, y], widened[axis], shifts[axis])
                start = (by_y * across[y] + start) * half + shift
                _points(by_x * half, across, start, shifts[axis], points[axis])
            _resample(framed, points[0], points[1], image[y * SIDE : (y + 1) * SIDE])
        starts[n + 1] = _append(image, 1.0, starts[n], inputs, values)
