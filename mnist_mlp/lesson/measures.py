"""Measurements that decide the lesson's claims."""

import math
from collections.abc import Callable
from itertools import accumulate, repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_mlp.steps.backprop import Backward
from mnist_mlp.steps.data import Dataset, to_images
from mnist_mlp.steps.loss import cross_entropy
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import fit, train


def intensity_range(pixels: Tensor) -> tuple[float, float]:
    """The lowest and the highest input that a network gets from pixels (N, 784)."""
    low, high = to_images(torch.stack(pixels.aminmax())).tolist()
    return low, high


def sum_error(p: Tensor) -> float:
    """The largest distance of a row's sum from 1; infinite if a value is outside [0, 1]."""
    inside = bool(((p >= 0) & (p <= 1)).all())
    return float((p.sum(dim=-1) - 1).abs().max()) if inside else math.inf


def gradients(
    model: nn.Sequential, path: Callable[[nn.Sequential], Backward], images: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """The gradient of each parameter by `chain_rule` or `autograd`; also left in `.grad`."""
    path(model)(images, labels)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def never_learned(data: Dataset, batch_size: int = 64) -> tuple[int, int, int]:
    """Train the lesson's network for an epoch, with PyTorch alone, and look at every gradient.

    Returns the number of weights whose gradient was exactly 0 at every update; the number of those
    whose pixel is 0 in every image and whose value did not change; the number of updates.
    """
    model = build_mlp(seed=0)
    weights = [module.weight for module in model if isinstance(module, nn.Linear)]
    initial = weights[0].detach().clone()
    learned = [torch.zeros_like(W, dtype=torch.bool) for W in weights]
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [torch.split(tensor, batch_size) for tensor in (data.train.images, data.train.labels)]
    for images, labels in zip(*batches, strict=True):
        sgd.zero_grad()
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        for W, mask in zip(weights, learned, strict=True):
            mask |= W.grad != 0
        sgd.step()
    blank = data.train.pixels.amax(dim=0) == 0
    unchanged = (weights[0] == initial) & ~learned[0] & blank
    never = sum(int((~mask).sum()) for mask in learned)
    return never, int(unchanged.sum()), len(batches[0])


def compare_compiled_updates(data: Dataset) -> float | None:
    """The largest relative difference of a tensor trained with and without the compiled loop.

    None where Numba is missing or broken: training does without the loop there.
    """
    try:
        from mnist_mlp.updates.compiled import CompiledUpdater
        from mnist_mlp.updates.loop import Sgd
    except Exception:
        return None
    compiled, usual = build_mlp(seed=0), build_mlp(seed=0)
    updater = CompiledUpdater(compiled, Sgd(), data.train, 3)
    list(train(updater, data, epochs=2, learning_rates=repeat(0.01)))
    sgd = build_optimizer(usual.parameters(), "sgd", learning_rate=0.01)
    list(fit(usual, data, sgd, epochs=2, batch_size=3))
    return max(map(relative_difference, compiled.parameters(), usual.parameters()))


@torch.no_grad()
def finite_differences(
    model: nn.Sequential, name: str, gradient: Tensor, images: Tensor, labels: Tensor, most: int
) -> tuple[float, int, int]:
    """Compare the gradient of a named parameter with (L(w + h) − L(w − h)) / 2h; h is 1e-5.

    At most `most` of its entries are tried, evenly spaced. If a ReLU switches on or off between
    w − h and w + h for any example, the loss has a kink there and no single slope: that entry is
    counted, but not compared. The model and the images (B, D) are in float64.

    Returns the largest difference as a fraction of the gradient's largest entry; the number of
    entries compared; the number at a kink.
    """
    parameter, gradient = model.get_parameter(name).view(-1), gradient.view(-1)
    h, kinks, differences = 1e-5, 0, list[float]()
    for position in range(0, len(parameter), math.ceil(len(parameter) / most)):
        value = parameter[position].item()
        losses, active = [], []
        for w in (value + h, value - h):
            parameter[position] = w
            *inputs, logits = accumulate(model, lambda a, module: module(a), initial=images)
            losses.append(cross_entropy(logits, labels).item())
            active.append(torch.cat(inputs, dim=1) > 0)
        parameter[position] = value
        if torch.equal(*active):
            slope = (losses[0] - losses[1]) / (2 * h)
            differences.append(abs(slope - gradient[position].item()))
        else:
            kinks += 1
    worst = max(differences, default=0.0) / gradient.abs().max().item()
    return worst, len(differences), kinks


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a fraction of b's largest entry."""
    return ((a - b).abs().max() / b.abs().max()).item()
