"""Steps 4-5: p = softmax(logits), loss = −log p[label].

PyTorch subtracts the largest logit before it takes exponentials, so that none overflows. The loss
is computed from log p directly, so that no logarithm of 0 is taken.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def softmax(logits: Tensor, dim: int = -1) -> Tensor:
    """Probabilities of logits (B, C): each in [0, 1], with sum 1 along dim."""
    return torch.softmax(logits, dim)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over the batch of −log p[label], in nats, for logits (B, C) and labels (B,)."""
    return F.cross_entropy(logits, labels)


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """−log p[label] of each example (B,), in nats, for logits (B, C) and labels (B,).

    An example's loss is the same, bit for bit, whatever other examples are with it: what a run
    reports must not depend on when it reports, or on where it was resumed.
    """
    # PyTorch rounds examples that fill a vector register differently from those left over.
    padding = -len(labels) % 16  # float32 numbers in the widest register, AVX-512's
    logits, targets = F.pad(logits, (0, 0, 0, padding)), F.pad(labels, (0, padding))
    # As one image of B pixels with C channels PyTorch computes the same numbers six times faster.
    losses = F.cross_entropy(logits.t()[None], targets[None], reduction="none")[0]
    return losses[: len(labels)]
