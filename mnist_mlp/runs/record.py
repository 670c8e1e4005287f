"""What a run writes into its directory while it trains, and how it goes on from there."""

import json
import logging
import math
from collections.abc import Container
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mnist_mlp.errors import CheckpointError, DataError, UsageError
from mnist_mlp.files import append, write_atomically
from mnist_mlp.runs.checkpoint import Checkpoint, save_checkpoint, tensors_sha256
from mnist_mlp.runs.directory import checkpoint_path, is_finished, list_checkpoints, whole_epochs
from mnist_mlp.runs.environment import deciding, describe_environment
from mnist_mlp.runs.learner import Learner
from mnist_mlp.steps.data import Dataset, epoch_order
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.steps.train import EpochResult, Position, Progress

log = logging.getLogger(__name__)

RESUMABLE = {
    "name", "device", "threads", "train.epochs", "train.patience", "data.root",
    "data.mirrors", "checkpoint.every_epochs", "checkpoint.keep", "report",
}  # fmt: skip
"""The keys that may change. `train.epochs` may not, if the schedule or a fade depends on it."""


class Record:
    """The rows and checkpoints of a run.

    Of several processes only rank 0 has a directory; in the others the rows are kept in memory.
    """

    def __init__(
        self,
        directory: Path | None,
        learner: Learner,
        data: Dataset,
        *,
        kept: bool = True,
        initial: Checkpoint | None = None,
    ) -> None:
        self.directory, self.learner, self.data = directory, learner, data
        self.config, self.examples = learner.config, len(data.train.labels)
        self.reported = directory if kept else None
        """The directory to tell people; None in a dry run, and without a directory."""
        self.batches = math.ceil(self.examples / self.config.train.batch_size)  # in an epoch
        self.parameters = sum(layer.parameters for layer in count_parameters(learner.model))
        self.data_hashes = {name: tensors_sha256(*split) for name, split in data.splits().items()}
        self.environment = describe_environment(learner, data.train.labels.device, initial)
        self.rows: list[EpochResult] = []
        self.warnings: list[str] = []
        self.advised = False  # after an epoch

    def begin(self, rows: list[EpochResult]) -> None:
        """Write all files but checkpoints, with the rows so far."""
        self.rows = rows
        self._test_last()
        if not self.directory:
            return
        write_atomically(self.directory / "environment.json", _json(self.environment))
        write_atomically(self.directory / "config.yaml", self.config.to_yaml().encode())
        metrics = b"".join(_json(asdict(row)) for row in rows)
        write_atomically(self.directory / "metrics.jsonl", metrics)
        (self.directory / "checkpoints").mkdir(exist_ok=True)

    def add(self, row: EpochResult) -> EpochResult:
        """Append a row to the metrics; the last one gets a test evaluation if it has none."""
        self.rows.append(row)
        self._test_last()
        if self.directory:
            append(self.directory / "metrics.jsonl", _json(asdict(self.rows[-1])))
        return self.rows[-1]

    @property
    def ended(self) -> bool:
        """Whether the newest row is the last: of the last epoch, or for lack of patience."""
        return is_finished(self.config, self.rows)

    def _test_last(self) -> None:
        if self.ended and self.config.data.test and self.rows[-1].test_loss is None:
            row, network = self.rows[-1], self.learner.updater.network()
            tested = evaluate_model(network, *self.data.test)
            self.rows[-1] = replace(row, test_loss=tested.loss, test_accuracy=tested.accuracy)

    def save_is_due(self) -> bool:
        """Whether to save after the newest row's epoch: due, the last, or the best so far.

        Epoch 0 is saved where the run began with weights from elsewhere.
        """
        row = self.rows[-1]
        due = row.epoch % self.config.checkpoint.every_epochs == 0
        if row.epoch == 0:  # its weights cannot be made anew
            return self.environment["init_from"] is not None
        return self.ended or due or self._best_epoch() == row.epoch

    def save(self, seconds: float, progress: Progress | None = None) -> None:
        """Save a checkpoint, at the newest row's epoch or within the next one; delete old ones.

        The newest `checkpoint.keep` stay, and the best by validation.
        """
        if not self.directory:
            return
        row, correct = self.rows[-1], 0
        update = progress.updates if progress else row.updates
        training = self.learner.state(update)
        if progress:
            training["losses"], correct = progress.position.losses, progress.position.correct
        save_checkpoint(
            Checkpoint(
                path=checkpoint_path(self.directory, row.epoch, update if progress else None),
                config=self.config,
                model=self.learner.updater.network(),
                epoch=row.epoch,
                update=update,
                metrics=asdict(row),
                environment=self.environment,
                order_hash=self.order_hash(row.epoch + 1),
                data_hashes=self.data_hashes,
                training=training,
                progress={"correct": correct, "seconds": seconds},
            )
        )
        best = self._best_epoch(set(whole_epochs(self.directory).values()))
        for old in list_checkpoints(self.directory)[: -self.config.checkpoint.keep]:
            if best is None or old != checkpoint_path(self.directory, best):
                old.unlink(missing_ok=True)

    def order_hash(self, epoch: int) -> str:
        """A hash of the order in which an epoch visits the training examples."""
        return tensors_sha256(epoch_order(self.examples, self.config.seed, epoch))

    def _best_epoch(self, among: Container[int] | None = None) -> int | None:
        """The earliest of the best epochs by validation, as `load_checkpoint` chooses."""
        first = 0 if self.environment["init_from"] else 1
        rows = [r for r in self.rows[first:] if among is None or r.epoch in among]
        scores = {row.epoch: self.config.validation_score(asdict(row)) for row in rows}
        rated = {epoch: score for epoch, score in scores.items() if score is not None}
        return max(rated, key=lambda epoch: rated[epoch], default=None)


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
    was, now = deciding(checkpoint.environment), deciding(record.environment)
    changes = [f"{n} was {was.get(n)}, is {now[n]}" for n in now if was.get(n) != now[n]]
    if checkpoint.order_hash != record.order_hash(checkpoint.epoch + 1):
        changes.append("PyTorch shuffles the examples differently")
    for change in changes:
        log.warning("resuming, but not bit for bit: %s", change)
    try:
        record.learner.restore(checkpoint)
        losses = checkpoint.training.get("losses", torch.empty(0))
        within = checkpoint.update - checkpoint.epoch * record.batches
        size = record.config.train.batch_size
        if not 0 <= within < record.batches or len(losses) != within * size:
            raise ValueError(f"update {checkpoint.update} and {len(losses)} losses do not agree")
        losses, correct = losses.to(record.data.test.labels.device), checkpoint.progress["correct"]
        position = Position(checkpoint.epoch + 1, losses, int(correct))
        seconds = checkpoint.progress["seconds"]
        newest = EpochResult(**checkpoint.metrics)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{checkpoint.path}: cannot be resumed from: {error}") from None
    rows = checkpoint.rows() if record.directory else [newest]
    if not rows:
        raise CheckpointError(
            f"{record.directory}/metrics.jsonl: its row of the untrained network is lost; "
            "put the file back, or train again"
        )
    if rows[-1].epoch < checkpoint.epoch:
        rows.append(newest)
    for newer in reversed(list_checkpoints(record.directory) if record.directory else []):
        if newer == checkpoint.path:
            break
        # It is damaged, or it would have been chosen. It must not be chosen next time either.
        newer.replace(newer.with_name(f"{newer.name}.damaged"))
    record.begin(rows)
    return position, seconds


def _refuse_changes(checkpoint: Checkpoint, record: Record) -> None:
    now = record.config
    old, new = checkpoint.config.flat(), now.flat()
    refused = dict.fromkeys(new.keys() - RESUMABLE, "")
    if now.augment.fade_fraction:
        refused["train.epochs"] = " (augment.fade_fraction is shaped by it)"
    if now.schedule.name in ("cosine", "one_cycle"):
        refused["train.epochs"] = f" (the {now.schedule.name} schedule is shaped by it)"
    for key, value in new.items():
        if key in refused and value != old[key]:
            raise UsageError(
                f"{key}: {old[key]} in the run, {value} now; a run is resumed as it was begun"
                f"{refused[key]}; --init-from begins a new one"
            )
    if now.train.epochs < (epochs_begun := math.ceil(checkpoint.update / record.batches)):
        raise UsageError(f"train.epochs: {now.train.epochs}, but {epochs_begun} are done or begun")


def refuse_lost_weights(run_dir: Path) -> None:
    """Refuse to begin a run anew that began with weights from elsewhere."""
    with suppress(OSError, ValueError, KeyError):
        if json.loads((run_dir / "environment.json").read_bytes())["init_from"]:
            raise UsageError(
                f"{run_dir}: ended before it saved the weights that it began with; "
                "begin a new run with --init-from"
            )


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()
