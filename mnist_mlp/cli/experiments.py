"""The commands for several runs: sweep, runs."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from mnist_mlp.cli import common
from mnist_mlp.files import to_csv, write_atomically
from mnist_mlp.runs.directory import RUNS
from mnist_mlp.runs.listing import RunSummary, differences, find_runs, list_runs, sort_runs
from mnist_mlp.runs.sweep import groups, plan, run_sweep
from mnist_mlp.signals import stop_requested
from mnist_mlp.views import run_tables
from mnist_mlp.views.terminal import Output, live

Values = Annotated[
    list[str], Argument(metavar="KEY=A,B,C...", help="Values to combine, such as seed=0,1,2.")
]
Jobs = Annotated[int, Option(min=1, help="Combinations trained at the same time.")]
Name = Annotated[str | None, Option(help="Folder below runs/. Default: <config>-sweep.")]
Compared = Annotated[
    list[Path] | None,
    Argument(metavar="[RUN|FOLDER...]", help="Runs, or folders of runs, to compare."),
]
Sort = Annotated[str | None, Option(metavar="KEY", help="Such as test or seed.")]
CsvFile = Annotated[Path | None, Option("--csv", metavar="FILE", help="Write a table there.")]


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
    trials = plan(config, [*values, *([f"data.root={root}"] if root else [])], name)
    with stop_requested() as stop, live(console) as bar:
        task = bar.add_task("", total=len(trials), rate="")
        for done, (trial, how) in enumerate(run_sweep(trials, jobs, stop), start=1):
            run_tables.show_trial(console, trial, how)
            bar.update(task, completed=done, description=f"{done}/{len(trials)} combinations")
    rows = groups(trials)
    run_tables.show_groups(console, rows)
    if csv_:
        write_csv(csv_, rows)
    runs = [{"values": t.values, "run_dir": str(t.run_dir)} for t in trials]
    console.print_result({"groups": rows, "runs": runs})


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
    console.print_result({"runs": rows, "differences": differ} if targets else rows)
