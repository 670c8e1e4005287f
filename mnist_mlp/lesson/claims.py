"""Every claim of the lesson: what it says, what this program's own parts compute, the verdict.

A verdict is `holds`, `rounds` (equal at the digits printed), `differs`, `rule` (something to do or
to read; nothing to compare) or `cited`. Apart from it a row is `ok` when the program computes what
an honest computation gives: where the lesson is known to err, `differs` is ok; a drift in the
program's own parts is not. No row uses a part of a later step, so that the first row that is not
ok shows the step that broke.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import repeat
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_mlp.config import load_config
from mnist_mlp.constants import LESSON_PARAMETERS
from mnist_mlp.steps.backprop import Backward, autograd, chain_rule
from mnist_mlp.steps.data import Dataset, Split
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.loss import cross_entropy, softmax
from mnist_mlp.steps.model import build_mlp, count_parameters
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, fit, train
from mnist_mlp.updates.fused import FusedUpdates

Verdict = Literal["holds", "rounds", "differs", "rule", "cited"]

LOGITS = (1.2, 0.3, -0.5, 0.1, 3.8, 0.2, -0.1, 8.1, 0.4, 0.9)
"""The lesson's worked example; its true label is 7."""
LABEL = 7
PRINTED = (0.01, 0.00, 0.00, 0.00, 0.01, 0.00, 0.00, 0.96, 0.00, 0.01)
"""What the lesson prints as their softmax."""
SOFTMAX = (0.00099, 0.00040, 0.00018, 0.00033, 0.01334, 0.00036, 0.00027, 0.98295, 0.00045, 0.00073)
"""What it is, in float64, at five decimals."""
BLANK_MNIST_PIXELS = 67
"""Pixels that are 0 in each of MNIST's 60,000 training images."""


@dataclass(frozen=True)
class Claim:
    """One row: `step` is 1 to 8, or None for the lesson's figures about GPT-3."""

    id: str
    step: int | None
    claim: str
    lesson: str
    computed: str
    verdict: Verdict
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """What a row's computation gave."""

    computed: str
    verdict: Verdict
    ok: bool
    note: str = ""


Check = Callable[[Dataset], Finding]
_CHECKS: list[tuple[str, int | None, str, str, Check]] = []


def check_lesson(data: Dataset) -> Iterator[Claim]:
    """All rows in the lesson's order.

    Args:
        data: Whole, without a validation split, on the CPU; an epoch is trained on it.
    """
    for id_, step, claim, lesson, check in _CHECKS:
        try:
            finding = check(data)
        except Exception as error:  # a broken part must be a row, not the end of the table
            finding = Finding(f"{type(error).__name__}: {error}", "differs", False, "it fails")
        yield Claim(id_, step, claim, lesson, **vars(finding))


def _row(id_: str, step: int | None, claim: str, lesson: str) -> Callable[[Check], Check]:
    def add(check: Check) -> Check:
        _CHECKS.append((id_, step, claim, lesson, check))
        return check

    return add


def _holds(computed: str, holds: bool, note: str = "") -> Finding:
    """A claim that is known to hold."""
    return Finding(computed, "holds" if holds else "differs", holds, note)


# Step 1


@_row("pixels", 1, "an image is a vector of pixels", "28 × 28 = 784")
def _(data: Dataset) -> Finding:
    pixels = data.train.images.shape[1]
    return _holds(f"{pixels}", pixels == 28 * 28)


@_row("pixel-range", 1, "each input is an intensity from black to white", "0 to 1")
def _(data: Dataset) -> Finding:
    images = data.train.images
    low, high, corner = images.min().item(), images.max().item(), images[:, 0].max().item()
    return Finding(
        f"{low:g} to {high:g} in {images.numel():,} pixels of {data.name}; "
        f"a black corner is {corner:g}",
        "rule",
        (low, high, corner) == (0, 1, 0),
        "inputs lie in [0, 1]; no mean is subtracted, nothing divided by a deviation",
    )


# Steps 2 and 3


@_row("layer", 2, "z = W·x + b", "W 128 × 784, x 784, b 128, z 128")
def _(data: Dataset) -> Finding:
    layer = build_mlp(seed=0).double().get_submodule("layer1")
    W, b = (dict(layer.named_parameters())[name].detach() for name in ("weight", "bias"))
    x = data.train.images[0].double()
    by_hand = torch.stack([(row * x).sum() for row in W]) + b
    z = layer(x.unsqueeze(0))[0].detach()
    shapes = [tuple(t.shape) for t in (W, x, b, z)]
    difference = (z - by_hand).abs().max().item()
    return _holds(
        f"W {W.shape[0]} × {W.shape[1]}, x {len(x)}, b {len(b)}, z {len(z)}; "
        f"largest difference from the sum written out {difference:.1e}",
        shapes == [(128, 784), (784,), (128,), (128,)] and difference <= 1e-12,
    )


@_row(
    "relu", 2, "ReLU(z) = max(0, z) of -0.5, 1.2, -0.1, 0.8, -2.0, 0.3", "0.0 1.2 0.0 0.8 0.0 0.3"
)
def _(data: Dataset) -> Finding:
    relu = build_mlp().get_submodule("relu1")
    z = torch.tensor([-0.5, 1.2, -0.1, 0.8, -2.0, 0.3])
    after = " ".join(f"{a:.1f}" for a in relu(z).tolist())
    return _holds(after, after == "0.0 1.2 0.0 0.8 0.0 0.3")


@_row("collapse", 2, "without the activation, stacked layers do no more than one", "the same")
def _(data: Dataset) -> Finding:
    x = data.train.images[:100].double()
    stack = build_mlp(activation="identity", seed=0).double()
    W, b = merged(stack)
    one_layer = x @ W.T + b
    apart = relative(stack(x), one_layer)
    with_relu = relative(build_mlp(seed=0).double()(x), one_layer)
    return _holds(
        f"stack and merged layer differ by {apart:.1e} of the largest logit; "
        f"with ReLU between by {with_relu:.2g}",
        apart <= 1e-12 and with_relu > 0.01,
    )


@_row("layer1-count", 3, "numbers of layer 1", "128 × 784 + 128 = 100,480")
def _(data: Dataset) -> Finding:
    return _count(0, "128 × 784 + 128 = 100,480")


@_row("layer2-count", 3, "numbers of layer 2", "64 × 128 + 64 = 8,256")
def _(data: Dataset) -> Finding:
    return _count(1, "64 × 128 + 64 = 8,256")


@_row("layer3-count", 3, "numbers of layer 3", "10 × 64 + 10 = 650")
def _(data: Dataset) -> Finding:
    return _count(2, "10 × 64 + 10 = 650")


def _count(layer: int, expected: str) -> Finding:
    computed = str(count_parameters(build_mlp())[layer])
    return _holds(computed, computed == expected)


@_row("total", 3, "numbers of the network", "109,386")
def _(data: Dataset) -> Finding:
    layers = count_parameters(build_mlp())
    total = sum(layer.parameters for layer in layers)
    weights, biases = sum(layer.weights for layer in layers), sum(layer.biases for layer in layers)
    return _holds(
        f"{total:,} ({weights:,} weights + {biases:,} biases)",
        (total, weights, biases) == (LESSON_PARAMETERS, 109_184, 202),
    )


@_row("features", 3, "layers might detect edges, then curves, then digits", "an interpretation")
def _(data: Dataset) -> Finding:
    tiles = build_mlp().get_parameter("layer1.weight").view(-1, 28, 28)
    return Finding(
        f"{len(tiles)} tiles of 28 × 28 weights to look at",
        "rule",
        tuple(tiles.shape) == (128, 28, 28),
        "nothing to compare: look at the tiles of a trained network and claim nothing",
    )


@_row("all-learned", 3, "every one of the numbers was learned", "109,386")
def _(data: Dataset) -> Finding:
    blank = int((data.train.images.amax(dim=0) == 0).sum())
    never, unchanged, updates = never_learned(data)
    in_blank = blank * 128
    return Finding(
        f"{LESSON_PARAMETERS - never:,}: {never:,} weights had a gradient of exactly 0 at each of "
        f"{updates:,} updates, {in_blank:,} of them ({blank} pixels × 128) at pixels that are 0 "
        f"in all {len(data.train.labels):,} images of {data.name}",
        "differs",
        never >= in_blank == unchanged > 0
        and (data.name != "mnist" or blank == BLANK_MNIST_PIXELS),
        "an input that is always 0 gives its weights no gradient: they stay as initialised",
    )


# Steps 4 and 5


@_row("logits", 4, "layer 3 is followed by softmax", "softmax")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0)
    logits = model(data.train.images[:7])
    probabilities = softmax(logits * 1e6)
    return Finding(
        "the network ends in logits, and softmax belongs to the loss",
        "rule",
        isinstance(model[-1], nn.Linear)
        and bool(logits.min() < 0)
        and bool(probabilities.isfinite().all())
        and relative(softmax(logits), logits.exp() / logits.exp().sum(dim=1, keepdim=True)) < 1e-6,
        "the same function, computed so that no exponential overflows",
    )


@_row(
    "worked-softmax", 4, "the softmax of the worked logits", " ".join(f"{p:.2f}" for p in PRINTED)
)
def _(data: Dataset) -> Finding:
    p = _worked_softmax()
    return Finding(
        " ".join(f"{x:.2f}" for x in p),
        "differs",
        all(round(x, 5) == expected for x, expected in zip(p, SOFTMAX, strict=True)),
        "entries 0, 7 and 9 differ at two decimals",
    )


@_row("worked-confidence", 4, 'it reads "7", with this confidence', "96%")
def _(data: Dataset) -> Finding:
    p = _worked_softmax()
    confidence = f"{max(p):.1%}"
    return Finding(
        f'"{p.index(max(p))}" with {confidence}',
        "differs",
        p.index(max(p)) == LABEL and confidence == "98.3%",
        "the digit is right, the confidence is not",
    )


@_row("sums-to-one", 4, "softmax sums to 1, each value from 0 to 1", "1.0")
def _(data: Dataset) -> Finding:
    p = _worked_softmax()
    return _holds(
        f"{sum(p):.6f}; the row as the lesson prints it sums to {sum(PRINTED):.2f}",
        abs(sum(p) - 1) < 1e-12 and all(0 <= x <= 1 for x in p),
    )


def _worked_softmax() -> list[float]:
    batch = torch.tensor([LOGITS, LOGITS], dtype=torch.float64)
    return list(softmax(batch)[1].tolist())


@_row("loss-0.96", 5, "loss = −log P(correct) for P = 0.96", "0.04")
def _(data: Dataset) -> Finding:
    return _loss_of(0.96, "0.04", "0.040822")


@_row("loss-0.10", 5, "the same for P = 0.10", "2.30")
def _(data: Dataset) -> Finding:
    return _loss_of(0.10, "2.30", "2.302585")


def _loss_of(p: float, printed: str, expected: str) -> Finding:
    logits = torch.tensor([[p, 1 - p]], dtype=torch.float64).log()
    loss = cross_entropy(logits, torch.tensor([0])).item()
    rounds = f"{loss:.2f}" == printed
    return Finding(f"{loss:.6f}", "rounds" if rounds else "differs", f"{loss:.6f}" == expected)


@_row("worked-loss", 5, "(follows) the loss of the worked logits with label 7", "0.04")
def _(data: Dataset) -> Finding:
    logits = torch.tensor([LOGITS], dtype=torch.float64)
    loss = f"{cross_entropy(logits, torch.tensor([LABEL])).item():.4f}"
    return Finding(loss, "differs", loss == "0.0172", "because the softmax of step 4 differs")


@_row("untrained-loss", 5, "(follows) an untrained ten-class network scores ln 10", "2.30")
def _(data: Dataset) -> Finding:
    loss = cross_entropy(build_mlp(seed=0)(data.test.images), data.test.labels).item()
    return _holds(
        f"{loss:.4f} on {len(data.test.labels):,} images of {data.name}; ln 10 = "
        f"{math.log(10):.4f}",
        abs(loss - math.log(10)) < 0.1,
    )


# Step 6


@_row("chain-rule", 6, "∂L/∂W is the product of every step's derivative", "the chain rule")
def _(data: Dataset) -> Finding:
    images, labels = data.train.images[:7].double(), data.train.labels[:7]
    hand, automatic = (
        gradients(build_mlp(seed=0).double(), backward, images, labels)
        for backward in (chain_rule, autograd)
    )
    apart = max(relative(hand[name], automatic[name]) for name in automatic)
    model = build_mlp(seed=0).double()
    checked = skipped = 0
    numeric = 0.0
    for name, gradient in hand.items():
        worst, used, kinks = finite_differences(model, name, gradient, images, labels, most=50)
        numeric, checked, skipped = max(numeric, worst), checked + used, skipped + kinks
    return _holds(
        f"by hand and autograd: {apart:.1e} of a tensor's largest gradient apart, over "
        f"{sum(g.numel() for g in hand.values()):,} parameters; by hand and finite differences: "
        f"{numeric:.1e}, over {checked} ({skipped} at a kink of ReLU left out)",
        apart <= 1e-12 and numeric <= 1e-6 and checked > 200,
    )


@_row("layer3-factors", 6, "∂z₃/∂W₃ is layer 3's input a₂, ∂z₃/∂a₂ is W₃", "a₂, W₃")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0).double()
    layer3 = model.get_submodule("layer3")
    a2 = model[:-1](data.train.images[:1].double()).detach().requires_grad_()  # (1, 64)
    z3 = layer3(a2)[0]  # (10,)
    W3 = model.get_parameter("layer3.weight")
    right = True
    for k in range(10):
        by_a, by_w = torch.autograd.grad(z3[k], (a2, W3), retain_graph=True)
        right &= torch.equal(by_a[0], W3[k]) and torch.equal(by_w[k], a2[0])
    return _holds("a₂, W₃, bit for bit" if right else "something else", right)


# Step 7


@_row("update", 7, "W ← W − learning_rate × ∂L/∂W, b likewise", "the formula")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0)
    found = gradients(model, chain_rule, data.train.images[:64], data.train.labels[:64])
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    build_optimizer(model.parameters(), "sgd", learning_rate=0.1).step()
    fused = apart = ulps = 0.0
    for name, parameter in model.named_parameters():
        W, dW, updated = before[name], found[name], parameter.detach()
        rounded_twice = W - 0.1 * dW  # the product rounded to float32, then the difference
        rounded_once = (W.double() - float(np.float32(0.1)) * dW.double()).float()
        other = updated != rounded_twice
        fused += int(other.sum())
        apart += int((other & (updated != rounded_once)).sum())
        ulps = max(ulps, units_in_the_last_place(updated, rounded_twice))
    return _holds(
        f"torch.optim.SGD's {LESSON_PARAMETERS:,} numbers are the formula's, bit for bit"
        if not fused
        else f"torch.optim.SGD's {LESSON_PARAMETERS:,} numbers are the formula's, {fused:,.0f} of "
        f"them rounded once and not twice: up to {ulps:.0f} units in the last place apart",
        not apart,
        "a fused multiply-add does not round the product; the gap is wide where W and "
        "learning_rate × ∂L/∂W nearly cancel"
        if fused
        else "",
    )


@_row("small-step", 7, "each weight moves a little, in the direction that reduces the loss", "less")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0).double()
    images, labels = data.train.images[:64].double(), data.train.labels[:64]
    learning_rate = 1e-4
    found = gradients(model, chain_rule, images, labels)
    predicted = learning_rate * sum(float(g.square().sum()) for g in found.values())
    before = cross_entropy(model(images), labels).item()
    build_optimizer(model.parameters(), "sgd", learning_rate).step()
    fall = before - cross_entropy(model(images), labels).item()
    return _holds(
        f"the loss falls by {fall:.4e}; to first order learning_rate × ‖gradient‖² = "
        f"{predicted:.4e}",
        abs(fall / predicted - 1) < 0.01,
    )


# Step 8


@_row(
    "loop",
    8,
    "each epoch: each example forward, loss, backward, update; then the test set",
    "batch size 1",
)
def _(data: Dataset) -> Finding:
    few = Dataset(data.name, Split(*(t[:20] for t in data.train)), None, data.test)
    model, seen = build_mlp(seed=0), []
    real = chain_rule(model)

    def note(images: Tensor, labels: Tensor) -> Tensor:
        seen.extend(images.tolist())
        return real(images, labels)

    optimizer = build_optimizer(model.parameters(), "sgd", learning_rate=0.01)
    events = fit(model, few, optimizer, epochs=2, batch_size=1, backward=note)
    rows = [event for event in events if isinstance(event, EpochResult)]
    logits = model(data.test.images)
    accuracy = (logits.argmax(dim=1) == data.test.labels).double().mean().item()
    loss = cross_entropy(logits.double(), data.test.labels).item()

    plain = build_mlp(seed=0)
    backward = chain_rule(plain)
    sgd = build_optimizer(plain.parameters(), "sgd", learning_rate=0.01)
    for x in seen:
        index = few.train.images.tolist().index(x)
        backward(few.train.images[index : index + 1], few.train.labels[index : index + 1])
        sgd.step()
    config = load_config("lesson", environment={})
    ends = []
    for fused in (True, False):
        network = build_mlp(seed=0)
        sgd = build_optimizer(network.parameters(), "sgd", learning_rate=0.01)
        if fused:
            fused_updates = FusedUpdates(network, few.train, 3)
            list(train(fused_updates, few, epochs=2, learning_rates=repeat(0.01)))
            fused_updates.network()
        else:
            list(fit(network, few, sgd, epochs=2, batch_size=3))
        ends.append([parameter.detach() for parameter in network.parameters()])
    apart = max(relative(ours, usual) for ours, usual in zip(*ends, strict=True))
    everyone_once = all(
        sorted(part) == sorted(few.train.images.tolist()) for part in (seen[:20], seen[20:])
    )
    return Finding(
        f"{rows[-1].examples_seen} examples in {rows[-1].updates} updates over {rows[-1].epoch} "
        f"epochs, each once an epoch, the test set evaluated after each; the fused updates of "
        f"training end {apart:.1e} of a tensor's largest number away",
        "rule",
        everyone_once
        and [row.updates for row in rows] == [0, 20, 40]
        and all(
            torch.equal(p, q) for p, q in zip(model.parameters(), plain.parameters(), strict=True)
        )
        and apart < 1e-5
        and all(row.test_accuracy is not None for row in rows)
        and rows[-1].test_accuracy == accuracy == evaluate_model(model, *data.test).accuracy
        and abs((rows[-1].test_loss or 0) - loss) < 1e-6
        and config.train.batch_size == 1
        and (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0),
        "configs/lesson.yaml does this; batches of more than one example are a stated deviation",
    )


@_row("passes", 8, "a training run may take millions of forward and backward passes", "millions")
def _(data: Dataset) -> Finding:
    epochs = load_config("lesson", environment={}).train.epochs
    return _holds(
        f"60,000 examples × 17 epochs = {60_000 * 17:,}; configs/lesson.yaml takes "
        f"{60_000 * epochs:,}",
        60_000 * 17 >= 1_000_000,
    )


# The lesson's figures about GPT-3: Brown et al. 2020, table 2.1

GPT3_LAYERS, GPT3_WIDTH, GPT3_VOCABULARY, GPT3_CONTEXT = 96, 12_288, 50_257, 2_048


def gpt3_parameters() -> int:
    """GPT-3's parameters from its architecture (GPT-2's: Radford et al. 2019)."""
    d = GPT3_WIDTH
    attention = 4 * d * d + 4 * d  # query, key, value and output, with biases
    feed_forward = 2 * 4 * d * d + 4 * d + d  # to 4 d and back, with biases
    layer = attention + feed_forward + 2 * 2 * d  # and two layer norms' gains and biases
    embeddings = (GPT3_VOCABULARY + GPT3_CONTEXT) * d  # the output projection reuses them
    return GPT3_LAYERS * layer + embeddings + 2 * d


def gpt3_multiplications() -> tuple[int, int]:
    """Multiplications of one token's forward pass: in weight matrices, in attention at most."""
    d = GPT3_WIDTH
    matrices = GPT3_LAYERS * 12 * d * d + GPT3_VOCABULARY * d
    attention = GPT3_LAYERS * 2 * GPT3_CONTEXT * d  # scores and weighted sum, at full context
    return matrices, attention


@_row("gpt3-parameters", None, "GPT-3's parameters", "175 billion")
def _(data: Dataset) -> Finding:
    return _gpt3_rounds("")


@_row("gpt3-multiplications", None, "multiplications a token, forward", "~300 billion")
def _(data: Dataset) -> Finding:
    matrices, attention = gpt3_multiplications()
    total = matrices + attention
    return Finding(
        f"{total / 1e9:.0f} billion ({matrices / 1e9:.1f} in weight matrices + "
        f"{attention / 1e9:.1f} in attention at full context); {2 * total / 1e9:.0f} billion with "
        "additions",
        "differs",
        (matrices, attention) == (174_563_733_504, 4_831_838_208),
        "it is neither figure",
    )


@_row("gpt3-gradients", None, "gradients a training step", "175 billion")
def _(data: Dataset) -> Finding:
    return _gpt3_rounds(", one a parameter")


def _gpt3_rounds(what: str) -> Finding:
    parameters = gpt3_parameters()
    rounds = round(parameters / 1e9) == 175
    return Finding(
        f"{parameters:,}{what}", "rounds" if rounds else "differs", parameters == 174_604_259_328
    )


@_row("gpt3-vocabulary", None, "GPT-3's vocabulary", "50,257")
def _(data: Dataset) -> Finding:
    vocabulary = 256 + 50_000 + 1
    return _holds(f"{vocabulary:,} (256 bytes + 50,000 merges + 1)", vocabulary == GPT3_VOCABULARY)


@_row("gpt3-tokens", None, "GPT-3's training tokens", "~300 billion")
def _(data: Dataset) -> Finding:
    return Finding("300 billion (Brown et al. 2020)", "cited", True, "nothing to compute")


# What the rows are computed with


def merged(model: nn.Sequential) -> tuple[Tensor, Tensor]:
    """The one layer, W (10, 784) and b (10,), that a stack of linear layers amounts to."""
    layers = [module for module in model if isinstance(module, nn.Linear)]
    W, b = layers[0].weight.detach(), layers[0].bias.detach()
    for layer in layers[1:]:
        W, b = layer.weight.detach() @ W, layer.weight.detach() @ b + layer.bias.detach()
    return W, b


def gradients(
    model: nn.Sequential,
    path: Callable[[nn.Sequential], Backward],
    images: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """Each parameter's gradient by `chain_rule` or `autograd`; they stay in `.grad` too."""
    path(model)(images, labels)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def never_learned(data: Dataset, batch_size: int = 64) -> tuple[int, int, int]:
    """Train the lesson's network for an epoch, in torch's own words, and watch every gradient.

    Returns:
        The weights whose gradient was exactly 0 at every update; those of them at pixels that are
        0 in every image and that are bit for bit as initialised; the updates.
    """
    model = build_mlp(seed=0)
    W1 = model.get_parameter("layer1.weight")
    initial = W1.detach().clone()
    parameters = [p for name, p in model.named_parameters() if name.endswith("weight")]
    touched = [torch.zeros_like(p, dtype=torch.bool) for p in parameters]
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = data.train.images, data.train.labels
    batches = torch.split(torch.arange(len(labels)), batch_size)
    for index in batches:
        sgd.zero_grad()
        loss = F.cross_entropy(model(images[index]), labels[index])
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter, mask in zip(parameters, touched, strict=True):
            assert parameter.grad is not None  # noqa: S101 - backward has just made it
            mask |= parameter.grad != 0
        sgd.step()
    blank = images.amax(dim=0) == 0
    unchanged = (W1.detach() == initial) & touched[0].logical_not() & blank
    return (
        sum(int(mask.logical_not().sum()) for mask in touched),
        int(unchanged.sum()),
        len(batches),
    )


@torch.no_grad()
def finite_differences(
    model: nn.Sequential,
    name: str,
    gradient: Tensor,
    images: Tensor,
    labels: Tensor,
    most: int,
    h: float = 1e-5,
) -> tuple[float, int, int]:
    """Compare a float64 gradient with (L(w + h) − L(w − h)) / 2h, parameter by parameter.

    Where a neuron fires for w + h and not for w − h, or the other way round, on any example, the
    loss has a kink between the two and its slope there is not one number: that parameter is left
    out and counted.

    Args:
        model: In float64.
        name: Of the parameter tensor.
        gradient: What is checked.
        images: (B, 784).
        labels: (B,).
        most: So many of the tensor's parameters are tried, evenly spread.
        h: The step.

    Returns:
        The largest difference as a fraction of the gradient's largest entry, and how many
        parameters were compared and left out.
    """
    parameter = model.get_parameter(name).view(-1)
    worst, compared, kinks = 0.0, 0, 0
    for position in range(0, parameter.numel(), math.ceil(parameter.numel() / most)):
        value = parameter[position].item()
        losses, firing = [], []
        for w in (value + h, value - h):
            parameter[position] = w
            a, fires = images, []
            for module in model:
                fires += [a > 0] if isinstance(module, nn.ReLU) else []
                a = module(a)
            losses.append(cross_entropy(a, labels).item())
            firing.append(fires)
        parameter[position] = value
        if all(torch.equal(up, down) for up, down in zip(*firing, strict=True)):
            numeric = (losses[0] - losses[1]) / (2 * h)
            worst = max(worst, abs(numeric - gradient.view(-1)[position].item()))
            compared += 1
        else:
            kinks += 1
    return worst / gradient.abs().max().item(), compared, kinks


def units_in_the_last_place(a: Tensor, b: Tensor) -> float:
    """The largest difference of two float32 tensors, in steps between neighbouring floats."""
    spacing = np.spacing(np.maximum(np.abs(a.numpy()), np.abs(b.numpy())))
    return float(np.max(np.abs(a.numpy() - b.numpy()) / spacing))


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, as a fraction of b's largest entry."""
    return ((a - b).abs().max() / b.abs().max()).item()
