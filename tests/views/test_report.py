import os
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mnist_mlp.config import load_config
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint, weights_sha256
from mnist_mlp.steps.data import Dataset, Split
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.notebook import train_model
from mnist_mlp.views.report import draw_report
from tests.conftest import Outcome

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=alert(1)>&\"'"
HOSTILE_ROOT = "'\"></pre><script>alert(2)<\\script><link href=http://127.0.0.1:9/a.css>"


class Page(HTMLParser):
    """The tags of a page, each of which must be closed, and its text."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    run_dir = tmp_path_factory.mktemp("runs") / HOSTILE
    config = load_config("digits", ["train.epochs=2", "data.validation=200"])
    root = config.data.model_copy(update={"root": HOSTILE_ROOT})
    train_model(config.model_copy(update={"data": root}), run_dir)
    return load_checkpoint(run_dir)


@pytest.fixture(scope="module")
def page(checkpoint: Checkpoint, data: Dataset) -> Path:
    return draw_report(checkpoint, data)


def test_every_file_is_there_and_no_other(page: Path, checkpoint: Checkpoint) -> None:
    assert page == checkpoint.path.parent.parent / "report.html"
    stems = ("curves", "digits", "confusion-matrix", "mistakes", "calibration", "tiles")
    pictures = list((page.parent / "plots").iterdir())
    assert len(pictures) == 3 * len(stems)
    assert {path.stem for path in pictures} == set(stems)
    assert not list(page.parent.glob(".*.tmp"))


def test_the_page_needs_nothing_and_runs_nothing(page: Path) -> None:
    html = page.read_text()
    parsed = Page(html)
    assert "http://" not in html.replace("http://127.0.0.1:9/a.css", "")  # shown, as text
    assert "https://" not in html
    names = {tag for tag, _ in parsed.tags}
    assert not names & {"script", "link", "iframe", "object", "base", "form"}
    assert {
        key for _, attributes in parsed.tags for key in attributes if key.startswith("on")
    } == set()
    images = [attributes for tag, attributes in parsed.tags if tag == "img"]
    assert len(images) == 6
    for image in images:
        assert (image["src"] or "").startswith(
            ("data:image/svg+xml;base64,", "data:image/png;base64,")
        )
        assert image["alt"]
    policy = [a["content"] for tag, a in parsed.tags if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_what_a_run_is_called_is_only_text(page: Path) -> None:
    html = page.read_text()
    assert "<img src=x" not in html
    assert "</pre><script>" not in html
    assert "<h1>&lt;img src=x onerror=alert(1)&gt;&amp;&#34;&#39;</h1>" in html
    assert HOSTILE_ROOT[:9] not in Page(html).text  # a folder of this machine


def test_the_page_has_the_runs_numbers(
    page: Path, checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult]
) -> None:
    text = Page(page.read_text()).text
    test = evaluate_model(checkpoint.model, *data.test)
    for words in [
        f"{test.accuracy:.2%}", f"{test.loss:.4f} nats", "784-128-64-10, relu", "109,386",
        "2 epochs, 156 updates", f"{checkpoint.progress['seconds']:,.1f}",
        checkpoint.config.shareable().to_yaml(), checkpoint.environment["platform"],
        checkpoint.environment["versions"]["torch"], weights_sha256(checkpoint.model),
        "9 of 9 hold",
    ]:  # fmt: skip
        assert words in text, words
    for row in rows:
        cells = [
            str(row.epoch), f"{row.updates:,}", f"{row.examples_seen:,}", f"{row.learning_rate:g}",
            f"{row.train_loss:.4f}", f"{row.train_accuracy:.2%}",
            f"{row.validation_loss:.4f}", f"{row.validation_accuracy:.2%}",
            f"{row.test_loss:.4f}", f"{row.test_accuracy:.2%}", f"{row.seconds:.1f}",
        ]  # fmt: skip
        assert "".join(cells) in text


def test_without_metrics_there_are_no_curves(
    checkpoint: Checkpoint, data: Dataset, tmp_path: Path
) -> None:
    few = data._replace(test=Split(*(t[:20] for t in data.test)))
    lone = shutil.copy(checkpoint.path, tmp_path / "lone.safetensors")
    page = draw_report(load_checkpoint(lone), few, tmp_path / "new")
    pictures = list((tmp_path / "new" / "plots").iterdir())
    assert len(pictures) == 15
    assert not any("curves" in path.name for path in pictures)
    text = Page(page.read_text()).text
    assert "No readable metrics.jsonl lies beside this checkpoint: no curves." in text


def test_a_file_in_the_way(checkpoint: Checkpoint, data: Dataset, tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("mine")
    with pytest.raises(OSError, match="plots"):
        draw_report(checkpoint, data, tmp_path)
    assert (tmp_path / "plots").read_text() == "mine"
    assert not (tmp_path / "report.html").exists()


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium here")
def test_it_opens_in_a_browser_without_a_request(page: Path) -> None:
    from playwright.sync_api import sync_playwright

    address = page.as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        heard: list[str] = []
        tab.on("request", lambda request: heard.append(request.url))
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("dialog", lambda dialog: heard.append(dialog.message))
        tab.goto(address)
        assert heard == [address]
        assert tab.title() == f"{HOSTILE} · mnist-mlp"
        widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
        assert len(widths) == 6
        assert min(widths) > 300
        for width in (390, 1400):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") == width
        browser.close()


def test_the_command_on_a_run_and_on_a_lone_file(run: Callable[..., Outcome]) -> None:
    run("train", "--config", "digits", "train.epochs=2", "--quiet")
    outcome = run("report")
    assert outcome == Outcome(
        0,
        "runs/digits-001/report.html, and pictures with their numbers in runs/digits-001/plots\n",
        "",
    )
    assert "epoch" in Path("runs/digits-001/plots/curves.csv").read_text()
    lone = Path("lone.safetensors")
    lone.write_bytes(Path("runs/digits-001/checkpoints/epoch-001.safetensors").read_bytes())
    assert run("report", lone, "--quiet") == Outcome(0, "", "")
    assert Path("lone-report/report.html").exists()
    assert not Path("lone-report/plots/curves.csv").exists()
    assert run("report", lone, "--output", "elsewhere").code == 0
    assert Path("elsewhere/plots/tiles.png").exists()
    Path("file").touch()
    assert run("report", lone, "--output", "file").code == 5


def test_a_run_whose_name_is_not_utf8(run: Callable[..., Outcome]) -> None:
    name = os.fsdecode(b"runs/bad\xff")
    for run_dir in (name, "runs/good"):
        run("train", "--config", "digits", "train.epochs=1", "--run-dir", run_dir, "--quiet")
    assert run("report", name, "--quiet") == Outcome(0, "", "")
    assert "<h1>bad?</h1>" in Path(name, "report.html").read_text()
    assert run("report", name, "runs/good") == Outcome(0, "comparison.html\n", "")
    assert "runs/bad?" in Path("comparison.html").read_text()


@pytest.mark.parametrize("several", [["runs"], ["runs", "runs/digits-001"]])
def test_a_folder_of_one_run_is_a_comparison_which_has_no_best(
    several: list[str], digits_run: Path, run: Callable[..., Outcome]
) -> None:
    assert run("report", *several) == Outcome(0, "comparison.html\n", "")
    for option in (["--best"], ["--root", "data"]):
        refused = run("report", *several, *option)
        assert (refused.code, refused.out) == (2, "")
        assert "are for the report of one run" in refused.err
    shutil.copytree(digits_run, digits_run / "within")
    assert run("report", digits_run, "--quiet").code == 0
    assert (digits_run / "report.html").exists()


def test_a_run_that_ends_with_its_report(run: Callable[..., Outcome]) -> None:
    outcome = run("train", "--config", "digits", "train.epochs=1", "report=true")
    assert outcome.out.splitlines()[-1] == "report in runs/digits-001/report.html"
    rows = Path("runs/digits-001/plots/curves.csv").read_text().splitlines()
    assert len(rows) == 1 + 2
    dry = run("train", "--config", "digits", "report=true", "--dry-run")
    assert dry.code == 0
    assert not Path("runs/digits-002").exists()
    more = run("train", "--resume", "latest", "report=false", "train.epochs=2", "--json")
    assert more.code == 0
    assert "report in" not in more.err
