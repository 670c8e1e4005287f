"""The table of the lesson's claims: what a row holds, and how rows are added and filled in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mnist_mlp.notebook_html import NotebookHtml
from mnist_mlp.steps.data import Dataset

Verdict = Literal["holds", "rounds", "differs", "rule", "cited"]


@dataclass(frozen=True)
class Finding:
    """What was computed for a claim; `ok` if the program computes the correct result."""

    computed: str
    verdict: Verdict
    ok: bool
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A row that is filled in; `step` is 1 to 8, or None for the lesson's figures about GPT-3."""

    id: str
    step: int | None
    claim: str
    lesson: str
    computed: str
    verdict: Verdict
    ok: bool
    note: str = ""


class Claims(NotebookHtml, tuple[Claim, ...]):
    """All rows."""


Compute = Callable[[Dataset], Finding]
ROWS: dict[str, tuple[int | None, str, str, Compute]] = {}
"""By id: the step, the claim, what the lesson says, and what computes it."""


def row(id_: str, step: int | None, claim: str, lesson: str) -> Callable[[Compute], Compute]:
    """Add a row to the table, computed by the decorated function."""

    def add(compute: Compute) -> Compute:
        ROWS[id_] = step, claim, lesson, compute
        return compute

    return add


def judge(computed: str, holds: bool | None, note: str = "") -> Finding:
    """A finding for a claim that should hold; `holds` is None if there is nothing to compare."""
    verdict: Verdict = "rule" if holds is None else "holds" if holds else "differs"
    return Finding(computed, verdict, holds is not False, note)
