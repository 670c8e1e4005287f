from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_mlp.errors import DataError
from mnist_mlp.steps.data import epoch_order, keyed_generator, load_dataset
from tests.test_mnist_files import FILES, unpacked


def test_pixels_are_in_the_unit_interval_and_exact(small_mnist: Path) -> None:
    raw = unpacked(small_mnist, Path("root"))
    images = load_dataset("mnist", "root").train.images
    pixels = torch.frombuffer(
        bytearray((raw / FILES[0]).read_bytes()[16:]), dtype=torch.uint8
    ).view(20, 784)
    assert images.dtype == torch.float32
    assert torch.equal(images, pixels.float() / 255)
    assert (images.min().item(), images.max().item()) == (0, 1)


def test_digits_are_real_handwriting_in_mnists_frame() -> None:
    digits = load_dataset("digits")
    assert (len(digits.train.labels), len(digits.test.labels)) == (1437, 360)
    images = torch.cat([digits.train.images, digits.test.images]).view(-1, 28, 28)
    assert images.shape == (1797, 28, 28)
    assert images.min() == 0
    assert images.max() == 1
    border = torch.ones(28, 28, dtype=torch.bool)
    border[4:24, 4:24] = False
    assert images[:, border].max() == 0
    assert images[:, 4:24, 4:24].amax(dim=(0, 2)).min() > 0  # every row of the box is used
    counts = digits.test.labels.bincount()
    assert counts.max() - counts.min() <= 2  # stratified


def rows(images: torch.Tensor) -> list[bytes]:
    return [row.numpy().tobytes() for row in images]


def test_the_splits_share_no_example_and_lose_none() -> None:
    whole = load_dataset("digits")
    split = load_dataset("digits", validation=237, seed=3)
    assert split.validation is not None
    assert len(split.validation.labels) == 237
    assert sorted(rows(split.train.images) + rows(split.validation.images)) == sorted(
        rows(whole.train.images)
    )
    assert torch.equal(split.test.images, whole.test.images)
    again = load_dataset("digits", validation=237, seed=3)
    other = load_dataset("digits", validation=237, seed=4)
    assert again.validation is not None
    assert other.validation is not None
    assert torch.equal(again.validation.images, split.validation.images)
    assert not torch.equal(other.validation.images, split.validation.images)


@pytest.mark.parametrize("settings", [{"name": "minst"}, {"validation": -1}, {"validation": 1437}])
def test_what_there_is_not_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"minst|validation"):
        load_dataset(**({"name": "digits"} | settings))


def test_a_split_that_is_not_there() -> None:
    with pytest.raises(DataError, match="no validation split"):
        load_dataset("digits").split("validation")


def test_order_depends_on_seed_and_epoch_alone() -> None:
    torch.manual_seed(1)
    first = epoch_order(100, seed=0, epoch=1)
    torch.manual_seed(2)
    assert torch.equal(first, epoch_order(100, seed=0, epoch=1))
    assert sorted(first.tolist()) == list(range(100))
    assert not torch.equal(first, epoch_order(100, seed=0, epoch=2))
    assert not torch.equal(first, epoch_order(100, seed=1, epoch=1))
    assert keyed_generator(1, 23).initial_seed() != keyed_generator(12, 3).initial_seed()


@pytest.mark.mnist
def test_mnist_is_mnist(mnist_root: Path) -> None:
    mnist = load_dataset("mnist", mnist_root, validation=5000)
    assert mnist.validation is not None
    sizes = [len(split.labels) for split in (mnist.train, mnist.validation, mnist.test)]
    assert sizes == [55_000, 5_000, 10_000]
    assert mnist.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    lit = torch.cat([mnist.train.images, mnist.validation.images]).amax(dim=0) > 0
    assert int(lit.logical_not().sum()) == 67  # the pixels that no training image uses
