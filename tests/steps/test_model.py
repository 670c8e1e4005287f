import pytest
import torch
from torch import nn

from mnist_mlp.constants import LESSON_PARAMETERS
from mnist_mlp.steps.model import ACTIVATIONS, build_mlp, count_parameters, fold_batch_norm


def test_the_lessons_network() -> None:
    model = build_mlp()
    assert isinstance(model, nn.Sequential)
    assert [name for name, _ in model.named_children()] == [
        "flatten", "layer1", "relu1", "layer2", "relu2", "layer3",
    ]  # fmt: skip
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert shapes == {
        "layer1.weight": (128, 784),
        "layer1.bias": (128,),
        "layer2.weight": (64, 128),
        "layer2.bias": (64,),
        "layer3.weight": (10, 64),
        "layer3.bias": (10,),
    }


def test_the_lessons_counts() -> None:
    layers = count_parameters(build_mlp())
    assert [str(layer) for layer in layers] == [
        "128 × 784 + 128 = 100,480",
        "64 × 128 + 64 = 8,256",
        "10 × 64 + 10 = 650",
    ]
    assert sum(layer.parameters for layer in layers) == LESSON_PARAMETERS
    assert sum(layer.weights for layer in layers) == 109_184
    assert sum(layer.biases for layer in layers) == 202


@pytest.mark.parametrize("shape", [(5, 784), (5, 28, 28), (5, 1, 28, 28)])
def test_image_shapes(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    model = build_mlp(seed=0)
    assert torch.equal(model(images), model(images.view(5, 784)))
    assert model(images).shape == (5, 10)


def test_initialisation_is_pytorchs_own_and_keyed_by_the_seed() -> None:
    torch.manual_seed(7)
    plain = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )
    torch.manual_seed(99)
    before = torch.random.get_rng_state()
    model = build_mlp(seed=7)
    assert torch.equal(torch.random.get_rng_state(), before)
    for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    other = build_mlp(seed=8).state_dict()
    assert not torch.equal(other["layer1.weight"], model.state_dict()["layer1.weight"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_sizes", [(784, 10), (784, 3, 10), (784, 9, 8, 7, 6, 10)])
def test_any_depth_and_activation(activation: str, layer_sizes: tuple[int, ...]) -> None:
    model = build_mlp(layer_sizes, activation)
    assert model(torch.rand(2, 784)).shape == (2, 10)
    kinds = [type(module) for module in model]
    assert kinds.count(nn.Linear) == len(layer_sizes) - 1
    assert kinds.count(ACTIVATIONS[activation]) == len(layer_sizes) - 2
    assert kinds[-1] is nn.Linear


@pytest.mark.parametrize("sizes", [(784, 10), (784, 128, 64, 10)])
def test_batch_normalisation_is_folded_into_the_layers(sizes: tuple[int, ...]) -> None:
    model = build_mlp(sizes, seed=0, batch_norm=True)
    for _ in range(5):
        model(torch.rand(50, 784))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("norm"):
                parameter.add_(torch.rand_like(parameter))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = fold_batch_norm(model)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert list(folded.state_dict()) == list(build_mlp(sizes).state_dict())
    images = torch.rand(20, 784)
    assert torch.allclose(folded(images), model.eval()(images), atol=1e-5)
    assert count_parameters(folded) == count_parameters(model) == count_parameters(build_mlp(sizes))


def test_batch_normalisation_begins_with_the_same_weights() -> None:
    plain, normalised = build_mlp(seed=3), build_mlp(seed=3, batch_norm=True)
    for name, parameter in plain.named_parameters():
        assert torch.equal(parameter, normalised.get_parameter(name))
