"""Ways to make the updates of an epoch: all do Steps 2 to 7, on the same batches in the same order.

`TorchUpdates` is what the steps' own modules say, one after the other. `FusedUpdates` does the same
arithmetic for the lesson's own case, plain gradient descent of a ReLU network on a CPU, in about
half the time. `GraphedUpdates` has a GPU replay a recorded update without being told its parts.
`SharedUpdates` shares each batch among several processes.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.constants import CLASSES
from mnist_mlp.steps.augment import Deformation
from mnist_mlp.steps.backprop import Backward, is_linear_relu_stack
from mnist_mlp.steps.data import Split, to_images
from mnist_mlp.steps.loss import softmax
from mnist_mlp.steps.optimizer import WeightAverage
from mnist_mlp.updates.collectives import largest_of_processes, sum_over_processes
from mnist_mlp.updates.ranks import processes, rank

ASKED_EACH = 16
"""Updates after which several processes ask each other whether a report is due."""
GATHERED_BYTES = 1 << 21
"""Of the images that `FusedUpdates` gathers at once: more than that falls out of the cache."""


class Updates(Protocol):
    """Makes updates of one model on one training set."""

    def epoch(
        self, order: Tensor, logits: Tensor, learning_rates: Sequence[float], done: int, number: int
    ) -> Iterator[None]:
        """Make an epoch's updates, yielding after each.

        Args:
            order: (N,) the examples' indices; each update takes the next batch of them.
            logits: (N, C) filled with what the network said of each just before its update.
            learning_rates: One for each update.
            done: So many updates at the front are done already.
            number: Of the epoch, from 1 on.
        """

    def settle(self, logits: Tensor) -> None:
        """Bring the model's parameters, and these rows of logits, to what the updates made.

        Called before either is read, and at the epoch's end.
        """

    def due(self, batch: int, overdue: bool) -> bool:
        """Whether to report after a batch, if a report is overdue."""


class TorchUpdates:
    """Gather, `backward`, `optimizer.step()`: for any model and optimizer, on any device.

    Args:
        model: On the device of the data.
        optimizer: Of the model's parameters.
        backward: Of the model.
        train: What is learned from.
        batch_size: Examples an update.
        deformation: Of the images, drawn anew in each epoch.
        average: Kept up to date.
        seed: Of the deformations.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        backward: Backward,
        train: Split,
        batch_size: int,
        *,
        deformation: Deformation | None = None,
        average: WeightAverage | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.optimizer, self.backward = model, optimizer, backward
        self.train, self.batch_size = train, batch_size
        self.deformation, self.average, self.seed = deformation, average, seed

    def epoch(
        self, order: Tensor, logits: Tensor, learning_rates: Sequence[float], done: int, number: int
    ) -> Iterator[None]:
        """See `Updates`."""
        draws = order.new_empty(len(order), 0)
        if self.deformation:
            draws = self.deformation.draw(len(order), self.seed, number).to(order.device)
        parts = (torch.split(t, self.batch_size) for t in (order, draws, logits))
        batches = zip(learning_rates, *parts, strict=True)
        for k, (learning_rate, index, drawn, out) in enumerate(islice(batches, done, None), done):
            self.optimizer.param_groups[0]["lr"] = learning_rate
            out.copy_(self.update(index, drawn))
            if self.average:
                self.average.update((number - 1) * len(learning_rates) + k + 1)
            yield

    def update(self, index: Tensor, draws: Tensor) -> Tensor:
        """Make one update with the examples index (B,), deformed by draws (B, any).

        Their logits (B, C) before it.
        """
        logits = self.backward(*self.examples(index, draws))  # Steps 2-6
        self.optimizer.step()  # Step 7
        return logits

    def examples(self, index: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 784) and labels (B,)."""
        pixels, labels = (t.index_select(0, index) for t in self.train)
        images = to_images(pixels)
        return (self.deformation(images, draws) if self.deformation else images), labels

    def settle(self, logits: Tensor) -> None:
        """Nothing: the model's own parameters are updated."""

    def due(self, batch: int, overdue: bool) -> bool:
        """See `Updates`."""
        return overdue


class FusedUpdates:
    """Plain gradient descent of a stack of Linear and ReLU, with as little work as it takes.

    Equal to `chain_rule` and `torch.optim.SGD` to rounding; what differs is what is left out:

    - [b W] is one matrix, and each layer's input begins with an input that is always 1, so that
      z = [b W]·[1; a] is one product, and so are both gradients.
    - The product that makes the gradient subtracts it from the weights at once.
    - A pixel that is 0 in all images of a batch adds nothing to z, and its weights' gradient is 0:
      with the pixels sorted by how often they are lit, one cut leaves such pixels out.
    - Images are gathered many batches at a time.
    - What is of one number for each class is stored by class: there are fewer classes than numbers
      in a CPU's vector register.

    Raises:
        ValueError: The model is another, or the images are no bytes.
    """

    def __init__(self, model: nn.Sequential, train: Split, batch_size: int) -> None:
        if not is_linear_relu_stack(model):
            raise ValueError("fused updates are for Linear and ReLU in turn")
        if train.pixels.dtype != torch.uint8:
            raise ValueError("fused updates are for images held as bytes")
        self.train, self.batch_size = train, batch_size
        self.layers = [module for module in model if isinstance(module, nn.Linear)]
        pixels = train.pixels.numpy()
        by_frequency = np.argsort(-np.count_nonzero(pixels, axis=0), kind="stable")
        self.pixels = torch.from_numpy(pixels.take(by_frequency, axis=1))
        self.pixel_order = torch.from_numpy(by_frequency)
        # lit[i]: the inputs of image i up to its last that is not 0, the one that is always 1 too.
        dark_behind = (self.pixels.numpy()[:, ::-1] > 0).argmax(axis=1)
        self.lit = torch.from_numpy(pixels.shape[1] + 1 - dark_behind)
        # thetas[k] is [b W] of layer k+1, transposed: (1 + inputs, outputs). As none of these wants
        # a gradient of autograd, the updates need no `torch.no_grad`, which takes time at a yield.
        self.thetas = [
            layer.weight.new_empty(1 + layer.in_features, layer.out_features)
            for layer in self.layers
        ]
        self.thetas[-1] = self.thetas[-1].t().contiguous().t()  # by class

    def epoch(
        self, order: Tensor, logits: Tensor, learning_rates: Sequence[float], done: int, number: int
    ) -> Iterator[None]:
        """See `Updates`."""
        self._load()
        size, examples = self.batch_size, len(order)
        one_hot = torch.eye(logits.shape[1], dtype=logits.dtype)
        ys = torch.split(one_hot.index_select(1, self.train.labels[order]), size, dim=1)
        outs = torch.split(logits, size)
        lit = F.pad(self.lit[order], (0, -examples % size)).view(-1, size).amax(dim=1).tolist()
        layer1 = {inputs: self.thetas[0][:inputs] for inputs in set(lit)}
        whole, ragged = _Batch(self.thetas, size), _Batch(self.thetas, examples % size)
        row = -(-self.thetas[0].shape[0] // 16) * 16  # rows begin on a cache line
        together = max(1, GATHERED_BYTES // (4 * row * size))
        gathered = self.thetas[0].new_ones(together * size, row)
        batch = done
        for index in torch.split(order, together * size)[done // together :]:
            images = gathered[: len(index)]
            pixels = self.pixels.index_select(0, index)
            images[:, 1 : 1 + pixels.shape[1]].copy_(pixels).div_(255)  # as `to_images` does
            for x in torch.split(images, size)[batch % together :]:
                work = whole if len(x) == size else ragged
                inputs = lit[batch]
                work.update(
                    x[:, :inputs],
                    layer1[inputs],
                    ys[batch],
                    outs[batch],
                    -learning_rates[batch] / len(x),
                )
                batch += 1
                yield

    @torch.no_grad()
    def settle(self, logits: Tensor) -> None:
        """Write the weights back into the model."""
        for layer, theta in zip(self.layers, self.thetas, strict=True):
            layer.bias.copy_(theta[0])
            if layer is self.layers[0]:
                layer.weight[:, self.pixel_order] = theta[1:].t()
            else:
                layer.weight.copy_(theta[1:].t())

    def due(self, batch: int, overdue: bool) -> bool:
        """See `Updates`."""
        return overdue

    @torch.no_grad()
    def _load(self) -> None:
        for layer, theta in zip(self.layers, self.thetas, strict=True):
            theta[0] = layer.bias
            weight = layer.weight[:, self.pixel_order] if layer is self.layers[0] else layer.weight
            theta[1:] = weight.t()


class GraphedUpdates(TorchUpdates):
    """One update recorded as a CUDA graph and replayed: the host says only "again".

    What changes from update to update, the position in the epoch, is a number on the device: the
    graph reads its examples and its learning rate there and moves it on. The optimizer's learning
    rate must be a tensor on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        backward: Backward,
        train: Split,
        batch_size: int,
    ) -> None:
        super().__init__(model, optimizer, backward, train, batch_size)
        examples, device = len(train.labels), train.labels.device
        self.order = torch.empty(examples, dtype=torch.int64, device=device)
        self.learning_rates = torch.empty(-(-examples // batch_size), device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.rows = torch.arange(batch_size, device=device)
        self.logits: Tensor | None = None
        self.replays: dict[int, Callable[[], None]] = {}

    def epoch(
        self, order: Tensor, logits: Tensor, learning_rates: Sequence[float], done: int, number: int
    ) -> Iterator[None]:
        """See `Updates`."""
        examples, size = len(order), self.batch_size
        if self.logits is not logits:  # a graph writes to where it was recorded
            self.logits, self.replays = logits, {}
        self.order.copy_(order)
        self.learning_rates.copy_(torch.tensor(learning_rates))
        self.position.fill_(done)
        for first in range(done * size, examples, size):
            count = min(size, examples - first)
            if count not in self.replays:
                self.replays[count] = self._record(count)
            self.replays[count]()
            yield

    def _update_here(self, count: int) -> None:
        """The update at the device's position."""
        assert self.logits is not None  # noqa: S101 - epoch has set it
        rows = self.position * self.batch_size + self.rows[:count]
        self.optimizer.param_groups[0]["lr"].copy_(self.learning_rates[self.position][0])
        index = self.order[rows]
        self.logits.index_copy_(0, rows, self.update(index, index.new_empty(0)))

    def _move_on(self, count: int) -> None:
        self._update_here(count)
        self.position += 1

    def _record(self, count: int) -> Callable[[], None]:
        """What makes an update of count examples and moves on.

        Libraries and the optimizer set themselves up in a few updates that are not recorded, and
        that are undone: in the weights and in what the optimizer remembers.
        """
        cuda = self.position.device.type == "cuda"
        parameters = list(self.model.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        state = {
            (parameter, key): value.clone()
            for parameter, values in self.optimizer.state.items()
            for key, value in values.items()
        }
        stream = torch.cuda.Stream() if cuda else None  # type: ignore[no-untyped-call]
        if stream:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*capturable")  # these are not captured
            for _ in range(3):
                self._update_here(count)
        if stream:
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._move_on(count)
        with torch.no_grad():
            for parameter, weights in zip(parameters, before, strict=True):
                parameter.copy_(weights)
            for of, values in self.optimizer.state.items():
                for key, value in values.items():
                    if (of, key) in state:
                        value.copy_(state[of, key])
                    else:
                        value.zero_()  # as an optimizer begins
        return graph.replay if cuda else partial(self._move_on, count)


class SharedUpdates(TorchUpdates):
    """Each process's share of every batch, and the sum of all their gradients.

    The mean over the batch comes out whatever the shares are: each process's gradient, a mean over
    its own, counts as much as its share.
    """

    def update(self, index: Tensor, draws: Tensor) -> Tensor:
        """See `TorchUpdates`; the other processes' rows of the logits are 0."""
        count = len(index)
        mine = slice(count * rank() // processes(), count * (rank() + 1) // processes())
        images, labels = self.examples(index[mine], draws[mine])
        logits = torch.zeros(count, CLASSES, device=index.device)
        logits[mine] = self.backward(images, labels)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients]).mul_(len(labels) / count)
        sum_over_processes(flat)
        parts = torch.split(flat, [g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        self.optimizer.step()
        return logits

    def settle(self, logits: Tensor) -> None:
        """See `Updates`."""
        sum_over_processes(logits)

    def due(self, batch: int, overdue: bool) -> bool:
        """See `Updates`: all processes report after the same batch."""
        asked = (batch + 1) % ASKED_EACH == 0
        return asked and bool(largest_of_processes(overdue, self.train.labels.device))


class _Hidden(NamedTuple):
    """Room for a hidden layer's part of an update, and the layer after it."""

    ones_a: Tensor  # (B, 1 + outputs): [1; a]
    ones_a_t: Tensor  # its transpose
    a: Tensor  # (B, outputs), a part of it
    da: Tensor  # (B, outputs)
    next_theta: Tensor  # (1 + outputs, outputs after): [b W] transposed
    next_weight: Tensor  # W (outputs after, outputs), a part of it


class _Batch:
    """The work on batches of one size B, with the room it takes."""

    def __init__(self, thetas: list[Tensor], size: int) -> None:
        self.hidden = []
        for theta in thetas[1:]:
            ones_a = theta.new_ones(size, theta.shape[0])
            a, W = ones_a[:, 1:], theta[1:].t()
            da = torch.empty_like(a, memory_format=torch.contiguous_format)
            self.hidden.append(_Hidden(ones_a, ones_a.t(), a, da, theta, W))
        self.dz = thetas[-1].new_empty(thetas[-1].shape[1], size)  # (C, B): before that, z
        self.dz_t = self.dz.t()
        self.relu_backward = torch.ops.aten.threshold_backward.grad_input

    def update(self, x: Tensor, theta: Tensor, y: Tensor, logits: Tensor, scale: float) -> None:
        """One update.

        Args:
            x: (B, 1 + inputs) the inputs of layer 1 that are not all 0, first the one that is 1.
            theta: (1 + inputs, outputs) the weights of layer 1 to those inputs.
            y: (C, B) the labels, one-hot.
            logits: (B, C) is filled.
            scale: −learning_rate / B.
        """
        a, layer = x, theta
        for hidden in self.hidden:
            torch.mm(a, layer, out=hidden.a)  # z = W·a + b
            a, layer = hidden.ones_a.relu_(), hidden.next_theta  # the 1 stays 1
        logits.copy_(torch.mm(a, layer, out=self.dz_t))
        softmax(self.dz, dim=0, out=self.dz).sub_(y)
        dz = self.dz_t
        for hidden in reversed(self.hidden):
            da = torch.mm(dz, hidden.next_weight, out=hidden.da)
            hidden.next_theta.addmm_(hidden.ones_a_t, dz, alpha=scale)
            dz = self.relu_backward(da, hidden.a, 0, grad_input=da)
        theta.addmm_(x.t(), dz, alpha=scale)
