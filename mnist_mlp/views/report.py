"""A run as one page: its pictures, its numbers, and the lesson's checks on its own network.

Several runs are one page too. A page is a single file: it has no script and loads nothing.
"""

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_mlp.errors import UsageError
from mnist_mlp.files import write_atomically
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.directory import read_rows
from mnist_mlp.runs.environment import cpu_threads, load_run_dataset
from mnist_mlp.runs.listing import differences, find_runs
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.views.checks import check_network
from mnist_mlp.views.figures import draw_comparison
from mnist_mlp.views.pages import write_page
from mnist_mlp.views.plots import Picture, draw_pictures
from mnist_mlp.views.tables import describe_metrics, describe_runs
from mnist_mlp.yaml_lines import dump_yaml

MAX_SVG_BYTES = 200_000  # a picture whose SVG is larger is put into the page as PNG


@cpu_threads(1)  # matrix products are small here
def draw_report(
    checkpoint: Checkpoint, data: Dataset | None = None, folder: str | Path | None = None
) -> Path:
    """Draw the pictures of a checkpoint into `plots/`, and write the page `report.html`.

    The folder is by default the run directory, or a new one for a checkpoint outside any. The data
    is the data set of the config, on the CPU; by default it is loaded from where the run had it.
    The checkpoint's file is read again. After an OSError each file that was written is complete.
    """
    data = data or load_run_dataset(checkpoint.config)
    folder = Path(folder or checkpoint.run_dir or f"{checkpoint.path.stem}-report")
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    rows, pictures = checkpoint.rows(), []
    for picture in draw_pictures(checkpoint, data, rows):
        contents = picture.files()
        for name, content in contents.items():
            write_atomically(folder / "plots" / name, content)
        pictures.append((picture, data_url(picture, contents)))
    test = evaluate_model(checkpoint.model, *data.test)
    return write_page(
        folder / "report.html",
        "report.html",
        checkpoint=checkpoint,
        data_set=data.name,
        test=test,
        layers=count_parameters(checkpoint.model),
        pictures=pictures,
        claims=list(check_network(checkpoint, data, rows, test)),
        rows=describe_metrics(rows) if rows else [],
        environment=dump_yaml(checkpoint.environment),
    )


def compare_runs(targets: Sequence[str | Path], folder: str | Path = "") -> Path:
    """Write the page comparison.html about some runs, or folders of runs.

    A UsageError where there is no run of that name, or no epoch to show.
    """
    runs = find_runs([Path(target) for target in targets])
    curves = {  # matplotlib draws no name that is not UTF-8
        os.fsencode(run.path).decode(errors="replace"): rows
        for run in runs
        if (rows := read_rows(run.path, run.epochs))
    }
    if not curves:
        raise UsageError(f"{', '.join(map(str, targets))}: no epochs to compare yet")
    picture = Picture(
        stem="comparison",
        shows=f"The loss and the accuracy of {len(curves)} runs by epoch.",
        figure=draw_comparison(curves, f"{len(curves)} runs"),
        numbers="",
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return write_page(
        folder / "comparison.html",
        "comparison.html",
        count=len(curves),
        picture=picture,
        source=data_url(picture, picture.files()),
        rows=describe_runs(runs, list(differences(runs))),
    )


def data_url(picture: Picture, contents: Mapping[str, bytes]) -> str:
    """A picture as a data: URL: SVG, or PNG where the SVG is larger than `MAX_SVG_BYTES`."""
    svg, png = contents[f"{picture.stem}.svg"], contents[f"{picture.stem}.png"]
    kind, content = ("svg+xml", svg) if len(svg) < MAX_SVG_BYTES else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
