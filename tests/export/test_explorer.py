"""The explorer page in Chromium: what it shows, and that its badge tells whether it is right.

No page may request anything besides its own file or write to the console.
"""

import base64
import io
import json
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
from mnist_mlp.lesson.trace import trace_image
from mnist_mlp.pictures.preprocess import examine
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
    """Follow a step's link, and again if the smooth scroll does not arrive."""
    for _ in range(3):
        page.click(f'.steps a[data-to="{step}"]')
        end = time.monotonic() + 4
        while time.monotonic() < end:
            if page.evaluate("explorer.state.step") == step:
                return
            page.wait_for_timeout(30)
    pytest.fail(f"the page does not get to {step}")


def logits_of(page: Page) -> list[float]:
    found: list[float] = page.evaluate("Array.from(explorer.forwardPass().logits)")
    return found


# The file


def test_size(html: Path) -> None:
    assert html.stat().st_size <= MAX_BYTES == 1_200_000


def test_images(html: Path, data: Dataset, checkpoint: Checkpoint, tmp_path: Path) -> None:
    found = page_data(html, tmp_path)
    indexes = found["indexes"]
    assert found["training"] == 100
    assert len(set(indexes)) == len(indexes) >= 100
    assert set(found["labels"][:100]) == set(range(10))
    with torch.no_grad():
        p = torch.softmax(checkpoint.model.double()(data.test.images.double()), dim=1)
    checkpoint.model.float()
    confidence, said = p.max(dim=1)
    wrong = said != data.test.labels
    worst = int(torch.where(wrong, confidence, 0).argmax())
    assert indexes[0] == worst
    # Each cell of mistakes has at least one image to show.
    cells = {
        (int(data.test.labels[i]), int(said[i])) for i in torch.nonzero(wrong).flatten().tolist()
    }
    shown = {(int(data.test.labels[i]), int(said[i])) for i in indexes}
    assert cells <= shown


def with_network(checkpoint: Checkpoint, sizes: list[int], activation: str = "relu") -> Checkpoint:
    overrides = [f"model.layer_sizes={sizes}", f"model.activation={activation}"]
    config = load_config("digits", overrides, environment={})
    return replace(checkpoint, config=config, model=build_mlp(sizes, activation, seed=1))


@pytest.mark.parametrize(
    ("sizes", "activation", "words"),
    [
        ([784, 32, 10], "tanh", "covers ReLU"),
        ([784, 10], "relu", "1 to 3 hidden"),
        ([784, 8, 8, 8, 8, 10], "relu", "1 to 3 hidden"),
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
        export_html(with_network(checkpoint, sizes, activation), data, [], tmp_path / "no.html")
    assert not (tmp_path / "no.html").exists()


@pytest.mark.parametrize("sizes", [[784, 20, 10], [784, 24, 20, 16, 10]])
def test_other_depths(
    checkpoint: Checkpoint, data: Dataset, tmp_path: Path, open_page: Open, sizes: list[int]
) -> None:
    other = with_network(checkpoint, sizes)
    path = tmp_path / "other.html"
    export_html(other, data, [], path)  # untrained: more mistakes than there is room for
    assert path.stat().st_size <= MAX_BYTES
    page = open_page(path)
    assert page.get_attribute("#badge", "data-state") == "good"
    for step in ("layers", "relu", "count", "backward", "update", "evidence"):
        go_to(page, step)
    page.click("#train")
    until(page, "document.getElementById('train-text').textContent.includes('steps')")
    assert page.locator(".factor").count() == 2 * len(sizes) - 1


def test_a_hostile_run_name(
    checkpoint: Checkpoint, data: Dataset, tmp_path: Path, open_page: Open
) -> None:
    name = "</title><script>document.title='bad'<!--{{data}}&amp;\"'"
    run = tmp_path / name.replace("/", "\N{FRACTION SLASH}") / "checkpoints"
    run.mkdir(parents=True)
    copied = run / checkpoint.path.name
    copied.write_bytes(checkpoint.path.read_bytes())
    path = tmp_path / "hostile.html"
    environment = {"versions": {"torch": "</script><script>document.title = 'bad'</script>"}}
    hostile = replace(checkpoint, path=copied, environment=environment)
    export_html(hostile, data, checkpoint.rows(), path)
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


def test_the_numbers_are_traces(
    open_page: Open, html: Path, checkpoint: Checkpoint, data: Dataset, tmp_path: Path
) -> None:
    index = page_data(html, tmp_path)["indexes"][0]
    label = int(data.test.labels[index])
    trace = trace_image(checkpoint.model, data.test.images[index], label)
    page = open_page(hash_=f"#image={index}&label={label}")
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
        np.testing.assert_allclose(mine, expected, rtol=1e-9, atol=1e-11)

    close(seen["a"][0], trace.input)
    for k, layer in enumerate(trace.layers):
        close(seen["z"][k], layer.z)
        close(seen["a"][k + 1] if k < 2 else seen["p"], layer.a)
        close(seen["W"][k], trace.gradients[f"layer{k + 1}.weight"])
        close(seen["b"][k], trace.gradients[f"layer{k + 1}.bias"])
    assert seen["loss"] == pytest.approx(trace.loss, rel=1e-9)

    go_to(page, "update")
    page.click("#step")  # at the learning rate 0.1, which both begin with
    after = page.evaluate("explorer.backwardPass().loss")
    assert after == pytest.approx(trace.loss_after, rel=1e-9)
    assert "Loss" in page.inner_text("#step-text")
    assert trace.learning_rate == 0.1


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
        there = examine(read_grey(SAMPLES / name))
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
    expect(page.locator("#break-text")).to_have_text(re.compile("Random weights"))
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
        expect(page.locator("#break-text")).to_have_text(re.compile(r"It classifies \d+ of the"))
    page.click("#reset-trained")
    until(page, "document.getElementById('now-reset').hidden")
    assert logits_of(page) == before
    page.click("#break-rate")
    until(page, "document.getElementById('train-text').textContent.includes('steps')")
    page.click("#now-reset")
    until(page, "document.getElementById('now-reset').hidden")
    assert logits_of(page) == before


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


def test_an_address_that_makes_no_sense(open_page: Open) -> None:
    page = open_page(hash_="#step=<b>&image=x&label=77&neuron=9.1e9&input=-1&pixels=zz999.")
    assert page.get_attribute("#badge", "data-state") == "good"
    assert page.evaluate("explorer.state.image") >= 0


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


@pytest.mark.parametrize("width", [390, 900, 1280])
def test_no_sideways_scrolling(open_page: Open, width: int) -> None:
    page = open_page(viewport={"width": width, "height": 800})
    for step in ("layers", "relu", "count", "loss", "backward", "update", "evidence"):
        go_to(page, step)
    page.click("#merge")
    page.click("#count-unfold")
    page.click("#step")  # and so a button to undo it
    expect(page.locator("#now-reset")).to_be_visible()
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
