"""A network as a graph of operations: ONNX, for other runtimes, and PyTorch's own program file."""

import io
import json
import logging
import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from mnist_mlp.errors import CheckFailedError, UsageError
from mnist_mlp.export.weights import describe
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.checkpoint import ZEROS, Checkpoint, fill_digest
from mnist_mlp.steps.data import to_images

CHECKED_IMAGES = 1_000
TOLERANCE = 2e-6
"""Of the largest |logit|: what another order of the same float32 sums may make of it."""
BATCHES = ({0: torch.export.Dim("batch")},)
"""Which dimensions of the input are of any size, by name."""


def export_onnx(checkpoint: Checkpoint, pixels: Tensor, output: Path) -> float:
    """Write an ONNX file: `images` (batch, 1, 28, 28) to `logits` (batch, 10), any batch size.

    Before it is written, onnxruntime and PyTorch are asked about the same images.

    Args:
        checkpoint: Whose network.
        pixels: (N, 784), bytes; the first 1,000 are compared.
        output: The file.

    Returns:
        The largest difference between two logits.

    Raises:
        CheckFailedError: It is more than `TOLERANCE` of the largest |logit|; nothing is written.
        UsageError: The packages that it takes are missing.
        OSError: It cannot be written; what was there is still there.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - what PyTorch's exporter asks for
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is missing: pip install 'mnist-mlp[onnx]'"
        ) from None
    model = checkpoint.model.eval()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter tells at length what it does
    try:
        program = torch.onnx.export(
            _program(model),
            dynamo=True,
            dynamic_shapes=BATCHES,
            input_names=["images"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    finally:
        logging.disable(level)
    assert program is not None  # noqa: S101 - it is, with dynamo
    graph = program.model_proto
    # Of each part, where in PyTorch's source it comes from, with the folders of this machine.
    for part in (*graph.graph.node, *graph.graph.input, *graph.graph.output, graph.graph, graph):
        del part.metadata_props[:]
    onnx.helper.set_model_props(graph, describe(checkpoint) | {"content_sha256": ZEROS})
    onnx.checker.check_model(graph, full_check=True)
    content = fill_digest(graph.SerializeToString(deterministic=True))

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = to_images(pixels[:CHECKED_IMAGES]).view(-1, 1, 28, 28)
    with torch.no_grad():
        expected = model(images)
    apart = []
    for batch in (images, images[:1]):
        (logits,) = session.run(["logits"], {"images": batch.numpy()})
        apart.append((torch.from_numpy(logits) - expected[: len(batch)]).abs().max())
    difference = float(torch.stack(apart).max())  # not Python's max, which passes over a NaN
    if not difference <= TOLERANCE * (largest := float(expected.abs().max())):
        raise CheckFailedError(
            f"{output}: not written: onnxruntime's logits are up to {difference:.2g} from "
            f"PyTorch's, the largest of which is {largest:.2g}"
        )
    write_atomically(output, content)
    return difference


def export_program(checkpoint: Checkpoint, output: Path) -> None:
    """Write what `torch.export.load` reads; what it is of stands in its `mnist-mlp.json`.

    Raises:
        UsageError: This PyTorch would put pickles into it; nothing is written.
        OSError: It cannot be written; what was there is still there.
    """
    program = _program(checkpoint.model.eval())
    program.example_inputs = None  # which would be pickled
    content = io.BytesIO()
    about = {"mnist-mlp.json": json.dumps(describe(checkpoint))}
    torch.export.save(program, content, extra_files=about)
    with zipfile.ZipFile(content) as archive:
        # torch.save, which older ones call for the weights, writes a zip archive with a pickle.
        if any(archive.read(name).startswith(b"PK\x03\x04") for name in archive.namelist()):
            raise UsageError(
                f"--format pt2: PyTorch {torch.__version__} puts pickles into it: install a newer "
                "one, or choose safetensors or onnx"
            )
    write_atomically(output, content.getvalue())


def _program(model: nn.Module) -> torch.export.ExportedProgram:
    """The operations of a model, for batches of any size, with no word of this machine's files."""
    example = (torch.zeros(2, 1, 28, 28),)
    program = torch.export.export(model, example, dynamic_shapes=BATCHES)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
