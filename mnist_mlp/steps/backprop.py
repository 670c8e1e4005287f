"""Step 6: ∂L/∂W₁ = ∂L/∂z₃ · ∂z₃/∂a₂ · ∂a₂/∂z₂ · ∂z₂/∂a₁ · ∂a₁/∂z₁ · ∂z₁/∂W₁.

`chain_rule` is this formula written out, for any stack of Linear and ReLU layers and a whole batch.
`autograd` leaves it to PyTorch, for any model. Both write each parameter's gradient to its `.grad`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mnist_mlp.steps.loss import cross_entropy, softmax

Backward = Callable[[Tensor, Tensor], Tensor]
"""Runs the forward and the backward pass on images (B, D) and labels (B,).

It writes each parameter's `.grad` and returns the logits (B, C), detached.
"""


def autograd(model: nn.Module) -> Backward:
    """Gradients by PyTorch's automatic differentiation, for any model."""

    def backward(images: Tensor, labels: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        logits: Tensor = model(images)
        cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        return logits.detach()

    return backward


def chain_rule(model: nn.Sequential) -> Backward:
    """Gradients by the lesson's formula, for a model that `is_linear_relu_stack` accepts.

    They are written into `.grad` tensors that are made here: do not call `zero_grad`. A ValueError
    for a model of another kind.
    """
    if not is_linear_relu_stack(model):
        raise ValueError("the chain rule by hand covers Linear and ReLU in turn; use autograd")
    layers = [module for module in model if isinstance(module, nn.Linear)]
    weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    one_hot = torch.eye(layers[-1].out_features).to(weights[0])  # row k: y for label k

    @torch.no_grad()
    def backward(images: Tensor, labels: Tensor) -> Tensor:
        # Forward pass. activations[k] is the input of layers[k]: x, a₁, a₂, each (B, inputs).
        activations = [images.flatten(1)]
        for W, b in zip(weights[:-1], biases[:-1], strict=True):
            activations.append(torch.addmm(b, activations[-1], W.t()).relu_())  # ReLU(W·a + b)
        logits = torch.addmm(biases[-1], activations[-1], weights[-1].t())  # (B, C)

        # dz stands for ∂L/∂z, da for ∂L/∂a. For the last layer ∂L/∂softmax · ∂softmax/∂z is p − y,
        # divided by B, since the loss is a mean over the batch.
        dz = (softmax(logits) - one_hot[labels]).div_(len(labels))  # (B, C)
        for k in range(len(layers) - 1, -1, -1):
            W, b, a = weights[k], biases[k], activations[k]
            torch.mm(dz.t(), a, out=W.grad)  # ∂z/∂W is the layer's input a
            torch.sum(dz, dim=0, out=b.grad)  # ∂z/∂b is 1
            if k > 0:
                da = dz @ W  # ∂z/∂a is W
                dz = da.mul_(a.sign())  # ∂a/∂z is 1 where the neuron fired (a > 0), else 0
        return logits

    return backward


def is_linear_relu_stack(model: nn.Module) -> bool:
    """Whether a model is Flatten, then Linear (with bias) and ReLU in turn, ending in Linear."""
    modules = list(model.children())
    kinds = [nn.Flatten, nn.Linear, *[nn.ReLU, nn.Linear] * (len(modules) // 2 - 1)]
    has_biases = all(getattr(module, "bias", None) is not None for module in modules[1::2])
    return isinstance(model, nn.Sequential) and [*map(type, modules)] == kinds and has_biases
