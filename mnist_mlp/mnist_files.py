"""MNIST's four files: find them below a data root, check every byte, download what is missing.

torchvision downloads and unpacks. The md5 decides whether a file is the official one, so a bad
mirror can only cost time.
"""

import contextlib
import gzip
import hashlib
import http.client
import io
import logging
import os
import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from rich.file_proxy import FileProxy

from mnist_mlp.errors import DataError
from mnist_mlp.files import write_atomically
from mnist_mlp.signals import at_stop

log = logging.getLogger(__name__)

SILENCE_S = 10.0  # seconds without a byte after which a mirror is given up
FILE_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
ARCHIVE_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
"""As in torchvision; the files' md5s come from unpacking these archives."""


class MnistFile(NamedTuple):
    """One of the four files, checked."""

    content: bytes
    path: Path
    origin: str  # present, unpacked or downloaded


def has_mnist(root: str | Path) -> bool:
    """Whether all four files exist below a root, as archives or unpacked; they are not checked."""
    return all(any(map(Path.is_file, _places(_folders(root), name))) for name in FILE_MD5)


def read_mnist(root: str | Path, mirrors: Sequence[str] = ()) -> dict[str, MnistFile]:
    """Read the four files by name; download what is nowhere below the root.

    Archives in torchvision's folder are unpacked there. What lies elsewhere is used where it lies:
    in `root` or `root/raw`, as `train-images.idx3-ubyte` too, or in a folder of the file's name.
    The mirrors are addresses to try before torchvision's own. A DataError where a file is altered,
    or missing and cannot be downloaded; an OSError where the root cannot be written to.
    """
    folders = _folders(root)
    files = {name: _read(folders, name, mirrors) for name in FILE_MD5}
    elsewhere = [f.path.parent for f in files.values() if f.path.parent != folders[0]]
    if elsewhere:
        log.info("MNIST is read from %s", os.path.commonpath(elsewhere))
    return files


def _folders(root: str | Path) -> list[Path]:
    """The folders below a root, torchvision's first; a DataError if a ~user is unknown."""
    try:
        root = Path(root).expanduser()
    except RuntimeError:
        raise DataError(f"{root}: no such home folder; name another data root") from None
    return [root / "MNIST" / "raw", root / "raw", root]


def _places(folders: Sequence[Path], name: str) -> Iterator[Path]:
    """Where a file may lie, packed or not."""
    for folder in folders:
        for stem in (name, name.replace("-idx", ".idx")):
            for path in (folder / stem, folder / stem / stem):
                yield from (path, path.with_name(f"{stem}.gz"))


def _read(folders: Sequence[Path], name: str, mirrors: Sequence[str]) -> MnistFile:
    home, archive = folders[0] / name, folders[0] / f"{name}.gz"
    found: MnistFile | None = None
    for path in filter(Path.is_file, _places(folders, name)):
        packed = path.suffix == ".gz"
        md5 = ARCHIVE_MD5[f"{name}.gz"] if packed else FILE_MD5[name]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror}") from None
        if (actual := hashlib.md5(content, usedforsecurity=False).hexdigest()) == md5:
            content = gzip.decompress(content) if packed and not found else content
            found = found or MnistFile(content, path, "present")
        elif path in (home, archive):
            raise DataError(
                f"{path}: not the official file: {len(content):,} bytes with md5 {actual}, not "
                f"{md5}\ndelete it and run again: it will be downloaded anew"
            )
        elif not found:
            log.warning("%s: not the official file; it is left alone", path)
    if found and found.path != archive:
        return found
    content = found.content if found else _download(folders, name, mirrors)
    home.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(home, content)
    return MnistFile(content, home, "unpacked" if found else "downloaded")


def _download(folders: Sequence[Path], name: str, mirrors: Sequence[str]) -> bytes:
    """The unpacked file from the first mirror that serves the official one."""
    from torchvision.datasets import MNIST
    from torchvision.datasets.utils import download_and_extract_archive

    archive, failures = f"{name}.gz", []
    # torchvision also lists a plain http mirror, which anybody on the way could read and alter.
    own = [mirror for mirror in MNIST.mirrors if mirror.startswith("https://")]
    for mirror in [*mirrors, *own]:
        url = f"{mirror.rstrip('/')}/{archive}"
        log.info("downloading %s", url)
        try:
            with tempfile.TemporaryDirectory(prefix="mnist-mlp-") as folder, _guarded(url):
                at_stop.append(partial(shutil.rmtree, folder))
                download_and_extract_archive(url, folder, None, archive, ARCHIVE_MD5[archive])
                return Path(folder, name).read_bytes()
        # torchvision raises a RuntimeError for a wrong md5; an HTTPException is a broken answer.
        except (OSError, RuntimeError, ValueError, http.client.HTTPException) as error:
            failures.append(f"{mirror}: {_reason(error)}")
    raw, *others = folders
    wanted = ", ".join(f"{name} ({md5})" for name, md5 in ARCHIVE_MD5.items())
    raise DataError(
        f"cannot download {archive}, which is in none of {raw}, {', '.join(map(str, others))}: "
        f"{'; '.join(failures)}\ntrain offline with --config digits, or put these files (md5) into "
        f"{raw}: {wanted}"
    )


class _HttpsOnly(urllib.request.HTTPHandler):
    """Refuses plain http, to which torchvision would turn where https fails."""

    def http_open(self, request: urllib.request.Request) -> NoReturn:
        raise urllib.error.URLError(f"{request.full_url} is not https")


@contextlib.contextmanager
def _guarded(url: str) -> Iterator[None]:
    """Limit the time of a read in a `with` block, and let an https address never lead to http.

    torchvision's progress bar is shown on a terminal only, and not beside a live line.
    """
    beside = isinstance(sys.stderr, FileProxy)  # which would make a line of each step of the bar
    shown = sys.stderr.isatty() and log.isEnabledFor(logging.INFO) and not beside
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE_S)
    if url.startswith("https:"):
        urllib.request.install_opener(urllib.request.build_opener(_HttpsOnly))
    try:
        with contextlib.nullcontext() if shown else contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
        urllib.request.install_opener(urllib.request.build_opener())


def _reason(error: Exception) -> str:
    if isinstance(error, RuntimeError):
        return "not the official file"
    error = error.__context__ if isinstance(error.__context__, OSError) else error
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {reason}"
    return f"no byte for {SILENCE_S:g} s" if str(reason) == "timed out" else str(reason)
