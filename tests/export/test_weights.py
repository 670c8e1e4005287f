import ast
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

import mnist_mlp
from mnist_mlp.errors import UsageError
from mnist_mlp.export.weights import INPUT, export_safetensors
from mnist_mlp.runs.checkpoint import Checkpoint, weights_sha256
from mnist_mlp.steps.data import Dataset
from tests.conftest import REPOSITORY, Outcome
from tests.export.test_graph import digest_holds, logits_of

Run = Callable[..., Outcome]


def test_exporters_import_only_what_they_need() -> None:
    script = """
import sys
import mnist_mlp.export.weights
assert not sys.modules.keys() & {"mnist_mlp.export.graph", "mnist_mlp.export.page"}
import mnist_mlp.export.page
assert "mnist_mlp.export.graph" not in sys.modules
import mnist_mlp.export.graph
assert not sys.modules.keys() & {"matplotlib", "onnx", "onnxruntime"}
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_readmes_lines_load_the_weights(checkpoint: Checkpoint, digits: Dataset) -> None:
    """In a process that does not import mnist_mlp."""
    export_safetensors(checkpoint, Path("digits-001.safetensors"))
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (block,) = [part for part in readme.split("```") if "load_file(" in part]
    lines = block.removeprefix("python")
    assert sum(not isinstance(line, ast.ImportFrom) for line in ast.parse(lines).body) == 4
    np.save("images.npy", digits.test.images.numpy())
    script = f"""{lines}
import sys
import numpy as np
import torch
images = torch.from_numpy(np.load("images.npy"))
np.savez("found.npz", logits=model(images).detach(), **model.state_dict())
sys.exit("mnist_mlp" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    found = np.load("found.npz")
    for name, tensor in checkpoint.model.state_dict().items():
        assert np.array_equal(found[name], tensor)
    expected = logits_of(checkpoint, digits.test.images)
    assert np.abs(found["logits"] - expected).max() < 1e-5  # another process may round otherwise


def test_safetensors_says_what_it_is(checkpoint: Checkpoint) -> None:
    path = Path("weights.safetensors")
    export_safetensors(checkpoint, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        assert set(file.keys()) == set(checkpoint.model.state_dict())
    assert metadata["input"] == INPUT
    assert json.loads(metadata["layer_sizes"]) == [784, 128, 64, 10]
    assert json.loads(metadata["classes"]) == list("0123456789")
    assert float(metadata["test_accuracy"]) == checkpoint.metrics["test_accuracy"]
    assert metadata["weights_sha256"] == weights_sha256(checkpoint.model)
    content = path.read_bytes()
    assert digest_holds(content, metadata["content_sha256"])
    for position in [*range(0, 2000, 7), *range(2000, len(content), 9973), len(content) - 1]:
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        assert not digest_holds(bytes(flipped), metadata["content_sha256"])


def test_the_command(run: Run) -> None:
    run("train", "--config", "digits", "train.epochs=1", "--quiet")
    for kind in ("safetensors", "onnx", "pt2", "html"):
        outcome = run("export", "--format", kind)
        assert (outcome.code, outcome.err) == (0, "")
        said = f"runs/digits-001/checkpoints/epoch-001.safetensors -> digits-001.{kind}, "
        assert outcome.out.splitlines()[-1].startswith(said)
        assert Path(f"digits-001.{kind}").stat().st_size > 400_000
    assert run("export", "runs/digits-001", "--format", "pt2", "--output", "no/such").code == 5
    checkpoint = "runs/digits-001/checkpoints/epoch-001.safetensors"
    itself = run("export", checkpoint, "--format", "safetensors", "--output", checkpoint)
    assert itself.code == 2
    assert run("eval", "--quiet").code == 0
    run("export", "digits-001", "--format", "html", "--output", "digits-001").expect(0)
    with pytest.raises(UsageError, match="pickle: no such format; html, safetensors, onnx, pt2"):
        mnist_mlp.export_network(mnist_mlp.load_checkpoint("runs/digits-001"), "pickle")  # type: ignore[arg-type]
