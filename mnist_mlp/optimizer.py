"""Step 7: W ← W − learning_rate · ∂L/∂W, b likewise.

That line is `torch.optim.SGD`. Momentum, Adam, AdamW and the schedules are torch.optim's too.
"""

import warnings
from collections.abc import Iterable, Mapping

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
) -> Optimizer:
    """An optimizer by name: sgd, adam or adamw; what it has no use for is ignored."""
    if name == "sgd":
        return SGD(
            parameters,
            lr=learning_rate,
            momentum=momentum,
            nesterov=nesterov and momentum > 0,
            weight_decay=weight_decay,
        )
    adaptive: type[Adam] = {"adam": Adam, "adamw": AdamW}[name]
    return adaptive(parameters, lr=learning_rate, weight_decay=weight_decay)


def build_schedule(
    optimizer: Optimizer,
    name: str,
    updates: int,
    step_updates: int = 1,
    gamma: float = 0.1,
    warmup_fraction: float = 0.3,
) -> LRScheduler | None:
    """A schedule by name, stepped once an update; None for constant.

    Args:
        optimizer: Its learning rate is the schedule's highest.
        name: constant, step, cosine or one_cycle.
        updates: Updates of the whole run.
        step_updates: Updates between two drops (step).
        gamma: The factor of each drop (step).
        warmup_fraction: The part of the run in which the learning rate rises (one_cycle).
    """
    if name == "step":
        return StepLR(optimizer, step_size=step_updates, gamma=gamma)
    if name == "cosine":
        return CosineAnnealingLR(optimizer, T_max=updates)
    if name == "one_cycle":
        return OneCycleLR(
            optimizer,
            max_lr=optimizer.param_groups[0]["lr"],
            total_steps=updates,
            # A rise of one update has no slope: OneCycleLR would divide by 0.
            pct_start=warmup_fraction if warmup_fraction * updates > 1 else 0.0,
            cycle_momentum=False,  # momentum stays what the config says
        )
    if name == "constant":
        return None
    raise ValueError(f"no schedule is called {name!r}")


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What an optimizer remembers, by `<parameter>.<what>`: moments, momentum, step counts."""
    return {
        f"{name}.{key}": value
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
            value = left.pop(f"{name}.{key}", None)
            shape = torch.Size() if key == "step" else parameter.shape
            if value is None or value.shape != shape or value.dtype != torch.float32:
                raise ValueError(f"{name}.{key}")
            device = "cpu" if key == "step" else parameter.device
            optimizer.state[parameter][key] = value.to(device)
    if left:
        raise ValueError(next(iter(left)))


def advance(schedule: LRScheduler | None, updates: int) -> None:
    """Bring a fresh schedule, and so its optimizer's learning rate, to where it is after updates.

    Every schedule here is a function of the number of updates, reached by the same steps.
    """
    if schedule:
        with warnings.catch_warnings():  # that no update was made here is the point
            warnings.filterwarnings("ignore", message="Detected call of .lr_scheduler")
            for _ in range(updates):
                schedule.step()
