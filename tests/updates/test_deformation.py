import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mnist_mlp import load_config, load_dataset, train_model
from mnist_mlp.updates.deformation import AFFINE_NUMBERS, Deformation, deform, draw
from tests.conftest import Outcome


@pytest.fixture(scope="module")
def images() -> Tensor:
    return load_dataset("digits").test.images[:50]


def middle(images: Tensor) -> Tensor:
    """Each image's centre of mass (B, 2): column, row, in pixels from the image's middle."""
    along = torch.arange(28) - 13.5
    square = images.view(-1, 28, 28)
    mass = square.sum(dim=(1, 2))
    return torch.stack([(square.sum(dim=axis) @ along) / mass for axis in (1, 2)], dim=1)


def amounts(**which: float) -> Tensor:
    names = ("rotation", "scale_x", "scale_y", "shear", "right", "down")
    return torch.tensor([[which.get(name, 0.0) for name in names]]).expand(50, -1)


def deformed(deformation: Deformation, images: Tensor, noise: Tensor) -> Tensor:
    return deform(images, deformation.coefficients(noise))


def test_amounts_of_zero_change_nothing(images: Tensor) -> None:
    deformation = Deformation(rotation=20, scale=0.2, shear=0.3, translation=3)
    assert torch.allclose(deformed(deformation, images, amounts()), images, atol=1e-5)
    every = Deformation(0, 0, 0, 0).sample(50, seed=0, epoch=1)
    assert torch.allclose(deformed(Deformation(), images, every), images, atol=1e-5)


def test_a_translation_by_whole_pixels_moves_every_pixel(images: Tensor) -> None:
    moved = deformed(Deformation(translation=2), images, amounts(right=1, down=-0.5))
    expected = torch.zeros(50, 28, 28)
    expected[:, 1:, :-2] = images.view(-1, 28, 28)[:, :-1, 2:]
    assert torch.allclose(moved, expected.flatten(1), atol=1e-5)


def test_a_quarter_turn_is_a_quarter_turn(images: Tensor) -> None:
    turned = deformed(Deformation(rotation=90), images, amounts(rotation=1)).view(-1, 28, 28)
    assert torch.allclose(turned, torch.rot90(images.view(-1, 28, 28), 1, (1, 2)), atol=1e-4)


def test_scale_and_shear_are_of_their_axis(images: Tensor) -> None:
    sheared = deformed(Deformation(shear=0.5), images, amounts(shear=1)).view(-1, 28, 28)
    rows_before, rows_after = (t.sum(dim=2) for t in (images.view(-1, 28, 28), sheared))
    inner = slice(8, 20)  # where nothing is moved out of the image
    assert torch.allclose(rows_before[:, inner], rows_after[:, inner], atol=0.2)
    small = deformed(Deformation(scale=0.5), images, amounts(scale_x=1)).view(-1, 28, 28)
    lit = (small.sum(dim=1) > 0.01).sum(dim=1).float().mean()
    before = (images.view(-1, 28, 28).sum(dim=1) > 0.01).sum(dim=1).float().mean()
    assert 0.6 < lit / before < 0.85


def test_amounts_are_the_largest(images: Tensor) -> None:
    deformation = Deformation(translation=3)
    sampled = deformation.sample(50, seed=0, epoch=1)
    assert sampled.shape == (50, AFFINE_NUMBERS)
    distance = (middle(deformed(deformation, images, sampled)) - middle(images)).abs()
    assert 2.5 < distance.max() <= 3.01
    assert torch.allclose(distance, sampled[:, 4:].abs() * 3, atol=0.2)


def test_an_elastic_map_moves_neighbours_together(images: Tensor) -> None:
    ramp = (torch.arange(784.0) / 784).expand(50, -1)
    deformation = Deformation(elastic=0.5)
    moved = deformed(deformation, ramp, deformation.sample(50, seed=1, epoch=1)).view(-1, 28, 28)
    inner = (moved - ramp.view(-1, 28, 28))[:, 3:-3, 3:-3] * 28  # in rows: what each pixel moved
    assert 0.3 < inner.std() < 0.6
    assert (inner[:, 1:] - inner[:, :-1]).std() < 0.5 * inner.std()


def test_random_amounts_depend_on_seed_and_epoch_alone() -> None:
    deformation = Deformation(rotation=10, elastic=0.3)
    first = deformation.sample(30, seed=1, epoch=2)
    torch.rand(7)
    assert torch.equal(first, deformation.sample(30, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2)):
        assert not torch.equal(first, deformation.sample(30, seed, epoch))
    uniform = first[:, :AFFINE_NUMBERS]
    assert -1 <= uniform.min() < -0.8
    assert 0.8 < uniform.max() <= 1


def test_all_amounts_fade_in_the_last_part_of_a_run(images: Tensor) -> None:
    fading = Deformation(15, 0.1, 0.1, 2, 0.5, fade_fraction=0.25, fade_to=0.4, epochs=8)
    constant = Deformation(15, 0.1, 0.1, 2, 0.5)
    for epoch, left in ((1, 1.0), (6, 1.0), (7, 0.7), (8, 0.4)):
        noise = constant.sample(50, 3, epoch)
        assert torch.equal(fading.sample(50, 3, epoch), noise * left)
        weaker = Deformation(15 * left, 0.1 * left, 0.1 * left, 2 * left, 0.5 * left)
        expected = deformed(weaker, images, noise)
        assert torch.allclose(deformed(fading, images, noise * left), expected, atol=1e-4)
        assert torch.allclose(deformed(constant, images, noise), expected, atol=1e-4) == (left == 1)


@pytest.mark.parametrize("elastic", [0.0, 0.3])
@pytest.mark.parametrize("size", [1, 2, 7])
def test_images_are_deformed_alike_whatever_batch_they_are_in(
    size: int, elastic: float, images: Tensor
) -> None:
    """Bit for bit: where a run is stopped, calls and their blocks of images end elsewhere."""
    deformation = Deformation(rotation=10, scale=0.1, shear=0.1, translation=2, elastic=elastic)
    drawn = draw(deformation, 50, seed=0, epoch=1)
    together = deform(images, drawn)
    batches = zip(torch.split(images, size), torch.split(drawn, size), strict=True)
    assert torch.equal(together, torch.cat([deform(*batch) for batch in batches]))
    assert together.min() >= 0
    assert together.max() <= 1 + 1e-6
    assert not torch.allclose(together, images, atol=0.1)


def test_training_on_deformed_images_fits_them_less_and_reads_better() -> None:
    plain = load_config("digits", ["train.epochs=10", "train.test_each_epoch=false"])
    augment = ["augment.rotation=10", "augment.scale=0.1", "augment.translation=1"]
    deformed = load_config("digits", ["train.epochs=10", "train.test_each_epoch=false", *augment])
    without, with_ = (train_model(config) for config in (plain, deformed))
    assert with_.train_loss > without.train_loss
    assert with_.test_accuracy is not None
    assert with_.test_accuracy > 0.9


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("augment.rotation=-1", "augment.rotation"),
        ("augment.scale=1", "augment.scale"),
        ("augment.elastic=29", "augment.elastic"),
        ("augment.blur=1", "unknown key"),
    ],
)
def test_amounts_out_of_range(override: str, problem: str, run: Callable[..., Outcome]) -> None:
    outcome = run("train", "--config", "digits", override)
    assert outcome.code == 2
    assert problem in outcome.err
    assert not Path("runs").exists()


def test_degrees_are_degrees(images: Tensor) -> None:
    """A point right of the middle, looked at after a turn of 30 degrees."""
    point = torch.zeros(1, 28, 28)
    point[0, 14, 22:24] = 1
    turned = deformed(Deformation(rotation=30), point.flatten(1), amounts(rotation=1)[:1])
    column, row = middle(turned)[0].tolist()
    assert math.degrees(math.atan2(-row, column)) == pytest.approx(30, abs=4)
