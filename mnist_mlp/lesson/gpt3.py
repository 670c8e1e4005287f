"""The lesson's figures about GPT-3, from its architecture (Brown et al. 2020, table 2.1)."""

from mnist_mlp.lesson.table import Finding, judge, row
from mnist_mlp.steps.data import Dataset

LAYERS, WIDTH, VOCABULARY, CONTEXT = 96, 12_288, 50_257, 2_048


def gpt3_parameters() -> int:
    """The number of parameters; the layers are those of GPT-2 (Radford et al. 2019)."""
    attention = 4 * WIDTH**2 + 4 * WIDTH  # query, key, value and output, with biases
    feed_forward = 2 * 4 * WIDTH**2 + 4 * WIDTH + WIDTH  # to 4 × WIDTH and back, with biases
    layer = attention + feed_forward + 2 * 2 * WIDTH  # and two layer norms with gain and bias
    embeddings = (VOCABULARY + CONTEXT) * WIDTH  # the output projection reuses the tokens'
    return LAYERS * layer + embeddings + 2 * WIDTH  # and the last layer norm


def gpt3_multiplications() -> tuple[int, int]:
    """Multiplications in one token's forward pass: by weights, and in attention at full context."""
    by_weights = LAYERS * 12 * WIDTH**2 + VOCABULARY * WIDTH
    attention = LAYERS * 2 * CONTEXT * WIDTH  # scores and weighted sum
    return by_weights, attention


@row("gpt3-parameters", None, "GPT-3's parameters", "175 billion")
def _parameters(_: Dataset) -> Finding:
    count = gpt3_parameters()
    rounds = round(count / 1e9) == 175
    return Finding(f"{count:,}", "rounds" if rounds else "differs", count == 174_604_259_328)


@row("gpt3-multiplications", None, "multiplications a token, forward", "~300 billion")
def _(_: Dataset) -> Finding:
    by_weights, attention = gpt3_multiplications()
    total = by_weights + attention
    return Finding(
        f"{total / 1e9:.0f} billion ({by_weights / 1e9:.1f} in weight matrices + "
        f"{attention / 1e9:.1f} in attention at full context); {2 * total / 1e9:.0f} billion with "
        "additions",
        "differs",
        (by_weights, attention) == (174_563_733_504, 4_831_838_208),
        "it is neither figure",
    )


GRADIENTS = "gradients a training step, one a parameter"
row("gpt3-gradients", None, GRADIENTS, "175 billion")(_parameters)


@row("gpt3-vocabulary", None, "GPT-3's vocabulary", "50,257")
def _(_: Dataset) -> Finding:
    tokens = 256 + 50_000 + 1
    return judge(f"{tokens:,} (256 bytes + 50,000 merges + 1)", tokens == VOCABULARY)


@row("gpt3-tokens", None, "GPT-3's training tokens", "~300 billion")
def _(_: Dataset) -> Finding:
    return Finding("300 billion (Brown et al. 2020)", "cited", True, "nothing to compute")
