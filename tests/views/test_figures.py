import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from mnist_mlp.steps.data import Split
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.figures import (
    draw_confusion_matrix,
    draw_curves,
    draw_digits,
    draw_mistakes,
    draw_tiles,
    render,
)
from mnist_mlp.views.predictions import Mistake
from tests.views.drawn import sheet_of, texts

ROWS = [
    EpochResult(
        epoch=epoch, updates=9 * epoch, examples_seen=90 * epoch, learning_rate=0.1,
        train_loss=2.3 / (epoch + 1), train_accuracy=0.1 + epoch / 4,
        validation_loss=2.2 / (epoch + 1), validation_accuracy=0.2 + epoch / 4,
        test_loss=2.1 / (epoch + 1), test_accuracy=0.3 + epoch / 4, seconds=float(epoch),
    )
    for epoch in range(3)
]  # fmt: skip


def test_another_process_draws_the_same_bytes_without_pyplot() -> None:
    code = """
import hashlib, sys
from mnist_mlp.views.figures import draw_confusion_matrix, render
figure = draw_confusion_matrix([[5, 1], [0, 7]], "here")
print(hashlib.sha256(render(figure, "svg") + render(figure, "png")).hexdigest())
print("matplotlib.pyplot" in sys.modules)
"""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "7", "MPLBACKEND": "tkagg"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    figure = draw_confusion_matrix([[5, 1], [0, 7]], "here")
    content = render(figure, "svg") + render(figure, "png")
    assert process.stdout.split() == [hashlib.sha256(content).hexdigest(), "False"], process.stderr


def test_the_curves_are_drawn_where_the_rows_are() -> None:
    loss, accuracy, closer = draw_curves(ROWS, "here").axes
    for panel, what, first in (
        (loss, "loss", 0),
        (accuracy, "accuracy", 0),
        (closer, "accuracy", 1),
    ):
        drawn = [line.get_xydata() for line in panel.lines]
        for split in ("train", "validation", "test"):
            points = [[row.epoch, getattr(row, f"{split}_{what}")] for row in ROWS[first:]]
            assert any(np.array_equal(line, points) for line in drawn), (what, split)


def test_what_was_not_evaluated_is_not_drawn() -> None:
    few = [
        replace(row, validation_loss=None, validation_accuracy=None, test_loss=None) for row in ROWS
    ]
    written = texts(render(draw_curves(few, "here"), "svg"))
    assert "train, before each update" in written
    assert not {"validation", "test"} & set(written)


def test_the_curves_of_a_network_that_was_never_updated() -> None:
    written = texts(render(draw_curves(ROWS[:1], "here"), "svg"))
    assert "before training" in written
    assert "Accuracy from epoch 1 on" not in written


def test_a_digit_without_images_is_drawn() -> None:
    matrix = np.diag([0, 2, *[0] * 8]).tolist()
    assert texts(render(draw_digits(matrix, "here"), "svg")).count("0 of 0") == 9


def test_a_mistake_is_drawn_with_its_own_image() -> None:
    pixels = torch.zeros(3, 784, dtype=torch.uint8)
    pixels[2, 5] = 255
    split = Split(pixels, torch.tensor([0, 1, 2]))
    figure = draw_mistakes([Mistake(2, 2, 7, 0.5)], split, 1, "here")
    drawn = [image for axes in figure.axes for image in axes.images]
    assert len(drawn) == 1
    assert np.array_equal(np.asarray(drawn[0].get_array()).ravel(), pixels[2].numpy())


def test_no_mistakes() -> None:
    split = Split(torch.zeros(1, 784, dtype=torch.uint8), torch.tensor([0]))
    assert "every image was read correctly" in texts(
        render(draw_mistakes([], split, 0, "x"), "svg")
    )


@pytest.mark.parametrize(
    ("neurons", "title"),
    [(3, "First-layer weights"), (300, "First-layer weights: the first 256 of 300")],
)
def test_tiles_of_any_number(neurons: int, title: str) -> None:
    weights = build_mlp((784, neurons, 10), seed=0).get_parameter("layer1.weight").detach().numpy()
    figure = draw_tiles(weights, "here")
    assert title in texts(render(figure, "svg"))
    assert np.isfinite(sheet_of(figure)).sum() == min(neurons, 256) * 784


def test_weights_of_zero_have_a_scale() -> None:
    figure = draw_tiles(np.zeros((2, 784), dtype=np.float32), "here")
    assert figure.axes[0].images[0].get_clim() == (-1, 1)
