"""The commands about runs: train, sweep, runs, eval, report, handout, export."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from mnist_mlp.cli import common
from mnist_mlp.errors import UsageError
from mnist_mlp.files import to_csv, write_atomically
from mnist_mlp.runs.directory import RUNS, find_run, is_network, list_checkpoints, newest_run
from mnist_mlp.runs.listing import RunSummary, differences, find_runs, list_runs, sort_runs
from mnist_mlp.runs.sweep import groups, plan, run_sweep
from mnist_mlp.signals import stop_requested
from mnist_mlp.updates.ranks import rank
from mnist_mlp.views import tables
from mnist_mlp.views.terminal import Output, live, show_run

# Options of one command each; common.py has the others.
RunDir = Annotated[Path | None, Option(help="Default: a new folder runs/<config>-NNN.")]
Resume = Annotated[str | None, Option(metavar="RUN", help="The run to continue, or latest.")]
InitFrom = Annotated[Path | None, Option(metavar="RUN|CHECKPOINT", help="Initial weights.")]
DryRun = Annotated[bool, Option("--dry-run", help="Try all on two batches; keep only the data.")]
Tensorboard = Annotated[bool, Option("--tensorboard", help="Save TensorBoard events.")]
Values = Annotated[
    list[str], Argument(metavar="KEY=A,B,C...", help="Values to combine: seed=0,1,2.")
]
Jobs = Annotated[int, Option(min=1, help="Combinations trained at the same time.")]
Name = Annotated[str | None, Option(help="Folder below runs/. Default: <config>-sweep.")]
Compared = Annotated[list[Path] | None, Argument(metavar="[RUN|FOLDER...]", help="To compare.")]
Sort = Annotated[str | None, Option(metavar="KEY", help="Such as test or seed.")]
CsvFile = Annotated[Path | None, Option("--csv", metavar="FILE", help="Write a table there.")]
Split = Annotated[Literal["test", "validation", "train"], Option(help="Which examples.")]
Reported = Annotated[
    list[Path] | None,
    Argument(metavar="RUN|CHECKPOINT...", help="Default: the newest run under runs/."),
]
Folder = Annotated[
    Path | None,
    Option(metavar="DIR", help="Default: the run, a new <name>-report, or for several runs here."),
]
NewFolder = Annotated[Path, Option(metavar="DIR", help="A new folder, or that of a handout.")]
Format = Annotated[
    Literal["html", "safetensors", "onnx", "pt2"],
    Option("--format", help="The explorer page, the weights, or a graph."),
]
File = Annotated[Path | None, Option(metavar="FILE", help="Default: <run>.<format>, here.")]


@common.command(progress=True)
def train(
    console: Output,
    config: common.OptionalConfigName = None,
    overrides: common.Overrides = None,
    device: common.Device = None,
    root: common.Root = None,
    run_dir: RunDir = None,
    resume: Resume = None,
    init_from: InitFrom = None,
    dry_run: DryRun = False,
    tensorboard: Tensorboard = False,
) -> None:
    """Train a network as a config says, or continue a run that was stopped."""
    if resume is not None:
        if config or run_dir or dry_run or init_from:
            raise UsageError(
                "--resume continues a run in place, by its own config and KEY=VALUE: "
                "omit --config, --run-dir, --init-from and --dry-run"
            )
        run_dir = newest_run() if resume == "latest" else _run_to_resume(Path(resume))
        config = str(run_dir / "config.yaml")
    if config is None:
        word = next((word for word in overrides or () if "=" not in word), None)
        hint = "name a --config, such as --config digits, or a run to --resume"
        raise UsageError(f"did you mean --config {word}?" if word else hint)
    loaded = common.read_config(config, overrides, root, device)
    with stop_requested() as stop:
        from mnist_mlp.runs.training import run_events

        how: dict[str, Any] = {"dry_run": dry_run, "init_from": init_from, "stop": stop}
        events = run_events(loaded, run_dir, resume=resume is not None, **how)
        if tensorboard and rank() == 0:
            from mnist_mlp.views.tensorboard import with_board

            events = with_board(events)
        result = show_run(console, events)
    if loaded.report and result.run_dir:
        from mnist_mlp.runs.environment import load_config_dataset
        from mnist_mlp.views.report import draw_report

        page = draw_report(common.read_checkpoint(result.run_dir), load_config_dataset(loaded))
        console.print(f"report in {page}")
    console.print_result(result.to_json())


def _run_to_resume(target: Path) -> Path:
    """The run that a path, a run's name or its newest checkpoint file means; else a UsageError."""
    target = find_run(target)
    if (target / "config.yaml").is_file():
        return target
    if target.is_dir():
        lost = "its config.yaml is lost" if list_checkpoints(target) else "no run began there"
        raise UsageError(f"{target}: {lost}; begin a new one with --config")
    run = target.parent.parent
    if target not in (checkpoints := list_checkpoints(run)):
        raise UsageError(f"{target}: no such run; mnist-mlp runs lists those under runs/")
    if target != (newest := checkpoints[-1]):
        raise UsageError(
            f"{target}: its run went on to {newest.name}; --resume {run} continues that,\n"
            f"--init-from {target} begins a new run with its weights"
        )
    return run


@common.command(progress=True)
def sweep(
    console: Output,
    values: Values,
    config: common.ConfigName,
    jobs: Jobs = 1,
    name: Name = None,
    csv_: CsvFile = None,
    root: common.Root = None,
) -> None:
    """Train every combination of values, as ordinary runs; run again to go on after a stop.

    Lists of layer sizes are written with hyphens: model.layer_sizes=784-32-10,784-64-10.
    """
    trials = plan(config, values, name, root)
    with stop_requested() as stop, live(console) as bar:
        task, failed = bar.add_task("", total=len(trials), rate=""), []
        for done, (trial, how, code) in enumerate(run_sweep(trials, jobs, stop), start=1):
            tables.show_trial(console, trial, how)
            failed += [(how, code)] * (code > 0)
            bar.update(task, completed=done, description=f"{done}/{len(trials)} combinations")
    rows = groups(trials)
    tables.show_groups(console, rows)
    if csv_:
        write_csv(csv_, rows)
    runs = [{"values": t.values, "run_dir": str(t.run_dir)} for t in trials]
    console.print_result({"groups": rows, "runs": runs})
    if failed:
        why, code = failed[0]
        told = f"mnist-mlp: {len(failed)} of {len(trials)} combinations were not trained: {why}"
        typer.echo(told, err=True)
        raise typer.Exit(code)


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, all of the same keys, as a table; without any the file is empty."""
    text = to_csv(rows[0], map(dict.values, rows)) if rows else ""
    write_atomically(path, text.encode())


@common.command()
def runs(
    console: Output, targets: Compared = None, sort: Sort = None, csv_: CsvFile = None
) -> None:
    """List the runs under runs/, or compare some: their results, and where their configs differ."""
    found = find_runs(targets) if targets else list_runs()
    found = sort_runs(found, sort) if sort else found
    differ = differences(found) if targets else {}
    inside = {} if targets else {path: len(list_runs(path)) for path in RUNS.glob("[!.]*/")}
    folders = {path: count for path, count in sorted(inside.items()) if count}
    if found or not folders:
        tables.show_runs(console, found, list(differ))
    for folder, count in folders.items():
        console.print(f"{folder} is a folder of {count} runs")
    if len(found) > 1 and targets and not differ:
        console.print("their configs are the same")
    rows = [run.model_dump(mode="json") for run in found]
    if csv_:
        results = [name for name in RunSummary.model_fields if name not in ("path", "config")]
        varied = [run.config.flat() | row for run, row in zip(found, rows, strict=True)]
        write_csv(csv_, [{n: row[n] for n in ("path", *differ, *results)} for row in varied])
    console.print_result({"runs": rows, "differences": differ} if targets else rows)


@common.command()
def evaluate(
    console: Output,
    target: common.Target = None,
    best: common.Best = False,
    split: Split = "test",
    device: common.Device = None,
    root: common.Root = None,
) -> None:
    """Evaluate a trained network: loss, accuracy, scores of each digit, confusion matrix."""
    from mnist_mlp.runs import environment
    from mnist_mlp.runs.checkpoint import weights_sha256
    from mnist_mlp.steps.evaluate import evaluate_model

    checkpoint = common.read_checkpoint(target, best)
    torch_device = environment.resolve_device(device or checkpoint.config.device)
    data = environment.load_run_dataset(checkpoint.config, root)
    model, examples = checkpoint.model.to(torch_device), data.to(torch_device).split(split)
    # As in training, for equal results.
    with environment.cpu_threads(environment.threads_of(checkpoint.config)):
        evaluation = evaluate_model(model, *examples)
    console.print(f"{checkpoint.path}: {data.name}, {split} split")
    for line, rows in tables.describe_evaluation(evaluation):
        console.print(line)
        console.print(tables.make_table(rows, edge=True))
    more = {"per_class": evaluation.per_class, "weights_sha256": weights_sha256(model)}
    console.print_result({"dataset": data.name, "split": split} | vars(evaluation) | more)


@common.command(without="json_")
def report(
    console: Output,
    targets: Reported = None,
    best: common.Best = False,
    output: Folder = None,
    root: common.Root = None,
) -> None:
    """Draw a run's pictures and write its page report.html, or compare several runs on one page."""
    from mnist_mlp.runs.environment import load_run_dataset
    from mnist_mlp.views.report import compare_runs, draw_report

    target = find_run(targets[0]) if targets else RUNS
    is_folder = not is_network(target) and any(target.glob("[!.]*/config.yaml"))
    if targets and (len(targets) > 1 or is_folder):
        if best or root:
            raise UsageError("--best and --root are for the report of one run: omit them here")
        console.print(str(compare_runs(targets, output or "")))
        return
    checkpoint = common.read_checkpoint(targets[0] if targets else None, best)
    page = draw_report(checkpoint, load_run_dataset(checkpoint.config, root), output)
    console.print(f"{page}, and pictures with their numbers in {page.parent / 'plots'}")


@common.command(without="json_")
def handout(
    console: Output,
    target: common.Target = None,
    best: common.Best = False,
    output: NewFolder = Path("handout"),
    root: common.Root = None,
) -> None:
    """Write a class's pages: explorer, report, exercises with this network's numbers, answers."""
    from mnist_mlp.export.handout import write_handout
    from mnist_mlp.runs.environment import load_run_dataset

    checkpoint = common.read_checkpoint(target, best)
    index = write_handout(checkpoint, output, load_run_dataset(checkpoint.config, root))
    console.print(f"{index}; for other machines: python -m http.server --directory {output}")


@common.command(without="json_")
def export(
    console: Output,
    target: common.Target = None,
    *,
    format_: Format,
    best: common.Best = False,
    output: File = None,
    root: common.Root = None,
) -> None:
    """Write a trained network as a page to explore it, or as a file for other programs."""
    checkpoint = common.read_checkpoint(target, best)
    from mnist_mlp.export.network import export_network

    path = export_network(checkpoint, format_, output, root)
    console.print(f"{checkpoint.path} -> {path}, {path.stat().st_size:,} bytes")
