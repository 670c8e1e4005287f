"""The command line: parse, call, print.

Nothing here imports torch before a command needs it, so that `--help` and a config's errors are
quick. What people read goes to stdout, or to stderr where stdout is kept for `--json`.
"""

import json
import math
import os
import re
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from mnist_mlp.config import DATA_ROOT_VARIABLE, Config, bundled_configs, load_config
from mnist_mlp.constants import LESSON_LAYER_SIZES
from mnist_mlp.errors import (
    FILE_SYSTEM_EXIT_CODE,
    CheckFailedError,
    DivergedError,
    ImageError,
    MnistMlpError,
    StoppedError,
    UsageError,
)
from mnist_mlp.signals import stop_requested
from mnist_mlp.updates.ranks import processes, rank
from mnist_mlp.views.terminal import (
    discard,
    open_console,
    show_claims,
    show_differences,
    show_evaluation,
    show_prediction,
    show_run,
    show_runs,
    show_trace,
)

app = typer.Typer(
    name="mnist-mlp",
    help="Train, evaluate and take apart the 784-128-64-10 network that reads handwritten digits.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[
    str, typer.Option("--config", help="A YAML file, or the bare name of a bundled config.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Config overrides, such as train.epochs=3."),
]
Target = Annotated[
    Path | None,
    typer.Argument(metavar="RUN|CHECKPOINT", help="Default: the newest run under runs/."),
]
BestOption = Annotated[
    bool, typer.Option("--best", help="Of a run, the best by validation instead of the newest.")
]
RootOption = Annotated[
    str | None,
    typer.Option("--root", help="The data root. Beats MNIST_MLP_DATA, which beats the config."),
]
DeviceOption = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option("--device", help="Beats the config.")
]
SplitOption = Annotated[
    Literal["test", "validation", "train"], typer.Option(help="Which examples.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, alone, on stdout.")]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print errors and --json only.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        _print(f"mnist-mlp {metadata.version('mnist-mlp')}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Options of the program itself."""


@app.command()
def train(
    config: Annotated[
        str | None, typer.Option("--config", help="A YAML file, or a bundled config's bare name.")
    ] = None,
    overrides: Overrides = None,
    device: DeviceOption = None,
    root: RootOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Where to record it. Default: a new runs/<config>-NNN.")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option("--resume", metavar="RUN", help="Go on with a run; 'latest': the newest."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Go the whole way on two batches; keep only a download."),
    ] = False,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", help="Write events into the run, for tensorboard --logdir."),
    ] = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a network as a config says, or go on with a run that was stopped."""
    if resume is not None and (run_dir or dry_run):
        raise UsageError("--resume goes on in its own run: leave out --run-dir and --dry-run")
    if resume == "latest":
        from mnist_mlp.runs.training import newest_run

        resume = str(newest_run())
    if resume is not None:
        run_dir = Path(resume)
        config = config or str(run_dir / "config.yaml")
    if config is None:
        raise UsageError("name a --config, or a run to --resume")
    loaded = _load(config, overrides, root, device)
    with open_console(json_, quiet or rank() > 0) as console:
        with stop_requested() as stop:
            from mnist_mlp.runs.training import run_events

            events = run_events(loaded, run_dir, dry_run=dry_run, resume=bool(resume), stop=stop)
            if tensorboard and rank() == 0:
                from mnist_mlp.views.tensorboard import with_board

                events = with_board(events)
            result = show_run(console, events)
        if loaded.report and result.run_dir:
            from mnist_mlp.runs.checkpoint import load_checkpoint
            from mnist_mlp.runs.training import load_config_dataset
            from mnist_mlp.views.report import report_on

            page = report_on(load_checkpoint(result.run_dir), load_config_dataset(loaded))
            console.print(f"report in {page}")
    if json_ and rank() == 0:
        _print_json(result.to_json())


@app.command(name="eval")
def evaluate(
    target: Target = None,
    best: BestOption = False,
    split: SplitOption = "test",
    device: DeviceOption = None,
    root: RootOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Evaluate a trained network: loss, accuracy, every digit, the confusion matrix."""
    with open_console(json_, quiet) as console:
        from mnist_mlp.runs.checkpoint import load_checkpoint, weights_sha256
        from mnist_mlp.runs.training import (
            cpu_threads,
            load_config_dataset,
            newest_run,
            resolve_device,
            threads_of,
        )
        from mnist_mlp.steps.evaluate import evaluate_model

        place = resolve_device(device or "auto")
        checkpoint = load_checkpoint(target or newest_run(), best=best)
        config = checkpoint.config
        data = load_config_dataset(config, root or os.environ.get(DATA_ROOT_VARIABLE))
        with cpu_threads(threads_of(config)):  # as in training, so that the figures are the same
            evaluation = evaluate_model(checkpoint.model.to(place), *data.to(place).split(split))
        console.print(f"{checkpoint.path}: {data.name}, {split} split")
        show_evaluation(console, evaluation)
    if json_:
        _print_json(
            {
                "dataset": data.name,
                "split": split,
                "examples": evaluation.examples,
                "loss": evaluation.loss,
                "accuracy": evaluation.accuracy,
                "per_class": [asdict(scores) for scores in evaluation.per_class],
                "confusion_matrix": evaluation.confusion_matrix,
                "weights_sha256": weights_sha256(checkpoint.model),
            }
        )


@app.command(name="count-params")
def count_params(
    config: Annotated[
        str | None, typer.Option("--config", help="Whose network. Default: the lesson's.")
    ] = None,
    overrides: Overrides = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Count the network's parameters, layer by layer, and compare with the lesson's 109,386."""
    loaded = _load("lesson" if config is None else config, overrides)
    import torch

    from mnist_mlp.constants import LESSON_PARAMETERS
    from mnist_mlp.steps.model import build_mlp, count_parameters

    sizes = loaded.model.layer_sizes
    with torch.device("meta"):  # shapes without memory: nothing is computed with it
        layers = count_parameters(build_mlp(sizes, loaded.model.activation))
    total = sum(layer.parameters for layer in layers)
    matches = total == LESSON_PARAMETERS
    if json_:
        _print_json(
            {
                "layers": [asdict(layer) for layer in layers],
                "total": total,
                "lesson_total": LESSON_PARAMETERS,
                "matches_lesson": matches,
            }
        )
    else:
        for layer in layers:
            _print(f"{layer.name}  {layer}")
        verdict = "as" if matches else "not as"
        _print(f"total   {total:,} parameters, {verdict} in the lesson ({LESSON_PARAMETERS:,})")
    if sizes == LESSON_LAYER_SIZES and not matches:
        raise typer.Exit(1)


@app.command(name="check-lesson")
def check_the_lesson(
    root: RootOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Compute every claim of the lesson; on MNIST where it is at hand, else on the digits.

    Exit 0 when this program computes what it should, also where the lesson errs; 1 when not.
    """
    with open_console(json_, quiet) as console:
        from mnist_mlp.lesson.claims import check_lesson
        from mnist_mlp.runs.training import cpu_threads
        from mnist_mlp.steps.data import has_mnist, load_dataset

        mnist = _load("mnist", None, root).data
        data = load_dataset("mnist" if has_mnist(mnist.root) else "digits", mnist.root)
        with cpu_threads(1):  # its products are small
            claims = list(check_lesson(data))
        show_claims(console, claims)
    verdicts = Counter(claim.verdict for claim in claims)
    failed = [claim.id for claim in claims if not claim.ok]
    if json_:
        summary = {"dataset": data.name, "rows": len(claims), "ok": len(claims) - len(failed)}
        _print_json({"claims": [asdict(claim) for claim in claims], "summary": summary | verdicts})
    if failed:
        raise CheckFailedError(f"not as it should be: {', '.join(failed)}; the program has drifted")


@app.command()
def trace(
    target: Target = None,
    best: BestOption = False,
    index: Annotated[int, typer.Option(min=0, help="Which image of the split.")] = 0,
    split: SplitOption = "test",
    image: Annotated[
        Path | None, typer.Option(help="A picture of yours instead; see predict.")
    ] = None,
    label: Annotated[
        int | None,
        typer.Option(min=0, max=9, help="Of --image. Default: its name's, else the prediction."),
    ] = None,
    untrained: Annotated[
        bool, typer.Option("--untrained", help="A fresh network instead of a trained one.")
    ] = False,
    config: Annotated[
        str, typer.Option("--config", help="With --untrained: whose network and images.")
    ] = "digits",
    learning_rate: Annotated[
        float, typer.Option(min=0, help="Of the one update, plain gradient descent.")
    ] = 0.1,
    root: RootOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Take one image through the lesson's eight steps, with a real network's numbers."""
    if untrained and (target or best):
        raise UsageError("--untrained takes no RUN, CHECKPOINT or --best; name a --config instead")
    fresh = _load(config, None, root) if untrained else None
    if label is not None and not image:
        raise UsageError("--label is of an --image; MNIST's images have theirs")
    with open_console(json_, quiet) as console:
        import torch

        from mnist_mlp.lesson.trace import trace_image
        from mnist_mlp.runs.checkpoint import load_checkpoint
        from mnist_mlp.runs.training import load_config_dataset, newest_run
        from mnist_mlp.steps.data import to_images
        from mnist_mlp.steps.model import build_mlp

        if fresh:
            loaded, model = (
                fresh,
                build_mlp(fresh.model.layer_sizes, fresh.model.activation, fresh.seed),
            )
            console.print(f"an untrained network, seed {fresh.seed}")
        else:
            checkpoint = load_checkpoint(target or newest_run(), best=best)
            loaded, model = checkpoint.config, checkpoint.model
            console.print(str(checkpoint.path))
        where: dict[str, Any] = {"dataset": loaded.data.dataset, "split": split, "index": index}
        if image:
            from mnist_mlp.pictures.predict import label_of, predict_file

            seen = predict_file(model, image)
            x = to_images(torch.from_numpy(seen.pixels).flatten())
            named = label_of(image) if label is None else label
            y = seen.digit if named is None else named
            where |= {"split": None, "index": None, "image": str(image)}
            console.print(f"{image}, label {y}")
        else:
            data = load_config_dataset(loaded, root or os.environ.get(DATA_ROOT_VARIABLE))
            pixels, labels = data.split(split)
            if index >= len(labels):
                raise UsageError(f"--index {index}: {data.name} {split} ends at {len(labels) - 1}")
            x, y = to_images(pixels[index]), int(labels[index])
            console.print(f"{data.name}, {split} split, image {index}")
        traced = trace_image(model, x, y, learning_rate)
        if not math.isfinite(traced.loss_after):
            raise UsageError(f"--learning-rate {learning_rate:g}: the loss after it overflows")
        show_trace(console, traced)
    if json_:
        _print_json(where | traced.to_json())


@app.command()
def predict(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[RUN|CHECKPOINT] IMAGE...",
            help="Pictures, and folders of them. Default network: the newest run's.",
        ),
    ],
    best: BestOption = False,
    invert: Annotated[
        Literal["auto", "yes", "no"],
        typer.Option(help="yes: dark ink on light paper; no: light on dark."),
    ] = "auto",
    show: Annotated[
        bool, typer.Option("--show", help="Show what the network saw, and the probabilities.")
    ] = False,
    save_seen: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what the network saw there, as PNG.")
    ] = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Read your own handwritten digits: photos or drawings, PNG, JPEG, BMP, WebP or GIF.

    A name that begins with a digit followed by _ or . tells the label, for the summary.
    """
    rows: list[dict[str, Any]] = []
    failures = []
    with open_console(json_, quiet) as console:
        from mnist_mlp.pictures import predict as pictures
        from mnist_mlp.runs.checkpoint import load_checkpoint
        from mnist_mlp.runs.training import newest_run

        named = paths[0].suffix == ".safetensors" or (paths[0] / "checkpoints").is_dir()
        target, images = (paths[0], paths[1:]) if named else (None, paths)
        if not images:
            raise UsageError(f"{target}: a network, but no picture to read with it")
        checkpoint = load_checkpoint(target or newest_run(), best=best)
        console.print(str(checkpoint.path))
        files = list(pictures.pictures_of(images))
        width = max(len(str(file)) for file in files)
        labelled = right = 0
        for file in files:
            try:
                prediction = pictures.predict_file(checkpoint.model, file, invert)
            except ImageError as error:
                failures.append(str(error))
                rows.append({"file": str(file), "error": str(error)})
                console.print(f"{file!s:{width}}  {str(error).removeprefix(f'{file}: ')}")
                continue
            rows.append(prediction.to_json())
            if (label := pictures.label_of(file)) is not None:
                labelled += 1
                right += label == prediction.digit
            show_prediction(console, prediction, label, width, show)
            if save_seen:
                pictures.save_seen(prediction, save_seen)
        if labelled:
            console.print(
                f"{right} of {labelled} labelled pictures read right: {right / labelled:.2%}"
            )
    if json_:
        _print_json(rows)
    if failures:
        raise ImageError("\n".join(failures))


@app.command()
def report(
    target: Target = None,
    best: BestOption = False,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: the run directory; of a lone file, a new one."),
    ] = None,
    root: RootOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw a run's pictures, with their numbers beside them, and its page, report.html."""
    with open_console(False, quiet) as console:
        from mnist_mlp.runs.checkpoint import load_checkpoint
        from mnist_mlp.runs.training import cpu_threads, load_config_dataset, newest_run
        from mnist_mlp.views.report import report_on

        checkpoint = load_checkpoint(target or newest_run(), best=best)
        data = load_config_dataset(checkpoint.config, root or os.environ.get(DATA_ROOT_VARIABLE))
        with cpu_threads(1):
            page = report_on(checkpoint, data, output)
        console.print(f"{page}, and pictures with their numbers in {page.parent / 'plots'}")


@app.command()
def export(
    target: Target = None,
    *,
    format_: Annotated[
        Literal["html", "safetensors", "onnx", "pt2"],
        typer.Option("--format", help="The explorer page; weights, or two kinds of graph."),
    ],
    best: BestOption = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: named after the run, here.")
    ] = None,
    root: RootOption = None,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a trained network as a page to explore it, or as a file for other programs."""
    with open_console(False, quiet) as console:
        from mnist_mlp.export.graph import export_onnx, export_program
        from mnist_mlp.export.page import export_html
        from mnist_mlp.export.weights import export_safetensors
        from mnist_mlp.runs.checkpoint import load_checkpoint, run_of
        from mnist_mlp.runs.training import load_config_dataset, metrics_of, newest_run

        checkpoint = load_checkpoint(target or newest_run(), best=best)
        name = (run_of(checkpoint) or checkpoint.path.with_suffix("")).absolute().name
        path = output or Path(f"{name}.{format_}")
        if path.exists() and path.samefile(checkpoint.path):
            raise UsageError(f"{path}: is the checkpoint itself; choose another --output")
        wanted = root or os.environ.get(DATA_ROOT_VARIABLE)
        if format_ == "safetensors":
            export_safetensors(checkpoint, path)
        elif format_ == "pt2":
            export_program(checkpoint, path)
        else:
            data = load_config_dataset(checkpoint.config, wanted)
            if format_ == "onnx":
                difference = export_onnx(checkpoint, data.test.pixels, path)
                console.print(f"onnxruntime and PyTorch: logits at most {difference:.2g} apart")
            else:
                export_html(checkpoint, data, metrics_of(checkpoint), path)
        console.print(f"{checkpoint.path} -> {path}, {path.stat().st_size:,} bytes")


@app.command()
def runs(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN...]", help="Runs to compare. Default: list those under runs/."
        ),
    ] = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """List the runs, or show what differs between some: their configs beside their results."""
    from mnist_mlp.runs.listing import differences, list_runs, summarise

    found = [summarise(path) for path in targets] if targets else list_runs()
    differ = differences(found) if targets else {}
    with open_console(json_, quiet) as console:
        show_runs(console, found)
        if len(found) > 1 and targets:
            show_differences(console, found, differ)
    if json_:
        compared = {"runs": [run.to_json() for run in found], "differences": differ}
        _print_json(compared if targets else compared["runs"])


@app.command()
def validate(
    config: ConfigOption,
    overrides: Overrides = None,
    root: RootOption = None,
    json_: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the resolved config, or every error in it at once."""
    loaded = _load(config, overrides, root)
    if json_:
        _print_json(loaded.model_dump(mode="json"))
    else:
        _print(loaded.to_yaml().rstrip())
    for key in loaded.ignored_settings():
        typer.echo(f"mnist-mlp: note: {key} has no effect under this config", err=True)


@app.command()
def configs(json_: JsonOption = False, debug: DebugOption = False) -> None:
    """List the bundled configs, whose bare names --config takes."""
    found = {
        name: {
            "name": name,
            "path": str(path),
            "description": path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# "),
        }
        for name, path in bundled_configs().items()
    }
    if json_:
        _print_json(list(found.values()))
        return
    width = max(map(len, found))
    for name, row in found.items():
        _print(f"{name:{width}}  {row['description']}")


@app.command()
def download(
    root: RootOption = None,
    config: ConfigOption = "mnist",
    json_: JsonOption = False,
    quiet: QuietOption = False,
    debug: DebugOption = False,
) -> None:
    """Fetch MNIST's four files, unless they are there, and check every byte of them."""
    data = _load(config, None, root).data
    with open_console(json_, quiet) as console:
        from mnist_mlp.steps.data import MNIST_FILES, fetch_mnist, raw_folder

        origins = fetch_mnist(Path(data.root), data.mirrors)
        raw = raw_folder(data.root)
        for name, origin in origins.items():
            console.print(f"{raw / name}  {origin}, md5 {MNIST_FILES[name].md5}")
    if json_:
        _print_json(
            {
                "root": data.root,
                "files": [
                    {"name": name, "origin": origin, "md5": MNIST_FILES[name].md5}
                    for name, origin in origins.items()
                ],
            }
        )


def main() -> NoReturn:
    """Run a command and exit with its documented code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started the program
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
        getattr(sys, name).reconfigure(errors="replace")
    try:
        code = app(prog_name="mnist-mlp", standalone_mode=False)
    except MnistMlpError as error:
        # Where several processes train together, one tells what all of them meet.
        alike = isinstance(error, UsageError | DivergedError | StoppedError)
        if alike and rank():
            time.sleep(1)  # the first to end has torchrun end the one that tells
        code = _fail("" if alike and rank() else str(error), error.exit_code)
    except typer.TyperException as error:
        # A bare `mnist-mlp` has printed its help and has no more to say.
        says = error.format_message()
        code = _fail(f"{says} See mnist-mlp --help." if says else "", error.exit_code)
    except SystemExit as ended:  # Typer's own, where printing help or completions
        code = 0 if isinstance(ended.__context__, BrokenPipeError) else ended.code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code = _fail(f"{where}{error.strerror or error}", FILE_SYSTEM_EXIT_CODE)
    except Exception as error:
        # What PyTorch raises for the CPU is a plain RuntimeError, told by its words alone.
        if re.search("allocate memory|out of memory", str(error)) or type(error) is MemoryError:
            code = _fail(
                "not enough memory; make model.layer_sizes or train.batch_size smaller",
                UsageError.exit_code,
            )
        else:
            code = _fail(
                f"a fault of ours, please report it: {type(error).__name__}: {error}\n"
                "run again with --debug to see where",
                1,
            )
    if processes() > 1:
        # Among several processes: PyTorch's threads that talk to the others do not always survive
        # Python's own way out ("terminate called"), and torchrun would take that for a failure.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                stream.flush()
        os._exit(int(code or 0))
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()
    if message:
        with suppress(OSError):  # nobody may be reading; the code tells it too
            typer.echo(f"mnist-mlp: {message}", err=True)
    return code


def _load(
    config: str, overrides: list[str] | None, root: str | None = None, device: str | None = None
) -> Config:
    options = {"data.root": root, "device": device}
    # A JSON string is a YAML string whatever is in it.
    extra = [f"{key}={json.dumps(value)}" for key, value in options.items() if value is not None]
    return load_config(config, [*(overrides or ()), *extra])


def _print(text: str) -> None:
    try:
        typer.echo(text)
    except BrokenPipeError:
        discard(sys.stdout)


def _print_json(value: Any) -> None:
    _print(json.dumps(value, allow_nan=False))
