"""One safetensors file: the network's tensors, and as metadata what is needed to use them.

Nothing is pickled or unpickled. A file is believed only after its size, digest, version, names,
shapes, types and values were checked; then the network is built.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Json, NonNegativeInt
from torch import Tensor, nn

from mnist_mlp.config import Config
from mnist_mlp.constants import TRAINING_EXAMPLES
from mnist_mlp.errors import CheckpointError, DivergedError, UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import named_floats, remembered

log = logging.getLogger(__name__)

FORMAT_VERSION = "2"
TRAINING_PREFIX = "train."
"""Begins the name of each tensor that only training needs."""
MAX_HEADER_BYTES = 1 << 18

_DIGEST = re.compile(rb'"content_sha256":"([0-9a-f]{64})"')
ZEROS = "0" * 64
"""What stands in the place of a digest while it is computed."""
_PLACE = re.compile(rb'(content_sha256(?:":"|\x12@))0{64}')
"""Where a digest belongs: behind its name as JSON has it (safetensors), or protobuf (ONNX)."""
_NAME = re.compile(r"epoch-(\d{3,})(?:-update-(\d+))?\.safetensors")


class _Metadata(BaseModel):
    """The header's `__metadata__`, all strings, most of them JSON."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal["2"]
    config: Json[Config]
    epoch: Json[NonNegativeInt]
    update: Json[NonNegativeInt]
    metrics: Json[dict[str, Any]]
    environment: Json[dict[str, Any]]
    order_hash: str
    data_hashes: Json[dict[str, str]]
    progress: Json[dict[str, float]]
    content_sha256: str


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
    order_hash: str
    data_hashes: dict[str, str]
    training: dict[str, Tensor]
    progress: dict[str, float]


def save_checkpoint(
    path: Path,
    model: nn.Module,
    config: Config,
    *,
    epoch: int,
    update: int,
    metrics: dict[str, Any],
    environment: dict[str, Any],
    order_hash: str,
    data_hashes: dict[str, str],
    training: Mapping[str, Tensor],
    progress: dict[str, float],
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
        order_hash: Of the order of the examples in the epoch that is next or under way.
        data_hashes: Of each split.
        training: Tensors that only training needs, by name; the file's names are prefixed.
        progress: What else training needs.

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
        "order_hash": order_hash,
        "data_hashes": json.dumps(data_hashes),
        "progress": json.dumps(progress),
        "content_sha256": ZEROS,
    }
    write_atomically(path, fill_digest(safetensors.torch.save(tensors, metadata)))


def fill_digest(content: bytes) -> bytes:
    """A file's bytes with their SHA-256, as 64 digits, in place of `content_sha256`'s zeros.

    Found by its name: a config may hold 64 zeros too, and safetensors writes metadata in any order.
    """
    digest = hashlib.sha256(content).hexdigest().encode()
    return _PLACE.sub(lambda place: place[1] + digest, content, count=1)


def load_checkpoint(path: str | Path, *, best: bool = False) -> Checkpoint:
    """Read a checkpoint file, or one of a run directory.

    Args:
        path: A file, which is read or refused; or a run directory, whose newest whole checkpoint
            is read, with a warning for each newer one that is damaged.
        best: Of a run directory, the one with the highest validation accuracy (the earliest of
            equals) instead of the newest.

    Raises:
        CheckpointError: There is none, or the file is not a whole checkpoint of ours.
        UsageError: The best of one file was asked for.
    """
    path = Path(path)
    if path.is_file():
        if best:
            raise UsageError(f"{path}: the best of a run was asked for, and this is one file of it")
        return _read(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint; runs lie under runs/")
    if not best:
        if newest := newest_good_checkpoint(path):
            return newest
        raise CheckpointError(
            f"{path}: no checkpoint in this folder; give a run directory that has one"
        )
    chosen = None
    for file in whole_epochs(path):
        try:
            checkpoint = _read(file)
        except CheckpointError as damaged:
            log.warning("%s", damaged)
            continue
        accuracy = checkpoint.metrics.get("validation_accuracy")
        if accuracy is not None and (
            chosen is None or accuracy > chosen.metrics["validation_accuracy"]
        ):
            chosen = checkpoint
    if chosen is None:
        raise CheckpointError(
            f"{path}: no whole checkpoint with a validation accuracy; train with data.validation"
        )
    return chosen


def newest_good_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest checkpoint of a run that is whole; None where it has not saved any.

    Raises:
        CheckpointError: There are some, and all are damaged.
    """
    error = None
    for path in reversed(list_checkpoints(run_dir)):
        try:
            return _read(path)
        except CheckpointError as damaged:
            log.warning("%s", damaged)
            error = damaged
    if error:
        raise error
    return None


def _read(path: Path) -> Checkpoint:
    """A checkpoint file; believed, and held in memory, only as far as it was checked.

    The header names a config, the config a network and an optimizer, and these every tensor's
    shape and so the size of the file, before the rest of it is read.
    """

    def refuse(reason: str) -> NoReturn:
        raise CheckpointError(f"{path}: {reason}; choose another checkpoint, or train again")

    try:
        with path.open("rb") as file:
            head = file.read(8)
            header_size = int.from_bytes(head, "little")
            if header_size > MAX_HEADER_BYTES:
                refuse("not a checkpoint of mnist-mlp, or damaged")
            head += file.read(header_size)
            metadata = _check_header(head, os.fstat(file.fileno()).st_size, refuse)
            content = head + file.read()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    _check_digest(content, refuse)
    try:
        tensors = safetensors.torch.load(content)
    except safetensors.SafetensorError:
        refuse("damaged (SafetensorError)")
    if bad := _not_finite(tensors):
        refuse(f"{bad} holds a number that is not finite")
    training = {
        name.removeprefix(TRAINING_PREFIX): tensors.pop(name)
        for name in list(tensors)
        if name.startswith(TRAINING_PREFIX)
    }
    config = metadata.config
    model = _skeleton(config)
    model.load_state_dict(tensors, assign=True)
    return Checkpoint(
        path=path,
        config=config,
        model=model,
        epoch=metadata.epoch,
        update=metadata.update,
        metrics=metadata.metrics,
        environment=metadata.environment,
        order_hash=metadata.order_hash,
        data_hashes=metadata.data_hashes,
        training=training,
        progress=metadata.progress,
    )


def list_checkpoints(run_dir: Path) -> list[Path]:
    """The checkpoints of a run directory, oldest first."""
    found = {}
    for path in (run_dir / "checkpoints").glob("epoch-*.safetensors"):
        # A copy that a person put beside them, under another name, is not ours to use or delete.
        if (match := _NAME.fullmatch(path.name)) and path.is_file():
            found[int(match[1]), int(match[2] or 0)] = path
    return [found[position] for position in sorted(found)]


def whole_epochs(run_dir: Path) -> dict[Path, int]:
    """The checkpoints of a run directory that were written at an epoch's end, oldest first."""
    matches = ((path, _NAME.fullmatch(path.name)) for path in list_checkpoints(run_dir))
    return {path: int(match[1]) for path, match in matches if match and match[2] is None}


def checkpoint_path(run_dir: Path, epoch: int, update: int | None = None) -> Path:
    """Where the checkpoint of a whole epoch lies, or of an update in the epoch after it."""
    within = "" if update is None else f"-update-{update}"
    return run_dir / "checkpoints" / f"epoch-{epoch:03d}{within}.safetensors"


def run_of(checkpoint: Checkpoint) -> Path | None:
    """The run directory in which a checkpoint lies; None where it lies in none."""
    folder = checkpoint.path.parent
    return folder.parent if folder.name == "checkpoints" else None


def run_name(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint's run directory, or of the file where it lies in none.

    Short and of printable characters whatever the folder is called.
    """
    name = (run_of(checkpoint) or checkpoint.path.with_suffix("")).absolute().name
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= 60 else name[:59] + "…"


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over a network's tensors in name order, as little-endian float32 bytes."""
    digest = hashlib.sha256()
    for _, tensor in sorted(model.state_dict().items()):
        digest.update(tensor.detach().cpu().contiguous().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _check_header(head: bytes, file_size: int, refuse: Callable[[str], NoReturn]) -> _Metadata:
    """Check a header, against its own config and the file's size; its metadata."""
    if len(head) < 8 or not head[8:].startswith(b"{") or len(_DIGEST.findall(head)) != 1:
        refuse("not a checkpoint of mnist-mlp, or damaged")
    try:
        header = json.loads(head[8:], object_pairs_hook=_unique)
        named = header.pop("__metadata__")
        if named["format_version"] != FORMAT_VERSION:
            refuse(f"its format version is not {FORMAT_VERSION}")
        metadata = _Metadata.model_validate(named)
        found = {name: (entry["dtype"], list(entry["shape"])) for name, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        refuse(f"damaged ({type(error).__name__})")

    config = metadata.config
    expected = {name: list(t.shape) for name, t in _skeleton(config).state_dict().items()}
    if any(name.startswith(TRAINING_PREFIX) for name in found):  # else: weights only
        names = remembered(config.optimizer.name, config.optimizer.momentum)
        trained = _skeleton(config, trained=True)
        expected |= {
            f"{TRAINING_PREFIX}optimizer.{name}.{key}": [] if key == "step" else list(t.shape)
            for name, t in trained.named_parameters()
            for key in names
        }
        expected |= {
            f"{TRAINING_PREFIX}{kind}.{name}": list(t.shape)
            for kind in other_networks(config)
            for name, t in named_floats(trained)
        }
    losses = TRAINING_PREFIX + "losses"  # (examples,), only within an epoch
    if losses in found:
        examples = len(shape := found[losses][1]) == 1 and shape[0]
        if type(examples) is not int or not 0 < examples <= max(TRAINING_EXAMPLES.values()):
            refuse(f"{losses} is {_shown(shape)}, which is no part of an epoch")
        expected[losses] = [examples]
    if found.keys() != expected.keys():
        odd = _shown(min(found.keys() ^ expected.keys()))
        refuse(f"its tensors are not those of its config's network (see {odd})")
    for name, shape in expected.items():
        if found[name] != ("F32", shape):
            refuse(
                f"{name} is {_shown(found[name][1])} of {_shown(found[name][0])}, "
                f"where its config has {shape} of F32"
            )
    if file_size != len(head) + 4 * sum(map(math.prod, expected.values())):
        refuse("damaged: cut short, or longer than its header says")
    return metadata


def other_networks(config: Config) -> list[str]:
    """What a checkpoint holds besides the network that is used, where that is made of others.

    `model`: the one that is trained; `average`: its running average, where more is done to that.
    """
    averages, folds = config.optimizer.average > 0, config.model.batch_norm
    return ["model"] * (averages or folds) + ["average"] * (averages and folds)


def _skeleton(config: Config, *, trained: bool = False) -> nn.Sequential:
    """A config's network, or the one that is trained for it, without memory for its numbers."""
    model = config.model
    with torch.device("meta"):
        batch_norm = model.batch_norm and trained
        return build_mlp(model.layer_sizes, model.activation, batch_norm=batch_norm)


def _shown(value: object) -> str:
    """What a file says, short and on one line whatever it is."""
    return ascii(value).strip("'")[:80]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError
    return unique


def _check_digest(content: bytes, refuse: Callable[[str], NoReturn]) -> None:
    match = _DIGEST.search(content)  # the one in the header, which comes first
    start, end = match.span(1) if match else (0, 0)
    digest = hashlib.sha256(content[:start])
    digest.update(ZEROS.encode())
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start:end]:
        refuse("damaged: its content does not match its own digest")


def _not_finite(tensors: dict[str, Tensor]) -> str | None:
    return next((name for name, t in tensors.items() if not bool(t.isfinite().all())), None)
