"""The time of an epoch, beside other ways to train the same network; prints Markdown.

    python scripts/benchmark.py --root data                  # about ten minutes
    python scripts/benchmark.py --root data --quick          # about two, less precise
    python scripts/benchmark.py --root data --json all.json  # every single number too
    python scripts/benchmark.py --root data --cuda           # on a GPU, nothing else

Every contender trains one epoch with the same initial weights, images, batch size and optimizer:
what the bundled configs do, and plain gradient descent at other batch sizes. They take turns, so
that a slow spell of the machine falls on all alike: trust the ratios, not the seconds. Each task
is measured twice: alone, and beside a program that keeps one core busy. Of a contender's ways (its
numbers of threads, say) the fastest counts, chosen anew in each of the two. Loading the data,
compiling and the final evaluation are not counted. The test accuracies must agree, or the script
exits with 1. (The DataLoader loop normalises its pixels, as it usually does, and so learns faster.
It is compared with a loop that normalises too.) A missed target is only reported.

Modules other than torch are imported only where they are needed: this file is also the plain script
whose whole run is timed.

Tried for the compiled loop and left out (two x86-64 cores, AMD EPYC with AVX-512, torch 2.14.1,
Numba 0.68; microseconds per image at batch size 64, of 3.7 in all):

- Sums of layer 1 in vector registers, by LLVM instructions of our own: 4.2 instead of 4.7 at the
  time, for 90 lines that know Numba's insides.
- All passes of one example before the next: 5.7 instead of 4.7.
- Views of each layer made in each update instead of once: at batch size 1, 0.7 more.
- Leaving it to LLVM to check whether arrays overlap: 5.2 instead of 4.7.
- AdamW by PyTorch's fused operation: 49 µs an update instead of 35.
- Images deformed by compiled loops, not by PyTorch's product and interpolation: as fast.
- Matrix products for networks up to 400,000 weights: on one thread twice as slow at every batch
  size from 1 to 512; on two, at 512, as fast, and slower beside other work.

And (Intel Xeon with AVX-512, two cores; at batch size 16, of 2.8 in all):

- Layer 1 pixel by pixel, from lists of the examples that light it, made for each batch and each
  part of the image: 2.2 instead of 1.6, of which 0.6 for the lists.
- The same for its gradients alone, from a bit mask for each pixel instead of lists: 1.0 to 1.1
  instead of 0.9, of which 0.16 for the masks.
- Sums over each part of the image too, not only gradients; eight lit pixels at a time instead of
  four; loops of a known length in layers 2 and 3: no difference.
- Blocks of 64 outputs with loops of that length, for networks of any width: 0.5 more.
- Reading a batch's lists ahead of use: 0.1 less, for four lines that look useless.
"""

import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property, partial
from importlib import import_module, metadata
from importlib.util import find_spec
from itertools import islice, pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from unittest import mock

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

    from mnist_mlp.config import Config
    from mnist_mlp.runs.training import RunEvent
    from mnist_mlp.steps.data import Dataset
    from mnist_mlp.steps.evaluate import Evaluation

LEARNING_RATES = {
    ("sgd", 64): 0.1, ("adamw", 64): 0.001, ("adamw", 256): 0.002, ("sgd", 16): 0.05,
    ("sgd", 1): 0.01, ("sgd", 512): 0.1,
}  # fmt: skip
"""The tasks, by optimizer and batch size, and the learning rate of each."""
WEIGHT_DECAY = 0.2
"""Of AdamW."""
HIDDEN = (128, 64)
WIDTHS = (1, 4, 16)
GROWTH_IMAGES = 20_480
PART = 3_000
"""Updates of those whose epoch at small batches would take minutes; their time is scaled."""
SAME_ORDER = 0.003
"""How far test accuracies may lie apart that come from the same order of examples."""
OWN_ORDER = 0.02
"""And from different orders, and at batch sizes up to 16, where roundings tell as much."""
MEAN, STD = 0.1307, 0.3081
"""What the usual DataLoader loop normalizes MNIST's pixels with."""
OURS, LOADER, AUTOGRAD = "mnist-mlp", "DataLoader loop", "in memory, autograd"
JAX, FLOOR, FLOOR_1 = "JAX lax.scan", "floor", "floor, 1 thread"
PLAIN = "plain script"
GRAPH, EAGER = "mnist-mlp, a recorded graph", "mnist-mlp, the same operations one by one"
CONFIGS_ON_GPU = "mnist", "fast", "best"
THREADS = {"1 thread": 1, "2 threads": 2}
BESIDE = ", beside a busy core"
TARGETS = (
    ("sgd 64", LOADER, OURS, "≥", 18),
    ("adamw 64", OURS, JAX, "≤", 1.15),
    ("adamw 256", OURS, JAX, "≤", 1.2),
    ("sgd 1", OURS, JAX, "≤", 0.35),
    ("sgd 16", OURS, JAX, "≤", 0.4),
    ("sgd 64", OURS, JAX, "≤", 1.0),
    (f"sgd 64{BESIDE}", OURS, JAX, "≤", 0.85),
    (f"adamw 64{BESIDE}", OURS, JAX, "≤", 0.85),
    ("adamw 64, one core", OURS, JAX, "≤", 0.9),
    ("adamw 256, one core", OURS, JAX, "≤", 0.9),
    ("sgd 64", OURS, FLOOR_1, "≤", 0.9),
    ("Whole commands", PLAIN, OURS, "≥", 6),
    ("Hidden widths", f"{OURS} ×4", f"{FLOOR} ×4", "≤", 1.15),
    ("Hidden widths", f"{OURS} ×16", f"{FLOOR} ×16", "≤", 1.15),
)
"""Where, what ÷ what, and the bound of that ratio."""
BESIDE_ALONE = 1.4
"""Bound of ours beside a busy core ÷ ours alone."""
COMMANDS = {"lesson": 6, "mnist": 10}
"""Bound in seconds of `mnist-mlp train --config` with each."""

app = typer.Typer()


class Epoch(NamedTuple):
    """One measurement: seconds of a whole epoch, and what was learned in it.

    `parameters` are W (outputs, inputs) and b of each layer in turn, for pixels from 0 to 1; None
    where nothing, or only a part of an epoch, was learned.
    """

    seconds: float
    parameters: list[Tensor] | None = None
    note: str = ""


@dataclass(frozen=True)
class Task:
    """The epoch that all contenders train."""

    root: str
    data: "Dataset"
    images: Tensor  # (N, 784), float32, from 0 to 1
    optimizer: str
    batch_size: int
    hidden: tuple[int, int] = HIDDEN

    @property
    def layer_sizes(self) -> list[int]:
        """Of the network."""
        return [784, *self.hidden, 10]

    @property
    def learning_rate(self) -> float:
        """Of every update."""
        return LEARNING_RATES[self.optimizer, self.batch_size]

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """PyTorch's, fused where that is faster."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(model.parameters(), lr=self.learning_rate)
        return torch.optim.AdamW(
            model.parameters(), lr=self.learning_rate, weight_decay=WEIGHT_DECAY, fused=True
        )

    @cached_property
    def order(self) -> Tensor:
        """The order (N,) in which mnist-mlp visits the examples."""
        from mnist_mlp.steps.data import epoch_order

        return epoch_order(len(self.images), seed=0, epoch=1)

    def network(self) -> nn.Sequential:
        """The network before the epoch."""
        from mnist_mlp.steps.model import build_mlp

        return build_mlp(self.layer_sizes, seed=0)

    def overrides(self) -> list[str]:
        """All of this as a config."""
        return [
            "data.dataset=mnist", f"data.root={json.dumps(self.root)}", "data.validation=0",
            f"model.layer_sizes={self.layer_sizes}", f"train.batch_size={self.batch_size}",
            f"optimizer.name={self.optimizer}", f"optimizer.learning_rate={self.learning_rate}",
            f"optimizer.weight_decay={WEIGHT_DECAY * (self.optimizer == 'adamw')}", "seed=0",
        ]  # fmt: skip

    def epoch(self, seconds: float, examples: int, parameters: Iterable[Tensor]) -> Epoch:
        """What was measured on the first so many examples, scaled to all of them."""
        seconds *= len(self.images) / examples
        if len(self.images) - examples < self.batch_size:  # all but perhaps a ragged last batch
            return Epoch(seconds, [parameter.detach().cpu() for parameter in parameters])
        return Epoch(seconds, note=f"{examples:,} images, scaled")

    def accuracy(self, parameters: list[Tensor]) -> float:
        """Of the network with these parameters, on the test set."""
        x = as_float(self.data.test.images)
        *inner, last = zip(parameters[::2], parameters[1::2], strict=True)
        for weight, bias in inner:
            x = F.linear(x, weight, bias).relu()
        return float((F.linear(x, *last).argmax(dim=1) == self.data.test.labels).double().mean())


def as_float(images: Tensor) -> Tensor:
    """Pixels from 0 to 1, whether they are held so or as bytes."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def on_threads(threads: int, measure: Callable[[], Epoch]) -> Epoch:
    """Measure on so many threads of torch."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return measure()
    finally:
        torch.set_num_threads(before)


# The contenders: each makes one measurement.


def mnist_mlp_epoch(task: Task) -> Epoch:
    """This trainer as it is used: live display, metrics, checkpoint and all.

    Timed from row 0, the untrained network's, to the result, less the evaluation of the test set.
    """
    from mnist_mlp.config import load_config
    from mnist_mlp.runs.training import RunResult, RunStart, run_events
    from mnist_mlp.steps.evaluate import evaluate_model
    from mnist_mlp.steps.train import EpochResult
    from mnist_mlp.views.terminal import open_console, show_run

    evaluating = 0.0
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks[name] = time.perf_counter() - evaluating  # a clock that rests while evaluating

    def load(*_: Any) -> "Dataset":
        mark("loaded")
        return task.data

    def evaluate(*arguments: Any) -> "Evaluation":
        nonlocal evaluating
        began = time.perf_counter()
        evaluation = evaluate_model(*arguments)
        evaluating += time.perf_counter() - began
        return evaluation

    def watched(events: Iterator["RunEvent"]) -> Iterator["RunEvent"]:
        for event in events:
            if isinstance(event, RunStart):
                mark("set up")
            elif isinstance(event, EpochResult) and event.epoch == 0:
                mark("began")
            elif isinstance(event, RunResult):
                mark("ended")
            yield event

    settings = ["device=cpu", "train.epochs=1", "train.test_each_epoch=false"]
    config = load_config("lesson", [*task.overrides(), *settings])
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("mnist_mlp.runs.training.load_config_dataset", load),
        mock.patch("mnist_mlp.steps.train.evaluate_model", evaluate),
        # A terminal, as far as rich can tell: the live display is drawn, and thrown away.
        mock.patch.dict(os.environ, {"FORCE_COLOR": "1", "TERM": "xterm-256color"}),
        Path(os.devnull).open("w") as terminal,
        redirect_stdout(terminal),
        open_console(json_=False, quiet=False) as console,
    ):
        result = show_run(console, watched(run_events(config, Path(folder, "run"))))
    seconds, setup = marks["ended"] - marks["began"], marks["set up"] - marks["loaded"]
    epoch = task.epoch(seconds, len(task.images), result.model.parameters())
    return epoch._replace(note=f"{setup:.2f} s to set up the run not counted")


def plain_network() -> nn.Sequential:
    """As written without mnist-mlp; the weights are those of `build_mlp(seed=0)`."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def plain_loader(root: str, train: bool, batch_size: int, workers: int) -> "DataLoader[Any]":
    """As everybody writes it."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    normalize = transforms.Normalize((MEAN,), (STD,))
    transform = transforms.Compose([transforms.ToTensor(), normalize])
    images = datasets.MNIST(root, train=train, transform=transform)
    return DataLoader(images, batch_size=batch_size, shuffle=train, num_workers=workers)


def plain_epoch(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]]
) -> float:
    """The training loop that everybody copies; its mean loss."""
    criterion = nn.CrossEntropyLoss()
    total, seen = 0.0, 0
    for images, labels in batches:
        optimizer.zero_grad()
        loss = criterion(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        seen += len(labels)
    return total / seen


def loader_epoch(task: Task, examples: int, workers: int) -> Epoch:
    """That loop on its own shuffle."""
    model = plain_network()
    optimizer = task.build_optimizer(model)
    loader = plain_loader(task.root, True, task.batch_size, workers)
    batches = math.ceil(examples / task.batch_size)
    began = time.perf_counter()
    plain_epoch(model, optimizer, islice(loader, batches))
    seconds = time.perf_counter() - began
    seen = min(batches * task.batch_size, len(task.images))
    return task.epoch(seconds, seen, _normalizing(model.parameters()))


def _normalizing(parameters: Iterable[Tensor]) -> list[Tensor]:
    """Learned from normalized pixels; for plain ones: W·(x − mean) / std + b, multiplied out."""
    weight, bias, *others = parameters
    return [weight / STD, bias - weight.sum(dim=1) * MEAN / STD, *others]


def like_loader(task: Task) -> Epoch:
    """What that loop learns but for the order: normalized pixels teach faster than plain ones."""
    normalized = replace(task, images=(task.images - MEAN) / STD)
    epoch = autograd_epoch(normalized, len(task.images))
    return epoch._replace(parameters=_normalizing(epoch.parameters or []))


def autograd_epoch(task: Task, examples: int, device: str = "cpu") -> Epoch:
    """PyTorch without a DataLoader."""
    model = task.network().to(device)
    optimizer = task.build_optimizer(model)
    images, labels = task.images.to(device), task.data.train.labels.to(device)
    order = task.order[:examples].to(device)
    wait: Callable[[], None] = torch.cuda.synchronize if device == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    for index in torch.split(order, task.batch_size):
        optimizer.zero_grad()
        F.cross_entropy(model(images[index]), labels[index]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    wait()
    return task.epoch(time.perf_counter() - began, examples, model.parameters())


def _parameters(weights: Iterable[Any], biases: Iterable[Any]) -> list[Tensor]:
    """From arrays, W (inputs, outputs) and b."""
    layers = zip(weights, biases, strict=True)
    return [torch.tensor(array) for weight, bias in layers for array in (weight.T, bias)]


def jax_epoch(task: Task, pool: ProcessPoolExecutor) -> Epoch:
    """One call, compiled before, in a process of its own.

    JAX has threads, and a process with threads should not fork, as a DataLoader's workers do.
    """
    asked = pool.submit(_jax_epoch, task.root, task.optimizer, task.batch_size)
    seconds, arrays, compiling = asked.result()
    epoch = task.epoch(seconds, len(task.images), _parameters(*zip(*arrays, strict=True)))
    return epoch._replace(note=f"{compiling:.1f} s to compile not counted")


def _jax_epoch(root: str, optimizer: str, batch_size: int) -> tuple[float, Any, float]:
    train, compiling = _compiled(root, optimizer, batch_size)
    began = time.perf_counter()
    parameters = train()
    seconds = time.perf_counter() - began
    return seconds, [[array.__array__() for array in layer] for layer in parameters], compiling


@cache
def _compiled(root: str, optimizer: str, batch_size: int) -> tuple[Callable[[], Any], float]:
    """From nothing to [(W (inputs, outputs), b), ...] after the epoch; seconds to compile."""
    from mnist_mlp.steps.data import load_dataset

    os.environ["JAX_PLATFORMS"] = "cpu"
    jax: Any = import_module("jax")  # by name: it need not be installed, nor its types
    array, tree = jax.numpy.asarray, jax.tree.map

    data = load_dataset("mnist", root)
    task = Task(root, data, as_float(data.train.images), optimizer, batch_size)
    layers = [layer for layer in task.network() if isinstance(layer, nn.Linear)]
    initial = [(array(n.weight.detach().numpy().T), array(n.bias.detach().numpy())) for n in layers]
    whole = len(task.order) // batch_size * batch_size
    batches, ragged = task.order[:whole].view(-1, batch_size), task.order[whole:]
    rate = task.learning_rate

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        *inner, (weight, bias) = parameters
        for w, b in inner:
            x = jax.nn.relu(x @ w + b)
        return -(jax.nn.one_hot(y, 10) * jax.nn.log_softmax(x @ weight + bias)).sum() / len(y)

    def step(state: Any, gradients: Any) -> Any:
        if optimizer == "sgd":
            return (tree(lambda p, g: p - rate * g, state[0], gradients),)
        parameters, means, squares, t = state
        means = tree(lambda m, g: m + 0.1 * (g - m), means, gradients)
        squares = tree(lambda s, g: s + 0.001 * (g * g - s), squares, gradients)
        size, unbias = rate / (1 - 0.9 ** (t + 1)), 1 / (1 - 0.999 ** (t + 1)) ** 0.5
        keep = 1 - rate * WEIGHT_DECAY
        moved = tree(
            lambda p, m, s: p * keep - size * m / (s**0.5 * unbias + 1e-8),
            parameters, means, squares,
        )  # fmt: skip
        return moved, means, squares, t + 1

    def epoch(state: Any, images: Any, labels: Any, batches: Any, ragged: Any) -> Any:
        def update(state: Any, index: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(state[0], images[index], labels[index])
            return step(state, gradients), value

        state, losses = jax.lax.scan(update, state, batches)
        return (update(state, ragged)[0] if len(ragged) else state), losses

    zeros = tree(lambda p: 0 * p, initial)
    state = (initial,) if optimizer == "sgd" else (initial, zeros, zeros, 0.0)
    numbers = (task.images, data.train.labels.int(), batches.int(), ragged.int())
    arguments = (state, *(array(tensor.numpy()) for tensor in numbers))
    began = time.perf_counter()
    compiled = jax.jit(epoch).lower(*arguments).compile()
    compiling = time.perf_counter() - began
    return lambda: jax.block_until_ready(compiled(*arguments))[0][0], compiling


def floor_epoch(task: Task, examples: int, out_in: bool) -> Epoch:
    """Only the products that an update cannot do without, from and into memory at hand."""
    size = task.batch_size
    layers = list(pairwise(task.layer_sizes))
    shapes = [(outputs, inputs) if out_in else (inputs, outputs) for inputs, outputs in layers]
    weights = [torch.randn(shape) / math.sqrt(max(shape)) for shape in shapes]
    gradients = [torch.empty(shape) for shape in shapes]
    z = [torch.empty(size, outputs) for _, outputs in layers]
    da = [torch.empty(size, inputs) for inputs, _ in layers]

    def products(x: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Left, right and product, in turn. There is no ReLU and no softmax: a is z, dz is da."""
        inputs = [x, *z[:-1]]
        for a, weight, product in zip(inputs, weights, z, strict=True):
            yield a, weight.t() if out_in else weight, product
        for k in reversed(range(len(layers))):
            dz = da[k + 1] if k + 1 < len(layers) else z[-1]
            left, right = (dz, inputs[k]) if out_in else (inputs[k], dz)
            yield left.t(), right, gradients[k]
            if k:
                yield dz, weights[k] if out_in else weights[k].t(), da[k]

    batches = torch.split(task.images[task.order[: 16 * size]], size)
    prepared = [list(products(x)) for x in batches]
    for left, right, product in prepared[0]:
        torch.mm(left, right, out=product)
    updates = examples // size
    began = time.perf_counter()
    for update in range(updates):
        for left, right, product in prepared[update % len(prepared)]:
            torch.mm(left, right, out=product)
    epoch = task.epoch(time.perf_counter() - began, updates * size, [])
    return epoch._replace(parameters=None)


# Taking turns.


@contextmanager
def busy_core() -> Iterator[None]:
    """Another program that wants one core all the time."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


@contextmanager
def one_core() -> Iterator[None]:
    """This process on one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def _on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@dataclass(frozen=True)
class Contender:
    """Something to measure, in one way or in several of which the fastest counts.

    Its test accuracy may differ by `tolerance` from that of `like`; None: from ours.
    """

    name: str
    ways: Mapping[str, Callable[[], Epoch]]
    tolerance: float = math.inf
    like: Callable[[], Epoch] | None = None


@dataclass
class Measured:
    """What came out, a number a round; and of the first round, the seconds of every way."""

    way: str = ""
    note: str = ""
    seconds: list[float] = field(default_factory=list)
    accuracies: list[float] = field(default_factory=list)
    ways: dict[str, float] = field(default_factory=dict)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        low, high = min(self.seconds), max(self.seconds)
        spread = (high - low) / self.median
        return f"{self.median:.3f}; {low:.3f} to {high:.3f}, spread {spread:.0%}"


class Ratio(NamedTuple):
    """Of two medians, and the least and greatest of a single round."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio(above: Measured | None, below: Measured | None) -> Ratio | None:
    """None where one was not measured."""
    if not above or not below:
        return None
    rounds = [a / b for a, b in zip(above.seconds, below.seconds, strict=True)]
    return Ratio(above.median / below.median, min(rounds), max(rounds))


Results = dict[str, Measured]


def interleave(
    title: str, contenders: Sequence[Contender], rounds: int, task: Task | None = None
) -> Results:
    """Measure one contender after the other, round after round.

    The first round tries all of a contender's ways, the others the fastest of them. With a task,
    test accuracies are computed too. Where it is, is told on stderr.
    """
    results = {contender.name: Measured() for contender in contenders}
    for number in range(1, rounds + 1):
        for contender in contenders:
            typer.echo(f"{title}: round {number} of {rounds}, {contender.name}", err=True)
            measured = results[contender.name]
            ways = contender.ways if number == 1 else [measured.way]
            epochs = {way: contender.ways[way]() for way in ways}
            measured.way = min(epochs, key=lambda way: epochs[way].seconds)
            measured.ways = measured.ways or {way: epochs[way].seconds for way in ways}
            epoch = epochs[measured.way]
            measured.note = epoch.note
            measured.seconds.append(epoch.seconds)
            if task and epoch.parameters:
                measured.accuracies.append(task.accuracy(epoch.parameters))
    return results


def print_table(*rows: Sequence[object]) -> None:
    """The first row is its head."""
    for row in (rows[0], ["---"] * len(rows[0]), *rows[1:]):
        typer.echo(f"| {' | '.join(map(str, row))} |")
    typer.echo()


def print_results(title: str, unit: str, results: Results, against: str = OURS) -> None:
    """Everything beside ours, or ours beside something else of the same width."""
    typer.echo(f"## {title}\n")
    rows = []
    for name, measured in results.items():
        notes = "; ".join(filter(None, (measured.way, measured.note)))
        below = results[against if against in results else name.replace(OURS, against)]
        times = "1" if measured is below else ratio(measured, below)
        rows.append((f"{name} ({notes})" if notes else name, measured, times))
    head = ("what", f"{unit} (median; min to max)", f"÷ {'ours' if against == OURS else against}")
    print_table(head, *rows)


# The parts of the report: each prints its table.


Pools = dict[str, ProcessPoolExecutor]
"""Processes for JAX, by what they run on."""


def contenders_on_cpu(task: Task, pools: Pools, quick: bool) -> list[Contender]:
    """All of them, but for those that would take too long."""
    size, whole = task.batch_size, len(task.images)
    examples = min(whole, PART * size)
    same = SAME_ORDER if size > 16 else OWN_ORDER
    # From slow to fast, so that little time lies between ours and what comes closest to it.
    contenders = []
    if (task.optimizer, size) == ("sgd", 64):
        part = whole // 5 if quick else whole
        loader = {f"{n} workers": partial(loader_epoch, task, part, n) for n in (0, 2)}
        contenders = [Contender(LOADER, loader, OWN_ORDER, partial(like_loader, task))]
    autograd = partial(autograd_epoch, task, examples)
    on = {name: partial(on_threads, threads, autograd) for name, threads in THREADS.items()}
    contenders.append(Contender(AUTOGRAD, on, same))
    contenders.append(Contender(OURS, {"": partial(mnist_mlp_epoch, task)}))
    if pools:
        ways = {name: partial(jax_epoch, task, pool) for name, pool in pools.items()}
        contenders.append(Contender(JAX, ways, same))
    best = floor(task, examples)
    one = {way: epoch for way, epoch in best.ways.items() if way.startswith("1")}
    return [*contenders, Contender(FLOOR_1, one), best]


def floor(task: Task, examples: int, name: str = FLOOR) -> Contender:
    """In each of four ways."""
    ways = {
        f"{number}, weights stored {'(out, in)' if out_in else '(in, out)'}": partial(
            on_threads, threads, partial(floor_epoch, task, examples, out_in)
        )
        for number, threads in THREADS.items()
        for out_in in (True, False)
    }
    return Contender(name, ways)


def compare(
    title: str, task: Task, contenders: Sequence[Contender], rounds: int, problems: list[str]
) -> Results:
    """One task, all contenders; who has learned something else is a problem."""
    results = interleave(title, contenders, rounds, task)
    for contender in contenders:
        theirs = results[contender.name].accuracies
        expected = results[OURS].accuracies
        if contender.like and theirs:
            expected = [task.accuracy(contender.like().parameters or [])] * rounds
        for got, wanted in zip(theirs, expected, strict=False):
            if abs(got - wanted) > contender.tolerance:
                problems.append(f"{title}: {contender.name} {got:.2%}, expected {wanted:.2%}")
    print_results(title, "seconds per epoch", results)
    told = [f"{name} {m.accuracies[0]:.2%}" for name, m in results.items() if m.accuracies]
    typer.echo(f"Learning rate {task.learning_rate}; test accuracy after it: {', '.join(told)}.\n")
    return results


def epochs(
    tasks: Sequence[Task], rounds: int, quick: bool, problems: list[str]
) -> dict[str, Results]:
    """All contenders at each task."""
    results = {}
    spawn = get_context("spawn")
    with (
        ProcessPoolExecutor(1, mp_context=spawn) as all_cores,
        ProcessPoolExecutor(1, mp_context=spawn, initializer=_on_one_core) as on_one,
    ):
        pools = {"all cores": all_cores, "one core": on_one} if has_jax() else {}
        for task in tasks:
            contenders = contenders_on_cpu(task, pools, quick)
            title = f"{task.optimizer} {task.batch_size}"
            results[title] = compare(title, task, contenders, rounds, problems)
            with busy_core():
                beside = f"{title}{BESIDE}"
                results[beside] = compare(beside, task, contenders, rounds, problems)
            if task.optimizer == "adamw" and pools:
                alone = [
                    Contender(OURS, {"": partial(mnist_mlp_epoch, task)}),
                    Contender(JAX, {"": partial(jax_epoch, task, on_one)}, SAME_ORDER),
                ]
                with one_core():
                    title = f"{title}, one core"
                    results[title] = compare(title, task, alone, rounds, problems)
    return results


def own_epoch(config: "Config", task: Task, kind: str) -> Epoch:
    """The mean of three epochs by our updates, after one in which they are recorded."""
    from mnist_mlp.runs.environment import cpu_threads, threads_of
    from mnist_mlp.runs.learner import assemble
    from mnist_mlp.steps.train import EpochResult, train

    data = task.data.to(torch.device(config.device))
    with mock.patch("mnist_mlp.runs.learner.updater_kind", lambda *_: kind):
        learner = assemble(config, data)
    rates = learner.learning_rates
    events = train(learner.updater, data, epochs=4, learning_rates=rates, test_each_epoch=None)
    with cpu_threads(threads_of(config)):
        ends = [event.seconds for event in events if isinstance(event, EpochResult)]
    return Epoch((ends[4] - ends[1]) / 3)


def on_gpu(tasks: Sequence[Task], rounds: int) -> None:
    """Updates replayed as a graph, the same ones run one by one, and what everybody writes."""
    from mnist_mlp.config import load_config

    own = {name: (tasks[0], name, tasks[0].overrides()[:3]) for name in CONFIGS_ON_GPU}
    large = [task for task in tasks if task.batch_size >= 64]
    plain = {f"{t.optimizer} {t.batch_size}": (t, "lesson", t.overrides()) for t in large}
    for title, (task, base, overrides) in (own | plain).items():
        config = load_config(base, [*overrides, "device=cuda", "train.epochs=4"])
        ways = {GRAPH: "graphed", EAGER: "torch"}
        measure = {what: partial(own_epoch, config, task, kind) for what, kind in ways.items()}
        if title in plain:
            measure[AUTOGRAD] = partial(autograd_epoch, task, len(task.images), "cuda")
        contenders = [Contender(what, {"": way}) for what, way in measure.items()]
        results = interleave(title, contenders, rounds)
        print_results(f"{title} on CUDA", "seconds per epoch", results, against=GRAPH)


def growth(task: Task, rounds: int) -> Results:
    """Wider networks, on fewer images, each beside its own floor."""
    few = type(task.data.train)(*(tensor[:GROWTH_IMAGES] for tensor in task.data.train))
    cut = replace(task, data=task.data._replace(train=few), images=task.images[:GROWTH_IMAGES])
    contenders = []
    for times in WIDTHS:
        wide = replace(cut, hidden=(HIDDEN[0] * times, HIDDEN[1] * times))
        contenders.append(Contender(f"{OURS} ×{times}", {"": partial(mnist_mlp_epoch, wide)}))
        contenders.append(floor(wide, GROWTH_IMAGES, f"{FLOOR} ×{times}"))
    results = interleave("Hidden widths", contenders, rounds)
    title = f"Hidden widths, batch size {task.batch_size}, {GROWTH_IMAGES:,} images"
    print_results(title, "seconds for these", results, against=FLOOR)
    return results


def train_command(task: Task, folder: str, epochs: int) -> list[str]:
    """The program on the task, as typed on a command line."""
    return [
        sys.executable, "-m", "mnist_mlp", "train", "--config", "lesson", "--device", "cpu",
        *task.overrides(), f"train.epochs={epochs}", "--run-dir", f"{folder}/run", "--json",
    ]  # fmt: skip


def whole_commands(task: Task, workers: str, epochs: int, rounds: int) -> Results:
    """From a process's start to its end: imports, data, training, evaluation, saving."""

    def plain_command(task: Task, folder: str, epochs: int) -> list[str]:
        return [
            sys.executable, __file__, "plain-script", task.root, str(epochs),
            "--workers", workers, "--output", f"{folder}/model.pt",
        ]  # fmt: skip

    def timed(command: Callable[[Task, str, int], list[str]]) -> Epoch:
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            subprocess.run(command(task, folder, epochs), check=True, stdout=subprocess.DEVNULL)
            return Epoch(time.perf_counter() - began)

    commands = {OURS: train_command, PLAIN: plain_command}
    contenders = [Contender(name, {"": partial(timed, make)}) for name, make in commands.items()]
    title = f"Whole commands, {epochs} epochs, batch size {task.batch_size}"
    results = interleave(title, contenders, rounds)
    print_results(title, "seconds", results)
    return results


@app.command(hidden=True)
def plain_script(
    root: str, epochs: int, workers: int = 0, output: Path = Path("model.pt"), batch_size: int = 64
) -> None:
    """Train, evaluate and save with a DataLoader, as everybody does."""
    model = plain_network()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATES["sgd", batch_size])
    train, test = (plain_loader(root, train, batch_size, workers) for train in (True, False))
    for epoch in range(1, epochs + 1):
        loss = plain_epoch(model, optimizer, train)
        with torch.no_grad():
            correct = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in test)
        typer.echo(f"epoch {epoch}  loss {loss:.4f}  test {correct / 10_000:.2%}")
    torch.save(model.state_dict(), output)


def config_commands(root: str, rounds: int) -> Results:
    """`mnist-mlp train --config` as people type it, from the process's start to its end."""

    def timed(name: str) -> Epoch:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "mnist_mlp", "train", "--config", name, "--quiet"]
            where = [f"data.root={json.dumps(root)}", "device=cpu", "--run-dir", f"{folder}/run"]
            began = time.perf_counter()
            subprocess.run([*command, *where], check=True, stdout=subprocess.DEVNULL)
            return Epoch(time.perf_counter() - began)

    contenders = [Contender(name, {"": partial(timed, name)}) for name in COMMANDS]
    results = interleave("Commands", contenders, rounds)
    rows = [(f"mnist-mlp train --config {name}", measured) for name, measured in results.items()]
    typer.echo("## Commands\n")
    print_table(("command", "seconds (median; min to max)"), *rows)
    return results


PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def peak_memory(task: Task) -> dict[str, float]:
    """The most megabytes that training holds, and that `import torch` does."""

    def peak(*command: str) -> float:
        # Under a small process, for to a child's peak counts what its parent held at the fork.
        under = [sys.executable, "-c", PEAK, *command]
        printed = subprocess.run(under, check=True, stdout=subprocess.PIPE).stdout
        return int(printed) / (1 << 20 if sys.platform == "darwin" else 1 << 10)

    typer.echo("Peak memory", err=True)
    with tempfile.TemporaryDirectory() as folder:
        train = peak(*train_command(task, folder, epochs=1))
    return {"train": train, "import torch": peak(sys.executable, "-c", "import torch")}


def targets(results: dict[str, Results], memory: float) -> list[tuple[str, str, str]]:
    """What is wanted of each number, and what it is: the rows of a table."""
    found: list[tuple[str, Ratio | float | None, str, float]] = []
    for where, above, below, sign, bound in TARGETS:
        there = results.get(where, {})
        found.append(
            (f"{above} ÷ {below}, {where}", ratio(there.get(above), there.get(below)), sign, bound)
        )
    for where, there in results.items():
        if where.endswith(BESIDE):
            alone = results[where.removesuffix(BESIDE)][OURS]
            what = f"{OURS}{BESIDE} ÷ alone, {where.removesuffix(BESIDE)}"
            found.append((what, there[OURS].median / alone.median, "≤", BESIDE_ALONE))
    for name, measured in results.get("Commands", {}).items():
        what = f"mnist-mlp train --config {name}, seconds"
        found.append((what, measured.median, "≤", COMMANDS[name]))
    found.append(("peak memory beyond `import torch`, MB", memory, "≤", 250))
    rows = []
    for what, value, sign, bound in found:
        if value is None:
            rows.append((what, "not measured", f"{sign} {bound:g}"))
            continue
        number = value.value if isinstance(value, Ratio) else value
        met = number <= bound if sign == "≤" else number >= bound
        told = str(value) if isinstance(value, Ratio) else f"{number:.2f}"
        rows.append((what, told, f"{sign} {bound:g}, {'met' if met else 'missed'}"))
    return rows


def has_jax() -> bool:
    """Whether it is installed."""
    return find_spec("jax") is not None


def machine() -> dict[str, Any]:
    """What the seconds depend on."""
    packages = ["mnist-mlp", "torch", "torchvision", "numba", *["jax"] * has_jax()]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "CPUs": len(affinity(0)) if affinity else os.cpu_count(),
        "architecture": platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "CUDA": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load before": round(os.getloadavg()[0], 2),
        "Python": platform.python_version(),
    } | {package: metadata.version(package) for package in packages}


@app.callback(invoke_without_command=True)
def benchmark(
    context: typer.Context,
    root: Annotated[str, typer.Option(envvar="MNIST_MLP_DATA", help="The data root.")] = "data",
    json_: Annotated[
        Path | None, typer.Option("--json", help="Where to write every single number.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Less, in under two minutes.")] = False,
    cuda: Annotated[bool, typer.Option("--cuda", help="Only on a GPU.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="With --quick at most 3.")] = 5,
) -> None:
    """Measure mnist-mlp beside what else one could use."""
    if context.invoked_subcommand:
        return
    from mnist_mlp.steps.data import load_dataset

    began = time.perf_counter()
    rounds = min(rounds, 3) if quick else rounds
    facts = machine()
    typer.echo(f"# Benchmark: {rounds} rounds{', quick' if quick else ''}\n")
    typer.echo(f"{', '.join(f'{name} {value}' for name, value in facts.items())}.\n")
    if not has_jax():
        typer.echo(f"{JAX}: not installed: pip install 'mnist-mlp[bench]'\n")

    data = load_dataset("mnist", root)
    images = as_float(data.train.images)
    tasks = {key: Task(root, data, images, *key) for key in LEARNING_RATES}
    if cuda:
        if json_ or not torch.cuda.is_available():
            raise typer.BadParameter("--cuda needs a GPU, and writes no --json")
        on_gpu(list(tasks.values()), rounds)
        return
    problems: list[str] = []
    results = epochs(list(tasks.values()), rounds, quick, problems)
    results["Hidden widths"] = growth(tasks["sgd", 512], rounds)
    if not quick:
        workers = results["sgd 64"][LOADER].way.split()[0]
        results["Whole commands"] = whole_commands(tasks["sgd", 64], workers, epochs=5, rounds=2)
        results["Commands"] = config_commands(root, rounds)
    memory = peak_memory(tasks["sgd", 64])
    rows = targets(results, memory["train"] - memory["import torch"])
    typer.echo("## Targets\n")
    print_table(("what", "measured", "target"), *rows)
    typer.echo(f"Measured in {time.perf_counter() - began:.0f} s.")
    if json_:
        raw = {
            "machine": facts,
            "results": results,
            "memory_mb": memory,
            "targets": rows,
            "disagreements": problems,
        }
        text = json.dumps(raw, indent=2, ensure_ascii=False, default=asdict)
        json_.write_text(f"{text}\n", encoding="utf-8")
    for problem in problems:
        typer.echo(f"accuracies disagree: {problem}", err=True)
    if problems:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
