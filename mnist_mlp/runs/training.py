"""A run, from a config to its result: `run_events` tells it as it happens."""

import time
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnist_mlp.config import Config
from mnist_mlp.errors import CheckpointError, DivergedError, StoppedError, UsageError
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.runs.advice import advise
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint, newest_checkpoint, weights_sha256
from mnist_mlp.runs.directory import list_checkpoints, open_directory, refuse_unusable
from mnist_mlp.runs.environment import cpu_threads, load_config_dataset, resolve_device, threads_of
from mnist_mlp.runs.learner import assemble, weights_to_begin_with
from mnist_mlp.runs.record import Record, refuse_lost_weights, resume_run
from mnist_mlp.signals import Stop
from mnist_mlp.steps.data import Dataset, Split
from mnist_mlp.steps.train import EpochResult, Position, Progress, train
from mnist_mlp.updates import shared
from mnist_mlp.updates.ranks import local_rank, processes, rank


@dataclass(frozen=True)
class RunStart:
    """What is about to be trained, and where it is recorded."""

    run_dir: Path | None
    config: Config
    examples: dict[str, int]
    parameters: int
    environment: dict[str, Any]
    resumed_at: int | None  # the update after which the run goes on; None for a new run


@dataclass(frozen=True)
class RunResult(NotebookHtml):
    """The result of a run. `seconds` counts from the first update to the last save."""

    run_dir: Path | None
    dataset: str
    epochs: int
    updates: int
    examples_seen: int
    initial_loss: float
    train_loss: float
    validation_accuracy: float | None
    test_loss: float | None
    test_accuracy: float | None
    seconds: float
    parameters: int
    weights_sha256: str
    warnings: list[str]
    model: nn.Sequential = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the network, as JSON types."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "model"}
        return values | {"run_dir": self.run_dir and str(self.run_dir)}


RunEvent = RunStart | Progress | EpochResult | str | RunResult
"""The text is a warning: why the run will probably not learn; see `advice`."""


def run_events(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    dry_run: bool = False,
    resume: bool = False,
    init_from: str | Path | None = None,
    stop: Stop = lambda: None,
) -> Generator[RunEvent, None, None]:
    """Train, as a stream of events: a `RunStart`, what `train` yields, a `RunResult`.

    To resume a run means to go on from its newest whole checkpoint, or from the start if there is
    none; its config may change in the keys in `record.RESUMABLE`. A dry run does everything on two
    batches, in a folder that is removed again. `init_from` is a run or checkpoint, with whose
    weights a new run's network begins. `stop` is called between updates, a few times a second; when
    it returns the number of a signal, the run saves and ends.
    """
    if config.model.batch_norm and processes() > 1:
        raise UsageError("model.batch_norm: trains in one process, since it looks at whole batches")
    device = resolve_device(config.device)
    if begun := shared.remembered_run_directory():  # torchrun has restarted the processes
        run_dir, resume = begun, True
    leads = rank() == 0
    if leads and run_dir is not None:
        refuse_unusable(Path(run_dir), resume)
    initial = load_checkpoint(init_from) if init_from else None
    weights = weights_to_begin_with(initial, config) if initial else None
    with cpu_threads(threads_of(config)), shared.joined(device):
        data = _load_in_turn(config, device)
        if dry_run:
            config, data = _shortened(config, data)
        opened = open_directory(config.name, run_dir, resume=resume, dry_run=dry_run)
        with opened if leads else nullcontext() as directory:
            if directory and not dry_run:
                shared.remember_run_directory(str(directory))
            checkpoint = None
            if resume and run_dir and not dry_run:
                checkpoint = _checkpoint_to_resume(Path(run_dir), device)
            if directory and resume and not (checkpoint or initial):
                refuse_lost_weights(directory)
            learner = assemble(config, data, None if checkpoint else weights)
            record = Record(directory, learner, data, kept=not dry_run, initial=initial)
            position, seconds = resume_run(checkpoint, record) if checkpoint else (None, 0.0)
            if not checkpoint:
                record.begin([])
            yield RunStart(
                run_dir=record.reported,
                config=config,
                examples={name: len(split.labels) for name, split in data.splits().items()},
                parameters=record.parameters,
                environment=record.environment,
                resumed_at=checkpoint.update if checkpoint else None,
            )
            try:
                yield from _train(record, position, seconds, stop)
            except DivergedError as error:
                good = list_checkpoints(record.reported) if record.reported else []
                saved = f"the last good checkpoint is {good[-1]}" if good else "nothing was saved"
                raise DivergedError(f"{error}; {saved}") from None


def _train(
    record: Record, start_at: Position | None, before: float, stop: Stop
) -> Generator[RunEvent, None, None]:
    """Train and record what happens. `before`: seconds of training before `start_at`."""
    config, device = record.config, record.data.train.labels.device
    started = saved = time.monotonic()
    events = train(
        record.learner.updater,
        record.data,
        epochs=config.train.epochs,
        learning_rates=record.learner.learning_rates,
        seed=config.seed,
        test_each_epoch=config.train.test_each_epoch if config.data.test else None,
        resume=start_at,
    )
    nothing_left = shared.largest_of_processes(record.ended, device)
    for event in () if nothing_left else events:
        stopped = shared.largest_of_processes(stop() or 0, device)
        seconds = before + time.monotonic() - started
        if isinstance(event, Progress):
            yield event
            if not stopped or len(event.position.losses) == record.examples:
                continue
            record.save(seconds, event)
        else:
            row = record.add(replace(event, seconds=before + event.seconds))
            ended = shared.largest_of_processes(record.ended, device)
            if record.save_is_due() or (stopped and row.epoch):
                record.save(seconds)
                saved = time.monotonic()
            yield row
            yield from _advise(record)
            if not row.epoch:
                started = time.monotonic()
            if ended:
                break
        if stopped:
            go_on = f", and saved; go on with: mnist-mlp train --resume {record.reported}"
            rest = go_on if event.updates and record.reported else ""
            raise StoppedError(stopped, f" after update {event.updates}{rest}")
    yield _result(record, before + saved - started)


def _advise(record: Record) -> Iterator[str]:
    """Warn before the first update, and after an epoch, once each, that it will not learn."""
    if record.advised or not record.directory:
        return
    network, pixels = record.learner.updater.network(), record.data.train.pixels
    if warning := advise(record.config, record.rows, network, pixels):
        record.advised = record.rows[-1].epoch > 0
        record.warnings.append(warning)
        yield warning


def _load_in_turn(config: Config, device: torch.device) -> Dataset:
    """Load the data. The first process of each machine goes first: it may have to download them."""
    if local_rank() > 0:
        shared.wait_for_processes(device)
    data = load_config_dataset(config).to(device)
    if local_rank() == 0:
        shared.wait_for_processes(device)
    return data


def _shortened(config: Config, data: Dataset) -> tuple[Config, Dataset]:
    """One epoch of two batches, for a dry run."""
    head = Split(*(t[: 2 * config.train.batch_size] for t in data.train))
    train_config = config.train.model_copy(update={"epochs": 1})
    return config.model_copy(update={"train": train_config}), data._replace(train=head)


def _checkpoint_to_resume(run_dir: Path, device: torch.device) -> Checkpoint | None:
    """The newest whole checkpoint of a run, if it has any. Every process reads it."""
    checkpoint = newest_checkpoint(run_dir)
    read = int(weights_sha256(checkpoint.model)[:12], 16) if checkpoint else -1
    if shared.largest_of_processes(read, device) != read:
        raise CheckpointError(f"{run_dir}: not the same for all processes; they must share it")
    return checkpoint


def _result(record: Record, seconds: float) -> RunResult:
    untrained, final = record.rows[0], record.rows[-1]
    network = record.learner.updater.network()
    for parameter in network.parameters():  # no views of larger tensors any more
        parameter.data = parameter.detach().clone(memory_format=torch.contiguous_format)
    wanted = {f.name for f in fields(RunResult)} - {"seconds"}
    return RunResult(
        **{name: value for name, value in vars(final).items() if name in wanted},
        run_dir=record.reported,
        dataset=record.data.name,
        epochs=final.epoch,
        initial_loss=untrained.train_loss,
        seconds=seconds,
        parameters=record.parameters,
        weights_sha256=weights_sha256(network),
        warnings=record.warnings,
        model=network,
    )
