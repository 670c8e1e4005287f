"""From a config to a network and what trains it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from mnist_mlp.config import Config
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.state import source_networks, state_shapes
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer, learning_rates
from mnist_mlp.steps.train import TorchUpdater, Updater
from mnist_mlp.updates.deformation import Deformation
from mnist_mlp.updates.fused import FusedUpdater
from mnist_mlp.updates.graphed import GraphedUpdater
from mnist_mlp.updates.ranks import processes
from mnist_mlp.updates.regularized import RegularizedUpdater, WeightAverage, named_floats
from mnist_mlp.updates.shared import SharedUpdater


@dataclass(frozen=True)
class Learner:
    """A network under training, the way its updates are made, and their learning rates."""

    config: Config
    model: nn.Sequential
    average: WeightAverage | None
    optimizer: Optimizer | None
    updater: Updater
    learning_rates: Iterator[float]
    backward: str
    """How gradients are computed: fused, chain_rule or autograd."""

    def state(self) -> dict[str, Tensor]:
        """The tensors that only training needs: optimizer state, and the source networks."""
        state = {
            f"{kind}.{name}": tensor
            for kind, network in self._sources().items()
            for name, tensor in named_floats(network).items()
        }
        if self.optimizer:
            for name, parameter in self.model.named_parameters():
                for key, value in self.optimizer.state[parameter].items():
                    if isinstance(value, Tensor):
                        state[f"optimizer.{name}.{key}"] = value
        return state

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put back the network and the state that a checkpoint of the same config holds.

        Raises:
            ValueError: The checkpoint has no state to resume from.
        """
        if missing := state_shapes(self.config).keys() - checkpoint.training.keys():
            raise ValueError(f"no {min(missing)}")
        # With batch norm folded in, the network for use cannot be put back, and need not be.
        if not self.config.model.batch_norm:
            self.updater.network().load_state_dict(checkpoint.model.state_dict())
        for kind, network in self._sources().items():
            for name, tensor in named_floats(network).items():
                tensor.copy_(checkpoint.training[f"{kind}.{name}"])
        for name, value in checkpoint.training.items():
            if self.optimizer and name.startswith("optimizer."):
                parameter, _, key = name.removeprefix("optimizer.").rpartition(".")
                weights = self.model.get_parameter(parameter)
                self.optimizer.state[weights][key] = value.to(weights.device)

    def _sources(self) -> dict[str, nn.Module]:
        networks: dict[str, nn.Module] = {"model": self.model}
        if self.average:
            networks["average"] = self.average.model
        return {kind: networks[kind] for kind in source_networks(self.config)}


def assemble(config: Config, data: Dataset) -> Learner:
    """Build the network of a config, on the data's device, and what trains it."""
    device, size = data.train.labels.device, config.train.batch_size
    sizes, activation = config.model.layer_sizes, config.model.activation
    model = build_mlp(sizes, activation, config.seed, batch_norm=config.model.batch_norm).to(device)
    average = WeightAverage(model, config.optimizer.average) if config.optimizer.average else None
    kind = updater_class(config, device.type)
    optimizer: Optimizer | None = None
    updater: Updater
    if issubclass(kind, FusedUpdater):
        backward, updater = "fused", kind(model, data.train, size)
    else:
        # PyTorch's optimizers import its compiler, which takes a second: only where one is needed.
        optimizer = build_optimizer(
            model.parameters(),
            **config.optimizer.model_dump(exclude={"average"}),
            graphed=kind is GraphedUpdater,
        )
        by_hand = config.train.backward != "autograd" and config.model.is_linear_relu_stack
        backward, gradients = (
            ("chain_rule", chain_rule(model)) if by_hand else ("autograd", autograd(model))
        )
        extras: dict[str, Any] = {}
        if issubclass(kind, RegularizedUpdater):
            extras = {"average": average, "seed": config.seed, "deformation": _deformation(config)}
        updater = kind(model, optimizer, gradients, data.train, size, **extras)
    batches = math.ceil(len(data.train.labels) / size)
    schedule = config.schedule
    rates = learning_rates(
        schedule.name,
        config.optimizer.learning_rate,
        updates=config.train.epochs * batches,
        step_updates=schedule.step_epochs * batches,
        gamma=schedule.gamma,
        warmup_fraction=schedule.warmup_fraction,
    )
    return Learner(config, model, average, optimizer, updater, rates, backward)


def updater_class(config: Config, device: str) -> type[TorchUpdater] | type[FusedUpdater]:
    """The updater for a config: by the number of processes, its options, and cpu or cuda."""
    how = config.optimizer
    if processes() > 1:
        return SharedUpdater
    if _deformation(config) or config.model.batch_norm or how.average:
        return RegularizedUpdater
    if device == "cuda":
        return GraphedUpdater
    plain = how.name == "sgd" and not (how.momentum or how.weight_decay)
    if plain and config.train.backward == "auto" and config.model.is_linear_relu_stack:
        return FusedUpdater
    return TorchUpdater


def _deformation(config: Config) -> Deformation | None:
    amounts = config.augment.model_dump()
    return Deformation(**amounts) if any(amounts.values()) else None
