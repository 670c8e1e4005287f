"""Every command in the README is run, and so is its Python."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CI = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def commands() -> list[tuple[str, str]]:
    """Each command with the output that the README shows below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command.partition("  #")[0].strip(), output))
    return found


SETUP = [c for c, _ in commands() if c.startswith(("scripts/", "python3 -m venv"))]
PROGRAM = [(c, output) for c, output in commands() if c not in SETUP]
RUN_AS = {
    "mnist-mlp": ["-m", "mnist_mlp"],
    "torchrun": ["-m", "torch.distributed.run"],
    "python": [],
}
SHORTER = {
    "scripts/benchmark.py": ["--quick", "--rounds=1"],
    "scripts/faults.py": ["starts"],
    "scripts/record.py": ["--try"],
}
EXACT = ("mnist-mlp count-params", "mnist-mlp configs")


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, since eval reads what train left."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "scripts", "tests/samples"):
        shutil.copytree(REPOSITORY / name, folder / name)
    if root := os.environ.get("MNIST_MLP_TEST_DATA"):
        (folder / "data").symlink_to(root)
    return folder


def test_the_readme_is_finished() -> None:
    assert "@@" not in README


def test_the_readme_has_commands() -> None:
    assert len(PROGRAM) >= 10
    assert all(command.split()[0] in RUN_AS for command, _ in PROGRAM)


@pytest.mark.parametrize("command", SETUP)
def test_set_up_commands_are_run_by_ci(command: str) -> None:
    script = command.split()[0]
    if script == "python3":
        # What scripts/setup does, word for word but for the interpreter's name.
        setup = (REPOSITORY / "scripts" / "setup").read_text()
        assert "-m venv .venv" in setup
        assert "pip install --quiet -e '.[dev]'" in setup
    else:
        assert f"\n{script}\n" in CI


@pytest.mark.parametrize(("command", "output"), PROGRAM)
def test_commands(command: str, output: str, elsewhere: Path) -> None:
    runner, *words = shlex.split(command)
    local = "digits" in command or "--resume" in words
    needs_mnist = (
        words[0] in ("train", "download", "scripts/benchmark.py", "scripts/record.py") and not local
    )
    words += SHORTER.get(words[0], [])
    if needs_mnist and not os.environ.get("MNIST_MLP_TEST_DATA"):
        pytest.skip("needs the real MNIST: MNIST_MLP_TEST_DATA names no root of it")
    if words[0] == "train" and needs_mnist:
        words += ["--dry-run"]
    process = subprocess.run(
        [sys.executable, *RUN_AS[runner], *words],
        capture_output=True,
        text=True,
        cwd=elsewhere,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process
    if runner == "mnist-mlp":
        assert process.stderr == "" or "--json" in words
    if command in EXACT:
        assert process.stdout == output
    elif output:
        # Numbers differ between machines; the words and the layout do not.
        said, shown = (re.sub(r"[\d·]", "", text).split() for text in (process.stdout, output))
        assert said == shown


def test_the_python_runs(elsewhere: Path) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)  # the other: test_export.py
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=elsewhere
    )
    assert process.returncode == 0, process
    assert process.stdout.startswith("109386\n")
    assert "DigitScores(digit=7" in process.stdout


def test_the_table_of_steps_names_the_modules_that_own_them() -> None:
    owners: dict[int, list[str]] = {step: [] for step in range(1, 9)}
    for path in sorted((REPOSITORY / "mnist_mlp").glob("*.py")):
        opening = path.read_text(encoding="utf-8").partition("\n")[0]
        if match := re.match(r'"""Steps? (\d)(?:-(\d))?: ', opening):
            for step in range(int(match[1]), int(match[2] or match[1]) + 1):
                owners[step].append(f"mnist_mlp/{path.name}")
    assert all(len(modules) == 1 for modules in owners.values()), owners
    table = re.findall(r"^\| ([\d, ]+) \| .* \| (`mnist_mlp.*) \|$", README, re.MULTILINE)
    named = {int(step): modules for steps, modules in table for step in steps.split(", ")}
    assert set(named) == set(range(1, 9))
    for step, (module,) in owners.items():
        assert f"`{module}`" in named[step]
