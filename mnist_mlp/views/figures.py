"""The figures of a report, drawn with matplotlib from plain values.

Equal values give equal bytes: figures hold no dates or random identifiers, and ignore the user's
matplotlibrc. pyplot and its global state are not used. The lines have the colours of Okabe and Ito
(2008), which colour-blind readers can distinguish, and each its own dash and marker for printing.
"""

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Literal

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from mnist_mlp.steps.data import Split
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.predictions import Bin, Mistake

BLACK, BLUE, VERMILLION, GREY = "#000000", "#0072B2", "#D55E00", "#595959"
LINES = {
    "train": (BLUE, "-", "o"),
    "validation": (VERMILLION, "--", "s"),
    "test": (BLACK, "-.", "^"),
}
"""The colour, dash and marker of each split."""
MOST_TILES = 256

_PERCENT = FuncFormatter(lambda share, _: f"{100 * share:.6g}%" if share <= 1 else "")
_styled = matplotlib.style.context(Path(__file__).with_name("figures.mplstyle"), after_reset=True)


@_styled
def render(figure: Figure, kind: Literal["png", "svg"]) -> bytes:
    """A figure as a PNG or SVG file."""
    no_metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    file = io.BytesIO()
    with warnings.catch_warnings():
        # A character in a run's name that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(file, format=kind, dpi=160, metadata=no_metadata[kind])
    return file.getvalue()


@_styled
def draw_curves(rows: Sequence[EpochResult], footer: str) -> Figure:
    """Each split's loss and accuracy by epoch, and its accuracy from epoch 1 on, enlarged."""
    figure = _Figure("Loss and accuracy by epoch", footer, (9, 5))
    trained = [row for row in rows if row.epoch]
    # L: loss; A: accuracy; E: accuracy, enlarged
    panels = figure.subplot_mosaic("LA;LE" if trained else "LA")
    loss, accuracy = panels["L"], panels["A"]

    _plot_splits(loss, rows, "loss", "Loss")
    loss.axhline(math.log(10), color=GREY, linestyle=":")
    guess, place = "ln 10 = 2.3026: ten equal guesses", loss.get_yaxis_transform()
    loss.text(0.98, 2, guess, transform=place, ha="right", va="top", size=9, color=GREY)
    low, high = loss.get_ylim()
    loss.set_ylim(min(low, 1), max(high, 3))

    _plot_splits(accuracy, rows, "accuracy", "Accuracy")
    accuracy.set_ylim(0, 1.02)
    if trained:
        _plot_splits(panels["E"], trained, "accuracy", "Accuracy from epoch 1 on")
        accuracy.set_xlabel("")  # the panel below has it
    figure.legend(*loss.get_legend_handles_labels(), loc="outside upper right", ncols=4, fontsize=9)
    return figure


def _plot_splits(axes: Axes, rows: Sequence[EpochResult], quantity: str, title: str) -> None:
    """A line for each evaluated split, with a diamond at epoch 0."""
    _label_axes(axes, quantity, title)
    last = max(1, rows[-1].epoch)
    axes.set_xlim(-0.03 * last, 1.03 * last)
    for split, (colour, dash, marker) in LINES.items():
        x, y = _measured(rows, f"{split}_{quantity}")
        if not x:
            continue
        label = "train, before each update" if split == "train" else split
        every = max(1, len(x) // 20)
        axes.plot(x, y, dash, color=colour, marker=marker, markevery=every, label=label)
        if x[0] == 0:
            label = "before training" if split == "train" else "_"  # the legend omits "_"
            axes.plot(x[0], y[0], "D", color=BLACK, mfc="white", ms=8, label=label, zorder=3)


def _label_axes(axes: Axes, quantity: str, title: str) -> None:
    """Axes for a loss, on a log scale, or for an accuracy, by epoch."""
    axes.set(title=title, xlabel="epoch (0: before training)", ylabel="accuracy")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(_PERCENT)
    if quantity == "loss":
        axes.set(yscale="log", ylabel="cross-entropy (nats, log scale)")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())


def _measured(rows: Sequence[EpochResult], column: str) -> tuple[list[int], list[float]]:
    """The epochs in which a column has a value, and the values."""
    rows = [row for row in rows if getattr(row, column) is not None]
    return [row.epoch for row in rows], [getattr(row, column) for row in rows]


@_styled
def draw_comparison(runs: Mapping[str, Sequence[EpochResult]], footer: str) -> Figure:
    """Several runs' training loss and validation (or test) accuracy by epoch, over each other."""
    figure = _Figure("Runs compared", footer, (11, max(4.5, 1 + 0.16 * len(runs))))
    loss, accuracy = figure.subplots(1, 2)
    _label_axes(loss, "loss", "Training loss")
    _label_axes(accuracy, "accuracy", "Accuracy, validation or test")
    colours = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, len(runs)))
    for (name, rows), colour in zip(runs.items(), colours, strict=True):
        split = "test" if rows[0].validation_accuracy is None else "validation"
        loss.plot(*_measured(rows, "train_loss"), color=colour, label=name)
        accuracy.plot(*_measured(rows, f"{split}_accuracy"), "-o", ms=3, color=colour)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


@_styled
def draw_confusion_matrix(matrix: Sequence[Sequence[int]], footer: str) -> Figure:
    """A confusion matrix (rows true, columns predicted), coloured by the share of the row."""
    counts = np.array(matrix)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = _Figure("Confusion matrix", footer, (7.2, 6.2))
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_equal(share, 0), cmap="Blues", norm=LogNorm(0.0005, 1))
    for (true, guess), count in np.ndenumerate(counts):
        text = f"{count:,}" if count else "·"
        colour = GREY if not count else "white" if share[true, guess] > 0.05 else BLACK
        weight = "bold" if true == guess else "normal"
        axes.text(guess, true, text, size=9, ha="center", va="center", color=colour, weight=weight)
    ticks = range(len(counts))
    axes.set(xticks=ticks, yticks=ticks, xlabel="read as", ylabel="true digit")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ticks=[0.001, 0.01, 0.1, 1], shrink=0.9, format=_PERCENT)
    bar.set_label("share of the row's images (log scale)")
    bar.outline.set_visible(False)
    return figure


@_styled
def draw_mistakes(mistakes: Sequence[Mistake], split: Split, wrong: int, footer: str) -> Figure:
    """Misread images of a split; `wrong` is the number of all that are misread."""
    shown = f"{len(mistakes)} of {wrong:,}" if len(mistakes) < wrong else f"all {wrong}"
    title = f"Most confidently wrong: {shown if mistakes else 'none'}"
    columns = 6
    lines = max(1, math.ceil(len(mistakes) / columns))
    figure = _Figure(title, footer, (8.4, 1.0 + 1.85 * lines))
    for place, mistake in enumerate(mistakes, start=1):
        panel = figure.add_subplot(lines, columns, place)
        panel.imshow(split.pixels[mistake.index].view(28, 28).numpy(), cmap="gray_r")
        read = f"{mistake.label} read as {mistake.guess}\n{mistake.confidence:.2%} sure"
        panel.set_title(f"index {mistake.index}\n{read}", fontsize=9)
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set(visible=True, color="#cccccc")
    if not mistakes:
        figure.text(0.5, 0.5, "every image was read correctly", ha="center", va="center")
    return figure


@_styled
def draw_digits(matrix: Sequence[Sequence[int]], footer: str) -> Figure:
    """Bars of a confusion matrix: each digit's share of correct images, and the rest, enlarged."""
    figure = _Figure("Accuracy of each digit", footer, (8.4, 4.8))
    right, wrong = figure.subplots(1, 2, sharey=True)
    digits = range(len(matrix))
    correct, support = np.diagonal(matrix), np.sum(matrix, axis=1)
    misread = support - correct
    recalls, errors = (part / np.maximum(support, 1) for part in (correct, misread))
    counts = [f"{n:,} of {images:,}" for n, images in zip(misread, support, strict=True)]
    for panel, title, shares, labels, colour, end in (
        (right, "read correctly", recalls, [f"{r:.2%}" for r in recalls], BLUE, 1.2),
        (wrong, "misread (enlarged)", errors, counts, VERMILLION, 1.3 * max(*errors, 0.001)),
    ):
        bars = panel.barh(digits, shares, color=colour, height=0.7)
        panel.bar_label(bars, labels, padding=4, fontsize=9)
        panel.set(title=title, xlim=(0, end), xlabel="share of the digit's images")
        panel.xaxis.set_major_locator(MaxNLocator(5))
        panel.xaxis.set_major_formatter(_PERCENT)
        panel.grid(visible=False, axis="y")
        panel.tick_params(axis="y", length=0)
    right.set(ylabel="digit", yticks=digits)
    right.invert_yaxis()
    return figure


@_styled
def draw_calibration(error: float, bins: Sequence[Bin], footer: str) -> Figure:
    """A reliability diagram above a histogram of the confidence."""
    title = f"Calibration: expected error {100 * error:.2f} percentage points"
    figure = _Figure(title, footer, (7.2, 6.6))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1])
    filled = np.array([astuple(b) for b in bins if b.images])
    low, high, images, confidence, accuracy = filled.T
    centres = (low + high) / 2
    width = 0.92 / len(bins)

    above.bar(centres, accuracy, width, color="#A6CCE4", label="accuracy of the bin")
    dots = {"color": BLACK, "ms": 6, "clip_on": False, "zorder": 3}
    above.plot(confidence, accuracy, "o", **dots, label="at its mean confidence")
    above.plot([0, 1], [0, 1], "--", color=VERMILLION, label="perfectly calibrated")
    above.set(xlim=(0, 1), ylim=(0, 1.03), ylabel="accuracy")
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    above.yaxis.set_major_formatter(_PERCENT)

    bars = below.bar(centres, images, width, color=BLUE)
    below.bar_label(bars, [f"{n:,.0f}" for n in images], padding=2, fontsize=8)
    below.set(yscale="log", ylim=(0.5, 6 * max(images)), ylabel="images (log scale)")
    below.set_xlabel(f"confidence, in {len(bins)} bins")
    below.yaxis.set_major_formatter("{x:,.0f}")
    below.yaxis.set_minor_locator(NullLocator())
    below.xaxis.set_major_formatter(_PERCENT)
    return figure


@_styled
def draw_tiles(weights: NDArray[np.float32], footer: str) -> Figure:
    """The first neurons' weights (neurons, 784) as tiles, all on one scale symmetric about 0."""
    shown = weights[:MOST_TILES]
    columns = min(16, len(shown))
    lines = math.ceil(len(shown) / columns)
    sheet = np.full((29 * lines + 1, 29 * columns + 1), np.nan)  # a line of NaN between tiles
    for k, tile in enumerate(shown.reshape(-1, 28, 28)):
        y, x = 29 * (k // columns) + 1, 29 * (k % columns) + 1
        sheet[y : y + 28, x : x + 28] = tile
    # A few outliers would leave all other weights without colour.
    limit = float(np.quantile(np.abs(shown), 0.995)) or 1.0

    of = "" if len(shown) == len(weights) else f": the first {len(shown)} of {len(weights):,}"
    height = max(7.6 * lines / columns, 1.4)
    figure = _Figure(f"First-layer weights{of}", footer, (9, 1.2 + height))
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="#808080")
    image = axes.imshow(sheet, cmap=colours, vmin=-limit, vmax=limit)
    axes.set_axis_off()
    bar = figure.colorbar(image, extend="both", shrink=0.9, aspect=30, label="weight of the pixel")
    bar.outline.set_visible(False)
    return figure


class _Figure(Figure):
    """A figure with a title and a footer that a notebook shows, without pyplot."""

    def __init__(self, title: str, footer: str, size: tuple[float, float]) -> None:
        super().__init__(figsize=size)
        self.suptitle(title, x=0.02, ha="left")
        self.supxlabel(footer, x=0.02, ha="left", color=GREY)

    def _repr_png_(self) -> bytes:
        return render(self, "png")
