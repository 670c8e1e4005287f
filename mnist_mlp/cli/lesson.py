"""The commands that compute what the lesson says: count-params, check-lesson, trace."""

import math
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_mlp.cli import common
from mnist_mlp.constants import LESSON_LAYER_SIZES, LESSON_PARAMETERS
from mnist_mlp.errors import CheckFailedError, UsageError
from mnist_mlp.views.terminal import open_console, show_claims, show_trace

Index = Annotated[int, typer.Option(min=0, help="Which image of the split.")]
ImageFile = Annotated[Path | None, typer.Option(help="Your own image instead; see predict.")]
Label = Annotated[
    int | None,
    typer.Option(min=0, max=9, help="Of --image. Default: from its name, else the prediction."),
]
Untrained = Annotated[bool, typer.Option("--untrained", help="A new network, not a trained one.")]
NewConfig = Annotated[str, typer.Option(help="With --untrained: whose network and data set.")]
LearningRate = Annotated[float, typer.Option(min=0, help="For one gradient descent update.")]


def count_params(
    config: common.ConfigName = "lesson",
    overrides: common.Overrides = None,
    json_: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Count the network's parameters, layer by layer, and compare with the lesson's 109,386."""
    network = common.read_config(config, overrides).model
    import torch

    from mnist_mlp.steps.model import build_mlp, count_parameters

    with torch.device("meta"):  # shapes only, without memory for the values
        layers = count_parameters(build_mlp(network.layer_sizes, network.activation))
    total = sum(layer.parameters for layer in layers)
    matches = total == LESSON_PARAMETERS
    if json_:
        rows = {"layers": [asdict(layer) for layer in layers], "total": total}
        lesson = {"lesson_total": LESSON_PARAMETERS, "matches_lesson": matches}
        common.print_json(rows | lesson)
    else:
        for layer in layers:
            common.print_text(f"{layer.name}  {layer}")
        verdict = f"{'as' if matches else 'not as'} in the lesson ({LESSON_PARAMETERS:,})"
        common.print_text(f"total   {total:,} parameters, {verdict}")
    if network.layer_sizes == LESSON_LAYER_SIZES and not matches:
        raise typer.Exit(1)


def check_lesson(
    root: common.Root = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Compute every claim of the lesson, on MNIST if it was downloaded, else on the digits.

    Exit 0 when this program computes what it should, also where the lesson errs; 1 when not.
    """
    with open_console(json_, quiet) as console:
        from mnist_mlp.lesson import claims as lesson_claims
        from mnist_mlp.mnist_files import has_mnist
        from mnist_mlp.runs.environment import cpu_threads
        from mnist_mlp.steps.data import load_dataset

        mnist_root = common.read_config("mnist", root=root).data.root
        data = load_dataset("mnist" if has_mnist(mnist_root) else "digits", mnist_root)
        with cpu_threads(1):  # the matrices are small
            claims = list(lesson_claims.check_lesson(data))
        show_claims(console, claims)
    failed = [claim.id for claim in claims if not claim.ok]
    if json_:
        summary = {"dataset": data.name, "rows": len(claims), "ok": len(claims) - len(failed)}
        summary |= Counter(claim.verdict for claim in claims)
        common.print_json({"claims": [asdict(claim) for claim in claims], "summary": summary})
    if failed:
        raise CheckFailedError(f"not as expected: {', '.join(failed)}; this program computes wrong")


def trace(
    target: common.Target = None,
    best: common.Best = False,
    index: Index = 0,
    split: common.Split = "test",
    image: ImageFile = None,
    label: Label = None,
    untrained: Untrained = False,
    config: NewConfig = "digits",
    learning_rate: LearningRate = 0.1,
    root: common.Root = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Take one image through the lesson's eight steps, with a real network's numbers."""
    if untrained and (target or best):
        raise UsageError("--untrained takes no RUN, CHECKPOINT or --best; name a --config instead")
    if label is not None and not image:
        raise UsageError("--label is for an --image; MNIST's images have their own labels")
    settings = common.read_config(config, root=root) if untrained else None
    with open_console(json_, quiet) as console:
        import torch

        from mnist_mlp.lesson.trace import trace_image
        from mnist_mlp.steps.data import to_images
        from mnist_mlp.steps.model import build_mlp

        if settings:
            model = build_mlp(settings.model.layer_sizes, settings.model.activation, settings.seed)
            console.print(f"an untrained network, seed {settings.seed}")
        else:
            checkpoint = common.read_checkpoint(target, best)
            settings, model = checkpoint.config, checkpoint.model
            console.print(str(checkpoint.path))
        source: dict[str, Any] = {"dataset": settings.data.dataset, "split": split, "index": index}
        if image:
            from mnist_mlp.pictures.predict import label_of, predict_file

            prediction = predict_file(model, image)
            x = to_images(torch.from_numpy(prediction.pixels).flatten())
            labels = (label, label_of(image), prediction.digit)
            y = next(known for known in labels if known is not None)
            source |= {"split": None, "index": None, "image": str(image)}
            console.print(f"{image}, label {y}")
        else:
            data = common.read_data(settings, root)
            examples = data.split(split)
            last = len(examples.labels) - 1
            if index > last:
                raise UsageError(f"--index {index}: {data.name} {split} ends at {last}")
            x, y = to_images(examples.pixels[index]), int(examples.labels[index])
            console.print(f"{data.name}, {split} split, image {index}")
        traced = trace_image(model, x, y, learning_rate)
        if not math.isfinite(traced.loss_after):
            raise UsageError(f"--learning-rate {learning_rate:g}: the loss after it overflows")
        show_trace(console, traced)
    if json_:
        common.print_json(source | traced.to_json())
