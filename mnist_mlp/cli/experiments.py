"""The commands for several runs: sweep, runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mnist_mlp.cli import common
from mnist_mlp.files import to_csv, write_atomically
from mnist_mlp.runs.directory import RUNS
from mnist_mlp.runs.listing import RunSummary, differences, find_runs, list_runs, sort_runs
from mnist_mlp.runs.sweep import groups, plan, run_sweep
from mnist_mlp.signals import stop_requested
from mnist_mlp.views import run_tables, terminal

Values = Annotated[
    list[str],
    typer.Argument(metavar="KEY=A,B,C...", help="Values to combine, such as seed=0,1,2."),
]
Jobs = Annotated[int, typer.Option(min=1, help="Combinations trained at the same time.")]
Name = Annotated[str | None, typer.Option(help="Folder below runs/. Default: <config>-sweep.")]
CsvFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write a table there.")]


def sweep(
    values: Values,
    config: common.ConfigName,
    jobs: Jobs = 1,
    name: Name = None,
    csv_: CsvFile = None,
    root: common.Root = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Train every combination of values, as ordinary runs; run again to go on after a stop.

    Lists of layer sizes are written with hyphens: model.layer_sizes=784-32-10,784-64-10.
    """
    trials = plan(config, [*values, *([f"data.root={root}"] if root else [])], name)
    with terminal.open_console(json_, quiet, progress=True) as console, stop_requested() as stop:
        with terminal.live(console) as bar:
            task = bar.add_task("", total=len(trials), rate="")
            for done, (trial, how) in enumerate(run_sweep(trials, jobs, stop), start=1):
                run_tables.show_trial(console, trial, how)
                bar.update(task, completed=done, description=f"{done}/{len(trials)} combinations")
        rows = groups(trials)
        run_tables.show_groups(console, rows)
    if csv_:
        write_csv(csv_, rows)
    if json_:
        runs = [{"values": t.values, "run_dir": str(t.run_dir)} for t in trials]
        common.print_json({"groups": rows, "runs": runs})


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows, all of the same keys, as a table; without any the file is empty."""
    text = to_csv(rows[0], map(dict.values, rows)) if rows else ""
    write_atomically(path, text.encode())


def runs(
    targets: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN|FOLDER...]", help="Runs, or folders of runs, to compare."),
    ] = None,
    sort: Annotated[str | None, typer.Option(metavar="KEY", help="Such as test or seed.")] = None,
    csv_: CsvFile = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """List the runs under runs/, or compare some: their results, and where their configs differ."""
    found = find_runs(targets) if targets else list_runs()
    found = sort_runs(found, sort) if sort else found
    differ = differences(found) if targets else {}
    with terminal.open_console(json_, quiet) as console:
        folders = [] if targets else [path for path in RUNS.glob("[!.]*/") if list_runs(path)]
        if found or not folders:
            run_tables.show_runs(console, found, list(differ))
        for folder in sorted(folders):
            console.print(f"{folder} is a folder of {len(list_runs(folder))} runs")
        if len(found) > 1 and targets and not differ:
            console.print("their configs are the same")
    rows = [run.model_dump(mode="json") for run in found]
    if csv_:
        results = [name for name in RunSummary.model_fields if name not in ("path", "config")]
        varied = [run.config.flat() | row for run, row in zip(found, rows, strict=True)]
        write_csv(csv_, [{n: row[n] for n in ("path", *differ, *results)} for row in varied])
    if json_:
        common.print_json({"runs": rows, "differences": differ} if targets else rows)
