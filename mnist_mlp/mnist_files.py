"""MNIST's four files: find them below a data root, check every byte, download what is missing.

Downloads go over https unless the config names another mirror. The md5 decides whether a file is
the official one, so a bad mirror can only cost time.
"""

import gzip
import hashlib
import http.client
import logging
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnist_mlp.errors import DataError
from mnist_mlp.files import write_atomically

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""Seconds without a byte after which a mirror is given up."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine, to which a redirect need not be https."""
MAX_ARCHIVE_BYTES = 10_000_000
"""The largest of the four archives has 9,912,422 bytes."""
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


def raw_folder(root: str | Path) -> Path:
    """The folder of the four files below a data root, as torchvision lays it out.

    Raises:
        DataError: The root begins with ~ and an unknown user name.
    """
    try:
        return Path(root).expanduser() / "MNIST" / "raw"
    except RuntimeError:
        raise DataError(f"{root}: no such home folder; name another data root") from None


def has_mnist(root: str | Path) -> bool:
    """Whether all four files exist below a root, as archives or unpacked; they are not checked."""
    raw = raw_folder(root)
    return all((raw / name).exists() or (raw / f"{name}.gz").exists() for name in FILE_MD5)


def read_mnist(root: Path, mirrors: Sequence[str] = ()) -> dict[str, tuple[bytes, str]]:
    """Read the four files; unpack or download first what is missing.

    The mirrors are addresses to try before torchvision's own. Returns by file name the checked
    content, and "present", "unpacked" or "downloaded".

    Raises:
        DataError: A file is altered, or missing and cannot be downloaded.
        OSError: The root cannot be written to.
    """
    return {name: _read(raw_folder(root) / name, mirrors) for name in FILE_MD5}


def _read(path: Path, mirrors: Sequence[str]) -> tuple[bytes, str]:
    archive = path.with_name(f"{path.name}.gz")
    content = _checked(path, FILE_MD5[path.name])
    packed = _checked(archive, ARCHIVE_MD5[archive.name])
    if content:
        return content, "present"
    content = gzip.decompress(packed or _download(archive, mirrors))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return content, "unpacked" if packed else "downloaded"


def _checked(path: Path, md5: str) -> bytes | None:
    """The content of a file, or None if it does not exist.

    Raises:
        DataError: The content does not have this md5, or cannot be read.
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
            "delete it and run again: it will be downloaded anew"
        )
    return content


def _download(archive: Path, mirrors: Sequence[str]) -> bytes:
    """The archive from the first mirror that serves the official one."""
    from torchvision.datasets import MNIST

    failures = []
    # torchvision also lists a plain http mirror, which anybody on the way could read and alter.
    own = [mirror for mirror in MNIST.mirrors if mirror.startswith("https://")]
    for mirror in [*mirrors, *own]:
        url = f"{mirror.rstrip('/')}/{archive.name}"
        log.info("downloading %s", url)
        try:
            content = _get(url)
        except (OSError, http.client.HTTPException, ValueError) as error:
            failures.append(f"{mirror}: {_reason(error)}")
            continue
        actual = _md5(content)
        if actual == ARCHIVE_MD5[archive.name]:
            return content
        failures.append(f"{mirror}: wrong data ({len(content):,} bytes, md5 {actual})")
    wanted = ", ".join(f"{name} ({md5})" for name, md5 in ARCHIVE_MD5.items())
    raise DataError(
        f"cannot download {archive.name}: {'; '.join(failures)}\n"
        f"put these files (md5) into {archive.parent}, or train offline with --config digits: "
        f"{wanted}"
    )


def _get(url: str) -> bytes:
    """The body of a response, at most `MAX_ARCHIVE_BYTES` of it."""
    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(url, timeout=SILENCE_S) as response:
        content: bytes = response.read(MAX_ARCHIVE_BYTES)
    return content


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to https addresses and to this machine."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        _, response, *_, address = arguments
        target = urllib.parse.urlsplit(address)
        if target.scheme != "https" and target.hostname not in LOOPBACK:
            response.close()
            raise urllib.error.URLError(f"redirected to {address}, which is not https")
        return super().redirect_request(*arguments)


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {reason}"
    return f"no byte for {SILENCE_S:g} s" if str(reason) == "timed out" else str(reason)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
