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
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Json, NonNegativeInt
from torch import Tensor, nn

from mnist_mlp.config import Config
from mnist_mlp.constants import TRAINING_EXAMPLES
from mnist_mlp.errors import CheckpointError, DivergedError, UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.directory import find_run, list_checkpoints, read_rows, whole_epochs
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.train import EpochResult

log = logging.getLogger(__name__)

FORMAT_VERSION = "3"
TRAINING_PREFIX = "train."
"""The names of tensors that only training needs begin with this."""
MAX_HEADER_BYTES = 1 << 18

_DIGEST = re.compile(rb'"content_sha256":"([0-9a-f]{64})"')
ZEROS = "0" * 64
"""Stands in the place of a digest while the digest is computed."""
_PLACE = re.compile(rb'(content_sha256(?:":"|\x12@))0{64}')
"""The place of a digest: after its name in JSON (safetensors) or in protobuf (ONNX)."""


class _Metadata(BaseModel):
    """The file's metadata: strings, most of them JSON; the rest of `Checkpoint` is tensors."""

    model_config = ConfigDict(extra="forbid")

    format_version: Literal["3"]
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
    """A network and where its training was."""

    path: Path
    config: Config
    model: nn.Sequential
    """For use: with batch normalisation folded in."""
    epoch: int
    """Whole epochs done."""
    update: int
    """Updates done."""
    metrics: dict[str, Any]
    """The newest row of metrics.jsonl."""
    environment: dict[str, Any]
    order_hash: str
    """Of the order of the examples in the next epoch, or in the one under way."""
    data_hashes: dict[str, str]
    """Of each split."""
    training: dict[str, Tensor]
    """Tensors that only training needs, by name: see `state_shapes`. Within an epoch also `losses`
    (n,), those of its n examples so far."""
    progress: dict[str, float]
    """`seconds` so far, and `correct` examples of the epoch under way."""

    @property
    def run_dir(self) -> Path | None:
        """The run directory that the file lies in; None if it lies elsewhere."""
        folder = self.path.parent
        return folder.parent if folder.name == "checkpoints" else None

    @property
    def run_name(self) -> str:
        """The name of the run directory, or of the file: short, and printable characters only."""
        name = (self.run_dir or self.path.with_suffix("")).absolute().name
        name = "".join(c if c.isprintable() else "?" for c in name)
        return name if len(name) <= 60 else name[:59] + "…"

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
    metadata = {
        "format_version": FORMAT_VERSION,
        "config": checkpoint.config.model_dump_json(),
        "order_hash": checkpoint.order_hash,
        "content_sha256": ZEROS,
    }
    for name in ("epoch", "update", "metrics", "environment", "data_hashes", "progress"):
        metadata[name] = json.dumps(getattr(checkpoint, name))
    write_atomically(checkpoint.path, fill_digest(safetensors.torch.save(tensors, metadata)))


def fill_digest(content: bytes) -> bytes:
    """Put the SHA-256 of a file's bytes, as 64 digits, in place of the zeros of `content_sha256`.

    The place is found by its name, since a config may contain 64 zeros too.
    """
    digest = hashlib.sha256(content).hexdigest().encode()
    return _PLACE.sub(lambda place: place[1] + digest, content, count=1)


def load_checkpoint(path: str | Path, *, best: bool = False) -> Checkpoint:
    """Read a checkpoint file, or the newest whole checkpoint of a run directory.

    With `best`, read the best one by validation instead, the earliest of equals. A damaged
    checkpoint of a run directory is passed over with a warning. The path may also be the name of a
    run under runs/, or a file from `export --format safetensors`.

    Raises:
        CheckpointError: There is none, or the file is not a whole checkpoint.
        UsageError: The best of a single file was asked for.
    """
    path = find_run(Path(path))
    if path.is_file():
        if best:
            raise UsageError(f"{path}: --best chooses among a run's checkpoints; this is one file")
        return _read(path)
    if not path.exists():
        raise CheckpointError(f"{path}: no such run or checkpoint; runs lie under runs/")
    if not best:
        if newest := newest_good_checkpoint(path):
            return newest
        raise CheckpointError(
            f"{path}: no checkpoint in this folder; give a run directory that has one"
        )
    rated = (c for c in _readable(whole_epochs(path)) if _score(c) is not None)
    if chosen := max(rated, key=_score, default=None):
        return chosen
    raise CheckpointError(
        f"{path}: no whole checkpoint with a validation accuracy; train with data.validation"
    )


def newest_good_checkpoint(run_dir: Path) -> Checkpoint | None:
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


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """Why a file is not a whole checkpoint."""


def _read(path: Path) -> Checkpoint:
    # The header is checked first. Its config determines every tensor's shape, and so the size of
    # the file, before the rest is read into memory.
    try:
        with path.open("rb") as file:
            head = file.read(8)
            if (header_size := int.from_bytes(head, "little")) > MAX_HEADER_BYTES:
                raise _Refused("not a checkpoint of mnist-mlp, or damaged")
            head += file.read(header_size)
            metadata = _check_header(head, os.fstat(file.fileno()).st_size)
            content = head + file.read()
        _check_digest(content)
        tensors = safetensors.torch.load(content)
        if bad := _not_finite(tensors):
            raise _Refused(f"{bad} holds a number that is not finite")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (_Refused, safetensors.SafetensorError) as error:
        reason = error if isinstance(error, _Refused) else "damaged (SafetensorError)"
        message = f"{reason}; choose another checkpoint, or train again"
        if path.suffix in (".onnx", ".pt2"):
            message = "an export for other programs; name the run or checkpoint that it is made of"
        raise CheckpointError(f"{path}: {message}") from None
    model = empty_network(metadata.config)
    model.load_state_dict({name: tensors[name] for name in model.state_dict()}, assign=True)
    fields = {name: value for name, value in metadata if name in Checkpoint.__dataclass_fields__}
    training = with_prefix(TRAINING_PREFIX, tensors)
    return Checkpoint(path=path, model=model, training=training, **fields)


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


def _check_header(head: bytes, file_size: int) -> _Metadata:
    """Check a header against its own config and the file's size. Returns its metadata."""
    if len(head) < 8 or not head[8:].startswith(b"{") or len(_DIGEST.findall(head)) != 1:
        raise _Refused("not a checkpoint of mnist-mlp, or damaged")
    try:
        header = json.loads(head[8:], object_pairs_hook=_unique)
        named = header.pop("__metadata__")
        if named.get("producer") == "mnist-mlp":
            named = _metadata_of_export(named)
        if named["format_version"] != FORMAT_VERSION:
            raise _Refused(f"its format version is not {FORMAT_VERSION}")
        metadata = _Metadata.model_validate(named)
        found = {name: (entry["dtype"], list(entry["shape"])) for name, entry in header.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _Refused(f"damaged ({type(error).__name__})") from None

    config = metadata.config
    expected = {name: list(t.shape) for name, t in empty_network(config).state_dict().items()}
    if any(name.startswith(TRAINING_PREFIX) for name in found):  # otherwise: weights only
        state = state_shapes(config, metadata.update)
        expected |= {TRAINING_PREFIX + name: shape for name, shape in state.items()}
    losses = TRAINING_PREFIX + "losses"  # (examples so far,), only within an epoch
    match found.get(losses):
        case (_, [examples]) if examples in range(1, max(TRAINING_EXAMPLES.values()) + 1):
            expected[losses] = [int(examples)]
    if found.keys() != expected.keys():
        odd = _shown(min(found.keys() ^ expected.keys()))
        raise _Refused(f"its tensors are not those of its config's network (see {odd})")
    for name, shape in expected.items():
        if found[name] != ("F32", shape):
            raise _Refused(
                f"{name} is {_shown(found[name][1])} of {_shown(found[name][0])}, "
                f"where its config has {shape} of F32"
            )
    if file_size != len(head) + 4 * sum(map(math.prod, expected.values())):
        raise _Refused("damaged: cut short, or longer than its header says")
    return metadata


def _metadata_of_export(export: dict[str, str]) -> dict[str, str]:
    """Metadata of a checkpoint that has nothing but an exported network."""
    sizes, activation = json.loads(export["layer_sizes"]), export["activation"]
    config = {
        "data": {"dataset": export["dataset"], "validation": 0},
        "model": {"layer_sizes": sizes, "activation": activation},
    }
    kept = {name: export[name] for name in ("epoch", "update", "content_sha256")}
    empty = dict.fromkeys(("metrics", "environment", "data_hashes", "progress"), "{}")
    rest = {"format_version": FORMAT_VERSION, "config": json.dumps(config), "order_hash": ""}
    return kept | empty | rest


def _shown(value: object) -> str:
    """A value from a file as short text on one line."""
    return ascii(value).strip("'")[:80]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        raise ValueError
    return unique


def _check_digest(content: bytes) -> None:
    start, end = next(_DIGEST.finditer(content)).span(1)  # the first is the header's
    digest = hashlib.sha256(content[:start])
    digest.update(ZEROS.encode())
    digest.update(memoryview(content)[end:])
    if digest.hexdigest().encode() != content[start:end]:
        raise _Refused("damaged: its content does not match its own digest")


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
    shapes = {
        f"optimizer.{name}.{key}": [] if key == "step" else list(parameter.shape)
        for name, parameter in trained.named_parameters()
        for key in (keys if updates else ())
    }
    source = trained.state_dict() if config.model.batch_norm else {}
    return shapes | {f"model.{name}": list(tensor.shape) for name, tensor in source.items()}
