"""A run as one page: its pictures, its numbers, and the lesson's checks on its own network.

The page is a single file: it has no script and loads nothing.
"""

import base64
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

from mnist_mlp.files import write_atomically
from mnist_mlp.lesson.table import Claim
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.checks import check_network
from mnist_mlp.views.plots import Picture, draw_pictures

MAX_SVG_BYTES = 200_000
"""A picture whose SVG is larger is put into the page as PNG."""
NO_METRICS = "<p>No metrics.jsonl lies beside this checkpoint{}.</p>"


def report_on(checkpoint: Checkpoint, data: Dataset, folder: Path | None = None) -> Path:
    """Draw the pictures of a checkpoint into `plots/`, and write the page `report.html`.

    Args:
        checkpoint: Its file is read again.
        data: The data set of its config, on the CPU.
        folder: Default: the run directory, or a new folder for a checkpoint outside one.

    Raises:
        OSError: A file cannot be written; each file already written is complete.
    """
    folder = folder or checkpoint.run_dir or Path(f"{checkpoint.path.stem}-report")
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    rows = checkpoint.rows()
    pictures = [] if rows else [NO_METRICS.format(": no curves")]
    for picture in draw_pictures(checkpoint, data, rows):
        contents = picture.files()
        for name, content in contents.items():
            write_atomically(folder / "plots" / name, content)
        pictures.append(_figure(picture, contents))
    page = folder / "report.html"
    write_atomically(page, _page(checkpoint, data, rows, pictures).encode(errors="replace"))
    return page


def _page(
    checkpoint: Checkpoint, data: Dataset, rows: Sequence[EpochResult], pictures: list[str]
) -> str:
    parts = files("mnist_mlp.views")
    test = evaluate_model(checkpoint.model, *data.test)
    claims = list(check_network(checkpoint, data, rows, test))
    verdicts = [claim.verdict for claim in claims]
    model, seconds = checkpoint.config.model, checkpoint.progress.get("seconds")
    metrics = [_format_row(row) for row in rows]
    return Template((parts / "report.html").read_text(encoding="utf-8")).substitute(
        name=escape(checkpoint.run_name),
        style=(parts / "report.css").read_text(encoding="utf-8"),
        accuracy=f"{test.accuracy:.2%}",
        loss=f"{test.loss:.4f}",
        data_set=data.name,
        examples=f"{test.examples:,}",
        network=f"{'-'.join(map(str, model.layer_sizes))}, {model.activation}",
        parameters=f"{sum(layer.parameters for layer in count_parameters(checkpoint.model)):,}",
        epochs=checkpoint.epoch,
        updates=f"{checkpoint.update:,}",
        seconds="not known" if seconds is None else f"{seconds:,.1f}",
        holding=verdicts.count("holds"),
        compared=len(verdicts) - verdicts.count("rule"),
        pictures="\n".join(pictures),
        checks=_table(
            ["step", "claim", "verdict", "expected", "computed"],
            map(_format_claim, claims),
            "checks",
        ),
        metrics=_table(list(metrics[0]), (row.values() for row in metrics), "numbers")
        if metrics
        else NO_METRICS.format(""),
        config=escape(checkpoint.config.to_yaml()),
        environment=_table(["what", "value"], _flatten(checkpoint.environment)),
    )


def _figure(picture: Picture, contents: dict[str, bytes]) -> str:
    svg, png = contents[f"{picture.stem}.svg"], contents[f"{picture.stem}.png"]
    kind, content = ("svg+xml", svg) if len(svg) < MAX_SVG_BYTES else ("png", png)
    width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
    return f"""<figure>
<h3>{escape(picture.title)}</h3>
<div class="scroll picture" tabindex="0"><img width="{width}" height="{height}" \
alt="{escape(f"{picture.title}. {picture.shows}")}" \
src="data:image/{kind};base64,{base64.b64encode(content).decode()}"></div>
<figcaption>{escape(f"{picture.shows} {picture.caption}")}</figcaption>
</figure>"""


def _table(header: Sequence[str], rows: Iterable[Iterable[Any]], kind: str = "") -> str:
    """An HTML table; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _format_claim(claim: Claim) -> tuple[object, ...]:
    verdict = {"differs": "DOES NOT HOLD", "rule": "not compared"}.get(claim.verdict, claim.verdict)
    return claim.step, claim.claim, verdict, claim.lesson, claim.computed


def _format_row(row: EpochResult) -> dict[str, str]:
    """The cells of a row of metrics.jsonl, by column heading."""
    formats = {"loss": ".4f", "accuracy": ".2%", "rate": ".4g", "seconds": ".1f"}
    return {
        name.replace("_", " "): "–"
        if value is None
        else format(value, formats.get(name.rpartition("_")[2], ","))
        for name, value in asdict(row).items()
    }


def _flatten(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Keys and values, a nested dictionary's as `key.nested_key`."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{nested}", x) for nested, x in value.items())
        else:
            yield key, value
