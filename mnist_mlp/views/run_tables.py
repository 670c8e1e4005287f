"""Runs and sweeps as tables for people, a row each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from mnist_mlp.runs.listing import RunSummary
    from mnist_mlp.runs.sweep import Trial

NO_RUNS = "no runs here yet; begin with: mnist-mlp train --config digits"


def describe_run(run: "RunSummary", keys: Sequence[str] = ()) -> dict[str, str]:
    """A run's row in a table, with some keys of its config."""
    config = run.config.flat()
    last = ["epochs", *(key.rpartition(".")[2] for key in keys)]
    short = {n if last.count(n) == 1 else k: k for n, k in zip(last[1:], keys, strict=True)}
    return {
        "run": str(run.path),
        **({name: str(config[key]) for name, key in short.items()} or {"data": run.dataset}),
        "epochs": f"{run.epochs}" if run.finished else f"{run.epochs} of {run.epochs_wanted}",
        "valid.": percent(run.validation_accuracy),
        "test": percent(run.test_accuracy),
        "seconds": "–" if run.seconds is None else f"{run.seconds:,.1f}",
    }


def show_runs(console: Console, runs: Sequence["RunSummary"], keys: Sequence[str] = ()) -> None:
    """Print a row per run, with some keys of the config; a paragraph each where that is too wide.

    A file or a pipe gets a line for each run, however long.
    """
    rows = [describe_run(run, keys) for run in runs]
    if not rows:
        console.print(NO_RUNS)
        return
    folder = runs[0].path.parent
    if len(runs) > 1 and folder.parts[1:] and all(run.path.parent == folder for run in runs):
        console.print(f"in {folder}:")
        rows = [row | {"run": run.path.name} for row, run in zip(rows, runs, strict=True)]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="left" if name in ("run", "data") else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    wide = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    if console.is_terminal and wide > console.width:
        for row in rows:
            console.print(row.pop("run"))
            for name, value in row.items():
                console.print(f"  {name} {value}")
    else:
        console.width = max(console.width, wide)
        console.print(table)


def show_trial(console: Console, trial: "Trial", how: str) -> None:
    """Print a line of a sweep: the values, and the accuracies or what happened."""
    words = [f"{key.rpartition('.')[2]}={value}" for key, value in trial.values.items()]
    if how == "finished" and (run := trial.summary):
        words += [f" {percent(run.validation_accuracy)} validation"] * bool(run.validation_accuracy)
        words += [f" {percent(run.test_accuracy)} test"] * (run.test_accuracy is not None)
        words += [f" {run.seconds or 0:.1f} s"]
    else:
        words += ["", how]
    console.print(" ".join(words))


def show_groups(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a sweep's table: means over the seeds, with deviations, the best one marked."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    columns = list(rows[0])
    keys = columns[: columns.index("finished")]  # what is varied stands first
    for name in (*(key.rpartition(".")[2] for key in keys), "runs", "validation", "test", ""):
        table.add_column(name, justify="right", overflow="fold")
    for row in rows:
        some = "" if row["finished"] == row["of"] else f"{row['finished']} of "
        cells = [*(str(row[key]) for key in keys), f"{some}{row['of']}"]
        for split in ("validation", "test"):
            deviation = row[f"{split}_deviation"]
            spread = "" if deviation is None else f" ± {deviation:.2%}"
            cells.append(percent(row[split]) + spread)
        table.add_row(*cells, "best" * row["best"])
    console.print(table)


def percent(share: float | None) -> str:
    """An accuracy, or a dash where there is none."""
    return "–" if share is None else f"{share:.2%}"
