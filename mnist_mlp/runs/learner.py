"""From a config to a network and what trains it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.config import Config
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.state import optimizer_state, restore_optimizer, source_networks
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, Split
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer, learning_rates
from mnist_mlp.steps.train import TorchUpdates, Updates
from mnist_mlp.updates.deformation import Deformation
from mnist_mlp.updates.fused import FusedUpdates
from mnist_mlp.updates.graphed import GraphedUpdates
from mnist_mlp.updates.ranks import processes
from mnist_mlp.updates.regularized import RegularizedUpdates, WeightAverage, named_floats
from mnist_mlp.updates.shared import SharedUpdates


@dataclass(frozen=True)
class Learner:
    """A network under training, the way its updates are made, and their learning rates."""

    config: Config
    model: nn.Sequential
    average: WeightAverage | None
    optimizer: Optimizer | None
    updates: Updates
    learning_rates: Iterator[float]
    backward: str
    """How gradients are computed: fused, chain_rule or autograd."""

    def state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint that only training needs."""
        moments = optimizer_state(self.optimizer, self.model) if self.optimizer else {}
        return moments | {
            f"{kind}.{name}": tensor
            for kind, network in self._sources().items()
            for name, tensor in named_floats(network).items()
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put back the network and the state that a checkpoint holds.

        Raises:
            KeyError, ValueError: The checkpoint's tensors are not those of this config.
        """
        state = {name: t for name, t in checkpoint.training.items() if name != "losses"}
        if not self.config.model.batch_norm:
            self.updates.network().load_state_dict(checkpoint.model.state_dict())
        for kind, network in self._sources().items():
            for name, tensor in named_floats(network).items():
                tensor.copy_(state.pop(f"{kind}.{name}"))
        if self.optimizer:
            restore_optimizer(self.optimizer, self.model, state)

    def _sources(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"model": self.model}
        if self.average:
            networks["average"] = self.average.model
        return {kind: networks[kind] for kind in source_networks(self.config)}


def assemble(config: Config, data: Dataset) -> Learner:
    """Build the network of a config, on the data's device, and what trains it."""
    device = data.train.labels.device
    sizes, activation = config.model.layer_sizes, config.model.activation
    model = build_mlp(sizes, activation, config.seed, batch_norm=config.model.batch_norm).to(device)
    average = WeightAverage(model, config.optimizer.average) if config.optimizer.average else None
    optimizer = None
    backward = "fused" if is_fusible(config) and device.type == "cpu" else _backward(config)
    if backward == "fused":
        updates: Updates = FusedUpdates(model, data.train, config.train.batch_size)
    else:
        # Built only here, since PyTorch's optimizers import its compiler, which takes a second.
        optimizer = build_optimizer(
            model.parameters(),
            **config.optimizer.model_dump(exclude={"average"}),
            graphed=_is_graphed(config, device),
        )
        updates = _torch_updates(config, model, optimizer, average, data.train)
    batches = math.ceil(len(data.train.labels) / config.train.batch_size)
    schedule = config.schedule
    rates = learning_rates(
        schedule.name,
        config.optimizer.learning_rate,
        updates=config.train.epochs * batches,
        step_updates=schedule.step_epochs * batches,
        gamma=schedule.gamma,
        warmup_fraction=schedule.warmup_fraction,
    )
    return Learner(config, model, average, optimizer, updates, rates, backward)


def _torch_updates(
    config: Config,
    model: nn.Sequential,
    optimizer: Optimizer,
    average: WeightAverage | None,
    train: Split,
) -> Updates:
    """The way to make updates with a PyTorch optimizer."""
    backward = chain_rule(model) if _backward(config) == "chain_rule" else autograd(model)
    size = config.train.batch_size
    if _is_graphed(config, train.labels.device):
        return GraphedUpdates(model, optimizer, backward, train, size)
    if _is_plain(config) and processes() == 1:
        return TorchUpdates(model, optimizer, backward, train, size)
    amounts = config.augment.model_dump()
    deformation = Deformation(**amounts) if any(amounts.values()) else None
    kind = SharedUpdates if processes() > 1 else RegularizedUpdates
    return kind(
        model,
        optimizer,
        backward,
        train,
        size,
        deformation=deformation,
        average=average,
        seed=config.seed,
    )


def is_fusible(config: Config) -> bool:
    """Whether the updates are the lesson's formula and nothing else, in a single process."""
    how = config.optimizer
    return (
        config.train.backward == "auto"
        and config.model.is_linear_relu_stack
        and how.name == "sgd"
        and not (how.momentum or how.weight_decay)
        and _is_plain(config)
        and processes() == 1
    )


def _backward(config: Config) -> str:
    """How PyTorch updates compute gradients."""
    if config.train.backward != "auto":
        return config.train.backward
    return "chain_rule" if config.model.is_linear_relu_stack else "autograd"


def _is_graphed(config: Config, device: torch.device) -> bool:
    return device.type == "cuda" and _is_plain(config) and processes() == 1


def _is_plain(config: Config) -> bool:
    """Whether images, layers and weights are used as they are."""
    deforms = any(config.augment.model_dump().values())
    return not (deforms or config.model.batch_norm or config.optimizer.average)
