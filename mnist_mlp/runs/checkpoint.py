"""A checkpoint: one safetensors file with the network's tensors and, as metadata, how to use them.

Nothing is pickled. A file is used only after its size, digest, version, and every tensor's name,
shape, type and values have been checked. The network that is saved for use has batch normalisation
folded in. The network that it was made from is saved too.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from pydantic import ConfigDict, NonNegativeInt, TypeAdapter, with_config
from torch import Tensor, nn

from mnist_mlp.config import Config
from mnist_mlp.constants import TRAINING_EXAMPLES
from mnist_mlp.errors import CheckpointError, DivergedError, UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.directory import find_run, list_checkpoints, read_rows, whole_epochs
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.words import printable

log = logging.getLogger(__name__)

FORMAT_VERSION = "3"
TRAINING_PREFIX = "train."  # the names of tensors that only training needs begin with this
MAX_HEADER_BYTES = 1 << 18

ZEROS = "0" * 64  # stands in the place of a digest while the digest is computed


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, kw_only=True)
class _Metadata:
    """What a checkpoint has besides tensors. In the file each is JSON, but for `order_hash`."""

    config: Config
    epoch: NonNegativeInt  # whole epochs done
    update: NonNegativeInt  # updates done
    metrics: dict[str, Any]  # the newest row of metrics.jsonl
    environment: dict[str, Any]
    order_hash: str  # of the order of the examples in the next epoch, or in the one under way
    data_hashes: dict[str, str]  # of each split
    progress: dict[str, float]  # `seconds` so far, and `correct` examples of the epoch under way


_METADATA = TypeAdapter(_Metadata)


@dataclass(frozen=True, kw_only=True)
class Checkpoint(_Metadata):
    """A network and where its training was."""

    path: Path
    model: nn.Sequential  # for use: with batch normalisation folded in
    training: dict[str, Tensor]
    """Tensors that only training needs, by name: see `state_shapes`. Within an epoch also `losses`
    (n,), those of its n examples so far."""

    @property
    def run_dir(self) -> Path | None:
        """The run directory that the file lies in; None if it lies elsewhere."""
        folder = self.path.parent
        return folder.parent if folder.name == "checkpoints" else None

    @property
    def run_name(self) -> str:
        """The name of the run directory, or of the file: short, and printable characters only."""
        return printable((self.run_dir or self.path.with_suffix("")).absolute().name)

    def rows(self) -> list[EpochResult]:
        """The run's metrics up to this checkpoint; none if it lies in no run directory."""
        return read_rows(self.run_dir, self.epoch) if self.run_dir else []


def save_checkpoint(checkpoint: Checkpoint) -> None:
    """Write a checkpoint to its path; on an error what was there is unchanged.

    A DivergedError says that a weight is not finite, an OSError that the file cannot be written.
    """
    training = {TRAINING_PREFIX + name: t for name, t in checkpoint.training.items()}
    named = checkpoint.model.state_dict() | training
    tensors = {name: t.detach().cpu().contiguous() for name, t in named.items()}
    if bad := _not_finite(tensors):
        raise DivergedError(f"{bad} is not finite after update {checkpoint.update}: not saved")
    metadata = {"format_version": FORMAT_VERSION, "content_sha256": ZEROS}
    for name, value in _METADATA.dump_python(checkpoint, mode="json").items():
        metadata[name] = value if name == "order_hash" else json.dumps(value)
    write_atomically(checkpoint.path, fill_digest(safetensors.torch.save(tensors, metadata)))


def fill_digest(content: bytes) -> bytes:
    """Put the SHA-256 of a file's bytes, as 64 digits, in place of `content_sha256`'s zeros."""
    digest = hashlib.sha256(content).hexdigest().encode()
    # After its name in JSON (safetensors) or protobuf (ONNX): a config may contain 64 zeros too.
    place = rb'(content_sha256(?:":"|\x12@))0{64}'
    return re.sub(place, lambda found: found[1] + digest, content, count=1)


def load_checkpoint(path: str | Path, *, best: bool = False) -> Checkpoint:
    """Read a checkpoint file, or the newest whole checkpoint of a run directory.

    With `best`, read the best one by validation instead, the earliest of equals. A damaged
    checkpoint of a run directory is passed over with a warning. The path may also be the name of a
    run under runs/, or a file from `export --format safetensors`. A CheckpointError where there is
    none, or none that is whole; a UsageError where the best of a single file was asked for.
    """
    path = find_run(Path(path))
    if path.is_file():
        if best:
            raise UsageError(f"{path}: --best chooses among a run's checkpoints; this is one file")
        return _read(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint; runs lie under runs/")
    if best:
        rated = (c for c in _readable(whole_epochs(path)) if _score(c) is not None)
        chosen = max(rated, key=_score, default=None)
        lacking = "no whole checkpoint with a validation accuracy; train with data.validation"
    else:
        chosen = newest_checkpoint(path)
        lacking = "no checkpoint in this folder; give a run directory that has one"
    if not chosen:
        raise CheckpointError(f"{path}: {lacking}")
    return chosen


def newest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run, or None; a CheckpointError if all are damaged."""
    paths = list_checkpoints(run_dir)
    newest = next(_readable(reversed(paths)), None)
    if paths and not newest:
        raise CheckpointError(f"{run_dir}: all its checkpoints are damaged; train again")
    return newest


def _readable(paths: Iterable[Path]) -> Iterator[Checkpoint]:
    """Read checkpoints; warn of those that are damaged."""
    for path in paths:
        try:
            yield _read(path)
        except CheckpointError as damaged:
            log.warning("%s", damaged)


def _score(checkpoint: Checkpoint) -> Any:
    return checkpoint.config.validation_score(checkpoint.metrics)


def _read(path: Path) -> Checkpoint:
    # The header is checked first. Its config determines every tensor's shape, and so the size of
    # the file, before the rest is read into memory.
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if (header_size := int.from_bytes(head, "little")) > MAX_HEADER_BYTES:
                raise CheckpointError("not a checkpoint of mnist-mlp, or damaged")
            head += file.read(header_size)
            metadata, digest = _check_header(head, os.fstat(file.fileno()).st_size)
            content = head + file.read()
        computed = hashlib.sha256(content.replace(digest, ZEROS.encode(), 1))
        if computed.hexdigest().encode() != digest:
            raise CheckpointError("damaged: its content does not match its own digest")
        tensors = safetensors.torch.load(content)
        if bad := _not_finite(tensors):
            raise CheckpointError(f"{bad} holds a number that is not finite")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (CheckpointError, safetensors.SafetensorError) as error:
        reason = error if isinstance(error, CheckpointError) else "damaged (SafetensorError)"
        message = f"{reason}; choose another checkpoint, or train again"
        if path.suffix in (".onnx", ".pt2"):
            message = "an export for other programs; name the run or checkpoint that it is made of"
        raise CheckpointError(f"{path}: {message}") from None
    model = empty_network(metadata.config)
    model.load_state_dict({name: tensors[name] for name in model.state_dict()}, assign=True)
    training = with_prefix(TRAINING_PREFIX, tensors)
    return Checkpoint(path=path, model=model, training=training, **vars(metadata))


def with_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, by the rest of their names."""
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over a network's tensors in name order: float32, little-endian on usual machines."""
    return tensors_sha256(*(tensor for _, tensor in sorted(model.state_dict().items())))


def tensors_sha256(*tensors: Tensor) -> str:
    """SHA-256 over the numbers of tensors, in the machine's byte order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


def _check_header(head: bytes, file_size: int) -> tuple[_Metadata, bytes]:
    """A header's metadata and digest, after a check against its own config and the file's size."""
    try:
        header = json.loads(head[8:], object_pairs_hook=_unique)
        texts = header.pop("__metadata__")
        digest = texts.pop("content_sha256").encode()
        if texts.get("producer") == "mnist-mlp":
            values = _values_of_export(texts)
        elif texts.pop("format_version") != FORMAT_VERSION:
            raise CheckpointError(f"its format version is not {FORMAT_VERSION}")
        else:
            values = {n: t if n == "order_hash" else json.loads(t) for n, t in texts.items()}
        metadata = _METADATA.validate_python(values)
        found = {name: f"{entry['shape']} of {entry['dtype']}" for name, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        kind = type(error).__name__
        raise CheckpointError(f"not a checkpoint of mnist-mlp, or damaged ({kind})") from None

    config = metadata.config
    shapes = {name: list(t.shape) for name, t in empty_network(config).state_dict().items()}
    if any(name.startswith(TRAINING_PREFIX) for name in found):  # otherwise: weights only
        for name, shape in state_shapes(config, metadata.update).items():
            shapes[TRAINING_PREFIX + name] = shape
    losses = TRAINING_PREFIX + "losses"  # (examples so far,), only within an epoch
    match header.get(losses):
        case {"shape": [int(examples)]} if 0 < examples <= max(TRAINING_EXAMPLES.values()):
            shapes[losses] = [examples]
    expected = {name: f"{shape} of F32" for name, shape in shapes.items()}
    for name in [*expected, *found]:
        has, needs = found.get(name, "absent"), expected.get(name, "absent")
        if has != needs:
            raise CheckpointError(
                "its tensors are not those of its config's network: "
                f"{printable(name)} is {printable(has)}, and should be {needs}"
            )
    if file_size != len(head) + 4 * sum(map(math.prod, shapes.values())):
        raise CheckpointError("damaged: cut short, or longer than its header says")
    return metadata, digest


def _values_of_export(texts: dict[str, str]) -> dict[str, Any]:
    """The metadata of a checkpoint that has nothing but an exported network."""
    model = {"layer_sizes": json.loads(texts["layer_sizes"]), "activation": texts["activation"]}
    return {
        "config": {"data": {"dataset": texts["dataset"], "validation": 0}, "model": model},
        "epoch": json.loads(texts["epoch"]),
        "update": json.loads(texts["update"]),
        "order_hash": "",
        **{name: {} for name in ("metrics", "environment", "data_hashes", "progress")},
    }


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError
    return unique


def _not_finite(tensors: dict[str, Tensor]) -> str | None:
    return next((name for name, t in tensors.items() if not bool(t.isfinite().all())), None)


def empty_network(config: Config, *, batch_norm: bool = False) -> nn.Sequential:
    """A config's network without memory for its numbers (on PyTorch's meta device)."""
    with torch.device("meta"):
        return build_mlp(config.model.layer_sizes, config.model.activation, batch_norm=batch_norm)


def state_shapes(config: Config, updates: int) -> dict[str, list[int]]:
    """The shape of each tensor that only training needs, as `Learner.state` names them.

    A network without batch norm is used as it is trained, and not saved twice. Before the first
    update an optimizer has no state.
    """
    trained = empty_network(config, batch_norm=config.model.batch_norm)
    momentum = ("momentum_buffer",) if config.optimizer.momentum else ()
    keys = momentum if config.optimizer.name == "sgd" else ("step", "exp_avg", "exp_avg_sq")
    source = trained.state_dict() if config.model.batch_norm else {}
    shapes = {f"model.{name}": list(tensor.shape) for name, tensor in source.items()}
    for name, parameter in trained.named_parameters() if updates else ():
        for key in keys:
            shapes[f"optimizer.{name}.{key}"] = [] if key == "step" else list(parameter.shape)
    return shapes
