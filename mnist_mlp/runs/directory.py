"""A run's folder: its name, its lock, its files' names, its rows. No torch is imported here.

A run directory holds `config.yaml` (complete; it can be trained from again), `environment.json`,
`metrics.jsonl` (a row for each epoch) and `checkpoints/`.
"""

import logging
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from mnist_mlp.config import Config
from mnist_mlp.errors import CheckpointError, RunInUseError, UsageError
from mnist_mlp.files import half_written
from mnist_mlp.steps.results import EpochResult

log = logging.getLogger(__name__)

RUNS = Path("runs")  # where run directories are created and looked for, below the current folder
_CHECKPOINT = re.compile(r"epoch-(\d{3,})(?:-update-(\d+))?\.safetensors")
_ROW = TypeAdapter(EpochResult)


def checkpoint_path(run_dir: Path, epoch: int, update: int | None = None) -> Path:
    """The checkpoint at the end of an epoch; or in the next one, after that update of the run."""
    within = "" if update is None else f"-update-{update}"
    return run_dir / "checkpoints" / f"epoch-{epoch:03d}{within}.safetensors"


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run directory, oldest first. Files with other names are left alone."""
    paths = (run_dir / "checkpoints").glob("epoch-*.safetensors")
    found = [path for path in paths if _CHECKPOINT.fullmatch(path.name) and path.is_file()]
    return sorted(found, key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)])


def whole_epochs(run_dir: Path) -> dict[Path, int]:
    """The checkpoints that were written at the end of an epoch, oldest first, with that epoch."""
    epochs = {path: int(path.stem.split("-")[1]) for path in list_checkpoints(run_dir)}
    return {path: n for path, n in epochs.items() if path == checkpoint_path(run_dir, n)}


def find_run(target: Path) -> Path:
    """A path as it is; or where there is nothing, the run of that name under runs/."""
    named = RUNS / target
    return named if not target.exists() and named.is_dir() else target


def is_network(path: Path) -> bool:
    """Whether a path is a run directory, or a file that is meant as a network."""
    if path.suffix in (".safetensors", ".onnx", ".pt2"):
        return True
    return (path / "environment.json").is_file() or (path / "checkpoints").is_dir()


def newest_run() -> Path:
    """The run directory with the youngest checkpoint; a CheckpointError where no run has any.

    Warns of a later run that has none.
    """
    checkpoints = [c for run in RUNS.glob("[!.]*/") for c in list_checkpoints(run)[-1:]]
    if not checkpoints:
        inside = sorted(RUNS.glob("[!.]*/[!.]*/checkpoints/epoch-*.safetensors"))  # of a sweep
        name = f"name one, such as {inside[0].parents[1]}" if inside else "name a run directory"
        raise CheckpointError(
            f"{RUNS}/: no run with a checkpoint here; "
            f"train first (mnist-mlp train --config digits) or {name}"
        )
    newest = max(checkpoints, key=lambda path: path.stat().st_mtime_ns)
    for begun in RUNS.glob("[!.]*/environment.json"):
        later = begun.stat().st_mtime_ns > newest.stat().st_mtime_ns
        if later and not list_checkpoints(begun.parent):
            log.warning("%s saved no checkpoint; using %s", begun.parent, newest.parent.parent)
    return newest.parent.parent


def read_rows(run_dir: Path, epochs: int) -> list[EpochResult]:
    """The rows of metrics.jsonl up to an epoch, or to the first that is torn or out of order."""
    rows: list[EpochResult] = []
    with suppress(FileNotFoundError, ValueError):
        for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            row = _ROW.validate_json(line)
            in_order = row.epoch > rows[-1].epoch if rows else row.epoch == 0
            if not in_order or row.epoch > epochs:
                break
            rows.append(row)
    return rows


def is_finished(config: Config, rows: Sequence[EpochResult]) -> bool:
    """Whether the newest row is the last: of the last epoch, or for lack of patience."""
    if not rows or rows[-1].epoch == config.train.epochs:
        return bool(rows)
    losses = [math.inf if row.validation_loss is None else row.validation_loss for row in rows]
    worse = len(losses) - 1 - losses.index(min(losses))  # epochs since the best one
    return config.train.patience is not None and worse >= config.train.patience


@contextmanager
def open_directory(
    name: str, run_dir: str | Path | None, *, resume: bool, dry_run: bool
) -> Iterator[Path]:
    """Create or reopen a run directory, and hold its lock inside a `with` block.

    Without run_dir it is a new `runs/<name>-NNN`. To resume, the directory may hold checkpoints. A
    dry run gets a folder that is removed again, where the run would be. A RunInUseError where
    another process holds the lock, a UsageError where the directory holds a checkpoint or files
    that are not a run's, an OSError where it cannot be written to.
    """
    if dry_run:
        wanted = Path(run_dir or RUNS).absolute()
        beside = next(folder for folder in (wanted, *wanted.parents) if folder.is_dir())
        with tempfile.TemporaryDirectory(prefix=".mnist-mlp-", dir=beside) as scratch:
            yield Path(scratch)
        return
    directory = _new_directory(name) if run_dir is None else Path(run_dir)
    directory.mkdir(parents=True, exist_ok=True)
    with _lock(directory):
        _refuse_used(directory, resume)  # another process may have been faster
        yield directory


def refuse_unusable(run_dir: Path, resume: bool) -> None:
    """Refuse a directory before data are loaded, or a lock put into a folder of somebody else."""
    if resume and not run_dir.is_dir():
        raise UsageError(f"{run_dir}: no such run; mnist-mlp runs lists those under {RUNS}/")
    if (run_dir / ".lock").exists():
        with _lock(run_dir):
            pass  # "another process trains here" explains more than "holds a checkpoint"
    _refuse_used(run_dir, resume)


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Keep other trainers out of a run directory; remove what a killed one left half-written."""
    try:
        with FileLock(directory / ".lock", blocking=False):  # ends with its process, in any way
            written = rf"config\.yaml|environment\.json|metrics\.jsonl|{_CHECKPOINT.pattern}"
            for folder in (directory, directory / "checkpoints"):
                for left in half_written(folder, written):
                    left.unlink()
            yield
    except Timeout:
        raise RunInUseError(
            f"{directory}: another process is training here; wait for it or choose another run"
        ) from None


def _new_directory(name: str) -> Path:
    RUNS.mkdir(exist_ok=True)
    numbered = re.compile(rf"{re.escape(name)}-(\d{{3,9}})")
    taken = [int(m[1]) for path in RUNS.iterdir() if (m := numbered.fullmatch(path.name))]
    number = max(taken, default=0)
    while True:
        number += 1
        directory = RUNS / f"{name}-{number:03d}"
        with suppress(FileExistsError):  # where another process was faster
            directory.mkdir()
            return directory


def _refuse_used(run_dir: Path, resume: bool) -> None:
    """Refuse files that are not a run's, and for a new run also those of one with a checkpoint."""
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir}: a file, not a folder; choose another --run-dir")
    if list_checkpoints(run_dir):
        if resume:
            return
        raise UsageError(
            f"{run_dir}: already holds a checkpoint; choose another --run-dir, "
            f"or continue that run with --resume {run_dir}"
        )
    names = {path.name for path in run_dir.iterdir()} - {".lock"}
    if names and "environment.json" not in names:  # which `Record` writes first
        raise UsageError(f"{run_dir}: holds files that are no run's; choose another --run-dir")
