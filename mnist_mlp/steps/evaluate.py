"""Step 8, its last line: loss and accuracy, above all on examples that are not learned from."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.loss import cross_entropies

CHUNK = 2_000  # images in one forward pass: limits memory, and changes results only by rounding


@dataclass(frozen=True)
class DigitScores:
    """How well one digit is recognised. A ratio is 0 where its denominator is 0."""

    digit: int
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Evaluation(NotebookHtml):
    """Mean loss (nats) and accuracy over all examples; confusion matrix, rows true labels."""

    examples: int
    loss: float
    accuracy: float
    confusion_matrix: list[list[int]]

    @property
    def per_class(self) -> list[DigitScores]:
        """Precision, recall, F1 and support of each digit, from the confusion matrix."""
        scores = []
        for digit, row in enumerate(self.confusion_matrix):
            right, support = row[digit], sum(row)
            predicted = sum(other[digit] for other in self.confusion_matrix)
            parts = ((right, predicted), (right, support), (2 * right, predicted + support))
            precision, recall, f1 = (part / whole if whole else 0.0 for part, whole in parts)
            scores.append(DigitScores(digit, precision, recall, f1, support))
        return scores


@torch.no_grad()
def evaluate_model(model: nn.Module, pixels: Tensor, labels: Tensor) -> Evaluation:
    """Evaluate a model on examples: pixels (N, D), uint8 or images in [0, 1], and labels (N,)."""
    training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=labels.device)
    cells = []
    for x, y in zip(torch.split(pixels, CHUNK), torch.split(labels, CHUNK), strict=True):
        logits = model(to_images(x))  # (B, C)
        loss += cross_entropies(logits, y).sum(dtype=torch.float64)
        cells.append(y * logits.shape[1] + logits.argmax(dim=1))  # the cell's row-major index
    model.train(training)
    classes = logits.shape[1]
    matrix = torch.cat(cells).bincount(minlength=classes**2).view(classes, classes)
    return Evaluation(
        examples=len(labels),
        loss=loss.item() / len(labels),
        accuracy=matrix.trace().item() / len(labels),
        confusion_matrix=matrix.tolist(),
    )
