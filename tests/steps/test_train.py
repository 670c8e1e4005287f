import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mnist_mlp.errors import DivergedError
from mnist_mlp.steps import train
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, epoch_order, load_dataset
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer, learning_rates
from mnist_mlp.steps.train import EpochResult, Progress, fit


def digits() -> Dataset:
    return load_dataset("digits", validation=100)


def rows(model: nn.Sequential, data: Dataset, **settings: object) -> list[EpochResult]:
    options = {"epochs": 2, "batch_size": 50} | settings
    optimizer = options.pop("optimizer", None) or build_optimizer(model.parameters())
    events = fit(model, data, optimizer, **options)  # type: ignore[arg-type]
    return [event for event in events if isinstance(event, EpochResult)]


def test_it_is_the_loop_that_everyone_writes() -> None:
    """The same data, order, model and update, written plainly, give the same numbers."""
    data = digits()
    model = build_mlp(seed=3)
    found = rows(model, data, seed=3, backward=autograd(model))

    plain = build_mlp(seed=3)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.1)
    images, labels = data.train.images, data.train.labels
    for epoch in (1, 2):
        total, correct = 0.0, 0
        for index in torch.split(epoch_order(1337, 3, epoch), 50):
            logits = plain(images[index])
            loss = F.cross_entropy(logits, labels[index])
            sgd.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            total += loss.item() * len(index)
            correct += int((logits.argmax(1) == labels[index]).sum())
        assert found[epoch].train_loss == pytest.approx(total / 1337, rel=1e-6)
        assert found[epoch].train_accuracy == correct / 1337
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_counts_with_a_ragged_last_batch() -> None:
    data = digits()
    model = build_mlp(seed=0)
    result = rows(model, data, epochs=3, batch_size=1000)
    assert [(row.epoch, row.updates, row.examples_seen) for row in result] == [
        (0, 0, 0), (1, 2, 1337), (2, 4, 2674), (3, 6, 4011),
    ]  # fmt: skip


def test_row_0_is_the_untrained_network() -> None:
    data = digits()
    untrained = rows(build_mlp(seed=0), data)[0]
    logits = build_mlp(seed=0)(data.train.images)
    assert untrained.train_loss == pytest.approx(
        F.cross_entropy(logits, data.train.labels).item(), rel=1e-6
    )
    assert abs(untrained.train_loss - math.log(10)) < 0.1
    assert untrained.seconds == 0


@pytest.mark.parametrize("backward", [autograd, chain_rule])
def test_the_same_seed_gives_the_same_bits(backward: object) -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        model = build_mlp(seed=seed)
        rows(model, digits(), seed=seed, backward=backward(model))  # type: ignore[operator]
        torch.rand(3)  # what else draws numbers must not matter
        return [p.detach() for p in model.parameters()]

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_both_backward_paths_give_the_same_training() -> None:
    data = digits()
    results = []
    for backward in (autograd, chain_rule):
        model = build_mlp(seed=0)
        results.append(rows(model, data, epochs=5, backward=backward(model)))
    for by_autograd, by_hand in zip(*results, strict=True):
        assert by_hand.train_loss == pytest.approx(by_autograd.train_loss, rel=1e-4)
        assert by_hand.test_loss == pytest.approx(by_autograd.test_loss, rel=1e-4)


@pytest.mark.parametrize(
    ("rates", "said"), [([], "no learning_rates"), ([0.1] * 4, "within epoch 2")]
)
def test_too_few_learning_rates_are_refused(rates: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rows(build_mlp(seed=0), digits(), learning_rates=rates, batch_size=450, epochs=2)


def test_schedules_are_stepped_every_update() -> None:
    model = build_mlp(seed=0)
    steps = learning_rates("step", 0.1, 6, step_updates=3, gamma=0.5)
    result = rows(model, digits(), learning_rates=steps, batch_size=450, epochs=2)
    assert [row.learning_rate for row in result] == [0.1, 0.1, 0.05]


def test_the_test_set_is_left_alone_until_the_end_where_asked() -> None:
    result = rows(build_mlp(seed=0), digits(), epochs=2, test_each_epoch=False)
    assert [row.test_loss is None for row in result] == [True, True, False]
    assert all(row.validation_loss for row in result)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "one_cycle"])
def test_every_optimizer_learns_under_every_schedule(name: str, schedule: str) -> None:
    data = digits()
    model = build_mlp(seed=0)
    rate = 0.1 if name == "sgd" else 0.003
    optimizer = build_optimizer(model.parameters(), name, rate, momentum=0.5)
    rates = learning_rates(schedule, rate, 5 * 42, step_updates=50, gamma=0.5)
    result = rows(model, data, optimizer=optimizer, learning_rates=rates, batch_size=32, epochs=5)
    assert result[-1].test_accuracy is not None
    assert result[-1].test_accuracy > 0.85


@pytest.mark.parametrize("bad_update", [1, 3, 54, 55, 60, 81])
@pytest.mark.parametrize("progress_s", [0.0, 1e9])
def test_the_first_update_with_a_bad_loss_is_named(
    bad_update: int, progress_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", progress_s)
    model = build_mlp(seed=0)
    real, calls = autograd(model), 0

    def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        logits = real(x, y)
        logits[-1] *= math.nan if calls == bad_update else 1
        return logits

    with pytest.raises(DivergedError, match=rf"the loss of update {bad_update} \(epoch"):
        rows(model, digits(), epochs=3, backward=backward)
    # Read at once where progress is reported at once, else at the end of the same epoch.
    assert calls == (27 * math.ceil(bad_update / 27) if progress_s else bad_update)


def test_a_last_update_that_breaks_the_weights_is_named() -> None:
    model = build_mlp(seed=0)
    real, calls = autograd(model), 0

    def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        result = real(x, y)
        if calls == 27:
            next(model.parameters()).grad = torch.full((128, 784), math.inf)
        return result

    with pytest.raises(DivergedError, match=r"a weight after update 27 \(epoch 1\)"):
        rows(model, digits(), backward=backward)


def test_weights_so_large_that_evaluation_overflows_are_a_divergence() -> None:
    model = build_mlp(seed=0)
    real = autograd(model)

    def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result = real(x, y)
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, -1e38)
        return result

    with pytest.raises(DivergedError, match="the loss after update 1 "):
        rows(model, digits(), backward=backward, batch_size=1337)


def test_progress_is_reported_between_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PROGRESS_S", 0)
    model = build_mlp(seed=0)
    events = list(
        fit(model, digits(), build_optimizer(model.parameters()), epochs=1, batch_size=500)
    )
    progress = [event for event in events if isinstance(event, Progress)]
    assert [(p.updates, p.examples_seen) for p in progress] == [(1, 500), (2, 1000), (3, 1337)]
    assert isinstance(events[-1], EpochResult)
    assert progress[-1].loss == events[-1].train_loss
