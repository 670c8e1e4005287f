"""One safetensors file: the network's tensors, and as metadata what is needed to use them.

Nothing is pickled or unpickled. A file is believed only after its size, digest, version, names,
shapes, types and values were checked; then the network is built.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor, nn

from mnist_mlp.config import MAX_PARAMETERS, Config
from mnist_mlp.errors import CheckpointError, DivergedError
from mnist_mlp.files import write_atomically
from mnist_mlp.model import build_mlp

FORMAT_VERSION = "1"
TRAINING_PREFIX = "train."
"""Begins the name of each tensor that only training needs."""
MAX_BYTES = 4 * 4 * MAX_PARAMETERS + (1 << 20)
"""Weights, two moments and an average of the largest network in float32, and a header."""
MAX_HEADER_BYTES = 1 << 20

_DIGEST = re.compile(rb'"content_sha256":"([0-9a-f]{64})"')
_ZEROS = "0" * 64
_NAME = re.compile(r"epoch-(\d{3,})(?:-update-(\d+))?\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checked checkpoint, its network on the CPU."""

    path: Path
    config: Config
    model: nn.Sequential
    epoch: int
    update: int
    metrics: dict[str, Any]
    environment: dict[str, Any]
    training: dict[str, Tensor]
    progress: dict[str, Any]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    config: Config,
    *,
    epoch: int,
    update: int,
    metrics: dict[str, Any],
    environment: dict[str, Any],
    training: Mapping[str, Tensor],
    progress: dict[str, Any],
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: Replaced if it is there.
        model: What `eval`, `predict` and exports will use.
        config: Of the run.
        epoch: Whole epochs done.
        update: Updates done.
        metrics: The newest row of metrics.jsonl.
        environment: What the numbers depend on besides the config.
        training: Tensors that only training needs, by name; the file's names are prefixed.
        progress: What else training needs, in JSON's types.

    Raises:
        DivergedError: A weight is not finite; nothing is written.
        OSError: It cannot be written; what was at path is still there.
    """
    named = model.state_dict() | {TRAINING_PREFIX + name: t for name, t in training.items()}
    tensors = {name: t.detach().cpu().contiguous() for name, t in named.items()}
    if bad := _not_finite(tensors):
        raise DivergedError(f"{bad} is not finite after update {update}: not saved")
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": config.model_dump_json(),
        "epoch": str(epoch),
        "update": str(update),
        "metrics": json.dumps(metrics),
        "environment": json.dumps(environment),
        "progress": json.dumps(progress),
        "content_sha256": _ZEROS,
    }
    content = safetensors.torch.save(tensors, metadata)
    digest = hashlib.sha256(content).hexdigest()
    placeholder, filled = (f'"content_sha256":"{d}"'.encode() for d in (_ZEROS, digest))
    write_atomically(path, content.replace(placeholder, filled, 1))  # the header comes first


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint file, or the newest one of a run directory.

    Raises:
        CheckpointError: There is none, or the file is not a whole checkpoint of ours.
    """
    path = find_checkpoint(Path(path))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None

    def refuse(reason: str) -> CheckpointError:
        return CheckpointError(f"{path}: {reason}; choose another checkpoint, or train again")

    _verify_digest(content, refuse)
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        metadata = header["__metadata__"]
        if metadata["format_version"] != FORMAT_VERSION:
            raise refuse(f"its format version is not {FORMAT_VERSION}")
        config = Config.model_validate_json(metadata["config"])
        epoch, update = int(metadata["epoch"]), int(metadata["update"])
        metrics, environment, progress = (
            dict(json.loads(metadata[key])) for key in ("metrics", "environment", "progress")
        )
        tensors = safetensors.torch.load(content)
    except (KeyError, TypeError, ValueError, RecursionError, safetensors.SafetensorError) as error:
        raise refuse(f"damaged ({type(error).__name__})") from None

    model = build_mlp(config.model.layer_sizes, config.model.activation, seed=0)
    expected = model.state_dict()
    if bad := _not_finite(tensors):
        raise refuse(f"{bad} holds a number that is not finite")
    training = {
        name.removeprefix(TRAINING_PREFIX): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(TRAINING_PREFIX)
    }
    if tensors.keys() != expected.keys():
        odd = sorted(tensors.keys() ^ expected.keys())[0]
        raise refuse(f"its tensors are not those of its config's network (see {odd})")
    for name, wanted in expected.items():
        tensor = tensors[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise refuse(
                f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, "
                f"where its config's network has {tuple(wanted.shape)} of {wanted.dtype}"
            )
    model.load_state_dict(tensors)
    return Checkpoint(path, config, model, epoch, update, metrics, environment, training, progress)


def find_checkpoint(path: Path) -> Path:
    """A checkpoint file itself, or the newest one in a run directory.

    Raises:
        CheckpointError: There is none.
    """
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint; runs lie under runs/")
    if checkpoints := list_checkpoints(path):
        return checkpoints[-1]
    raise CheckpointError(
        f"{path}: no checkpoint in this folder; give a run directory that has one"
    )


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run directory, oldest first."""
    found = {}
    for path in (run_dir / "checkpoints").glob("epoch-*.safetensors"):
        # A copy that a person put beside them, under another name, is not ours to use or delete.
        if (match := _NAME.fullmatch(path.name)) and path.is_file():
            found[int(match[1]), int(match[2] or 0)] = path
    return [found[position] for position in sorted(found)]


def checkpoint_path(run_dir: Path, epoch: int, update: int | None = None) -> Path:
    """Where the checkpoint of a whole epoch lies, or of an update in the epoch after it."""
    within = "" if update is None else f"-update-{update}"
    return run_dir / "checkpoints" / f"epoch-{epoch:03d}{within}.safetensors"


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over a network's tensors in name order, as little-endian float32 bytes."""
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _verify_digest(content: bytes, refuse: Callable[[str], CheckpointError]) -> None:
    if len(content) > MAX_BYTES:
        raise refuse(f"over {MAX_BYTES:,} bytes, which is no network of ours")
    span = _digest_span(content)
    if span is None:
        raise refuse("not a checkpoint of mnist-mlp, or damaged")
    start, end = span
    digest = hashlib.sha256(content[:start])
    digest.update(_ZEROS.encode())
    digest.update(content[end:])
    if digest.hexdigest().encode() != content[start:end]:
        raise refuse("damaged: its content does not match its own digest")


def _digest_span(content: bytes) -> tuple[int, int] | None:
    """Where the digest's 64 characters are in the header; None unless there is exactly one."""
    size = int.from_bytes(content[:8], "little")
    if size > MAX_HEADER_BYTES or 8 + size > len(content):
        return None
    matches = list(_DIGEST.finditer(content, 8, 8 + size))
    return matches[0].span(1) if len(matches) == 1 else None


def _not_finite(tensors: dict[str, Tensor]) -> str | None:
    return next((name for name, t in tensors.items() if not bool(t.isfinite().all())), None)
