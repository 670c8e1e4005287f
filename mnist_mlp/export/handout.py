"""What a class needs, as a folder that works offline: pages, exercises, and their answers.

The exercises follow the lesson, with the numbers of the network itself, which `trace_image`
computes. The same run gives the same files.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import torch
from torch import nn

from mnist_mlp.constants import SIDE
from mnist_mlp.errors import UsageError
from mnist_mlp.export.page import export_html, random_images
from mnist_mlp.files import write_atomically
from mnist_mlp.lesson.trace import Trace, trace_image
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.environment import load_run_dataset
from mnist_mlp.steps.data import Dataset, to_images
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.views.report import draw_report, fill_template, html_page


@dataclass(frozen=True)
class Exercise:
    """A question, its answer, and where both are seen: in the page, or by a command."""

    step: str
    question: str
    answer: str
    link: str
    """The page's state."""
    command: str = ""


def write_handout(checkpoint: Checkpoint, folder: Path, data: Dataset | None = None) -> Path:
    """Write the explorer page, the report, the exercises, the answers, and an index of them.

    The data set is the checkpoint's, on the CPU, by default loaded from where the run had it.
    Returns the index.

    Raises:
        UsageError: The folder has other files, or the network no hidden layer.
        OSError: A file cannot be written.
    """
    if len(checkpoint.config.model.layer_sizes) == 2:
        raise UsageError("a handout is about a network with a hidden layer; this one has none")
    if folder.exists() and any(folder.iterdir()) and not (folder / "exercises.html").exists():
        raise UsageError(f"{folder}: holds other files; choose another --output")
    data = data or load_run_dataset(checkpoint.config)
    draw_report(checkpoint, data, folder)
    export_html(checkpoint, data, checkpoint.rows(), folder / "explorer.html")
    exercises = make_exercises(checkpoint, data)
    name = escape(checkpoint.run_name)
    links = fill_template("handout", links=_links(exercises))
    pages = {
        "exercises": (f"Exercises on {name}", _sheet(exercises, answers=False)),
        "answers": (f"Answers about {name}", _sheet(exercises, answers=True)),
        "index": (f"A network that reads digits: {name}", links),
    }
    for page, texts in pages.items():
        write_atomically(folder / f"{page}.html", html_page(*texts).encode())
    return folder / "index.html"


def make_exercises(checkpoint: Checkpoint, data: Dataset) -> list[Exercise]:
    """Twelve exercises in the lesson's order, about one test image that the page shows."""
    index = _choose_image(checkpoint.model, data)
    x, label = to_images(data.test.pixels[index]), int(data.test.labels[index])
    traced = trace_image(checkpoint.model, x, label)
    squared = sum(gradient.square().sum().item() for gradient in traced.gradients.values())
    # The largest rate of the page for which the first order predicts something.
    rates = (0.1, 0.01, 0.001, 0.0001)
    rate = next((rate for rate in rates if rate * squared < traced.loss / 2), rates[-1])
    traced = trace_image(checkpoint.model, x, label, rate)
    command = f"mnist-mlp trace {checkpoint.run_dir or checkpoint.path} --index {index}"
    found = [
        *_about_layers(checkpoint, traced, index),
        *_about_probabilities(traced),
        *_about_learning(checkpoint.model, traced, squared, data),
    ]
    page, command = f"explorer.html#image={index}&", f"{command} --learning-rate {rate:g}"
    return [replace(one, link=page + one.link, command=one.command or command) for one in found]


def _about_layers(checkpoint: Checkpoint, t: Trace, index: int) -> Iterator[Exercise]:
    """Steps 1 to 3."""
    sizes, activation = checkpoint.config.model.layer_sizes, checkpoint.config.model.activation
    first, x, counts = t.layers[0], t.input, count_parameters(checkpoint.model)
    W, b = (checkpoint.model.get_parameter(f"layer1.{n}").detach() for n in ("weight", "bias"))
    k, quiet = int(first.z.argmax()), int(first.z.argmin())
    products = W[k].double() * x.double()
    pixel, total = int(products.argmax()), products.sum()
    byte, where = round(float(x[pixel]) * 255), f"row {pixel // SIDE}, column {pixel % SIDE}"
    neuron = f"step=layers&neuron=1.{k}&input={pixel}"
    yield Exercise(
        "Step 1",
        f"Test image {index} shows a {t.label}. The network gets it as 784 numbers from 0 to 1. "
        f"How many of them are not 0? What is number {pixel} ({where}, counted from 0), whose byte "
        f"is {byte}?",
        f"{int((x > 0).sum())} are not 0; {byte} / 255 = {x[pixel]:.4f}",
        f"step=input&input={pixel}",
    )
    yield Exercise(
        "Step 2",
        f"For this image W·x of neuron {k} of layer 1 is {total:.4f}, and its bias is {b[k]:.4f}. "
        "What is z?",
        f"z = {total:.4f} + ({b[k]:.4f}) = {first.z[k]:.4f}",
        neuron,
    )
    yield Exercise(
        "Step 2",
        f"What is a = {activation}(z) of this neuron, and of neuron {quiet}, whose z is "
        f"{first.z[quiet]:.4f}?",
        f"{first.a[k]:.4f} and {first.a[quiet]:.4f}",
        neuron,
    )
    yield Exercise(
        "Step 2",
        f"Which pixel adds most to z of neuron {k}, and how much?",
        f"number {pixel} ({where}): {W[k, pixel]:.4f} × {x[pixel]:.4f} = {products[pixel]:.4f}",
        neuron,
    )
    yield Exercise(
        "Step 3",
        f"The network is {'-'.join(map(str, sizes))}. How many numbers does it learn?",
        f"{'; '.join(map(str, counts))}; together {sum(layer.parameters for layer in counts):,}",
        "step=count",
        f"mnist-mlp count-params model.layer_sizes={'-'.join(map(str, sizes))}",
    )


def _about_probabilities(t: Trace) -> Iterator[Exercise]:
    """Steps 4 and 5."""
    p = t.probabilities
    guess, second = p.topk(2).indices.tolist()
    logits = " ".join(f"{z:.2f}" for z in t.logits)
    yield Exercise(
        "Step 4",
        f"The logits of 0 to 9 are {logits}. What is the softmax of the largest one?",
        f"{p[guess]:.4f}, of digit {guess}",
        "step=loss",
    )
    yield Exercise(
        "Step 4",
        "Which digit does the network read, and which would be second?",
        f"{guess} with {p[guess]:.2%}, then {second} with {p[second]:.2%}",
        "step=loss",
    )
    yield Exercise(
        "Step 5",
        f"The true label is {t.label}. What is the loss?",
        f"−log {p[t.label]:.6f} = {t.loss:.6f}",
        "step=loss",
    )


def _about_learning(
    model: nn.Sequential, t: Trace, squared: float, data: Dataset
) -> Iterator[Exercise]:
    """Steps 6 to 8."""
    p, label, last, inputs = t.probabilities, t.label, t.layers[-1].name, t.layers[-2].a
    other = next(digit for digit in p.topk(2).indices.tolist() if digit != label)
    h, rate = int(inputs.argmax()), t.learning_rate
    weight = model.get_parameter(f"{last}.weight")[label, h].item()
    slope = t.gradients[f"{last}.weight"][label, h].item()
    reads, without = (_count_right(model, data, biases) for biases in (True, False))
    connection = f"neuron={len(t.layers)}.{label}&input={h}&rate={rate:g}"
    yield Exercise(
        "Step 6",
        f"∂L/∂z of the last layer is p − y. What is it for {label}, and for {other}?",
        f"{p[label] - 1:.6f} and {p[other]:.6f}",
        "step=backward",
    )
    yield Exercise(
        "Step 6",
        f"Input {h} of the last layer is {inputs[h]:.4f}. What is ∂L/∂W of its weight for {label}?",
        f"(p − y)·a = {p[label] - 1:.6f} × {inputs[h]:.4f} = {slope:.6f}",
        f"step=backward&{connection}",
    )
    yield Exercise(
        "Step 7",
        f"That weight is {weight:.6f}. What is it after an update with learning rate {rate:g}?",
        f"{weight:.6f} − {rate:g} × ({slope:.6f}) = {weight - rate * slope:.6f}",
        f"step=update&{connection}",
    )
    yield Exercise(
        "Step 8",
        f"All squared gradients add up to {squared:.4f}. Predict the loss after this update, then "
        "take the step in the page. Go back, take out all biases (“Break it”): how many of the "
        "page's images are read now? Explain.",
        f"Predicted {t.loss:.6f} − {rate:g} × {squared:.4f} = {t.loss - rate * squared:.6f}; it is "
        f"{t.loss_after:.6f}, since the slope changes on the way. Without biases {without} images "
        f"are read correctly instead of {reads}: the weights hold most of what was learned.",
        f"step=update&rate={rate:g}&broken=biases",
    )


@torch.no_grad()
def _choose_image(model: nn.Sequential, data: Dataset) -> int:
    """The random image of the page that is read correctly with the least confidence."""
    sample = random_images(data.test)
    p = torch.softmax(model(to_images(data.test.pixels[sample])).double(), dim=1)
    confidence, guesses = p.max(dim=1)
    confidence[guesses != data.test.labels[sample]] += 1
    return sample[int(confidence.argmin())]


@torch.no_grad()
def _count_right(model: nn.Sequential, data: Dataset, biases: bool) -> int:
    """How many of the page's random images are read correctly, with or without all biases."""
    sample = random_images(data.test)
    model = copy.deepcopy(model).double()
    if not biases:
        for layer in model.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
    a = model(to_images(data.test.pixels[sample]).double())
    return int((a.argmax(dim=1) == data.test.labels[sample]).sum())


def _sheet(exercises: list[Exercise], answers: bool) -> str:
    """A list of exercises, with room to write, or with their answers."""
    items = []
    for exercise in exercises:
        shown = (
            f'<p class="answer">{escape(exercise.answer)}</p><p><code>{escape(exercise.command)}'
            f'</code> · <a href="{escape(exercise.link)}">see it in the page</a></p>'
        )
        room = '<p class="room"></p>'
        items.append(
            f"<li><h2>{exercise.step}</h2><p>{escape(exercise.question)}</p>"
            f"{shown if answers else room}</li>"
        )
    return f"<ol>{''.join(items)}</ol>"


def _links(exercises: list[Exercise]) -> str:
    """Links to the explorer page where each exercise begins."""
    return "".join(
        f'<li><a href="{escape(exercise.link)}">{exercise.step}: exercise {number}</a></li>'
        for number, exercise in enumerate(exercises, start=1)
    )
