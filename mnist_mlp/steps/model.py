"""Steps 2-3: z = W·x + b, a = ReLU(z), layer after layer, and how many parameters that takes.

The network is a plain `nn.Sequential` that ends in logits. Softmax belongs to the loss.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_linear_bn_eval

from mnist_mlp.constants import LESSON_LAYER_SIZES

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "identity": nn.Identity,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
}


def build_mlp(
    layer_sizes: Sequence[int] = LESSON_LAYER_SIZES,
    activation: str = "relu",
    seed: int | None = None,
    *,
    batch_norm: bool = False,
) -> nn.Sequential:
    """A multilayer perceptron. Maps images (B, 784), (B, 28, 28) or (B, 1, 28, 28) to logits.

    Its modules are called `layer1`, `relu1`, `layer2`, ...; `layer1.weight` is (128, 784). The
    activation, a key of `ACTIVATIONS`, follows every layer but the last. For training `batch_norm`
    inserts `norm1`, `norm2`, ... before it; `fold_batch_norm` removes them again.

    Weights and biases start as `nn.Linear` starts them: uniform within ±1/√inputs. A seed gives the
    numbers that `torch.manual_seed(seed)` would give, and leaves PyTorch's global generator as it
    was. None uses the global generator.
    """
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for number, (inputs, outputs) in enumerate(pairwise(layer_sizes), start=1):
            # z = W·x + b, with W (outputs, inputs) and b (outputs,)
            modules[f"layer{number}"] = nn.Linear(inputs, outputs)
            if number < len(layer_sizes) - 1:
                if batch_norm:
                    norm = modules[f"norm{number}"] = nn.BatchNorm1d(outputs)
                    norm.num_batches_tracked = None  # used only where momentum is None
                modules[f"{activation}{number}"] = ACTIVATIONS[activation]()  # a = ReLU(z)
        return nn.Sequential(modules)


def fold_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """A network that computes the same without batch normalisation; the model itself without any.

    In eval mode, with its running mean and variance, normalisation is a linear function,
    γ·(z − mean)/√(variance + ε) + β. It becomes part of the layer before it.
    """
    if not any(isinstance(module, nn.BatchNorm1d) for module in model):
        return model
    folded = OrderedDict[str, nn.Module]()
    for name, module in copy.deepcopy(model).eval().named_children():
        if isinstance(module, nn.BatchNorm1d):
            layer, linear = folded.popitem()
            assert isinstance(linear, nn.Linear)  # noqa: S101 - as `build_mlp` orders them
            folded[layer] = fuse_linear_bn_eval(linear, module)
        else:
            folded[name] = module
    return nn.Sequential(folded)


@dataclass(frozen=True)
class LayerCount:
    """The parameters of one layer."""

    name: str
    weight_shape: list[int]
    weights: int
    biases: int
    parameters: int

    def __str__(self) -> str:
        outputs, inputs = self.weight_shape
        return f"{outputs:,} × {inputs:,} + {self.biases:,} = {self.parameters:,}"


def count_parameters(model: nn.Module) -> list[LayerCount]:
    """The parameters of each `nn.Linear` of a model, counted from its tensors."""
    return [
        LayerCount(
            name=name,
            weight_shape=list(layer.weight.shape),
            weights=layer.weight.numel(),
            biases=0 if layer.bias is None else layer.bias.numel(),
            parameters=sum(parameter.numel() for parameter in layer.parameters()),
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    ]
