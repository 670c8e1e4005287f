"""The explorer page in Chromium: what it shows, and that its badge tells whether it is right.

No page may request anything besides its own file or write to the console.
"""

import ast
import base64
import copy
import io
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from mnist_mlp import load_config
from mnist_mlp.errors import UsageError
from mnist_mlp.export.page import MAX_BYTES, export_html
from mnist_mlp.export.weights import export_safetensors
from mnist_mlp.lesson.trace import Trace, trace_image
from mnist_mlp.pictures.preprocess import prepare
from mnist_mlp.pictures.read import read_grey
from mnist_mlp.runs.checkpoint import Checkpoint, weights_sha256
from mnist_mlp.steps.data import Dataset
from mnist_mlp.steps.model import build_mlp
from tests.conftest import REPOSITORY

CHROMIUM = Path("/usr/bin/chromium")
SAMPLES = REPOSITORY / "tests" / "samples"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def data(explorer_data: Dataset) -> Dataset:
    return explorer_data


@pytest.fixture(scope="module")
def checkpoint(explorer_checkpoint: Checkpoint) -> Checkpoint:
    return explorer_checkpoint


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


class Watched:
    """Pages whose console messages and requests are recorded."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser
        self.contexts: list[BrowserContext] = []
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.files: set[str] = set()

    def open(self, path: Path, hash_: str = "", **options: Any) -> Page:
        self.files.add(path.as_uri())
        usual = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
        context = self.browser.new_context(**usual | options)
        context.set_default_timeout(10_000)
        self.contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url.partition("#")[0]))
        page.goto(path.as_uri() + hash_)
        page.wait_for_selector("#badge[data-state]")
        return page

    def check(self) -> None:
        assert self.messages == []
        requests = {url for url in self.requests if not url.startswith(("data:", "blob:"))}
        assert requests == self.files


@pytest.fixture
def open_page(browser: Browser, html: Path) -> Iterator[Open]:
    """Opens a page of the test's own."""
    watched = Watched(browser)
    yield lambda path=html, hash_="", **options: watched.open(path, hash_, **options)
    for context in watched.contexts:
        context.close()
    watched.check()


@pytest.fixture(scope="module")
def shared(browser: Browser, html: Path) -> Iterator[tuple[Watched, Page, str]]:
    watched = Watched(browser)
    page = watched.open(html)
    until(page, "location.hash.length > 1")
    yield watched, page, page.evaluate("location.hash")
    watched.contexts[0].close()


@pytest.fixture
def page(shared: tuple[Watched, Page, str]) -> Iterator[Page]:
    """A page that several tests use, one after another; each begins with its first state."""
    watched, page, first_hash = shared
    page.emulate_media(color_scheme="light", reduced_motion="reduce", media="screen")
    page.mouse.move(0, 0)
    page.keyboard.press("Escape")  # closes the tour
    page.evaluate("document.activeElement.blur()")
    if page.locator("#now-reset").is_visible():
        page.click("#now-reset")
    page.fill("#rate", "-1")
    for button in ("#merge-undo:enabled", "#pad-clear", "#loss-lesson"):
        if page.locator(button).count():
            page.click(button)
    page.evaluate(
        """(hash) => {
          history.replaceState(null, "", hash);
          dispatchEvent(new HashChangeEvent("hashchange")); // now, before another change is saved
        }""",
        first_hash,
    )
    until(page, f"explorer.state.step === 'input' && location.hash === {first_hash!r}")
    yield page
    watched.check()


def changed(html: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Copy the page with changed data."""
    text = html.read_text(encoding="utf-8")
    start = text.index(">", text.index('id="page-data"')) + 1
    end = text.index("</script>", start)
    value = json.loads(text[start:end])
    change(value)
    path = folder / "changed.html"
    path.write_text(text[:start] + json.dumps(value) + text[end:], encoding="utf-8")
    return path


def page_data(html: Path, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    changed(html, folder, found.update)
    return found


def until(page: Page, condition: str) -> None:
    """Wait for a condition; the page's CSP forbids `wait_for_function`, which evaluates text."""
    end = time.monotonic() + 10
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        page.wait_for_timeout(30)


def go_to(page: Page, step: str) -> None:
    page.click(f'.steps a[data-to="{step}"]')
    until(page, f"explorer.state.step === {step!r}")


def logits_of(page: Page) -> list[float]:
    found: list[float] = page.evaluate("Array.from(explorer.forwardPass().logits)")
    return found


# The file


def test_size(html: Path) -> None:
    assert html.stat().st_size <= MAX_BYTES == 1_200_000


def test_images(html: Path, data: Dataset, checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = page_data(html, tmp_path)
    indexes = found["indexes"]
    assert found["random"] == 100
    assert len(set(indexes)) == len(indexes) > 100
    assert set(found["labels"][:100]) == set(range(10))
    export_html(with_network(checkpoint, [784, 20, 10]), data, tmp_path / "other.html")
    assert page_data(tmp_path / "other.html", tmp_path)["indexes"][:100] == indexes[:100]
    with torch.no_grad():
        said = checkpoint.model(data.test.images).argmax(dim=1)
    wrong = said != data.test.labels
    # Each cell of mistakes has at least one image to show.
    cells = {
        (int(data.test.labels[i]), int(said[i])) for i in torch.nonzero(wrong).flatten().tolist()
    }
    shown = {(int(data.test.labels[i]), int(said[i])) for i in indexes}
    assert cells <= shown


def with_network(checkpoint: Checkpoint, sizes: list[int], activation: str = "relu") -> Checkpoint:
    overrides = [f"model.layer_sizes={sizes}", f"model.activation={activation}"]
    config = load_config("digits", overrides, environment={})
    model, path = build_mlp(sizes, activation, seed=1), Path("lone.safetensors")  # no curves
    return replace(checkpoint, config=config, model=model, path=path)


@pytest.mark.parametrize(
    ("sizes", "activation", "words"),
    [
        ([784, *[8] * 9, 10], "tanh", "at most 8"),
        ([784, 400, 10], "relu", "too large"),
    ],
)
def test_only_networks_that_the_page_covers(
    checkpoint: Checkpoint,
    data: Dataset,
    tmp_path: Path,
    sizes: list[int],
    activation: str,
    words: str,
) -> None:
    with pytest.raises(UsageError, match=words):
        export_html(with_network(checkpoint, sizes, activation), data, tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


@pytest.mark.parametrize(
    ("sizes", "activation", "claim"),
    [
        pytest.param([784, 10], "relu", "no hidden layer", marks=pytest.mark.long),
        ([784, 20, 10], "tanh", "remove tanh"),
        pytest.param([784, 20, 16, 10], "sigmoid", "remove sigmoid", marks=pytest.mark.long),
        pytest.param([784, 24, 20, 10], "identity", "does nothing", marks=pytest.mark.long),
        pytest.param([784, 24, 20, 16, 12, 10], "gelu", "remove GELU", marks=pytest.mark.long),
        ([784, 40, *[20] * 6, 16, 10], "relu", "remove ReLU"),
    ],
)
def test_any_depth_and_activation(
    checkpoint: Checkpoint,
    data: Dataset,
    tmp_path: Path,
    open_page: Open,
    monkeypatch: pytest.MonkeyPatch,
    sizes: list[int],
    activation: str,
    claim: str,
) -> None:
    other = with_network(checkpoint, sizes, activation)
    path = tmp_path / "other.html"
    export_html(other, data, path)  # untrained: more mistakes than there is room for
    assert path.stat().st_size <= MAX_BYTES
    index = page_data(path, tmp_path)["indexes"][0]
    page = open_page(path, f"#image={index}&neuron=1.3&rate=0.1")
    assert page.get_attribute("#badge", "data-state") == "good"
    trace = trace_image(other.model, data.test.images[index], int(data.test.labels[index]))
    assert_equal_to(trace, page)
    assert_lines_run(page, other, tmp_path, monkeypatch)

    for step in ("layers", "relu", "count", "backward", "update", "evidence"):
        go_to(page, step)
    assert page.locator(".factor").count() == 2 * len(sizes) - 1
    assert claim in page.inner_text("#relu")
    if len(sizes) > 2:
        page.click("#merge")
        assert page.locator("#merge-table tbody tr").count() == 10
        # Without activation functions, only the identity's logits are the network's own.
        own = [row.split("\t")[1::3] for row in page.inner_text("#merge-table tbody").splitlines()]
        assert all(merged == real for merged, real in own) is (activation == "identity")
    else:
        assert page.locator("#merge").is_hidden()
    assert page.locator("#templates canvas:visible").count() == 10
    page.click("#step")
    after = page.evaluate("explorer.backwardPass().loss")
    assert after == pytest.approx(trace.loss_after, rel=1e-9)
    for button in ("#train", "#break-biases", "#break-zero", "#reset-trained"):
        page.click(button)
        page.wait_for_timeout(100)
    page.click("#tour-start")
    while page.inner_text("#tour-next") == "Next":
        assert "undefined" not in page.inner_text("#tour-text")
        page.click("#tour-next")


def test_a_hostile_run_name(
    checkpoint: Checkpoint, data: Dataset, tmp_path: Path, open_page: Open
) -> None:
    name = "</title><script>document.title='bad'<!--{{data}}&amp;\"'"
    run = tmp_path / name.replace("/", "\N{FRACTION SLASH}") / "checkpoints"
    run.mkdir(parents=True)
    copied = run / checkpoint.path.name
    copied.write_bytes(checkpoint.path.read_bytes())
    metrics = checkpoint.path.parent.parent / "metrics.jsonl"
    (run.parent / "metrics.jsonl").write_bytes(metrics.read_bytes())
    path = tmp_path / "hostile.html"
    environment = {"versions": {"torch": "</script><script>document.title = 'bad'</script>"}}
    hostile = replace(checkpoint, path=copied, environment=environment)
    export_html(hostile, data, path)
    page = open_page(path)
    assert page.inner_text("#run-name") == hostile.run_name
    assert "bad'" in page.inner_text("#run-name")
    assert page.title().startswith(hostile.run_name)
    assert page.locator("script").count() == 2
    assert "</script>" in page.inner_text("#facts")


# Whether its numbers are right


def test_the_badge_is_earned(page: Page, checkpoint: Checkpoint) -> None:
    assert page.get_attribute("#badge", "data-state") == "good"
    page.click(".badge-details summary")
    details = page.inner_text("#badge-details")
    assert details.count("✓") == 3
    assert weights_sha256(checkpoint.model)[:16] in details


def test_one_weight_flipped(html: Path, tmp_path: Path, open_page: Open) -> None:
    def flip(value: dict[str, Any]) -> None:
        weights = np.frombuffer(base64.b64decode(value["weights"]), "<f4").copy()
        middle = np.argmax(np.abs(weights[784 * 5 : 784 * 6])) + 784 * 5
        weights[middle] *= -1
        value["weights"] = base64.b64encode(weights.tobytes()).decode()

    page = open_page(changed(html, tmp_path, flip))
    assert page.get_attribute("#badge", "data-state") == "bad"
    assert "Do not trust" in page.inner_text("#badge")
    assert "Logits" in page.inner_text("#badge")
    assert "SHA-256" in page.inner_text("#badge")


def test_one_gradient_changed(html: Path, tmp_path: Path, open_page: Open) -> None:
    def change(value: dict[str, Any]) -> None:
        tensor = value["gradients"][1]["tensors"][2]
        tensor["values"][40] += 2e-4 * tensor["largest"]

    page = open_page(changed(html, tmp_path, change))
    assert page.get_attribute("#badge", "data-state") == "bad"
    assert "Gradients" in page.inner_text("#badge")
    assert "Logits" not in page.inner_text("#badge")


def assert_equal_to(trace: Trace, page: Page) -> None:
    """Compare every number of the shown image's forward and backward pass."""
    text = page.evaluate(
        """() => {
          const { z, a, p } = explorer.forwardPass();
          const { loss, gradients } = explorer.backwardPass();
          const { W, b } = gradients;
          return JSON.stringify({ z, a, p, loss, W, b }, (_, v) => v.buffer ? Array.from(v) : v);
        }"""
    )
    seen = json.loads(text)

    def close(mine: list[float], theirs: torch.Tensor) -> None:
        expected = theirs.double().flatten().numpy()
        smallest = 1e-11 * min(1, np.abs(expected).max())
        np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=smallest)

    close(seen["a"][0], trace.input)
    for k, layer in enumerate(trace.layers):
        close(seen["z"][k], layer.z)
        close([*seen["a"][1:], seen["p"]][k], layer.a)
        close(seen["W"][k], trace.gradients[f"layer{k + 1}.weight"])
        close(seen["b"][k], trace.gradients[f"layer{k + 1}.bias"])
    assert seen["loss"] == pytest.approx(trace.loss, rel=1e-9)


def test_the_numbers_are_traces(
    open_page: Open, html: Path, checkpoint: Checkpoint, data: Dataset, tmp_path: Path
) -> None:
    index = page_data(html, tmp_path)["indexes"][0]
    label = int(data.test.labels[index])
    trace = trace_image(checkpoint.model, data.test.images[index], label)
    page = open_page(hash_=f"#image={index}&label={label}")
    assert_equal_to(trace, page)

    go_to(page, "update")
    page.click("#step")  # at the learning rate 0.1, which both begin with
    after = page.evaluate("explorer.backwardPass().loss")
    assert after == pytest.approx(trace.loss_after, rel=1e-9)
    assert "Loss" in page.inner_text("#step-text")
    assert trace.learning_rate == 0.1


def shown_number(text: str) -> tuple[float, float]:
    """The last number of a text of the page, and half a unit of its last digit."""
    found = re.findall(r"(−?[\d,]*\d(?:\.(\d+))?)(?: × 10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+))?", text)[-1]
    digits, decimals, power = found
    scale = 10.0 ** int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")) or 0)
    value = float(digits.replace("−", "-").replace(",", "")) * scale
    return value, scale * 10.0 ** -len(decimals) / 2


def assert_lines_run(
    page: Page, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paste the page's lines of Python in their order; each must give the number shown."""
    export_safetensors(checkpoint, folder / f"{checkpoint.run_name}.safetensors")
    if root := os.environ.get("MNIST_MLP_TEST_DATA"):
        (folder / "data").symlink_to(root)
    monkeypatch.chdir(folder)
    pasted: dict[str, Any] = {}
    exec(page.text_content("#load-torch") or "", pasted)
    assert len((page.text_content("#load-torch") or "").splitlines()) == 3
    values = {}
    for code in page.locator("code.torch").all():
        step = code.get_attribute("data-torch") or ""
        *statements, last = ast.parse(code.text_content() or "").body
        exec(compile(ast.Module(statements, []), step, "exec"), pasted)
        assert isinstance(last, ast.Expr)
        values[step] = eval(compile(ast.Expression(last.value), step, "eval"), pasted)

    def compare(step: str, text: str | None = None) -> None:
        if text is None:
            go_to(page, step)
            text = page.inner_text(SHOWN[step])
        shown, half_a_unit = shown_number(text)
        value = np.atleast_1d(values[step])[-1]
        assert value == pytest.approx(shown, abs=1.02 * half_a_unit), step

    for step in SHOWN:
        compare(step)
    if page.locator("#merge").is_visible():
        go_to(page, "relu")
        page.click("#merge")
        compare("relu", page.inner_text("#merge-table tbody tr:last-child td:nth-child(3)"))
        page.click("#merge-undo")
    go_to(page, "update")
    page.click("#step")
    expect(page.locator("#step-text")).to_have_text(re.compile("→"))
    step_text = page.inner_text("#step-text")
    compare("update", step_text[: step_text.index(":")])
    page.click("#now-reset")
    values["evidence"] *= 100
    compare("evidence", page.inner_text("#evidence-summary"))


SHOWN = {
    "input": "#pixel-text",
    "layers": "#neuron-formula",
    "count": "#count-total",
    "loss": "#loss-formula",
    "backward": "#weight-formula b",
}
"""Where the page shows the number that a step's line gives."""


def test_the_lines_for_pytorch_run(
    open_page: Open, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = open_page(hash_="#neuron=2.17&input=5&rate=0.01&label=3")
    page.click("#loss-image")
    assert_lines_run(page, checkpoint, tmp_path, monkeypatch)
    assert "torch.tensor(3)" in page.inner_text('[data-torch="loss"]')


def test_the_lines_for_a_drawing(
    page: Page, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_seven(page)
    page.click("#loss-image")
    expect(page.locator('[data-torch="backward"]')).to_have_text(re.compile("^# choose"))
    page.click("#drawing-label label:has-text('1')")
    expect(page.locator('[data-torch="backward"]')).to_have_text(re.compile("grad"))
    assert_lines_run(page, checkpoint, tmp_path, monkeypatch)


def test_pictures_are_read_as_predict_reads_them(page: Page) -> None:
    apart = {}
    left_out = {}
    for name, expected in EXPECTED.items():
        content = base64.b64encode((SAMPLES / name).read_bytes()).decode()
        seen = page.evaluate(
            """async (content) => {
              const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
              const grey = await explorer.readGrey(new Blob([bytes], { type: "image/png" }));
              const { pixels, leftOut, refusal } = explorer.prepare(grey);
              return [Array.from(pixels), leftOut, refusal];
            }""",
            content,
        )
        apart[name] = int(np.abs(np.array(seen[0]) - expected).max())
        _, there = prepare(read_grey(SAMPLES / name))
        left_out[name] = seen[1:] == [there.left_out, there.refusal]
    assert len(apart) >= 32
    assert all(left_out.values()), left_out
    assert max(apart.values()) <= 1, apart


# What a user does


def draw_seven(page: Page, left: float = 0.25, top: float = 0.2, size: float = 0.5) -> None:
    pad = page.locator("#pad")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    assert box is not None
    points = [(0, 0), (0.5, 0), (1, 0), (0.75, 0.4), (0.5, 0.8), (0.35, 1.2)]
    for n, (x, y) in enumerate(points):
        at = (
            box["x"] + box["width"] * (left + size * x),
            box["y"] + box["height"] * (top + size * y),
        )
        page.mouse.move(*at, steps=4)
        if n == 0:
            page.mouse.down()
    page.mouse.up()


def test_draw_a_seven(page: Page, mnist_root: Path) -> None:
    draw_seven(page)
    expect(page.locator("#input-verdict")).to_have_text(re.compile("Prediction: 7"))
    expect(page.locator("#now-text")).to_have_text(re.compile("your drawing: predicted 7"))
    centred = page.evaluate("Array.from(explorer.state.pixels)")
    page.click("#pad-clear")
    draw_seven(page, left=0.05, top=0.05, size=0.3)
    page.click("label:has(#centring)")
    until(page, "explorer.state.pixels[28 * 1 + 4] > 0")  # it stays in its corner
    page.click("label:has(#centring)")
    until(page, "explorer.state.pixels[28 * 1 + 4] === 0")
    again = page.evaluate("Array.from(explorer.state.pixels)")
    assert np.corrcoef(centred, again)[0, 1] > 0.9


def test_a_photo(page: Page) -> None:
    page.set_input_files("#photo", SAMPLES / "5_large.png")
    expect(page.locator("#now-text")).to_have_text(re.compile("your drawing"))
    pixels = page.evaluate("Array.from(explorer.state.pixels)")
    assert np.abs(np.array(pixels) - EXPECTED["5_large.png"]).max() <= 1
    before = page.evaluate("Array.from(explorer.state.pixels)")
    page.set_input_files("#photo", SAMPLES / "0_ruled_1.png")
    expect(page.locator("#pad-status")).to_have_text("Left out: ruled lines.")
    assert page.evaluate("Array.from(explorer.state.pixels)") != before
    seven = np.asarray(Image.open(SAMPLES / "7_plain.png"))
    two = io.BytesIO()
    Image.fromarray(np.hstack([seven, seven])).save(two, "PNG")
    before = page.evaluate("Array.from(explorer.state.pixels)")
    page.set_input_files(
        "#photo", {"name": "two.png", "mimeType": "image/png", "buffer": two.getvalue()}
    )
    expect(page.locator("#pad-status")).to_have_text(re.compile("2 things could be the digit"))
    assert page.evaluate("Array.from(explorer.state.pixels)") == before
    page.set_input_files("#photo", {"name": "x.png", "mimeType": "image/png", "buffer": b"no"})
    expect(page.locator("#pad-status")).to_have_text(re.compile("cannot read"))


def test_draw_with_the_keyboard(page: Page) -> None:
    page.focus("#pad")
    page.keyboard.press("Space")
    for _ in range(12):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#now-text")).to_have_text(re.compile("your drawing"))
    pixels = np.array(page.evaluate("Array.from(explorer.state.pixels)")).reshape(28, 28)
    assert np.ptp(np.flatnonzero(pixels.any(axis=1))) >= 18  # an upright stroke


def test_choose_a_neuron(page: Page) -> None:
    go_to(page, "layers")
    page.click("#network .layer:nth-of-type(3) .neuron:nth-child(6)")
    expect(page.locator("#neuron-title")).to_have_text("Layer 2, neuron 5")
    z = page.evaluate("explorer.forwardPass().z[1][5]")
    formula = page.inner_text("#neuron-formula").replace("−", "-")
    assert f"{z:.4g}"[:5] in formula
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#neuron-title")).to_have_text("Layer 2, neuron 6")
    page.hover("#tile-weights", position={"x": 60, "y": 60})
    until(
        page,
        "document.getElementById('product-text').textContent.includes(`[${explorer.state.input}]`)",
    )
    page.focus("#tile-product")
    before = page.evaluate("explorer.state.input")
    page.keyboard.press("ArrowRight")
    until(page, f"explorer.state.input === {before + 1}")
    page.fill("#sum-at", "10")
    expect(page.locator("#sum-text")).to_have_text(re.compile("input 10:"))


def test_merge(page: Page) -> None:
    page.emulate_media(reduced_motion="no-preference")
    go_to(page, "relu")
    page.click("#merge")
    expect(page.locator("#merge-result")).to_be_visible()
    text = page.inner_text("#merge-text")
    found = re.search(r"agree to ([\d.]+) × 10⁻¹", text)
    assert found, text
    assert page.locator("#merge-table tbody tr").count() == 10
    page.click("#merge-undo")
    assert page.locator("#merge-result").is_hidden()


def test_count(page: Page) -> None:
    go_to(page, "count")
    rows = page.inner_text("#count-rows")
    for text in ("128 × 784 + 128 = 100,480", "64 × 128 + 64 = 8,256", "10 × 64 + 10 = 650"):
        assert text in rows
    assert page.inner_text("#count-total") == "109,386"
    page.click("#count-unfold")
    expect(page.locator("#count-text")).to_have_text(re.compile("All 109,386"))


def test_drag_a_logit(page: Page) -> None:
    go_to(page, "loss")
    expect(page.locator("#loss-formula")).to_have_text(re.compile(r"0\.983 = 0\.0172"))
    assert "0.96" in page.inner_text("#loss-note")
    slider = page.locator('#logits input[data-digit="4"]')
    box = slider.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * (3.8 + 15) / 40, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.9, middle, steps=5)
    page.mouse.up()
    expect(page.locator("#logits .best .digit")).to_have_text("4")
    logits = page.evaluate("[...document.querySelectorAll('#logits input')].map((e) => +e.value)")
    loss = torch.nn.functional.cross_entropy(torch.tensor([logits]), torch.tensor([7])).item()
    assert loss > 5
    expect(page.locator("#loss-formula b")).to_have_text(f"{loss:.4f}")
    page.click("#loss-image")
    logit = f"{logits_of(page)[0]:.1f}".replace("-", "−")
    expect(page.locator("#logits .value").first).to_have_text(logit)


def test_label_and_weight(page: Page) -> None:
    go_to(page, "backward")
    page.click("#label-buttons label:has-text('3')")
    until(page, "explorer.state.label === 3")
    page.click("#weight-steepest")
    agree = page.locator("#weight-difference")
    expect(agree).to_have_text(re.compile(r"agree to (0\b|[\d.]+ × 10⁻)|kink"))
    page.fill("#weight-row", "5")
    page.fill("#weight-column", "300")
    page.press("#weight-column", "Enter")
    expect(page.locator("#weight-formula")).to_have_text(re.compile(r"W₁\[5, 300\]"))
    assert page.locator(".factor").count() == 7


def test_step_train_break_and_reset(page: Page) -> None:
    go_to(page, "update")
    before = logits_of(page)
    page.click("#reset-random")
    expect(page.locator("#break-text")).to_have_text(re.compile("random"))
    assert page.locator("#now-reset").is_visible()
    untrained = page.evaluate("explorer.backwardPass().loss")
    page.click("#step")
    assert page.evaluate("explorer.backwardPass().loss") < untrained
    page.click("#train")
    until(
        page, "parseInt(document.getElementById('train-text').textContent.replace(',', '')) >= 150"
    )
    page.click("#train")
    found = re.search(r"loss ([\d.]+), (\d+) of 100", page.inner_text("#train-text"))
    assert found
    assert float(found[1]) < 1.5
    assert int(found[2]) > 50
    for button in ("#break-biases", "#break-noise", "#break-zero"):
        page.click(button)
        expect(page.locator("#break-text")).to_have_text(re.compile(r"Of 100 .*, it reads \d+"))
    page.click("#reset-trained")
    until(page, "document.getElementById('now-reset').hidden")
    assert logits_of(page) == before
    page.click("#break-rate")
    until(page, "document.getElementById('train-text').textContent.includes('steps')")
    page.click("#now-reset")
    until(page, "document.getElementById('now-reset').hidden")
    assert logits_of(page) == before


def test_break_beside_the_intact_network(
    open_page: Open, html: Path, checkpoint: Checkpoint, data: Dataset, tmp_path: Path
) -> None:
    chosen = page_data(html, tmp_path)["indexes"][:100]
    images, labels = data.test.images[chosen], data.test.labels[chosen]
    broken = copy.deepcopy(checkpoint.model)

    def right() -> int:
        return int((broken(images).argmax(dim=1) == labels).sum())

    intact = right()
    page = open_page(hash_="#step=update")
    text = page.locator("#break-text")
    of_them = "of 100 test images chosen at random,"
    expect(text).to_have_text(f"Nothing is broken: {of_them} the network reads {intact} correctly.")
    page.click("#break-biases")
    with torch.no_grad():
        for name in ("layer1", "layer2", "layer3"):
            broken.get_parameter(f"{name}.bias").zero_()
    without_biases = f"Of 100 test images chosen at random, it reads {right()} correctly"
    expect(text).to_have_text(
        f"In force: all biases set to 0. {without_biases}; with nothing broken, {intact}."
    )
    page.click("#break-noise")
    page.click("#break-noise")
    until(page, "location.hash.includes('biases-noise0.1-noise0.1')")
    noisy = open_page(hash_=page.evaluate("location.hash"))
    assert logits_of(noisy) == logits_of(page)
    page.select_option("#zero-layer", "2")
    page.click("#break-zero")
    with torch.no_grad():
        broken.get_parameter(
            "layer2.weight"
        ).zero_()  # so layer 3 has no input, no bias, and all logits are 0
        assert right() == int((labels == 0).sum())
    expect(text).to_have_text(
        re.compile(
            r"all biases set to 0; noise.*; noise.*; every weight of layer 2 set to 0\. "
            rf".*Of 100 .* it reads {right()} correctly; with nothing broken, {intact}\.$"
        )
    )
    assert "layer 2" in (page.get_attribute("#now-reset", "title") or "")
    note = page.get_attribute('#update [data-torch="update"]', "data-note") or ""
    assert "not this page’s" in note

    # What is broken, and the learning rate, are in the address.
    page.fill("#rate", "-2")
    until(page, "location.hash.includes('rate=0.01') && location.hash.includes('zero2')")
    broken_logits = logits_of(page)
    again = open_page(hash_=page.evaluate("location.hash"))
    assert logits_of(again) == broken_logits
    expect(again.locator("#rate-text")).to_have_text("0.01")
    assert again.locator("#link-notice").is_hidden()
    again.click("#now-reset")
    until(again, "!location.hash.includes('broken')")


def test_the_curve_follows_the_weights_in_training(page: Page) -> None:
    go_to(page, "update")
    page.click("#reset-random")
    page.click("#train")
    until(page, "document.getElementById('train-text').textContent.includes('steps')")
    both = """[document.getElementById("step-text").textContent,
               document.getElementById("slope").getAttribute("aria-label")]"""
    losses = set()
    for _ in range(20):
        page.wait_for_timeout(60)
        text, label = page.evaluate(both)
        loss, _ = shown_number(text.split(". To")[0])
        start, half_a_unit = shown_number(label.split(": from")[1].split(" to ")[0])
        assert loss == pytest.approx(start, abs=1.02 * half_a_unit)
        losses.add(loss)
    assert page.inner_text("#train") == "Pause"
    assert len(losses) >= 4
    assert "broken=random1-trained" in page.evaluate("location.hash")
    page.click("#train")


def test_a_drawing_has_no_label_until_one_is_chosen(open_page: Open) -> None:
    page = open_page(hash_="#label=7")
    draw_seven(page)
    now = page.locator("#now-text")
    expect(now).to_have_text(re.compile("your drawing.*no label yet"))
    assert page.evaluate("explorer.state.label") is None
    until(page, "location.hash.includes('pixels') && !location.hash.includes('label')")
    go_to(page, "update")
    expect(page.locator("#step")).to_be_disabled()
    expect(page.locator("#step-unlabelled")).to_be_visible()
    go_to(page, "backward")
    expect(page.locator("#backward-labelled")).to_be_hidden()
    go_to(page, "input")
    page.click("#drawing-label label:has-text('1')")
    expect(now).to_have_text(re.compile("label 1"))
    go_to(page, "backward")
    expect(page.locator("#backward-labelled")).to_be_visible()
    draw_seven(page, left=0.3, top=0.5)  # one more stroke
    until(page, "location.hash.includes('label=1')")
    assert page.evaluate("explorer.state.label") == 1

    again = open_page(hash_=page.evaluate("location.hash"))
    assert again.evaluate("explorer.state.label") == 1
    draw_seven(again)  # on the empty pad of a page that has just been opened
    expect(again.locator("#now-text")).to_have_text(re.compile("no label yet"))
    for anew in ("#pad-clear", "#gallery button:nth-child(3)"):
        page.click("#drawing-label label:has-text('1')")
        page.click(anew)
        draw_seven(page)
        expect(now).to_have_text(re.compile("your drawing.*no label yet"))
    page.click("#drawing-label label:has-text('1')")
    page.set_input_files("#photo", SAMPLES / "5_large.png")
    expect(now).to_have_text(re.compile("your drawing.*no label yet"))


def test_the_confusion_matrix_opens_its_images(page: Page) -> None:
    go_to(page, "evidence")
    cell = page.locator("#confusion button.wrong").first
    name = cell.get_attribute("data-cell") or ""
    cell.click()
    until(page, f"explorer.state.label === {name[0]}")
    assert page.locator("#confusion-images button").count() >= 1
    expect(page.locator("#now-text")).to_have_text(
        re.compile(f"predicted {name[1]}.*label {name[0]}")
    )


def test_the_address_holds_the_state(open_page: Open, html: Path, tmp_path: Path) -> None:
    index = page_data(html, tmp_path)["indexes"][42]
    page = open_page(hash_=f"#step=backward&image={index}&label=2&neuron=2.17&input=5")
    until(page, "explorer.state.step === 'backward'")
    state = "(({ label, layer, neuron, input }) => [label, layer, neuron, input])(explorer.state)"
    assert page.evaluate(state) == [2, 1, 17, 5]
    assert page.evaluate("explorer.shown().index") == index
    page.evaluate("explorer.chooseNeuron(0, 3)")
    page.evaluate(
        "explorer.showDrawing(Uint8Array.from({ length: 784 }, (_, i) => i % 5 ? 0 : i % 256))"
    )
    page.evaluate("explorer.chooseLabel(8)")
    until(page, "location.hash.includes('neuron=1.3') && location.hash.includes('label=8')")
    again = open_page(hash_=page.evaluate("location.hash"))
    assert again.evaluate(state) == page.evaluate(state)
    pixels = "Array.from(explorer.state.pixels)"
    assert again.evaluate(pixels) == page.evaluate(pixels)
    assert again.evaluate("explorer.state.image") == -1


@pytest.mark.parametrize(
    ("fragment", "words", "state"),
    [
        ("#step=nine", ["no step “nine”", "evidence"], "step === 'input'"),
        ("#step=backwards", ["no step “backwards”: this is “backward”"], "step === 'backward'"),
        ("#step=9", ["no step 9: this is step 8, the nearest"], "step === 'evidence'"),
        ("#neuron=9.9", ["no neuron 9.9: here is 3.9, the nearest"], "neuron === 9"),
        ("#neuron=seven", ["“seven” is no neuron"], "layer === 0"),
        ("#neuron=2.1&input=500", ["no input “500”", "here is 127"], "input === 127"),
        ("#label=77", ["no label “77”"], "label === 7"),
        ("#rate=0.12", ["no learning rate “0.12”: it is 0.13"], "label === 7"),
        ("#rate=-x", ["no learning rate “-x”: it is 0.1"], "label === 7"),
        ("#broken=zero9-biases-glass", ["cannot break “zero9”", "“glass”"], "broken.length === 1"),
        ("#broken=biases-trained", ["which a link cannot hold"], "broken.join() === 'biases'"),
        ("#pixels=zz999.&label=3", ["drawing in this link is damaged"], "label === 7"),
        ("#imge=3", ["no part “imge”, only step, image"], "step === 'input'"),
        ("#step=<b>&image=x", ["no step “<b>”", "no test image “x”"], "image >= 0"),
    ],
)
def test_an_address_that_the_page_cannot_show(
    open_page: Open, fragment: str, words: list[str], state: str
) -> None:
    page = open_page(hash_=fragment)
    notice = page.locator("#link-notice")
    expect(notice).to_be_visible()
    for part in words:
        assert part in notice.inner_text()
    until(
        page,
        f"(({{ step, label, layer, neuron, input, broken, image }}) => {state})(explorer.state)",
    )
    page.click("#link-close")
    expect(notice).to_be_hidden()


def test_an_image_that_the_page_has_not(open_page: Open, html: Path, tmp_path: Path) -> None:
    indexes = page_data(html, tmp_path)["indexes"]
    absent = next(i for i in range(10_000) if i not in indexes and i + 1 in indexes)
    page = open_page(hash_=f"#image={absent}&label=3")
    nearest = page.evaluate("explorer.shown().index")
    assert abs(nearest - absent) == 1
    assert page.evaluate("explorer.state.label === explorer.shown().label")
    notice = page.inner_text("#link-notice")
    assert f"no test image “{absent}”" in notice
    assert f"image {nearest}, the nearest" in notice


@pytest.mark.parametrize("fragment", ["", "#backward", "#6", "#step=6", "#step=backward"])
def test_an_address_that_the_page_can_show(open_page: Open, fragment: str) -> None:
    page = open_page(hash_=fragment)
    assert page.locator("#link-notice").is_hidden()
    until(page, f"explorer.state.step === {'backward' if fragment else 'input'!r}")


def test_the_guided_path(page: Page) -> None:
    page.click("#tour-start")
    seen = []
    while page.inner_text("#tour-next") == "Next":
        seen.append(page.inner_text("#tour-text"))
        page.click("#tour-next")
    assert len(set(seen)) == len(seen) >= 12
    assert page.locator(".pointed-at").count() == 1
    page.keyboard.press("Escape")
    assert page.locator("#tour").is_hidden()


# Devices and media


def test_touch_draws_and_does_not_scroll(open_page: Open) -> None:
    page = open_page(has_touch=True, is_mobile=True, viewport={"width": 390, "height": 800})
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    assert box is not None
    before = page.evaluate("scrollY")
    session = page.context.new_cdp_session(page)
    for n in range(8):
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] * (0.2 + 0.08 * n)
        kind = "touchStart" if n == 0 else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect(page.locator("#now-text")).to_have_text(re.compile("your drawing"))
    assert page.evaluate("scrollY") == before


STEPS = ["input", "layers", "relu", "count", "loss", "backward", "update", "evidence"]


def test_links_to_steps_arrive_on_a_phone(open_page: Open) -> None:
    """Also a click while the page still goes to the step that its address names."""
    phone = {"has_touch": True, "is_mobile": True, "viewport": {"width": 390, "height": 800}}
    for step in STEPS:
        page = open_page(hash_=f"#step={step}", reduced_motion="no-preference", **phone)
        until(page, f"explorer.state.step === {step!r}")
        page.hover(".steps ol")
        page.evaluate(  # the bar stays where it is under a pointer
            """() => {
              const bar = document.querySelector(".steps ol");
              bar.scrollTo({ left: 200 });
              explorer.state.step = "";
              dispatchEvent(new Event("scroll"));
            }"""
        )
        page.wait_for_timeout(100)
        assert page.evaluate("document.querySelector('.steps ol').scrollLeft") == 200
        other = STEPS[STEPS.index(step) - 3]
        page.click(f'.steps a[data-to="{other}"]')
        page.wait_for_timeout(300)
        assert page.evaluate("explorer.state.step") == other
        page.context.close()


@pytest.mark.parametrize("width", [360, 900, 1280])
def test_no_sideways_scrolling(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    for step in ("layers", "relu", "count", "loss", "backward", "update", "evidence"):
        go_to(page, step)
    page.click("#merge")
    page.click("#count-unfold")
    page.click("#step")  # and so a button to undo it
    expect(page.locator("#now-reset")).to_be_visible()
    draw_seven(page)
    expect(page.locator("#now-text")).to_have_text(re.compile("no label yet"))
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_dark(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.emulate_media(color_scheme="light")
    assert page.evaluate(background) != dark
    assert max(map(int, re.findall(r"\d+", dark))) < 60


def test_print_shows_every_panel(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print")
    ink = page.evaluate("getComputedStyle(document.body).color")
    assert max(map(int, re.findall(r"\d+", ink))) < 60  # dark on paper all the same
    page.evaluate("explorer.chooseNeuron(1, 4); dispatchEvent(new Event('beforeprint'))")
    assert page.inner_text("#gradient-caption").startswith(
        "∂L/∂W₂[4]"
    )  # in a panel outside the viewport
    assert page.locator(".steps").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    for step in ("layers", "relu", "count", "loss", "backward", "update", "evidence"):
        go_to(page, step)
    page.click("#merge")
    page.click("#tour-start")
    found = Axe().run(page).response["violations"]
    serious = [
        f"{v['id']}: {node['html'][:120]} {node.get('failureSummary', '')[:300]}"
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"][:3]
    ]
    assert serious == []
