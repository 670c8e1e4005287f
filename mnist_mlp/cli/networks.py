"""The commands that train a network or use a trained one: train, eval, predict, report, export."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mnist_mlp.cli import common
from mnist_mlp.errors import ImageError, UsageError
from mnist_mlp.signals import stop_requested
from mnist_mlp.updates.ranks import rank
from mnist_mlp.views.terminal import open_console, show_evaluation, show_prediction, show_run

# Options of one command each; common.py has the others.
RunDir = Annotated[Path | None, typer.Option(help="Default: a new folder runs/<config>-NNN.")]
Resume = Annotated[str | None, typer.Option(metavar="RUN", help="The run to continue, or latest.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Try everything on two mini-batches; keep only the data.")
]
Tensorboard = Annotated[bool, typer.Option("--tensorboard", help="Save TensorBoard events.")]
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
        if resume == "latest":
            from mnist_mlp.runs.directory import newest_run

            resume = str(newest_run())
        run_dir = Path(resume)
        config = config or str(run_dir / "config.yaml")
    if config is None:
        raise UsageError("name a --config, or a run to --resume")
    loaded = common.read_config(config, overrides, root, device)
    with open_console(json_, quiet or rank() > 0) as console:
        with stop_requested() as stop:
            from mnist_mlp.runs.training import run_events

            resumes = resume is not None
            events = run_events(loaded, run_dir, dry_run=dry_run, resume=resumes, stop=stop)
            if tensorboard and rank() == 0:
                from mnist_mlp.views.tensorboard import with_board

                events = with_board(events)
            result = show_run(console, events)
        if loaded.report and result.run_dir:
            from mnist_mlp.runs.environment import load_config_dataset
            from mnist_mlp.views.report import report_on

            checkpoint = common.read_checkpoint(result.run_dir)
            console.print(f"report in {report_on(checkpoint, load_config_dataset(loaded))}")
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
    with open_console(json_, quiet) as console:
        from mnist_mlp.runs.checkpoint import weights_sha256
        from mnist_mlp.runs.environment import cpu_threads, resolve_device, threads_of
        from mnist_mlp.steps.evaluate import evaluate_model

        torch_device = resolve_device(device or "auto")
        checkpoint = common.read_checkpoint(target, best)
        data = common.read_data(checkpoint.config, root)
        model, examples = checkpoint.model.to(torch_device), data.to(torch_device).split(split)
        with cpu_threads(threads_of(checkpoint.config)):  # as in training, for equal results
            evaluation = evaluate_model(model, *examples)
        console.print(f"{checkpoint.path}: {data.name}, {split} split")
        show_evaluation(console, evaluation)
    if json_:
        scores = [asdict(row) for row in evaluation.per_class]
        head = {"dataset": data.name, "split": split}
        tail = {"per_class": scores, "weights_sha256": weights_sha256(model)}
        common.print_json(head | asdict(evaluation) | tail)


def predict(
    paths: Images,
    best: common.Best = False,
    invert: Invert = "auto",
    show: Show = False,
    save_seen: SaveSeen = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Read your own handwritten digits: photos or drawings, PNG, JPEG, BMP, WebP or GIF.

    Without a RUN or CHECKPOINT, the newest run's network reads them. A file name that begins with
    a digit and _ or . gives the label, which the summary counts.
    """
    rows: list[dict[str, Any]] = []
    correct = []  # for each file with a label, whether the prediction is right
    with open_console(json_, quiet) as console:
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
                prediction = pictures.predict_file(checkpoint.model, file, invert)
            except ImageError as error:
                rows.append({"file": str(file), "error": str(error)})
                console.print(f"{file!s:{width}}  {str(error).removeprefix(f'{file}: ')}")
                continue
            rows.append(prediction.to_json())
            if (label := pictures.label_of(file)) is not None:
                correct.append(label == prediction.digit)
            show_prediction(console, prediction, label, width, show)
            if save_seen:
                pictures.save_seen(prediction, save_seen)
        if correct:
            share = f"{sum(correct) / len(correct):.2%}"
            console.print(f"{sum(correct)} of {len(correct)} labelled pictures read right: {share}")
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
    with open_console(False, quiet) as console:
        from mnist_mlp.runs.environment import cpu_threads
        from mnist_mlp.views.report import report_on

        checkpoint = common.read_checkpoint(target, best)
        data = common.read_data(checkpoint.config, root)
        with cpu_threads(1):
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
    with open_console(False, quiet) as console:
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
