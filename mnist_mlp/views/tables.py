"""Evaluations, claims, runs and sweeps as tables for people."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from mnist_mlp.config import short_keys
from mnist_mlp.constants import show_loss
from mnist_mlp.steps.results import EpochResult
from mnist_mlp.words import WORDS

if TYPE_CHECKING:
    from mnist_mlp.lesson.claims import Claim
    from mnist_mlp.runs.listing import RunSummary
    from mnist_mlp.runs.sweep import Trial
    from mnist_mlp.steps.evaluate import Evaluation

NO_RUNS = "no runs here yet; begin with: mnist-mlp train --config digits"
Rows = list[list[str | Text]]  # a table; the first row has the columns' headings


def make_table(rows: Rows, edge: bool = False) -> Table:
    """A table for the terminal, with or without a space at its edges."""
    table = Table(box=box.SIMPLE, pad_edge=edge)
    for name in rows[0]:
        justify: JustifyMethod = "left" if name in ("run", "data") else "right"
        table.add_column(name, justify=justify, overflow="fold")  # never cut a number
    for row in rows[1:]:
        table.add_row(*row)
    return table


def describe_evaluation(evaluation: "Evaluation") -> Iterator[tuple[str, Rows]]:
    """An evaluation as two tables, each with a line before it; in the second a dot is 0."""
    loss, accuracy = show_loss(evaluation.loss), f"{evaluation.accuracy:.2%}"
    scores: Rows = [["digit", "precision", "recall", "F1", "support"]]
    for row in evaluation.per_class:
        shares = (f"{share:.2%}" for share in (row.precision, row.recall, row.f1))
        scores.append([str(row.digit), *shares, f"{row.support:,}"])
    yield f"{evaluation.examples:,} examples  loss {loss}  accuracy {accuracy}", scores
    matrix: Rows = [["true", *map(str, range(len(evaluation.confusion_matrix)))]]
    for true, counts in enumerate(evaluation.confusion_matrix):
        cells = [Text.styled(str(n or "·"), "bold" * (k == true)) for k, n in enumerate(counts)]
        matrix.append([str(true), *cells])
    yield "confusion matrix: rows are true digits, columns are predictions", matrix


def show_claims(console: Console, claims: Sequence["Claim"]) -> None:
    """Print a table for each step: what the lesson says, what is computed, and the verdict."""
    for step, rows in groupby(claims, key=lambda claim: claim.step):
        title = WORDS["steps"][str(step)]
        table = Table(box=box.SIMPLE, title=title, title_justify="left", expand=True)
        for name, ratio in {"claim": 5, "the lesson": 4, "computed": 6}.items():
            table.add_column(name, ratio=ratio)
        table.add_column("verdict", width=7)
        table.add_column("ok", width=3)
        for claim in rows:
            computed = claim.computed + (f"\n({claim.note})" if claim.note else "")
            ok = "yes" if claim.ok else "NO"
            table.add_row(claim.claim, claim.lesson, computed, claim.verdict, ok)
        console.print(table, soft_wrap=False)
    verdicts = Counter(claim.verdict for claim in claims)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    console.print(f"{sum(claim.ok for claim in claims)} of {len(claims)} rows ok: {counts}")


def describe_runs(runs: Sequence["RunSummary"], keys: Sequence[str] = ()) -> Rows:
    """Runs as a table, with some keys of their configs."""
    epochs, *short = short_keys(["epochs", *keys])
    rows: Rows = [["run", *(short or ["data"]), epochs, "valid.", "test", "seconds"]]
    for run in runs:
        config = run.config.flat()
        epochs = f"{run.epochs}" if run.finished else f"{run.epochs} of {run.epochs_wanted}"
        accuracies = percent(run.validation_accuracy), percent(run.test_accuracy)
        seconds = "–" if run.seconds is None else f"{run.seconds:,.1f}"
        values = [str(config[key]) for key in keys] or [run.dataset]
        rows.append([str(run.path), *values, epochs, *accuracies, seconds])
    return rows


def describe_metrics(rows: Sequence[EpochResult]) -> Rows:
    """A run's metrics as a table."""
    names = [field.name for field in fields(EpochResult)]
    endings = {"loss": ".4f", "accuracy": ".2%", "rate": ".4g", "seconds": ".1f"}
    formats = [endings.get(name.rpartition("_")[2], ",") for name in names]
    table: Rows = [[name.replace("_", " ") for name in names]]
    for row in rows:
        values = zip(astuple(row), formats, strict=True)
        table.append(["–" if value is None else format(value, form) for value, form in values])
    return table


def show_runs(console: Console, runs: Sequence["RunSummary"], keys: Sequence[str] = ()) -> None:
    """Print a row per run, with some keys of the config; a paragraph each where that is too wide.

    A file or a pipe gets a line for each run, however long.
    """
    if not runs:
        console.print(NO_RUNS)
        return
    rows = describe_runs(runs, keys)
    folder = runs[0].path.parent
    if len(runs) > 1 and folder.parts[1:] and all(run.path.parent == folder for run in runs):
        console.print(f"in {folder}:")
        for row, run in zip(rows[1:], runs, strict=True):
            row[0] = run.path.name
    table = make_table(rows)
    wide = console.measure(table, options=console.options.update(max_width=10_000)).maximum
    if console.is_terminal and wide > console.width:
        for row in rows[1:]:
            console.print(row[0])
            for name, value in zip(rows[0][1:], row[1:], strict=True):
                console.print(f"  {name} {value}")
    else:
        console.width = max(console.width, wide)
        console.print(table)


def show_trial(console: Console, trial: "Trial", how: str) -> None:
    """Print a line of a sweep: the values, and the accuracies or what happened."""
    keys = short_keys(list(trial.values))
    words = [f"{key}={value}" for key, value in zip(keys, trial.values.values(), strict=True)]
    if how == "finished" and (run := trial.summary):
        for split in ("validation", "test"):
            if (accuracy := getattr(run, f"{split}_accuracy")) is not None:
                words.append(f" {percent(accuracy)} {split}")
        words += [f" {run.seconds or 0:.1f} s"]
    else:
        words += ["", how]
    console.print(" ".join(words))


def show_groups(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a sweep's table: means over the seeds, with deviations, the best one marked."""
    columns = list(rows[0])
    keys = columns[: columns.index("finished")]  # what is varied stands first
    table: Rows = [[*short_keys(keys), "runs", "validation", "test", ""]]
    for row in rows:
        some = "" if row["finished"] == row["of"] else f"{row['finished']} of "
        cells = [*(str(row[key]) for key in keys), f"{some}{row['of']}"]
        for split in ("validation", "test"):
            deviation = row[f"{split}_deviation"]
            spread = "" if deviation is None else f" ± {deviation:.2%}"
            cells.append(percent(row[split]) + spread)
        table.append([*cells, "best" * row["best"]])
    console.print(make_table(table))


def percent(share: float | None) -> str:
    """An accuracy, or a dash where there is none."""
    return "–" if share is None else f"{share:.2%}"
