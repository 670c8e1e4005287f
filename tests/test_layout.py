"""The layout: imports point down only, nothing is too long to read, dependencies are declared."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGE = REPOSITORY / "mnist_mlp"
FLOORS = [
    {"constants", "errors", "files", "notebook_html", "signals", "words"},
    {"mnist_files", "yaml_lines"},
    {"config"},
    {"steps"},
    {"updates"},
    {"lesson", "runs", "pictures"},
    {"views"},
    {"export"},
    {"cli"},
    {"__init__", "__main__"},
]
"""From the ground up. A wing imports from itself and from lower floors."""
FLOOR = {wing: number for number, wings in enumerate(FLOORS) for wing in wings}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_name(path): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Every imported name with its module in front, wherever in the file the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = set()
    for name in imported_names(MODULES[module]):
        if name.startswith("mnist_mlp."):
            inner = name.removeprefix("mnist_mlp.")
            while inner and inner not in MODULES:
                inner = inner.rpartition(".")[0]
            found.add(inner or "__init__")
    return found - {module}


def upward_imports() -> list[str]:
    def wing(module: str) -> str:
        return module.partition(".")[0]

    return [
        f"{module} imports {other}"
        for module in MODULES
        for other in own_imports(module)
        if wing(module) != wing(other) and FLOOR[wing(module)] <= FLOOR[wing(other)]
    ]


def test_every_module_stands_on_a_floor() -> None:
    assert {module.partition(".")[0] for module in MODULES} == set(FLOOR)


def test_imports_point_down() -> None:
    assert upward_imports() == []


def test_the_steps_need_nothing_but_the_ground() -> None:
    needed = {
        other.partition(".")[0]
        for module in MODULES
        if module.startswith("steps")
        for other in own_imports(module)
    }
    assert needed <= {"steps", "constants", "errors", "mnist_files", "notebook_html"}


def test_imports_run_in_no_circle() -> None:
    graph = {module: own_imports(module) for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' -> '.join(error.args[1])}")


def test_nothing_is_too_long_to_read() -> None:
    """Modules of at most 400 lines, classes of 150, functions of 60; Step 8's loop of 40."""
    too_long = []
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            most = {ast.Module: 400, ast.ClassDef: 150, ast.FunctionDef: 60}.get(type(node))
            if isinstance(node, ast.Module):
                length = max((part.end_lineno or 0 for part in node.body), default=0)
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if (module, node.name) == ("steps.train", "train"):
                    most = 40
            if most and length > most:
                too_long.append(f"{module} {getattr(node, 'name', '')}: {length} lines")
    assert too_long == []


def lines(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))


def test_the_steps_and_the_package_stay_small() -> None:
    assert lines(PACKAGE / "steps") <= 900
    assert lines(PACKAGE) <= 8_022  # it has to come down to 7,000 again


def test_every_third_party_import_is_declared_and_every_dependency_imported() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][extra] for extra in ("onnx", "tensorboard")]
    declared = {
        re.split(r"[<>=\[]", requirement)[0] for requirement in sum(extras, project["dependencies"])
    }
    distributions = metadata.packages_distributions()
    imported = {
        distributions[top][0].lower()
        for tree in MODULES.values()
        for top in {name.partition(".")[0] for name in imported_names(tree)}
        if top not in sys.stdlib_module_names and top != "mnist_mlp"
    }
    # torch.utils.tensorboard imports tensorboard; pydantic documents pydantic_core's errors as its.
    assert imported - {"pydantic_core"} == declared - {"tensorboard"}
