"""Export the network as a graph of operations: ONNX, or PyTorch's own program file (.pt2)."""

import io
import json
import logging
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mnist_mlp.errors import CheckFailedError, UsageError
from mnist_mlp.export.weights import describe
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.checkpoint import ZEROS, Checkpoint, fill_digest
from mnist_mlp.steps.data import to_images

CHECKED_IMAGES = 1_000
TOLERANCE = 2e-6  # of the largest |logit|: float32 sums depend on the order of addition
DYNAMIC_SHAPES = ({0: torch.export.Dim("batch")},)  # the batch size may vary


def export_onnx(checkpoint: Checkpoint, pixels: Tensor, output: Path) -> float:
    """Write an ONNX file that maps `images` (batch, 1, 28, 28) to `logits` (batch, 10).

    First compares onnxruntime's logits with PyTorch's for the first 1,000 of these images, bytes
    (N, 784). Returns the largest difference. A CheckFailedError where it exceeds `TOLERANCE`, and
    nothing is written; a UsageError where a required package is missing.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401 - PyTorch's exporter needs it
    except ImportError as error:
        raise UsageError(
            f"--format onnx: {error.name} is missing: pip install 'mnist-mlp[onnx]'"
        ) from None
    model = checkpoint.model.eval()
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter logs its progress as warnings
    try:
        program = torch.onnx.export(
            _program(model),
            dynamo=True,
            dynamic_shapes=DYNAMIC_SHAPES,
            input_names=["images"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    finally:
        logging.disable(level)
    assert program is not None  # noqa: S101 - never None with dynamo=True
    graph = program.model_proto
    # The exporter records the source file of each operation, with this machine's paths.
    for part in (*graph.graph.node, *graph.graph.input, *graph.graph.output, graph.graph, graph):
        del part.metadata_props[:]
    onnx.helper.set_model_props(graph, describe(checkpoint) | {"content_sha256": ZEROS})
    onnx.checker.check_model(graph, full_check=True)
    content = fill_digest(graph.SerializeToString(deterministic=True))

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    images = to_images(pixels[:CHECKED_IMAGES]).view(-1, 1, 28, 28)
    batches = (images[:1], images[1:])  # of two sizes, since the batch size may vary
    logits = [session.run(None, {"images": batch.numpy()})[0] for batch in batches]
    expected = model(images).detach().numpy()
    difference = float(np.abs(np.concatenate(logits) - expected).max())
    largest = float(np.abs(expected).max())
    if not difference <= TOLERANCE * largest:  # true for NaN too
        raise CheckFailedError(
            f"{output}: not written: onnxruntime's logits differ from PyTorch's by up to "
            f"{difference:.2g}; the largest logit is {largest:.2g}"
        )
    write_atomically(output, content)
    return difference


def export_program(checkpoint: Checkpoint, output: Path) -> None:
    """Write a file for `torch.export.load`, with its metadata in the entry `mnist-mlp.json`.

    Where PyTorch would put pickles into the file, a UsageError, and nothing is written.
    """
    program = _program(checkpoint.model.eval())
    program.example_inputs = None  # they would be pickled
    content = io.BytesIO()
    metadata = {"mnist-mlp.json": json.dumps(describe(checkpoint))}
    torch.export.save(program, content, extra_files=metadata)
    with zipfile.ZipFile(content) as archive:
        # Older versions write the weights with torch.save: a zip archive that contains a pickle.
        if any(archive.read(name).startswith(b"PK\x03\x04") for name in archive.namelist()):
            raise UsageError(
                f"--format pt2: PyTorch {torch.__version__} puts pickles into it: install a newer "
                "one, or choose safetensors or onnx"
            )
    write_atomically(output, content.getvalue())


def _program(model: nn.Module) -> torch.export.ExportedProgram:
    """Trace a model for any batch size, without the source locations of its operations."""
    example = (torch.zeros(2, 1, 28, 28),)
    program = torch.export.export(model, example, dynamic_shapes=DYNAMIC_SHAPES)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    return program
