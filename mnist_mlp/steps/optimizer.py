"""Step 7: W ← W − learning_rate · ∂L/∂W, b likewise.

That line is `torch.optim.SGD`. Momentum, Adam, AdamW and the schedules are torch.optim's too.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR, StepLR


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
    """An optimizer by name: sgd, adam or adamw; what it has no use for is ignored.

    With `graphed`, for `GraphedUpdates`, its learning rate is a tensor beside the parameters.
    """
    parameters = list(parameters)
    rate = torch.tensor(learning_rate, device=parameters[0].device) if graphed else learning_rate
    if name == "sgd":
        return SGD(
            parameters,
            lr=rate,
            momentum=momentum,
            nesterov=nesterov and momentum > 0,
            weight_decay=weight_decay,
            # One pass over the numbers instead of several; plain SGD is one pass anyway.
            fused=graphed or momentum > 0,
        )
    adaptive: type[Adam] = {"adam": Adam, "adamw": AdamW}[name]
    return adaptive(parameters, lr=rate, weight_decay=weight_decay, fused=True, capturable=graphed)


def learning_rates(
    name: str,
    learning_rate: float,
    updates: int,
    step_updates: int = 1,
    gamma: float = 0.1,
    warmup_fraction: float = 0.3,
) -> Iterator[float]:
    """The learning rate of each update, in turn, under a schedule by name.

    Args:
        name: constant, step, cosine or one_cycle.
        learning_rate: The highest.
        updates: Updates of the whole run.
        step_updates: Updates between two drops (step).
        gamma: The factor of each drop (step).
        warmup_fraction: The part of the run in which the learning rate rises (one_cycle).
    """
    if name == "constant":
        return repeat(learning_rate, updates)
    carrier = _Carrier(learning_rate)
    schedule: LRScheduler
    if name == "step":
        schedule = StepLR(carrier, step_size=step_updates, gamma=gamma)
    elif name == "cosine":
        schedule = CosineAnnealingLR(carrier, T_max=updates)
    elif name == "one_cycle":
        schedule = OneCycleLR(
            carrier,
            max_lr=learning_rate,
            total_steps=updates,
            # A rise of one update has no slope: OneCycleLR would divide by 0.
            pct_start=warmup_fraction if warmup_fraction * updates > 1 else 0.0,
            cycle_momentum=False,  # momentum stays what the config says
        )
    else:
        raise ValueError(f"no schedule is called {name!r}")

    carrier.step()  # a schedule warns where its optimizer never does

    def rates() -> Iterator[float]:
        for _ in range(updates):
            yield float(carrier.param_groups[0]["lr"])
            schedule.step()

    return rates()


class _Carrier(Optimizer):
    """What a schedule writes its rate to: an optimizer of nothing.

    One that has parameters imports PyTorch's compiler to take them in, which is a second lost.
    """

    def __init__(self, learning_rate: float) -> None:
        self.param_groups = [{"lr": learning_rate}]

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        """Nothing."""


class WeightAverage:
    """A running average of a model's weights, which varies less than they do from update to update.

    After update k it moves by 1 − min(decay, (1 + k) / (10 + k)) of the way to the weights: at
    first, when they are far from where they will be, in large steps.
    """

    def __init__(self, model: nn.Sequential, decay: float) -> None:
        self.model, self.decay = copy.deepcopy(model), decay
        self._from, self._to = ([t for _, t in named_floats(m)] for m in (model, self.model))

    @torch.no_grad()
    def update(self, k: int) -> None:
        """Take in what update k made, counted from 1."""
        step = 1 - min(self.decay, (1 + k) / (10 + k))
        torch._foreach_lerp_(self._to, self._from, step)


def named_floats(model: nn.Module) -> list[tuple[str, Tensor]]:
    """A model's parameters and buffers by name, detached, less what only counts batches."""
    return [(name, t) for name, t in model.state_dict().items() if t.is_floating_point()]


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What an optimizer remembers, by `optimizer.<parameter>.<what>`: moments, step counts."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def remembered(name: str, momentum: float) -> tuple[str, ...]:
    """What an optimizer, by name, keeps for each parameter: PyTorch's names for its state."""
    if name == "sgd":
        return ("momentum_buffer",) if momentum else ()
    return ("step", "exp_avg", "exp_avg_sq")


def restore_optimizer(optimizer: Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave.

    Raises:
        ValueError: A name or a shape is not one that this optimizer has for this model.
    """
    momentum = optimizer.defaults.get("momentum", 0.0)
    keys = remembered(type(optimizer).__name__.lower(), momentum)
    left = dict(state)
    for name, parameter in model.named_parameters():
        for key in keys:
            value = left.pop(f"optimizer.{name}.{key}", None)
            shape = torch.Size() if key == "step" else parameter.shape
            if value is None or value.shape != shape or value.dtype != torch.float32:
                raise ValueError(f"{name}.{key}")
            optimizer.state[parameter][key] = value.to(parameter.device)
    if left:
        raise ValueError(next(iter(left)))
