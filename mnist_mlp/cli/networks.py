"""The commands that make or use a network: train, eval, trace, predict, report, export."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mnist_mlp.cli import common
from mnist_mlp.errors import ImageError, UsageError
from mnist_mlp.runs.directory import newest_run
from mnist_mlp.signals import stop_requested
from mnist_mlp.updates.ranks import rank
from mnist_mlp.views import terminal

# Options of one command each; common.py has the others.
RunDir = Annotated[Path | None, typer.Option(help="Default: a new folder runs/<config>-NNN.")]
Resume = Annotated[str | None, typer.Option(metavar="RUN", help="The run to continue, or latest.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Try everything on two mini-batches; keep only the data.")
]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Save TensorBoard events.")]
Index = Annotated[int, typer.Option(min=0, help="Which image of the split.")]
ImageFile = Annotated[Path | None, typer.Option(help="Your own image instead; see predict.")]
Label = Annotated[
    int | None,
    typer.Option(min=0, max=9, help="Of --image. Default: from its name, else the prediction."),
]
Untrained = Annotated[bool, typer.Option("--untrained", help="A new network, not a trained one.")]
NewConfig = Annotated[str, typer.Option(help="With --untrained: whose network and data set.")]
LearningRate = Annotated[float, typer.Option(min=0, help="For one gradient descent update.")]
Images = Annotated[
    list[Path],
    typer.Argument(metavar="[RUN|CHECKPOINT] IMAGE...", help="Image files, or folders of them."),
]
Invert = Annotated[
    Literal["auto", "yes", "no"],
    typer.Option(help="yes: dark ink on light paper; no: light on dark."),
]
Show = Annotated[bool, typer.Option("--show", help="Show the network's input and probabilities.")]
SaveSeen = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Save the network's input there, as PNG files.")
]
SaveSteps = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Save what each step made of a picture there, as PNG files."),
]
Folder = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Default: the run, or a new <name>-report.")
]
Format = Annotated[
    Literal["html", "safetensors", "onnx", "pt2"],
    typer.Option("--format", help="The explorer page, the weights, or a graph."),
]
File = Annotated[Path | None, typer.Option(metavar="FILE", help="Default: <run>.<format>, here.")]


def train(
    config: common.OptionalConfigName = None,
    overrides: common.Overrides = None,
    device: common.Device = None,
    root: common.Root = None,
    run_dir: RunDir = None,
    resume: Resume = None,
    dry_run: DryRun = False,
    tensorboard: Tensorboard = False,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Train a network as a config says, or continue a run that was stopped."""
    if resume is not None:
        if run_dir or dry_run:
            raise UsageError("--resume continues a run in place: omit --run-dir and --dry-run")
        run_dir = newest_run() if resume == "latest" else Path(resume)
        config = config or str(run_dir / "config.yaml")
    if config is None:
        raise UsageError("name a --config, or a run to --resume")
    loaded = common.read_config(config, overrides, root, device)
    with terminal.open_console(json_, quiet or rank() > 0) as console:
        with stop_requested() as stop:
            from mnist_mlp.runs.training import run_events

            resuming = resume is not None
            events = run_events(loaded, run_dir, dry_run=dry_run, resume=resuming, stop=stop)
            if tensorboard and rank() == 0:
                from mnist_mlp.views.tensorboard import with_board

                events = with_board(events)
            result = terminal.show_run(console, events)
        if loaded.report and result.run_dir:
            from mnist_mlp.views.report import report_on

            data = common.read_data(loaded, loaded.data.root)
            page = report_on(common.read_checkpoint(result.run_dir), data)
            console.print(f"report in {page}")
    if json_ and rank() == 0:
        common.print_json(result.to_json())


def evaluate(
    target: common.Target = None,
    best: common.Best = False,
    split: common.Split = "test",
    device: common.Device = None,
    root: common.Root = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Evaluate a trained network: loss, accuracy, scores of each digit, confusion matrix."""
    with terminal.open_console(json_, quiet) as console:
        from mnist_mlp.runs.checkpoint import weights_sha256
        from mnist_mlp.runs.environment import cpu_threads, resolve_device, threads_of
        from mnist_mlp.steps.evaluate import evaluate_model

        checkpoint = common.read_checkpoint(target, best)
        torch_device = resolve_device(device or checkpoint.config.device)
        data = common.read_data(checkpoint.config, root)
        model, examples = checkpoint.model.to(torch_device), data.to(torch_device).split(split)
        with cpu_threads(threads_of(checkpoint.config)):  # as in training, for equal results
            evaluation = evaluate_model(model, *examples)
        console.print(f"{checkpoint.path}: {data.name}, {split} split")
        terminal.show_evaluation(console, evaluation)
    if json_:
        scores = [asdict(row) for row in evaluation.per_class]
        head = {"dataset": data.name, "split": split}
        tail = {"per_class": scores, "weights_sha256": weights_sha256(model)}
        common.print_json(head | asdict(evaluation) | tail)


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
    with terminal.open_console(json_, quiet) as console:
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
        terminal.show_trace(console, traced)
    if json_:
        common.print_json(source | traced.to_json())


def predict(
    paths: Images,
    best: common.Best = False,
    invert: Invert = "auto",
    show: Show = False,
    save_seen: SaveSeen = None,
    save_steps: SaveSteps = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Read your own handwritten digits: photos or drawings, PNG, JPEG, BMP, WebP or GIF.

    Without a RUN or CHECKPOINT, the newest run's network reads them. A file name that begins with
    a digit and _ or . gives the label, which the summary counts. Of the configs, best reads
    people's digits best, and fast nearly as well. An answer is unsure if small changes upset it.
    """
    rows: list[dict[str, Any]] = []
    correct = []  # for each file with a label, whether the prediction is right
    with terminal.open_console(json_, quiet) as console:
        from mnist_mlp.pictures import predict as pictures

        has_target = paths[0].suffix == ".safetensors" or (paths[0] / "checkpoints").is_dir()
        target, images = (paths[0], paths[1:]) if has_target else (None, paths)
        if not images:
            raise UsageError(f"{target}: this is a network; name an image to read with it")
        checkpoint = common.read_checkpoint(target, best)
        console.print(str(checkpoint.path))
        files = list(pictures.pictures_of(images))
        width = max(len(str(file)) for file in files)
        for file in files:
            try:
                prediction = pictures.predict_file(checkpoint.model, file, invert, save_steps)
            except ImageError as error:
                rows.append({"file": str(file), "error": str(error)})
                console.print(f"{file!s:{width}}  {str(error).removeprefix(f'{file}: ')}")
                continue
            rows.append(prediction.to_json())
            if (label := pictures.label_of(file)) is not None:
                correct.append(label == prediction.digit)
            terminal.show_prediction(console, prediction, label, width, show)
            if save_seen:
                pictures.save_seen(prediction, save_seen)
        if correct:
            right, total = sum(correct), len(correct)
            console.print(f"{right} of {total} labelled pictures read right: {right / total:.2%}")
    if json_:
        common.print_json(rows)
    if errors := [row["error"] for row in rows if "error" in row]:
        raise ImageError("\n".join(errors))


def report(
    target: common.Target = None,
    best: common.Best = False,
    output: Folder = None,
    root: common.Root = None,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Draw a run's pictures, save their numbers beside them, and write the page report.html."""
    with terminal.open_console(False, quiet) as console:
        from mnist_mlp.views.report import report_on

        checkpoint = common.read_checkpoint(target, best)
        data = common.read_data(checkpoint.config, root)
        page = report_on(checkpoint, data, output)
        console.print(f"{page}, and pictures with their numbers in {page.parent / 'plots'}")


def export(
    target: common.Target = None,
    *,
    format_: Format,
    best: common.Best = False,
    output: File = None,
    root: common.Root = None,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Write a trained network as a page to explore it, or as a file for other programs."""
    with terminal.open_console(False, quiet) as console:
        checkpoint = common.read_checkpoint(target, best)
        name = (checkpoint.run_dir or checkpoint.path.with_suffix("")).absolute().name
        path = output or Path(f"{name}.{format_}")
        if path.exists() and path.samefile(checkpoint.path):
            raise UsageError(f"{path}: is the checkpoint itself; choose another --output")
        if format_ == "safetensors":
            from mnist_mlp.export.weights import export_safetensors

            export_safetensors(checkpoint, path)
        elif format_ == "pt2":
            from mnist_mlp.export.graph import export_program

            export_program(checkpoint, path)
        elif format_ == "onnx":
            from mnist_mlp.export.graph import export_onnx

            pixels = common.read_data(checkpoint.config, root).test.pixels
            difference = export_onnx(checkpoint, pixels, path)
            console.print(f"onnxruntime's logits differ from PyTorch's by at most {difference:.2g}")
        else:
            from mnist_mlp.export.page import export_html

            data = common.read_data(checkpoint.config, root)
            export_html(checkpoint, data, checkpoint.rows(), path)
        console.print(f"{checkpoint.path} -> {path}, {path.stat().st_size:,} bytes")
