"""TensorBoard: a run's metrics as scalars, and two pictures at its end."""

import copy
import io
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import asdict

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from mnist_mlp.config import Config
from mnist_mlp.errors import UsageError
from mnist_mlp.runs.environment import load_config_dataset
from mnist_mlp.runs.training import RunEvent, RunResult, RunStart
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.figures import draw_confusion_matrix, draw_tiles, render


def with_board(events: Iterator[RunEvent]) -> Generator[RunEvent, None, None]:
    """Pass a run's events on, and write them to the run's folder `tensorboard`.

    A resumed run may repeat epochs that an earlier file in the folder holds. TensorBoard hides the
    earlier points from the first new row's epoch on. A UsageError where tensorboard is missing.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UsageError(
            "--tensorboard: tensorboard is missing: pip install 'mnist-mlp[tensorboard]'"
        ) from None
    writer = None
    with ExitStack() as stack:
        for event in events:
            if isinstance(event, RunStart):
                run_dir, config = event.run_dir, event.config
            elif isinstance(event, EpochResult) and run_dir:
                epoch, folder = event.epoch, run_dir / "tensorboard"
                writer = writer or stack.enter_context(SummaryWriter(folder, purge_step=epoch))
                for name, value in asdict(event).items():
                    split, _, quantity = name.rpartition("_")
                    if value is not None and quantity in ("loss", "accuracy"):
                        writer.add_scalar(f"{quantity}/{split}", value, epoch)
                writer.add_scalar("learning_rate", event.learning_rate, epoch)
                writer.flush()  # so that TensorBoard shows the run while it trains
            elif isinstance(event, RunResult) and writer and run_dir:
                for tag, figure in _figures(event, config, f"{run_dir.name} · {event.dataset}"):
                    # Not add_figure, which imports pyplot and so chooses a window system.
                    image = Image.open(io.BytesIO(render(figure, "png"))).convert("RGB")
                    writer.add_image(tag, np.asarray(image), epoch, dataformats="HWC")
            yield event


def _figures(result: RunResult, config: Config, footer: str) -> Iterator[tuple[str, Figure]]:
    """The weights of the first layer, and the confusion matrix of the test set, if it is used."""
    model = copy.deepcopy(result.model).cpu()
    weights = model.get_parameter("layer1.weight").detach().numpy()
    yield "layer1/weights", draw_tiles(weights, footer)
    if config.data.test:
        matrix = evaluate_model(model, *load_config_dataset(config).test).confusion_matrix
        yield "confusion_matrix", draw_confusion_matrix(matrix, footer)
