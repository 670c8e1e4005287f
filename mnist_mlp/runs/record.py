"""What a run writes into its directory while it trains: metrics and checkpoints."""

import json
import math
from collections.abc import Container
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mnist_mlp.files import append, write_atomically
from mnist_mlp.runs.checkpoint import Checkpoint, save_checkpoint, tensors_sha256, weights_sha256
from mnist_mlp.runs.directory import checkpoint_path, is_finished, list_checkpoints, whole_epochs
from mnist_mlp.runs.environment import deciding, describe_environment
from mnist_mlp.runs.learner import Learner
from mnist_mlp.steps.data import Dataset, epoch_order
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.steps.train import EpochResult, Progress


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
        self.directory, self.learner, self.config = directory, learner, learner.config
        self.reported = directory if kept else None
        """The directory to tell people; None in a dry run, and without a directory."""
        self.examples, self.test = len(data.train.labels), data.test
        self.batches = math.ceil(self.examples / self.config.train.batch_size)  # in an epoch
        self.parameters = sum(layer.parameters for layer in count_parameters(learner.model))
        self.data_hashes = {name: tensors_sha256(*split) for name, split in data.splits().items()}
        begun_with = initial and {
            "run": initial.run_name,
            "checkpoint": initial.path.name,
            "weights_sha256": weights_sha256(initial.model),
        }
        self.environment = describe_environment(self.config.seed, data.train.labels.device) | {
            "backward": learner.backward,
            "compiler_problem": learner.compiler_problem,
            "init_from": begun_with,
        }
        self.environment["same_bits_with"] = deciding(self.environment)
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
            tested = evaluate_model(self.learner.updater.network(), *self.test)
            self.rows[-1] = replace(
                self.rows[-1], test_loss=tested.loss, test_accuracy=tested.accuracy
            )

    def save_is_due(self) -> bool:
        """Whether to save after the newest row's epoch: due, the last, or the best so far.

        Epoch 0 is saved where the run began with weights from elsewhere.
        """
        row = self.rows[-1]
        due = row.epoch % self.config.checkpoint.every_epochs == 0
        if row.epoch == 0:  # its weights cannot be made anew
            return self.environment["init_from"] is not None
        return self.ended or due or self._best_epoch() is row

    def save(self, seconds: float, progress: Progress | None = None) -> None:
        """Save a checkpoint, at the newest row's epoch or within the next one; delete old ones.

        The newest `checkpoint.keep` stay, and the best by validation.
        """
        if not self.directory:
            return
        row, correct = self.rows[-1], 0
        update, path = row.updates, checkpoint_path(self.directory, row.epoch)
        state = self.learner.state(progress.updates if progress else update)
        if progress:
            update, correct = progress.updates, progress.position.correct
            path = checkpoint_path(self.directory, row.epoch, update)
            state["losses"] = progress.position.losses
        save_checkpoint(
            Checkpoint(
                path=path,
                config=self.config,
                model=self.learner.updater.network(),
                epoch=row.epoch,
                update=update,
                metrics=asdict(row),
                environment=self.environment,
                order_hash=self.order_hash(row.epoch + 1),
                data_hashes=self.data_hashes,
                training=state,
                progress={"correct": correct, "seconds": seconds},
            )
        )
        best = self._best_epoch(set(whole_epochs(self.directory).values()))
        for old in list_checkpoints(self.directory)[: -self.config.checkpoint.keep]:
            if best is None or old != checkpoint_path(self.directory, best.epoch):
                old.unlink(missing_ok=True)

    def order_hash(self, epoch: int) -> str:
        """A hash of the order in which an epoch visits the training examples."""
        return tensors_sha256(epoch_order(self.examples, self.config.seed, epoch))

    def _best_epoch(self, among: Container[int] | None = None) -> EpochResult | None:
        """The earliest of the best rows by validation, as `load_checkpoint` chooses."""
        first = 0 if self.environment["init_from"] else 1
        rows = [r for r in self.rows[first:] if among is None or r.epoch in among]
        scores = [(self.config.validation_score(asdict(row)), row) for row in rows]
        rated = [(score, row) for score, row in scores if score is not None]
        return max(rated, key=lambda pair: pair[0], default=(None, None))[1]


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()
