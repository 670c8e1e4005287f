"""Writing files so that a crash cannot leave one half-written; tables as CSV."""

import csv
import io
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any


def half_written(folder: Path, names: str) -> Iterator[Path]:
    """What a killed `write_atomically` has left of files whose names match a regular expression."""
    left = re.compile(rf"\.({names})\.[0-9a-f]{{8}}\.tmp")
    return (path for path in folder.glob(".*.tmp") if left.fullmatch(path.name))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees either the old file or the complete new one.

    The content goes to a temporary file, which is fsynced and renamed. The directory is fsynced
    too, so that the rename survives a power cut; Windows cannot do that. After an OSError the old
    file is unchanged and the temporary file removed.
    """
    temporary = Path(path.parent, f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):  # it may not exist
            temporary.unlink()
        if isinstance(error, OSError):
            error.filename = str(path)  # rather than the temporary name, or none
        raise
    if os.name == "posix":
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def append(path: Path, content: bytes) -> None:
    """Append to a file; an OSError names the file."""
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError as error:
        error.filename = str(path)  # a failed write names none
        raise


def to_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table as the text of a CSV file."""
    csv.writer(file := io.StringIO(), lineterminator="\n").writerows([header, *rows])
    return file.getvalue()
