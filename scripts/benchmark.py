"""The time of an epoch, beside other ways to train the same network; prints Markdown.

    python scripts/benchmark.py --root data                  # about ten minutes
    python scripts/benchmark.py --root data --quick          # under two, less precise
    python scripts/benchmark.py --root data --json all.json  # every single number too

Every contender trains one epoch of plain SGD with the same initial weights, images, batch size and
learning rate. They take turns, so that a slow spell of the machine falls on all alike: trust the
ratios, not the seconds. Loading the data is not counted, nor is the final evaluation. The test
accuracies must agree, or the script exits with 1. (The DataLoader loop normalises its pixels, as it
usually does, and so learns faster. It is compared with a loop that normalises too.) A missed target
is only reported. Run nothing beside it: two threads that share a core with another program wait for
each other most of the time.

Modules other than torch are imported only where they are needed: this file is also the plain script
whose whole run is timed.

How much the figures vary (two x86-64 cores, AMD EPYC with AVX-512, torch 2.14.1). JAX comes
closest. In three runs our time divided by JAX's was 0.85, 0.86 and 0.83 at batch size 64, and 0.91,
0.88 and 0.99 at 512. In a fourth, which measured the two further apart in time, it was 0.51 and
1.24. The machine's cores are shared: whatever uses two threads takes up to twice as long for some
ten seconds at a time, and such a spell can fall between two rivals. When it slowed ours and not the
DataLoader loop, that loop's rounds took 14.85 to 30.34 times as long as ours.

Tried for the fused updates, and left out (milliseconds or microseconds at batch size 64):

- `images[index]` instead of `index_select`: 51 ms of gathering per epoch instead of 21.
- Images as float32 instead of uint8: 21 ms instead of 15, and 188 MB instead of 47.
- Gathering each batch by itself: 24 ms instead of 15; 4,096 images at a time: 17.
- All layers column-major, not only the last: layer 1's product takes 68 µs instead of 59.
- Images of a batch sorted by their last lit pixel, so that only the first quarter is multiplied up
  to it: 14% less time at batch size 512, but 2% more at 64 and 5% more at 1.
- Layer 1 as a sum over the lit pixels (`embedding_bag`): its forward pass takes 29 µs instead of
  62, but finding a batch's lit pixels takes 40.
- Column-major weights under PyTorch's own optimizers: a fused AdamW step takes 171 µs instead of
  105.
- Two threads for AdamW: 0.57 s per epoch instead of 0.63, and four times slower than one thread
  beside other work.
- `torch.compile` of four updates in one graph, with the C++ wrapper: 0.262 s per epoch instead of
  0.228 at the time, and 18 s to compile.
- Products in bfloat16: 48 µs instead of 75, but with other results. This CPU has no AMX.
- DistributedDataParallel instead of one sum of all gradients, in two processes with gloo: 1.02
  times as long at batch size 64 (2.63 s per epoch instead of 2.57), 0.89 times at 512 (0.50 s
  instead of 0.57).
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
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
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

    from mnist_mlp.runs.training import RunEvent
    from mnist_mlp.steps.data import Dataset
    from mnist_mlp.steps.evaluate import Evaluation

LEARNING_RATES = {64: 0.1, 512: 0.1, 1: 0.01}
"""The batch sizes, and the learning rate at each."""
HIDDEN = (128, 64)
WIDTHS = (1, 4, 16)
GROWTH_IMAGES = 10_240
PART = 3_000
"""Updates at batch size 1 of those whose epoch would take minutes; their time is scaled."""
SAME_ORDER = 0.003
"""How far test accuracies may lie apart that come from the same order of examples."""
OWN_ORDER = {64: 0.02, 512: 0.06, 1: 0.02}
"""And from different orders: at batch size 512 the loss still falls steeply when an epoch ends."""
MEAN, STD = 0.1307, 0.3081
"""What the usual DataLoader loop normalizes MNIST's pixels with."""
OURS, LOADER, AUTOGRAD = "mnist-mlp", "DataLoader loop", "in memory, autograd"
SKLEARN, JAX, FLOOR = "scikit-learn MLPClassifier", "JAX lax.scan", "floor"
PLAIN = "plain script"
THREADS = {"1 thread": 1, "2 threads": 2}
TARGETS = (
    ("Batch size 64", LOADER, OURS, "≥", 18),
    ("Batch size 64", OURS, JAX, "≤", 0.9),
    ("Batch size 64", OURS, FLOOR, "≤", 2),
    ("Batch size 512", OURS, JAX, "≤", 1),
    ("Batch size 1", AUTOGRAD, OURS, "≥", 2.5),
    ("Whole commands", PLAIN, OURS, "≥", 6),
    ("Hidden widths", f"{OURS} ×4", f"{FLOOR} ×4", "≤", 1.3),
    ("Hidden widths", f"{OURS} ×16", f"{FLOOR} ×16", "≤", 1.3),
)
"""Where, what ÷ what, and the bound of that ratio."""

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
    batch_size: int
    hidden: tuple[int, int] = HIDDEN

    @property
    def layer_sizes(self) -> list[int]:
        """Of the network."""
        return [784, *self.hidden, 10]

    @property
    def learning_rate(self) -> float:
        """Of every update."""
        return LEARNING_RATES[self.batch_size]

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
            "optimizer.name=sgd", f"optimizer.learning_rate={self.learning_rate}", "seed=0",
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


def mnist_mlp_epoch(task: Task, device: str = "cpu") -> Epoch:
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

    settings = [f"device={device}", "train.epochs=1", "train.test_each_epoch=false"]
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
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate)
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
    optimizer = torch.optim.SGD(model.parameters(), lr=task.learning_rate)
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


def sklearn_epoch(task: Task, examples: int) -> Epoch:
    """`fit` on its own shuffle, from our weights."""
    from sklearn.neural_network import MLPClassifier

    images, labels = (t[:examples].numpy() for t in (task.images, task.data.train.labels))
    start = [parameter.detach().numpy() for parameter in task.network().parameters()]
    classifier = MLPClassifier(
        task.hidden, solver="sgd", momentum=0, nesterovs_momentum=False, alpha=0, max_iter=1,
        learning_rate_init=task.learning_rate, batch_size=task.batch_size, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one epoch has not converged
        classifier.partial_fit(images[:1], labels[:1], classes=range(10))  # to have weights at all
        classifier.coefs_ = [weight.T.copy() for weight in start[::2]]
        classifier.intercepts_ = [bias.copy() for bias in start[1::2]]
        classifier.set_params(warm_start=True)
        began = time.perf_counter()
        classifier.fit(images, labels)
        seconds = time.perf_counter() - began
    return task.epoch(seconds, examples, _parameters(classifier.coefs_, classifier.intercepts_))


def _parameters(weights: Iterable[Any], biases: Iterable[Any]) -> list[Tensor]:
    """From arrays, W (inputs, outputs) and b."""
    layers = zip(weights, biases, strict=True)
    return [torch.tensor(array) for weight, bias in layers for array in (weight.T, bias)]


def jax_epoch(task: Task, pool: ProcessPoolExecutor) -> Epoch:
    """One call, compiled before, in a process of its own.

    JAX has threads, and a process with threads should not fork, as a DataLoader's workers do.
    """
    seconds, arrays, compiling = pool.submit(_jax_epoch, task.root, task.batch_size).result()
    epoch = task.epoch(seconds, len(task.images), _parameters(*zip(*arrays, strict=True)))
    return epoch._replace(note=f"{compiling:.1f} s to compile not counted")


def _jax_epoch(root: str, batch_size: int) -> tuple[float, Any, float]:
    train, compiling = _compiled(root, batch_size)
    began = time.perf_counter()
    parameters = train()
    seconds = time.perf_counter() - began
    return seconds, [[array.__array__() for array in layer] for layer in parameters], compiling


@cache
def _compiled(root: str, batch_size: int) -> tuple[Callable[[], Any], float]:
    """From nothing to [(W (inputs, outputs), b), ...] after the epoch; seconds to compile."""
    from mnist_mlp.steps.data import load_dataset

    os.environ["JAX_PLATFORMS"] = "cpu"
    jax: Any = import_module("jax")  # by name: it need not be installed, nor its types
    array = jax.numpy.asarray

    data = load_dataset("mnist", root)
    task = Task(root, data, as_float(data.train.images), batch_size)
    layers = [layer for layer in task.network() if isinstance(layer, nn.Linear)]
    initial = [(array(n.weight.detach().numpy().T), array(n.bias.detach().numpy())) for n in layers]
    whole = len(task.order) // batch_size * batch_size
    batches, ragged = task.order[:whole].view(-1, batch_size), task.order[whole:]

    def loss(parameters: Any, x: Any, y: Any) -> Any:
        *inner, (weight, bias) = parameters
        for w, b in inner:
            x = jax.nn.relu(x @ w + b)
        return -(jax.nn.one_hot(y, 10) * jax.nn.log_softmax(x @ weight + bias)).sum() / len(y)

    def epoch(parameters: Any, images: Any, labels: Any, batches: Any, ragged: Any) -> Any:
        def update(parameters: Any, index: Any) -> Any:
            value, gradients = jax.value_and_grad(loss)(parameters, images[index], labels[index])
            rate = task.learning_rate
            return jax.tree.map(lambda p, g: p - rate * g, parameters, gradients), value

        parameters, losses = jax.lax.scan(update, parameters, batches)
        return (update(parameters, ragged)[0] if len(ragged) else parameters), losses

    numbers = (task.images, data.train.labels.int(), batches.int(), ragged.int())
    arguments = (initial, *(array(tensor.numpy()) for tensor in numbers))
    began = time.perf_counter()
    compiled = jax.jit(epoch).lower(*arguments).compile()
    compiling = time.perf_counter() - began
    return lambda: jax.block_until_ready(compiled(*arguments))[0], compiling


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


def contenders_on_cpu(task: Task, pool: ProcessPoolExecutor | None, quick: bool) -> list[Contender]:
    """All of them, but for those that would take --quick too long."""
    one = task.batch_size == 1
    examples = PART if one else len(task.images)
    # Over 60,000 updates roundings tell as much as the order.
    other, same = OWN_ORDER[task.batch_size], OWN_ORDER[1] if one else SAME_ORDER
    # From slow to fast, so that little time lies between ours and what comes closest to it.
    contenders = []
    if not (quick and one):
        part = examples // 5 if quick else examples
        loader = {f"{n} workers": partial(loader_epoch, task, part, n) for n in (0, 2)}
        contenders = [
            Contender(LOADER, loader, other, partial(like_loader, task)),
            Contender(SKLEARN, {"": partial(sklearn_epoch, task, examples)}, other),
        ]
    autograd = partial(autograd_epoch, task, examples)
    on = {name: partial(on_threads, threads, autograd) for name, threads in THREADS.items()}
    contenders.append(Contender(AUTOGRAD, on, same))
    contenders.append(Contender(OURS, {"": partial(mnist_mlp_epoch, task)}))
    if pool:
        contenders.append(Contender(JAX, {"": partial(jax_epoch, task, pool)}, same))
    return [*contenders, floor(task, examples)]


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


def batch_sizes(
    tasks: dict[int, Task], rounds: int, quick: bool, problems: list[str]
) -> dict[str, Results]:
    """All contenders at each batch size; where there is a GPU, two of them there."""
    results = {}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for size, task in tasks.items():
            contenders = contenders_on_cpu(task, pool if has_jax() else None, quick)
            title = f"Batch size {size}"
            results[title] = compare(title, task, contenders, rounds, problems)
    if torch.cuda.is_available():
        title, task = "Batch size 64 on CUDA", tasks[64]
        autograd = partial(autograd_epoch, task, len(task.images), "cuda")
        contenders = [
            Contender(OURS, {"": partial(mnist_mlp_epoch, task, "cuda")}),
            Contender(AUTOGRAD, {"": autograd}, SAME_ORDER),
        ]
        results[title] = compare(title, task, contenders, rounds, problems)
    return results


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
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATES[batch_size])
    train, test = (plain_loader(root, train, batch_size, workers) for train in (True, False))
    for epoch in range(1, epochs + 1):
        loss = plain_epoch(model, optimizer, train)
        with torch.no_grad():
            correct = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in test)
        typer.echo(f"epoch {epoch}  loss {loss:.4f}  test {correct / 10_000:.2%}")
    torch.save(model.state_dict(), output)


def seeds(name: str, root: str, count: int = 5) -> Measured | None:
    """What a config reaches, a seed after the other; None where there is no such config."""
    from mnist_mlp.config import bundled_configs, load_config
    from mnist_mlp.runs.training import RunResult, run_events

    if name not in bundled_configs():
        typer.echo(f"There is no bundled config called {name}: no accuracy run.\n")
        return None
    measured = Measured()
    for seed in range(count):
        typer.echo(f"{name}: seed {seed}", err=True)
        changes = [f"data.root={json.dumps(root)}", f"seed={seed}", "device=cpu"]
        config = load_config(name, [*changes, "train.test_each_epoch=false"])
        with tempfile.TemporaryDirectory() as folder:
            *_, result = run_events(config, Path(folder, "run"))
        assert isinstance(result, RunResult)
        assert result.test_accuracy is not None
        measured.seconds.append(result.seconds)
        measured.accuracies.append(result.test_accuracy)
    mean = statistics.mean(measured.accuracies)
    typer.echo(f"## The config {name}\n")
    print_table(
        ("seeds", "test accuracy of each", "mean", "seconds (median; min to max)"),
        (count, ", ".join(f"{a:.2%}" for a in measured.accuracies), f"{mean:.2%}", measured),
    )
    return measured


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


def targets(
    results: dict[str, Results], fast: float | None, memory: float
) -> list[tuple[str, str, str]]:
    """What is wanted of each number, and what it is: the rows of a table."""
    found: list[tuple[str, Ratio | float | None, str, float]] = []
    for where, above, below, sign, bound in TARGETS:
        there = results.get(where, {})
        what = f"{above} ÷ {below}, {where.lower()}"
        found.append((what, ratio(there.get(above), there.get(below)), sign, bound))
    found.append((f"the fast config ÷ one epoch of the {LOADER}", fast, "≤", 0.3))
    found.append(("peak memory beyond `import torch`, MB", memory, "≤", 400))
    rows = []
    for what, measured, sign, bound in found:
        if measured is None:
            rows.append((what, "not measured", f"{sign} {bound:g}"))
            continue
        value = measured.value if isinstance(measured, Ratio) else measured
        met = value <= bound if sign == "≤" else value >= bound
        told = str(measured) if isinstance(measured, Ratio) else f"{value:.2f}"
        rows.append((what, told, f"{sign} {bound:g}, {'met' if met else 'missed'}"))
    return rows


def has_jax() -> bool:
    """Whether it is installed."""
    return find_spec("jax") is not None


def machine() -> dict[str, Any]:
    """What the seconds depend on."""
    packages = ["mnist-mlp", "torch", "torchvision", "scikit-learn", *["jax"] * has_jax()]
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
    rounds: Annotated[int, typer.Option(min=1, help="With --quick at most 3.")] = 5,
    fast_config: Annotated[str, typer.Option(help="Whose accuracy and time to tell.")] = "sprint",
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
    tasks = {size: Task(root, data, images, size) for size in LEARNING_RATES}
    problems: list[str] = []
    results = batch_sizes(tasks, rounds, quick, problems)
    results["Hidden widths"] = growth(tasks[512], rounds)
    fast = None
    if not quick:
        loader = results["Batch size 64"][LOADER]
        workers = loader.way.split()[0]
        results["Whole commands"] = whole_commands(tasks[64], workers, epochs=5, rounds=2)
        if measured := seeds(fast_config, root):
            results[fast_config] = {OURS: measured}
            fast = measured.median / loader.median
    memory = peak_memory(tasks[64])
    rows = targets(results, fast, memory["train"] - memory["import torch"])
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
