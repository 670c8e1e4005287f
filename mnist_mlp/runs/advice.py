"""Warnings that training learns nothing, with the likely cause. Each is given once in a run.

The rules were chosen on 70 settings for scikit-learn's digits, of which 34 read most digits after
20 epochs; tests/runs/test_advice.py has most of them.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mnist_mlp.config import Config
from mnist_mlp.constants import CLASSES, show_loss
from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.train import EpochResult

GUESSING = math.log(CLASSES)  # the loss of ten equal guesses, in nats
MARGIN = 0.02  # a loss less than this below `GUESSING` is no better
UNMOVED = 1e-5  # losses that differ by less tell of rounding
IMAGES = 1_000  # training images that are looked at for the cause
ADAM_RATE = 0.1  # from here on Adam and AdamW end in dead neurons, but for batch normalisation


def advise(
    config: Config, rows: Sequence[EpochResult], model: nn.Sequential, pixels: Tensor
) -> str | None:
    """A warning after the newest of a run's rows, about the model on training pixels (N, 784).

    Before the first update, settings do not work together. Later, either the loss is no better than
    guessing, and will not be by the last epoch at its pace; or it is over half of that, and for two
    epochs has been above its lowest.
    """
    losses, epoch, how = [row.train_loss for row in rows], rows[-1].epoch, config.optimizer
    adam_is_fast = how.name != "sgd" and how.learning_rate >= ADAM_RATE
    if epoch == 0 and adam_is_fast and not config.model.batch_norm:
        rate = f"optimizer.learning_rate={how.learning_rate:g}"
        return f"{rate} is large for {how.name}, for which 0.0001 to 0.01 is usual"
    if epoch < 2 or len(rows) <= epoch:  # resumed without earlier rows
        return None
    loss, pace = losses[-1], min(losses[0], losses[-2]) - losses[-1]
    at_the_end = loss - pace * (config.train.epochs - epoch)
    if loss > GUESSING - MARGIN and at_the_end > GUESSING - MARGIN:
        seen = f"no better than guessing (ln 10 = {GUESSING:.4f})"
    elif epoch > 3 and loss > GUESSING / 2 and min(losses[-2:]) > min(losses[1:-2]):
        seen = f"above the {min(losses[1:-2]):.4f} of an earlier epoch"
    else:
        return None
    what = "; ".join([seen, *_symptoms(model, pixels[:IMAGES])])
    return f"after epoch {epoch} the loss is {show_loss(loss)}, {what}; {_cause(config, losses)}"


@torch.no_grad()
def _symptoms(model: nn.Sequential, pixels: Tensor) -> Iterator[str]:
    """Layers in which most neurons fire for no image, and that all images are read alike."""
    a = to_images(pixels)
    for name, module in model.eval().named_children():
        a = module(a)
        dead = int((a <= 0).all(dim=0).sum())
        if isinstance(module, nn.ReLU) and dead > a.shape[1] / 2:
            yield f"{dead} of {a.shape[1]} neurons of {name} fire for no image"
    if len(digits := set(a.argmax(dim=1).tolist())) == 1:
        yield f"every image is read as {digits.pop()}"


def _cause(config: Config, losses: Sequence[float]) -> str:
    how = config.optimizer
    rate = f"optimizer.learning_rate={how.learning_rate:g}"
    if config.model.activation == "sigmoid" and losses[1] < losses[0]:
        return f"sigmoid passes small gradients on: {rate} is probably too small for it"
    falls = losses[-1] < losses[-2] <= losses[0] and losses[1] <= losses[0]
    if falls or max(losses) - min(losses) < UNMOVED:
        return f"{rate} is probably too small"
    if how.weight_decay >= 0.5 and losses[1] < 2 * GUESSING:
        return f"optimizer.weight_decay={how.weight_decay:g} is probably too large"
    return f"{rate} is probably too large for {how.name}"
