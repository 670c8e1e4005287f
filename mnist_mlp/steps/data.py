"""Step 1: an image is a vector x of 784 pixels, each from 0 (black) to 1 (white).

There are two data sets: MNIST, and scikit-learn's handwritten digits, which need no download.
Both are loaded whole into memory and moved to the training device. There is no DataLoader.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.constants import INPUT_SIZE, TRAINING_EXAMPLES
from mnist_mlp.errors import DataError
from mnist_mlp.mnist_files import read_mnist


class Split(NamedTuple):
    """Examples: pixels (N, 784), uint8 from 0 to 255, and labels (N,), int64.

    As uint8 the pixels take a quarter of the memory of the float32 images made from them.
    """

    pixels: Tensor
    labels: Tensor

    @property
    def images(self) -> Tensor:
        """All images (N, 784), float32 in [0, 1]; computed at each access."""
        return to_images(self.pixels)


class Dataset(NamedTuple):
    """The training, validation and test splits. They share no example."""

    name: str
    train: Split
    validation: Split | None
    test: Split

    def split(self, name: str) -> Split:
        """The split called train, validation or test; a DataError if there is no validation."""
        if name not in self.splits():
            raise DataError(
                f"{self.name} has no {name} split: data.validation is 0; use --split train or test"
            )
        return self.splits()[name]

    def splits(self) -> dict[str, Split]:
        """The splits that exist, by name."""
        return {name: part for name, part in self._asdict().items() if isinstance(part, Split)}

    def to(self, device: torch.device) -> "Dataset":
        """The same data on another device."""
        moved = {n: Split(*(t.to(device) for t in split)) for n, split in self.splits().items()}
        return self._replace(**moved)  # type: ignore[arg-type]


def to_images(pixels: Tensor) -> Tensor:
    """Pixels of any shape as float32 in [0, 1]. Only uint8 is converted; other dtypes are kept."""
    # In place: to allocate a second tensor would take as long again.
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def load_dataset(
    name: str = "mnist",
    root: str | Path = "data",
    mirrors: Sequence[str] = (),
    validation: int = 0,
    seed: int = 0,
) -> Dataset:
    """Load mnist or digits into memory, on the CPU.

    The root holds `MNIST/raw/`. Mirrors are addresses to try before torchvision's own when MNIST
    has to be downloaded. `validation` training examples are held out; the seed decides which. A
    DataError where a file is altered, or missing and cannot be downloaded; an OSError where the
    root cannot be written to; a ValueError for another name, or too few examples to hold out.
    """
    if name not in TRAINING_EXAMPLES:
        raise ValueError(f"no data set is called {name!r}: {', '.join(TRAINING_EXAMPLES)}")
    train, test = _load_digits() if name == "digits" else _load_mnist(root, mirrors)
    examples = len(train.labels)
    if not 0 <= validation < examples:
        raise ValueError(f"validation must be from 0 to {examples - 1}")
    if not validation:
        return Dataset(name, train, None, test)
    order = torch.randperm(examples, generator=keyed_generator(seed, "validation"))
    held_out, rest = (
        Split(train.pixels[index], train.labels[index])
        for index in torch.split(order, [validation, examples - validation])
    )
    return Dataset(name, rest, held_out, test)


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU random number generator whose numbers depend only on the key, not on past draws.

    So a run that resumes at some epoch draws what it would have drawn without the interruption.
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def epoch_order(examples: int, seed: int, epoch: int) -> Tensor:
    """The order (N,) in which an epoch visits the examples: a random permutation of 0 to N − 1."""
    return torch.randperm(examples, generator=keyed_generator(seed, "order", epoch))


def _load_mnist(root: str | Path, mirrors: Sequence[str]) -> tuple[Split, Split]:
    # The files hold one byte for each pixel or label, after a header of 16 bytes (images) or 8
    # (labels). torchvision.datasets.MNIST reads the same numbers, but importing it takes a second.
    images, labels, test_images, test_labels = (
        torch.frombuffer(bytearray(file.content), dtype=torch.uint8)
        for file in read_mnist(root, mirrors).values()
    )
    return (
        Split(images[16:].view(-1, INPUT_SIZE), labels[8:].long()),
        Split(test_images[16:].view(-1, INPUT_SIZE), test_labels[8:].long()),
    )


def _load_digits() -> tuple[Split, Split]:
    """1,797 digits of 8×8 pixels, values 0 to 16; a stratified fifth is the test set.

    Each is scaled to 20×20 and centred in 28×28, the frame that MNIST uses.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # (N, 1, 8, 8)
    scaled = F.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    pixels = F.pad(scaled, (4, 4, 4, 4)).flatten(1).mul(255).round().byte()  # (N, 784)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=0.2, stratify=digits.target, random_state=0
    )
    return Split(pixels[train], labels[train]), Split(pixels[test], labels[test])
