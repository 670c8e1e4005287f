"""TensorBoard: a run's numbers as scalars, row by row, and at its end two pictures."""

import io
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from PIL import Image
from torch import nn

from mnist_mlp.errors import UsageError
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.training import RunEvent, RunResult, RunStart
from mnist_mlp.steps.data import Split
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.plots import draw_confusion_matrix, draw_tiles, first_layer_weights, render

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def with_board(events: Iterator[RunEvent]) -> Generator[RunEvent, None, None]:
    """A run's events as they come, told to TensorBoard too, in the run's folder `tensorboard`.

    Raises:
        UsageError: The package tensorboard is missing; the run has not begun.
    """
    _writer()
    with ExitStack() as stack:
        board = None
        for event in events:
            if isinstance(event, RunStart) and event.run_dir:
                config = event.config
                board = stack.enter_context(Board(event.run_dir / "tensorboard"))
            elif board and isinstance(event, EpochResult):
                board.add_row(event)
            elif board and isinstance(event, RunResult) and event.run_dir:
                test = load_config_dataset(config).test
                board.add_pictures(
                    event.model.cpu(), test, f"{event.run_dir.name} · {event.dataset}"
                )
            yield event


def _writer() -> type["SummaryWriter"]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "--tensorboard: the package tensorboard is missing: "
            "pip install 'mnist-mlp[tensorboard]'"
        ) from None
    return SummaryWriter


class Board:
    """Event files for TensorBoard in a folder; to be used in a `with` statement.

    The first row decides where the events begin: what earlier files in the folder say from that
    epoch on, of the same run before it was stopped, TensorBoard hides. So a resumed run's rows may
    come from where it goes on, or all again from row 0.
    """

    def __init__(self, folder: Path) -> None:
        """Nothing is written before the first row.

        Raises:
            UsageError: The package tensorboard is missing.
        """
        self._folder, self._open = folder, _writer()
        self._writer: SummaryWriter | None = None
        self._epoch = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer:
            self._writer.close()

    def add_row(self, row: EpochResult) -> None:
        """An epoch's loss and accuracy on each split that was evaluated, and the learning rate."""
        # Purging from this step on is a note in the new file: nothing that was written is touched.
        self._writer = writer = self._writer or self._open(self._folder, purge_step=row.epoch)
        self._epoch = row.epoch
        for what in ("loss", "accuracy"):
            for split in ("train", "validation", "test"):
                value = getattr(row, f"{split}_{what}")
                if value is not None:
                    writer.add_scalar(f"{what}/{split}", value, row.epoch)
        writer.add_scalar("learning_rate", row.learning_rate, row.epoch)
        writer.flush()  # for whoever watches the run

    def add_pictures(self, model: nn.Module, test: Split, about: str) -> None:
        """The first layer's weight tiles, and the confusion matrix of the test set.

        Where no row came before there is nothing new to show, and nothing is written.

        Args:
            model: On the test set's device.
            test: What the network is judged on.
            about: The run's name and data set, for the pictures.
        """
        if not self._writer:
            return
        matrix = evaluate_model(model, *test).confusion_matrix
        for tag, figure in (
            ("layer1/weights", draw_tiles(first_layer_weights(model), about)),
            ("confusion_matrix", draw_confusion_matrix(matrix, about)),
        ):
            # Not add_figure, which goes by way of pyplot and its choice of a window system.
            picture = Image.open(io.BytesIO(render(figure, "png"))).convert("RGB")
            self._writer.add_image(tag, np.asarray(picture), self._epoch, dataformats="HWC")
