"""Every command in the README is run, and so is its Python."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import REPOSITORY, Outcome, Program

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
CI = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")
CHROMIUM = Path("/usr/bin/chromium")


def commands() -> list[tuple[str, str]]:
    """Each command with the output that the README shows below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


RUN_AS = {
    "mnist-mlp": ["-m", "mnist_mlp"],
    "torchrun": ["-m", "torch.distributed.run"],
    "python": [],
}
SETUP = [command for command, _ in commands() if command.split()[0] not in RUN_AS]
PROGRAM = [(command, output) for command, output in commands() if command not in SETUP]
INLINE = [
    span
    for span in re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL))
    if re.match(r"(mnist-mlp|python3?|pip|torchrun|scripts/\w+) ", span)
]
"""Commands in the middle of a sentence, which a reader may copy too."""
SHORTER = {
    "scripts/benchmark.py": ["--quick", "--rounds=1"],
    "scripts/faults.py": ["starts"],
    "scripts/readme_pictures.py": ["--output=pictures"],
    "scripts/record.py": ["--try"],
}
EXACT = ("mnist-mlp count-params", "mnist-mlp configs")
CUT = "…\n"
"""Ends a shown output whose rest is left out."""
PICTURE_BYTES = 150_000


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all commands, since eval reads what train left."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("configs", "scripts", "tests/samples"):
        shutil.copytree(REPOSITORY / name, folder / name)
    if root := os.environ.get("MNIST_MLP_TEST_DATA"):
        (folder / "data").symlink_to(root)
    return folder


def test_the_readme_is_finished_and_short() -> None:
    assert "@@" not in README
    assert len(README.splitlines()) <= 300


def test_the_readme_has_commands() -> None:
    assert len(PROGRAM) >= 10
    assert all(command.startswith("scripts/") for command in SETUP)
    assert len(INLINE) >= 3


@pytest.mark.parametrize("command", SETUP)
def test_set_up_commands_are_run_by_ci(command: str) -> None:
    script = command.split()[0]
    assert re.search(rf"^{script}\b", CI, re.MULTILINE)


def test_the_installation_by_hand_is_what_the_script_does() -> None:
    (by_hand,) = (command for command in INLINE if command.startswith("python3 -m venv"))
    create, install = by_hand.split(" && ")
    setup = (REPOSITORY / "scripts" / "setup").read_text(encoding="utf-8")
    assert create.removeprefix("python3 ") in setup
    assert install.partition("pip install ")[2] in setup


@pytest.mark.parametrize("command", [*(command for command, _ in commands()), *INLINE])
def test_no_shell_expands_a_command(command: str) -> None:
    """In zsh a bracket that matches no file is an error, and a typed # begins no comment."""
    unquoted = re.sub(r"'[^']*'|\"[^\"$`]*\"", "", command).replace(" && ", " ")
    assert not re.search(r"[][*?(){}<>|&;!#~^$`\\'\"]", unquoted)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_shell_sees_the_words_that_are_meant(shell: str, tmp_path: Path) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    options = ["-f"] if shell == "zsh" else ["--norc"]  # without a person's own settings
    for command, _ in PROGRAM:
        process = subprocess.run(
            [shell, *options, "-c", f"printf '%s\\n' {command}"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert process.stdout.splitlines() == shlex.split(command), process


@pytest.mark.parametrize(
    ("command", "output"),
    [
        pytest.param(*row, marks=[pytest.mark.long] if "python scripts/" in row[0] else [])
        for row in PROGRAM
    ],
)
def test_commands(
    command: str,
    output: str,
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """In a new interpreter with `--all`, otherwise in one that has imported the package."""
    runner, *words = shlex.split(command)
    if words[0] == "scripts/readme_pictures.py" and not CHROMIUM.exists():
        pytest.skip(f"no Chromium at {CHROMIUM}")
    local = "digits" in command or "--resume" in words
    needs_mnist = (
        words[0] in ("train", "download", "scripts/benchmark.py", "scripts/record.py") and not local
    )
    words += SHORTER.get(words[0], [])
    if needs_mnist and not os.environ.get("MNIST_MLP_TEST_DATA"):
        pytest.skip("needs the real MNIST: MNIST_MLP_TEST_DATA names no root of it")
    if words[0] == "train" and needs_mnist:
        words += ["--dry-run"]
    for name, value in {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(elsewhere)
    fresh = request.config.getoption("--all") or "--jobs" in words  # a `Program` starts no process
    if runner == "mnist-mlp" and not fresh:
        ended = Program(*words).wait(timeout=300)
    else:
        whole = [sys.executable, *RUN_AS[runner], *words]
        process = subprocess.run(whole, capture_output=True, text=True)
        ended = Outcome(process.returncode, process.stdout, process.stderr)
    assert ended.code == 0, ended
    if runner == "mnist-mlp":
        assert ended.err == "" or "--json" in words
    if command in EXACT:
        assert ended.out == output
    elif output:
        # Numbers differ between machines; the words and the layout do not.
        shown = _words(output.removesuffix(CUT))
        said = _words(ended.out)
        assert (said[: len(shown)] if output.endswith(CUT) else said) == shown


def _words(text: str) -> list[str]:
    return re.sub(r"[\d·]", "", text).split()


def test_the_python_runs(elsewhere: Path) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)  # the other: test_export.py
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=elsewhere
    )
    assert (process.returncode, process.stdout) == (0, ""), process
    assert (elsewhere / "digits-001.html").exists()


def test_the_folder_is_served_as_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "handout").mkdir()
    (tmp_path / "handout" / "index.html").write_text("exercises")
    (command,) = (command for command in INLINE if "http.server" in command)
    words = [sys.executable, "-u", *shlex.split(command)[1:], "0"]  # 0: a free port
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout
    port = re.findall(r"port (\d+)", process.stdout.readline())[0]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as response:
        assert response.read() == b"exercises"
    process.kill()
    process.communicate()


def test_the_pictures_are_there_and_small() -> None:
    shown = re.findall(r"^!\[([^]]+)\]\(([^)]+)\)$", README, re.MULTILINE)
    assert [path for _, path in shown] == [".github/explorer.png", ".github/report.png"]
    for alternative, path in shown:
        assert len(alternative) > 50
        assert (REPOSITORY / path).stat().st_size <= PICTURE_BYTES
        with Image.open(REPOSITORY / path) as picture:
            assert picture.format == "PNG"
            picture.verify()


def test_every_path_that_is_named_is_there() -> None:
    named = re.findall(r"`((?:mnist_mlp|scripts|tests|configs|\.ci)/[\w./]*)", README)
    assert len(named) >= 10
    for path in named:
        assert (REPOSITORY / path).exists(), path


def test_every_wing_is_named() -> None:
    contributing = README.partition("## Contributing")[2]
    wings = {path.parent.name for path in (REPOSITORY / "mnist_mlp").glob("*/__init__.py")}
    assert len(wings) >= 7
    for wing in wings:
        assert f"`{wing}/`" in contributing, wing


def test_the_table_of_steps_names_the_modules_that_own_them() -> None:
    owners: dict[int, set[str]] = {step: set() for step in range(1, 9)}
    for path in (REPOSITORY / "mnist_mlp" / "steps").glob("*.py"):
        opening = path.read_text(encoding="utf-8").partition("\n")[0]
        if match := re.match(r'"""\(?Steps? (\d)(?:(?:-| and )(\d))?\)?: ', opening):
            for step in range(int(match[1]), int(match[2] or match[1]) + 1):
                owners[step].add(f"mnist_mlp/steps/{path.name}")
    table = re.findall(r"^\| ([\d, ]+) \| .* \| (`mnist_mlp/steps/.*) \|$", README, re.MULTILINE)
    named = {
        int(step): set(re.findall(r"`([^`]+)`", modules))
        for steps, modules in table
        for step in steps.split(", ")
    }
    assert set(named) == set(owners)
    for step, modules in owners.items():
        assert modules, f"no module says that it is step {step}"
        assert modules <= named[step]
