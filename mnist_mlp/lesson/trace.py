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
from mnist_mlp.steps.backprop import autograd, chain_rule, is_linear_relu_stack
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
class Trace:
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
        plain: dict[str, Any] = json.loads(json.dumps(values, default=Tensor.tolist))
        return plain


def trace_image(
    model: nn.Sequential, image: Tensor, label: int, learning_rate: float = 0.1
) -> Trace:
    """Take one image through the eight steps, on a copy of the model.

    Args:
        model: From `build_mlp`, on the CPU.
        image: (D,), in [0, 1].
        label: The true digit.
        learning_rate: For the single update of Step 7, which is plain gradient descent.
    """
    model = copy.deepcopy(model).double()
    x, y = image.double().unsqueeze(0), torch.tensor([label])

    layers: list[Layer] = []
    slopes: list[Tensor] = []  # ∂a/∂z of each hidden layer
    a = x
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            z = module(a).detach().requires_grad_()
            a = softmax(z)  # the result of the last layer; the others' is their activation's
            layers.append(Layer(name, z[0].detach(), a[0].detach()))
        elif layers:
            a = module(z)
            slopes.append(torch.autograd.grad(a.sum(), z)[0][0])
            a = a.detach()
            layers[-1] = Layer(layers[-1].name, z[0].detach(), a[0])

    factors = list(_factors(model, x[0], layers, slopes, label))
    path = chain_rule if is_linear_relu_stack(model) else autograd
    found = gradients(model, path, x, y)
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
    p = layers[-1].a
    last = len(layers)
    by_softmax = torch.zeros_like(p)
    by_softmax[label] = -1 / p[label].clamp_min(torch.finfo(p.dtype).tiny)
    by_z = p.diag() - torch.outer(p, p)
    yield Factor("∂L/∂softmax", "−1/p at the label, 0 elsewhere", by_softmax)
    yield Factor(_sub(f"∂softmax/∂z{last}"), "p on the diagonal, less p·pᵀ", by_z)
    for k in range(last, 1, -1):
        W = model.get_parameter(f"{layers[k - 1].name}.weight").detach().clone()
        inputs = _sub(f"a{k - 1}, the layer's input")
        slope = "the activation's slope, neuron by neuron"
        yield Factor(_sub(f"∂z{k}/∂W{k}"), inputs, layers[k - 2].a)
        yield Factor(_sub(f"∂z{k}/∂a{k - 1}"), _sub(f"W{k}"), W)
        yield Factor(_sub(f"∂a{k - 1}/∂z{k - 1}"), slope, slopes[k - 2])
    yield Factor("∂z₁/∂W₁", "x, the layer's input", x)


def _sub(text: str) -> str:
    """The text with its digits as subscripts."""
    return text.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
