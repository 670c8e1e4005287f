"""The commands that check and list: the lesson's numbers, configs, and MNIST's files."""

from collections import Counter

import typer

from mnist_mlp.cli import common
from mnist_mlp.config import bundled_configs
from mnist_mlp.constants import LESSON_LAYER_SIZES, LESSON_PARAMETERS
from mnist_mlp.errors import CheckFailedError
from mnist_mlp.views.tables import show_claims
from mnist_mlp.views.terminal import Output


@common.command(without="quiet")
def count_params(
    console: Output, config: common.ConfigName = "lesson", overrides: common.Overrides = None
) -> None:
    """Count the network's parameters, layer by layer, and compare with the lesson's 109,386."""
    loaded = common.read_config(config, overrides)
    from mnist_mlp.runs.checkpoint import empty_network
    from mnist_mlp.steps.model import count_parameters

    layers = count_parameters(empty_network(loaded))
    total = sum(layer.parameters for layer in layers)
    matches = total == LESSON_PARAMETERS
    for layer in layers:
        console.print(f"{layer.name}  {layer}")
    verdict = f"{'as' if matches else 'not as'} in the lesson ({LESSON_PARAMETERS:,})"
    console.print(f"total   {total:,} parameters, {verdict}")
    counts = {"total": total, "lesson_total": LESSON_PARAMETERS, "matches_lesson": matches}
    console.print_result({"layers": layers, **counts})
    if loaded.model.layer_sizes == LESSON_LAYER_SIZES and not matches:
        raise typer.Exit(1)


@common.command()
def check_lesson(console: Output, root: common.Root = None) -> None:
    """Compute every claim of the lesson, on MNIST if it was downloaded, else on the digits.

    Exit 0 when this program computes what it should, also where the lesson errs; 1 when not.
    """
    from mnist_mlp.lesson import claims as lesson
    from mnist_mlp.runs.environment import cpu_threads

    data = lesson.lesson_data(root)
    with cpu_threads(1):  # the matrices are small
        claims = lesson.check_lesson(data)
    show_claims(console, claims)
    failed = [claim.id for claim in claims if not claim.ok]
    summary = {"dataset": data.name, "rows": len(claims), "ok": len(claims) - len(failed)}
    summary |= Counter(claim.verdict for claim in claims)
    console.print_result({"claims": claims, "summary": summary})
    if failed:
        raise CheckFailedError(f"not as expected: {', '.join(failed)}; this program computes wrong")


@common.command(without="quiet")
def validate(
    console: Output,
    config: common.ConfigName,
    overrides: common.Overrides = None,
    root: common.Root = None,
) -> None:
    """Print the complete config that a run would use, or every error in it at once."""
    loaded = common.read_config(config, overrides, root)
    console.print(loaded.to_yaml().rstrip())
    console.print_result(loaded.model_dump(mode="json"))
    for key in loaded.ignored_settings():
        typer.echo(f"mnist-mlp: note: {key} has no effect in this config", err=True)


@common.command(without="quiet")
def configs(console: Output) -> None:
    """List the bundled configs, which --config takes by name."""
    rows, found = [], bundled_configs()
    width = max(map(len, found))
    for name, path in found.items():
        description = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        console.print(f"{name:{width}}  {description}")
        rows.append({"name": name, "path": str(path), "description": description})
    console.print_result(rows)


@common.command()
def download(
    console: Output, root: common.Root = None, config: common.ConfigName = "mnist"
) -> None:
    """Download MNIST's four files, unless they are there, and verify their checksums."""
    data = common.read_config(config, root=root).data
    from mnist_mlp.mnist_files import FILE_MD5, read_mnist

    files = [
        {"name": name, "path": str(file.path), "origin": file.origin, "md5": FILE_MD5[name]}
        for name, file in read_mnist(data.root, data.mirrors).items()
    ]
    for file in files:
        console.print("{path}  {origin}, md5 {md5}".format(**file))
    console.print_result({"root": data.root, "files": files})
