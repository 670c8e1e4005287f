"""What a class needs, as a folder that works offline: pages, exercises, and their answers.

The exercises follow the lesson, with the numbers of the network itself, which `trace_image`
computes. The same run gives the same files.
"""

import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from mnist_mlp.constants import SIDE
from mnist_mlp.errors import UsageError
from mnist_mlp.export.page import export_html, random_images
from mnist_mlp.lesson.trace import Trace, trace_image
from mnist_mlp.runs.checkpoint import Checkpoint
from mnist_mlp.runs.environment import load_run_dataset
from mnist_mlp.steps.data import Dataset, Split, to_images
from mnist_mlp.steps.model import count_parameters
from mnist_mlp.views.pages import write_page
from mnist_mlp.views.report import draw_report


def write_handout(checkpoint: Checkpoint, folder: str | Path, data: Dataset | None = None) -> Path:
    """Write the explorer page, the report, the exercises, the answers, and an index of them.

    The data set is the checkpoint's, on the CPU, by default loaded from where the run had it.
    Returns the index. A UsageError where the folder has other files, or no layer is hidden.
    """
    if len(checkpoint.config.model.layer_sizes) == 2:
        raise UsageError("a handout is about a network with a hidden layer; this one has none")
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / "exercises.html").exists():
        raise UsageError(f"{folder}: holds other files; choose another --output")
    data = data or load_run_dataset(checkpoint.config)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"run": checkpoint.run_name, "exercises": make_exercises(checkpoint, data)}
    for page, answered in {"exercises": False, "answers": True}.items():
        write_page(folder / f"{page}.html", "exercises.html", answered=answered, **parts)
    export_html(checkpoint, data, folder / "explorer.html")  # it may refuse; the folder is marked
    draw_report(checkpoint, data, folder)
    return write_page(folder / "index.html", "handout.html", **parts)


def make_exercises(checkpoint: Checkpoint, data: Dataset) -> list[dict[str, str]]:
    """The exercises of exercises.yaml, on this network and one test image that the page shows."""
    model = checkpoint.model
    index, reads, without = _read_sample(model, data.test)
    image, label = to_images(data.test.pixels[index]), int(data.test.labels[index])
    trace = trace_image(model, image, label)
    squared = sum(gradient.square().sum().item() for gradient in trace.gradients.values())
    # The largest rate of the page for which the first order predicts something.
    rates = (0.1, 0.01, 0.001, 0.0001)
    rate = next((rate for rate in rates if rate * squared < trace.loss / 2), rates[-1])
    counts = count_parameters(model)
    numbers = _numbers(model, trace_image(model, image, label, rate)) | {
        "run": checkpoint.run_dir or checkpoint.path,
        "index": index,
        "sizes": "-".join(map(str, checkpoint.config.model.layer_sizes)),
        "activation": checkpoint.config.model.activation,
        "counts": "; ".join(map(str, counts)),
        "parameters": sum(layer.parameters for layer in counts),
        "squared": squared,
        "predicted": trace.loss - rate * squared,
        "reads": reads,
        "without": without,
    }
    exercises = yaml.safe_load(Path(__file__).with_name("exercises.yaml").read_text("utf-8"))
    return [{part: text.format(**numbers) for part, text in one.items()} for one in exercises]


@torch.no_grad()
def _read_sample(model: nn.Sequential, test: Split) -> tuple[int, int, int]:
    """Of the page's random images, the one that is read correctly with the least confidence.

    Returns its index, and how many are read correctly: by the network, and without all biases.
    """
    sample = random_images(test)
    images, labels = to_images(test.pixels[sample]).double(), test.labels[sample]
    model = copy.deepcopy(model).double()
    confidence, guesses = torch.softmax(model(images), dim=1).max(dim=1)
    wrong = guesses != labels
    index = sample[int((confidence + wrong).argmin())]
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    without = int((model(images).argmax(dim=1) == labels).sum())
    return index, int((~wrong).sum()), without


def _numbers(model: nn.Sequential, trace: Trace) -> dict[str, Any]:
    """What the exercises ask about a trace.

    In layer 1 it is neuron k, whose z is the largest, and the pixel that adds most to it. In the
    last layer it is the weight from input h, the largest, to the neuron of the label.
    """
    x, p, label = trace.input, trace.probabilities, trace.label
    first, last, inputs = trace.layers[0], f"{trace.layers[-1].name}.weight", trace.layers[-2].a
    W, b = (model.get_parameter(f"layer1.{part}").detach() for part in ("weight", "bias"))
    k, quiet, h = int(first.z.argmax()), int(first.z.argmin()), int(inputs.argmax())
    products = W[k].double() * x.double()
    pixel = int(products.argmax())
    guess, second = p.topk(2).indices.tolist()
    other = second if guess == label else guess
    weight = model.get_parameter(last)[label, h].item()
    slope = trace.gradients[last][label, h].item()
    return {
        **vars(trace),
        "inked": int((x > 0).sum()),
        "pixel": pixel,
        "where": f"row {pixel // SIDE}, column {pixel % SIDE}",
        "byte": round(float(x[pixel]) * 255),
        "x": x[pixel],
        "k": k,
        "w": W[k, pixel],
        "wx": products[pixel],
        "Wx": products.sum(),
        "b": b[k],
        "z": first.z[k],
        "a": first.a[k],
        "quiet": quiet,
        "quiet_z": first.z[quiet],
        "quiet_a": first.a[quiet],
        "logits": " ".join(f"{z:.2f}" for z in trace.logits),
        "guess": guess,
        "p_guess": p[guess],
        "second": second,
        "p_second": p[second],
        "p_label": p[label],
        "dz": p[label] - 1,
        "other": other,
        "p_other": p[other],
        "depth": len(trace.layers),
        "h": h,
        "a_h": inputs[h],
        "weight": weight,
        "slope": slope,
        "new_weight": weight - trace.learning_rate * slope,
    }
