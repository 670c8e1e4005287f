import copy
import hashlib
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from mnist_mlp import load_config, train_model
from mnist_mlp.errors import CheckFailedError, UsageError
from mnist_mlp.export import graph
from mnist_mlp.export.graph import export_onnx, export_program
from mnist_mlp.export.weights import INPUT
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint
from mnist_mlp.steps.data import Dataset
from tests.conftest import REPOSITORY


def trained(folder: Path, *overrides: str) -> Checkpoint:
    config = load_config("digits", ["train.epochs=2", *overrides])
    return load_checkpoint(train_model(config, folder).run_dir or "")


def logits_of(checkpoint: Checkpoint, images: torch.Tensor) -> NDArray[np.float32]:
    with torch.no_grad():
        return np.asarray(checkpoint.model(images))


def digest_holds(content: bytes, said: str) -> bool:
    return hashlib.sha256(content.replace(said.encode(), b"0" * 64, 1)).hexdigest() == said


def test_onnx_gives_the_same_logits_for_any_batch(checkpoint: Checkpoint, digits: Dataset) -> None:
    difference = export_onnx(checkpoint, digits.test.pixels, Path("a.onnx"))
    session = onnxruntime.InferenceSession("a.onnx")
    images = digits.test.images.view(-1, 1, 28, 28)
    expected = logits_of(checkpoint, images)
    for batch in (1, 7, 360):
        (logits,) = session.run(None, {"images": images[:batch].numpy()})
        assert np.abs(logits - expected[:batch]).max() <= 2e-6 * np.abs(expected).max()
    assert 0 <= difference <= 2e-6 * np.abs(expected).max()
    (taken,), (given,) = session.get_inputs(), session.get_outputs()
    assert (taken.name, taken.shape, taken.type) == (
        "images",
        ["batch", 1, 28, 28],
        "tensor(float)",
    )
    assert (given.name, given.shape) == ("logits", ["batch", 10])


def test_onnx_says_what_it_is_and_nothing_of_this_machine(
    checkpoint: Checkpoint, digits: Dataset
) -> None:
    path = Path("a.onnx")
    export_onnx(checkpoint, digits.test.pixels, path)
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["input"] == INPUT
    assert float(metadata["test_accuracy"]) == checkpoint.metrics["test_accuracy"]
    content = path.read_bytes()
    assert digest_holds(content, metadata["content_sha256"])
    assert b"site-packages" not in content
    assert str(REPOSITORY).encode() not in content
    assert list(Path().iterdir()) == [path]  # one file, the weights in it


@pytest.mark.parametrize("activation", ["identity", "tanh", "sigmoid", "gelu"])
def test_other_networks(activation: str, digits: Dataset, tmp_path: Path) -> None:
    sizes = "[784,10]" if activation == "identity" else "[784,20,30,10]"
    other = trained(
        tmp_path / "run", f"model.activation={activation}", f"model.layer_sizes={sizes}"
    )
    export_onnx(other, digits.test.pixels, Path("a.onnx"))
    export_program(other, Path("a.pt2"))
    program = torch.export.load("a.pt2").module()
    images = digits.test.images.view(-1, 1, 28, 28)
    assert np.array_equal(program(images).detach(), logits_of(other, images))


@pytest.mark.parametrize("wrong", [0.001, float("nan")])
def test_a_graph_that_differs_is_not_written(
    wrong: float, checkpoint: Checkpoint, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path("a.onnx")
    path.write_text("an older one")
    export = graph._program
    other = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        other.get_parameter("layer3.bias")[0] += wrong
    monkeypatch.setattr(graph, "_program", lambda _: export(other))
    with pytest.raises(CheckFailedError, match="not written"):
        export_onnx(checkpoint, digits.test.pixels, path)
    assert path.read_text() == "an older one"


def test_the_program_file_has_no_pickle_and_says_what_it_is(
    checkpoint: Checkpoint, digits: Dataset
) -> None:
    export_program(checkpoint, Path("a.pt2"))
    with zipfile.ZipFile("a.pt2") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name, content in contents.items():
        assert not content.startswith(b"PK\x03\x04"), name  # as torch.save's files, with a pickle
        assert b"site-packages" not in content
    about = {"mnist-mlp.json": ""}
    program = torch.export.load("a.pt2", extra_files=about).module()
    assert json.loads(about["mnist-mlp.json"])["input"] == INPUT
    images = digits.test.images.view(-1, 1, 28, 28)
    assert np.array_equal(program(images).detach(), logits_of(checkpoint, images))


def test_a_program_file_with_a_pickle_is_not_written(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As before PyTorch wrote plain bytes, and as it still does for example inputs."""
    save = torch.export.save

    def pickling(program: torch.export.ExportedProgram, *args: Any, **kwargs: Any) -> None:
        program.example_inputs = ((torch.zeros(2, 1, 28, 28),), {})
        save(program, *args, **kwargs)

    monkeypatch.setattr(torch.export, "save", pickling)
    with pytest.raises(UsageError, match="puts pickles into it"):
        export_program(checkpoint, Path("a.pt2"))
    assert not Path("a.pt2").exists()


def test_a_graph_that_differs_on_one_image_of_the_first_thousand_is_not_written(
    checkpoint: Checkpoint, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only there: by a pixel that is black in all the others, the first of them included."""
    pixels = digits.test.pixels.clone()
    pixels[:, 0] = 0
    pixels[-1, 0] = 255
    export = graph._program
    other = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        other.get_parameter("layer1.weight")[:, 0] += 1
    monkeypatch.setattr(graph, "_program", lambda _: export(other))
    with pytest.raises(CheckFailedError, match="not written"):
        export_onnx(checkpoint, pixels, Path("a.onnx"))
    assert not Path("a.onnx").exists()


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_without_the_extra(
    package: str, checkpoint: Checkpoint, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package} is missing: pip install 'mnist-mlp\[onnx\]'"):
        export_onnx(checkpoint, digits.test.pixels, Path("a.onnx"))
