"""Training from Python, and how results look in a notebook."""

import base64
import io
from functools import singledispatch
from html import escape
from pathlib import Path

from rich.console import Console

from mnist_mlp.config import Config
from mnist_mlp.lesson.table import Claims
from mnist_mlp.lesson.trace import Trace
from mnist_mlp.pictures.predict import Prediction, to_png
from mnist_mlp.pictures.preprocess import Pixels
from mnist_mlp.runs.listing import Runs
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps.evaluate import Evaluation
from mnist_mlp.views import figures, run_tables, terminal
from mnist_mlp.views.plots import Picture
from mnist_mlp.views.report import format_claim, html_table


def train_model(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    init_from: str | Path | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Train as a config says and record it in a new or empty folder, by default `runs/<name>-NNN`.

    With `init_from`, a run or checkpoint, the network begins with its weights. `progress` prints
    each epoch and a live line; by default it does in a notebook only.

    Raises:
        MnistMlpError: See `mnist_mlp.errors`.
        OSError: The run directory cannot be written to.
    """
    events = run_events(config, run_dir, init_from=init_from)
    if Console().is_jupyter if progress is None else progress:
        with terminal.open_console(json_=False, quiet=False) as console:
            return terminal.show_run(console, events)
    *_, result = events
    assert isinstance(result, RunResult)  # noqa: S101 - the last event always is
    return result


@singledispatch
def to_html(shown: object) -> str:
    """A result as HTML: what its `_repr_html_` returns."""
    raise TypeError(f"no HTML for {type(shown).__name__}")


@to_html.register
def _(evaluation: Evaluation) -> str:
    scores, matrix = terminal.score_rows(evaluation), terminal.confusion_rows(evaluation)
    summary = escape(terminal.summarise_evaluation(evaluation))
    return f"<p>{summary}</p>{html_table(scores)}<p>{terminal.MATRIX}</p>{html_table(matrix)}"


@to_html.register
def _(claims: Claims) -> str:
    return html_table(map(format_claim, claims))


@to_html.register
def _(runs: Runs) -> str:
    rows = map(run_tables.describe_run, runs)
    return html_table(rows) if runs else f"<p>{run_tables.NO_RUNS}</p>"


@to_html.register
def _(result: RunResult) -> str:
    return html_table([{"": key, "value": value} for key, value in result.to_json().items()])


@to_html.register
def _(prediction: Prediction) -> str:
    rows = [
        {"digit": digit, "probability": f"{p:.2%}", "": terminal.bar(p)}
        for digit, p in enumerate(prediction.probabilities)
    ]
    return _pixels(prediction.pixels) + html_table(rows)


@to_html.register
def _(trace: Trace) -> str:
    text = io.StringIO()
    console = Console(file=text, width=100, highlight=False, markup=False, force_jupyter=False)
    terminal.show_trace(console, trace)
    pixels = (trace.input * 255).byte().view(28, 28).numpy()
    return f"{_pixels(pixels)}<pre>{escape(text.getvalue())}</pre>"


@to_html.register
def _(picture: Picture) -> str:
    alt = f"{picture.figure.get_suptitle()}. {picture.shows}"
    return _img(figures.render(picture.figure, "png"), alt, 'width="700"')


def _pixels(pixels: Pixels) -> str:
    """The network's input (28, 28), enlarged."""
    style = 'width="140" style="image-rendering: pixelated"'
    return _img(to_png(pixels), "the network's input", style)


def _img(png: bytes, alt: str, style: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" {style} src="data:image/png;base64,{data}">'
