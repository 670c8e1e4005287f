"""Resuming a run: what may have changed since, and what a checkpoint puts back."""

import json
import logging
import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from mnist_mlp.errors import CheckpointError, DataError, UsageError
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.directory import list_checkpoints, read_rows
from mnist_mlp.runs.environment import deciding
from mnist_mlp.runs.record import Record
from mnist_mlp.steps.train import EpochResult, Position

log = logging.getLogger(__name__)

RESUMABLE = (
    "name", "device", "threads", "train.epochs", "train.patience", "data.root",
    "data.mirrors", "checkpoint.every_epochs", "checkpoint.keep", "report",
)  # fmt: skip
"""The keys that may change. `train.epochs` may not, if the schedule or a fade depends on it."""


def resume_run(checkpoint: Checkpoint, record: Record) -> tuple[Position, float]:
    """Put a run back to where a checkpoint was written, its files included.

    Returns where to go on, and the seconds of training so far. A UsageError where a key has changed
    that may not, a DataError where the data set has, and a CheckpointError where parts of the
    checkpoint contradict each other, or metrics are missing.
    """
    _refuse_changes(checkpoint, record)
    for name, digest in checkpoint.data_hashes.items():
        if digest != record.data_hashes.get(name):
            raise DataError(
                f"{record.config.data.dataset}: its {name} split is not the one that "
                f"{checkpoint.path} was trained with; train again"
            )
    record.environment["init_from"] = checkpoint.environment.get("init_from")
    for change in _changes(checkpoint.environment, record.environment):
        log.warning("resuming, but not bit for bit: %s", change)
    if checkpoint.order_hash != record.order_hash(checkpoint.epoch + 1):
        log.warning("resuming, but not bit for bit: PyTorch shuffles the examples differently")
    try:
        resumed = _restore(checkpoint, record)
        rows = _rows(checkpoint, record)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{checkpoint.path}: cannot be resumed from: {error}") from None
    for newer in reversed(list_checkpoints(record.directory) if record.directory else []):
        if newer == checkpoint.path:
            break
        # It is damaged, or it would have been chosen. It must not be chosen next time either.
        newer.replace(newer.with_name(f"{newer.name}.damaged"))
    record.begin(rows)
    return resumed


def refuse_lost_weights(run_dir: Path) -> None:
    """Refuse to begin a run anew that began with weights from elsewhere."""
    with suppress(OSError, ValueError, KeyError):
        if json.loads((run_dir / "environment.json").read_bytes())["init_from"]:
            raise UsageError(
                f"{run_dir}: ended before it saved the weights that it began with; "
                "begin a new run with --init-from"
            )


def _refuse_changes(checkpoint: Checkpoint, record: Record) -> None:
    now = record.config
    old, new = checkpoint.config.flat(), now.flat()
    shaped = "augment.fade_fraction" if now.augment.fade_fraction else None
    if now.schedule.name in ("cosine", "one_cycle"):
        shaped = f"the {now.schedule.name} schedule"
    for key, value in new.items():
        if value != old[key] and (key not in RESUMABLE or (key == "train.epochs" and shaped)):
            reason = f" ({shaped} is shaped by it)" if shaped else ""
            raise UsageError(
                f"{key}: {old[key]} in the run, {value} now; a run is resumed as it was begun"
                f"{reason if key == 'train.epochs' else ''}; --init-from begins a new one"
            )
    if now.train.epochs < (epochs_begun := math.ceil(checkpoint.update / record.batches)):
        raise UsageError(f"train.epochs: {now.train.epochs}, but {epochs_begun} are done or begun")


def _changes(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Changes of the environment after which a run rounds differently."""
    before = deciding(was)
    for name, value in deciding(now).items():
        if before.get(name) != value:
            yield f"{name} was {before.get(name)}, is {value}"


def _restore(checkpoint: Checkpoint, record: Record) -> tuple[Position, float]:
    """Put back the network and the optimizer; where to go on, and the seconds so far."""
    record.learner.restore(checkpoint)
    device = record.test.labels.device
    losses = checkpoint.training.get("losses", torch.empty(0)).to(device)
    within = checkpoint.update - checkpoint.epoch * record.batches
    if len(losses) != within * record.config.train.batch_size:
        raise ValueError(f"update {checkpoint.update} and {len(losses)} losses do not agree")
    correct, seconds = int(checkpoint.progress["correct"]), checkpoint.progress["seconds"]
    return Position(checkpoint.epoch + 1, losses, correct), float(seconds)


def _rows(checkpoint: Checkpoint, record: Record) -> list[EpochResult]:
    """The metrics up to the checkpoint."""
    newest = EpochResult(**checkpoint.metrics)
    if not record.directory:
        return [newest]
    rows = read_rows(record.directory, checkpoint.epoch)
    if not rows:
        raise CheckpointError(
            f"{record.directory / 'metrics.jsonl'}: its row of the untrained network is lost; "
            "put the file back, or train again"
        )
    if rows[-1].epoch < checkpoint.epoch:
        rows.append(newest)
    return rows
