import pytest
import torch
from torch import nn

from mnist_mlp.steps.backprop import autograd, chain_rule, is_linear_relu_stack
from mnist_mlp.steps.model import ACTIVATIONS, build_mlp


@pytest.mark.parametrize("layer_sizes", [(784, 128, 64, 10), (784, 10), (784, 30, 20, 20, 10)])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_the_chain_rule_by_hand_is_autograd(layer_sizes: tuple[int, ...], batch_size: int) -> None:
    model = build_mlp(layer_sizes, seed=batch_size).double()
    images = torch.rand(batch_size, 784, dtype=torch.float64)
    labels = torch.randint(0, 10, (batch_size,))
    by_autograd: list[torch.Tensor] = []
    by_hand: list[torch.Tensor] = []
    for gradients, backward in ((by_autograd, autograd), (by_hand, chain_rule)):
        gradients += [
            backward(model)(images, labels),
            *(p.grad.clone() for p in model.parameters() if p.grad is not None),
        ]
    assert len(by_hand) == 1 + 2 * (len(layer_sizes) - 1)
    for hand, automatic in zip(by_hand, by_autograd, strict=True):
        assert (hand - automatic).abs().max() <= 1e-12 * automatic.abs().max()


def test_what_the_chain_rule_covers() -> None:
    assert is_linear_relu_stack(build_mlp())
    assert is_linear_relu_stack(build_mlp((784, 10), "tanh"))  # nothing between to be a tanh
    for activation in set(ACTIVATIONS) - {"relu"}:
        assert not is_linear_relu_stack(build_mlp(activation=activation))
        with pytest.raises(ValueError, match="use autograd"):
            chain_rule(build_mlp(activation=activation))
    assert not is_linear_relu_stack(nn.Linear(784, 10))
    assert not is_linear_relu_stack(nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False)))
