"""The tensors that a checkpoint holds besides its network: names and shapes, from the config alone.

So a file's header can be checked. The network that is saved for use is averaged and has batch
normalisation folded in. The networks that it was made from are saved too.
"""

import torch
from torch import nn

from mnist_mlp.config import Config
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.updates.regularized import named_floats


def source_networks(config: Config) -> list[str]:
    """The names of the networks to save besides the one for use.

    `model` is trained, `average` follows it. Whichever is used unchanged is not saved twice.
    """
    if config.model.batch_norm:
        return ["model", "average"] if config.optimizer.average else ["model"]
    return ["model"] if config.optimizer.average else []


def empty_network(config: Config, *, batch_norm: bool = False) -> nn.Sequential:
    """A config's network without memory for its numbers (on PyTorch's meta device)."""
    with torch.device("meta"):
        return build_mlp(config.model.layer_sizes, config.model.activation, batch_norm=batch_norm)


def state_shapes(config: Config, updates: int) -> dict[str, list[int]]:
    """The shape of each tensor that only training needs, as `Learner.state` names them.

    Before the first update an optimizer has no state.
    """
    trained = empty_network(config, batch_norm=config.model.batch_norm)
    momentum = ("momentum_buffer",) if config.optimizer.momentum else ()
    keys = momentum if config.optimizer.name == "sgd" else ("step", "exp_avg", "exp_avg_sq")
    shapes = {
        f"optimizer.{name}.{key}": [] if key == "step" else list(parameter.shape)
        for name, parameter in trained.named_parameters()
        for key in (keys if updates else ())
    }
    return shapes | {
        f"{kind}.{name}": list(tensor.shape)
        for kind in source_networks(config)
        for name, tensor in named_floats(trained).items()
    }
