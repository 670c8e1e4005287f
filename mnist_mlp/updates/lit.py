"""Images for the compiled loop: lists of their pixels that are not 0.

The compiled function gets the arrays that it fills: Numba takes seconds to compile allocations.
"""

from typing import Any

import numpy as np

from mnist_mlp.updates.machine_code import Array, disjoint


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
