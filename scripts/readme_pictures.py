"""The README's two pictures, made again: the explorer page and a report.

    python scripts/readme_pictures.py               # trains on scikit-learn's digits, in seconds
    python scripts/readme_pictures.py --root data   # trains mnist.yaml, as for the README

Needs Chromium.
"""

import argparse
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, FloatRect, Page, sync_playwright

REPOSITORY = Path(__file__).parent.parent
CHROMIUM = Path("/usr/bin/chromium")
SCALE = 1.5
"""Pixels of a picture for each of the page's, so that text stays sharp on fine screens."""
MARGIN = 16

EXPLORER_WIDTH = 1280
REPORT_SIZE = (620, 872)
"""Of each of two columns: the top of the report, and its most confident mistakes."""


def train(folder: Path, root: Path | None) -> tuple[Path, Path]:
    """Train a network in a folder; its explorer page and its report."""
    overrides = ["--config", "digits"] if root is None else ["--config", "mnist", "--root", root]

    def program(*arguments: str | Path) -> None:
        subprocess.run(
            [sys.executable, "-m", "mnist_mlp", *arguments],
            cwd=folder,
            check=True,
        )

    program("train", *overrides, "report=true", "--quiet")
    program("export", "--format", "html", "--output", "explorer.html", "--quiet")
    (report,) = folder.glob("runs/*/report.html")
    return folder / "explorer.html", report


def explorer_picture(browser: Browser, page_file: Path) -> Image.Image:
    """Step 2 of the explorer: the whole network, and one neuron's arithmetic."""
    page = browser.new_page(
        viewport={"width": EXPLORER_WIDTH, "height": 1200}, device_scale_factor=SCALE
    )
    page.goto(page_file.as_uri())
    page.wait_for_selector("#badge[data-state=good]")
    navigation = page.evaluate("document.querySelector('nav.steps').offsetHeight")
    page.evaluate(f"scrollTo(0, {top_of(page, '#layers h2') - navigation - MARGIN})")
    page.wait_for_timeout(500)  # until the bar of steps shows where we are
    bottom = page.evaluate(
        "document.querySelector('#neuron-card .arithmetic').getBoundingClientRect().bottom"
    )
    return picture(page, 0, EXPLORER_WIDTH, bottom)


def report_picture(browser: Browser, page_file: Path) -> Image.Image:
    """The top of the report, and beside it the mistakes further down."""
    width, height = REPORT_SIZE
    page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=SCALE)
    page.goto(page_file.as_uri())
    columns = [
        picture(page, y, width, height)
        for y in (0, top_of(page, "h3:has-text('wrong')") - 1.5 * MARGIN)
    ]
    both = Image.new("RGB", (2 * columns[0].width, columns[0].height))
    for number, column in enumerate(columns):
        both.paste(column, (number * column.width, 0))
    return both


def top_of(page: Page, selector: str) -> float:
    """Where an element begins, in pixels from the top of the page."""
    box = page.locator(selector).bounding_box()
    if box is None:
        sys.exit(f"the page has no {selector}")
    return box["y"] + float(page.evaluate("scrollY"))


def picture(page: Page, y: float, width: float, height: float) -> Image.Image:
    """A part of a page, over its whole width."""
    full_page = y > 0
    clip = FloatRect(x=0, y=y, width=width, height=height)
    content = page.screenshot(clip=clip, full_page=full_page)
    return Image.open(io.BytesIO(content)).convert("RGB")


def main() -> None:
    """Train, and write explorer.png and report.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="MNIST's data root; without, the digits")
    parser.add_argument("--output", type=Path, default=REPOSITORY / ".github", metavar="DIR")
    arguments = parser.parse_args()
    if not CHROMIUM.exists():
        sys.exit(f"no Chromium at {CHROMIUM}")
    root = arguments.root and arguments.root.resolve()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        explorer, report = train(Path(folder), root)
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        pictures = {
            "explorer": explorer_picture(browser, explorer),
            "report": report_picture(browser, report),
        }
        browser.close()
    for name, image in pictures.items():
        path = arguments.output / f"{name}.png"
        # 256 colours are enough for both pages, and take a third of the bytes.
        image.quantize(256, kmeans=3, dither=Image.Dither.NONE).save(path, optimize=True)
        print(f"{path}: {image.width} × {image.height}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
