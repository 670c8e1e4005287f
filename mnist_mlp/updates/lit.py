"""Images for the compiled loop: lists of their pixels that are not 0, and deformed images."""

import numpy as np

from mnist_mlp.constants import SIDE
from mnist_mlp.updates.loop import Array, disjoint


def list_lit(images: Array, scale: float, like: Array) -> tuple[Array, Array, Array]:
    """The pixels of images (N, D) that are not 0: starts (N + 1,), inputs and values.

    Those of image i are at starts[i]:starts[i + 1]. Pixels are counted from 1, and their values
    divided by the scale, in the dtype of `like`.
    """
    lit, real = np.count_nonzero(images), like.dtype.type
    starts = np.zeros(images.shape[0] + 1, np.int64)
    inputs, values = np.empty(lit, np.uint16), np.empty(lit, like.dtype)
    at = 0
    for n in range(images.shape[0]):
        for pixel in range(images.shape[1]):
            if images[n, pixel] != 0:
                inputs[at], values[at] = pixel + 1, real(images[n, pixel]) / real(scale)
                at += 1
        starts[n + 1] = at
    return starts, inputs, values


@disjoint
def _resample(
    framed: Array, x: Array, dx: float, x0: float, dy: float, y0: float, row: Array
) -> None:
    """A row of a deformed image: its values at (dx·x + x0, dy·x + y0) in the framed one."""
    real = row.dtype.type
    for j in range(SIDE):
        px, py = dx * x[j] + x0, dy * x[j] + y0
        # What lies beyond the frame is as dark as the frame. (`min` and `max` take longer.)
        px = px if px > real(0) else real(0)
        py = py if py > real(0) else real(0)
        px = px if px < real(SIDE + 1) else real(SIDE + 1)
        py = py if py < real(SIDE + 1) else real(SIDE + 1)
        left, top = np.uint32(px), np.uint32(py)
        right, below = px - real(left), py - real(top)
        i = np.uint64(top * np.uint32(SIDE + 2) + left)
        a, b = framed[i], framed[i + np.uint64(1)]
        c, d = framed[i + np.uint64(SIDE + 2)], framed[i + np.uint64(SIDE + 3)]
        upper, lower = a + right * (b - a), c + right * (d - c)
        row[j] = upper + below * (lower - upper)


def deform(pixels: Array, index: Array, maps: Array, like: Array) -> Array:
    """The images pixels[index] from 0 to 255, each deformed by its map: (N, 784) from 0 to 1.

    The maps (N, 2, 3) are those of `Deformation.maps`.
    """
    real, frame = like.dtype.type, SIDE + 2
    deformed = np.empty((len(index), SIDE * SIDE), like.dtype)
    framed = np.zeros(frame * frame + frame + 1, like.dtype)  # an image in a frame of dark pixels
    across = ((np.arange(SIDE) + 0.5) * (2 / SIDE) - 1).astype(like.dtype)
    half, shift = real(SIDE / 2), real(SIDE / 2 + 0.5)  # from −1 to 1 to pixels of the frame
    for n in range(len(index)):
        for y in range(SIDE):
            for x in range(SIDE):
                framed[(y + 1) * frame + x + 1] = real(pixels[index[n], y * SIDE + x]) / real(255)
        dx, dy = maps[n, 0, 0] * half, maps[n, 1, 0] * half
        for y in range(SIDE):
            x0 = (maps[n, 0, 1] * across[y] + maps[n, 0, 2]) * half + shift
            y0 = (maps[n, 1, 1] * across[y] + maps[n, 1, 2]) * half + shift
            row = deformed[n, y * SIDE : (y + 1) * SIDE]
            _resample(framed, across, dx, x0, dy, y0, row)
    return deformed
