"""One image through all eight steps, as numbers: what the lesson describes, on a real network.

The network's float32 weights are taken as they are; what is computed from them is in float64.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnist_mlp.steps.backprop import autograd, chain_rule, is_linear_relu_stack
from mnist_mlp.steps.loss import cross_entropy, softmax
from mnist_mlp.steps.optimizer import build_optimizer


@dataclass(frozen=True)
class Layer:
    """Steps 2-3 at one layer: z = W·a + b, and what the activation (the last: softmax) makes."""

    name: str
    z: Tensor
    a: Tensor


@dataclass(frozen=True)
class Factor:
    """One derivative of Step 6's chain, with what it is in words."""

    name: str
    meaning: str
    value: Tensor


@dataclass(frozen=True)
class Trace:
    """All eight steps for one image; tensors without a batch dimension."""

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
        """Every array whole, as nested lists."""
        return {
            "label": self.label,
            "input": self.input.tolist(),
            "layers": [
                {"name": layer.name, "z": layer.z.tolist(), "a": layer.a.tolist()}
                for layer in self.layers
            ],
            "logits": self.logits.tolist(),
            "probabilities": self.probabilities.tolist(),
            "loss": self.loss,
            "factors": [
                {"name": f.name, "shape": list(f.value.shape), "value": f.value.tolist()}
                for f in self.factors
            ],
            "gradients": {name: gradient.tolist() for name, gradient in self.gradients.items()},
            "learning_rate": self.learning_rate,
            "loss_after": self.loss_after,
        }


def trace_image(
    model: nn.Sequential, image: Tensor, label: int, learning_rate: float = 0.1
) -> Trace:
    """Take one image through the steps; the model itself is left as it was.

    Args:
        model: From `build_mlp`, on the CPU.
        image: (784,), in [0, 1].
        label: The true digit.
        learning_rate: Of the one update of Step 7, plain gradient descent.
    """
    model = copy.deepcopy(model).double()
    x, y = image.double().unsqueeze(0), torch.tensor([label])

    layers: list[Layer] = []
    slopes: list[Tensor] = []  # ∂a/∂z of each hidden layer
    a = x
    for name, module in model.named_children():
        if isinstance(module, nn.Linear):
            z = module(a).detach().requires_grad_()
            a = softmax(z)  # of the last layer; an activation replaces it in the others
            layers.append(Layer(name, z[0].detach(), a[0].detach()))
        elif layers:
            a = module(z)
            slopes.append(torch.autograd.grad(a.sum(), z)[0][0])
            a = a.detach()
            layers[-1] = Layer(layers[-1].name, z[0].detach(), a[0])

    factors = list(_factors(model, x[0], layers, slopes, label))
    path = chain_rule if is_linear_relu_stack(model) else autograd
    loss = cross_entropy(path(model)(x, y), y)
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    build_optimizer(model.parameters(), "sgd", learning_rate).step()
    with torch.no_grad():
        loss_after = cross_entropy(model(x), y).item()
    return Trace(
        input=image,
        label=label,
        layers=layers,
        logits=layers[-1].z,
        probabilities=layers[-1].a,
        loss=loss.item(),
        factors=factors,
        gradients=gradients,
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
    yield Factor("∂L/∂softmax", "−1/p at the label, 0 elsewhere", by_softmax)
    yield Factor(
        _sub(f"∂softmax/∂z{last}"), "p on the diagonal, less p·pᵀ", p.diag() - torch.outer(p, p)
    )
    for k in range(last, 0, -1):
        a = layers[k - 2].a if k > 1 else x
        inputs = _sub(f"a{k - 1}") if k > 1 else "x"
        yield Factor(_sub(f"∂z{k}/∂W{k}"), f"{inputs}, the layer's input", a)
        if k > 1:
            W = model.get_parameter(f"{layers[k - 1].name}.weight").detach().clone()
            yield Factor(_sub(f"∂z{k}/∂a{k - 1}"), _sub(f"W{k}"), W)
            yield Factor(
                _sub(f"∂a{k - 1}/∂z{k - 1}"),
                "the activation's slope, neuron by neuron",
                slopes[k - 2],
            )


def _sub(text: str) -> str:
    return text.translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))
