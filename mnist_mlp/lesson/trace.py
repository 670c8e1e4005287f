"""One image through all eight steps of the lesson, as numbers.

All results are computed in float64 from the network's float32 weights.
"""

import copy
import json
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mnist_mlp.lesson.measures import gradients
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.steps.backprop import autograd
from mnist_mlp.steps.data import to_images
from mnist_mlp.steps.loss import cross_entropy, softmax
from mnist_mlp.steps.model import fold_batch_norm
from mnist_mlp.steps.optimizer import build_optimizer

SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


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

    The image is bytes, or lies in [0, 1]. The learning rate is for Step 7's only update, which is
    plain gradient descent.
    """
    model = copy.deepcopy(fold_batch_norm(model)).double()
    image = to_images(image)
    x, y = image.double().unsqueeze(0), torch.tensor([label])
    layers, factors = list[Layer](), list[Factor]()  # factors from the first layer to the loss
    _, *modules = model.named_children()  # Flatten, then Linear and activation in turn
    a, input_ = x, "x"
    for (name, linear), activation in zip(modules[::2], [*model[2::2], softmax], strict=True):
        k = str(len(layers) + 1).translate(SUBSCRIPTS)
        if layers:
            W = linear.get_parameter("weight").detach().clone()
            factors.append(Factor(f"∂z{k}/∂{input_}", f"W{k}", W))
        factors.append(Factor(f"∂z{k}/∂W{k}", f"{input_}, the layer's input", a[0]))
        z = linear(a).detach().requires_grad_()
        a, input_ = activation(z), f"a{k}"
        slopes = torch.autograd.grad(a.sum(), z)[0][0]
        slope = "the activation's slope, neuron by neuron"
        factors.append(Factor(f"∂{input_}/∂z{k}", slope, slopes))
        a = a.detach()
        layers.append(Layer(name, z[0].detach(), a[0]))
    p = a[0]
    by_z = p.diag() - torch.outer(p, p)  # instead of slopes: softmax is not neuron by neuron
    factors[-1] = Factor(f"∂softmax/∂z{k}", "p on the diagonal, less p·pᵀ", by_z)
    by_softmax = torch.zeros_like(p)
    by_softmax[label] = -1 / p[label].clamp_min(torch.finfo(p.dtype).tiny)
    factors.append(Factor("∂L/∂softmax", "−1/p at the label, 0 elsewhere", by_softmax))
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
        probabilities=p,
        loss=loss,
        factors=factors[::-1],
        gradients=found,
        learning_rate=learning_rate,
        loss_after=loss_after,
    )
