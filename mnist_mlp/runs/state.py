"""What training needs to go on besides the trained network: its tensors, by name.

The network that is saved for use is averaged and has batch normalisation folded in. Where these
change it, the networks that it was made from are saved too, as `model` and `average`.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.config import Config
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.updates.regularized import named_floats


def source_networks(config: Config) -> list[str]:
    """The networks to save besides the one for use: `model`, which is trained, and `average`."""
    averages, folds = config.optimizer.average > 0, config.model.batch_norm
    return ["model"] * (averages or folds) + ["average"] * (averages and folds)


def empty_network(config: Config, *, batch_norm: bool = False) -> nn.Sequential:
    """A config's network without memory for its numbers (on PyTorch's meta device)."""
    model = config.model
    with torch.device("meta"):
        return build_mlp(
            model.layer_sizes, model.activation, batch_norm=batch_norm and model.batch_norm
        )


def state_shapes(config: Config) -> dict[str, list[int]]:
    """The name and shape of each tensor that training of a config remembers."""
    trained = empty_network(config, batch_norm=True)
    shapes = {
        f"optimizer.{name}.{key}": [] if key == "step" else list(parameter.shape)
        for name, parameter in trained.named_parameters()
        for key in _optimizer_keys(config.optimizer.name, config.optimizer.momentum)
    }
    return shapes | {
        f"{kind}.{name}": list(tensor.shape)
        for kind in source_networks(config)
        for name, tensor in named_floats(trained).items()
    }


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """An optimizer's moments and step counts, as `optimizer.<parameter>.<key>`."""
    return {
        f"optimizer.{name}.{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: Optimizer, model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave.

    Raises:
        ValueError: A name or a shape is not one that this optimizer has for this model.
    """
    momentum = optimizer.defaults.get("momentum", 0.0)
    keys = _optimizer_keys(type(optimizer).__name__.lower(), momentum)
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


def _optimizer_keys(name: str, momentum: float) -> tuple[str, ...]:
    """PyTorch's names for what an optimizer remembers of each parameter."""
    if name == "sgd":
        return ("momentum_buffer",) if momentum else ()
    return ("step", "exp_avg", "exp_avg_sq")
