"""Runs side by side, read from their config.yaml and metrics.jsonl. No torch is imported here."""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnist_mlp.config import Config, load_config
from mnist_mlp.errors import ConfigError, UsageError
from mnist_mlp.runs.directory import RUNS


@dataclass(frozen=True)
class RunSummary:
    """A run in one row. Losses, accuracies and seconds are those of its last finished epoch."""

    path: Path
    config: Config
    dataset: str
    epochs: int
    epochs_wanted: int
    finished: bool
    train_loss: float | None
    validation_accuracy: float | None
    test_accuracy: float | None
    seconds: float | None
    last_epoch: datetime | None

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON types."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return values | {
            "path": str(self.path),
            "config": self.config.model_dump(mode="json"),
            "last_epoch": self.last_epoch and self.last_epoch.isoformat(timespec="seconds"),
        }


def list_runs(folder: Path = RUNS) -> list[RunSummary]:
    """The runs in a folder, the newest last. Other folders and files are ignored."""
    found = []
    for path in sorted(folder.glob("*/")):
        with suppress(UsageError):
            found.append(summarise(path))
    oldest = datetime.min.replace(tzinfo=UTC)
    return sorted(found, key=lambda run: run.last_epoch or oldest)


def summarise(path: Path) -> RunSummary:
    """Read a run directory.

    Raises:
        UsageError: It is not a run directory, or its config cannot be read.
    """
    if not (path / "config.yaml").is_file():
        raise UsageError(f"{path}: not a run directory; mnist-mlp runs lists those under {RUNS}/")
    try:
        config = load_config(path / "config.yaml", environment={})
    except ConfigError as error:
        raise UsageError(str(error)) from None
    metrics = path / "metrics.jsonl"
    last: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):  # a last line may be torn
        for line in metrics.read_text(encoding="utf-8").splitlines():
            last = dict(json.loads(line))
    epochs = last.get("epoch", 0)
    return RunSummary(
        path=path,
        config=config,
        dataset=config.data.dataset,
        epochs=epochs,
        epochs_wanted=config.train.epochs,
        finished=epochs == config.train.epochs,
        train_loss=last.get("train_loss"),
        validation_accuracy=last.get("validation_accuracy"),
        test_accuracy=last.get("test_accuracy"),
        seconds=last.get("seconds"),
        last_epoch=datetime.fromtimestamp(metrics.stat().st_mtime, UTC) if last else None,
    )


def differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """The config keys in which runs differ, each with its value in every run."""
    configs = [run.config.flat() for run in runs]
    by_key = {key: [config[key] for config in configs] for key in configs[0]}
    return {key: values for key, values in by_key.items() if any(v != values[0] for v in values)}
