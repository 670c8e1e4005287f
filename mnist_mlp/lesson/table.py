"""The table of the lesson's claims: what the lesson says, and what a row holds when filled in."""

from dataclasses import dataclass
from typing import Literal

from mnist_mlp.notebook_html import NotebookHtml

Verdict = Literal["holds", "rounds", "differs", "rule", "cited"]
LOOP = "each epoch: each example forward, loss, backward, update; then the test set"
PRINTED = "0.01 0.00 0.00 0.00 0.01 0.00 0.00 0.96 0.00 0.01"
"""The softmax of the worked logits as the lesson prints it."""
ROWS: dict[str, tuple[int | None, str, str]] = {
    "pixels": (1, "an image is a vector of pixels", "28 × 28 = 784"),
    "pixel-range": (1, "each input is an intensity from black to white", "0 to 1"),
    "layer": (2, "z = W·x + b", "W 128 × 784, x 784, b 128, z 128"),
    "relu": (
        2,
        "ReLU(z) = max(0, z) of -0.5, 1.2, -0.1, 0.8, -2.0, 0.3",
        "0.0 1.2 0.0 0.8 0.0 0.3",
    ),
    "collapse": (2, "without the activation, stacked layers do no more than one", "the same"),
    "layer1-count": (3, "numbers of layer 1", "128 × 784 + 128 = 100,480"),
    "layer2-count": (3, "numbers of layer 2", "64 × 128 + 64 = 8,256"),
    "layer3-count": (3, "numbers of layer 3", "10 × 64 + 10 = 650"),
    "total": (3, "numbers of the network", "109,386"),
    "features": (3, "layers might detect edges, then curves, then digits", "an interpretation"),
    "all-learned": (3, "every one of the numbers was learned", "109,386"),
    "logits": (4, "layer 3 is followed by softmax", "softmax"),
    "worked-softmax": (4, "the softmax of the worked logits", PRINTED),
    "worked-confidence": (4, 'it reads "7", with this confidence', "96%"),
    "sums-to-one": (4, "softmax sums to 1, each value from 0 to 1", "1.0"),
    "loss-0.96": (5, "loss = −log P(correct) for P = 0.96", "0.04"),
    "loss-0.10": (5, "the same for P = 0.10", "2.30"),
    "worked-loss": (5, "implied: the loss of the worked logits with label 7", "0.04"),
    "untrained-loss": (5, "implied: an untrained ten-class network scores ln 10", "2.30"),
    "chain-rule": (6, "∂L/∂W is the product of every step's derivative", "the chain rule"),
    "layer3-factors": (6, "∂z₃/∂W₃ is layer 3's input a₂, ∂z₃/∂a₂ is W₃", "a₂, W₃"),
    "update": (7, "W ← W − learning_rate × ∂L/∂W, b likewise", "the formula"),
    "small-step": (7, "each weight moves a little, in the direction that reduces the loss", "less"),
    "loop": (8, LOOP, "batch size 1"),
    "passes": (8, "a training run may take millions of forward and backward passes", "millions"),
    "gpt3-parameters": (None, "GPT-3's parameters", "175 billion"),
    "gpt3-multiplications": (None, "multiplications a token, forward", "~300 billion"),
    "gpt3-gradients": (None, "gradients a training step, one a parameter", "175 billion"),
    "gpt3-vocabulary": (None, "GPT-3's vocabulary", "50,257"),
    "gpt3-tokens": (None, "GPT-3's training tokens", "~300 billion"),
}
"""By id, in the lesson's order: the step, None for GPT-3; the claim; what the lesson says."""


@dataclass(frozen=True)
class Claim:
    """A row that is filled in; `ok` if the program computes the correct result."""

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


def fill(
    id_: str, computed: str, ok: bool, verdict: Verdict | None = None, note: str = ""
) -> Claim:
    """Fill in the row `id_`; without a verdict, the claim holds if the row is ok, else differs."""
    verdict = verdict or ("holds" if ok else "differs")
    return Claim(id_, *ROWS[id_], computed, verdict, ok, note)
