"""The commands about files other than networks: runs, validate, configs, download."""

from pathlib import Path
from typing import Annotated

import typer

from mnist_mlp.cli import common
from mnist_mlp.config import bundled_configs
from mnist_mlp.views.terminal import open_console, show_differences, show_runs


def runs(
    targets: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN...]", help="Runs to compare.")
    ] = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """List the runs under runs/, or compare the results and configs of some."""
    from mnist_mlp.runs.listing import differences, list_runs, summarise

    found = [summarise(path) for path in targets] if targets else list_runs()
    differ = differences(found) if targets else {}
    with open_console(json_, quiet) as console:
        show_runs(console, found)
        if len(found) > 1 and targets:
            show_differences(console, found, differ)
    if json_:
        rows = [run.to_json() for run in found]
        common.print_json({"runs": rows, "differences": differ} if targets else rows)


def validate(
    config: common.ConfigName,
    overrides: common.Overrides = None,
    root: common.Root = None,
    json_: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Print the complete config that a run would use, or every error in it at once."""
    loaded = common.read_config(config, overrides, root)
    if json_:
        common.print_json(loaded.model_dump(mode="json"))
    else:
        common.print_text(loaded.to_yaml().rstrip())
    for key in loaded.ignored_settings():
        typer.echo(f"mnist-mlp: note: {key} has no effect in this config", err=True)


def configs(json_: common.Json = False, debug: common.Debug = False) -> None:
    """List the bundled configs, which --config takes by name."""
    rows = []
    for name, path in bundled_configs().items():
        description = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        rows.append({"name": name, "path": str(path), "description": description})
    if json_:
        common.print_json(rows)
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        common.print_text(f"{row['name']:{width}}  {row['description']}")


def download(
    root: common.Root = None,
    config: common.ConfigName = "mnist",
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Download MNIST's four files, unless they are there, and verify their checksums."""
    data = common.read_config(config, root=root).data
    with open_console(json_, quiet) as console:
        from mnist_mlp.mnist_files import FILE_MD5, raw_folder, read_mnist

        files = [
            {"name": name, "origin": origin, "md5": FILE_MD5[name]}
            for name, (_, origin) in read_mnist(Path(data.root), data.mirrors).items()
        ]
        for file in files:
            path = raw_folder(data.root) / file["name"]
            console.print(f"{path}  {file['origin']}, md5 {file['md5']}")
    if json_:
        common.print_json({"root": data.root, "files": files})
