"""Random deformation of whole batches, which makes more handwriting out of the same images.

Each image gets an affine map of its own (rotation, scale along each axis, shear, translation) and,
if wanted, an elastic one: a coarse grid of random displacements, smoothly interpolated, after
Simard, Steinkraus and Platt, "Best Practices for Convolutional Neural Networks", 2003.
"""

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.steps.data import keyed_generator

SIDE = 28
GRID = 7
"""Displacements along each side of the elastic grid; between them they are interpolated."""
AFFINE_DRAWS = 6
"""Random numbers of an affine map: rotation, scale of x, of y, shear, to the right, down."""


@dataclass(frozen=True)
class Deformation:
    """How far images are deformed; each of the affine amounts is drawn evenly from −it to +it."""

    rotation: float = 0.0
    """Degrees."""
    scale: float = 0.0
    """The part by which each axis grows or shrinks."""
    shear: float = 0.0
    """Columns that a row moves for each row away from the middle."""
    translation: float = 0.0
    """Pixels along each axis."""
    elastic: float = 0.0
    """Standard deviation, in pixels, of the elastic grid's displacements."""

    def draw(self, examples: int, seed: int, epoch: int) -> Tensor:
        """An epoch's random numbers (examples, numbers of one), in the order of its examples.

        They depend on the seed and the epoch alone, so that a run that goes on in the middle of an
        epoch has the same ones.
        """
        generator = keyed_generator(seed, "augment", epoch)
        even = torch.rand(examples, AFFINE_DRAWS, generator=generator).mul_(2).sub_(1)
        if not self.elastic:
            return even
        grid = torch.randn(examples, 2 * GRID**2, generator=generator)
        return torch.cat([even, grid], dim=1)

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Deform images (B, 784) in [0, 1] with draws (B, numbers of one), each by its own.

        Each pixel is looked up where the map leads, between four pixels (bilinear).
        """
        turn, grow_x, grow_y, shear, right, down = draws[:, :AFFINE_DRAWS].t()[..., None, None]
        turn = turn * math.radians(self.rotation)
        cos, sin = turn.cos(), turn.sin()
        grow_x, grow_y = 1 + self.scale * grow_x, 1 + self.scale * grow_y
        shear = self.shear * shear
        pixel = 2 / SIDE  # grid_sample's coordinates go from −1 to 1 across the image
        along = (torch.arange(SIDE, device=images.device) + 0.5) * pixel - 1
        x, y = along, along[:, None]
        # Where each pixel is looked up, (B, 2, 28, 28): (rotation · shear · scale) · (x, y) +
        # translation. A pixel's two coordinates side by side would take longer to write.
        where = images.new_empty(len(images), 2, SIDE, SIDE)
        x_of = (cos * grow_x) * x + right * (self.translation * pixel)
        y_of = (sin * grow_x) * x + down * (self.translation * pixel)
        torch.addcmul(x_of, (cos * shear - sin) * grow_y, y, out=where[:, 0])
        torch.addcmul(y_of, (sin * shear + cos) * grow_y, y, out=where[:, 1])
        if self.elastic:
            coarse = draws[:, AFFINE_DRAWS:].reshape(-1, GRID**2)  # (2 B, 49)
            fine = where.view(-1, SIDE**2)
            fine.addmm_(coarse, _interpolation().to(draws), alpha=self.elastic * pixel)
        square = images.view(-1, 1, SIDE, SIDE)
        return F.grid_sample(square, where.permute(0, 2, 3, 1), align_corners=False).flatten(1)


@cache
def _interpolation() -> Tensor:
    """(49, 784): what each displacement of the coarse grid adds to each pixel's (bicubic)."""
    each = torch.eye(GRID**2).view(-1, 1, GRID, GRID)
    return F.interpolate(each, size=SIDE, mode="bicubic", align_corners=True).flatten(1)
