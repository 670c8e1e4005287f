"""MNIST's four files: find them below a data root, check every byte, download what is missing.

Downloads go over https unless the config names another mirror. The md5 decides whether a file is
the official one, so a bad mirror can only cost time.
"""

import gzip
import hashlib
import http.client
import ipaddress
import logging
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mnist_mlp.errors import DataError
from mnist_mlp.files import write_atomically

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""Seconds without a byte after which a mirror is given up."""


class MnistFile(NamedTuple):
    """The md5 of one of the four files, and the md5 and size of the archive that it comes in."""

    md5: str
    archive_md5: str
    archive_size: int


MNIST_FILES = {
    "train-images-idx3-ubyte": MnistFile(
        "6bbc9ace898e44ae57da46a324031adb", "f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422
    ),
    "train-labels-idx1-ubyte": MnistFile(
        "a25bea736e30d166cdddb491f175f624", "d53e105ee54ea40749a09fcbcd1e9432", 28_881
    ),
    "t10k-images-idx3-ubyte": MnistFile(
        "2646ac647ad5339dbf082846283269ea", "9fb629c4189551a2d022fa330f9573f3", 1_648_877
    ),
    "t10k-labels-idx1-ubyte": MnistFile(
        "27ae3e4e09519cfbb04c329615203637", "ec29112dd5afa0611ce80d1b7f02629c", 4_542
    ),
}
"""The archives' md5s are torchvision's; the files' md5s come from unpacking those archives."""


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
    return all((raw / name).exists() or (raw / f"{name}.gz").exists() for name in MNIST_FILES)


def read_mnist(root: Path, mirrors: Sequence[str] = ()) -> dict[str, tuple[bytes, str]]:
    """Read the four files; unpack or download first what is missing.

    Args:
        root: The data root.
        mirrors: Addresses to try before torchvision's own.

    Returns:
        By file name its checked content, and "present", "unpacked" or "downloaded".

    Raises:
        DataError: A file is altered, or missing and cannot be downloaded.
        OSError: The root cannot be written to.
    """
    return {name: _read(name, root, mirrors) for name in MNIST_FILES}


def _read(name: str, root: Path, mirrors: Sequence[str]) -> tuple[bytes, str]:
    file = MNIST_FILES[name]
    path = raw_folder(root) / name
    archive = path.with_name(f"{name}.gz")
    content = _checked(path, file.md5)
    packed = _checked(archive, file.archive_md5)
    if content:
        return content, "present"
    content = gzip.decompress(packed or _download(archive, file, mirrors))
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


def _download(archive: Path, file: MnistFile, mirrors: Sequence[str]) -> bytes:
    """The archive from the first mirror that serves the official one."""
    from torchvision.datasets import MNIST

    failures = []
    # torchvision also lists a plain http mirror, which anybody on the way could read and alter.
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
        f"cannot download {archive.name}: {'; '.join(failures)}\n"
        f"put these files (md5) into {archive.parent}, or train offline with --config digits: "
        f"{wanted}"
    )


def _get(url: str, size: int) -> bytes:
    """The body of a response, cut off one byte after the expected size."""
    content = bytearray()
    opener = urllib.request.build_opener(_SafeRedirects)
    with opener.open(url, timeout=SILENCE_S) as response:
        while len(content) <= size and (chunk := response.read1(1 << 16)):
            content.extend(chunk)
    return bytes(content)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects only to https addresses and to this machine."""

    def redirect_request(self, *arguments: Any) -> urllib.request.Request | None:
        request = super().redirect_request(*arguments)
        target = urllib.parse.urlsplit(request.full_url if request else "")
        if target.scheme != "https" and not _is_loopback(target.hostname):
            arguments[1].close()  # the response
            raise urllib.error.URLError(f"redirected to {target.geturl()}, which is not https")
        return request


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
