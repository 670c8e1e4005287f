"""Random deformation of whole batches of images, so that no image is seen twice; updates on them.

Each image gets its own affine map (rotation, scale of each axis, shear, translation) and, if asked
for, an elastic one: a coarse grid of random displacements, interpolated smoothly. (Simard,
Steinkraus and Platt introduced elastic deformation in "Best Practices for Convolutional Neural
Networks", 2003; they smooth the noise of every pixel.)
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.constants import SIDE
from mnist_mlp.steps.data import keyed_generator
from mnist_mlp.steps.train import TorchUpdater

GRID = 4  # displacements along each side of the elastic grid
PIXEL = 2 / SIDE  # in coordinates that go from −1 to 1 across an image
AFFINE_NUMBERS = 6
"""Random numbers of one affine map: rotation, scale of x, scale of y, shear, right, down."""


@dataclass(frozen=True)
class Deformation:
    """How strongly images are deformed: each affine amount is uniform between −value and +value.

    The units, and the fade, are those of `config.AugmentConfig`; `epochs` is how long the run is.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    translation: float = 0.0
    elastic: float = 0.0
    fade_fraction: float = 0.0
    fade_to: float = 0.0
    epochs: int = 1

    def sample(self, examples: int, seed: int, epoch: int) -> Tensor:
        """An epoch's random numbers (examples, numbers of one image), on the CPU.

        Those of the affine maps are uniform in [−1, 1], those of the elastic grid standard normal;
        where the deformation fades, all of them are smaller. They depend only on the seed and the
        epoch, so that a run resumed within an epoch uses the same ones.
        """
        generator = keyed_generator(seed, "augment", epoch)
        uniform = torch.rand(examples, AFFINE_NUMBERS, generator=generator).mul_(2).sub_(1)
        grid = torch.randn(examples, 2 * GRID**2 * bool(self.elastic), generator=generator)
        return torch.cat([uniform, grid], dim=1).mul_(self.strength(epoch))

    def strength(self, epoch: int) -> float:
        """The part of each amount that is left in an epoch, counted from 1."""
        begin = (1 - self.fade_fraction) * self.epochs
        if not self.fade_fraction or epoch <= begin:
            return 1.0
        return 1 - (1 - self.fade_to) * (epoch - begin) / (self.epochs - begin)

    def coefficients(self, noise: Tensor) -> Tensor:
        """What `deform` takes (B, 2, 3 or 19), of noise (B, numbers of one image).

        Output pixel (x, y) shows the point of the input whose two coordinates are: the first three
        numbers times (x, y, 1), and a displacement. So what is drawn moves the other way. The
        numbers after these are the grid of displacements, in pixels.
        """
        turn, grow_x, grow_y, shear, right, down = noise[:, :AFFINE_NUMBERS].t()
        turn, shear = turn * math.radians(self.rotation), self.shear * shear
        cos, sin, move = turn.cos(), turn.sin(), self.translation * PIXEL
        grow_x, grow_y = 1 + self.scale * grow_x, 1 + self.scale * grow_y
        x = cos * grow_x, (cos * shear - sin) * grow_y, right * move
        y = sin * grow_x, (sin * shear + cos) * grow_y, down * move
        affine = torch.stack([*x, *y], dim=1).view(-1, 2, 3)
        grids = self.elastic * noise[:, AFFINE_NUMBERS:]
        return torch.cat([affine, grids.view(len(noise), 2, grids.shape[1] // 2)], dim=2)


@lru_cache(maxsize=1)  # the next epoch's is asked for before it begins
def draw(deformation: Deformation, examples: int, seed: int, epoch: int) -> Tensor:
    """An epoch's coefficients (examples, 2, 3 or 19), on the CPU."""
    return deformation.coefficients(deformation.sample(examples, seed, epoch))


def deform(images: Tensor, coefficients: Tensor) -> Tensor:
    """Deform images (B, 784) in [0, 1], each by its own `coefficients` (B, 2, 3 or 19).

    Values between pixels are interpolated bilinearly; outside the image all is 0.
    """
    count = coefficients.shape[2]
    if len(images) == 1:  # whose product alone would round in another way
        coefficients = coefficients.expand(2, -1, -1)
    points = coefficients.reshape(-1, count) @ basis(images.device)[:count]
    square, by_axis = images.view(-1, 1, SIDE, SIDE), points.view(-1, 2, SIDE, SIDE)[: len(images)]
    return F.grid_sample(square, by_axis.permute(0, 2, 3, 1), align_corners=False).flatten(1)


@cache
def basis(device: torch.device) -> Tensor:
    """(19, 784): the coordinates of a point of an image are sums of these, pixel by pixel.

    They are x, y, 1, and how far each displacement of the grid, of one pixel, is felt.
    """
    x = ((torch.arange(SIDE, device=device) + 0.5) * PIXEL - 1).expand(SIDE, SIDE)
    each, size = torch.eye(GRID, device=device).view(GRID, 1, GRID, 1), (SIDE, 1)
    interpolated = F.interpolate(each, size, mode="bicubic", align_corners=True)
    weights = interpolated.view(GRID, SIDE)  # of each number along a grid's side at each pixel
    felt = PIXEL * torch.kron(weights, weights)
    return torch.cat([torch.stack([x, x.T, torch.ones_like(x)]).view(3, -1), felt])


@dataclass(eq=False)
class DeformingUpdater(TorchUpdater):
    """`TorchUpdater` on images that are deformed anew in each epoch; the seed decides how."""

    deformation: Deformation | None = None
    seed: int = 0

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        if self.deformation:
            drawn = draw(self.deformation, len(order), self.seed, epoch)
            self.coefficients = drawn.to(order.device)
        yield from super().run_epoch(epoch, order, learning_rates, done, logits)

    def examples(self, rows: slice | Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 784), deformed, and labels (B,)."""
        images, labels = super().examples(rows)
        return (deform(images, self.coefficients[rows]) if self.deformation else images), labels
