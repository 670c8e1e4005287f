import pytest
import torch

from mnist_mlp.steps.backprop import chain_rule
from mnist_mlp.steps.data import Split
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import TorchUpdater
from mnist_mlp.updates.regularized import AveragingUpdater


def test_the_average_moves_in_large_steps_first_and_then_by_its_decay() -> None:
    model = build_mlp((784, 10), seed=0)
    split = Split(torch.zeros(1, 784), torch.zeros(1, dtype=torch.int64))
    optimizer = build_optimizer(model.parameters())
    usual = TorchUpdater(model, optimizer, chain_rule(model), split, 1)
    updater = AveragingUpdater(usual, decay=0.9)
    expected = model.get_parameter("layer1.bias").detach().clone()
    for k in range(1, 120):
        with torch.no_grad():
            model.get_parameter("layer1.bias").copy_(torch.full((10,), float(k)))
        updater.include(k)
        keep = min(0.9, (1 + k) / (10 + k))
        expected = keep * expected + (1 - keep) * k
    averaged = updater.network().get_parameter("layer1.bias").detach()
    assert torch.allclose(averaged, expected, rtol=1e-5)
    assert 119 - averaged.mean() == pytest.approx(0.9 / 0.1, rel=0.01)  # it lags by so many updates
