"""Updates on a CPU by the compiled loop of `loop.py`, on one thread."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_mlp.constants import CLASSES, INPUT_SIZE
from mnist_mlp.steps.data import Split
from mnist_mlp.steps.train import Updater
from mnist_mlp.updates.deformation import Deformation, draw
from mnist_mlp.updates.lit import deform_and_list, empty_lists, list_lit, new_canvas
from mnist_mlp.updates.loop import Lists, Norms, OptimizerSettings, Workspace, make_updates
from mnist_mlp.updates.machine_code import Array, CachedFunction, DisjointArrays

REGISTER = 16
"""Float32 numbers in the widest vector register, AVX-512's."""
SMALL_BATCH = 16
"""Up to so many examples, plain gradient descent without batch normalisation adds each example's
gradient to the weights."""
WORK_PER_CALL = 300_000_000
"""Weights × examples after which the loop returns, if these are more than a batch: some
milliseconds. Signals are heard then."""


_MAKE_UPDATES, _LIST_LIT = CachedFunction(make_updates), CachedFunction(list_lit)
_DEFORM_AND_LIST = CachedFunction(deform_and_list, pipeline_class=DisjointArrays)
State = dict[Tensor, dict[str, Tensor]]
"""What the optimizer keeps for each parameter, as `torch.optim.Optimizer.state` has it."""


class CompiledUpdater(Updater):
    """Updates of a stack of Linear, BatchNorm1d if any, and ReLU, by `make_updates`.

    The model is as `build_mlp` makes it, on the CPU; its parameters become views of one tensor. A
    second thread deforms the images, as the seed decides, and is one call ahead.
    """

    def __init__(
        self,
        model: nn.Sequential,
        optimizer: OptimizerSettings,
        train: Split,
        batch_size: int,
        *,
        deformation: Deformation | None = None,
        seed: int = 0,
    ) -> None:
        self.model, self.train = model, train
        self.batch_size, self.deformation, self.seed = batch_size, deformation, seed
        self.space, self.norms, self.state = _lay_out(model, batch_size, optimizer)
        plain = optimizer == OptimizerSettings() and not self.norms
        self.optimizer = None if plain and batch_size <= SMALL_BATCH else optimizer
        self.steps = [state["step"] for state in self.state.values() if "step" in state]
        self.batches_per_call = max(1, WORK_PER_CALL // (len(self.space.theta) * batch_size))
        self.dtype, self.pixels = self.space.theta.dtype, train.pixels.numpy()
        self.scale = 255.0 if self.pixels.dtype == np.uint8 else 1.0
        if deformation:
            self.canvas = new_canvas(self.dtype)
            self.coefficients = draw(deformation, 0, seed, epoch=0).numpy()
            self.lists = self._deformed(slice(0), np.zeros(0, np.int64), _DEFORM_AND_LIST.prepare)
        else:
            lit = int(np.count_nonzero(self.pixels))
            self.lists = empty_lists(len(self.pixels), lit, self.dtype)
            _LIST_LIT.prepare(self.pixels, self.scale, *self.lists)
        lists = (np.zeros((2, 0), np.int64), *self.lists[1:])
        none = lists, np.zeros(0, np.int64), torch.zeros(0, CLASSES).numpy(), np.zeros(0)
        _MAKE_UPDATES.prepare(self.space, self.norms, self.optimizer, *none, batch_size, 0)

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        rates, size, per_call = np.array(learning_rates), self.batch_size, self.batches_per_call
        self.order, labels = order, self.train.labels[order].numpy()
        starts, updates = range(done, len(rates), per_call), (epoch - 1) * len(rates)
        calls = [slice(start, min(start + per_call, len(rates))) for start in starts]
        all_lists: Iterator[Lists] = map(self._lists, calls)
        if self.deformation:
            # Not in the second thread, where sin and cos would use both cores, and wait for each
            # other.
            self.coefficients = draw(self.deformation, len(order), self.seed, epoch).numpy()
            all_lists = _one_ahead(self._lists, calls)
        for call, lists in zip(calls, all_lists, strict=True):
            rows = slice(call.start * size, call.stop * size)
            batches = (lists, labels[rows], logits[rows].numpy(), rates[call], size)
            before = updates + call.start
            # Moments of weights whose gradient stays 0 decay to denormal numbers, which take a CPU
            # a hundred times as long.
            torch.set_flush_denormal(True)
            try:
                _MAKE_UPDATES.call(self.space, self.norms, self.optimizer, *batches, before)
            finally:
                torch.set_flush_denormal(False)
            for step in self.steps:
                step.fill_(updates + call.stop)
            yield call.stop - 1

    def _lists(self, batches: slice) -> Lists:
        """Layer 1's lists for the examples of these batches."""
        rows = slice(batches.start * self.batch_size, batches.stop * self.batch_size)
        index = self.order[rows].numpy()
        if self.deformation:
            starts, inputs, values = self._deformed(rows, index, _DEFORM_AND_LIST.call)
            return np.stack([starts[:-1], starts[1:]]), inputs, values
        starts, inputs, values = self.lists
        return np.stack([starts[index], starts[index + 1]]), inputs, values

    def _deformed(self, rows: slice, index: Array, deform: Callable[..., Any]) -> Lists:
        """Lists for some rows of the epoch, the images of an index."""
        lists = empty_lists(len(index), len(index) * INPUT_SIZE, self.dtype)
        deform(self.pixels, index, self.scale, self.coefficients[rows], self.canvas, *lists)
        return lists


@torch.no_grad()
def _lay_out(
    model: nn.Sequential, size: int, how: OptimizerSettings
) -> tuple[Workspace, Norms, State]:
    """The arrays that the loop needs; makes the parameters, and the optimizer's state, views."""
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
    running = torch.zeros(3 * sum(widths), dtype=dtype)
    begins, listed = np.zeros((len(pairs), size), np.int64), 0
    keys = ["exp_avg", "exp_avg_sq"] if how.adaptive else ["momentum_buffer"] * (how.momentum > 0)
    state: State = {}
    for k, (linear, norm) in enumerate(pairs):
        tables = torch.split(flat, sizes, dim=1)[k].view(4, heights[k], widths[k])
        tables = tables[:, :, : linear.out_features]
        views = [tables[:, 0], tables[:, 1 : 1 + linear.in_features].transpose(1, 2)]
        parameters = [linear.bias, linear.weight]
        if norm:
            views += [tables[:, -2], tables[:, -1]]
            parameters += [norm.weight, norm.bias]
            rows = torch.split(running, [3 * width for width in widths])[k].view(3, -1)
            mean, variance, _ = rows[:, : linear.out_features]
            norm.running_mean = mean.copy_(norm.running_mean)
            norm.running_var = variance.copy_(norm.running_var)
        for parameter, (theta, _, *moments) in zip(parameters, views, strict=True):
            parameter.data = theta.copy_(parameter)
            state[parameter] = dict(zip(keys, moments, strict=False))
            if how.adaptive:
                state[parameter]["step"] = torch.zeros(())
        if k > 0:
            begins[k] = listed + np.arange(size) * heights[k]
            listed += size * heights[k]
    z, normal = torch.zeros(2, size * sum(widths), dtype=dtype).numpy()
    space = Workspace(
        heights=np.array([heights, [size] * len(pairs), [3] * len(pairs)]),
        widths=np.array(widths),
        theta=flat[0].numpy(),
        gradient=flat[1].numpy(),
        moments=flat[2:].numpy(),
        z=z,
        begins=begins,
        ends=begins.copy(),
        inputs=np.zeros(listed, np.uint16),
        values=torch.zeros(listed, dtype=dtype).numpy(),
    )
    norms = (normal, running.numpy()) if any(norm for _, norm in pairs) else None
    return space, norms, state


def _one_ahead(function: Callable[[slice], Lists], items: list[slice]) -> Iterator[Lists]:
    """The function of each item in turn. While one is used, a thread computes the next."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for item in [*items, None]:
            following = thread.submit(function, item) if item else None
            if pending:
                yield pending.result()
            pending = following
