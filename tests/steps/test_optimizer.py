import math
import subprocess
import sys
import warnings
from itertools import product

import pytest
import torch
from torch import nn
from torch.optim import SGD

from mnist_mlp.steps.optimizer import GradientDescent, build_optimizer, learning_rates


def test_sgd_is_the_lessons_formula() -> None:
    W = nn.Parameter(torch.randn(4, 3))
    W.grad = torch.randn(4, 3)
    expected = W.detach() - 0.1 * W.grad
    build_optimizer([W], "sgd", learning_rate=0.1).step()
    # PyTorch may fuse the product and the difference: at most one rounding apart.
    assert (W.detach() - expected).abs().max() <= torch.finfo(torch.float32).eps * 4


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_names_and_settings_reach_torch(name: str) -> None:
    optimizer = build_optimizer(
        [nn.Parameter(torch.ones(1))], name, 0.2, momentum=0.5, nesterov=True, weight_decay=0.3
    )
    assert type(optimizer).__name__.lower() == name
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (0.2, 0.3)
    if name == "sgd":
        assert (group["momentum"], group["nesterov"]) == (0.5, True)


def test_nesterov_without_momentum_is_plain_sgd() -> None:
    weights = [nn.Parameter(torch.ones(1))]
    assert type(build_optimizer(weights, nesterov=True)) is GradientDescent
    assert not build_optimizer(weights, nesterov=True, weight_decay=0.1).defaults["nesterov"]


def test_gradient_descent_is_torch_sgd_bit_for_bit() -> None:
    ours, theirs = (nn.Linear(30, 20) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    usual = SGD(theirs.parameters(), lr=0.3)
    optimizers = build_optimizer(ours.parameters(), learning_rate=0.3), usual
    for _ in range(5):
        x = torch.randn(8, 30)
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            model.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert all(map(torch.equal, ours.parameters(), theirs.parameters()))


def rates(name: str, updates: int, **settings: float) -> list[float]:
    return list(learning_rates(name, 0.5, updates, **settings))  # type: ignore[arg-type]


def test_schedules() -> None:
    assert rates("constant", 3) == [0.5] * 3
    assert rates("step", 5, step_updates=2, gamma=0.1) == pytest.approx(
        [0.5, 0.5, 0.05, 0.05, 0.005]
    )
    assert rates("cosine", 10) == pytest.approx(
        [0.25 * (1 + math.cos(math.pi * k / 10)) for k in range(10)]
    )
    one_cycle = rates("one_cycle", 100, warmup_fraction=0.2)
    assert one_cycle.index(max(one_cycle)) == 19
    assert max(one_cycle) == pytest.approx(0.5)
    assert one_cycle[-1] < one_cycle[0] < 0.05


def test_a_schedule_does_not_import_the_compiler() -> None:
    """Which would take longer than an epoch."""
    schedules = "for name in ('step', 'cosine', 'one_cycle'): list(learning_rates(name, 0.1, 9))"
    program = (
        f"import sys\nfrom mnist_mlp.steps.optimizer import learning_rates\n{schedules}\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)


def test_one_cycle_takes_any_length_and_warmup() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for updates, fraction in product(range(1, 12), (1e-9, 0.1, 0.2, 0.25, 1 / 3, 0.5, 0.99)):
            assert all(
                0 < rate <= 0.5 for rate in rates("one_cycle", updates, warmup_fraction=fraction)
            )
