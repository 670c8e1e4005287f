"""Every claim of the lesson, beside what this program computes and a verdict.

The verdicts are `holds`, `rounds` (equal at the printed digits), `differs`, `rule` (nothing to
compare: something to do or to read) and `cited`. A row is also `ok` or not: it is when the program
computes the correct result. Where the lesson is wrong, `differs` is ok. A row uses no part of a
later step, so the first row that is not ok shows which step is broken.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from mnist_mlp.config import load_config
from mnist_mlp.constants import LESSON_PARAMETERS
from mnist_mlp.lesson import gpt3, measures  # noqa: F401 - gpt3 adds rows
from mnist_mlp.lesson.table import ROWS, Claim, Claims, Finding, judge, row
from mnist_mlp.mnist_files import has_mnist
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, Split, epoch_order, load_dataset
from mnist_mlp.steps.loss import cross_entropy, softmax
from mnist_mlp.steps.model import build_mlp, count_parameters
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, fit

LOGITS, LABEL = (1.2, 0.3, -0.5, 0.1, 3.8, 0.2, -0.1, 8.1, 0.4, 0.9), 7
WORKED = torch.tensor([LOGITS, LOGITS], dtype=torch.float64)
"""The lesson's worked example; as a batch of two, to notice a softmax over the wrong dimension."""
PRINTED = (0.01, 0.00, 0.00, 0.00, 0.01, 0.00, 0.00, 0.96, 0.00, 0.01)
"""The softmax of these logits as the lesson prints it."""
SOFTMAX = (0.00099, 0.00040, 0.00018, 0.00033, 0.01334, 0.00036, 0.00027, 0.98295, 0.00045, 0.00073)
"""Their softmax in float64, rounded to five decimals."""
BLANK_MNIST_PIXELS = 67
"""The number of pixels that are 0 in all 60,000 training images of MNIST."""


def check_lesson(data: Dataset | None = None) -> Claims:
    """Compute every row, in the lesson's order, GPT-3 last; one row trains for an epoch.

    The data, by default `lesson_data()`, is on the CPU and without a validation split.
    """
    data = data or lesson_data()
    return Claims(
        fill(id_, _compute(id_, data)) for id_ in sorted(ROWS, key=lambda id_: ROWS[id_][0] or 9)
    )


def lesson_data(root: str | None = None) -> Dataset:
    """MNIST, where its files are below the root (by default the configs'), else the digits."""
    root = root or load_config("mnist").data.root
    return load_dataset("mnist" if has_mnist(root) else "digits", root)


def _compute(id_: str, data: Dataset) -> Finding:
    try:
        return ROWS[id_][-1](data)
    except Exception as error:  # a broken part must be a row, not the end of the table
        return Finding(f"{type(error).__name__}: {error}", "differs", False, "it fails")


def fill(id_: str, finding: Finding) -> Claim:
    """The row `id_` with a finding."""
    step, claim, lesson, _ = ROWS[id_]
    return Claim(id_, step, claim, lesson, **vars(finding))


@row("pixels", 1, "an image is a vector of pixels", "28 × 28 = 784")
def _(data: Dataset) -> Finding:
    pixels = data.train.images.shape[1]
    return judge(f"{pixels}", pixels == 28 * 28)


@row("pixel-range", 1, "each input is an intensity from black to white", "0 to 1")
def _(data: Dataset) -> Finding:
    pixels = data.train.pixels
    low, high = measures.intensity_range(pixels)
    corner = measures.intensity_range(pixels[:, :1])
    return Finding(
        f"{low:g} to {high:g} in {pixels.numel():,} pixels of {data.name}; "
        f"a black corner is {corner[1]:g}",
        "rule",
        (low, high, *corner) == (0, 1, 0, 0),
        "inputs lie in [0, 1]; no mean is subtracted, nothing divided by a deviation",
    )


@row("layer", 2, "z = W·x + b", "W 128 × 784, x 784, b 128, z 128")
def _(data: Dataset) -> Finding:
    layer = build_mlp(seed=0).double().get_submodule("layer1")
    W, b = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
    x = data.train.images[0].double()
    z = layer(x.unsqueeze(0))[0].detach()
    difference = (z - ((W * x).sum(dim=1) + b)).abs().max().item()
    shapes = f"W {W.shape[0]} × {W.shape[1]}, x {len(x)}, b {len(b)}, z {len(z)}"
    return judge(
        f"{shapes}; largest difference from the sum written out {difference:.1e}",
        shapes == "W 128 × 784, x 784, b 128, z 128" and difference <= 1e-12,
    )


@row("relu", 2, "ReLU(z) = max(0, z) of -0.5, 1.2, -0.1, 0.8, -2.0, 0.3", "0.0 1.2 0.0 0.8 0.0 0.3")
def _(_: Dataset) -> Finding:
    z = torch.tensor([-0.5, 1.2, -0.1, 0.8, -2.0, 0.3])
    after = " ".join(f"{a:.1f}" for a in build_mlp().get_submodule("relu1")(z).tolist())
    return judge(after, after == "0.0 1.2 0.0 0.8 0.0 0.3")


@row("collapse", 2, "without the activation, stacked layers do no more than one", "the same")
def _(data: Dataset) -> Finding:
    model, images = build_mlp(seed=0).double(), data.train.images[:100].double()
    return judge_collapse(model, images, apart=1e-12, active=0.01)


def judge_collapse(
    model: nn.Sequential, images: Tensor, apart: float = 1e-10, active: float = 0.0
) -> Finding:
    """Judge the claim `collapse` for a network and images (B, D), both in float64.

    Without activations the logits may differ by `apart` from the merged layer's, with activations
    they must differ by `active`, both as fractions of the largest logit.
    """
    linear, with_activations = measures.compare_with_merged(model, images)
    return judge(
        f"without activations, stack and merged layer differ by {linear:.1e} of the largest logit; "
        f"with them, by {with_activations:.2g}",
        linear <= apart and with_activations >= active,
    )


def _add_layer_count(number: int, formula: str) -> None:
    @row(f"layer{number}-count", 3, f"numbers of layer {number}", formula)
    def _(_: Dataset) -> Finding:
        computed = str(count_parameters(build_mlp())[number - 1])
        return judge(computed, computed == formula)


_add_layer_count(1, "128 × 784 + 128 = 100,480")
_add_layer_count(2, "64 × 128 + 64 = 8,256")
_add_layer_count(3, "10 × 64 + 10 = 650")


@row("total", 3, "numbers of the network", "109,386")
def _(_: Dataset) -> Finding:
    layers = count_parameters(build_mlp())
    total = sum(layer.parameters for layer in layers)
    weights, biases = sum(layer.weights for layer in layers), sum(layer.biases for layer in layers)
    return judge(
        f"{total:,} ({weights:,} weights + {biases:,} biases)",
        (total, weights, biases) == (LESSON_PARAMETERS, 109_184, 202),
    )


@row("features", 3, "layers might detect edges, then curves, then digits", "an interpretation")
def _(_: Dataset) -> Finding:
    tiles = build_mlp().get_parameter("layer1.weight").view(-1, 28, 28)
    return Finding(
        f"{len(tiles)} tiles of 28 × 28 weights to look at",
        "rule",
        tuple(tiles.shape) == (128, 28, 28),
        "nothing to compare: look at the tiles of a trained network and claim nothing",
    )


@row("all-learned", 3, "every one of the numbers was learned", "109,386")
def _(data: Dataset) -> Finding:
    blank = int((data.train.pixels.amax(dim=0) == 0).sum())
    never, unchanged, updates = measures.never_learned(data)
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


@row("logits", 4, "layer 3 is followed by softmax", "softmax")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0)
    z = model(data.train.images[:7])
    formula = z.exp() / z.exp().sum(dim=1, keepdim=True)
    return Finding(
        "the network ends in logits, and softmax belongs to the loss",
        "rule",
        isinstance(model[-1], nn.Linear)
        and bool(z.min() < 0)
        and bool(softmax(z * 1e6).isfinite().all())
        and measures.relative_difference(softmax(z), formula) < 1e-6,
        "the same function, computed so that no exponential overflows",
    )


@row("worked-softmax", 4, "the softmax of the worked logits", " ".join(f"{p:.2f}" for p in PRINTED))
def _(_: Dataset) -> Finding:
    p = softmax(WORKED)[1].tolist()
    return Finding(
        " ".join(f"{x:.2f}" for x in p),
        "differs",
        tuple(round(x, 5) for x in p) == SOFTMAX,
        "entries 0, 7 and 9 differ at two decimals",
    )


@row("worked-confidence", 4, 'it reads "7", with this confidence', "96%")
def _(_: Dataset) -> Finding:
    p = softmax(WORKED)[1]
    digit, confidence = int(p.argmax()), f"{p.max():.1%}"
    return Finding(
        f'"{digit}" with {confidence}',
        "differs",
        (digit, confidence) == (LABEL, "98.3%"),
        "the digit is right, the confidence is not",
    )


@row("sums-to-one", 4, "softmax sums to 1, each value from 0 to 1", "1.0")
def _(_: Dataset) -> Finding:
    p = softmax(WORKED)
    return judge(
        f"{p[1].sum():.6f}; the row as the lesson prints it sums to {sum(PRINTED):.2f}",
        measures.sum_error(p) < 1e-12,
    )


def _add_loss(id_: str, claim: str, p: float, printed: str, expected: str) -> None:
    @row(id_, 5, claim, printed)
    def _(_: Dataset) -> Finding:
        z = torch.tensor([[p, 1 - p]], dtype=torch.float64).log()
        loss = cross_entropy(z, torch.tensor([0])).item()
        rounds = f"{loss:.2f}" == printed
        return Finding(f"{loss:.6f}", "rounds" if rounds else "differs", f"{loss:.6f}" == expected)


_add_loss("loss-0.96", "loss = −log P(correct) for P = 0.96", 0.96, "0.04", "0.040822")
_add_loss("loss-0.10", "the same for P = 0.10", 0.10, "2.30", "2.302585")


@row("worked-loss", 5, "implied: the loss of the worked logits with label 7", "0.04")
def _(_: Dataset) -> Finding:
    loss = f"{cross_entropy(WORKED, torch.tensor([LABEL, LABEL])).item():.4f}"
    return Finding(loss, "differs", loss == "0.0172", "because the softmax of step 4 differs")


@row("untrained-loss", 5, "implied: an untrained ten-class network scores ln 10", "2.30")
def _(data: Dataset) -> Finding:
    loss = cross_entropy(build_mlp(seed=0)(data.test.images), data.test.labels).item()
    return judge_untrained(loss, f"{len(data.test.labels):,} images of {data.name}")


def judge_untrained(loss: float, images: str) -> Finding:
    """Judge the claim `untrained-loss` for an untrained network's mean loss on some images."""
    ln10 = math.log(10)
    return judge(f"{loss:.4f} on {images}; ln 10 = {ln10:.4f}", abs(loss - ln10) < 0.1)


@row("chain-rule", 6, "∂L/∂W is the product of every step's derivative", "the chain rule")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0).double()
    images, labels = data.train.images[:7].double(), data.train.labels[:7]
    by_hand = measures.gradients(model, chain_rule, images, labels)
    automatic = measures.gradients(model, autograd, images, labels)
    apart = max(measures.relative_difference(by_hand[name], automatic[name]) for name in automatic)
    tried = [
        measures.finite_differences(model, name, gradient, images, labels, most=50)
        for name, gradient in by_hand.items()
    ]
    worst, compared, kinks = zip(*tried, strict=True)
    return judge(
        f"by hand and autograd: {apart:.1e} of a tensor's largest gradient apart, over "
        f"{LESSON_PARAMETERS:,} parameters; by hand and finite differences: {max(worst):.1e}, "
        f"over {sum(compared)} ({sum(kinks)} at a kink of ReLU left out)",
        apart <= 1e-12 and max(worst) <= 1e-6 and sum(compared) > 200,
    )


@row("layer3-factors", 6, "∂z₃/∂W₃ is layer 3's input a₂, ∂z₃/∂a₂ is W₃", "a₂, W₃")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0).double()
    a2 = model[:-1](data.train.images[:1].double()).detach().requires_grad_()  # (1, 64)
    z3 = model[-1](a2)[0]  # (10,)
    W3 = model.get_parameter("layer3.weight")
    right = True
    for k, z in enumerate(z3):
        by_a, by_W = torch.autograd.grad(z, (a2, W3), retain_graph=True)
        right &= torch.equal(by_a[0], W3[k]) and torch.equal(by_W[k], a2[0])
    return judge("a₂, W₃, bit for bit" if right else "something else", right)


@row("update", 7, "W ← W − learning_rate × ∂L/∂W, b likewise", "the formula")
def _(data: Dataset) -> Finding:
    model = build_mlp(seed=0)
    W = parameters_to_vector(model.parameters()).detach()
    found = measures.gradients(model, chain_rule, data.train.images[:64], data.train.labels[:64])
    dW = parameters_to_vector(found.values())
    build_optimizer(model.parameters(), "sgd", learning_rate=0.1).step()
    updated = parameters_to_vector(model.parameters()).detach()
    rounded_twice = W - 0.1 * dW  # the product rounded to float32, then the difference
    rounded_once = (W.double() - torch.tensor(0.1).double() * dW.double()).float()
    fused = updated != rounded_twice
    apart = measures.relative_difference(updated, rounded_twice)
    return judge(
        f"the optimizer's {len(W):,} numbers are the formula's; {int(fused.sum()):,} of them are "
        f"rounded once and not twice: up to {apart:.1e} of the largest number apart",
        torch.equal(updated[fused], rounded_once[fused]),
        "a fused multiply-add does not round the product",
    )


@row("small-step", 7, "each weight moves a little, in the direction that reduces the loss", "less")
def _(data: Dataset) -> Finding:
    images, labels = data.train.images[:64].double(), data.train.labels[:64]
    return judge_small_step(build_mlp(seed=0).double(), images, labels, within=0.01)


def judge_small_step(
    model: nn.Sequential, images: Tensor, labels: Tensor, within: float = 1.0
) -> Finding:
    """Judge the claim `small-step` for a network and images (B, D), both in float64.

    `within`: how far the fall may be from learning_rate × ‖gradient‖², relative to that.
    """
    before, after, learning_rate = measures.take_small_step(model, images, labels, fraction=0.001)
    if before < 1e-9:  # a thousandth of it is close to rounding errors
        return judge(f"the loss of {len(labels)} training images is {before:.1e}: no lower", None)
    return judge(
        f"{before:.6g} → {after:.6g}, less by {1 - after / before:.3%}; to first order 0.1% "
        f"(learning rate {learning_rate:.2g}, {len(labels)} training images)",
        after < before and abs((before - after) / (0.001 * before) - 1) < within,
    )


LOOP = "each epoch: each example forward, loss, backward, update; then the test set"


@row("loop", 8, LOOP, "batch size 1")
def _(data: Dataset) -> Finding:
    few = data._replace(train=Split(*(t[:20] for t in data.train)))
    model = build_mlp(seed=0)
    sgd = build_optimizer(model.parameters(), "sgd", learning_rate=0.01)
    events = fit(model, few, sgd, epochs=2, batch_size=1, backward=chain_rule(model))
    rows = [event for event in events if isinstance(event, EpochResult)]
    logits = model(data.test.images)
    accuracy = (logits.argmax(dim=1) == data.test.labels).double().mean().item()
    loss = cross_entropy(logits.double(), data.test.labels).item()

    plain = build_mlp(seed=0)
    backward = chain_rule(plain)
    sgd = build_optimizer(plain.parameters(), "sgd", learning_rate=0.01)
    orders = [epoch_order(20, seed=0, epoch=epoch).tolist() for epoch in (1, 2)]
    for k in orders[0] + orders[1]:
        backward(few.train.images[k : k + 1], few.train.labels[k : k + 1])
        sgd.step()
    difference = measures.compare_compiled_updates(few)
    config = load_config("lesson", environment={})
    return Finding(
        f"{rows[-1].examples_seen} examples in {rows[-1].updates} updates over {rows[-1].epoch} "
        f"epochs, each once an epoch, the test set evaluated after each; compiled updates "
        + (
            "are not made, since Numba does not work here"
            if difference is None
            else f"end {difference:.1e} of a tensor's largest number away"
        ),
        "rule",
        sorted(orders[0]) == sorted(orders[1]) == list(range(20))
        and [row.updates for row in rows] == [0, 20, 40]
        and all(map(torch.equal, model.parameters(), plain.parameters()))
        and (difference or 0) < 1e-5
        and all(row.test_accuracy is not None for row in rows)
        and rows[-1].test_accuracy == accuracy
        and abs((rows[-1].test_loss or 0) - loss) < 1e-6
        and config.train.batch_size == 1
        and (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0),
        "configs/lesson.yaml does this; batches of more than one example are a stated deviation",
    )


@row("passes", 8, "a training run may take millions of forward and backward passes", "millions")
def _(_: Dataset) -> Finding:
    epochs = load_config("lesson", environment={}).train.epochs
    return judge(
        f"60,000 examples × 17 epochs = {60_000 * 17:,}; configs/lesson.yaml takes "
        f"{60_000 * epochs:,}",
        60_000 * 17 >= 1_000_000,
    )
