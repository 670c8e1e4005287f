import math
from pathlib import Path

import pytest
import torch

from mnist_mlp.lesson.claims import judge_collapse, judge_small_step
from mnist_mlp.lesson.measures import (
    finite_differences,
    gradients,
    intensity_range,
    never_learned,
    sum_error,
)
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, load_dataset
from mnist_mlp.steps.loss import cross_entropy
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import fit


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def random_shape(depth: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(depth)
    return (784, *torch.randint(1, 150, (depth,), generator=generator).tolist(), 10)


RANDOM_SHAPES = [random_shape(depth) for depth in range(10)]


@pytest.mark.parametrize("layer_sizes", [(784, 128, 64, 10), *RANDOM_SHAPES])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_hand_gradients_are_autograds(
    layer_sizes: tuple[int, ...], batch_size: int, dtype: torch.dtype, most: float, digits: Dataset
) -> None:
    model = build_mlp(layer_sizes, seed=batch_size).to(dtype)
    images, labels = digits.train.images[:batch_size].to(dtype), digits.train.labels[:batch_size]
    hand = gradients(model, chain_rule, images, labels)
    automatic = gradients(model, autograd, images, labels)
    assert hand.keys() == automatic.keys() == dict(model.named_parameters()).keys()
    for name in hand:
        difference = (hand[name] - automatic[name]).abs().max()
        assert difference <= most * automatic[name].abs().max(), name


def test_hand_gradients_are_autograds_on_a_trained_network(digits: Dataset) -> None:
    model = build_mlp(seed=0)
    list(fit(model, digits, build_optimizer(model.parameters()), epochs=3, batch_size=16))
    hand = gradients(model, chain_rule, digits.test.images, digits.test.labels)
    automatic = gradients(model, autograd, digits.test.images, digits.test.labels)
    for name in hand:
        difference = (hand[name] - automatic[name]).abs().max()
        assert difference <= 1e-5 * automatic[name].abs().max(), name


def test_hand_gradients_are_finite_differences(digits: Dataset) -> None:
    model = build_mlp(seed=0).double()
    images, labels = digits.train.images[:7].double(), digits.train.labels[:7]
    tried = kinked = 0
    for name, gradient in gradients(model, chain_rule, images, labels).items():
        worst, compared, kinks = finite_differences(
            model, name, gradient, images, labels, most=2000
        )
        assert worst <= 1e-6, name
        assert compared + kinks >= min(1500, gradient.numel())
        tried, kinked = tried + compared, kinked + kinks
    assert tried > 4000
    assert kinked < tried / 100


def test_a_kink_is_left_out_and_counted() -> None:
    model = build_mlp((784, 1, 10), seed=0).double()
    images, labels = torch.zeros(1, 784, dtype=torch.float64), torch.tensor([0])
    bias = model.get_parameter("layer1.bias")
    with torch.no_grad():
        bias.fill_(1e-9)  # the only neuron is about to stop firing
    hand = gradients(model, chain_rule, images, labels)["layer1.bias"]
    assert finite_differences(model, "layer1.bias", hand, images, labels, 10) == (0, 0, 1)
    assert bias.item() == 1e-9


def test_a_wrong_gradient_is_told_from_a_right_one(digits: Dataset) -> None:
    model = build_mlp(seed=0).double()
    images, labels = digits.train.images[:7].double(), digits.train.labels[:7]
    gradient = gradients(model, chain_rule, images, labels)["layer2.weight"]
    assert finite_differences(model, "layer2.weight", gradient, images, labels, 50)[0] < 1e-6
    assert finite_differences(model, "layer2.weight", -gradient, images, labels, 50)[0] > 0.1


def test_what_is_never_learned_is_counted(digits: Dataset) -> None:
    blank = int((digits.train.images.amax(dim=0) == 0).sum())
    never, unchanged, updates = never_learned(digits, batch_size=100)
    assert updates == 15
    assert blank >= 384  # the frame around the 20 × 20 box
    assert never >= unchanged == blank * 128
    lit = digits._replace(train=digits.train._replace(pixels=digits.train.pixels // 2 + 1))
    assert never_learned(lit, batch_size=100)[1] == 0


@pytest.mark.mnist
def test_the_8576_weights_that_mnist_never_trains(mnist_root: Path) -> None:
    never, unchanged, updates = never_learned(load_dataset("mnist", mnist_root))
    assert updates == 938
    assert never >= unchanged == 8_576


def test_the_range_of_the_inputs() -> None:
    pixels = torch.tensor([[51, 102], [0, 255]], dtype=torch.uint8)
    assert intensity_range(pixels) == (0, 1)
    assert intensity_range(pixels[:1]) == pytest.approx((0.2, 0.4))


def test_layers_without_an_activation_are_the_merged_layer(digits: Dataset) -> None:
    images = digits.test.images[:50].double()
    for activation in ("relu", "tanh"):
        model = build_mlp((784, 50, 40, 30, 10), activation, seed=1).double()
        assert judge_collapse(model, images, apart=1e-12, active=0.001).ok
    model = build_mlp((784, 9, 10), "identity", 0).double()
    assert judge_collapse(model, images, apart=1e-12, active=0).ok
    assert not judge_collapse(model, images, apart=1e-12, active=1e-12).ok


def test_a_sum_that_is_not_1() -> None:
    assert sum_error(torch.tensor([[0.5, 0.5], [0.5, 0.25]])) == 0.25
    assert sum_error(torch.tensor([1.5, -0.5])) == math.inf


def test_a_small_step_takes_its_fraction_off_the_loss(digits: Dataset) -> None:
    model = build_mlp(seed=0).double()
    weights = [p.detach().clone() for p in model.parameters()]
    images, labels = digits.train.images[:64].double(), digits.train.labels[:64]
    claim = judge_small_step(model, images, labels, within=0.01)
    assert claim.ok
    assert claim.computed.startswith(f"{cross_entropy(model(images), labels):.6g} → ")
    assert not judge_small_step(model, images, labels, within=1e-6).ok
    assert all(map(torch.equal, model.parameters(), weights))
