"""Write a trained network in the format that somebody needs."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args

from mnist_mlp.errors import CheckpointError, UsageError
from mnist_mlp.export.weights import export_safetensors
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint
from mnist_mlp.runs.environment import load_run_dataset

log = logging.getLogger(__name__)
Format = Literal["html", "safetensors", "onnx", "pt2"]


def export_network(
    checkpoint: Checkpoint,
    format_: Format,
    output: str | Path | None = None,
    root: str | None = None,
) -> Path:
    """Write a network as the explorer page (html), its weights, or a graph of operations.

    The output is a file, which is replaced, or a folder; by default `<run>.<format>`, here. The
    data root, for html and onnx, is by default where the run had it. A UsageError where the output
    is a checkpoint or named as another format, or a package is missing; an OSError where the file
    cannot be written, and an existing one is left unchanged.
    """
    if format_ not in get_args(Format):
        raise UsageError(f"{format_}: no such format; {', '.join(get_args(Format))}")
    name = (checkpoint.run_dir or checkpoint.path.with_suffix("")).absolute().name
    path = Path(output or ".")
    if path.is_dir():
        path /= f"{name}.{format_}"
    if path.suffix[1:] in {*get_args(Format)} - {format_}:
        raise UsageError(f"{path}: is named {path.suffix}, but the format is {format_}")
    if path.is_file():
        with suppress(CheckpointError):
            if load_checkpoint(path).environment:  # which an export lacks
                raise UsageError(f"{path}: is a checkpoint; choose another output")
        log.info("%s: replaces the file that was there", path)
    # The larger exporters are imported alone, each with the packages that only it needs.
    if format_ == "safetensors":
        export_safetensors(checkpoint, path)
    elif format_ == "html":
        from mnist_mlp.export.page import export_html

        export_html(checkpoint, load_run_dataset(checkpoint.config, root), path)
    else:
        from mnist_mlp.export import graph

        if format_ == "pt2":
            graph.export_program(checkpoint, path)
        else:
            pixels = load_run_dataset(checkpoint.config, root).test.pixels
            difference = graph.export_onnx(checkpoint, pixels, path)
            log.info("onnxruntime's logits differ from PyTorch's by at most %.2g", difference)
    return path
