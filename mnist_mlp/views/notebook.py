"""Training from Python, and how results look in a notebook."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mnist_mlp.config import Config
from mnist_mlp.lesson.claims import Claims
from mnist_mlp.lesson.trace import Trace
from mnist_mlp.pictures.predict import Prediction, to_png
from mnist_mlp.pictures.preprocess import Pixels
from mnist_mlp.runs.listing import Runs
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.steps.evaluate import Evaluation
from mnist_mlp.views import figures, tables, terminal
from mnist_mlp.views.pages import fill_template
from mnist_mlp.views.plots import Picture


def train_model(
    config: Config,
    run_dir: str | Path | None = None,
    *,
    init_from: str | Path | None = None,
    progress: bool | None = None,
) -> RunResult:
    """Train as a config says and record it in a new or empty folder, by default `runs/<name>-NNN`.

    With `init_from`, a run or checkpoint, the network begins with its weights. `progress` prints
    each epoch and a live line; by default it does in a notebook only. Errors are those of
    `mnist_mlp.errors`, and an OSError where the run directory cannot be written to.
    """
    events = run_events(config, run_dir, init_from=init_from)
    if terminal.Output().is_jupyter if progress is None else progress:
        with terminal.open_console(json_=False, quiet=False) as console:
            return terminal.show_run(console, events)
    return terminal.show_run(terminal.Output(quiet=True), events)


def to_html(shown: object) -> str:
    """A result as HTML: what its `_repr_html_` returns."""
    match shown:
        case Evaluation():
            parts = tables.describe_evaluation(shown)
            return "".join(f"<p>{escape(line)}</p>{_table(*rows)}" for line, rows in parts)
        case Claims():
            return fill_template("claims.html", claims=shown)
        case Runs():
            if not shown:
                return f"<p>{tables.NO_RUNS}</p>"
            return _table(*tables.describe_runs(shown))
        case RunResult():
            return _table(("", "value"), *shown.to_json().items())
        case Prediction():
            bars = ((k, f"{p:.2%}", terminal.bar(p)) for k, p in enumerate(shown.probabilities))
            return _pixels(shown.pixels) + _table(("digit", "probability", ""), *bars)
        case Trace():
            text = io.StringIO()
            terminal.show_trace(terminal.Output(file=text, width=100, force_jupyter=False), shown)
            pixels = (shown.input * 255).byte().view(28, 28).numpy()
            return f"{_pixels(pixels)}<pre>{escape(text.getvalue())}</pre>"
        case Picture():
            alt = f"{shown.figure.get_suptitle()}. {shown.shows}"
            return _img(figures.render(shown.figure, "png"), alt, 'width="700"')
        case _:
            raise TypeError(f"no HTML for {type(shown).__name__}")


def _table(*rows: Sequence[object]) -> str:
    """An HTML table; the first row has the columns' headings."""
    return fill_template("table.html", rows=rows)


def _pixels(pixels: Pixels) -> str:
    """The network's input (28, 28), enlarged."""
    style = 'width="140" style="image-rendering: pixelated"'
    return _img(to_png(pixels), "the network's input", style)


def _img(png: bytes, alt: str, style: str) -> str:
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" {style} src="data:image/png;base64,{data}">'
