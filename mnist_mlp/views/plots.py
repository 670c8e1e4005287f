"""The pictures of a run: each a figure, a caption and the numbers that it shows."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mnist_mlp.constants import show_loss
from mnist_mlp.files import to_csv
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.environment import load_run_dataset
from mnist_mlp.steps.data import Dataset, Split
from mnist_mlp.steps.evaluate import Evaluation, evaluate_model
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views import figures
from mnist_mlp.views.predictions import Mistake, calibrate, find_mistakes, predict_probabilities
from mnist_mlp.words import WORDS


@dataclass(frozen=True)
class Picture(NotebookHtml):
    """A figure, what it shows, and its numbers as a file's text."""

    stem: str
    shows: str
    figure: Figure
    numbers: str
    kind: Literal["csv", "json"] = "csv"

    @property
    def caption(self) -> str:
        """How to read it."""
        return WORDS["captions"][self.stem]

    def files(self) -> dict[str, bytes]:
        """The figure as PNG and SVG, and its numbers, by file name."""
        return {
            f"{self.stem}.png": figures.render(self.figure, "png"),
            f"{self.stem}.svg": figures.render(self.figure, "svg"),
            f"{self.stem}.{self.kind}": self.numbers.encode(),
        }


def draw_pictures(
    checkpoint: Checkpoint, data: Dataset | None = None, rows: Sequence[EpochResult] | None = None
) -> Iterator[Picture]:
    """Draw every picture of a checkpoint's network.

    The data, of which the test set is used, is on the CPU; by default it is loaded from where the
    run had it. `rows` are by default those of the run's metrics.jsonl. Without any, no curves.
    """
    data = data or load_run_dataset(checkpoint.config)
    rows = checkpoint.rows() if rows is None else rows
    run = checkpoint.run_name
    network = f"{run}, epoch {checkpoint.epoch} · {data.name}"
    test = f"{network}, {len(data.test.labels):,} test images"
    evaluation = evaluate_model(checkpoint.model, *data.test)
    p = predict_probabilities(checkpoint.model, data.test.pixels)  # (N, C)
    if rows:
        first, last = (show_loss(row.train_loss) for row in (rows[0], rows[-1]))
        yield Picture(
            stem="curves",
            shows=f"The training loss goes from {first} to {last} in {rows[-1].epoch} epochs.",
            figure=figures.draw_curves(rows, f"{run} · {data.name}"),
            numbers=to_csv([field.name for field in fields(EpochResult)], map(astuple, rows)),
        )
    yield from _about_digits(evaluation, test)
    yield from _about_confidence(p, data.test, test)
    weights = checkpoint.model.get_parameter("layer1.weight").detach().numpy()
    shown = weights[: figures.MOST_TILES]
    yield Picture(
        stem="tiles",
        shows=f"The weights of {len(shown)} neurons, from {shown.min():.2f} to {shown.max():.2f}.",
        figure=figures.draw_tiles(weights, network),
        numbers=to_csv(
            ["neuron", *(f"pixel {k}" for k in range(shown.shape[1]))],
            # 9 digits distinguish any two float32 numbers.
            ([k, *(f"{weight:.9g}" for weight in row)] for k, row in enumerate(shown)),
        ),
    )


def _about_digits(evaluation: Evaluation, footer: str) -> Iterator[Picture]:
    scores, matrix = evaluation.per_class, evaluation.confusion_matrix
    worst = min(scores, key=lambda score: score.recall)
    yield Picture(
        stem="digits",
        shows=f"The lowest is {worst.recall:.2%}, of digit {worst.digit}.",
        figure=figures.draw_digits(matrix, footer),
        numbers=to_csv(
            ["digit", "accuracy", "correct", "support"],
            ([s.digit, s.recall, matrix[s.digit][s.digit], s.support] for s in scores),
        ),
    )
    counts = np.array(matrix)
    wrong = counts - np.diag(counts.diagonal())
    true, guess = np.unravel_index(wrong.argmax(), wrong.shape)
    most = f", most often {true} as {guess} ({wrong.max()} times)" if wrong.any() else ""
    yield Picture(
        stem="confusion-matrix",
        shows=f"{wrong.sum():,} of {counts.sum():,} test images are misread{most}.",
        figure=figures.draw_confusion_matrix(matrix, footer),
        numbers=to_csv(
            ["true", *(f"read as {k}" for k in range(len(matrix)))],
            ([k, *row] for k, row in enumerate(matrix)),
        ),
    )


def _about_confidence(p: NDArray[np.float64], test: Split, footer: str) -> Iterator[Picture]:
    labels = test.labels.numpy()
    mistakes = find_mistakes(p, labels)
    shown = mistakes[:30]
    shows = "No test image is misread."
    if shown:
        shows = f"The confidence goes from {shown[0].confidence:.2%} to {shown[-1].confidence:.2%}."
    yield Picture(
        stem="mistakes",
        shows=shows,
        figure=figures.draw_mistakes(shown, test, len(mistakes), footer),
        numbers=to_csv([field.name for field in fields(Mistake)], map(astuple, shown)),
    )
    error, bins = calibrate(p.max(axis=1), p.argmax(axis=1) == labels)
    yield Picture(
        stem="calibration",
        shows=f"Accuracy against confidence, in {len(bins)} bins.",
        figure=figures.draw_calibration(error, bins, footer),
        numbers=json.dumps({"expected_error": error, "bins": bins}, indent=1, default=vars) + "\n",
        kind="json",
    )
