import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mnist_mlp.lesson.claims import Claim, check_lesson
from mnist_mlp.steps.data import Dataset, load_dataset
from tests.conftest import REPOSITORY, Outcome, Program

VERDICTS = {
    "pixels": "holds",
    "pixel-range": "rule",
    "layer": "holds",
    "relu": "holds",
    "collapse": "holds",
    "layer1-count": "holds",
    "layer2-count": "holds",
    "layer3-count": "holds",
    "total": "holds",
    "features": "rule",
    "all-learned": "differs",
    "logits": "rule",
    "worked-softmax": "differs",
    "worked-confidence": "differs",
    "sums-to-one": "holds",
    "loss-0.96": "rounds",
    "loss-0.10": "rounds",
    "worked-loss": "differs",
    "untrained-loss": "holds",
    "chain-rule": "holds",
    "layer3-factors": "holds",
    "update": "holds",
    "small-step": "holds",
    "loop": "rule",
    "passes": "holds",
    "gpt3-parameters": "rounds",
    "gpt3-multiplications": "differs",
    "gpt3-gradients": "rounds",
    "gpt3-vocabulary": "holds",
    "gpt3-tokens": "cited",
}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def claims(digits: Dataset) -> dict[str, Claim]:
    return {claim.id: claim for claim in check_lesson(digits)}


def test_every_row_has_the_verdict_of_an_honest_computation(claims: dict[str, Claim]) -> None:
    assert {claim.id: claim.verdict for claim in claims.values()} == VERDICTS
    assert all(claim.ok for claim in claims.values())
    assert all(claim.note for claim in claims.values() if claim.verdict == "differs")


def test_both_numbers_are_shown_where_the_lesson_errs(claims: dict[str, Claim]) -> None:
    shown = {id_: (claims[id_].lesson, claims[id_].computed) for id_ in claims}
    assert shown["worked-softmax"] == (
        "0.01 0.00 0.00 0.00 0.01 0.00 0.00 0.96 0.00 0.01",
        "0.00 0.00 0.00 0.00 0.01 0.00 0.00 0.98 0.00 0.00",
    )
    assert shown["worked-confidence"] == ("96%", '"7" with 98.3%')
    assert shown["worked-loss"] == ("0.04", "0.0172")
    assert shown["total"][1] == "109,386 (109,184 weights + 202 biases)"


def test_gpt3(claims: dict[str, Claim]) -> None:
    assert claims["gpt3-parameters"].computed == "174,604,259,328"
    assert re.fullmatch("179 billion .* 359 billion .*", claims["gpt3-multiplications"].computed)


@pytest.mark.mnist
def test_check_lesson_on_mnist(mnist_root: Path, run: Callable[..., Outcome]) -> None:
    outcome = run("check-lesson", "--root", mnist_root, "--json")
    assert outcome.code == 0
    printed = json.loads(outcome.out)
    assert printed["summary"]["dataset"] == "mnist"
    row = next(claim for claim in printed["claims"] if claim["id"] == "all-learned")
    assert "8,576 of them (67 pixels × 128)" in row["computed"]


def test_the_command_prints_a_table_and_json(run: Callable[..., Outcome]) -> None:
    outcome = run("check-lesson", "--json")
    assert outcome.code == 0
    printed = json.loads(outcome.out)
    counts = {verdict: list(VERDICTS.values()).count(verdict) for verdict in VERDICTS.values()}
    assert printed["summary"] == {"dataset": "digits", "rows": 30, "ok": 30} | counts
    assert set(printed["claims"][0]) == {
        "id", "step", "claim", "lesson", "computed", "verdict", "ok", "note",
    }  # fmt: skip
    assert outcome.err == ""
    table = run("check-lesson").out
    for step in range(1, 9):
        assert f"Step {step}: " in table
    assert "30 of 30 rows ok" in table
    assert all(len(line) <= 80 for line in table.splitlines())


SOFTMAX = "torch.softmax(logits, dim)"
LOSS = "F.cross_entropy(logits, labels)"
STEP = 'weight.sub_(weight.grad, alpha=self.param_groups[0]["lr"])'
MUTATIONS = [
    (1, "steps/data.py", ".div_(255) if", ".div_(256) if"),
    (1, "steps/data.py", ".div_(255) if", ".div_(255) - 0.1307 if"),
    (1, "steps/data.py", "(4, 4, 4, 4)", "(3, 3, 3, 3)"),
    (2, "steps/model.py", '"relu": nn.ReLU', '"relu": nn.Identity'),
    (2, "steps/model.py", '"relu": nn.ReLU', '"relu": nn.GELU'),
    (2, "steps/model.py", '"identity": nn.Identity', '"identity": nn.Tanh'),
    (2, "steps/model.py", "nn.Linear(inputs, outputs)", "nn.Linear(outputs, inputs)"),
    (2, "steps/model.py", "nn.Linear(inputs, outputs)", "nn.Linear(inputs, outputs, bias=False)"),
    (3, "constants.py", "(784, 128, 64, 10)", "(784, 128, 32, 10)"),
    (3, "steps/model.py", "for parameter in layer.parameters()", "for parameter in [layer.weight]"),
    (3, "steps/model.py", "model.named_modules()", "[*model.named_modules()][:-2]"),
    (4, "steps/loss.py", SOFTMAX, "torch.softmax(logits, 0)"),
    (4, "steps/loss.py", SOFTMAX, "torch.softmax(-logits, dim)"),
    (4, "steps/loss.py", SOFTMAX, "logits.exp() / logits.exp().sum(dim, keepdim=True)"),
    (5, "steps/loss.py", LOSS, "-F.cross_entropy(logits, labels)"),
    (5, "steps/loss.py", LOSS, "F.cross_entropy(logits, labels, reduction='sum')"),
    (5, "steps/loss.py", LOSS, "F.cross_entropy(logits, labels, label_smoothing=0.1)"),
    (6, "steps/backprop.py", "da.mul_(a.sign())", "da"),
    (6, "steps/backprop.py", ".div_(len(labels))", ""),
    (6, "steps/backprop.py", "- one_hot[labels]", "+ one_hot[labels]"),
    (
        6,
        "steps/backprop.py",
        "torch.sum(dz, dim=0, out=b.grad)",
        "torch.mean(dz, dim=0, out=b.grad)",
    ),
    (7, "steps/optimizer.py", STEP, STEP.replace("sub_", "add_")),
    (7, "steps/optimizer.py", STEP, STEP.replace("alpha=", "alpha=2 * ")),
    (7, "steps/optimizer.py", STEP, f"weight.mul_(0.99); {STEP}"),
    (8, "steps/train.py", "self.optimizer.step()  # update", "pass"),
    (8, "updates/loop.py", " / (end - start)", ""),
    (8, "updates/loop.py", " - (c == label)", ""),
    (8, "updates/loop.py", "for i in range(begin, end):", "for i in range(begin, end - 1):"),
    (8, "steps/loss.py", 'reduction="none")[0]', 'reduction="none")[0] / 2'),
    (
        8,
        "steps/train.py",
        "for epoch in range(resume.epoch if resume else 1, epochs + 1)",
        "for epoch in (1,)",
    ),
    (8, "steps/train.py", "seed, epoch).to(", "seed, 1).to("),
    (
        8,
        "steps/data.py",
        'randperm(examples, generator=keyed_generator(seed, "order"',
        'randint(examples, (examples,), generator=keyed_generator(seed, "order"',
    ),
    (8, "steps/train.py", "data.test if with_test", "data.train if with_test"),
    (8, "steps/evaluate.py", "matrix.trace().item() / len(labels)", "matrix.trace().item() / 1000"),
]


@pytest.mark.parametrize(
    ("step", "file", "part", "broken"),
    [  # one of each step, and the others with all tests
        pytest.param(*row, marks=[pytest.mark.long] * (row[0] in {r[0] for r in MUTATIONS[:n]}))
        for n, row in enumerate(MUTATIONS)
    ],
)
def test_a_broken_part_is_found_in_its_own_step(
    step: int, file: str, part: str, broken: str, tmp_path: Path
) -> None:
    """Break the source of a copy of the package and run the program on it.

    The copy has the machine code that was kept, which is compiled anew where its source is broken.
    """
    package = tmp_path / "mnist_mlp"
    half_written = shutil.ignore_patterns("*.tmp.*", "*.pyc.*")  # by tests beside this one
    shutil.copytree(REPOSITORY / "mnist_mlp", package, ignore=half_written)
    shutil.copytree(REPOSITORY / "configs", package / "configs")
    (path,) = package.rglob(file)
    source = path.read_text(encoding="utf-8")
    assert part in source
    path.write_text(source.replace(part, broken), encoding="utf-8")
    outcome = Program("check-lesson", "--json", "--quiet", package=tmp_path).wait()
    assert outcome.code == 1, outcome
    failed = [claim for claim in json.loads(outcome.out)["claims"] if not claim["ok"]]
    assert failed[0]["step"] == step, failed
    assert re.fullmatch(
        r"mnist-mlp: not as expected: .*; this program computes wrong\n", outcome.err
    )


def test_a_mutation_for_every_step() -> None:
    assert {step for step, *_ in MUTATIONS} == set(range(1, 9))
