"""Measurements that decide the lesson's claims, each on any network of `build_mlp`."""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_mlp.steps.backprop import Backward, autograd
from mnist_mlp.steps.data import Dataset, to_images
from mnist_mlp.steps.loss import cross_entropy
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer


def intensity_range(pixels: Tensor) -> tuple[float, float]:
    """The lowest and the highest input that a network gets from pixels (N, 784)."""
    low, high = to_images(torch.stack(pixels.aminmax())).tolist()
    return low, high


def merge_layers(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    """The single layer, W (C, D) and b (C,), that a stack of linear layers is equal to."""
    first, *others = [module for module in model if isinstance(module, nn.Linear)]
    W, b = first.weight.detach(), first.bias.detach()
    for layer in others:
        W, b = layer.weight.detach() @ W, layer.weight.detach() @ b + layer.bias.detach()
    return W, b


@torch.no_grad()
def compare_with_merged(model: nn.Sequential, images: Tensor) -> tuple[float, float]:
    """How far logits are from those of the merged layers, as fractions of the largest.

    Args:
        model: From `build_mlp`, in float64.
        images: (B, D), in float64.

    Returns:
        The difference of the same network without activations, and that of the network itself.
    """
    linear = [module for module in model if isinstance(module, nn.Linear)]
    sizes = [linear[0].in_features, *(layer.out_features for layer in linear)]
    stack = build_mlp(sizes, "identity").double()
    stack.load_state_dict(model.state_dict())
    W, b = merge_layers(model)
    merged = images @ W.T + b
    return relative_difference(stack(images), merged), relative_difference(model(images), merged)


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


def take_small_step(
    model: nn.Sequential, images: Tensor, labels: Tensor, fraction: float
) -> tuple[float, float, float]:
    """Take one SGD step that to first order reduces the loss by a fraction of itself.

    The step is taken on a copy of the model.

    Returns:
        The loss before and after, and the learning rate.
    """
    model = copy.deepcopy(model)
    squared = sum(
        g.square().sum().item() for g in gradients(model, autograd, images, labels).values()
    )
    with torch.no_grad():
        before = cross_entropy(model(images), labels).item()
        learning_rate = fraction * before / squared if squared else 0.0
        build_optimizer(model.parameters(), "sgd", learning_rate).step()
        after = cross_entropy(model(images), labels).item()
    return before, after, learning_rate


def never_learned(data: Dataset, batch_size: int = 64) -> tuple[int, int, int]:
    """Train the lesson's network for an epoch, with PyTorch alone, and look at every gradient.

    Returns:
        The number of weights whose gradient was exactly 0 at every update; the number of those
        whose pixel is 0 in every image and whose value did not change; the number of updates.
    """
    model = build_mlp(seed=0)
    W1 = model.get_parameter("layer1.weight")
    initial = W1.detach().clone()
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    learned = [torch.zeros_like(p, dtype=torch.bool) for p in weights]
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = data.train.images, data.train.labels
    batches = torch.split(torch.arange(len(labels)), batch_size)
    for index in batches:
        sgd.zero_grad()
        loss = F.cross_entropy(model(images[index]), labels[index])
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, mask in zip(weights, learned, strict=True):
            assert parameter.grad is not None  # noqa: S101 - backward has just made it
            mask |= parameter.grad != 0
        sgd.step()
    blank = images.amax(dim=0) == 0
    unchanged = (W1.detach() == initial) & ~learned[0] & blank
    never = sum(int((~mask).sum()) for mask in learned)
    return never, int(unchanged.sum()), len(batches)


@torch.no_grad()
def finite_differences(
    model: nn.Sequential, name: str, gradient: Tensor, images: Tensor, labels: Tensor, most: int
) -> tuple[float, int, int]:
    """Compare a float64 gradient with (L(w + h) − L(w − h)) / 2h, entry by entry; h is 1e-5.

    If a ReLU switches on or off between w − h and w + h for any example, the loss has a kink there
    and no single slope: that parameter is counted, but not compared.

    Args:
        model: In float64.
        name: The parameter tensor that the gradient belongs to.
        gradient: The gradient to check.
        images: (B, D).
        labels: (B,).
        most: The largest number of the tensor's entries to try, evenly spaced.

    Returns:
        The largest difference as a fraction of the gradient's largest entry; the number of entries
        compared; the number at a kink.
    """
    parameter = model.get_parameter(name).view(-1)
    h, worst, compared, kinks = 1e-5, 0.0, 0, 0
    for position in range(0, parameter.numel(), math.ceil(parameter.numel() / most)):
        value = parameter[position].item()
        losses, active = [], []
        for w in (value + h, value - h):
            parameter[position] = w
            a, on = images, []
            for module in model:
                on += [a > 0] if isinstance(module, nn.ReLU) else []
                a = module(a)
            losses.append(cross_entropy(a, labels).item())
            active.append(on)
        parameter[position] = value
        if all(torch.equal(above, below) for above, below in zip(*active, strict=True)):
            slope = (losses[0] - losses[1]) / (2 * h)
            worst = max(worst, abs(slope - gradient.view(-1)[position].item()))
            compared += 1
        else:
            kinks += 1
    return worst / gradient.abs().max().item(), compared, kinks


def units_in_the_last_place(a: Tensor, b: Tensor) -> float:
    """The largest difference of two float32 tensors, in steps between neighbouring floats."""
    spacing = np.spacing(np.maximum(np.abs(a.numpy()), np.abs(b.numpy())))
    return float(np.max(np.abs(a.numpy() - b.numpy()) / spacing))


def relative_difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a fraction of b's largest entry."""
    return ((a - b).abs().max() / b.abs().max()).item()
