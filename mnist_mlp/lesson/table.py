"""The table of the lesson's claims: what the lesson says, and what a row holds when filled in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from mnist_mlp.notebook_html import NotebookHtml

ROWS: dict[str, dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("claims.yaml").read_text("utf-8")
)
"""The rows of claims.yaml by id, in the lesson's order."""


@dataclass(frozen=True)
class Claim:
    """A row that is filled in; `ok` if the program computes the correct result."""

    id: str
    step: int | None
    claim: str
    lesson: str
    computed: str
    verdict: Literal["holds", "rounds", "differs", "rule", "cited"]
    ok: bool
    note: str = ""


class Claims(NotebookHtml, tuple[Claim, ...]):
    """All rows."""


def fill(id_: str, ok: bool, text: str = "computed", /, **parts: Any) -> Claim:
    """Fill in a row: the parts go into its text of that name, or replace its verdict or note."""
    row: dict[str, Any] = {"verdict": "holds" if ok else "differs", "note": ""}
    row |= {"computed": "{computed}"} | ROWS[id_]
    row |= {name: parts[name] for name in ("verdict", "note") if name in parts}
    said = row["step"], row["claim"], row["lesson"], row[text].format(**parts)
    return Claim(id_, *said, row["verdict"], ok, row["note"])
