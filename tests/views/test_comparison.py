"""Several runs on one page."""

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mnist_mlp
from mnist_mlp.runs.directory import read_rows
from mnist_mlp.views.figures import draw_comparison
from tests.conftest import Outcome
from tests.views.test_report import Page

Run = Callable[..., Outcome]


@pytest.fixture
def swept(run: Run) -> Path:
    values = ("optimizer.learning_rate=0.1,0.03", "seed=0,1", "train.epochs=2")
    run("sweep", "--config", "digits", *values, "data.validation=100", "--quiet")
    return Path("runs/digits-sweep")


@pytest.mark.parametrize("named", ["folder", "runs"])
def test_several_runs_are_one_page(named: str, swept: Path, run: Run) -> None:
    runs = sorted(swept.iterdir())
    targets = [swept] if named == "folder" else runs
    outcome = run("report", *targets, "--output", "pages")
    assert (outcome.code, outcome.out) == (0, "pages/comparison.html\n")
    html = Path("pages/comparison.html").read_text()
    page = Page(html)
    for path in runs:
        row = json.loads((path / "metrics.jsonl").read_text().splitlines()[-1])
        assert re.search(
            rf"{path}</th><td>.*</td><td>{row['validation_accuracy']:.2%}</td>"
            rf"<td>{row['test_accuracy']:.2%}</td>",
            html,
        )
    (picture,) = [dict(attrs)["src"] for tag, attrs in page.tags if tag == "img"]
    svg = base64.b64decode(str(picture).partition("base64,")[2]).decode()
    assert all(path.name in svg for path in runs)
    assert "http://" not in html


def test_the_curves_are_the_runs_metrics(swept: Path) -> None:
    curves = {path.name: read_rows(path, 99) for path in sorted(swept.iterdir())}
    loss, accuracy = draw_comparison(curves, "").axes
    for line, (name, rows) in zip(loss.lines, curves.items(), strict=True):
        assert line.get_label() == name
        assert np.asarray(line.get_ydata()).tolist() == [row.train_loss for row in rows]
    for line, rows in zip(accuracy.lines, curves.values(), strict=True):
        assert np.asarray(line.get_xdata()).tolist() == [0, 1, 2]
        assert np.asarray(line.get_ydata()).tolist() == [row.validation_accuracy for row in rows]


def test_runs_without_epochs_are_refused(swept: Path, run: Run) -> None:
    for path in swept.iterdir():
        (path / "metrics.jsonl").unlink()
    refused = run("report", swept)
    assert (refused.code, "no epochs to compare yet" in refused.err) == (2, True)
    with pytest.raises(mnist_mlp.MnistMlpError, match="nope: not a run directory"):
        mnist_mlp.compare_runs(["nope"])
