import math

import pytest
import torch
from scipy.special import log_softmax

from mnist_mlp.steps.data import load_dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.loss import cross_entropies, cross_entropy, softmax
from mnist_mlp.steps.model import build_mlp


def test_against_scipy() -> None:
    logits = torch.randn(50, 10, dtype=torch.float64) * 30
    labels = torch.randint(0, 10, (50,))
    log_p = torch.from_numpy(log_softmax(logits.numpy(), axis=1))
    assert torch.allclose(softmax(logits), log_p.exp(), rtol=1e-12, atol=0)
    assert torch.allclose(softmax(logits.t(), dim=0), log_p.exp().t(), rtol=1e-12, atol=0)
    expected = -log_p[torch.arange(50), labels]
    assert torch.allclose(cross_entropies(logits, labels), expected, rtol=1e-12)
    assert torch.allclose(cross_entropy(logits, labels), expected.mean(), rtol=1e-12)


def test_an_examples_loss_is_the_same_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(20_000, 10, generator=generator)
    labels = torch.randint(0, 10, (20_000,), generator=generator)
    together = cross_entropies(logits, labels)
    for size in (1, 7, 64, 100, 999):
        parts = zip(torch.split(logits, size), torch.split(labels, size), strict=True)
        assert torch.equal(torch.cat([cross_entropies(*part) for part in parts]), together)


def test_huge_logits_do_not_overflow() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4]])
    assert softmax(logits).tolist() == [[1.0, 0.0, 0.0]]
    for loss in (cross_entropy, cross_entropies):
        assert loss(logits, torch.tensor([2])).item() == pytest.approx(2e4)


def test_an_untrained_network_scores_about_ln_10() -> None:
    digits = load_dataset("digits")
    for seed in range(20):
        loss = evaluate_model(build_mlp(seed=seed), *digits.test).loss
        assert abs(loss - math.log(10)) < 0.1
