import hashlib
import json
import pickle
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from mnist_mlp.config import Config
from mnist_mlp.errors import CheckpointError, DivergedError
from mnist_mlp.runs.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
    weights_sha256,
)
from mnist_mlp.runs.directory import checkpoint_path, list_checkpoints
from mnist_mlp.steps.model import build_mlp

CONFIG = Config.model_validate(
    {"model": {"layer_sizes": [784, 4, 10]}, "optimizer": {"momentum": 0.9}}
)


def saved(
    path: str = "c.safetensors",
    bias: torch.Tensor | None = None,
    training: dict[str, torch.Tensor] | None = None,
    config: Config = CONFIG,
) -> Path:
    model = build_mlp(CONFIG.model.layer_sizes, seed=1)
    if bias is not None:
        model.load_state_dict({"layer1.bias": bias}, strict=False)
    checkpoint = Checkpoint(
        path=Path(path),
        model=model,
        config=config,
        epoch=2,
        update=30,
        metrics={"epoch": 2},
        environment={},
        order_hash="0",
        data_hashes={"train": "1"},
        training={
            **{
                f"optimizer.{name}.momentum_buffer": torch.ones_like(parameter)
                for name, parameter in model.named_parameters()
            },
            **(training or {}),
        },
        progress={"correct": 3},
    )
    save_checkpoint(checkpoint)
    return Path(path)


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def sealed(header: dict[str, Any], body: bytes) -> bytes:
    """A file with a digest that is right, whatever else is wrong with it."""
    header["__metadata__"]["content_sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode()
    content = struct.pack("<Q", len(text)) + text + body
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(b"0" * 64, digest.encode(), 1)


def test_round_trip() -> None:
    path = saved()
    checkpoint = load_checkpoint(path)
    assert (checkpoint.epoch, checkpoint.update, checkpoint.metrics) == (2, 30, {"epoch": 2})
    assert checkpoint.config == CONFIG
    assert checkpoint.progress == {"correct": 3}
    assert checkpoint.training["optimizer.layer1.bias.momentum_buffer"].tolist() == [1, 1, 1, 1]
    expected = build_mlp(CONFIG.model.layer_sizes, seed=1).state_dict()
    for name, tensor in checkpoint.model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_any_safetensors_reader_reads_it_and_the_digest_is_of_the_file() -> None:
    path = saved()
    with safe_open(path, "pt") as file:
        names = {"layer1.weight", "layer1.bias", "layer2.weight", "layer2.bias"}
        moments = {f"train.optimizer.{name}.momentum_buffer" for name in names}
        assert set(file.keys()) == names | moments
        metadata = file.metadata()
    assert metadata["format_version"] == "3"
    digest = metadata["content_sha256"]
    zeroed = path.read_bytes().replace(digest.encode(), b"0" * 64)
    assert hashlib.sha256(zeroed).hexdigest() == digest


def test_a_sealed_copy_is_accepted() -> None:
    """What the tests below change is then what is refused, not the way they write it."""
    path = saved()
    path.write_bytes(sealed(*header_of(path.read_bytes())))
    assert load_checkpoint(path).epoch == 2


def test_zeros_in_a_config_are_not_taken_for_the_digests_place() -> None:
    data = CONFIG.data.model_copy(update={"root": "0" * 64})
    config = CONFIG.model_copy(update={"data": data})
    for _ in range(20):  # the metadata's order differs from file to file
        assert load_checkpoint(saved(config=config)).config == config


def test_flipped_bits_and_truncations_are_refused() -> None:
    path = saved()
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    body = torch.randint(8 + size, len(content), (50,)).tolist()
    for position in [*range(0, 8 + size, 3), *body]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError, match=r"c\.safetensors"):
            load_checkpoint(path)
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=r"c\.safetensors"):
            load_checkpoint(path)


class Canary:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("canary"),)


@pytest.mark.parametrize("prefix", [b"", b"\x10\0\0\0\0\0\0\0"])
def test_a_pickle_is_refused_and_not_run(prefix: bytes) -> None:
    Path("c.safetensors").write_bytes(prefix + pickle.dumps(Canary()))
    with pytest.raises(CheckpointError, match="not a checkpoint of mnist-mlp"):
        load_checkpoint("c.safetensors")
    assert not Path("canary").exists()


def test_a_foreign_safetensors_file_is_refused() -> None:
    safetensors.torch.save_file({"x": torch.ones(2)}, "c.safetensors")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of mnist-mlp.*\(KeyError\)"):
        load_checkpoint("c.safetensors")


def with_sizes(sizes: list[int]) -> str:
    return CONFIG.model_copy(
        update={"model": CONFIG.model.model_copy(update={"layer_sizes": tuple(sizes)})}
    ).model_dump_json()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": "1"}, "format version"),
        ({"config": with_sizes([784, 5, 10])}, "layer1.weight is [4, 784] of F32"),
        ({"config": with_sizes([784, 10])}, "not those of its config's network"),
        ({"config": "{"}, "damaged (JSONDecodeError)"),
        ({"config": '{"seed": -1}'}, "damaged (ValidationError)"),
        ({"epoch": "two"}, "damaged (JSONDecodeError)"),
        ({"metrics": "[" * 100_000}, "damaged"),
    ],
)
def test_wrong_metadata_is_refused_though_the_digest_is_right(
    change: dict[str, str], reason: str
) -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    header["__metadata__"] |= change
    path.write_bytes(sealed(header, body))
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    assert reason in str(error.value)


@pytest.mark.parametrize("missing", ["format_version", "config", "epoch", "metrics", "progress"])
def test_missing_metadata_is_refused(missing: str) -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    del header["__metadata__"][missing]
    path.write_bytes(sealed(header, body))
    kind = "KeyError" if missing == "format_version" else "ValidationError"
    with pytest.raises(CheckpointError, match=rf"damaged \({kind}\)"):
        load_checkpoint(path)


def test_wrong_types_and_numbers_are_refused_though_the_digest_is_right() -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    as_integers = json.loads(json.dumps(header))
    as_integers["layer1.bias"]["dtype"] = "I32"
    path.write_bytes(sealed(as_integers, body))
    with pytest.raises(CheckpointError, match=r"layer1\.bias is \[4\] of I32"):
        load_checkpoint(path)
    start = header["layer2.bias"]["data_offsets"][0]
    nan = body[:start] + struct.pack("<f", float("nan")) + body[start + 4 :]
    path.write_bytes(sealed(header, nan))
    with pytest.raises(CheckpointError, match=r"layer2\.bias holds a number that is not finite"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_neither_written_nor_read_in_any_tensor(value: float) -> None:
    path = saved()
    before = path.read_bytes()
    header, body = header_of(before)
    with pytest.raises(DivergedError, match=r"layer1\.bias is not finite after update 30"):
        saved(bias=torch.full((4,), value))
    tensors = header.keys() - {"__metadata__"}
    assert len(tensors) == 8
    for name in tensors:
        if name.startswith("train."):
            bad = torch.full(header[name]["shape"], value)
            with pytest.raises(DivergedError, match=f"^{name} is not finite"):
                saved(training={name.removeprefix("train."): bad})
        end = header[name]["data_offsets"][1]
        path.write_bytes(sealed(header, body[: end - 4] + struct.pack("<f", value) + body[end:]))
        with pytest.raises(CheckpointError, match=f"{name} holds a number that is not finite"):
            load_checkpoint(path)
        path.write_bytes(before)
    assert load_checkpoint(path).epoch == 2


def test_tensors_that_its_config_does_not_have_are_refused() -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    moment = "train.optimizer.layer1.bias.momentum_buffer"
    at = header[moment]["data_offsets"]
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [len(body), len(body)]}
    for changed, odd in [
        ({k: v for k, v in header.items() if k != moment}, moment),
        (header | {"train.optimizer.layer1.bias.exp_avg": header[moment]}, "exp_avg"),
        (header | {"train.extra": empty}, "train.extra"),
        (header | {"layer3.bias": header["layer2.bias"]}, "layer3.bias"),
        (header | {"train.losses": empty}, "train.losses"),
        (header | {"train.losses": empty | {"shape": [60_001]}}, "train.losses"),
        (header | {"train.losses": empty | {"shape": [True]}}, "cut short"),
        (header | {moment: {"dtype": "F32", "shape": [2, 2], "data_offsets": at}}, "[2, 2]"),
    ]:
        path.write_bytes(sealed(changed, body))
        with pytest.raises(CheckpointError, match=re.escape(odd)):
            load_checkpoint(path)


def test_weights_alone_are_a_checkpoint_too() -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    kept = {name: entry for name, entry in header.items() if not name.startswith("train.")}
    end = max(entry["data_offsets"][1] for name, entry in kept.items() if name[0] != "_")
    path.write_bytes(sealed(kept, body[:end]))
    assert load_checkpoint(path).training == {}


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (b'{"__metadata__":', b'{"__metadata__":{},"__metadata__":'),
        (b'{"__metadata__":', b'{"layer1.bias":{},"__metadata__":'),
        (b'"epoch":"2"', b'"epoch":"2","epoch":"2"'),
        (b'"shape":[4]', b'"shape":[4],"shape":[4]'),
    ],
)
def test_a_name_that_comes_twice_is_refused(once: bytes, twice: bytes) -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    header["__metadata__"]["content_sha256"] = "0" * 64
    text = json.dumps(header, separators=(",", ":")).encode().replace(once, twice, 1)
    content = struct.pack("<Q", len(text)) + text + body
    digest = hashlib.sha256(content).hexdigest()
    path.write_bytes(content.replace(b"0" * 64, digest.encode(), 1))
    with pytest.raises(CheckpointError, match=r"damaged \(ValueError\)"):
        load_checkpoint(path)


def test_a_file_longer_or_shorter_than_its_header_says_is_refused() -> None:
    path = saved()
    header, body = header_of(path.read_bytes())
    for other in (body + b"\0", body + bytes(4096), body[:-4], b""):
        path.write_bytes(sealed(header, other))
        with pytest.raises(CheckpointError, match="cut short, or longer"):
            load_checkpoint(path)


def test_finding_checkpoints() -> None:
    run = Path("run")
    with pytest.raises(CheckpointError, match="no such run or checkpoint"):
        load_checkpoint(run)
    (run / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="no checkpoint in this folder"):
        load_checkpoint(run)
    for epoch in (2, 999, 1000):
        saved(str(checkpoint_path(run, epoch)))
    (run / "checkpoints" / ".epoch-1001.safetensors.x.tmp").touch()
    (run / "checkpoints" / "epoch-1002.safetensors").mkdir()
    (run / "checkpoints" / "epoch-1003.safetensors").symlink_to("nowhere")
    for not_ours in ("backup-20260101", "best", "epoch-2 (copy)", "my-epoch-9999"):
        (run / "checkpoints" / f"{not_ours}.safetensors").touch()
    saved(str(checkpoint_path(run, 2, 35)))
    saved(str(checkpoint_path(run, 2, 105)))
    assert [path.stem for path in list_checkpoints(run)] == [
        "epoch-002", "epoch-002-update-35", "epoch-002-update-105", "epoch-999", "epoch-1000",
    ]  # fmt: skip
    assert load_checkpoint(run).path.stem == "epoch-1000"


def test_the_weights_digest_is_of_little_endian_floats_in_name_order() -> None:
    model = build_mlp((784, 2, 10), seed=0)
    names = ["layer1.bias", "layer1.weight", "layer2.bias", "layer2.weight"]
    state = model.state_dict()
    numbers = [x for name in names for x in state[name].flatten().tolist()]
    assert (
        weights_sha256(model)
        == hashlib.sha256(struct.pack(f"<{len(numbers)}f", *numbers)).hexdigest()
    )
