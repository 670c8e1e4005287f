"""A run as one page: its pictures, its numbers, and the lesson's checks on its own network.

Several runs are one page too. A page is a single file: it has no script and loads nothing.
"""

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, fields
from html import escape
from pathlib import Path
from string import Template

from mnist_mlp.constants import show_loss
from mnist_mlp.errors import UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.lesson.table import Claim
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.directory import read_rows
from mnist_mlp.runs.environment import cpu_threads, load_run_dataset
from mnist_mlp.runs.listing import differences, find_runs
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.checks import check_network
from mnist_mlp.views.figures import draw_comparison
from mnist_mlp.views.plots import Picture, draw_pictures
from mnist_mlp.views.tables import describe_runs
from mnist_mlp.yaml_lines import dump_yaml

MAX_SVG_BYTES = 200_000
"""A picture whose SVG is larger is put into the page as PNG."""
NO_METRICS = "<p>No readable metrics.jsonl lies beside this checkpoint{}.</p>"


@cpu_threads(1)  # matrix products are small here
def draw_report(
    checkpoint: Checkpoint, data: Dataset | None = None, folder: Path | None = None
) -> Path:
    """Draw the pictures of a checkpoint into `plots/`, and write the page `report.html`.

    The folder is by default the run directory, or a new one for a checkpoint outside any. The data
    is the data set of the config, on the CPU; by default it is loaded from where the run had it.
    The checkpoint's file is read again. After an OSError each file that was written is complete.
    """
    data = data or load_run_dataset(checkpoint.config)
    folder = folder or checkpoint.run_dir or Path(f"{checkpoint.path.stem}-report")
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    rows = checkpoint.rows()
    pictures = [] if rows else [NO_METRICS.format(": no curves")]
    for picture in draw_pictures(checkpoint, data, rows):
        contents = picture.files()
        for name, content in contents.items():
            write_atomically(folder / "plots" / name, content)
        pictures.append(html_figure(picture, contents))
    test = evaluate_model(checkpoint.model, *data.test)
    claims = list(check_network(checkpoint, data, rows, test))
    verdicts = [claim.verdict for claim in claims]
    model, seconds = checkpoint.config.model, checkpoint.progress.get("seconds")
    body = fill_template(
        "report",
        accuracy=f"{test.accuracy:.2%}",
        loss=show_loss(test.loss),
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
        checks=html_table(describe_claims(claims), "checks"),
        metrics=html_table(_describe_metrics(rows)) if rows else NO_METRICS.format(""),
        config=escape(checkpoint.config.shareable().to_yaml()),
        environment=escape(dump_yaml(checkpoint.environment)),
    )
    return write_page(folder / "report.html", escape(checkpoint.run_name), body)


def compare_runs(targets: Sequence[str | Path], folder: Path | None = None) -> Path:
    """Write the page comparison.html about some runs, or folders of runs.

    Raises:
        UsageError: There is no run of that name, or no epoch to show.
        OSError: The page cannot be written.
    """
    runs = find_runs([Path(target) for target in targets])
    curves = {str(run.path): rows for run in runs if (rows := read_rows(run.path, run.epochs))}
    if not curves:
        raise UsageError(f"{', '.join(map(str, targets))}: no epochs to compare yet")
    picture = Picture(
        stem="comparison",
        shows=f"The loss and the accuracy of {len(curves)} runs by epoch.",
        caption="The loss is the training loss, of each mini-batch just before its own update. The "
        "accuracy is that on the validation split, or without one on the test set.",
        figure=draw_comparison(curves, f"{len(curves)} runs"),
        numbers="",
    )
    body = fill_template(
        "comparison",
        picture=html_figure(picture, picture.files()),
        table=html_table(describe_runs(runs, list(differences(runs)))),
    )
    folder = folder or Path()
    folder.mkdir(parents=True, exist_ok=True)
    return write_page(folder / "comparison.html", f"{len(curves)} runs compared", body)


def write_page(path: Path, name: str, body: str) -> Path:
    """Write a whole page: its name, which is its title too, and its body, both as HTML."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    page = fill_template("page", name=name, style=style, body=body)
    write_atomically(path, page.encode(errors="replace"))
    return path


def fill_template(template: str, **parts: object) -> str:
    """A template of this folder with its parts filled in."""
    text = Path(__file__).with_name(f"{template}.html").read_text(encoding="utf-8")
    return Template(text).substitute(parts)


def html_figure(picture: Picture, contents: Mapping[str, bytes]) -> str:
    """A picture with its caption, as SVG, or as PNG where that is much smaller."""
    svg, png = contents[f"{picture.stem}.svg"], contents[f"{picture.stem}.png"]
    kind, content = ("svg+xml", svg) if len(svg) < MAX_SVG_BYTES else ("png", png)
    width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
    return fill_template(
        "figure",
        title=escape(picture.figure.get_suptitle()),
        shows=escape(picture.shows),
        caption=escape(picture.caption),
        width=width,
        height=height,
        source=f"data:image/{kind};base64,{base64.b64encode(content).decode()}",
    )


def html_table(rows: Iterable[Iterable[object]], kind: str = "numbers") -> str:
    """An HTML table. The first row has the columns' headings, the first cell of a row its own."""
    names, *lines = ([escape(str(cell)) for cell in row] for row in rows)
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "\n".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>'
        for first, *rest in lines
    )
    return fill_template("table", kind=kind, head=head, body=body)


def describe_claims(claims: Iterable[Claim]) -> Iterator[Sequence[object]]:
    """Claims as a table."""
    yield "step", "claim", "verdict", "expected", "computed"
    words = {"differs": "DOES NOT HOLD", "rule": "not compared"}
    for claim in claims:
        verdict = words.get(claim.verdict, claim.verdict)
        yield claim.step, claim.claim, verdict, claim.lesson, claim.computed


def _describe_metrics(rows: Iterable[EpochResult]) -> Iterator[Sequence[str]]:
    names = [field.name for field in fields(EpochResult)]
    yield [name.replace("_", " ") for name in names]
    endings = {"loss": ".4f", "accuracy": ".2%", "rate": ".4g", "seconds": ".1f"}
    formats = [endings.get(name.rpartition("_")[2], ",") for name in names]
    for row in rows:
        values = zip(astuple(row), formats, strict=True)
        yield ["–" if value is None else format(value, form) for value, form in values]
