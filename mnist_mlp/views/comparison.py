"""Several runs on one page: their curves over each other, and where their configs differ."""

from collections.abc import Sequence
from pathlib import Path

from mnist_mlp.errors import UsageError
from mnist_mlp.runs.directory import read_rows
from mnist_mlp.runs.listing import differences, find_runs
from mnist_mlp.views.figures import draw_comparison
from mnist_mlp.views.plots import Picture
from mnist_mlp.views.report import fill_template, html_figure, html_table, write_page
from mnist_mlp.views.tables import describe_runs


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
