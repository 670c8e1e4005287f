"""Images for the compiled loop: lists of their pixels that are not 0, and deformed images."""

import numpy as np

from mnist_mlp.constants import SIDE
from mnist_mlp.updates.deformation import GRID
from mnist_mlp.updates.loop import Array, disjoint

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


def list_lit(images: Array, scale: float, like: Array) -> tuple[Array, Array, Array]:
    """The pixels of images (N, 784) that are not 0: starts (N + 1,), inputs and values.

    Those of image i are at starts[i]:starts[i + 1]. Pixels are counted from 1, and their values
    divided by the scale, in the dtype of `like`.
    """
    lit, starts = 1 + np.count_nonzero(images), np.zeros(len(images) + 1, np.int64)
    inputs, values = np.empty(lit, np.uint16), np.empty(lit, like.dtype)
    for n in range(len(images)):
        starts[n + 1] = _append(images[n], scale, starts[n], inputs, values)
    return starts, inputs, values


@disjoint
def _frame(image: Array, scale: float, bright: Array, framed: Array) -> None:
    """An image's pixels divided by the scale, in a row (784,), and in a frame of dark pixels."""
    for i in range(SIDE * SIDE):
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
    maps: Array,
    grids: Array,
    weights: Array,
    like: Array,
) -> tuple[Array, Array, Array]:
    """What `list_lit` makes of the images pixels[index] (N, 784), each deformed by its map.

    The maps (N, 2, 3) and grids (N, 2, 4, 4) are those of `Deformation`, the weights (4, 28) those
    of `interpolation`. Without elastic deformation there are no grids.
    """
    real, frame = like.dtype.type, SIDE + 2
    starts, most = np.zeros(len(index) + 1, np.int64), len(index) * SIDE * SIDE + 1
    inputs, values = np.empty(most, np.uint16), np.empty(most, like.dtype)
    image = np.empty((SIDE, SIDE), like.dtype)
    framed = np.zeros(frame * frame + frame + 1, like.dtype)
    across = ((np.arange(PADDED) + 0.5) * (2 / SIDE) - 1).astype(like.dtype)
    half, shift = real(SIDE / 2), real(SIDE / 2 + 0.5)  # from −1 to 1 to pixels of the frame
    padded, by_row = np.zeros((GRID, PADDED), like.dtype), np.ascontiguousarray(weights.T)
    padded[:, :SIDE] = weights
    widened = np.zeros((2, GRID, PADDED), like.dtype)
    shifts, points = np.zeros((2, PADDED), like.dtype), np.zeros((2, PADDED), like.dtype)
    for n in range(len(index)):
        _frame(pixels[index[n]], scale, image.reshape(-1), framed)
        for k in range(2 * GRID if len(grids) else 0):  # both axes' rows
            axis, row = divmod(k, GRID)
            _interpolate(grids[n, axis, row], padded, widened[axis, row])
        for y in range(SIDE):
            for axis in range(2):
                by_x, by_y, start = maps[n, axis]
                if len(grids):
                    _interpolate(by_row[y], widened[axis], shifts[axis])
                start = (by_y * across[y] + start) * half + shift
                _points(by_x * half, across, start, shifts[axis], points[axis])
            _resample(framed, points[0], points[1], image[y])
        starts[n + 1] = _append(image.reshape(-1), 1.0, starts[n], inputs, values)
    return starts, inputs, values
