"""A run: a config put to work, and the directory that records it.

A run directory holds `config.yaml` (resolved; it can be trained from again), `environment.json`,
`metrics.jsonl` (a row an epoch) and `checkpoints/`. Only this module unpacks the config.
"""

import json
import math
import os
import platform
import re
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnist_mlp.backprop import Backward, autograd, chain_rule, is_linear_relu_stack
from mnist_mlp.checkpoint import (
    checkpoint_path,
    list_checkpoints,
    save_checkpoint,
    weights_sha256,
)
from mnist_mlp.config import Config
from mnist_mlp.data import Dataset, Split, load_dataset
from mnist_mlp.errors import CheckpointError, DeviceError, DivergedError, UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.model import build_mlp, count_parameters
from mnist_mlp.optimizer import build_optimizer, build_schedule
from mnist_mlp.train import EpochResult, Progress, fit

RUNS = Path("runs")
"""Where run directories are made and looked for, below the current folder."""
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
    config: Config, run_dir: str | Path | None = None, *, dry_run: bool = False
) -> Generator[RunEvent, None, None]:
    """`train_model`, told as it happens: a `RunStart`, what `fit` yields, a `RunResult`.

    With dry_run, everything is done on two batches, in a folder that is removed again.
    """
    device = resolve_device(config.device)
    if run_dir is not None:
        _refuse_used(Path(run_dir))
    with cpu_threads(config.threads):
        data = load_config_dataset(config).to(device)
        if dry_run:
            head = Split(*(t[: DRY_RUN_BATCHES * config.train.batch_size] for t in data.train))
            data = data._replace(train=head)
            config = config.model_copy(
                update={"train": config.train.model_copy(update={"epochs": 1})}
            )
        with _directory(config.name, run_dir, dry_run) as directory:
            yield from _record(config, data, directory, None if dry_run else directory)


def _record(
    config: Config, data: Dataset, directory: Path, reported: Path | None
) -> Generator[RunEvent, None, None]:
    """Train, and put into the directory what happens; `reported` is the directory's public name."""
    device = data.train.images.device
    model = build_mlp(config.model.layer_sizes, config.model.activation, config.seed).to(device)
    parameters = sum(layer.parameters for layer in count_parameters(model))
    backward_name, backward = _choose_backward(config.train.backward, model)
    environment = describe_environment(config.seed, device) | {"backward": backward_name}
    write_atomically(directory / "environment.json", _json(environment))
    write_atomically(directory / "config.yaml", config.to_yaml().encode())
    write_atomically(directory / "metrics.jsonl", b"")
    (directory / "checkpoints").mkdir(exist_ok=True)
    yield RunStart(
        run_dir=reported,
        config=config,
        dataset=data.name,
        examples={
            name: len(split.labels)
            for name in ("train", "validation", "test")
            if (split := getattr(data, name))
        },
        parameters=parameters,
        environment=environment,
    )

    rows: list[EpochResult] = []
    started = saved = time.monotonic()
    try:
        for event in _fit(config, model, data, backward):
            if isinstance(event, EpochResult):
                rows.append(event)
                with (directory / "metrics.jsonl").open("ab") as file:
                    file.write(_json(asdict(event)))
                last = event.epoch == config.train.epochs
                if last or (event.epoch and event.epoch % config.checkpoint.every_epochs == 0):
                    _save(directory, model, config, event, environment)
                    saved = time.monotonic()
            yield event
            if len(rows) == 1 and event is rows[0]:
                started = time.monotonic()
    except DivergedError as error:
        good = list_checkpoints(directory) if reported else []
        newest = f"the last good checkpoint is {good[-1]}" if good else "nothing was saved"
        raise DivergedError(f"{error}; {newest}") from None
    untrained, final = rows[0], rows[-1]
    yield RunResult(
        run_dir=reported,
        dataset=data.name,
        epochs=final.epoch,
        updates=final.updates,
        examples_seen=final.examples_seen,
        initial_loss=untrained.train_loss,
        train_loss=final.train_loss,
        validation_accuracy=final.validation_accuracy,
        test_loss=final.test_loss,
        test_accuracy=final.test_accuracy,
        seconds=saved - started,
        parameters=parameters,
        weights_sha256=weights_sha256(model),
        model=model,
    )


def _fit(
    config: Config, model: nn.Sequential, data: Dataset, backward: Backward
) -> Iterator[Progress | EpochResult]:
    """`fit`, with what the config says."""
    train, schedule = config.train, config.schedule
    updates_an_epoch = math.ceil(len(data.train.labels) / train.batch_size)
    optimizer = build_optimizer(model.parameters(), **config.optimizer.model_dump())
    return fit(
        model,
        data,
        optimizer,
        epochs=train.epochs,
        batch_size=train.batch_size,
        seed=config.seed,
        schedule=build_schedule(
            optimizer,
            schedule.name,
            updates=train.epochs * updates_an_epoch,
            step_updates=schedule.step_epochs * updates_an_epoch,
            gamma=schedule.gamma,
            warmup_fraction=schedule.warmup_fraction,
        ),
        backward=backward,
        test_each_epoch=train.test_each_epoch,
    )


def _save(
    directory: Path,
    model: nn.Sequential,
    config: Config,
    row: EpochResult,
    environment: dict[str, Any],
) -> None:
    """Write a checkpoint; only then let go of the oldest ones."""
    save_checkpoint(
        checkpoint_path(directory, row.epoch),
        model,
        config,
        epoch=row.epoch,
        update=row.updates,
        metrics=asdict(row),
        environment=environment,
    )
    for old in list_checkpoints(directory)[: -config.checkpoint.keep]:
        old.unlink()


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
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def default_threads() -> int:
    """Two, or one where there is one core: this network's products are too small for more."""
    affinity = getattr(os, "sched_getaffinity", None)
    return min(2, len(affinity(0)) if affinity else os.cpu_count() or 1)


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


def _choose_backward(name: str, model: nn.Sequential) -> tuple[str, Backward]:
    """The way to the gradients that a config names, and its name once `auto` is decided."""
    if name == "chain_rule" or (name == "auto" and is_linear_relu_stack(model)):
        return "chain_rule", chain_rule(model)
    return "autograd", autograd(model)


@contextmanager
def cpu_threads(threads: int | None) -> Iterator[None]:
    """Run torch on so many CPU threads; None: the default."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or default_threads())
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _directory(name: str, run_dir: str | Path | None, dry_run: bool) -> Iterator[Path]:
    """The run directory: the one named, else a new `runs/<name>-NNN`, else a scratch one."""
    if dry_run:
        with tempfile.TemporaryDirectory(prefix="mnist-mlp-") as scratch:
            yield Path(scratch)
    elif run_dir is not None:
        _refuse_used(Path(run_dir))
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
    if any(run_dir.iterdir()) and not (run_dir / "environment.json").exists():
        raise UsageError(f"{run_dir}: holds files that are no run's; choose another --run-dir")


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from, where it runs from one."""
    checkout = Path(__file__).parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"],  # noqa: S607 - as users do
            cwd=checkout,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value) + "\n").encode()
