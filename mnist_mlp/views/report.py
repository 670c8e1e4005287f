"""A run as one page: its pictures, its numbers, and the lesson's checks on its own network.

The page needs nothing but itself: no script, no network, no file beside it.
"""

import base64
import copy
import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from html import escape
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from mnist_mlp.constants import LESSON_LAYER_SIZES, LESSON_PARAMETERS
from mnist_mlp.files import write_atomically
from mnist_mlp.lesson.claims import gradients, merged, relative
from mnist_mlp.runs.checkpoint import (
    TRAINING_PREFIX,
    Checkpoint,
    run_name,
    run_of,
    weights_sha256,
)
from mnist_mlp.runs.training import metrics_of
from mnist_mlp.steps.backprop import autograd, chain_rule, is_linear_relu_stack
from mnist_mlp.steps.data import Dataset, to_images
from mnist_mlp.steps.evaluate import Evaluation, evaluate_model
from mnist_mlp.steps.loss import cross_entropy
from mnist_mlp.steps.model import build_mlp, count_parameters
from mnist_mlp.steps.optimizer import build_optimizer
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.plots import Picture, draw_pictures, probabilities

HEAVY = 200_000
"""Bytes from which on a picture is put into the page as PNG and not as SVG."""
BATCH = 64


@dataclass(frozen=True)
class Check:
    """A claim of the lesson on one network; `holds` is None where there is nothing to compare."""

    step: int
    claim: str
    expected: str
    computed: str
    holds: bool | None


def write_report(
    checkpoint: Checkpoint,
    data: Dataset,
    rows: Sequence[EpochResult],
    plots_dir: Path,
    page: Path,
) -> list[Path]:
    """Draw every picture of a checkpoint and write the page that shows them.

    Args:
        checkpoint: From `load_checkpoint`; its file is read once more.
        data: The checkpoint's, on the CPU.
        rows: Of the run's metrics.jsonl; without any, the page has no curves and says so.
        plots_dir: Where the pictures and their numbers go; made if it is missing.
        page: The HTML file.

    Returns:
        What was written, the page first.

    Raises:
        OSError: A file cannot be written; those already written are whole.
    """
    plots_dir.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    written, shown = [page], []
    for picture in draw_pictures(checkpoint, data, rows):
        files = picture.files()
        for name, content in files.items():
            write_atomically(plots_dir / name, content)
            written.append(plots_dir / name)
        shown.append(_figure(picture, files))
    html = _page(checkpoint, data, rows, shown)
    write_atomically(page, html.encode(errors="replace"))
    return written


def report_on(checkpoint: Checkpoint, data: Dataset, folder: Path | None = None) -> Path:
    """Draw the pictures of a checkpoint and its page, `report.html`.

    Args:
        checkpoint: From `load_checkpoint`.
        data: The one of its config, on the CPU.
        folder: Where to; by default its run directory, or a new folder where it lies in none.

    Returns:
        The page.
    """
    folder = folder or run_of(checkpoint) or Path(f"{checkpoint.path.stem}-report")
    rows = metrics_of(checkpoint)
    return write_report(checkpoint, data, rows, folder / "plots", folder / "report.html")[0]


# The lesson's checks


def check_network(
    checkpoint: Checkpoint, data: Dataset, rows: Sequence[EpochResult], test: Evaluation
) -> Iterator[Check]:
    """What the lesson says, computed anew on a checkpoint's network, which stays as it is.

    Args:
        checkpoint: Whose network is checked.
        data: The checkpoint's, on the CPU.
        rows: Of the run's metrics.jsonl; row 0 is of the untrained network.
        test: Of the checkpoint's network, on the test set.
    """
    model = copy.deepcopy(checkpoint.model).double()
    batch = to_images(data.train.pixels[:BATCH]).double(), data.train.labels[:BATCH]

    low, high = (int(f()) / 255 for f in (data.train.pixels.min, data.train.pixels.max))
    yield Check(
        step=1,
        claim="each input is an intensity from black to white",
        expected="0 to 1",
        computed=f"{low:g} to {high:g} in the training images",
        holds=(low, high) == (0, 1),
    )
    yield _merges(checkpoint, model, batch[0])
    layers = count_parameters(model)
    total = sum(layer.parameters for layer in layers)
    lessons = checkpoint.config.model.layer_sizes == LESSON_LAYER_SIZES
    yield Check(
        step=3,
        claim="numbers of the network",
        expected=f"{LESSON_PARAMETERS:,}"
        if lessons
        else f"{LESSON_PARAMETERS:,}, for 784-128-64-10",
        computed=f"{total:,}: {'; '.join(map(str, layers))}",
        holds=total == LESSON_PARAMETERS if lessons else None,
    )
    p = probabilities(checkpoint.model, data.test.pixels)
    off = float(abs(p.sum(axis=1) - 1).max())
    yield Check(
        step=4,
        claim="softmax sums to 1, each value from 0 to 1",
        expected="1",
        computed=f"{off:.1e} from 1 at most, over {len(p):,} test images",
        holds=off < 1e-12 and bool((p >= 0).all() and (p <= 1).all()),
    )
    if rows and rows[0].epoch == 0:
        untrained = rows[0].train_loss
        yield Check(
            step=5,
            claim="an untrained ten-class network scores ln 10",
            expected=f"{math.log(10):.4f}",
            computed=f"{untrained:.4f} on the training images",
            holds=abs(untrained - math.log(10)) < 0.1,
        )
    yield _differentiates(model, *batch)
    yield _descends(model, *batch)
    recorded = checkpoint.metrics.get("test_accuracy")
    if isinstance(recorded, float) and checkpoint.metrics.get("updates") == checkpoint.update:
        yield Check(
            step=8,
            claim="the test accuracy that training recorded",
            expected=f"{recorded:.2%}",
            computed=f"{test.accuracy:.2%} on {test.examples:,} test images",
            # On other threads one image more or less may be read right.
            holds=abs(test.accuracy - recorded) * test.examples < 1.5,
        )
    in_memory, in_file = weights_sha256(checkpoint.model), _file_sha256(checkpoint.path)
    yield Check(
        step=8,
        claim="the network of this page is the one in its file (weights_sha256)",
        expected=in_file,
        computed=in_memory if in_memory != in_file else "the same",
        holds=in_memory == in_file,
    )


def _merges(checkpoint: Checkpoint, model: nn.Sequential, x: Tensor) -> Check:
    config = checkpoint.config.model
    linear = build_mlp(config.layer_sizes, "identity").double()
    linear.load_state_dict(model.state_dict())
    weight, bias = merged(linear)
    with torch.no_grad():
        one_layer = x @ weight.T + bias
        apart = relative(linear(x), one_layer)
        active = relative(model(x), one_layer)
    layers = len(config.layer_sizes) - 1
    return Check(
        step=2,
        claim="without the activation, stacked layers do no more than one",
        expected="the same logits",
        computed="this network is one layer"
        if layers == 1
        else f"{apart:.1e} of the largest logit apart from one merged layer; "
        f"with {config.activation} between, {active:.2g}",
        holds=apart < 1e-10 if layers > 1 else None,
    )


def _differentiates(model: nn.Sequential, images: Tensor, labels: Tensor) -> Check:
    claim = "∂L/∂W is the product of every step's derivative"
    if not is_linear_relu_stack(model):
        covered = "the chain rule by hand is written for ReLU; autograd trains this network"
        return Check(step=6, claim=claim, expected="autograd's", computed=covered, holds=None)
    hand, automatic = (gradients(model, path, images, labels) for path in (chain_rule, autograd))
    apart = max(float((hand[name] - automatic[name]).abs().max()) for name in hand)
    largest = max(float(gradient.abs().max()) for gradient in automatic.values())
    return Check(
        step=6,
        claim=claim,
        expected="autograd's",
        computed=f"by hand and autograd {apart:.1e} apart at most, of gradients up to "
        f"{largest:.1e} (float64, {len(labels)} training images)",
        holds=apart <= 1e-12 * max(1, largest),
    )


def _descends(model: nn.Sequential, images: Tensor, labels: Tensor) -> Check:
    claim, expected = "a small step against the gradient reduces the loss", "less"
    squared = sum(
        float(g.square().sum()) for g in gradients(model, autograd, images, labels).values()
    )
    with torch.no_grad():
        before = cross_entropy(model(images), labels).item()
    if before < 1e-9:  # a thousandth of it would be lost in rounding
        nothing = f"the loss of {len(labels)} training images is {before:.1e}: nothing to reduce"
        return Check(step=7, claim=claim, expected=expected, computed=nothing, holds=None)
    # The step that to first order takes a thousandth off is small for any network.
    learning_rate = 0.001 * before / squared
    build_optimizer(model.parameters(), "sgd", learning_rate).step()
    with torch.no_grad():
        after = cross_entropy(model(images), labels).item()
    return Check(
        step=7,
        claim=claim,
        expected=expected,
        computed=f"{before:.6g} → {after:.6g}, less by {1 - after / before:.3%}; to first order "
        f"0.1% (learning rate {learning_rate:.2g}, {len(labels)} training images)",
        holds=after < before,
    )


def _file_sha256(path: Path) -> str:
    """`weights_sha256` of what a checkpoint file holds, by way of safetensors alone."""
    digest = hashlib.sha256()
    with safetensors.safe_open(path, framework="numpy") as file:
        for name in sorted(file.keys()):
            if not name.startswith(TRAINING_PREFIX):
                digest.update(file.get_tensor(name).astype("<f4").tobytes())
    return digest.hexdigest()


# The page

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1b1b; --quiet: #5a5a5a; --paper: #f6f6f4;
  --card: #ffffff; --line: #d8d8d4; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececec; --quiet: #b0b0b0;
  --paper: #17181a; --card: #222427; --line: #3b3e42; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
main, header { max-width: 60rem; margin: 0 auto; padding: 0 1rem; }
main { padding-bottom: 3rem; }
h1 { margin: 1.5rem 0 0; font-size: 1.7rem; overflow-wrap: anywhere; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.3rem; }
h3 { margin: 0 0 .25rem; font-size: 1.05rem; }
p { margin: .25rem 0; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); }
dl { display: grid; gap: .75rem; margin: 1.25rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(12rem, 45%), 1fr)); }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .6rem .8rem; }
dt { color: var(--quiet); font-size: .85rem; }
dd { margin: 0; font-size: 1.15rem; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
figure { margin: 0 0 2rem; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 6px;
  background: var(--card); }
.picture { background: #ffffff; }
.picture img { display: block; width: 100%; min-width: 36rem; height: auto; margin: 0 auto; }
figcaption { margin-top: .4rem; font-size: .9rem; color: var(--quiet); }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { color: var(--quiet); font-weight: 600; vertical-align: bottom; }
tbody th { font-weight: 600; }
td { overflow-wrap: anywhere; }
.numbers :is(th, td) { text-align: right; padding: .3rem .45rem; }
.numbers td { white-space: nowrap; }
.checks { min-width: 44rem; }
.checks td:nth-child(3) { font-weight: 600; }
pre { margin: 0; padding: .8rem; font: .85rem/1.45 ui-monospace, monospace; }
@media print {
  :root { color-scheme: light; --ink: #000; --quiet: #444; --paper: #fff; --card: #fff;
    --line: #bbb; }
  figure, dl div, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .scroll { overflow: visible; }
  .picture img { min-width: 0; max-height: 22cm; object-fit: contain; }
  .checks { min-width: 0; }
  .numbers { font-size: .6rem; }
  .numbers :is(th, td) { padding: .15rem .25rem; }
  pre { white-space: pre-wrap; }
}
"""


def _page(
    checkpoint: Checkpoint, data: Dataset, rows: Sequence[EpochResult], pictures: list[str]
) -> str:
    config, name = checkpoint.config, escape(run_name(checkpoint))
    test = evaluate_model(checkpoint.model, *data.test)
    checks = list(check_network(checkpoint, data, rows, test))
    held, compared = sum(c.holds is True for c in checks), sum(c.holds is not None for c in checks)
    seconds = checkpoint.progress.get("seconds")
    facts = {
        "test accuracy": f"{test.accuracy:.2%}",
        "test loss": f"{test.loss:.4f} nats",
        "data set": f"{data.name}, {test.examples:,} test images",
        "network": f"{'-'.join(map(str, config.model.layer_sizes))}, {config.model.activation}",
        "parameters": f"{sum(layer.parameters for layer in count_parameters(checkpoint.model)):,}",
        "training": f"{checkpoint.epoch} epochs, {checkpoint.update:,} updates",
        "seconds": "not known" if seconds is None else f"{seconds:,.1f}",
        "checks": f"{held} of {compared} hold",
    }
    curves = "" if rows else "<p>No metrics.jsonl lies beside this checkpoint: no curves.</p>"
    metrics = (
        _table([f.name.replace("_", " ") for f in fields(EpochResult)], map(_row, rows), "numbers")
        if rows
        else "<p>No metrics.jsonl lies beside this checkpoint.</p>"
    )
    environment = [[key, value] for key, value in _flat(checkpoint.environment)]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" \
content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} · mnist-mlp</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>{name}</h1>
<p class="quiet">A network that reads handwritten digits, trained by mnist-mlp</p>
</header>
<main>
<dl>{"".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())}</dl>
<h2>Pictures</h2>
{curves}
{"".join(pictures)}
<h2>The lesson's checks on this network</h2>
{_table(["step", "claim", "verdict", "expected", "computed"], map(_verdict, checks), "checks")}
<h2>Metrics</h2>
{metrics}
<h2>Config</h2>
<div class="scroll" tabindex="0"><pre>{escape(config.to_yaml())}</pre></div>
<h2>Environment</h2>
{_table(["what", "value"], environment, "")}
</main>
</body>
</html>
"""


def _figure(picture: Picture, files: dict[str, bytes]) -> str:
    svg, png = files[f"{picture.stem}.svg"], files[f"{picture.stem}.png"]
    kind, content = ("png", png) if len(svg) >= HEAVY else ("svg+xml", svg)
    width, height = (round(96 * inches) for inches in picture.figure.get_size_inches())
    return f"""<figure>
<h3>{escape(picture.title)}</h3>
<div class="scroll picture" tabindex="0"><img width="{width}" height="{height}" \
alt="{escape(f"{picture.title}. {picture.shows}")}" \
src="data:image/{kind};base64,{base64.b64encode(content).decode()}"></div>
<figcaption>{escape(f"{picture.shows} {picture.caption}")}</figcaption>
</figure>
"""


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]], kind: str) -> str:
    """An HTML table; the first cell of a row is its heading."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "\n".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        + "".join(f"<td>{escape(str(cell))}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _verdict(check: Check) -> list[str]:
    verdict = {True: "holds", False: "DOES NOT HOLD", None: "not compared"}[check.holds]
    return [str(check.step), check.claim, verdict, check.expected, check.computed]


def _row(row: EpochResult) -> list[str]:
    def share(value: float | None) -> str:
        return "–" if value is None else f"{value:.2%}"

    def nats(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    return [
        str(row.epoch),
        f"{row.updates:,}",
        f"{row.examples_seen:,}",
        f"{row.learning_rate:.4g}",
        nats(row.train_loss),
        share(row.train_accuracy),
        nats(row.validation_loss),
        share(row.validation_accuracy),
        nats(row.test_loss),
        share(row.test_accuracy),
        f"{row.seconds:.1f}",
    ]


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{leaf}", x) for leaf, x in value.items())
        else:
            yield key, value
