"""Updates on a CPU by the compiled loop of `loop.py`, on one thread.

Numba keeps the machine code in `__pycache__`, or in the user's cache folder, as Python keeps its
own. It is a pickle of code, the only pickle that is ever read.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from mnist_mlp.constants import CLASSES
from mnist_mlp.steps.data import Split, to_images
from mnist_mlp.steps.train import Updater
from mnist_mlp.updates.deformation import Deformation
from mnist_mlp.updates.lit import list_deformed, list_lit
from mnist_mlp.updates.loop import OPTIONS, Lists, Network, Norms, Optimizer, make_updates

REGISTER = 16
"""Float32 numbers in the widest vector register, AVX-512's."""
SMALL_BATCH = 16
"""Up to so many examples, plain gradient descent adds each example's gradient to the weights."""
WORK_PER_CALL = 100_000_000
"""Weights × examples after which the loop returns, in some milliseconds: signals are heard then."""


class _Kept:
    """A compiled function whose machine code is kept on disk, where that is possible."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        try:
            self.compiled: Any = numba.njit(cache=True, **OPTIONS)(function)
        except RuntimeError:  # no folder can be written to
            self.compiled = numba.njit(**OPTIONS)(function)

    def prepare(self, *arguments: Any) -> Any:
        """Call the function for the first time, which compiles it."""
        try:
            return self.compiled(*arguments)
        except Exception:  # what was kept is damaged, or the disk is full: do without
            with suppress(Exception):
                self.compiled._cache.flush()
            self.compiled = numba.njit(**OPTIONS)(self.function)
            return self.compiled(*arguments)


_MAKE_UPDATES, _LIST_LIT = _Kept(make_updates), _Kept(list_lit)
_LIST_DEFORMED = _Kept(list_deformed)


class CompiledUpdater(Updater):
    """Updates of a stack of Linear, BatchNorm1d if any, and ReLU, by `make_updates`.

    Args:
        model: As `build_mlp` makes it, on the CPU. Its parameters become views of one tensor.
        optimizer: Step 7's settings.
        train: The training split.
        batch_size: Examples in an update.
        deformation: Deforms the images, in a second thread that is one batch ahead.
        seed: Decides the deformation.
        every_batch: Yield after every batch, instead of after some milliseconds.

    Raises:
        ValueError: The model is of another kind.
    """

    def __init__(
        self,
        model: nn.Sequential,
        optimizer: Optimizer,
        train: Split,
        batch_size: int,
        *,
        deformation: Deformation | None = None,
        seed: int = 0,
        every_batch: bool = False,
    ) -> None:
        kinds = (nn.Flatten, nn.Linear, nn.BatchNorm1d, nn.ReLU)
        if not all(type(module) in kinds for module in model):
            raise ValueError("the compiled loop is for Linear, BatchNorm1d and ReLU")
        plain = not (optimizer.adaptive or optimizer.momentum or optimizer.weight_decay)
        self.optimizer = None if plain and batch_size <= SMALL_BATCH else optimizer
        self.model, self.train = model, train
        self.batch_size, self.deformation, self.seed = batch_size, deformation, seed
        self.net, self.norms, self.state = _lay_out(model, batch_size, optimizer)
        work = WORK_PER_CALL // (len(self.net.theta) * batch_size)
        self.batches_per_call = 1 if deformation or every_batch else max(1, work)
        pixels = train.pixels[:0] if deformation else train.pixels
        scale = 255.0 if pixels.dtype == torch.uint8 else 1.0
        lists = _LIST_LIT.prepare(pixels.numpy(), scale, self.net.theta)
        self.starts, self.inputs, self.values = lists
        lit = (np.zeros((2, 0), np.int64), self.inputs, self.values)
        labels, logits, rates = np.zeros(0, np.int64), torch.zeros(0, CLASSES).numpy(), np.zeros(0)
        how, size = self.optimizer, batch_size
        _MAKE_UPDATES.prepare(self.net, self.norms, how, lit, labels, logits, rates, size, 0)

    def run_epoch(
        self, epoch: int, order: Tensor, learning_rates: Sequence[float], done: int, logits: Tensor
    ) -> Iterator[int]:
        """See `Updater`."""
        rates, size, per_call = np.array(learning_rates), self.batch_size, self.batches_per_call
        self.order, labels = order, self.train.labels[order].numpy()
        starts = range(done, len(rates), per_call)
        calls = [slice(start, min(start + per_call, len(rates))) for start in starts]
        lists: Iterator[Lists] = map(self._lists, calls)
        if self.deformation:
            self.noise = self.deformation.sample(len(order), self.seed, epoch)
            self.maps = self.deformation.maps(self.noise).permute(2, 0, 1).contiguous()
            lists = _one_ahead(self._lists, calls)
        for call, lit in zip(calls, lists, strict=True):
            rows = slice(call.start * size, call.stop * size)
            before = (epoch - 1) * len(rates)
            # Moments of weights whose gradient stays 0 decay to denormal numbers, which take a CPU
            # a hundred times as long.
            torch.set_flush_denormal(True)
            _MAKE_UPDATES.compiled(
                self.net, self.norms, self.optimizer, lit, labels[rows], logits[rows].numpy(),
                rates[call], size, before + call.start,
            )  # fmt: skip
            torch.set_flush_denormal(False)
            for state in self.state.values():
                if "step" in state:
                    state["step"].fill_(before + call.stop)
            yield call.stop - 1

    def _lists(self, batches: slice) -> Lists:
        """Layer 1's lists for the examples of these batches."""
        rows = slice(batches.start * self.batch_size, batches.stop * self.batch_size)
        index = self.order[rows]
        if not self.deformation:
            i = index.numpy()
            return np.stack([self.starts[i], self.starts[i + 1]]), self.inputs, self.values
        pixels, like = self.train.pixels, self.net.theta
        if self.deformation.elastic or pixels.dtype != torch.uint8:
            images = self.deformation(to_images(pixels[index]), self.noise[rows])
            starts, inputs, values = _LIST_LIT.prepare(images.numpy(), 1.0, like)
        else:
            arrays = (pixels.numpy(), index.numpy(), self.maps[rows].numpy())
            starts, inputs, values = _LIST_DEFORMED.prepare(*arrays, like)
        return np.stack([starts[:-1], starts[1:]]), inputs, values


State = dict[Tensor, dict[str, Tensor]]
"""What the optimizer keeps for each parameter, as `torch.optim.Optimizer.state` has it."""


@torch.no_grad()
def _lay_out(model: nn.Sequential, size: int, how: Optimizer) -> tuple[Network, Norms, State]:
    """The arrays that the loop needs; makes the parameters, and the optimizer's state, views."""
    pairs = [
        (module, after if isinstance(after, nn.BatchNorm1d) else None)
        for module, after in pairwise([*model, None])
        if isinstance(module, nn.Linear)
    ]
    dtype = pairs[0][0].weight.dtype
    widths = [-(-linear.out_features // REGISTER) * REGISTER for linear, _ in pairs]
    heights = [1 + linear.in_features + 2 * bool(norm) for linear, norm in pairs]
    sizes = [height * width for height, width in zip(heights, widths, strict=True)]
    flat = torch.zeros(4, sum(sizes), dtype=dtype)  # θ, its gradient, two moments
    running = torch.zeros(3 * sum(widths), dtype=dtype)
    begins, listed = np.zeros((len(pairs), size), np.int64), 0
    keys = ["exp_avg", "exp_avg_sq"] if how.adaptive else ["momentum_buffer"]
    state: State = {}
    for k, (linear, norm) in enumerate(pairs):
        tables = torch.split(flat, sizes, dim=1)[k].view(4, heights[k], widths[k])
        tables = tables[:, :, : linear.out_features]
        last = 1 + linear.in_features
        views = [tables[:, 0], tables[:, 1:last].transpose(1, 2)]
        parameters = [linear.bias, linear.weight]
        if norm:
            views += [tables[:, last], tables[:, last + 1]]
            parameters += [norm.weight, norm.bias]
            rows = torch.split(running, [3 * width for width in widths])[k].view(3, -1)
            mean, variance, _ = rows[:, : linear.out_features]
            norm.running_mean = mean.copy_(norm.running_mean)
            norm.running_var = variance.copy_(norm.running_var)
        for parameter, (theta, _, *moments) in zip(parameters, views, strict=True):
            parameter.data = theta.copy_(parameter)
            state[parameter] = {}
            if how.adaptive or how.momentum:
                state[parameter] = dict(zip(keys, moments, strict=False))
            if how.adaptive:
                state[parameter]["step"] = torch.zeros(())
        if k > 0:
            begins[k] = listed + np.arange(size) * heights[k]
            listed += size * heights[k]
    z, normal = torch.zeros(2, size * sum(widths), dtype=dtype).numpy()
    net = Network(
        shapes=np.stack([heights, widths], axis=1),
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
    return net, norms, state


def _one_ahead(function: Callable[[slice], Lists], items: list[slice]) -> Iterator[Lists]:
    """The function of each item in turn. While one is used, a thread computes the next."""
    with ThreadPoolExecutor(1) as thread:
        pending = None
        for item in [*items, None]:
            following = thread.submit(function, item) if item else None
            if pending:
                yield pending.result()
            pending = following
