"""From a config to a network and what trains it."""

import math
import re
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn

from mnist_mlp.config import Config
from mnist_mlp.constants import TRAINING_EXAMPLES
from mnist_mlp.errors import UsageError
from mnist_mlp.runs.checkpoint import Checkpoint, state_shapes, with_prefix
from mnist_mlp.steps.backprop import autograd, chain_rule, is_linear_relu_stack
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer, learning_rates
from mnist_mlp.steps.train import Updater
from mnist_mlp.updates.deformation import Deformation, DeformingUpdater
from mnist_mlp.updates.graphed import GraphedUpdater
from mnist_mlp.updates.ranks import processes
from mnist_mlp.updates.shared import SharedUpdater

UpdaterKind = Literal["compiled", "graphed", "shared", "torch"]
OptimizerState = MutableMapping[Any, dict[str, Tensor]]
"""For each parameter, what the optimizer keeps, by name; as `torch.optim.Optimizer.state`."""
Made = tuple[Updater, OptimizerState, str]
"""How updates are made, the optimizer's state, and how gradients are computed."""
WIDE_WEIGHTS, WIDE_BATCH = 400_000, 256
"""For networks of more weights, with batches of at least so many, PyTorch's products are faster."""
MAX_WIDTH = 65_000  # the compiled loop counts a layer's inputs in 16 bits
MAX_LAYERS = 16  # the loop takes seconds to compile for each number of layers, minutes for 100
SHORT_EXAMPLES, SHORT_UPDATES = 10_000, 500
"""An epoch of fewer examples and updates is over sooner than the compiled loop is loaded."""


@dataclass(frozen=True)
class Learner:
    """A network under training, the way its updates are made, and their learning rates."""

    config: Config
    model: nn.Sequential
    updater: Updater
    optimizer_state: OptimizerState
    learning_rates: Iterator[float]
    backward: str  # how gradients are computed: compiled, chain_rule or autograd
    compiler_problem: str | None  # why updates are not compiled though they should be

    def state(self, updates: int) -> dict[str, Tensor]:
        """Tensors that only training needs: with batch norm the network's, then the optimizer's."""
        state = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer_state[parameter].items():
                state[f"optimizer.{name}.{key}"] = value
        return {name: state[name] for name in state_shapes(self.config, updates)}

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put back what a checkpoint of the same config holds; a ValueError if that lacks state."""
        needed = state_shapes(self.config, checkpoint.update)
        if missing := needed.keys() - checkpoint.training.keys():
            raise ValueError(f"no {min(missing)}")
        # With batch norm folded in, the network for use cannot be put back, and need not be.
        if not self.config.model.batch_norm:
            self.updater.network().load_state_dict(checkpoint.model.state_dict())
        for name, tensor in self.state(0).items():
            tensor.copy_(checkpoint.training[name])
        for name, value in with_prefix("optimizer.", checkpoint.training).items():
            parameter, _, key = name.rpartition(".")
            weights = self.model.get_parameter(parameter)
            kept = self.optimizer_state[weights].setdefault(key, value.to(weights.device))
            kept.copy_(value)


def assemble(config: Config, data: Dataset, weights: Mapping[str, Tensor] | None = None) -> Learner:
    """A config's network on the data's device, with these weights or new ones; what trains it."""
    device = data.train.labels.device

    def new_model() -> nn.Sequential:
        model = build_mlp(**config.model.model_dump(), seed=config.seed)
        for name, tensor in (weights or {}).items():
            model.state_dict()[name].copy_(tensor)
        return model.to(device)

    model, made, problem = new_model(), None, None
    kind = updater_kind(config, device.type)
    if kind == "compiled":
        try:
            made = _compiled_updater(config, model, data)
        except Exception as error:  # Numba is missing, or fails to import or to compile
            reason = re.sub(r"\S*[/\\]\S*", "…", str(error).partition("\n")[0])  # no paths
            kind, problem = "torch", f"{type(error).__name__}: {reason}"
            model = new_model()  # the other one may be laid out half
    updater, state, backward = made or _torch_updater(kind, config, model, data)
    batches = math.ceil(len(data.train.labels) / config.train.batch_size)
    rates = learning_rates(
        learning_rate=config.optimizer.learning_rate,
        updates=config.train.epochs * batches,
        step_updates=config.schedule.step_epochs * batches,
        **config.schedule.model_dump(exclude={"step_epochs"}),
    )
    return Learner(config, model, updater, state, rates, backward, problem)


def weights_to_begin_with(initial: Checkpoint, config: Config) -> dict[str, Tensor]:
    """A checkpoint's weights, for the network of a config; a UsageError if it has another one."""
    ours, theirs = config.model, initial.config.model
    if ours.layer_sizes != theirs.layer_sizes or ours.activation != theirs.activation:
        networks = (f"{'-'.join(map(str, m.layer_sizes))} {m.activation}" for m in (theirs, ours))
        raise UsageError("{}: its network is {}, the config's {}".format(initial.path, *networks))
    if not ours.batch_norm:
        return initial.model.state_dict()
    # The network for use has no batch norm any more. The one that it was made of is saved too.
    if weights := with_prefix("model.", initial.training):
        return weights
    raise UsageError(f"{initial.path}: has no batch norm; set model.batch_norm=false")


def updater_kind(config: Config, device: str) -> UpdaterKind:
    """How a config's updates are made: by the number of processes, cpu or cuda, and fixed rules."""
    sizes, size = config.model.layer_sizes, config.train.batch_size
    examples = TRAINING_EXAMPLES[config.data.dataset] - config.data.validation
    if processes() > 1:
        return "shared"
    if device == "cuda":
        return "graphed"
    short = examples < min(SHORT_EXAMPLES, SHORT_UPDATES * size)
    wide = size >= WIDE_BATCH and sum(map(math.prod, pairwise(sizes))) > WIDE_WEIGHTS
    stack = config.model.activation == "relu" or len(sizes) == 2
    large = max(sizes) > MAX_WIDTH or len(sizes) > MAX_LAYERS + 1
    if short or wide or large or not stack or config.train.backward != "auto":
        return "torch"
    return "compiled"


def _compiled_updater(config: Config, model: nn.Sequential, data: Dataset) -> Made:
    from mnist_mlp.updates.compiled import CompiledUpdater
    from mnist_mlp.updates.loop import Adam, Sgd

    how = config.optimizer
    settings: Sgd | Adam = Adam(how.name == "adamw", how.weight_decay)
    if how.name == "sgd":
        settings = Sgd(how.momentum, how.nesterov, how.weight_decay)
    updater = CompiledUpdater(model, settings, data.train, *_batches(config))
    return updater, updater.state, "compiled"


def _torch_updater(kind: UpdaterKind, config: Config, model: nn.Sequential, data: Dataset) -> Made:
    optimizer = build_optimizer(
        model.parameters(), **config.optimizer.model_dump(), graphed=kind == "graphed"
    )
    by_hand = config.train.backward != "autograd" and is_linear_relu_stack(model)
    gradients = chain_rule(model) if by_hand else autograd(model)
    classes = {"graphed": GraphedUpdater, "shared": SharedUpdater, "torch": DeformingUpdater}
    updater = classes[kind](model, optimizer, gradients, data.train, *_batches(config))
    return updater, optimizer.state, "chain_rule" if by_hand else "autograd"


def _batches(config: Config) -> tuple[int, Deformation | None, int]:
    """The batch size, how images are deformed, and the seed that decides the deformations."""
    how, epochs = config.augment, config.train.epochs
    deformation = Deformation(**how.model_dump(), epochs=epochs) if how.deforms else None
    return config.train.batch_size, deformation, config.seed
