"""Words for people, and text that is safe to show them."""

from functools import cache
from pathlib import Path

import yaml


@cache
def words() -> dict[str, dict[str, str]]:
    """The sections of words.yaml."""
    sections: dict[str, dict[str, str]] = yaml.safe_load(
        Path(__file__).with_name("words.yaml").read_text("utf-8")
    )
    return sections


def printable(text: str) -> str:
    """Text in at most 60 printable characters."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 60 else text[:57] + "..."
