"""Runs side by side, read from their config.yaml and metrics.jsonl. No torch is imported here."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mnist_mlp.config import Config, load_config
from mnist_mlp.errors import UsageError
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.runs.directory import RUNS, find_run, is_finished, read_rows
from mnist_mlp.steps.results import EpochResult

log = logging.getLogger(__name__)


class RunSummary(BaseModel):
    """A run in one row. Losses, accuracies and seconds are those of its last finished epoch."""

    train_loss: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float | None = None
    path: Path
    config: Config
    dataset: str
    epochs: int
    epochs_wanted: int
    finished: bool
    last_epoch: datetime | None  # when its metrics were last written


class Runs(NotebookHtml, tuple[RunSummary, ...]):
    """Runs side by side."""


def list_runs(folder: str | Path = RUNS) -> Runs:
    """The runs in a folder, the newest last. Other folders and files are ignored.

    Warns of a run whose config cannot be read.
    """
    found = []
    for path in sorted(Path(folder).glob("[!.]*/config.yaml")):
        try:
            found.append(summarise(path.parent))
        except UsageError as error:
            log.warning("not listed: %s", str(error).partition("\n")[0])
    oldest = datetime.min.replace(tzinfo=UTC)
    return Runs(sorted(found, key=lambda run: run.last_epoch or oldest))


def find_runs(targets: Sequence[Path]) -> Runs:
    """The runs that people name: run directories, names, folders of runs; else a UsageError."""
    found: list[RunSummary] = []
    for target in map(find_run, targets):
        inside = () if (target / "config.yaml").exists() else list_runs(target)
        found += inside or [summarise(target)]
    return Runs(found)


def sort_runs(runs: Runs, key: str) -> Runs:
    """Sort by a result (accuracies fall) or a config key, or its last part; else a UsageError."""
    results = {"validation": "validation_accuracy", "test": "test_accuracy"}
    columns = ("epochs", "seconds", "train_loss", "validation_loss")
    own = key in (*results, *columns)  # goes before data.validation, data.test and train.epochs
    keys = [k for k in Config().flat() if not own and key in (k, k.rpartition(".")[2])]
    if not keys and not own:
        known = ", ".join((*results, *columns))
        raise UsageError(f"--sort {key}: no such column; {known}, or a key of the config")

    def value(run: RunSummary) -> tuple[bool, Any]:
        found = getattr(run, results.get(key, key)) if own else run.config.flat()[keys[0]]
        return found is None, -found if found and key in results else found

    return Runs(sorted(runs, key=value))


def summarise(path: Path) -> RunSummary:
    """Read a run directory; a UsageError if it is none, or its config cannot be read."""
    if not (path / "config.yaml").is_file():
        raise UsageError(f"{path}: not a run directory; mnist-mlp runs lists those under {RUNS}/")
    config = load_config(path / "config.yaml", environment={})
    rows, written = list[EpochResult](), None
    with suppress(OSError):
        changed = (path / "metrics.jsonl").stat().st_mtime
        if rows := read_rows(path, config.train.epochs):
            written = datetime.fromtimestamp(changed, UTC).replace(microsecond=0)
    last = asdict(rows[-1]) if rows else {"epoch": 0}
    return RunSummary(
        path=path,
        config=config,
        dataset=config.data.dataset,
        epochs=last["epoch"],
        epochs_wanted=config.train.epochs,
        finished=is_finished(config, rows),
        last_epoch=written,
        **last,
    )


def differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """The config keys in which runs differ, each with its value in every run."""
    configs = [run.config.flat() for run in runs]
    by_key = {key: [config[key] for config in configs] for key in configs[0]}
    return {key: values for key, values in by_key.items() if any(v != values[0] for v in values)}
