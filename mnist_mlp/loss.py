"""Steps 4-5: p = softmax(logits), loss = −log p[label].

Both go through log p, computed with the largest logit subtracted first, so that no exponential
overflows and no logarithm is taken of 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax(logits: Tensor) -> Tensor:
    """Probabilities (B, C) of logits (B, C): each in [0, 1], each row summing to 1."""
    return torch.softmax(logits, dim=-1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the batch of −log p[label], in nats.

    Args:
        logits: (B, C).
        labels: (B,), whole numbers below C.
    """
    return F.cross_entropy(logits, labels)
