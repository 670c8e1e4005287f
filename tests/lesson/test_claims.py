import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mnist_mlp.lesson.claims import (
    Claim,
    check_lesson,
    finite_differences,
    gpt3_multiplications,
    gpt3_parameters,
    gradients,
    merged,
    never_learned,
    units_in_the_last_place,
)
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, load_dataset
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import fit
from tests.conftest import REPOSITORY, Outcome, Program

VERDICTS = {
    "pixels": "holds",
    "pixel-range": "rule",
    "layer": "holds",
    "relu": "holds",
    "collapse": "holds",
    "layer1-count": "holds",
    "layer2-count": "holds",
    "layer3-count": "holds",
    "total": "holds",
    "features": "rule",
    "all-learned": "differs",
    "logits": "rule",
    "worked-softmax": "differs",
    "worked-confidence": "differs",
    "sums-to-one": "holds",
    "loss-0.96": "rounds",
    "loss-0.10": "rounds",
    "worked-loss": "differs",
    "untrained-loss": "holds",
    "chain-rule": "holds",
    "layer3-factors": "holds",
    "update": "holds",
    "small-step": "holds",
    "loop": "rule",
    "passes": "holds",
    "gpt3-parameters": "rounds",
    "gpt3-multiplications": "differs",
    "gpt3-gradients": "rounds",
    "gpt3-vocabulary": "holds",
    "gpt3-tokens": "cited",
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def claims(digits: Dataset) -> dict[str, Claim]:
    return {claim.id: claim for claim in check_lesson(digits)}


def test_every_row_has_the_verdict_of_an_honest_computation(claims: dict[str, Claim]) -> None:
    assert {claim.id: claim.verdict for claim in claims.values()} == VERDICTS
    assert all(claim.ok for claim in claims.values())
    assert all(claim.note for claim in claims.values() if claim.verdict == "differs")


def test_both_numbers_are_shown_where_the_lesson_errs(claims: dict[str, Claim]) -> None:
    shown = {id_: (claims[id_].lesson, claims[id_].computed) for id_ in claims}
    assert shown["worked-softmax"] == (
        "0.01 0.00 0.00 0.00 0.01 0.00 0.00 0.96 0.00 0.01",
        "0.00 0.00 0.00 0.00 0.01 0.00 0.00 0.98 0.00 0.00",
    )
    assert shown["worked-confidence"] == ("96%", '"7" with 98.3%')
    assert shown["worked-loss"] == ("0.04", "0.0172")
    assert shown["total"][1] == "109,386 (109,184 weights + 202 biases)"


def test_gpt3() -> None:
    assert gpt3_parameters() == 174_604_259_328
    matrices, attention = gpt3_multiplications()
    assert f"{(matrices + attention) / 1e9:.0f} {2 * (matrices + attention) / 1e9:.0f}" == "179 359"


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


def test_the_merged_layer(digits: Dataset) -> None:
    x = digits.test.images.double()
    stack = build_mlp((784, 50, 40, 30, 10), "identity", seed=1).double()
    W, b = merged(stack)
    assert (W.shape, b.shape) == ((10, 784), (10,))
    assert torch.allclose(stack(x), x @ W.T + b, rtol=1e-12, atol=1e-13)


def test_units_in_the_last_place() -> None:
    one = torch.tensor([1.0, -3.0])
    next_up = torch.nextafter(one, torch.tensor(9.0))
    assert units_in_the_last_place(one, one) == 0
    assert units_in_the_last_place(one, next_up) == 1


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


@pytest.mark.mnist
def test_check_lesson_on_mnist(mnist_root: Path, run: Callable[..., Outcome]) -> None:
    outcome = run("check-lesson", "--root", mnist_root, "--json")
    assert outcome.code == 0
    printed = json.loads(outcome.out)
    assert printed["summary"]["dataset"] == "mnist"
    row = next(claim for claim in printed["claims"] if claim["id"] == "all-learned")
    assert "8,576 of them (67 pixels × 128)" in row["computed"]


def test_the_command_prints_a_table_and_json(run: Callable[..., Outcome]) -> None:
    outcome = run("check-lesson", "--json")
    assert outcome.code == 0
    printed = json.loads(outcome.out)
    counts = {verdict: list(VERDICTS.values()).count(verdict) for verdict in VERDICTS.values()}
    assert printed["summary"] == {"dataset": "digits", "rows": 30, "ok": 30} | counts
    assert set(printed["claims"][0]) == {
        "id", "step", "claim", "lesson", "computed", "verdict", "ok", "note",
    }  # fmt: skip
    table = outcome.err
    for step in range(1, 9):
        assert f"Step {step}: " in table
    assert "30 of 30 rows ok" in table
    assert all(len(line) <= 80 for line in table.splitlines())


SOFTMAX = "torch.softmax(logits, dim, out=out)"
LOSS = "F.cross_entropy(logits, labels)"
RATE = "lr=rate,\n            momentum"
MUTATIONS = [
    (1, "data.py", "pixels / 255 if", "pixels / 256 if"),
    (1, "data.py", "pixels / 255 if", "pixels / 255 - 0.1307 if"),
    (1, "data.py", "(4, 4, 4, 4)", "(3, 3, 3, 3)"),
    (2, "model.py", '"relu": nn.ReLU', '"relu": nn.Identity'),
    (2, "model.py", '"relu": nn.ReLU', '"relu": nn.GELU'),
    (2, "model.py", '"identity": nn.Identity', '"identity": nn.Tanh'),
    (2, "model.py", "nn.Linear(inputs, outputs)", "nn.Linear(outputs, inputs)"),
    (2, "model.py", "nn.Linear(inputs, outputs)", "nn.Linear(inputs, outputs, bias=False)"),
    (3, "model.py", "(784, 128, 64, 10)", "(784, 128, 32, 10)"),
    (3, "model.py", "for parameter in layer.parameters()", "for parameter in [layer.weight]"),
    (4, "loss.py", SOFTMAX, "torch.softmax(logits, 0, out=out)"),
    (4, "loss.py", SOFTMAX, "torch.softmax(-logits, dim, out=out)"),
    (4, "loss.py", SOFTMAX, "logits.exp() / logits.exp().sum(dim, keepdim=True)"),
    (5, "loss.py", LOSS, "-F.cross_entropy(logits, labels)"),
    (5, "loss.py", LOSS, "F.cross_entropy(logits, labels, reduction='sum')"),
    (5, "loss.py", LOSS, "F.cross_entropy(logits, labels, label_smoothing=0.1)"),
    (6, "backprop.py", "torch.where(a > 0, da, 0)", "da"),
    (6, "backprop.py", ".div_(len(labels))", ""),
    (6, "backprop.py", "- one_hot[labels]", "+ one_hot[labels]"),
    (6, "backprop.py", "torch.sum(dz, dim=0, out=b.grad)", "torch.mean(dz, dim=0, out=b.grad)"),
    (7, "optimizer.py", RATE, RATE.replace("lr=", "maximize=True, lr=")),
    (7, "optimizer.py", RATE, RATE.replace("lr=", "lr=2 * ")),
    (
        7,
        "optimizer.py",
        "weight_decay=weight_decay,\n            #",
        "weight_decay=0.01,\n            #",
    ),
    (8, "fused.py", "self.optimizer.step()  # Step 7", "pass"),
    (8, "fused.py", "-learning_rates[batch] / len(x)", "-learning_rates[batch]"),
    (8, "fused.py", "out=self.dz).sub_(y)", "out=self.dz)"),
    (8, "fused.py", "amax(dim=1).tolist()", "amin(dim=1).tolist()"),
    (8, "loss.py", 'reduction="none")[0]', 'reduction="none")[0] / 2'),
    (8, "train.py", "for epoch in range(first, epochs + 1)", "for epoch in range(first, 2)"),
    (8, "train.py", "(network, *data.test) if", "(network, *data.train) if"),
    (8, "evaluate.py", "matrix.trace().item() / len(labels)", "matrix.trace().item() / 1000"),
]


@pytest.mark.parametrize(("step", "file", "part", "broken"), MUTATIONS)
def test_a_broken_part_is_found_in_its_own_step(
    step: int, file: str, part: str, broken: str, tmp_path: Path
) -> None:
    """Break the source of a copy of the package and run the program on it."""
    package = tmp_path / "mnist_mlp"
    shutil.copytree(REPOSITORY / "mnist_mlp", package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(REPOSITORY / "configs", package / "configs")
    (path,) = package.rglob(file)
    source = path.read_text(encoding="utf-8")
    assert part in source
    path.write_text(source.replace(part, broken), encoding="utf-8")
    outcome = Program("check-lesson", "--json", "--quiet", package=tmp_path).wait()
    assert outcome.code == 1, outcome
    failed = [claim for claim in json.loads(outcome.out)["claims"] if not claim["ok"]]
    assert failed[0]["step"] == step, failed
    assert re.fullmatch(
        r"mnist-mlp: not as it should be: .*; the program has drifted\n", outcome.err
    )


def test_a_mutation_for_every_step() -> None:
    assert {step for step, *_ in MUTATIONS} == set(range(1, 9))
