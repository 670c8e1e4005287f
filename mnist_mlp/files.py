"""Files that are whole or not there: written aside, flushed, renamed."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: Path, content: bytes) -> None:
    """Put content at path so that a reader, or a crash, sees the old file or the new one whole.

    The folder is flushed too, so that the rename survives a power cut (not on Windows, which
    cannot flush a folder).

    Raises:
        OSError: Nothing at path has changed and nothing is left beside it.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{path.name}.", suffix=".tmp", dir=path.parent
        )
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())  # mkstemp keeps others out; a result need not
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # what a person knows, and a failed write does not say
        raise
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def append(path: Path, content: bytes) -> None:
    """Add content to the end of a file.

    Raises:
        OSError: It names the file.
    """
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        error.filename = str(path)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
