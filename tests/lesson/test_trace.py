import json
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from mnist_mlp.lesson.trace import trace_image
from mnist_mlp.steps.data import load_dataset
from mnist_mlp.steps.model import ACTIVATIONS, build_mlp
from tests.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer_sizes", [(784, 128, 64, 10), (784, 10), (784, 9, 8, 7, 10)])
def test_the_factors_multiply_to_the_gradients(
    activation: str, layer_sizes: tuple[int, ...]
) -> None:
    digits = load_dataset("digits")
    model = build_mlp(layer_sizes, activation, seed=0)
    traced = trace_image(model, digits.test.images[3], 5)
    factors = iter(traced.factors)
    dz = next(factors).value @ next(factors).value  # ∂L/∂softmax · ∂softmax/∂z
    assert torch.allclose(dz, traced.probabilities - F.one_hot(torch.tensor(5), 10), atol=1e-12)
    for k in range(len(layer_sizes) - 1, 0, -1):
        gradient = torch.outer(dz, next(factors).value)  # · ∂z/∂W
        assert torch.allclose(gradient, traced.gradients[f"layer{k}.weight"], atol=1e-12)
        assert torch.allclose(dz, traced.gradients[f"layer{k}.bias"], atol=1e-12)
        if k > 1:
            dz = dz @ next(factors).value * next(factors).value  # · ∂z/∂a · ∂a/∂z
    assert next(factors, None) is None


def test_the_trace_is_what_pytorch_computes() -> None:
    digits = load_dataset("digits")
    model = build_mlp(seed=0)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    image = digits.test.images[7]
    traced = trace_image(model, image, 8, learning_rate=0.05)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())

    double = build_mlp(seed=0).double()
    x, y = image.double().unsqueeze(0), torch.tensor([8])
    logits = double(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(traced.logits, logits[0].detach(), atol=1e-14)
    assert torch.allclose(traced.layers[0].a, traced.layers[0].z.relu())
    assert torch.allclose(traced.probabilities, logits[0].detach().softmax(0), atol=1e-14)
    assert traced.loss == pytest.approx(loss.item(), rel=1e-12)
    torch.optim.SGD(double.parameters(), lr=0.05).step()
    assert traced.loss_after == pytest.approx(F.cross_entropy(double(x), y).item(), rel=1e-9)
    for name, parameter in double.named_parameters():
        assert parameter.grad is not None
        assert torch.allclose(traced.gradients[name], parameter.grad, atol=1e-13)


def test_batch_normalisation_is_traced_as_part_of_the_layer_before_it() -> None:
    model, image = build_mlp(seed=0, batch_norm=True), torch.rand(784)
    model(torch.rand(64, 784))  # so that it has a mean and a variance
    logits = model.eval()(image[None])[0]
    traced = trace_image(model.train(), image, 3)
    assert [layer.name for layer in traced.layers] == ["layer1", "layer2", "layer3"]
    assert torch.allclose(traced.logits.float(), logits, atol=1e-5)


def test_bytes_are_pixels_too() -> None:
    image, model = load_dataset("digits").test.pixels[7], build_mlp(seed=0)
    assert trace_image(model, image, 8).loss == trace_image(model, image / 255, 8).loss


def test_a_hopeless_guess_has_finite_factors() -> None:
    model = build_mlp((784, 10))
    with torch.no_grad():
        model.get_parameter("layer1.bias").copy_(torch.arange(10) * 1000.0)
    traced = trace_image(model, torch.zeros(784), 0)
    json.dumps(traced.to_json(), allow_nan=False)


def test_the_command_on_a_run_and_on_a_fresh_network(run: Run) -> None:
    run("train", "--config", "digits", "train.epochs=2")
    outcome = run("trace", "--index", "7")
    assert outcome.code == 0
    for words in [
        "Step 1", "█", "Step 2-3", "neurons fired", "Step 4", "<- the true label", "Step 5",
        "Step 6", "∂softmax/∂z₃ (10 × 10)", "norm", "Step 7", "Step 8",
    ]:  # fmt: skip
        assert words in outcome.out
    assert all(len(line) <= 80 for line in outcome.out.splitlines())

    printed = json.loads(run("trace", "--index", "7", "--json").out)
    assert (printed["dataset"], printed["split"], printed["index"]) == ("digits", "test", 7)
    assert len(printed["input"]) == 784
    assert (min(printed["input"]), max(printed["input"])) == (0, 1)
    assert [len(layer["z"]) for layer in printed["layers"]] == [128, 64, 10]
    assert len(printed["gradients"]["layer1.weight"]) == 128
    assert len(printed["gradients"]["layer1.weight"][0]) == 784
    assert printed["loss_after"] < printed["loss"]

    fresh = json.loads(run("trace", "--untrained", "--json", "--learning-rate", "0").out)
    assert abs(fresh["loss"] - 2.3) < 0.3
    assert fresh["loss_after"] == fresh["loss"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--index", "360", "--untrained"], 2, "digits test ends at 359"),
        (["--index", "-1", "--untrained"], 2, "--index"),
        (["--untrained", "some-run"], 2, "--untrained takes no RUN"),
        (["nowhere"], 4, "nowhere: no such run"),
        (["--untrained", "--learning-rate", "nan"], 2, "learning-rate"),
        (["--untrained", "--learning-rate", "1e300"], 2, "the loss after it overflows"),
    ],
)
def test_mistakes(run: Run, arguments: list[str], code: int, message: str) -> None:
    outcome = run("trace", *arguments)
    assert outcome.code == code
    assert message in outcome.err
    assert len(outcome.err.splitlines()) <= 2
