"""Every claim of the lesson, beside what this program computes and a verdict.

The verdicts are `holds`, `rounds` (equal at the printed digits), `differs`, `rule` (nothing to
compare: something to do or to read) and `cited`. A row is also `ok` or not: it is when the program
computes the correct result. Where the lesson is wrong, `differs` is ok. A row uses no part of a
later step, so the first row that is not ok shows which step is broken.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from mnist_mlp.config import load_config
from mnist_mlp.constants import LESSON_PARAMETERS
from mnist_mlp.lesson import measures
from mnist_mlp.mnist_files import has_mnist
from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.steps.backprop import autograd, chain_rule
from mnist_mlp.steps.data import Dataset, Split, epoch_order, load_dataset
from mnist_mlp.steps.loss import cross_entropy, softmax
from mnist_mlp.steps.model import build_mlp, count_parameters
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult, fit

ROWS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("claims.yaml").read_text("utf-8")
)
"""The rows of claims.yaml by id, in the lesson's order."""
LOGITS, LABEL = (1.2, 0.3, -0.5, 0.1, 3.8, 0.2, -0.1, 8.1, 0.4, 0.9), 7
WORKED = torch.tensor([LOGITS, LOGITS], dtype=torch.float64)
"""The lesson's worked example; as a batch of two, to notice a softmax over the wrong dimension."""
SOFTMAX = (0.00099, 0.00040, 0.00018, 0.00033, 0.01334, 0.00036, 0.00027, 0.98295, 0.00045, 0.00073)
"""The softmax of these logits in float64, rounded to five decimals."""


@dataclass(frozen=True)
class Claim:
    """A row that is filled in; `ok` if the program computes the correct result."""

    id: str
    step: int | None
    claim: str
    lesson: str
    computed: str
    verdict: Literal["holds", "rounds", "differs", "rule", "cited"]
    ok: bool
    note: str = ""


class Claims(NotebookHtml, tuple[Claim, ...]):
    """All rows."""


def fill(id_: str, ok: bool, text: str = "computed", /, **parts: Any) -> Claim:
    """Fill in a row: the parts go into its text of that name, or replace its verdict."""
    row = {"computed": "{computed}", "verdict": "holds" if ok else "differs"} | ROWS[id_]
    said = row["step"], row["claim"], row["lesson"], row[text].format(**parts)
    return Claim(id_, *said, parts.get("verdict") or row["verdict"], ok, row.get("note", ""))


def check_lesson(data: Dataset | None = None) -> Claims:
    """Compute every row, in the lesson's order, GPT-3 last; one row trains for an epoch.

    The data, by default `lesson_data()`, is on the CPU and without a validation split.
    """
    data = data or lesson_data()
    steps = (_input, _layer, _stack, _probabilities, _loss, _gradients, _update, _repeat, _gpt3)
    claims, errors = dict[str, Claim](), dict[int, str]()
    for number, compute in enumerate(steps, start=1):
        try:
            for claim in compute(data):
                claims[claim.id] = claim
        except Exception as error:  # a broken part must be in the table, not the end of it
            errors[number] = f"{type(error).__name__}: {error}"
    for id_, row in ROWS.items():
        if id_ not in claims:
            said = errors.get(row["step"] or 9, "nothing")
            about = row["step"], row["claim"], row["lesson"]
            claims[id_] = Claim(id_, *about, said, "differs", False, "it fails")
    return Claims(claims[id_] for id_ in ROWS)


def lesson_data(root: str | None = None) -> Dataset:
    """MNIST, where its files are below the root (by default the configs'), else the digits."""
    root = root or load_config("mnist").data.root
    return load_dataset("mnist" if has_mnist(root) else "digits", root)


def _input(data: Dataset) -> Iterator[Claim]:
    pixels = data.train.pixels
    yield fill("pixels", pixels.shape[1] == 28 * 28, computed=pixels.shape[1])

    low, high = measures.intensity_range(pixels)
    _, corner = measures.intensity_range(pixels[:, :1])
    found = {"low": low, "high": high, "corner": corner, "pixels": pixels.numel()}
    ok = (low, high, corner) == (0, 1, 0)
    yield fill("pixel-range", ok, **found, data=data.name, verdict="rule")


def _layer(data: Dataset) -> Iterator[Claim]:
    model = build_mlp(seed=0).double()
    layer = model.get_submodule("layer1")
    W, b = (layer.get_parameter(name).detach() for name in ("weight", "bias"))
    x = data.train.images[0].double()
    z = layer(x.unsqueeze(0))[0].detach()
    apart = (z - ((W * x).sum(dim=1) + b)).abs().max().item()
    shapes = f"W {W.shape[0]} × {W.shape[1]}, x {len(x)}, b {len(b)}, z {len(z)}"
    ok = shapes == ROWS["layer"]["lesson"] and apart <= 1e-12
    yield fill("layer", ok, shapes=shapes, apart=apart)

    z = torch.tensor([-0.5, 1.2, -0.1, 0.8, -2.0, 0.3])
    after = " ".join(f"{a:.1f}" for a in model.get_submodule("relu1")(z).tolist())
    yield fill("relu", after == ROWS["relu"]["lesson"], computed=after)

    yield judge_collapse(model, data.train.images[:100].double(), apart=1e-12, active=0.01)


@torch.no_grad()
def judge_collapse(
    model: nn.Sequential, images: Tensor, apart: float = 1e-10, active: float = 0.0
) -> Claim:
    """Judge the claim `collapse` for a network and images (B, D), both in float64.

    Without activations the logits may differ by `apart` from the merged layer's, with activations
    they must differ by `active`, both as fractions of the largest logit.
    """
    first, *others = [module for module in model if isinstance(module, nn.Linear)]
    sizes = [first.in_features, first.out_features, *(layer.out_features for layer in others)]
    stack = build_mlp(sizes, "identity").double()
    stack.load_state_dict(model.state_dict())
    W, b = first.weight, first.bias  # of the merged layer: (C, D) and (C,) after the loop
    for layer in others:
        W, b = layer.weight @ W, layer(b)
    merged = images @ W.T + b
    linear = measures.relative_difference(stack(images), merged)
    full = measures.relative_difference(model(images), merged)
    return fill("collapse", linear <= apart and full >= active, linear=linear, full=full)


def _stack(data: Dataset) -> Iterator[Claim]:
    model = build_mlp()
    layers = count_parameters(model)
    for layer in layers:
        id_ = f"{layer.name}-count"
        yield fill(id_, str(layer) == ROWS[id_]["lesson"], computed=layer)

    total = sum(layer.parameters for layer in layers)
    weights, biases = sum(layer.weights for layer in layers), sum(layer.biases for layer in layers)
    ok = (total, weights, biases) == (109_386, 109_184, 202)
    yield fill("total", ok, total=total, weights=weights, biases=biases)

    tiles = model.get_parameter("layer1.weight").view(-1, 28, 28)
    yield fill("features", len(tiles) == 128, tiles=len(tiles))

    blank = int((data.train.pixels.amax(dim=0) == 0).sum())
    never, unchanged, updates = measures.never_learned(data)
    in_blank = blank * 128
    found = {"learned": LESSON_PARAMETERS - never, "never": never, "in_blank": in_blank}
    of = {"updates": updates, "blank": blank, "images": len(data.train.labels), "data": data.name}
    known = 67 if data.name == "mnist" else blank  # pixels that are 0 in all its 60,000 images
    ok = blank == known and never >= in_blank == unchanged > 0
    yield fill("all-learned", ok, **found, **of)


def _probabilities(data: Dataset) -> Iterator[Claim]:
    model = build_mlp(seed=0)
    z = model(data.train.images[:7])
    formula = z.exp() / z.exp().sum(dim=1, keepdim=True)
    ok = (
        isinstance(model[-1], nn.Linear)
        and bool(z.min() < 0)
        and bool(softmax(z * 1e6).isfinite().all())
        and measures.relative_difference(softmax(z), formula) < 1e-6
    )
    yield fill("logits", ok)

    batch = softmax(WORKED)  # (2, 10)
    p = batch[1]
    ok = tuple(round(x, 5) for x in p.tolist()) == SOFTMAX
    yield fill("worked-softmax", ok, computed=" ".join(f"{x:.2f}" for x in p))

    ok = int(p.argmax()) == LABEL and f"{p.max():.1%}" == "98.3%"
    yield fill("worked-confidence", ok, digit=p.argmax(), confidence=p.max())

    printed = sum(map(float, ROWS["worked-softmax"]["lesson"].split()))
    yield fill("sums-to-one", measures.sum_error(batch) < 1e-12, total=p.sum(), printed=printed)


def _loss(data: Dataset) -> Iterator[Claim]:
    for p, expected in {"0.96": "0.040822", "0.10": "2.302585"}.items():
        z = torch.tensor([[float(p), 1 - float(p)]], dtype=torch.float64).log()
        loss = cross_entropy(z, torch.tensor([0])).item()
        verdict = "rounds" if f"{loss:.2f}" == ROWS[f"loss-{p}"]["lesson"] else "differs"
        computed = f"{loss:.6f}"
        yield fill(f"loss-{p}", computed == expected, computed=computed, verdict=verdict)

    computed = f"{cross_entropy(WORKED, torch.tensor([LABEL, LABEL])).item():.4f}"
    yield fill("worked-loss", computed == "0.0172", computed=computed)

    untrained = cross_entropy(build_mlp(seed=0)(data.test.images), data.test.labels).item()
    yield judge_untrained(untrained, f"{len(data.test.labels):,} images of {data.name}")


def judge_untrained(loss: float, images: str) -> Claim:
    """Judge the claim `untrained-loss` for an untrained network's mean loss on some images."""
    ln10 = math.log(10)
    return fill("untrained-loss", abs(loss - ln10) < 0.1, loss=loss, images=images, ln10=ln10)


def _gradients(data: Dataset) -> Iterator[Claim]:
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
    ok = apart <= 1e-12 and max(worst) <= 1e-6 and sum(compared) > 200
    counts = {"parameters": LESSON_PARAMETERS, "compared": sum(compared), "kinks": sum(kinks)}
    yield fill("chain-rule", ok, apart=apart, worst=max(worst), **counts)

    a2 = model[:-1](images[:1]).detach().requires_grad_()  # (1, 64)
    z3 = model[-1](a2)[0]  # (10,)
    W3 = model.get_parameter("layer3.weight")
    right = True
    for k, z in enumerate(z3):
        by_a, by_W = torch.autograd.grad(z, (a2, W3), retain_graph=True)
        right &= torch.equal(by_a[0], W3[k]) and torch.equal(by_W[k], a2[0])
    yield fill("layer3-factors", right, "computed" if right else "wrong")


def _update(data: Dataset) -> Iterator[Claim]:
    model = build_mlp(seed=0)
    images, labels = data.train.images[:64], data.train.labels[:64]
    W = parameters_to_vector(model.parameters()).detach()
    dW = parameters_to_vector(measures.gradients(model, chain_rule, images, labels).values())
    build_optimizer(model.parameters(), "sgd", learning_rate=0.1).step()
    updated = parameters_to_vector(model.parameters()).detach()
    rounded_twice = W - 0.1 * dW  # the product rounded to float32, then the difference
    rounded_once = (W.double() - torch.tensor(0.1).double() * dW.double()).float()
    fused = updated != rounded_twice
    apart = measures.relative_difference(updated, rounded_twice)
    ok = torch.equal(updated[fused], rounded_once[fused])
    yield fill("update", ok, numbers=len(W), fused=int(fused.sum()), apart=apart)

    yield judge_small_step(build_mlp(seed=0).double(), images.double(), labels, within=0.01)


def judge_small_step(
    model: nn.Sequential, images: Tensor, labels: Tensor, within: float = 1.0
) -> Claim:
    """Judge the claim `small-step` for a network and images (B, D), both in float64.

    One SGD step, on a copy, is to reduce the loss by a thousandth of itself to first order.
    `within`: how far the fall may be from learning_rate × ‖gradient‖², relative to that.
    """
    model = copy.deepcopy(model)
    found = measures.gradients(model, autograd, images, labels)
    squared = sum(gradient.square().sum().item() for gradient in found.values())
    with torch.no_grad():
        before = cross_entropy(model(images), labels).item()
        learning_rate = 0.001 * before / squared if squared else 0.0
        build_optimizer(model.parameters(), "sgd", learning_rate).step()
        after = cross_entropy(model(images), labels).item()
    parts = {"before": before, "after": after, "rate": learning_rate, "images": len(labels)}
    if before < 1e-9:  # a thousandth of it is close to rounding errors
        return fill("small-step", True, "learned", **parts, verdict="rule")
    ok = after < before and abs((before - after) / (0.001 * before) - 1) < within
    return fill("small-step", ok, **parts, fall=1 - after / before)


def _repeat(data: Dataset) -> Iterator[Claim]:
    few = data._replace(train=Split(*(t[:20] for t in data.train)))
    model = build_mlp(seed=0)
    sgd = build_optimizer(model.parameters(), "sgd", learning_rate=0.01)
    events = fit(model, few, sgd, epochs=2, batch_size=1, backward=chain_rule(model))
    rows = [event for event in events if isinstance(event, EpochResult)]
    last = rows[-1]
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

    apart = measures.compare_compiled_updates(few)
    config = load_config("lesson", environment={})
    ok = (
        sorted(orders[0]) == sorted(orders[1]) == list(range(20))
        and [row.updates for row in rows] == [0, 20, 40]
        and all(map(torch.equal, model.parameters(), plain.parameters()))
        and (apart or 0) < 1e-5
        and all(row.test_accuracy is not None for row in rows)
        and last.test_accuracy == accuracy
        and abs((last.test_loss or 0) - loss) < 1e-6
        and config.train.batch_size == 1
        and (config.optimizer.name, config.optimizer.momentum) == ("sgd", 0)
    )
    compiled = "are not made, since Numba does not work here"
    if apart is not None:
        compiled = f"end {apart:.1e} of a tensor's largest number away"
    yield fill("loop", ok, **asdict(last), compiled=compiled)

    passes, ours = 60_000 * 17, 60_000 * config.train.epochs
    yield fill("passes", passes >= 1_000_000, passes=passes, ours=ours)


def _gpt3(_: Dataset) -> Iterator[Claim]:
    """From its architecture (Brown et al. 2020, table 2.1); the layers are those of GPT-2."""
    layers, width, vocabulary, context = 96, 12_288, 50_257, 2_048
    attention = 4 * width**2 + 4 * width  # query, key, value and output, with biases
    feed_forward = 2 * 4 * width**2 + 4 * width + width  # to 4 × width and back, with biases
    layer = attention + feed_forward + 2 * 2 * width  # and two layer norms with gain and bias
    embeddings = (vocabulary + context) * width  # the output projection reuses the tokens'
    parameters = layers * layer + embeddings + 2 * width  # and the last layer norm
    for id_ in ("gpt3-parameters", "gpt3-gradients"):
        yield fill(id_, parameters == 174_604_259_328, parameters=parameters)

    by_weights = layers * 12 * width**2 + vocabulary * width
    in_attention = layers * 2 * context * width  # scores and weighted sum
    ok = (by_weights, in_attention) == (174_563_733_504, 4_831_838_208)
    total = by_weights + in_attention
    parts = {"total": total, "weights": by_weights, "attention": in_attention, "added": 2 * total}
    yield fill("gpt3-multiplications", ok, **{name: n / 1e9 for name, n in parts.items()})

    tokens = 256 + 50_000 + 1
    yield fill("gpt3-vocabulary", tokens == vocabulary, tokens=tokens)
    yield fill("gpt3-tokens", True)
