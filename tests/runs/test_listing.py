import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_mlp.runs.directory import newest_run
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def trained(run: Run) -> None:
    run("train", "--config", "digits", "train.epochs=2", "data.validation=100", "--quiet")
    run("train", "--config", "digits", "train.epochs=1", "train.batch_size=32", "--quiet")


@pytest.mark.usefixtures("trained")
def test_the_list(run: Run) -> None:
    Path("runs/notes").mkdir()
    outcome = run("runs")
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines() if "runs/" in line]
    assert [row[:3] for row in rows] == [
        ["runs/digits-001", "digits", "2"],
        ["runs/digits-002", "digits", "1"],
    ]
    assert re.fullmatch(r"\d\d\.\d\d%", rows[0][3])
    assert rows[1][3] == "–"
    assert all(len(line) <= 80 for line in outcome.out.splitlines())


@pytest.mark.usefixtures("trained")
def test_the_json_has_the_results_of_training(run: Run) -> None:
    first, second = json.loads(run("runs", "--json").out)
    assert (first["path"], second["path"]) == ("runs/digits-001", "runs/digits-002")
    evaluated = json.loads(run("eval", "runs/digits-002", "--json").out)
    assert second["test_accuracy"] == evaluated["accuracy"]
    assert second["config"]["train"]["batch_size"] == 32
    assert (first["finished"], first["epochs"], first["epochs_wanted"]) == (True, 2, 2)


@pytest.mark.usefixtures("trained")
def test_what_differs(run: Run) -> None:
    outcome = run("runs", "runs/digits-001", "runs/digits-002")
    assert outcome.code == 0
    header, *rows = [line.split() for line in outcome.out.splitlines() if line.strip(" ─")]
    assert header[:4] == ["run", "validation", "train.epochs", "batch_size"]
    assert header[4:] == ["epochs", "valid.", "test", "seconds"]
    assert [row[:5] for row in rows] == [
        ["runs/digits-001", "100", "2", "16", "2"], ["runs/digits-002", "0", "1", "32", "1"],
    ]  # fmt: skip
    assert "optimizer.name" not in outcome.out
    compared = json.loads(run("runs", "runs/digits-001", "runs/digits-002", "--json").out)
    assert compared["differences"] == {
        "data.validation": [100, 0],
        "train.epochs": [2, 1],
        "train.batch_size": [16, 32],
    }
    same = run("runs", "runs/digits-001", "runs/digits-001")
    assert "their configs are the same" in same.out


@pytest.mark.usefixtures("trained")
def test_a_run_that_was_stopped_is_told_from_one_that_is_done(run: Run) -> None:
    config = Path("runs/digits-001/config.yaml")
    config.write_text(config.read_text().replace("epochs: 2", "epochs: 5"))
    metrics = Path("runs/digits-001/metrics.jsonl")
    metrics.write_text(metrics.read_text() + '{"epoch": 3, "tor')
    outcome = run("runs")
    assert " 2 of 5 " in outcome.out
    metrics.unlink()
    assert " 0 of 5 " in run("runs").out


def test_no_runs_and_what_is_none(run: Run) -> None:
    assert "no runs here yet" in run("runs").out
    assert json.loads(run("runs", "--json").out) == []
    outcome = run("runs", "nowhere")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)


@pytest.mark.usefixtures("trained")
def test_a_dry_run_is_no_run_while_it_lasts(run: Run) -> None:
    shutil.copytree("runs/digits-001", "runs/.mnist-mlp-dry")
    assert len(json.loads(run("runs", "--json").out)) == 2
    assert newest_run() == Path("runs/digits-002")


@pytest.mark.usefixtures("trained")
def test_a_row_of_other_types_is_not_the_end_of_the_list(run: Run) -> None:
    with Path("runs/digits-001/metrics.jsonl").open("a") as file:
        file.write('{"epoch": 3, "seconds": "x"}\n')
    first, _ = sorted(json.loads(run("runs", "--json").out), key=lambda row: str(row["path"]))
    assert first["epochs"] == 2


def test_a_run_whose_config_is_broken_is_named(run: Run, digits_run: Path) -> None:
    with (digits_run / "config.yaml").open("a") as file:
        file.write("lr: 3\n")
    for seed in (0, 1):
        shutil.copytree(digits_run, f"runs/swept/seed={seed}")
    Path("runs/swept/seed=1/config.yaml").write_text("seed: 1")
    outcome = run("runs")
    assert outcome.code == 0
    for path in (digits_run, "runs/swept/seed=0"):
        assert outcome.out.count(f"not listed: {path}/config.yaml:") == 1
    assert "runs/swept is a folder of 1 runs" in outcome.out


def test_listing_imports_no_torch() -> None:
    script = "import sys; from mnist_mlp.cli import app; app(['runs'], standalone_mode=False); "
    process = subprocess.run(
        [sys.executable, "-c", script + "sys.exit('torch' in sys.modules)"], capture_output=True
    )
    assert process.returncode == 0


@pytest.fixture
def swept(run: Run) -> None:
    values = ("optimizer.learning_rate=0.1,0.03", "seed=0,1", "train.epochs=1")
    run("sweep", "--config", "digits", *values, "data.validation=100", "--quiet")


@pytest.mark.usefixtures("swept")
def test_a_folder_of_runs_is_compared_sorted_and_written(run: Run) -> None:
    outcome = run("runs", "runs/digits-sweep", "--sort", "test", "--csv", "table.csv")
    lines = outcome.out.splitlines()
    assert lines[0] == "in runs/digits-sweep:"
    rows = [line.split() for line in lines if line.startswith(" learning_rate=")]
    assert len(rows) == 4
    for name, seed, rate, *_ in rows:
        assert name == f"learning_rate={rate},seed={seed}"
    for column, by in ((-2, "test"), (-3, "validation")):
        table = run("runs", "runs/digits-sweep", "--sort", by).out.splitlines()
        found = [line.split()[column] for line in table if line.startswith(" learning_rate=")]
        accuracies = [float(accuracy.rstrip("%")) for accuracy in found]
        assert accuracies == sorted(accuracies, reverse=True)
        assert len(set(accuracies)) > 1
    written = list(csv.DictReader(Path("table.csv").read_text().splitlines()))
    assert [row["path"].rpartition("/")[2] for row in written] == [row[0] for row in rows]
    assert [row["seed"] for row in written] == [row[1] for row in rows]
    for key, column in (("learning_rate", 2), ("optimizer.learning_rate", 2), ("seed", 1)):
        lines = run("runs", "runs/digits-sweep", "--sort", key).out.splitlines()
        values = [
            float(line.split()[column]) for line in lines if line.startswith(" learning_rate=")
        ]
        assert values == sorted(values)
    refused = run("runs", "runs/digits-sweep", "--sort", "colour")
    assert (refused.code, "no such column; validation, test" in refused.err) == (2, True)
    assert "runs/digits-sweep is a folder of 4 runs" in run("runs").out


@pytest.mark.usefixtures("swept")
@pytest.mark.parametrize("columns", [80, 60, 40])
def test_runs_are_readable_on_a_narrow_terminal(columns: int) -> None:
    """Each line fits; where the table is too wide, a run is a paragraph."""
    folder = "runs/digits-sweep"
    command = f"stty cols {columns}; {sys.executable} -m mnist_mlp runs {folder}"
    shown = subprocess.run(
        ["script", "-qec", command, "/dev/null"], capture_output=True, text=True,
        env={**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"},
    ).stdout  # fmt: skip
    lines = [line.rstrip() for line in shown.splitlines()]
    assert all(len(line) <= columns for line in lines), shown
    for rate in ("0.1", "0.03"):
        for seed in ("0", "1"):
            name = f"learning_rate={rate},seed={seed}"
            (start,) = (n for n, line in enumerate(lines) if name in line)
            if columns < 60:
                assert lines[start + 1 : start + 3] == [f"  seed {seed}", f"  learning_rate {rate}"]


@pytest.mark.usefixtures("swept")
def test_a_file_gets_a_line_for_each_run(run: Run) -> None:
    long = Path("runs", "n" * 200)
    Path("runs/digits-sweep").rename(long)
    train = ("train", "--config", "digits", "train.epochs=1", "--quiet")
    assert run(*train, "--run-dir", long / ("m" * 200)).code == 0
    lines = run("runs", long).out.splitlines()
    assert sum(line.count("%") in (1, 2) for line in lines) == 5
    assert sum("m" * 200 in line for line in lines) == 1


def test_no_runs_make_an_empty_table(run: Run) -> None:
    assert run("runs", "--csv", "none.csv").code == 0
    assert Path("none.csv").read_bytes() == b""
