"""How fast the explorer page is in this machine's Chromium: measured, told, and not judged.

    python scripts/explorer_speed.py page.html         # from mnist-mlp export --format html

Told are: the first useful picture, from the start of the page's loading until the first image, the
network's answer and the controls are drawn; one image through the network, the median of many; and
a frame while somebody draws and while the page trains, the median and the slowest twentieth.
"""

import argparse
import statistics
import sys
from itertools import pairwise
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

CHROMIUM = Path("/usr/bin/chromium")

INFERENCE = """() => {
  const { examples, forward, trained } = explorer;
  const times = [];
  for (let i = 0; i < 100; i++) {
    const start = performance.now(); // which counts tenths of a millisecond: ten at a time
    for (let n = 0; n < 10; n++) forward(trained, examples[(10 * i + n) % examples.length].x);
    times.push((performance.now() - start) / 10);
  }
  return times.slice(20);
}"""
WATCH_FRAMES = """() => {
  globalThis.frames_ = [];
  const tick = (time) => { frames_.push(time); requestAnimationFrame(tick); };
  requestAnimationFrame(tick);
}"""


def frames(page: Page) -> list[float]:
    """Milliseconds of each frame since the last time that this was asked."""
    times = page.evaluate("frames_.splice(0)")
    return [after - before for before, after in pairwise(times)]


def told(what: str, milliseconds: list[float]) -> None:
    """Print a row."""
    slow = statistics.quantiles(milliseconds, n=20)[-1]
    median = statistics.median(milliseconds)
    print(f"{what:<34}{median:8.2f} ms median {slow:8.2f} ms slowest twentieth")


def draw(page: Page) -> None:
    """Move a mouse over the pad for a second."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    if box is None:
        sys.exit("the page has no drawing pad")
    page.mouse.move(box["x"] + 60, box["y"] + 50)
    page.mouse.down()
    for n in range(120):
        page.mouse.move(box["x"] + 60 + n % 40 * 3, box["y"] + 50 + n)
        page.wait_for_timeout(8)
    page.mouse.up()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="How fast the explorer page is")
    parser.add_argument("page", type=Path)
    file = parser.parse_args().page.resolve()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        first, paint = [], []
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(file.as_uri())
            page.wait_for_selector("#badge[data-state]")
            (mark,) = page.evaluate(
                "performance.getEntriesByName('first-picture').map((e) => e.startTime)"
            )
            first.append(mark)
            paint += page.evaluate("performance.getEntriesByType('paint').map((e) => e.startTime)")
            page.close()
        print(f"{'first useful picture':<34}{statistics.median(first):8.0f} ms median of 5, drawn")
        print(f"{'':<34}{statistics.median(paint):8.0f} ms median of 5, painted")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(file.as_uri())
        page.wait_for_selector("#badge[data-state]")
        told("one image through the network", page.evaluate(INFERENCE))
        page.evaluate(WATCH_FRAMES)
        page.wait_for_timeout(1000)
        told("a frame at rest", frames(page))
        draw(page)
        told("a frame while drawing", frames(page))
        page.locator("#train").scroll_into_view_if_needed()
        page.click("#reset-random")
        frames(page)
        page.click("#train")
        page.wait_for_timeout(4000)
        told("a frame while training", frames(page))
        print(page.inner_text("#train-text"), "in 4 s")
        browser.close()


if __name__ == "__main__":
    main()
