"""Step 1: an image is a vector x of 784 pixels, each from 0 (black) to 1 (white).

Two data sets, both held whole in memory as tensors on the training device: torchvision's MNIST,
fetched once and checked byte for byte at every load, and scikit-learn's bundled handwritten
digits, which need no network.
"""

import gzip
import hashlib
import http.client
import ipaddress
import logging
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_mlp.constants import TRAINING_EXAMPLES
from mnist_mlp.errors import DataError
from mnist_mlp.files import write_atomically

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""Seconds without a byte after which a mirror is dead."""
SLOWEST = 1_000
"""Bytes a second, on average over a minute and more, under which a mirror is dead too."""


class MnistFile(NamedTuple):
    """One of the four files: its size and md5, and those of the archive it is fetched as."""

    md5: str
    size: int
    archive_md5: str
    archive_size: int


MNIST_FILES = {
    "train-images-idx3-ubyte": MnistFile(
        "6bbc9ace898e44ae57da46a324031adb",
        47_040_016,
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        9_912_422,
    ),
    "train-labels-idx1-ubyte": MnistFile(
        "a25bea736e30d166cdddb491f175f624", 60_008, "d53e105ee54ea40749a09fcbcd1e9432", 28_881
    ),
    "t10k-images-idx3-ubyte": MnistFile(
        "2646ac647ad5339dbf082846283269ea", 7_840_016, "9fb629c4189551a2d022fa330f9573f3", 1_648_877
    ),
    "t10k-labels-idx1-ubyte": MnistFile(
        "27ae3e4e09519cfbb04c329615203637", 10_008, "ec29112dd5afa0611ce80d1b7f02629c", 4_542
    ),
}
"""The archives' md5s are torchvision's own; the others follow from unpacking those archives."""


class Split(NamedTuple):
    """Pixels (N, 784) as bytes, a quarter of the room of their float32 images; labels (N,), int64.

    Iterating gives `pixels, labels`, which is what `evaluate_model` takes.
    """

    pixels: Tensor
    labels: Tensor

    @property
    def images(self) -> Tensor:
        """All images (N, 784), float32 in [0, 1], made anew at each call."""
        return to_images(self.pixels)


class Dataset(NamedTuple):
    """What a run learns from, chooses by and is judged on; no example is in two of them."""

    name: str
    train: Split
    validation: Split | None
    test: Split

    def split(self, name: str) -> Split:
        """The split called train, validation or test.

        Raises:
            DataError: There is no validation split.
        """
        split: Split | None = getattr(self, name)
        if split is None:
            raise DataError(
                f"{self.name} has no {name} split: data.validation is 0; use --split train or test"
            )
        return split

    def to(self, device: torch.device) -> "Dataset":
        """The same data on a device."""
        splits = (
            split and Split(*(tensor.to(device) for tensor in split))
            for split in (self.train, self.validation, self.test)
        )
        return Dataset(self.name, *splits)  # type: ignore[arg-type]


def to_images(pixels: Tensor) -> Tensor:
    """Bytes from 0 to 255 as float32 from 0 to 1, of any shape; what are no bytes stay."""
    return pixels / 255 if pixels.dtype == torch.uint8 else pixels


def load_dataset(
    name: str = "mnist",
    root: str | Path = "data",
    mirrors: Sequence[str] = (),
    validation: int = 0,
    seed: int = 0,
) -> Dataset:
    """Load a data set into memory.

    Args:
        name: mnist or digits.
        root: The folder above `MNIST/raw/`.
        mirrors: Addresses tried before torchvision's own.
        validation: Training examples to hold out.
        seed: Decides which.

    Raises:
        DataError: A file is altered, or missing and not to be had.
        OSError: The root cannot be written to.
        ValueError: There is no such data set, or it has no so many examples to hold out.
    """
    if name not in TRAINING_EXAMPLES:
        raise ValueError(f"no data set is called {name!r}: {', '.join(TRAINING_EXAMPLES)}")
    train, test = _load_digits() if name == "digits" else _load_mnist(Path(root), mirrors)
    if not 0 <= validation < len(train.labels):
        raise ValueError(f"validation must be from 0 to {len(train.labels) - 1}")
    if not validation:
        return Dataset(name, train, None, test)
    examples = len(train.labels)
    order = torch.randperm(examples, generator=keyed_generator(seed, "validation"))
    held_out, kept = torch.split(order, [validation, examples - validation])
    return Dataset(
        name,
        train=Split(train.pixels[kept], train.labels[kept]),
        validation=Split(train.pixels[held_out], train.labels[held_out]),
        test=test,
    )


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator whose numbers depend on the key alone: on no device and no history."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def epoch_order(examples: int, seed: int, epoch: int) -> Tensor:
    """The order (N,) in which an epoch visits its examples: a permutation keyed by the epoch."""
    return torch.randperm(examples, generator=keyed_generator(seed, "order", epoch))


def fetch_mnist(root: Path, mirrors: Sequence[str] = ()) -> dict[str, str]:
    """Make sure that the four files are in root, whole; fetch or unpack what is missing.

    Returns:
        For each file "present", "unpacked" or "downloaded".

    Raises:
        DataError: A file is altered, or missing and not to be had.
        OSError: The root cannot be written to.
    """
    return {name: _fetch(name, root, mirrors)[0] for name in MNIST_FILES}


def _fetch(name: str, root: Path, mirrors: Sequence[str]) -> tuple[str, bytes]:
    """Where one file came from, and its content, whose md5 is right."""
    file = MNIST_FILES[name]
    path = raw_folder(root) / name
    archive = path.with_name(f"{name}.gz")
    unpacked = _checked(path, file.md5)
    packed = _checked(archive, file.archive_md5)
    if unpacked:
        return "present", unpacked
    content = gzip.decompress(packed or _download(archive, file, mirrors))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return "unpacked" if packed else "downloaded", content


def raw_folder(root: str | Path) -> Path:
    """Where the four files lie below a root: torchvision's layout.

    Raises:
        DataError: The root begins with ~ and a name that is no user's.
    """
    try:
        return Path(root).expanduser() / "MNIST" / "raw"
    except RuntimeError:
        raise DataError(f"{root}: no such home folder; name another data root") from None


def has_mnist(root: str | Path) -> bool:
    """Whether all four files lie under root, packed or not; what is in them is another matter."""
    raw = raw_folder(root)
    return all((raw / name).exists() or (raw / f"{name}.gz").exists() for name in MNIST_FILES)


def _load_mnist(root: Path, mirrors: Sequence[str]) -> tuple[Split, Split]:
    # Their md5s being right, the files hold what torchvision.datasets.MNIST would read from them:
    # bytes, after a header of four numbers (images) or two (labels) of four bytes.
    contents = {name: bytearray(_fetch(name, root, mirrors)[1]) for name in MNIST_FILES}
    train, test = (
        Split(
            pixels=_bytes(contents[f"{part}-images-idx3-ubyte"], header=16).view(-1, 784),
            labels=_bytes(contents[f"{part}-labels-idx1-ubyte"], header=8).long(),
        )
        for part in ("train", "t10k")
    )
    return train, test


def _bytes(content: bytearray, header: int) -> Tensor:
    return torch.frombuffer(content, dtype=torch.uint8, offset=header)


def _load_digits() -> tuple[Split, Split]:
    """1,797 digits of 8×8 pixels from 0 to 16, a stratified fifth of them the test set.

    They are scaled as MNIST's makers did theirs: to a 20×20 box, centred in 28×28.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().div(16).unsqueeze(1)  # (N, 1, 8, 8)
    scaled = F.interpolate(small, size=(20, 20), mode="bilinear", align_corners=False)
    pixels = F.pad(scaled, (4, 4, 4, 4)).flatten(1).mul(255).round().byte()  # (N, 784)
    labels = torch.from_numpy(digits.target).long()
    kept, held_out = train_test_split(
        torch.arange(len(labels)).numpy(), test_size=0.2, stratify=digits.target, random_state=0
    )
    return Split(pixels[kept], labels[kept]), Split(pixels[held_out], labels[held_out])


def _checked(path: Path, md5: str) -> bytes | None:
    """The content of a file, None where there is none.

    Raises:
        DataError: The content is not what the md5 says, or cannot be read.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    actual = _md5(content)
    if actual != md5:
        raise DataError(
            f"{path}: not the official file: {len(content):,} bytes with md5 {actual}, not {md5}\n"
            "delete it and run again: it will be fetched anew"
        )
    return content


def _download(archive: Path, file: MnistFile, mirrors: Sequence[str]) -> bytes:
    """The archive's content from the first mirror that has it."""
    from torchvision.datasets import MNIST

    failures = []
    # Of torchvision's own mirrors only those that cannot be read along the way.
    own = [mirror for mirror in MNIST.mirrors if mirror.startswith("https://")]
    for mirror in [*mirrors, *own]:
        url = f"{mirror.rstrip('/')}/{archive.name}"
        log.info("downloading %s", url)
        try:
            content = _get(url, file.archive_size)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{mirror}: {_reason(error)}")
            continue
        actual = _md5(content)
        if actual == file.archive_md5:
            return content
        failures.append(
            f"{mirror}: wrong data ({len(content):,} bytes of {file.archive_size:,}, md5 {actual})"
        )
    wanted = ", ".join(f"{name}.gz ({file.archive_md5})" for name, file in MNIST_FILES.items())
    raise DataError(
        f"cannot fetch {archive.name}: {'; '.join(failures)}\n"
        f"put these files (md5) into {archive.parent}, or train offline with --config digits: "
        f"{wanted}"
    )


def _get(url: str, size: int) -> bytes:
    """The body of a response, cut off at one byte over the size that is expected.

    It is read in a thread of its own, since a server that drips names, headers or chunk sizes can
    hold up a read for ever; here only the body's bytes count as a sign of life.
    """
    content = bytearray()
    failures: list[Exception] = []

    def read() -> None:
        try:
            with urllib.request.build_opener(_SafeRedirects).open(
                url, timeout=SILENCE_S
            ) as response:
                while len(content) <= size and (chunk := response.read1(1 << 16)):
                    content.extend(chunk)
        except Exception as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            failures.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    started = heard = time.monotonic()
    received = 0
    while thread.is_alive():
        thread.join(0.02)
        now = time.monotonic()
        if len(content) > received:
            received, heard = len(content), now
        if now - heard > SILENCE_S:
            raise TimeoutError("timed out")
        if now - started > 60 and received < SLOWEST * (now - started):
            raise TimeoutError(f"under {SLOWEST} bytes a second")
    if failures:
        raise failures[0]
    return bytes(content)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and on this machine; anything else would be read on the way."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        target = urllib.parse.urlsplit(newurl)
        if target.scheme != "https" and not _is_loopback(target.hostname):
            fp.close()
            raise urllib.error.URLError(f"redirected to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {reason}"
    return f"no byte for {SILENCE_S:g} s" if str(reason) == "timed out" else str(reason)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
