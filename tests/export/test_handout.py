"""A class's folder: its answers are those of plain PyTorch, its links lead where they say."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

import mnist_mlp
from mnist_mlp.export.handout import make_exercises
from mnist_mlp.runs.directory import list_checkpoints
from tests.conftest import Outcome
from tests.export.test_explorer import browser as browser

Run = Callable[..., Outcome]
PAGES = {"index.html", "explorer.html", "report.html", "exercises.html", "answers.html", "plots"}


def plain_network(run: Path) -> nn.Sequential:
    """The lesson's network by PyTorch alone, in float64."""
    layers = [nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)]
    network = nn.Sequential(*layers)
    tensors = load_file(list_checkpoints(run)[-1])
    for number, layer in enumerate(layers[::2], start=1):
        layer.load_state_dict(
            {part: tensors[f"layer{number}.{part}"] for part in ("weight", "bias")}
        )
    return network.double()


def test_every_answer_is_plain_pytorchs(digits_run: Path) -> None:
    checkpoint, data = mnist_mlp.load_checkpoint(digits_run), mnist_mlp.load_dataset("digits")
    exercises = make_exercises(checkpoint, data)
    assert len(exercises) == 12
    assert [e["step"] for e in exercises] == [
        f"Step {n}" for n in (1, 2, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8)
    ]
    (index,) = map(int, re.findall(r"Test image (\d+)", exercises[0]["question"]))
    network = plain_network(digits_run)
    layers: list[Any] = list(network)[::2]
    x, label = data.test.pixels[index].double() / 255, int(data.test.labels[index])
    z1 = layers[0](x)
    a2 = network[:-1](x)
    logits = network(x)
    p = torch.softmax(logits, dim=0)
    loss = F.cross_entropy(logits, torch.tensor(label))
    loss.backward()  # type: ignore[no-untyped-call]
    k, quiet, h = int(z1.argmax()), int(z1.argmin()), int(a2.argmax())
    products = layers[0].weight[k] * x
    pixel = int(products.argmax())
    best, second = p.topk(2).indices.tolist()
    other = second if best == label else best
    weight, slope = layers[2].weight[label, h].item(), layers[2].weight.grad[label, h].item()
    updated = copy.deepcopy(network)
    for parameter, other_one in zip(updated.parameters(), network.parameters(), strict=True):
        parameter.grad = other_one.grad
    squared = sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
    rate = float(re.findall(r"learning rate ([\d.]+)", exercises[10]["question"])[0])
    sample = torch.randperm(360, generator=torch.Generator().manual_seed(0))[:100]
    images, labels = data.test.pixels[sample].double() / 255, data.test.labels[sample]
    reads = int((network(images).argmax(dim=1) == labels).sum())
    torch.optim.SGD(updated.parameters(), lr=rate).step()
    after = F.cross_entropy(updated(x), torch.tensor(label)).item()
    without_biases = plain_network(digits_run)
    for layer in list(without_biases)[::2]:
        nn.init.zeros_(layer.get_parameter("bias"))
    without = int((without_biases(images).argmax(dim=1) == labels).sum())
    where = f"number {pixel} (row {pixel // 28}, column {pixel % 28}):"
    expected = [
        f"{int((x > 0).sum())} are not 0; {round(float(x[pixel] * 255))} / 255 = {x[pixel]:.4f}",
        f"= {z1[k]:.4f}",
        f"{z1[k].relu():.4f} and {z1[quiet].relu():.4f}",
        f"{where} {layers[0].weight[k, pixel]:.4f} × {x[pixel]:.4f} = {products[pixel]:.4f}",
        "together 109,386",
        f"{p[best]:.4f}, of digit {best}",
        f"{best} with {p[best]:.2%}, then {second} with {p[second]:.2%}",
        f"−log {p[label]:.6f} = {loss:.6f}",
        f"{p[label] - 1:.6f} and {p[other]:.6f}",
        f"{p[label] - 1:.6f} × {a2[h]:.4f} = {slope:.6f}",
        f"= {weight - rate * slope:.6f}",
        f"= {loss - rate * squared:.6f}; it is {after:.6f}, since",
    ]
    for exercise, part in zip(exercises, expected, strict=True):
        assert part in exercise["answer"]
    last = f"Without biases {without} images are read correctly instead of {reads}:"
    assert last in exercises[-1]["answer"]
    assert 0 < after < loss.item()


@pytest.mark.usefixtures("digits_run")
def test_the_folder_is_whole_and_made_again_the_same(run: Run) -> None:
    outcome = run("handout", "--output", "class")
    assert outcome.code == 0, outcome
    folder = Path("class")
    assert {path.name for path in folder.iterdir()} == PAGES
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert run("handout", "--output", "class").code == 0
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first
    index, questions, answers = (
        (folder / f"{page}.html").read_text() for page in ("index", "exercises", "answers")
    )
    named = re.findall(r'href="([^"#]+)', index + answers)
    assert set(named) == PAGES - {"index.html", "plots"}
    assert questions.count('class="room"') == answers.count('class="answer"') == 12
    assert 'class="answer"' not in questions
    commands = set(re.findall(r"<code>mnist-mlp (.*?)</code>", answers))
    assert {command.split()[0] for command in commands} == {"trace", "count-params"}
    for command in commands:
        assert run(*command.split()).code == 0


@pytest.mark.usefixtures("digits_run")
def test_what_is_no_handout_is_refused(run: Run) -> None:
    Path("mine").mkdir()
    Path("mine/index.html").write_text("my page")
    run("export", "--format", "html", "--output", "mine/explorer.html")
    refused = run("handout", "--output", "mine")
    assert (refused.code, "mine: holds other files" in refused.err) == (2, True)
    assert Path("mine/index.html").read_text() == "my page"
    run("train", "--config", "digits", "train.epochs=1", "model.layer_sizes=784-10", "name=flat")
    refused = run("handout", "flat-001", "--output", "flat")
    assert (refused.code, "this one has none" in refused.err) == (2, True)
    assert not Path("flat").exists()


def test_what_was_begun_is_finished_the_next_time(run: Run, digits_run: Path) -> None:
    wide = ("train.epochs=1", "model.layer_sizes=784-1000-10", "name=wide")
    run("train", "--config", "digits", *wide)
    assert "too large for it" in run("handout", "wide-001").err
    checkpoint = mnist_mlp.load_checkpoint(digits_run)
    assert mnist_mlp.write_handout(checkpoint, "handout").exists()
    assert {path.name for path in Path("handout").iterdir()} == PAGES


@pytest.mark.long
@pytest.mark.usefixtures("digits_run")
def test_links_show_what_they_name(run: Run, browser: Any) -> None:
    assert run("handout").code == 0
    answers = Path("handout/answers.html").read_text()
    links = dict.fromkeys(re.findall(r'href="(explorer[^"]*)"', answers))
    assert len(links) >= 7
    page = browser.new_page()
    for link in links:
        page.goto("about:blank")
        page.goto(f"{Path('handout').absolute().as_uri()}/{link.replace('&amp;', '&')}")
        page.wait_for_function("document.querySelector('#link-notice').hidden")
        state = link.partition("#")[2].split("&amp;")
        page.wait_for_timeout(500)  # the page has written its own state into the address
        shown = page.url.partition("#")[2].split("&")
        assert {part for part in state if not part.startswith("input")} <= set(shown), (
            state,
            shown,
        )
    page.close()
