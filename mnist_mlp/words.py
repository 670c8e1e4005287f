"""Words for people, and text that is safe to show them."""

from pathlib import Path

import yaml

WORDS: dict[str, dict[str, str]] = yaml.safe_load(
    Path(__file__).with_name("words.yaml").read_text("utf-8")
)


def printable(text: str) -> str:
    """Text in at most 60 printable characters."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else text[:57] + "..."
