"""A run: a config put to work, and the directory that records it.

A run directory holds `config.yaml` (resolved; it can be trained from again), `environment.json`,
`metrics.jsonl` (a row an epoch) and `checkpoints/`. Only this module unpacks the config.
"""

import hashlib
import json
import logging
import math
import os
import platform
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Container, Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.config import Config
from mnist_mlp.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    DivergedError,
    RunInUseError,
    StoppedError,
    UsageError,
)
from mnist_mlp.files import append, write_atomically
from mnist_mlp.runs.checkpoint import (
    Checkpoint,
    checkpoint_path,
    list_checkpoints,
    load_checkpoint,
    newest_good_checkpoint,
    other_networks,
    run_of,
    save_checkpoint,
    weights_sha256,
    whole_epochs,
)
from mnist_mlp.runs.listing import RUNS
from mnist_mlp.steps.augment import Deformation
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, Split, epoch_order, load_dataset
from mnist_mlp.steps.model import build_mlp, count_parameters, fold_batch_norm
from mnist_mlp.steps.optimizer import (
    WeightAverage,
    build_optimizer,
    learning_rates,
    named_floats,
    optimizer_state,
    restore_optimizer,
)
from mnist_mlp.steps.train import EpochResult, Progress, fit
from mnist_mlp.updates.collectives import (
    joined,
    largest_of_processes,
    remember_run_directory,
    remembered_run_directory,
    told_by_rank_0,
)
from mnist_mlp.updates.fused import (
    FusedUpdates,
    GraphedUpdates,
    SharedUpdates,
    TorchUpdates,
    Updates,
)
from mnist_mlp.updates.ranks import local_processes, local_rank, processes, rank

log = logging.getLogger(__name__)

DRY_RUN_BATCHES = 2


@dataclass(frozen=True)
class RunStart:
    """What is about to be trained, and where it is recorded."""

    run_dir: Path | None
    config: Config
    dataset: str
    examples: dict[str, int]
    parameters: int
    environment: dict[str, Any]
    resumed_at: int | None


@dataclass(frozen=True)
class RunResult:
    """What came out of a run; `seconds` runs from the first update to the last save."""

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
    model: nn.Sequential = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the network itself, in JSON's types."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del values["model"]
        return values | {"run_dir": self.run_dir and str(self.run_dir)}


RunEvent = RunStart | Progress | EpochResult | RunResult


def train_model(config: Config, run_dir: str | Path | None = None) -> RunResult:
    """Train as a config says and record it in a run directory.

    Args:
        config: From `load_config`.
        run_dir: A new or empty folder; by default `runs/<name>-NNN`.

    Raises:
        MnistMlpError: See `mnist_mlp.errors`.
        OSError: The run directory cannot be written to.
    """
    *_, result = run_events(config, run_dir)
    assert isinstance(result, RunResult)  # noqa: S101 - the last event always is
    return result


def run_events(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    dry_run: bool = False,
    resume: bool = False,
    stop: Callable[[], int | None] = lambda: None,
) -> Generator[RunEvent, None, None]:
    """`train_model`, told as it happens: a `RunStart`, what `fit` yields, a `RunResult`.

    Args:
        config: What to do; to resume, that of the run but for what `RESUMABLE` names.
        run_dir: Where it is recorded; to resume, the run.
        dry_run: Do everything on two batches, in a folder that is removed again.
        resume: Go on from the newest good checkpoint, or from the start where there is none.
        stop: Asked between updates, a few times a second, for the number of a signal that wants
            the run to save and end.
    """
    if config.model.batch_norm and processes() > 1:
        raise UsageError("model.batch_norm: trains in one process, since it looks at whole batches")
    device = resolve_device(config.device)
    if begun := remembered_run_directory():
        run_dir, resume = begun, True
    leads = rank() == 0
    if run_dir is not None and not resume and leads:
        if Path(run_dir, ".lock").exists():
            with _lock(Path(run_dir)):
                pass  # that another process trains there is told before that it has saved
        _refuse_used(Path(run_dir))
    with cpu_threads(threads_of(config)), joined(device):
        for turn in (0, 1):  # the first on each machine may have to fetch the data
            if turn == min(1, local_rank()):
                data = load_config_dataset(config).to(device)
            largest_of_processes(0, device)
        if dry_run:
            head = Split(*(t[: DRY_RUN_BATCHES * config.train.batch_size] for t in data.train))
            data = data._replace(train=head)
            config = config.model_copy(
                update={"train": config.train.model_copy(update={"epochs": 1})}
            )
        if not leads:
            run = _Run(config, data, None, None)
            yield from run.events(_checkpoint_from_rank_0(device), stop)
            return
        with _directory(config.name, run_dir, dry_run) as directory, _lock(directory):
            if not resume and run_dir is not None:
                _refuse_used(directory)  # another start may have been faster
            checkpoint = newest_good_checkpoint(directory) if resume else None
            if not dry_run:
                remember_run_directory(str(directory))
            told_by_rank_0(checkpoint.path.read_bytes() if checkpoint else b"", device)
            run = _Run(config, data, directory, None if dry_run else directory)
            yield from run.events(checkpoint, stop)


def metrics_of(checkpoint: Checkpoint) -> list[EpochResult]:
    """The rows of a checkpoint's run up to it; none where it lies in no run directory."""
    run_dir = run_of(checkpoint)
    return _rows(run_dir, checkpoint.epoch) if run_dir else []


def _checkpoint_from_rank_0(device: torch.device) -> Checkpoint | None:
    """What rank 0 goes on from, whose files need not be within reach."""
    if not (content := told_by_rank_0(b"", device)):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "rank-0.safetensors")
        path.write_bytes(content)
        return load_checkpoint(path)


class _Run:
    """A run at work: the network and what trains it, and the directory that records it.

    Of several processes only rank 0 has a directory.
    """

    def __init__(
        self, config: Config, data: Dataset, directory: Path | None, reported: Path | None
    ) -> None:
        train, schedule = config.train, config.schedule
        self.config, self.data = config, data
        self.directory, self.reported = directory, reported
        self.device = device = data.train.labels.device
        sizes, activation = config.model.layer_sizes, config.model.activation
        batch_norm, decay = config.model.batch_norm, config.optimizer.average
        self.model = build_mlp(sizes, activation, config.seed, batch_norm=batch_norm).to(device)
        self.average = WeightAverage(self.model, decay) if decay else None
        self.batches = math.ceil(len(data.train.labels) / train.batch_size)
        self.learning_rates = learning_rates(
            schedule.name,
            config.optimizer.learning_rate,
            updates=train.epochs * self.batches,
            step_updates=schedule.step_epochs * self.batches,
            gamma=schedule.gamma,
            warmup_fraction=schedule.warmup_fraction,
        )
        by_hand, deforms = _by_hand(config), any(config.augment.model_dump().values())
        self.optimizer: Optimizer | None = None
        self.updates: Updates
        if _fusible(config) and device.type == "cpu":
            self.updates = FusedUpdates(self.model, data.train, train.batch_size)
        else:
            # Only here, since PyTorch's optimizers import its compiler, which takes a second.
            plain = not (deforms or decay or batch_norm)
            extras: dict[str, Any] = {
                "deformation": Deformation(**config.augment.model_dump()) if deforms else None,
                "average": self.average,
                "seed": config.seed,
            }
            kind = GraphedUpdates if device.type == "cuda" and plain else TorchUpdates
            kind = kind if processes() == 1 else SharedUpdates
            self.optimizer = build_optimizer(
                self.model.parameters(),
                **config.optimizer.model_dump(exclude={"average"}),
                graphed=kind is GraphedUpdates,
            )
            self.updates = kind(
                self.model,
                self.optimizer,
                chain_rule(self.model) if by_hand else autograd(self.model),
                data.train,
                train.batch_size,
                **({} if plain else extras),
            )
        self.environment = describe_environment(config.seed, device) | {
            "backward": "chain_rule" if by_hand else "autograd",
            "updates": type(self.updates).__name__,
        }
        self.data_hashes = {
            name: _sha256(*split)
            for name in ("train", "validation", "test")
            if (split := getattr(data, name))
        }
        self.rows: list[EpochResult] = []

    def events(
        self, checkpoint: Checkpoint | None, stop: Callable[[], int | None]
    ) -> Generator[RunEvent, None, None]:
        """Train from the checkpoint or from the start, and put into the directory what happens."""
        config, data, directory = self.config, self.data, self.directory
        position, before = self._restore(checkpoint) if checkpoint else (None, 0.0)
        rows = self.rows
        if directory:
            write_atomically(directory / "environment.json", _json(self.environment))
            write_atomically(directory / "config.yaml", config.to_yaml().encode())
            metrics = b"".join(_json(asdict(row)) for row in rows)
            write_atomically(directory / "metrics.jsonl", metrics)
            (directory / "checkpoints").mkdir(exist_ok=True)
        parameters = sum(layer.parameters for layer in count_parameters(self.model))
        yield RunStart(
            run_dir=self.reported,
            config=config,
            dataset=data.name,
            examples={
                name: len(split.labels)
                for name in ("train", "validation", "test")
                if (split := getattr(data, name))
            },
            parameters=parameters,
            environment=self.environment,
            resumed_at=checkpoint.update if checkpoint else None,
        )

        started = saved = time.monotonic()
        try:
            for event in fit(
                self.model,
                data,
                self.optimizer,
                epochs=config.train.epochs,
                batch_size=config.train.batch_size,
                seed=config.seed,
                learning_rates=self.learning_rates,
                updates=self.updates,
                test_each_epoch=config.train.test_each_epoch,
                resume=position,
                inference=self.inference,
            ):
                stopped = largest_of_processes(stop() or 0, self.device)
                seconds = before + time.monotonic() - started
                if isinstance(event, EpochResult):
                    row = replace(event, seconds=before + event.seconds) if event.epoch else event
                    rows.append(row)
                    if directory:
                        append(directory / "metrics.jsonl", _json(asdict(row)))
                    last = event.epoch == config.train.epochs
                    due = event.epoch % config.checkpoint.every_epochs == 0
                    if event.epoch and (last or due or stopped or self._best_epoch() is row):
                        self._save(None, seconds)
                        saved = time.monotonic()
                    yield row
                    if not event.epoch:
                        started = time.monotonic()
                    if stopped and not last:
                        raise self._stopped(stopped, event.updates)
                else:
                    yield event
                    if stopped and len(event.losses) < len(data.train.labels):
                        self._save(event, seconds)
                        raise self._stopped(stopped, event.updates)
        except DivergedError as error:
            good = list_checkpoints(self.reported) if self.reported else []
            newest = f"the last good checkpoint is {good[-1]}" if good else "nothing was saved"
            raise DivergedError(f"{error}; {newest}") from None
        untrained, final = rows[0], rows[-1]
        yield RunResult(
            run_dir=self.reported,
            dataset=data.name,
            epochs=final.epoch,
            updates=final.updates,
            examples_seen=final.examples_seen,
            initial_loss=untrained.train_loss,
            train_loss=final.train_loss,
            validation_accuracy=final.validation_accuracy,
            test_loss=final.test_loss,
            test_accuracy=final.test_accuracy,
            seconds=before + saved - started,
            parameters=parameters,
            weights_sha256=weights_sha256(network := self.inference()),
            model=network,
        )

    def _save(self, within: Progress | None, seconds: float) -> None:
        """Write a checkpoint, at an epoch's end or within the next; then let go of old ones.

        Kept are the newest and the best by validation.
        """
        if not self.directory:
            return
        row = self.rows[-1]
        update = within.updates if within else row.updates
        save_checkpoint(
            checkpoint_path(self.directory, row.epoch, update if within else None),
            self.inference(),
            self.config,
            epoch=row.epoch,
            update=update,
            metrics=asdict(row),
            environment=self.environment,
            order_hash=self._order_hash(row.epoch + 1),
            data_hashes=self.data_hashes,
            training={
                **(optimizer_state(self.optimizer, self.model) if self.optimizer else {}),
                **({"losses": within.losses} if within else {}),
                **{
                    f"{kind}.{name}": tensor
                    for kind, network in self._other_networks()
                    for name, tensor in named_floats(network)
                },
            },
            progress={"correct": within.correct if within else 0, "seconds": seconds},
        )
        best = self._best_epoch(set(whole_epochs(self.directory).values()))
        for old in list_checkpoints(self.directory)[: -self.config.checkpoint.keep]:
            if best is None or old != checkpoint_path(self.directory, best.epoch):
                old.unlink()

    def inference(self) -> nn.Sequential:
        """The network that the run is for: averaged, and with batch normalisation folded in."""
        model = self.average.model if self.average else self.model
        return fold_batch_norm(model) if self.config.model.batch_norm else model

    def _other_networks(self) -> Iterator[tuple[str, nn.Module]]:
        """The networks that the one of `inference` is made of, by their names in a checkpoint."""
        for kind in other_networks(self.config):
            yield kind, self.average.model if self.average and kind == "average" else self.model

    def _best_epoch(self, among: Container[int] | None = None) -> EpochResult | None:
        """The earliest epoch of the highest validation accuracy, as `load_checkpoint` has it."""
        trained = [row for row in self.rows if row.epoch and (not among or row.epoch in among)]
        return max(
            (row for row in trained if row.validation_accuracy is not None),
            key=lambda row: row.validation_accuracy or 0.0,
            default=None,
        )

    def _order_hash(self, epoch: int) -> str:
        return _sha256(epoch_order(len(self.data.train.labels), self.config.seed, epoch))

    def _restore(self, checkpoint: Checkpoint) -> tuple[Progress, float]:
        """Put the run back to where a checkpoint was written: position, seconds so far."""
        _refuse_changes(checkpoint.config, self.config, checkpoint.epoch)
        for name, digest in checkpoint.data_hashes.items():
            if digest != self.data_hashes.get(name):
                raise DataError(
                    f"{self.data.name}: its {name} split is not the one that "
                    f"{checkpoint.path} was trained with; train again"
                )
        for what in _surroundings(checkpoint.environment, self.environment):
            log.warning("resuming, but not bit for bit: %s", what)
        if checkpoint.order_hash != self._order_hash(checkpoint.epoch + 1):
            log.warning("resuming, but not bit for bit: PyTorch shuffles the examples otherwise")
        state = dict(checkpoint.training)
        if not self.config.model.batch_norm:
            self.inference().load_state_dict(checkpoint.model.state_dict())
        losses = state.pop("losses", torch.empty(0))
        within = checkpoint.update - checkpoint.epoch * self.batches
        try:
            for kind, network in self._other_networks():
                for name, tensor in named_floats(network):
                    tensor.copy_(state.pop(f"{kind}.{name}"))
            if self.optimizer:
                restore_optimizer(self.optimizer, self.model, state)
            correct, seconds = int(checkpoint.progress["correct"]), checkpoint.progress["seconds"]
            newest = EpochResult(**checkpoint.metrics)
            self.rows = _rows(self.directory, checkpoint.epoch) if self.directory else [newest]
            if len(losses) != within * self.config.train.batch_size:
                raise ValueError(
                    f"update {checkpoint.update} and {len(losses)} losses do not agree"
                )
            if self.rows and self.rows[-1].epoch < checkpoint.epoch:
                self.rows.append(newest)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{checkpoint.path}: not to be resumed from: {error}") from None
        if self.directory and not self.rows:
            raise CheckpointError(
                f"{self.directory / 'metrics.jsonl'}: its row of the untrained network is lost; "
                "put the file back, or train again"
            )
        for newer in reversed(list_checkpoints(self.directory) if self.directory else []):
            if newer == checkpoint.path:
                break
            # Damaged, or it would have been chosen: kept for whoever wants to look into it, but
            # never again taken for the newest.
            newer.replace(newer.with_name(f"{newer.name}.damaged"))
        position = Progress(
            epoch=checkpoint.epoch + 1,
            updates=checkpoint.update,
            examples_seen=0,
            loss=0.0,
            accuracy=0.0,
            losses=losses.to(self.device),
            correct=correct,
        )
        return position, float(seconds)

    def _stopped(self, signal_number: int, update: int) -> StoppedError:
        name = signal.Signals(signal_number).name
        message = f"stopped by {name} after update {update}"
        if update and self.reported:
            message += f", and saved; go on with: mnist-mlp train --resume {self.reported}"
        return StoppedError(message, signal_number)


RESUMABLE = (
    "name", "device", "threads", "train.epochs", "data.root", "data.mirrors",
    "checkpoint.every_epochs", "checkpoint.keep", "report",
)  # fmt: skip
"""What may change when a run is resumed; epochs only where no schedule is shaped by them."""


def _refuse_changes(was: Config, now: Config, epochs_done: int) -> None:
    old, new = was.flat(), now.flat()
    shaped = now.schedule.name in ("cosine", "one_cycle")
    for key, value in new.items():
        if value != old[key] and (key not in RESUMABLE or (key == "train.epochs" and shaped)):
            reason = f" (the {now.schedule.name} schedule is shaped by it)" if shaped else ""
            raise UsageError(
                f"{key}: {old[key]} in the run, {value} now; a run is resumed as it was begun"
                f"{reason if key == 'train.epochs' else ''}"
            )
    if now.train.epochs < epochs_done:
        raise UsageError(f"train.epochs: {now.train.epochs}, but {epochs_done} are done already")


def _surroundings(was: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """What a run's bits depend on besides its config, where it has changed."""
    keys = (
        "device", "device_name", "cpu_capability", "threads", "processes", "backward", "updates",
    )  # fmt: skip
    for key in keys:
        if was.get(key) != now[key]:
            yield f"{key} was {was.get(key)}, is {now[key]}"
    torch_was, torch_is = was.get("versions", {}).get("torch"), now["versions"]["torch"]
    if torch_was != torch_is:
        yield f"torch was {torch_was}, is {torch_is}"


_ROW = TypeAdapter(EpochResult)


def _rows(directory: Path, epochs: int) -> list[EpochResult]:
    """The rows of metrics.jsonl up to an epoch, or to the first that is torn or out of turn."""
    rows: list[EpochResult] = []
    try:
        lines = (directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return rows
    for line in lines:
        try:
            row = _ROW.validate_json(line)
        except ValueError:
            break
        if row.epoch != len(rows) or row.epoch > epochs:
            break
        rows.append(row)
    return rows


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Keep other trainers out of a run directory, and sweep what a killed one left half-written.

    The lock is the operating system's: it ends with its process, however that ends.
    """
    try:
        with FileLock(directory / ".lock", blocking=False):
            for left in [*directory.glob(".*.tmp"), *directory.glob("checkpoints/.*.tmp")]:
                left.unlink()
            yield
    except Timeout:
        raise RunInUseError(
            f"{directory}: another process is training here; wait for it or choose another run"
        ) from None


def load_config_dataset(config: Config, root: str | None = None) -> Dataset:
    """The data set that a config names, split as its seed says, on the CPU; root beats its own."""
    data = config.data
    return load_dataset(data.dataset, root or data.root, data.mirrors, data.validation, config.seed)


def resolve_device(name: str) -> torch.device:
    """The device that auto, cpu or cuda means here.

    Raises:
        DeviceError: CUDA was asked for and there is none; it is never replaced by the CPU.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError(
            f"device cuda: torch {torch.__version__} finds no CUDA device here; use --device cpu"
        )
    if not available or name == "cpu":
        return torch.device("cpu")
    if processes() > 1:  # one GPU each
        if local_rank() >= torch.cuda.device_count():
            raise DeviceError(
                f"{local_processes()} processes, but {torch.cuda.device_count()} CUDA devices "
                "here; start as many, or use --device cpu"
            )
        torch.cuda.set_device(local_rank())
        return torch.device("cuda", local_rank())
    return torch.device("cuda")


def threads_of(config: Config) -> int:
    """The CPU threads of a config: its own number, else a fixed rule, never a timing.

    Two, if there are so many for this process, where a second gains enough to be worth what it
    loses beside other work: from batches of 32 on where updates are fused, else from 256 on.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (len(affinity(0)) if affinity else os.cpu_count() or 1) // local_processes()
    enough = config.train.batch_size >= (32 if _fusible(config) else 256)
    return config.threads or (max(1, min(2, cores)) if enough else 1)


def describe_environment(seed: int, device: torch.device) -> dict[str, Any]:
    """What a run's numbers depend on besides its config."""
    packages = ("mnist-mlp", "torchvision", "numpy", "scikit-learn", "safetensors")
    cuda = device.type == "cuda"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: metadata.version(package) for package in packages}
        | {"torch": torch.__version__},
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes(),
        "seed": seed,
        "git_commit": _git_commit(),
    }


def newest_run(runs: Path = RUNS) -> Path:
    """The run directory whose newest checkpoint is the youngest.

    Raises:
        CheckpointError: No run here has a checkpoint.
    """
    checkpoints = [c for run in runs.glob("*/") for c in list_checkpoints(run)[-1:]]
    if not checkpoints:
        raise CheckpointError(
            f"{runs}/: no run with a checkpoint here; "
            "train first (mnist-mlp train --config digits) or name a run directory"
        )
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent.parent


def _by_hand(config: Config) -> bool:
    """Whether the chain rule is used as written out: where it can be, unless the config objects."""
    sizes, activation = config.model.layer_sizes, config.model.activation
    # With only one layer there is nothing between layers, to activate or normalise.
    covered = (activation == "relu" and not config.model.batch_norm) or len(sizes) == 2
    return config.train.backward == "chain_rule" or (config.train.backward == "auto" and covered)


def _fusible(config: Config) -> bool:
    """Whether the update is the lesson's formula and nothing else, in a process that is alone."""
    how = config.optimizer
    plain = how.name == "sgd" and not (how.momentum or how.weight_decay or how.average)
    plain = plain and not any(config.augment.model_dump().values())
    return plain and _by_hand(config) and processes() == 1


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Run torch on so many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _directory(name: str, run_dir: str | Path | None, dry_run: bool) -> Iterator[Path]:
    """The run directory: the one named, else a new `runs/<name>-NNN`, else a scratch one."""
    if dry_run:
        # Beside where the run would be, so that a place that cannot be written is found out.
        wanted = Path(run_dir or RUNS).absolute()
        beside = next(folder for folder in (wanted, *wanted.parents) if folder.is_dir())
        with tempfile.TemporaryDirectory(prefix=".mnist-mlp-", dir=beside) as scratch:
            yield Path(scratch)
    elif run_dir is not None:
        Path(run_dir).mkdir(parents=True, exist_ok=True)
        yield Path(run_dir)
    else:
        yield _new_directory(name)


def _new_directory(name: str) -> Path:
    RUNS.mkdir(exist_ok=True)
    numbered = re.compile(rf"{re.escape(name)}-(\d{{3,9}})")
    taken = [int(m[1]) for path in RUNS.iterdir() if (m := numbered.fullmatch(path.name))]
    number = max(taken, default=0)
    while True:
        number += 1
        directory = RUNS / f"{name}-{number:03d}"
        try:
            directory.mkdir()  # fails where another start was faster
        except FileExistsError:
            continue
        return directory


def _refuse_used(run_dir: Path) -> None:
    """A run directory must be new, empty, or of a run that died before its first checkpoint."""
    if not run_dir.exists():
        return
    if not run_dir.is_dir():
        raise UsageError(f"{run_dir}: a file, not a folder; choose another --run-dir")
    if list_checkpoints(run_dir):
        raise UsageError(
            f"{run_dir}: already holds a checkpoint; choose another --run-dir, "
            f"or continue that run with --resume {run_dir}"
        )
    names = {path.name for path in run_dir.iterdir()} - {".lock"}
    if names and "environment.json" not in names:
        raise UsageError(f"{run_dir}: holds files that are no run's; choose another --run-dir")


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from, where it runs from one."""
    checkout = Path(__file__).parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],  # noqa: S607 - as users do
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _sha256(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy().data)  # no copy
    return digest.hexdigest()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()
