"""One image through all eight steps of the lesson, as numbers.

All results are computed in float64 from the network's float32 weights.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnist_mlp.lesson.measures import gradients
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.steps.backprop import autograd
from mnist_mlp.steps.loss import cross_entropy, softmax
from mnist_mlp.steps.optimizer import build_optimizer


@dataclass(frozen=True)
class Layer:
    """Steps 2-3 in one layer: z = W·a + b, and a = activation(z); for the last layer softmax(z)."""

    name: str
    z: Tensor
    a: Tensor


@dataclass(frozen=True)
class Factor:
    """One derivative in the chain of Step 6, and what it is in words."""

    name: str
    meaning: str
    value: Tensor


@dataclass(frozen=True)
class Trace(NotebookHtml):
    """All eight steps for one image; tensors have no batch dimension."""

    input: Tensor
    label: int
    layers: list[Layer]
    logits: Tensor
    probabilities: Tensor
    loss: float
    factors: list[Factor]
    gradients: dict[str, Tensor]
    learning_rate: float
    loss_after: float

    def to_json(self) -> dict[str, Any]:
        """The trace in JSON's types, each tensor as nested lists, with the factors' shapes."""
        values = asdict(self)
        for factor in values["factors"]:
            factor["shape"] = list(factor["value"].shape)
        return dict(json.loads(json.dumps(values, default=Tensor.tolist)))


def trace_image(
    model: nn.Sequential, image: Tensor, label: int, learning_rate: float = 0.1
) -> Trace:
    """Take one image (D,) through the eight steps, on a copy of a model from `build_mlp`.

    The learning rate is for Step 7's only update, which is plain gradient descent.
    """
    model = copy.deepcopy(model).double()
    x, y = image.double().unsqueeze(0), torch.tensor([label])

    layers, slopes = list[Layer](), list[Tensor]()
    # The slopes are ∂a/∂z, neuron by neuron; the last one, softmax's, is not used.
    _, *modules = model.named_children()  # Flatten, then Linear and activation in turn
    a = x
    for (name, linear), activation in zip(modules[::2], [*model[2::2], softmax], strict=True):
        z = linear(a).detach().requires_grad_()
        a = activation(z)
        slopes.append(torch.autograd.grad(a.sum(), z)[0][0])
        a = a.detach()
        layers.append(Layer(name, z[0].detach(), a[0]))
    factors = list(_factors(model, x[0], layers, slopes, label))
    found = gradients(model, autograd, x, y)
    with torch.no_grad():
        loss = cross_entropy(model(x), y).item()
        build_optimizer(model.parameters(), "sgd", learning_rate).step()
        loss_after = cross_entropy(model(x), y).item()
    return Trace(
        input=image,
        label=label,
        layers=layers,
        logits=layers[-1].z,
        probabilities=layers[-1].a,
        loss=loss,
        factors=factors,
        gradients=found,
        learning_rate=learning_rate,
        loss_after=loss_after,
    )


def _factors(
    model: nn.Sequential, x: Tensor, layers: list[Layer], slopes: list[Tensor], label: int
) -> Iterator[Factor]:
    """The chain from the loss back to the first layer, in the lesson's order."""
    p, last = layers[-1].a, len(layers)
    by_softmax = torch.zeros_like(p)
    by_softmax[label] = -1 / p[label].clamp_min(torch.finfo(p.dtype).tiny)
    by_z = p.diag() - torch.outer(p, p)
    yield Factor("∂L/∂softmax", "−1/p at the label, 0 elsewhere", by_softmax)
    yield Factor(f"∂softmax/∂z{_subscript(last)}", "p on the diagonal, less p·pᵀ", by_z)
    for k in range(last - 1, 0, -1):  # layers[k] is layer k + 1
        W = model.get_parameter(f"{layers[k].name}.weight").detach().clone()
        here, before = _subscript(k + 1), _subscript(k)
        yield Factor(f"∂z{here}/∂W{here}", f"a{before}, the layer's input", layers[k - 1].a)
        yield Factor(f"∂z{here}/∂a{before}", f"W{here}", W)
        slope = "the activation's slope, neuron by neuron"
        yield Factor(f"∂a{before}/∂z{before}", slope, slopes[k - 1])
    yield Factor("∂z₁/∂W₁", "x, the layer's input", x)


def _subscript(number: int) -> str:
    return str(number).translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
