"""Pictures of a run, each with the numbers that it shows beside it.

For each picture there is a function that draws it from plain values, and `draw_pictures` that does
all of them for a checkpoint. The same values give the same bytes: no date, no random identifiers.
Nothing here touches pyplot's global state.

Lines have Okabe and Ito's colours (2008, jfly.uni-koeln.de/color), which the colour-blind can tell
apart, and each a dash and a marker of its own for print without colour.
"""

import csv
import io
import json
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import matplotlib
import matplotlib.style
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_mlp.runs.checkpoint import Checkpoint, run_name
from mnist_mlp.steps.data import Dataset, Split, to_images
from mnist_mlp.steps.evaluate import CHUNK, DigitScores, evaluate_model
from mnist_mlp.steps.loss import softmax
from mnist_mlp.steps.train import EpochResult

BLACK, BLUE, VERMILLION, GREY = "#000000", "#0072B2", "#D55E00", "#595959"
LIGHT_BLUE = "#A6CCE4"
LINES = {
    "train": (BLUE, "-", "o"),
    "validation": (VERMILLION, "--", "s"),
    "test": (BLACK, "-.", "^"),
}
"""Colour, dash and marker of each split."""
MOST_TILES = 256
MOST_MISTAKES = 30
BINS = 15
"""Of the confidence, as in Guo et al. 2017."""
DPI = 160

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "mnist-mlp",
    "text.parse_math": False,  # a run may be called $x$
}
_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.6g}%" if share <= 1 else "")
# A person's own matplotlibrc must not change the picture: first back to matplotlib's defaults.
_styled = matplotlib.style.context(_STYLE, after_reset=True)


@dataclass(frozen=True)
class Picture:
    """A drawn figure; what it shows, how to read it, and the text of the numbers file beside it."""

    stem: str
    title: str
    shows: str
    caption: str
    figure: Figure
    numbers: str
    kind: Literal["csv", "json"]

    def files(self) -> dict[str, bytes]:
        """The picture as PNG and as SVG, and its numbers, by file name."""
        return {
            f"{self.stem}.png": render(self.figure, "png"),
            f"{self.stem}.svg": render(self.figure, "svg"),
            f"{self.stem}.{self.kind}": self.numbers.encode(),
        }


def draw_pictures(
    checkpoint: Checkpoint, data: Dataset, rows: Sequence[EpochResult]
) -> Iterator[Picture]:
    """Every picture of a checkpoint and of the run that it is from.

    Args:
        checkpoint: Its network is judged on the test set.
        data: The checkpoint's, on the CPU.
        rows: Of metrics.jsonl; without any there are no curves.
    """
    run = run_name(checkpoint)
    network = f"{run}, epoch {checkpoint.epoch} · {data.name}"
    test = f"{network}, {len(data.test.labels):,} test images"
    evaluation = evaluate_model(checkpoint.model, *data.test)
    matrix, scores = evaluation.confusion_matrix, evaluation.per_class
    p = probabilities(checkpoint.model, data.test.pixels)  # (N, C)
    labels = data.test.labels.numpy()

    if rows:
        yield Picture(
            stem="curves",
            title="Loss and accuracy by epoch",
            shows=f"The training loss goes from {rows[0].train_loss:.4f} to "
            f"{rows[-1].train_loss:.4f} in {rows[-1].epoch} epochs.",
            caption="Training figures are of each batch just before its own update. The test set "
            "is reported and decides nothing. A network that knows nothing has a loss of ln 10.",
            figure=draw_curves(rows, f"{run} · {data.name}"),
            numbers=_csv([field.name for field in fields(EpochResult)], map(_values, rows)),
            kind="csv",
        )
    worst = min(scores, key=lambda score: score.recall)
    yield Picture(
        stem="digits",
        title="Accuracy of each digit",
        shows=f"The lowest is {worst.recall:.2%}, of digit {worst.digit}.",
        caption="The share of a digit's test images that is read right, and, enlarged, the rest.",
        figure=draw_digits(scores, test),
        numbers=_csv(
            ["digit", "accuracy", "correct", "support"],
            ([s.digit, s.recall, matrix[s.digit][s.digit], s.support] for s in scores),
        ),
        kind="csv",
    )
    wrong = evaluation.examples - sum(matrix[k][k] for k in range(len(matrix)))
    yield Picture(
        stem="confusion-matrix",
        title="Confusion matrix",
        shows=f"{wrong:,} of {evaluation.examples:,} test images are read wrong"
        f"{_most_confused(matrix)}.",
        caption="The numbers count images, a dot is none; the colour is the share of the row.",
        figure=draw_confusion_matrix(matrix, test),
        numbers=_csv(
            ["true", *(f"read as {k}" for k in range(len(matrix)))],
            ([k, *row] for k, row in enumerate(matrix)),
        ),
        kind="csv",
    )
    mistakes = find_mistakes(p, labels)
    yield Picture(
        stem="mistakes",
        title="The most confidently wrong",
        shows=f"The {len(mistakes)} test images that are read wrong with the most confidence, "
        f"from {mistakes[0].confidence:.2%} down to {mistakes[-1].confidence:.2%}."
        if mistakes
        else "No test image is read wrong.",
        caption="An index counts the test images from 0; mnist-mlp trace --index takes it. Ink is "
        "drawn dark.",
        figure=draw_mistakes(mistakes, data.test, wrong, test),
        numbers=_csv([field.name for field in fields(Mistake)], map(_values, mistakes)),
        kind="csv",
    )
    calibration = calibrate(p.max(axis=1), p.argmax(axis=1) == labels)
    yield Picture(
        stem="calibration",
        title="Calibration",
        shows="The expected calibration error is "
        f"{100 * calibration.expected_error:.2f} percentage points.",
        caption="Of the images that a calibrated network reads with a confidence of 80%, 80% are "
        "read right. The error is the mean distance from that, each bin weighted by its images "
        "(Guo et al. 2017). A bin of few images says little.",
        figure=draw_calibration(calibration, test),
        numbers=json.dumps(asdict(calibration), indent=1) + "\n",
        kind="json",
    )
    weights = first_layer_weights(checkpoint.model)
    shown = weights[:MOST_TILES]
    which = f"All {len(weights)}"
    if len(shown) < len(weights):
        which = f"The first {len(shown)} of {len(weights):,}"
    yield Picture(
        stem="tiles",
        title="First-layer weights",
        shows=f"{which} neurons, their weights from {shown.min():.2f} to {shown.max():.2f}.",
        caption="A tile is a neuron's 28 × 28 weights: ink on red pixels raises it, ink on blue "
        "ones lowers it. All tiles share one scale; it ends where 0.5% of the weights lie beyond.",
        figure=draw_tiles(weights, network),
        numbers=_csv(
            ["neuron", *(f"pixel {k}" for k in range(shown.shape[1]))],
            # 9 digits tell any two float32 numbers apart.
            ([k, *(f"{weight:.9g}" for weight in row)] for k, row in enumerate(shown)),
        ),
        kind="csv",
    )


@_styled
def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a PNG or SVG file."""
    nothing = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a run's name: a box will do
        figure.savefig(file, format=kind, dpi=DPI, metadata=nothing[kind])
    return file.getvalue()


@torch.no_grad()
def probabilities(model: nn.Module, pixels: Tensor) -> NDArray[np.float64]:
    """What a network says of images, (N, C): softmax in float64 of its logits.

    Args:
        model: From images (B, D) to logits (B, C).
        pixels: (N, D), bytes or images in [0, 1].
    """
    logits = [model(to_images(x)) for x in torch.split(pixels, CHUNK)]
    return softmax(torch.cat(logits).double()).numpy()


# Loss and accuracy by epoch


@_styled
def draw_curves(rows: Sequence[EpochResult], about: str) -> Figure:
    """Loss, and accuracy whole and from epoch 1 on, of each split that was evaluated."""
    figure = _figure("Loss and accuracy by epoch", about, (9, 5))
    grid = figure.add_gridspec(2, 2)
    loss = figure.add_subplot(grid[:, 0])
    loss.axhline(math.log(10), color=GREY, linestyle=":")
    loss.annotate(
        "ln 10 = 2.3026: ten equal guesses",
        (1, math.log(10)),
        xycoords=("axes fraction", "data"),
        xytext=(-4, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=9,
        color=GREY,
    )
    _lines(loss, rows, "loss")
    loss.set_yscale("log")
    low, high = loss.get_ylim()
    loss.set_ylim(min(low, 1), max(high, 3))
    loss.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    loss.yaxis.set_minor_formatter(FuncFormatter(_minor_label))
    loss.tick_params(axis="y", which="minor", labelsize=8, labelcolor=GREY)
    loss.grid(which="minor", linewidth=0.4)
    loss.set_title("Loss")
    loss.set_ylabel("cross-entropy (nats, log scale)")

    trained = [row for row in rows if row.epoch]
    accuracy = figure.add_subplot(grid[0 if trained else slice(None), 1], sharex=loss)
    _lines(accuracy, rows, "accuracy")
    accuracy.set_ylim(0, 1.02)
    accuracy.set_title("Accuracy")
    panels = [accuracy]
    if trained:
        panels.append(closer := figure.add_subplot(grid[1, 1], sharex=loss))
        _lines(closer, trained, "accuracy")
        closer.set_title("Accuracy from epoch 1 on")
    for panel in panels:
        panel.yaxis.set_major_formatter(_PERCENT)
        panel.set_ylabel("images read right")
    loss.set_xlim(-0.03 * max(1, rows[-1].epoch), max(1, rows[-1].epoch) * 1.03)
    for panel in (loss, panels[-1]):
        panel.set_xlabel("epoch (0: untrained)")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*loss.get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize=9)
    return figure


def _lines(axes: Axes, rows: Sequence[EpochResult], what: str) -> None:
    for split, (colour, dash, marker) in LINES.items():
        points = [
            (row.epoch, value)
            for row in rows
            if (value := getattr(row, f"{split}_{what}")) is not None
        ]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        label = "train, before each update" if split == "train" else split
        every = max(1, len(points) // 20)
        axes.plot(x, y, dash, color=colour, marker=marker, markevery=every, label=label)
        if x[0] == 0:
            first = "untrained" if split == "train" else None
            axes.plot(
                x[0],
                y[0],
                "D",
                color=BLACK,
                markerfacecolor="white",
                markersize=8,
                linestyle="",
                label=first,
                zorder=3,
            )


def _minor_label(y: float, _: int | None) -> str:
    """2 and 5 of a decade: the rest of the minor ticks would be crowded."""
    leading = f"{y:e}"[0]
    return f"{y:g}" if leading in "25" else ""


# Confusion matrix


@_styled
def draw_confusion_matrix(matrix: Sequence[Sequence[int]], about: str) -> Figure:
    """Counts in the cells; the colour is each cell's share of its row.

    Args:
        matrix: Rows true, columns predicted.
        about: What it is a picture of.
    """
    counts = np.array(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _figure("Confusion matrix", about, (7.2, 6.2))
    axes = figure.add_subplot()
    image = axes.imshow(
        np.ma.masked_equal(share, 0), cmap="Blues", norm=LogNorm(0.0005, 1), interpolation="none"
    )
    for (true, guess), count in np.ndenumerate(counts):
        colour = GREY if not count else "white" if share[true, guess] > 0.05 else BLACK
        weight = "bold" if true == guess else "normal"
        axes.text(
            guess,
            true,
            f"{count:,}" if count else "·",
            color=colour,
            ha="center",
            va="center",
            fontsize=9,
            weight=weight,
        )
    axes.set_xticks(range(len(counts)))
    axes.set_yticks(range(len(counts)))
    axes.set_xlabel("read as")
    axes.set_ylabel("true digit")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ticks=[0.001, 0.01, 0.1, 1], shrink=0.9)
    bar.ax.yaxis.set_major_formatter(_PERCENT)
    bar.set_label("share of the row's images (log scale)")
    bar.outline.set_visible(False)
    return figure


def _most_confused(matrix: list[list[int]]) -> str:
    count, true, guess = max(
        (count, true, guess)
        for true, row in enumerate(matrix)
        for guess, count in enumerate(row)
        if guess != true
    )
    return f", most often {true} as {guess} ({count} times)" if count else ""


# The most confidently wrong images


@dataclass(frozen=True)
class Mistake:
    """An image read wrong: its index in its split, and the probability of the wrong guess."""

    index: int
    label: int
    guess: int
    confidence: float


def find_mistakes(
    p: NDArray[np.float64], labels: NDArray[np.int64], most: int = MOST_MISTAKES
) -> list[Mistake]:
    """The images read wrong with the most confidence, that first.

    Args:
        p: Probabilities (N, C).
        labels: (N,).
        most: So many at most.
    """
    guesses, confidences = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    order = wrong[np.argsort(-confidences[wrong], kind="stable")][:most]
    return [Mistake(int(k), int(labels[k]), int(guesses[k]), float(confidences[k])) for k in order]


@_styled
def draw_mistakes(mistakes: Sequence[Mistake], split: Split, wrong: int, about: str) -> Figure:
    """The images with index, label, guess and confidence.

    Args:
        mistakes: What to show.
        split: Whose images they are.
        wrong: How many are read wrong in all.
        about: What it is a picture of.
    """
    columns = 6
    lines = max(1, math.ceil(len(mistakes) / columns))
    shown = f"{len(mistakes)} of {wrong:,}" if len(mistakes) < wrong else f"all {wrong}"
    title = f"Most confidently wrong: {shown}" if mistakes else "Most confidently wrong: none"
    figure = _figure(title, about, (8.4, 1.0 + 1.85 * lines))
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel in panels[len(mistakes) :]:
        panel.set_axis_off()
    for panel, mistake in zip(panels, mistakes, strict=False):
        image = split.pixels[mistake.index].view(28, 28).numpy()
        panel.imshow(image, cmap="gray_r", interpolation="none")
        panel.set_title(
            f"index {mistake.index}\n{mistake.label} read as {mistake.guess}\n"
            f"{mistake.confidence:.2%} sure",
            fontsize=9,
        )
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color="#cccccc")
    if not mistakes:
        figure.text(0.5, 0.5, "every image was read right", ha="center", va="center")
    return figure


# Accuracy of each digit


@_styled
def draw_digits(scores: Sequence[DigitScores], about: str) -> Figure:
    """Bars of the share of each digit's images that is read right, and of the rest enlarged."""
    figure = _figure("Accuracy of each digit", about, (8.4, 4.8))
    right, wrong = figure.subplots(1, 2, sharey=True)
    digits = [score.digit for score in scores]
    recalls = [score.recall for score in scores]
    right.barh(digits, recalls, color=BLUE, height=0.7)
    for digit, recall in zip(digits, recalls, strict=True):
        inside = recall > 0.3
        right.text(
            recall - 0.02 if inside else recall + 0.02,
            digit,
            f"{recall:.2%}",
            color="white" if inside else BLACK,
            ha="right" if inside else "left",
            va="center",
            fontsize=9,
        )
    right.set_xlim(0, 1)
    right.set_title("read right")
    right.set_ylabel("digit")
    right.set_yticks(digits)
    right.invert_yaxis()
    counts = [round((1 - score.recall) * score.support) for score in scores]
    errors = [n / max(score.support, 1) for n, score in zip(counts, scores, strict=True)]
    bars = wrong.barh(digits, errors, color=VERMILLION, height=0.7)
    labels = [f"{n:,} of {score.support:,}" for n, score in zip(counts, scores, strict=True)]
    wrong.bar_label(bars, labels, padding=4, fontsize=9)
    wrong.set_xlim(0, 1.3 * max(*errors, 0.001))
    wrong.set_title("read wrong (enlarged)")
    for panel in (right, wrong):
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(_PERCENT)
        panel.set_xlabel("share of the digit's images")
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    return figure


# Calibration


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is above `low` and not above `high`; no mean of none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Calibration:
    """Confidence against accuracy, bin by bin, and `expected_error`, from 0 to 1."""

    expected_error: float
    bins: list[Bin]


def calibrate(
    confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = BINS
) -> Calibration:
    """How far a network's confidence is from its accuracy.

    The confidences are put into M bins of equal width; bin m holds those in ((m − 1)/M, m/M]. The
    expected calibration error is Σ (images in the bin / all images) × |accuracy − mean confidence|
    over the bins (Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML
    2017, equation 3; there M = 15 too).

    Args:
        confidences: (N,), the probability of each guess.
        right: (N,), whether it is the label.
        bins: M.
    """
    edges = np.arange(bins + 1) / bins
    place = np.searchsorted(edges, confidences, side="left") - 1
    images = np.bincount(place, minlength=bins)
    confident = np.bincount(place, confidences, minlength=bins)
    correct = np.bincount(place, right, minlength=bins)
    return Calibration(
        expected_error=float(np.abs(correct - confident).sum() / len(right)),
        bins=[
            Bin(
                low=float(edges[m]),
                high=float(edges[m + 1]),
                images=int(images[m]),
                confidence=float(confident[m] / images[m]) if images[m] else None,
                accuracy=float(correct[m] / images[m]) if images[m] else None,
            )
            for m in range(bins)
        ],
    )


@_styled
def draw_calibration(calibration: Calibration, about: str) -> Figure:
    """A reliability diagram above a histogram of the confidence."""
    error = f"expected error {100 * calibration.expected_error:.2f} percentage points"
    figure = _figure(f"Calibration: {error}", about, (7.2, 6.6))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    filled = [b for b in calibration.bins if b.images]
    centres = [(b.low + b.high) / 2 for b in filled]
    width = 0.92 / len(calibration.bins)
    accuracy = [b.accuracy for b in filled]
    bars = above.bar(centres, accuracy, width, color=LIGHT_BLUE, label="accuracy of the bin")
    points = above.plot(
        [b.confidence for b in filled],
        accuracy,
        "o",
        color=BLACK,
        markersize=6,
        clip_on=False,
        zorder=3,
        label="at its mean confidence",
    )
    diagonal = above.plot([0, 1], [0, 1], "--", color=VERMILLION, label="perfectly calibrated")
    above.set_xlim(0, 1)
    above.set_ylim(0, 1.03)
    above.set_ylabel("accuracy")
    above.legend(
        handles=[bars, *points, *diagonal], loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3
    )
    bars = below.bar(centres, [b.images for b in filled], width, color=BLUE)
    below.bar_label(bars, [f"{b.images:,}" for b in filled], padding=2, fontsize=8)
    below.set_yscale("log")
    below.set_yticks([1, 10, 100, 1_000, 10_000], ["1", "10", "100", "1,000", "10,000"])
    below.yaxis.set_minor_locator(NullLocator())
    below.set_ylim(0.5, 6 * max(b.images for b in filled))
    below.set_ylabel("images (log scale)")
    below.set_xlabel(f"confidence, in {len(calibration.bins)} bins")
    above.yaxis.set_major_formatter(_PERCENT)
    below.xaxis.set_major_formatter(_PERCENT)
    return figure


# First-layer weights


def first_layer_weights(model: nn.Module) -> NDArray[np.float32]:
    """(neurons, 784)."""
    weights: NDArray[np.float32] = model.get_parameter("layer1.weight").detach().cpu().numpy()
    return weights


@_styled
def draw_tiles(weights: NDArray[np.float32], about: str) -> Figure:
    """The first neurons' weights as tiles, all on one scale that is symmetric about 0.

    Args:
        weights: (neurons, 784).
        about: What it is a picture of.
    """
    shown = weights[:MOST_TILES]
    columns = min(16, len(shown))
    lines = math.ceil(len(shown) / columns)
    sheet = np.full((29 * lines + 1, 29 * columns + 1), np.nan)  # a line of NaN between two tiles
    for k, tile in enumerate(shown.reshape(-1, 28, 28)):
        y, x = 29 * (k // columns) + 1, 29 * (k % columns) + 1
        sheet[y : y + 28, x : x + 28] = tile
    # Few weights are far out, and would leave the rest without colour.
    limit = float(np.quantile(np.abs(shown), 0.995)) or 1.0

    of = "" if len(shown) == len(weights) else f": the first {len(shown)} of {len(weights):,}"
    height = min(7.6 * lines / columns, 7.6)
    figure = _figure(f"First-layer weights{of}", about, (9, 1.2 + max(height, 1.4)))
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#808080")
    image = axes.imshow(sheet, cmap=colours, vmin=-limit, vmax=limit, interpolation="none")
    axes.set_axis_off()
    bar = figure.colorbar(image, extend="both", shrink=0.9, aspect=30)
    bar.set_label("weight of the pixel")
    bar.outline.set_visible(False)
    return figure


# What they share


def _figure(title: str, about: str, size: tuple[float, float]) -> Figure:
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    figure.suptitle(title, x=0.02, ha="left", fontsize=13, weight="bold")
    figure.supxlabel(about, x=0.02, ha="left", fontsize=9, color=GREY)
    return figure


def _values(row: Any) -> list[Any]:
    return [getattr(row, field.name) for field in fields(row)]


def _csv(header: list[str], rows: Iterable[Iterable[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()
