"""The README's Python as a notebook, run by a real kernel: what its cells show."""

import ast
import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import numpy as np
import pytest
from PIL import Image

import mnist_mlp
from mnist_mlp.runs.listing import Runs
from mnist_mlp.views.notebook import to_html
from tests.conftest import REPOSITORY

SAMPLES = REPOSITORY / "tests" / "samples"
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What each statement shows as a cell of its own, by the statement, and what it prints."""
    folder = tmp_path_factory.mktemp("notebook")
    shutil.copytree(SAMPLES, folder / "tests" / "samples")
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    statements = [ast.unparse(statement) for statement in ast.parse(code).body]
    cells = [
        nbformat.v4.new_code_cell(statement)  # type: ignore[no-untyped-call]
        for statement in [*statements, "result"]
    ]
    notebook = nbformat.v4.new_notebook(cells=cells)  # type: ignore[no-untyped-call]
    nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(folder)}}
    ).execute()
    found = {}
    for cell in notebook.cells:
        assert not [out for out in cell.outputs if out.get("name") == "stderr"], cell
        data: dict[str, Any] = {"printed": ""}
        for out in cell.outputs:
            if out.output_type == "execute_result":
                data |= out.data
            else:
                data["printed"] += out.data["text/plain"]
        found[cell.source.partition("(")[0].removeprefix("mnist_mlp.")] = data
    return found


def picture(cell: dict[str, Any]) -> Any:
    """The first picture in a cell's HTML, as an array."""
    png = re.search(r'src="data:image/png;base64,([^"]*)"', cell["text/html"])
    assert png
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png[1]))))


def test_training_shows_each_epoch(shown: dict[str, dict[str, Any]]) -> None:
    printed = shown["result = mnist_mlp.train_model"]["printed"]
    assert re.findall(r"^epoch \d/5  loss", printed, re.MULTILINE) == [
        f"epoch {n}/5  loss" for n in range(1, 6)
    ]
    assert "<td>digits</td>" in shown["result"]["text/html"]


def test_an_evaluation_is_two_tables(shown: dict[str, dict[str, Any]]) -> None:
    html = shown["evaluate_model"]["text/html"]
    assert html.count("<table") == 2
    assert "360 examples" in html
    assert len(re.findall('<th scope="row">7</th>', html)) == 2


def test_a_prediction_is_what_the_network_saw_and_bars(shown: dict[str, dict[str, Any]]) -> None:
    expected = json.loads((SAMPLES / "expected.json").read_text())["7_plain.png"]
    cell = shown["predict_file"]
    assert picture(cell).ravel().tolist() == expected
    assert len(re.findall(r'<th scope="row">\d</th><td>\d+\.\d\d%</td>', cell["text/html"])) == 10
    assert "█" in cell["text/html"]


def test_a_trace_is_its_image_and_eight_steps(shown: dict[str, dict[str, Any]]) -> None:
    cell = shown["trace_image"]
    assert picture(cell).shape == (28, 28)
    assert re.findall(r"Step ([1-8])", cell["text/html"]) == list("1245678")
    assert cell["printed"] == ""


def test_pictures_and_their_figures_are_shown(shown: dict[str, dict[str, Any]]) -> None:
    figure = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(shown["curves.figure"]["image/png"])))
    )
    assert figure.shape[0] > 500
    assert len(np.unique(figure.reshape(-1, figure.shape[2]), axis=0)) > 50


def test_the_lesson_and_the_runs_are_tables(shown: dict[str, dict[str, Any]]) -> None:
    lesson, runs = (shown[name]["text/html"] for name in ("check_lesson", "list_runs"))
    assert lesson.count("<tr>") == 1 + len(mnist_mlp.check_lesson(mnist_mlp.load_dataset("digits")))
    assert "runs/digits-001" in runs
    assert to_html(Runs()).startswith("<p>no runs here yet")


def test_a_picture_of_a_run_is_shown(digits_run: Path) -> None:
    for drawn in mnist_mlp.draw_pictures(mnist_mlp.load_checkpoint(digits_run)):
        assert picture({"text/html": drawn._repr_html_()}).shape[0] > 500


@pytest.mark.parametrize(("progress", "lines"), [(None, 0), (False, 0), (True, 7)])
def test_a_script_is_silent_unless_asked(
    progress: bool | None, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    config = mnist_mlp.load_config("digits", ["train.epochs=1"])
    mnist_mlp.train_model(config, "run", progress=progress)
    printed = capsys.readouterr()
    assert (len(printed.out.splitlines()) >= lines, printed.err) == (True, "")
    assert bool(printed.out) == bool(lines)


def test_what_has_no_html_is_an_error() -> None:
    with pytest.raises(TypeError, match="no HTML for int"):
        to_html(1)
