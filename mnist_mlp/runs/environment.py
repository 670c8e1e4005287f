"""Where a run takes place: its device, its CPU threads, its data, and the versions in use."""

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mnist_mlp.config import DATA_ROOT_VARIABLE, Config
from mnist_mlp.errors import DeviceError
from mnist_mlp.runs.checkpoint import Checkpoint, weights_sha256
from mnist_mlp.runs.learner import Learner, updater_kind
from mnist_mlp.steps.data import Dataset, load_dataset
from mnist_mlp.updates.ranks import local_processes, local_rank, processes


def load_config_dataset(config: Config, root: str | None = None) -> Dataset:
    """The data set of a config, on the CPU. A root given here replaces the config's."""
    data = config.data
    return load_dataset(data.dataset, root or data.root, data.mirrors, data.validation, config.seed)


def load_run_dataset(config: Config, root: str | None = None) -> Dataset:
    """The data set of a run: from a root, from MNIST_MLP_DATA, or from where the run had it."""
    return load_config_dataset(config, root or os.environ.get(DATA_ROOT_VARIABLE))


def resolve_device(name: str) -> torch.device:
    """The device that auto, cpu or cuda stands for on this machine.

    A DeviceError where CUDA was asked for and is missing: the CPU never replaces it silently.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceError(
            f"device cuda: torch {torch.__version__} finds no CUDA device here; use --device cpu"
        )
    if not available or name == "cpu":
        return torch.device("cpu")
    if processes() == 1:
        return torch.device("cuda")
    if local_rank() >= (count := torch.cuda.device_count()):  # one GPU for each process
        raise DeviceError(
            f"{local_processes()} processes, but {count} CUDA devices "
            "here; start as many, or use --device cpu"
        )
    torch.cuda.set_device(local_rank())
    return torch.device("cuda", local_rank())


def threads_of(config: Config) -> int:
    """The number of CPU threads: the config's, or else one or two by a fixed rule.

    Two, where there are two cores, for batches of at least 256 unless updates are compiled. Smaller
    batches gain less from a second thread than it costs beside other work.
    """
    affinity = getattr(os, "sched_getaffinity", None)
    cores = (len(affinity(0)) if affinity else os.cpu_count() or 1) // local_processes()
    enough = config.train.batch_size >= 256 and updater_kind(config, "cpu") != "compiled"
    return config.threads or (2 if enough and cores >= 2 else 1)


@contextmanager
def cpu_threads(threads: int) -> Iterator[None]:
    """Let torch use this many CPU threads inside a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_environment(
    learner: Learner, device: torch.device, initial: Checkpoint | None
) -> dict[str, Any]:
    """What a run's numbers depend on besides its config; it begins with `initial`'s weights."""
    packages = ("mnist-mlp", "torchvision", "numpy", "numba", "scikit-learn", "safetensors")
    cuda = device.type == "cuda"
    begun_with = initial and {
        "run": initial.run_name,
        "checkpoint": initial.path.name,
        "weights_sha256": weights_sha256(initial.model),
    }
    versions = {
        package: metadata.version(package)
        for package in packages
        if any(metadata.distributions(name=package))  # Numba may be missing
    }
    if learner.backward == "compiled":
        from mnist_mlp.updates.machine_code import processor

        versions["numba"] += f" for {processor()}"
    environment = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": versions | {"torch": torch.__version__},
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": processes(),
        "seed": learner.config.seed,
        "git_commit": _git_commit(),
        "backward": learner.backward,
        "compiler_problem": learner.compiler_problem,
        "init_from": begun_with,
    }
    return environment | {"same_bits_with": deciding(environment)}


def deciding(environment: dict[str, Any]) -> dict[str, Any]:
    """What of an environment decides how a run rounds: with all of it come the same bits."""
    names = ("device", "device_name", "cpu_capability", "threads", "processes", "backward")
    versions = environment.get("versions", {})
    packages = ["torch", *["numba"] * (environment.get("backward") == "compiled")]
    return {name: environment.get(name) for name in names} | {p: versions.get(p) for p in packages}


def _git_commit() -> str | None:
    """The commit of the checkout that this package runs from, if it is one."""
    checkout = Path(__file__).parents[2]
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    with suppress(OSError, subprocess.SubprocessError):
        if (checkout / ".git").exists():
            return subprocess.check_output(  # noqa: S603 - a fixed command
                command, cwd=checkout, text=True, stderr=subprocess.DEVNULL, timeout=10
            ).strip()
    return None
