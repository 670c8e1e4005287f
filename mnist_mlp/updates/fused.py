"""Plain gradient descent of a ReLU network on a CPU, with as few operations as possible.

`FusedUpdater` makes the updates of `chain_rule` and `torch.optim.SGD`, equal to rounding. It leaves
out work that does not change the result:

- Weight and bias form one matrix [b W], and each layer's input starts with a constant 1. So
  z = [b W]·[1; a] is one matrix product, and so is the gradient of both.
- The product that computes a gradient subtracts it from the weights at once.
- A pixel that is 0 in all images of a batch does not change z, and the gradient of its weights
  is 0. Pixels are sorted by how often they are lit, so that one cut leaves most of these out.
- Images are gathered for many batches at a time.
- The last layer's arrays are stored column-major: ten classes do not fill whole vector registers,
  a batch fills many.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_mlp.steps.backprop import is_linear_relu_stack
from mnist_mlp.steps.data import Split
from mnist_mlp.steps.loss import softmax
from mnist_mlp.steps.train import Updater

GATHERED_BYTES = 1 << 21
"""Size of the images gathered at once. More would not stay in the CPU's cache."""


class FusedUpdater(Updater):
    """Updates of a stack of Linear and ReLU by plain gradient descent, on a CPU.

    During an epoch the weights live in matrices of its own; `network` copies them to the model.

    Raises:
        ValueError: The model is of another kind, or the pixels are not uint8.
    """

    def __init__(self, model: nn.Sequential, train: Split, batch_size: int) -> None:
        if not is_linear_relu_stack(model):
            raise ValueError("fused updates are for Linear and ReLU in turn")
        if train.pixels.dtype != torch.uint8:
            raise ValueError("fused updates need pixels as uint8")
        self.model, self.train, self.batch_size = model, train, batch_size
        self.layers = [module for module in model if isinstance(module, nn.Linear)]
        pixels = train.pixels.numpy()
        by_frequency = np.argsort(-np.count_nonzero(pixels, axis=0), kind="stable")
        self.pixels = torch.from_numpy(pixels.take(by_frequency, axis=1))
        self.pixel_order = torch.from_numpy(by_frequency)
        # inputs[i]: how many inputs of example i matter: the constant 1, and its pixels up to the
        # last one that is lit (all, if none is).
        dark_at_end = (self.pixels.numpy()[:, ::-1] > 0).argmax(axis=1)
        self.inputs = torch.from_numpy(pixels.shape[1] + 1 - dark_at_end)
        # thetas[k] is [b W] of layer k+1, transposed: (1 + inputs, outputs). None of them requires
        # a gradient, so that the updates need no `torch.no_grad`.
        self.thetas = [
            layer.weight.new_empty(1 + layer.in_features, layer.out_features)
            for layer in self.layers
        ]
        self.thetas[-1] = self.thetas[-1].t().contiguous().t()  # column-major
        self.ahead = False  # of the model

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        self.network()
        self._load()
        size, examples = self.batch_size, len(order)
        one_hot = torch.eye(logits.shape[1], dtype=logits.dtype)
        targets = torch.split(one_hot.index_select(1, self.train.labels[order]), size, dim=1)
        outs = torch.split(logits, size)
        inputs = F.pad(self.inputs[order], (0, -examples % size)).view(-1, size).amax(dim=1)
        widths = inputs.tolist()  # of each batch: the inputs that matter to any of its examples
        layer1 = {width: self.thetas[0][:width] for width in set(widths)}
        whole, smaller = _Batch(self.thetas, size), _Batch(self.thetas, examples % size)
        row = -(-self.thetas[0].shape[0] // 16) * 16  # 16 float32 numbers fill a cache line
        together = max(1, GATHERED_BYTES // (4 * row * size))  # batches gathered at once
        gathered = self.thetas[0].new_ones(together * size, row)
        batch = done
        for index in torch.split(order, together * size)[done // together :]:
            images = gathered[: len(index)]
            pixels = self.pixels.index_select(0, index)
            images[:, 1 : 1 + pixels.shape[1]].copy_(pixels).div_(255)  # as `to_images` does
            for x in torch.split(images, size)[batch % together :]:
                work, width = whole if len(x) == size else smaller, widths[batch]
                step = -learning_rates[batch] / len(x)
                work.update(x[:, :width], layer1[width], targets[batch], outs[batch], step)
                yield batch
                batch += 1
        self.network()
        self.ahead = False

    @torch.no_grad()
    def network(self) -> nn.Sequential:
        """See `Updater`."""
        if self.ahead:
            for layer, theta in zip(self.layers, self.thetas, strict=True):
                layer.bias.copy_(theta[0])
                if layer is self.layers[0]:
                    layer.weight[:, self.pixel_order] = theta[1:].t()
                else:
                    layer.weight.copy_(theta[1:].t())
        return self.model

    @torch.no_grad()
    def _load(self) -> None:
        for layer, theta in zip(self.layers, self.thetas, strict=True):
            theta[0] = layer.bias
            weight = layer.weight[:, self.pixel_order] if layer is self.layers[0] else layer.weight
            theta[1:] = weight.t()
        self.ahead = True


class _Hidden(NamedTuple):
    """Buffers of a hidden layer, and the weights that read it.

    Layer 1's weights are no hidden layer's: how many of them are used changes with each batch.
    """

    ones_a: Tensor  # (B, 1 + outputs): [1; a]
    ones_a_t: Tensor  # its transpose
    a: Tensor  # (B, outputs), a part of it
    da: Tensor  # (B, outputs)
    next_theta: Tensor  # (1 + outputs, outputs after): [b W] transposed
    next_weight: Tensor  # W (outputs after, outputs), a part of it


class _Batch:
    """Makes updates with batches of one size B, in buffers that it keeps."""

    def __init__(self, thetas: list[Tensor], size: int) -> None:
        self.hidden = []
        for theta in thetas[1:]:
            ones_a = theta.new_ones(size, theta.shape[0])
            a, W = ones_a[:, 1:], theta[1:].t()
            da = torch.empty_like(a, memory_format=torch.contiguous_format)
            self.hidden.append(_Hidden(ones_a, ones_a.t(), a, da, theta, W))
        self.dz = thetas[-1].new_empty(thetas[-1].shape[1], size)  # (C, B); first it holds z
        self.dz_t = self.dz.t()
        self.relu_backward = torch.ops.aten.threshold_backward.grad_input

    def update(self, x: Tensor, theta: Tensor, y: Tensor, logits: Tensor, step: float) -> None:
        """Make one update.

        Args:
            x: (B, 1 + inputs), the constant 1 and the pixels that are lit in some image.
            theta: (1 + inputs, outputs), layer 1's [b W] for these inputs, transposed.
            y: (C, B), the labels, one-hot.
            logits: (B, C), written.
            step: −learning_rate / B.
        """
        a, layer = x, theta
        for hidden in self.hidden:
            torch.mm(a, layer, out=hidden.a)  # z = W·a + b
            a, layer = hidden.ones_a.relu_(), hidden.next_theta  # ReLU keeps the constant 1
        logits.copy_(torch.mm(a, layer, out=self.dz_t))
        softmax(self.dz, dim=0, out=self.dz).sub_(y)
        dz = self.dz_t
        for hidden in reversed(self.hidden):
            da = torch.mm(dz, hidden.next_weight, out=hidden.da)  # with W before its update
            hidden.next_theta.addmm_(hidden.ones_a_t, dz, alpha=step)
            dz = self.relu_backward(da, hidden.a, 0, grad_input=da)  # da where a > 0, else 0
        theta.addmm_(x.t(), dz, alpha=step)
