"""A network's predictions on a split: their probabilities, the mistakes, the calibration."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.evaluate import CHUNK
from mnist_mlp.steps.loss import softmax


@torch.no_grad()
def predict_probabilities(model: nn.Module, pixels: Tensor) -> NDArray[np.float64]:
    """The softmax (N, C), in float64, of a network's logits for pixels (N, D)."""
    logits = [model(to_images(chunk)) for chunk in torch.split(pixels, CHUNK)]
    return softmax(torch.cat(logits).double()).numpy()


@dataclass(frozen=True)
class Mistake:
    """A misread image: its index in the split, and the probability of the wrong guess."""

    index: int
    label: int
    guess: int
    confidence: float


def find_mistakes(p: NDArray[np.float64], labels: NDArray[np.int64]) -> list[Mistake]:
    """The misread images, most confident first, from probabilities (N, C) and labels (N,)."""
    guesses, confidences = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(guesses != labels)
    order = wrong[np.argsort(-confidences[wrong], kind="stable")]
    return [Mistake(int(k), int(labels[k]), int(guesses[k]), float(confidences[k])) for k in order]


@dataclass(frozen=True)
class Bin:
    """The images with a confidence in (low, high]; an empty bin has no means."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


def calibrate(
    confidences: NDArray[np.float64], right: NDArray[np.bool_], bins: int = 15
) -> tuple[float, list[Bin]]:
    """Compare the confidence of each guess (N,) with whether it is right (N,).

    Returns the expected calibration error, from 0 to 1, and the bins. The error is Σ (images in the
    bin / all images) × |accuracy − mean confidence|, over bins of equal width (Guo et al., On
    Calibration of Modern Neural Networks, ICML 2017, equation 3, with 15 bins).
    """
    place = np.searchsorted(np.arange(bins + 1) / bins, confidences, side="left") - 1
    images = np.bincount(place, minlength=bins)
    confident = np.bincount(place, confidences, minlength=bins)  # sums, as is the next
    correct = np.bincount(place, right, minlength=bins)
    columns = (images.tolist(), confident.tolist(), correct.tolist())
    return float(np.abs(correct - confident).sum() / len(right)), [
        Bin(m / bins, (m + 1) / bins, n, p / n if n else None, r / n if n else None)
        for m, (n, p, r) in enumerate(zip(*columns, strict=True))
    ]
