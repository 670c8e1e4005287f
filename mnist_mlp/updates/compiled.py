"""Updates on a CPU by the compiled loop of `loop.py`, on one thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_mlp.constants import CLASSES, INPUT_SIZE
from mnist_mlp.steps.data import Split, to_images
from mnist_mlp.steps.train import Updater
from mnist_mlp.updates import loop
from mnist_mlp.updates.deformation import Deformation, deform, draw
from mnist_mlp.updates.loop import Adam, Layer, Layers, Norm, Norms, Sgd
from mnist_mlp.updates.machine_code import Array, CachedFunction

REGISTER = 16  # float32 numbers in the widest vector register, AVX-512's
PIECE = 64
"""Examples that go through the network at a time, so that their numbers stay in a CPU's nearest
caches; with batch normalisation the whole batch does. In a batch of no more examples plain gradient
descent changes the weights example by example: at a learning rate of 0.1 an epoch's change then has
a relative rounding error of 2e-5, not 3e-6."""
BLOCK = 256  # images deformed at a time: what they take stays in a CPU's second-level cache
WORK_PER_CALL = 300_000_000
"""Weights × examples after which the loop returns, if these are more than a batch: some
milliseconds. Signals are heard then."""

_MAKE_UPDATES, _LIST_LIT = CachedFunction(loop.make_updates), CachedFunction(loop.list_lit)
Lists = tuple[Array, Array, Array]
"""Layer 1's `places` of N examples (1 + BANDS, N), `inputs` and `values`."""
State = dict[Tensor, dict[str, Tensor]]
"""What the optimizer keeps for each parameter, as `torch.optim.Optimizer.state` has it."""


class CompiledUpdater(Updater):
    """Updates of a stack of Linear, BatchNorm1d if any, and ReLU, by `make_updates`.

    The model is as `build_mlp` makes it, on the CPU; its parameters become views of one tensor. A
    second thread deforms the images, as the seed decides, one call ahead, and draws the next epoch.
    """

    def __init__(
        self,
        model: nn.Sequential,
        optimizer: Sgd | Adam,
        train: Split,
        batch_size: int,
        deformation: Deformation | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.train = model, train
        self.batch_size, self.deformation, self.seed = batch_size, deformation, seed
        plain = isinstance(optimizer, Sgd) and optimizer == Sgd()
        normed = any(isinstance(module, nn.BatchNorm1d) for module in model)
        room = batch_size if normed else min(batch_size, PIECE)
        self.optimizer = None if plain and batch_size <= PIECE and not normed else optimizer
        self.layers, self.norms, self.flat, self.state = _lay_out(model, room, self.optimizer)
        self.thread = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,))
        self.steps = [state["step"] for state in self.state.values() if "step" in state]
        self.batches_per_call = max(1, WORK_PER_CALL // (self.flat.shape[1] * batch_size))
        # Deformed images are listed call by call, others once, whatever their order.
        pixels = to_images(train.pixels[:0]) if deformation else train.pixels
        self.lists = self._list(pixels, _LIST_LIT.prepare)
        lists = np.zeros((1 + loop.BANDS, 0), np.int64), *self.lists[1:]
        no_data = np.zeros(0, np.int64), torch.zeros(0, CLASSES).numpy(), np.zeros(0)
        self._update(_MAKE_UPDATES.prepare, lists, *no_data, batch_size, 0)

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        rates, size, per_call = np.array(learning_rates), self.batch_size, self.batches_per_call
        self.order, labels = order, self.train.labels[order].numpy()
        starts, updates = range(done, len(rates), per_call), (epoch - 1) * len(rates)
        calls = [slice(start, min(start + per_call, len(rates))) for start in starts]
        all_lists: Iterator[Lists] = map(self._lists, calls)
        if self.deformation and calls:
            draw_soon = partial(self.thread.submit, draw, self.deformation, len(order), self.seed)
            self.coefficients = draw_soon(epoch).result()
            all_lists = self._one_ahead(calls)
        for call, lists in zip(calls, all_lists, strict=True):
            rows = slice(call.start * size, call.stop * size)
            data, before = (labels[rows], logits[rows].numpy(), rates[call]), updates + call.start
            # Moments of weights whose gradient stays 0 decay to denormal numbers, which take a CPU
            # a hundred times as long.
            torch.set_flush_denormal(True)
            try:
                self._update(_MAKE_UPDATES.call, lists, *data, size, before)
            finally:
                torch.set_flush_denormal(False)
            for step in self.steps:
                step.fill_(updates + call.stop)
            if self.deformation and call == calls[-1] and epoch < self.deformation.epochs:
                draw_soon(epoch + 1)  # `draw` keeps it for then
            yield call.stop - 1

    def _update(self, make_updates: Callable[..., Any], lists: Lists, *data: Any) -> None:
        """Call `make_updates`; the data are what follows the lists there."""
        places, inputs, values = lists
        layers = self.layers[0]._replace(inputs=inputs, values=values), *self.layers[1:]
        sgd = self.optimizer if isinstance(self.optimizer, Sgd) else None
        adam = self.optimizer if isinstance(self.optimizer, Adam) else None
        make_updates(layers, self.norms, self.flat, sgd, adam, places, *data)

    def _one_ahead(self, calls: Sequence[slice]) -> Iterator[Lists]:
        """The lists of each call in turn. While one is used, a thread makes the next."""
        pending = self.thread.submit(self._lists, calls[0])
        for call in calls[1:]:
            following = self.thread.submit(self._lists, call)
            yield pending.result()
            pending = following
        yield pending.result()

    def _lists(self, batches: slice) -> Lists:
        """Layer 1's lists for the examples of these batches."""
        rows = slice(batches.start * self.batch_size, batches.stop * self.batch_size)
        index = self.order[rows]
        if not self.deformation:
            starts, inputs, values = self.lists
            return starts.take(index.numpy(), axis=1), inputs, values
        images = torch.empty(len(index), INPUT_SIZE)
        whole = images, index, self.coefficients[rows]
        for block, which, how in zip(*(torch.split(t, BLOCK) for t in whole), strict=True):
            block[:] = deform(to_images(self.train.pixels.index_select(0, which)), how)
        return self._list(images, _LIST_LIT.call)

    def _list(self, pixels: Tensor, list_lit: Callable[..., Any]) -> Lists:
        """See `list_lit`. Of floats, all may be other than 0."""
        lit = pixels.numel() if pixels.is_floating_point() else int(pixels.count_nonzero())
        lists = (  # Numba would take seconds to compile their allocation
            np.zeros((1 + loop.BANDS, len(pixels)), np.int64),
            np.empty(len(pixels) + lit + 1, np.uint16),
            np.empty(len(pixels) + lit + 1, self.flat.dtype),
        )
        list_lit(pixels.numpy(), 1.0 if pixels.is_floating_point() else 255.0, *lists)
        return lists


@torch.no_grad()
def _lay_out(
    model: nn.Sequential, size: int, how: Sgd | Adam | None
) -> tuple[Layers, Norms, Array, State]:
    """The arrays that the loop needs; the third has all layers' θ, gradients and moments.

    The model's parameters and the optimizer's state become views of it, as each layer's θ is.
    """
    pairs = [
        (module, after if isinstance(after, nn.BatchNorm1d) else None)
        for module, after in pairwise([*model, None])
        if isinstance(module, nn.Linear)
    ]
    dtype = pairs[0][0].weight.dtype
    widths = [-(-linear.out_features // REGISTER) * REGISTER for linear, _ in pairs]
    inputs = [pairs[0][0].in_features, *widths]  # with the padding, which becomes nan with weights
    heights = [1 + n + 2 * bool(norm) for n, (_, norm) in zip(inputs, pairs, strict=False)]
    sizes = [height * width for height, width in zip(heights, widths, strict=True)]
    flat = torch.zeros(4, sum(sizes), dtype=dtype)  # θ, its gradient, two moments
    keys = ["momentum_buffer"] if isinstance(how, Sgd) and how.momentum else []
    keys = ["exp_avg", "exp_avg_sq"] if isinstance(how, Adam) else keys
    layers, norms, state = list[Layer](), list[Norm](), State()
    for k, (linear, norm) in enumerate(pairs):
        tables = torch.split(flat, sizes, dim=1)[k].view(4, heights[k], widths[k])
        used = tables[:, :, : linear.out_features]
        views = [used[:, 0], used[:, 1 : 1 + linear.in_features].transpose(1, 2)]
        parameters = [linear.bias, linear.weight]
        z = torch.zeros(size, widths[k], dtype=dtype).numpy()
        if norm:
            views += [used[:, -2], used[:, -1]]
            parameters += [norm.weight, norm.bias]
            running = torch.zeros(6, widths[k], dtype=dtype)
            mean, variance, *_ = running[:, : linear.out_features]
            norm.running_mean = mean.copy_(norm.running_mean)
            norm.running_var = variance.copy_(norm.running_var)
            norms.append(Norm(np.zeros_like(z), running.numpy()))
        for parameter, (theta, _, *moments) in zip(parameters, views, strict=True):
            parameter.data = theta.copy_(parameter)
            state[parameter] = dict(zip(keys, moments, strict=False))
            if isinstance(how, Adam):
                state[parameter]["step"] = torch.zeros(())
        room = 1 + inputs[k] if k > 0 else 0  # layer 1's lists come with the images
        places = np.zeros((2 if k > 0 else 1 + loop.BANDS, size), np.int64)
        places[0] = np.arange(size) * room
        values = torch.zeros(size, room, dtype=dtype)
        values[:, :1] = 1  # of input 0
        listed = np.zeros(size * room, np.uint16), values.view(-1).numpy()
        target = tables[0 if how is None else 1].numpy()
        layers.append(Layer(tables[0].numpy(), target, z, places, *listed))
    return tuple(layers), tuple(norms) or None, flat.numpy(), state
