from typing import Any

import pytest
import torch

from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, TorchUpdater, train
from mnist_mlp.updates.deformation import Deformation, DeformingUpdater
from mnist_mlp.updates.graphed import GraphedUpdater
from tests.updates.test_compiled import digits as digits

DEFORMATION = Deformation(rotation=10, elastic=1.0)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adamw"])
@pytest.mark.parametrize("batch_size", [64, 1000, 1437])
def test_what_comes_before_recording_leaves_no_trace(
    name: str, batch_size: int, digits: Dataset
) -> None:
    """The ragged last batch is recorded when nothing comes after it any more."""
    ends = []
    for graphed in (True, False):
        model = build_mlp(seed=0)
        optimizer = build_optimizer(
            model.parameters(), name.replace("momentum", "sgd"), 0.01,
            momentum=0.9 * (name == "momentum"), graphed=graphed,
        )  # fmt: skip
        kind = GraphedUpdater if graphed else TorchUpdater
        updater = kind(model, optimizer, chain_rule(model), digits.train, batch_size)
        rates = [0.01 / (1 + k) for k in range(3 * -(-1437 // batch_size))]
        events = train(updater, digits, epochs=3, learning_rates=rates)
        rows = [event for event in events if isinstance(event, EpochResult)]
        ends.append(([row.train_loss for row in rows], list(model.parameters())))
    (losses, weights), (usual_losses, usual_weights) = ends
    assert losses == pytest.approx(usual_losses, rel=1e-6)
    for ours, theirs in zip(weights, usual_weights, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("deformation", [None, DEFORMATION])
def test_a_recorded_update_is_the_usual_one_bit_for_bit(
    batch_norm: bool, deformation: Deformation | None, digits: Dataset
) -> None:
    """On the CPU nothing is recorded, but all that would be is done."""
    ends = []
    for kind in (GraphedUpdater, DeformingUpdater):
        model = build_mlp(seed=0, batch_norm=batch_norm)
        optimizer = torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1), fused=True)
        updater = kind(model, optimizer, autograd(model), digits.train, 64, deformation=deformation)
        rates = [0.1 / (1 + k) for k in range(2 * 23)]
        events = train(updater, digits, epochs=2, learning_rates=rates)
        rows = [event.train_loss for event in events if isinstance(event, EpochResult)]
        ends.append((rows, [t for t in model.state_dict().values() if t.is_floating_point()]))
    (losses, tensors), (usual_losses, usual_tensors) = ends
    assert losses == usual_losses
    assert all(torch.equal(a, b) for a, b in zip(tensors, usual_tensors, strict=True))


def rows(
    data: Dataset, device: str, graphed: bool, options: dict[str, Any], **how: Any
) -> list[float]:
    data, model = data.to(torch.device(device)), build_mlp(seed=0, **options).to(device)
    optimizer = build_optimizer(model.parameters(), **how, graphed=graphed)
    backward = autograd(model) if options else chain_rule(model)
    kind = GraphedUpdater if graphed else DeformingUpdater
    updater = kind(model, optimizer, backward, data.train, 50, DEFORMATION if options else None)
    rates = [how["learning_rate"] / (1 + k // 29) for k in range(3 * 29)]
    events = train(updater, data, epochs=3, learning_rates=rates)
    return [event.train_loss for event in events if isinstance(event, EpochResult)]


@pytest.mark.cuda
@pytest.mark.parametrize("options", [{}, {"batch_norm": True}])
@pytest.mark.parametrize(
    "how",
    [
        {"name": "sgd", "learning_rate": 0.1},
        {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "nesterov": True},
        {"name": "adam", "learning_rate": 0.002, "weight_decay": 0.01},
        {"name": "adamw", "learning_rate": 0.002, "weight_decay": 0.1},
    ],
)
def test_on_cuda_replayed_updates_are_the_eager_ones(
    how: dict[str, Any], options: dict[str, Any], digits: Dataset
) -> None:
    """With batch normalisation on deformed images too."""
    graphed, eager, cpu = (
        rows(digits, device, graphed, options, **how)
        for device, graphed in (("cuda", True), ("cuda", False), ("cpu", False))
    )
    assert graphed == pytest.approx(eager, rel=1e-3)
    assert graphed == pytest.approx(cpu, rel=1e-3)
    assert graphed == rows(digits, "cuda", True, options, **how)
