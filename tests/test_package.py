import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mnist_mlp
from mnist_mlp.config import bundled_configs
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", mnist_mlp.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mnist_mlp, name) is not None


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "pydantic", "yaml", "rich", "jinja2"}
    code = f"import sys, mnist_mlp; print({heavy} & set(sys.modules) or '')"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.stdout == "\n", process
    with pytest.raises(AttributeError, match="attribute nope"):
        mnist_mlp.nope  # type: ignore[attr-defined]  # noqa: B018


def test_the_wheel_carries_the_configs_and_works_away_from_the_repository(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        check=True,
        capture_output=True,
        cwd=REPOSITORY,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall("away")
    listed = subprocess.run(
        [sys.executable, "-m", "mnist_mlp", "configs", "--json"],
        capture_output=True,
        text=True,
        cwd="away",
    )
    for name in bundled_configs():
        assert f"away/mnist_mlp/configs/{name}.yaml" in listed.stdout
    templates = list((REPOSITORY / "mnist_mlp/views/templates").iterdir())
    assert len(templates) > 5
    data = (
        "export/exercises.yaml",
        "lesson/claims.yaml",
        "words.yaml",
        "export/explorer/main.js",
        *(f"views/templates/{path.name}" for path in templates),
    )
    for name in ("py.typed", "__init__.pyi", "views/figures.mplstyle", *data):
        assert Path("away/mnist_mlp", name).exists()
    assert not list(Path("away").glob("tests*"))


def test_the_top_level_holds_what_it_should() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    top = {path.split("/")[0] for path in tracked.stdout.split()}
    allowed = {"pyproject.toml", "README.md", "LICENSE", "configs", "mnist_mlp", "scripts", "tests"}
    assert {name for name in top if not name.startswith(".")} == allowed


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("old", "./old is Python 3.10; Python 3.11 or newer is needed: PYTHON=/path/to/python "),
        ("nope", "PYTHON=./nope does not run; Python 3.11 or newer is needed: PYTHON=/path/to/"),
    ],
)
def test_a_python_that_is_too_old_is_told_as_such(python: str, message: str) -> None:
    """`old` answers as Python 3.10 would."""
    Path("scripts").mkdir()
    for name in ("scripts/setup", "scripts/quickstart", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, name)
    Path("old").write_text('#!/bin/sh\ncase "$2" in *print*) echo Python 3.10;; *) exit 1;; esac\n')
    Path("old").chmod(0o755)
    environment = {**os.environ, "PYTHON": f"./{python}"}
    process = subprocess.run(
        ["scripts/quickstart"], capture_output=True, text=True, env=environment
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"scripts/setup: {message}")
    assert len(process.stderr.splitlines()) == 1
