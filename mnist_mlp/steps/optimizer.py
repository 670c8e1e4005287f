"""Step 7: W ← W − learning_rate · ∂L/∂W, b likewise.

`GradientDescent` is that line. Momentum, Adam, AdamW and the schedules are PyTorch's.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR


class GradientDescent(Optimizer):
    """The lesson's update; `torch.optim.SGD` without momentum or weight decay, and only `step`."""

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        # `Optimizer.__init__` would import PyTorch's compiler, which takes a second.
        self.param_groups = [{"params": list(parameters), "lr": learning_rate}]
        self.state = defaultdict(dict)

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """W ← W − learning_rate · ∂L/∂W for every parameter."""
        for weight in self.param_groups[0]["params"]:
            weight.sub_(weight.grad, alpha=self.param_groups[0]["lr"])


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    name: str = "sgd",
    learning_rate: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
    *,
    graphed: bool = False,
) -> Optimizer:
    """An optimizer: sgd, adam or adamw. Settings that it does not have are ignored.

    With `graphed` it can be recorded in a CUDA graph: its learning rate is a tensor.
    """
    parameters = list(parameters)
    if name == "sgd" and not (momentum or weight_decay or graphed):
        return GradientDescent(parameters, learning_rate)
    rate = torch.tensor(learning_rate, device=parameters[0].device) if graphed else learning_rate
    # Fused: one pass over the weights instead of several.
    how: dict[str, Any] = {"lr": rate, "weight_decay": weight_decay, "fused": True}
    if name == "sgd":
        return SGD(parameters, momentum=momentum, nesterov=nesterov and momentum > 0, **how)
    return (Adam if name == "adam" else AdamW)(parameters, capturable=graphed, **how)


def learning_rates(
    name: str,
    learning_rate: float,
    updates: int,
    step_updates: int = 1,
    gamma: float = 0.1,
    warmup_fraction: float = 0.3,
) -> Iterator[float]:
    """The learning rate of each update of a run, under a schedule by name.

    Over the `updates` of the whole run, `constant` keeps learning_rate, `step` multiplies it by
    gamma every step_updates, `cosine` lowers it towards 0, and `one_cycle` raises it to
    learning_rate over the warmup_fraction of the run, then lowers it.
    """
    if name == "constant":
        yield from repeat(learning_rate, updates)
        return
    holder = GradientDescent([], learning_rate)
    schedule: LRScheduler
    if name == "step":
        schedule = StepLR(holder, step_size=step_updates, gamma=gamma)
    elif name == "cosine":
        schedule = CosineAnnealingLR(holder, T_max=updates)
    elif name == "one_cycle":
        schedule = OneCycleLR(
            holder,
            max_lr=learning_rate,
            total_steps=updates,
            # OneCycleLR divides by the length of the rise less one update: it must not be one.
            pct_start=warmup_fraction if warmup_fraction * updates > 1 else 0.0,
            cycle_momentum=False,
        )
    else:
        raise ValueError(f"no schedule is called {name!r}")
    holder.step()  # a schedule warns if its optimizer never took a step
    for _ in range(updates):
        yield float(holder.param_groups[0]["lr"])
        schedule.step()
