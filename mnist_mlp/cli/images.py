"""The commands that show what a network makes of an image: trace, predict."""

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option

from mnist_mlp.cli import common
from mnist_mlp.errors import ImageError, UsageError
from mnist_mlp.runs.directory import find_run, is_network
from mnist_mlp.views.terminal import Output, show_prediction, show_trace

Index = Annotated[int | None, Option(min=0, help="Which image of the split. Default: 0.")]
Split = Annotated[Literal["test", "validation", "train"] | None, Option(help="Default: test.")]
ImageFile = Annotated[Path | None, Option(help="Your own image instead; see predict.")]
Label = Annotated[
    int | None,
    Option(min=0, max=9, help="Of --image. Default: from its name, else the prediction."),
]
Untrained = Annotated[bool, Option("--untrained", help="A new network, not a trained one.")]
NewConfig = Annotated[str | None, Option(help="Of --untrained: network, data. Default: digits.")]
LearningRate = Annotated[float, Option(min=0, help="For one gradient descent update.")]
Images = Annotated[
    list[Path],
    Argument(metavar="[RUN|CHECKPOINT] IMAGE...", help="Image files, or folders of them."),
]
Invert = Annotated[Literal["auto", "yes", "no"], Option(help="yes: dark ink; no: light ink.")]
Show = Annotated[bool, Option("--show", help="Show the network's input and probabilities.")]
SaveSeen = Annotated[Path | None, Option(metavar="DIR", help="Save the network's input there.")]
SaveSteps = Annotated[Path | None, Option(metavar="DIR", help="Save what each step made there.")]


@common.command()
def trace(
    console: Output,
    target: common.Target = None,
    best: common.Best = False,
    index: Index = None,
    split: Split = None,
    image: ImageFile = None,
    label: Label = None,
    untrained: Untrained = False,
    config: NewConfig = None,
    learning_rate: LearningRate = 0.1,
    root: common.Root = None,
) -> None:
    """Take one image through the lesson's eight steps, with a real network's numbers."""
    if untrained and (target or best):
        raise UsageError("--untrained takes no RUN, CHECKPOINT or --best; name a --config instead")
    if config and not untrained:
        raise UsageError("--config is for --untrained; a trained network has its own")
    if label is not None and not image:
        raise UsageError("--label is for an --image; other images have their own")
    if image and (index is not None or split):
        raise UsageError("--image is an image of your own: omit --index and --split")
    settings = common.read_config(config or "digits", root=root) if untrained else None
    from mnist_mlp.lesson.trace import trace_image
    from mnist_mlp.runs.environment import load_run_dataset
    from mnist_mlp.steps.model import build_mlp

    if settings:
        model = build_mlp(settings.model.layer_sizes, settings.model.activation, settings.seed)
        console.print(f"an untrained network, seed {settings.seed}")
    else:
        checkpoint = common.read_checkpoint(target, best)
        settings, model = checkpoint.config, checkpoint.model
        console.print(str(checkpoint.path))
    if image:
        import torch

        from mnist_mlp.pictures.predict import label_of, predict_file

        prediction = predict_file(model, image)
        label = label_of(image) if label is None else label
        y = prediction.digit if label is None else label
        x = torch.from_numpy(prediction.pixels).flatten()
        source: dict[str, Any] = {"split": None, "index": None, "image": str(image)}
        console.print(f"{image}, label {y}")
    else:
        index, split = index or 0, split or "test"
        examples = load_run_dataset(settings, root).split(split)
        if index > (last := len(examples.labels) - 1):
            raise UsageError(f"--index {index}: {settings.data.dataset} {split} ends at {last}")
        x, y = examples.pixels[index], int(examples.labels[index])
        source = {"split": split, "index": index}
        console.print(f"{settings.data.dataset}, {split} split, image {index}")
    traced = trace_image(model, x, y, learning_rate)
    if not math.isfinite(traced.loss_after):
        raise UsageError(f"--learning-rate {learning_rate:g}: the loss after it overflows")
    show_trace(console, traced)
    if console.stderr:  # JSON is wanted; it takes a moment
        console.print_result({"dataset": settings.data.dataset} | source | traced.to_json())


@common.command()
def predict(
    console: Output,
    paths: Images,
    best: common.Best = False,
    invert: Invert = "auto",
    show: Show = False,
    save_seen: SaveSeen = None,
    save_steps: SaveSteps = None,
) -> None:
    """Read your own handwritten digits: photos or drawings, PNG, JPEG, BMP, WebP or GIF.

    Without a RUN or CHECKPOINT, the newest run's network reads them. A file name that begins with
    a digit and _ or . gives the label, which the summary counts. Of the configs, best reads
    people's digits best, and fast nearly as well. An answer is unsure if small changes upset it.
    """
    from mnist_mlp.pictures import predict as pictures

    paths = [find_run(path) for path in paths]
    targets = [path for path in paths if is_network(path)]
    images = [path for path in paths if path not in targets]
    if len(targets) > 1:
        raise UsageError(f"{' and '.join(map(str, targets))}: several networks; name one")
    if not images:
        raise UsageError(f"{targets[0]}: this is a network; name an image to read with it")
    checkpoint = common.read_checkpoint(targets[0] if targets else None, best)
    console.print(str(checkpoint.path))
    files = list(pictures.pictures_of(images))
    width = max(len(str(file)) for file in files)
    rows: list[dict[str, Any]] = []
    correct = []  # for each file with a label, whether the prediction is right
    for file in files:
        try:
            prediction = pictures.predict_file(checkpoint.model, file, invert, save_steps)
        except ImageError as error:
            rows.append({"file": str(file), "error": str(error)})
            if len(files) > 1:  # otherwise the error is all there is to say
                console.print(f"{file!s:{width}}  {str(error).removeprefix(f'{file}: ')}")
            continue
        rows.append(prediction.to_json())
        if (label := pictures.label_of(file)) is not None:
            correct.append(label == prediction.digit)
        show_prediction(console, prediction, label, width, show)
        if save_seen:
            pictures.save_picture(prediction.pixels, save_seen, file.stem)
    if total := len(correct):
        right = sum(correct)
        console.print(f"{right} of {total} labelled pictures read right: {right / total:.2%}")
    console.print_result(rows)
    if errors := [row["error"] for row in rows if "error" in row]:
        told = f"{len(errors)} of {len(rows)} pictures could not be read"
        raise ImageError("\n".join(errors) if console.quiet or len(rows) == 1 else told)
