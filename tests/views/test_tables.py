"""Tables as rows; tests/test_cli.py and tests/runs have them as the program prints them."""

import io

import pytest
from rich.console import Console

from mnist_mlp.steps.data import load_dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.views.tables import describe_evaluation, make_table, percent


def test_an_evaluation_is_two_tables() -> None:
    evaluation = evaluate_model(build_mlp(seed=0), *load_dataset("digits").test)
    (line, scores), (_, matrix) = describe_evaluation(evaluation)
    assert line.startswith("360 examples  loss 2.3")
    assert [row[0] for row in scores[1:]] == [str(digit) for digit in range(10)]
    counts = [[int(str(cell).replace("·", "0")) for cell in row[1:]] for row in matrix[1:]]
    assert counts == [list(row) for row in evaluation.confusion_matrix]
    bold = [[k for k, cell in enumerate(row[1:]) if "bold" in repr(cell)] for row in matrix[1:]]
    assert bold == [[digit] for digit in range(10)]


@pytest.mark.parametrize("width", [12, 80])
def test_no_number_is_cut(width: int) -> None:
    console = Console(file=(file := io.StringIO()), width=width)
    console.print(make_table([["run", "loss"], ["runs/digits-001", "0.123456789"]]))
    assert ("runs/digits-001" in file.getvalue()) == (width == 80)
    assert sorted(filter(str.isdigit, file.getvalue())) == sorted("001" + "0123456789")


def test_a_dash_is_no_accuracy() -> None:
    assert (percent(None), percent(0.98765)) == ("–", "98.77%")
