"""The commands that check and list: the lesson's numbers, configs, runs, and MNIST's files."""

from collections import Counter
from dataclasses import asdict

import typer

from mnist_mlp.cli import common
from mnist_mlp.config import bundled_configs
from mnist_mlp.constants import LESSON_LAYER_SIZES, LESSON_PARAMETERS
from mnist_mlp.errors import CheckFailedError
from mnist_mlp.views import terminal


def count_params(
    config: common.ConfigName = "lesson",
    overrides: common.Overrides = None,
    json_: common.Json = False,
    debug: common.Debug = False,
) -> None:
    """Count the network's parameters, layer by layer, and compare with the lesson's 109,386."""
    loaded = common.read_config(config, overrides)
    from mnist_mlp.runs.checkpoint import empty_network
    from mnist_mlp.steps.model import count_parameters

    layers = count_parameters(empty_network(loaded))
    total = sum(layer.parameters for layer in layers)
    matches = total == LESSON_PARAMETERS
    if json_:
        counts = {"total": total, "lesson_total": LESSON_PARAMETERS, "matches_lesson": matches}
        common.print_json({"layers": [asdict(layer) for layer in layers], **counts})
    else:
        for layer in layers:
            common.print_text(f"{layer.name}  {layer}")
        verdict = f"{'as' if matches else 'not as'} in the lesson ({LESSON_PARAMETERS:,})"
        common.print_text(f"total   {total:,} parameters, {verdict}")
    if loaded.model.layer_sizes == LESSON_LAYER_SIZES and not matches:
        raise typer.Exit(1)


def check_lesson(
    root: common.Root = None,
    json_: common.Json = False,
    quiet: common.Quiet = False,
    debug: common.Debug = False,
) -> None:
    """Compute every claim of the lesson, on MNIST if it was downloaded, else on the digits.

    Exit 0 when this program computes what it should, also where the lesson errs; 1 when not.
    """
    with terminal.open_console(json_, quiet) as console:
        from mnist_mlp.lesson import claims as lesson
        from mnist_mlp.runs.environment import cpu_threads

        data = lesson.lesson_data(root)
        with cpu_threads(1):  # the matrices are small
            claims = lesson.check_lesson(data)
        terminal.show_claims(console, claims)
    failed = [claim.id for claim in claims if not claim.ok]
    if json_:
        summary = {"dataset": data.name, "rows": len(claims), "ok": len(claims) - len(failed)}
        summary |= Counter(claim.verdict for claim in claims)
        common.print_json({"claims": [asdict(claim) for claim in claims], "summary": summary})
    if failed:
        raise CheckFailedError(f"not as expected: {', '.join(failed)}; this program computes wrong")


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
    width = max(len(row["name"]) for row in rows)
    if json_:
        common.print_json(rows)
    else:
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
    with terminal.open_console(json_, quiet) as console:
        from mnist_mlp.mnist_files import FILE_MD5, read_mnist

        files = [
            {"name": name, "path": str(file.path), "origin": file.origin, "md5": FILE_MD5[name]}
            for name, file in read_mnist(data.root, data.mirrors).items()
        ]
        for file in files:
            console.print("{path}  {origin}, md5 {md5}".format(**file))
    if json_:
        common.print_json({"root": data.root, "files": files})
