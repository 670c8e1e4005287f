import os
import stat
from pathlib import Path

import pytest

from mnist_mlp.files import write_atomically


def test_it_writes_and_replaces() -> None:
    path = Path("file")
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(Path().iterdir()) == [path]


def test_others_may_read_it_as_the_umask_says() -> None:
    before = os.umask(0o027)
    try:
        write_atomically(Path("file"), b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path("file").stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_failed_write_changes_and_leaves_nothing(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("file")
    write_atomically(path, b"good")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(call, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"bad")
    assert path.read_bytes() == b"good"
    assert list(Path().iterdir()) == [path]


def test_write_order(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "fsync")
        fsync(descriptor)

    def note_replace(self: Path, target: Path) -> Path:
        calls.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_atomically(Path("file"), b"content")
    assert calls == ["fsync", "rename", "fsync folder"]
