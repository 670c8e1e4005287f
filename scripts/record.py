"""How accurate the lesson's 109,386 parameters can be; makes the README's table.

    python scripts/record.py --root data --folder record            # under an hour
    python scripts/record.py --root data --folder record --jobs 2   # two runs at once

Each row is a config, or best.yaml shortened, with one thing changed. Each run uses one thread,
and one more where images are deformed. It evaluates the test set once, at its end, and that chooses
nothing. Finished runs are not repeated and stopped runs are resumed, so the script can be
interrupted at any time. `--cost` measures fast.yaml against one epoch of the DataLoader loop of
scripts/benchmark.py. Run nothing beside that.

What was measured when the configs were chosen: wrong answers for 10,000 training images held out,
by networks trained on the other 50,000, without a test evaluation (`data.validation=10000
data.test=false`). Between seeds the deviation is 5 to 8, so many differences are noise.

best.yaml with batch normalisation, 250 epochs, one seed each, by a prototype of the same updates,
since most variants are not here; the loss on these images, less noisy, in brackets:

- affine deformation only: 65 (0.0222). With elastic deformation on a grid of 7 × 7, 0.35 pixels: 53
  (0.0209); 0.5: 52 (0.0210), fading too: 52 (0.0201); 0.8: 74 (0.0255). On a grid of 5 × 5, 0.8
  pixels, fading: 62 (0.0224); of 4 × 4, 1 pixel, fading: 52 (0.0199).
- 1.3 times the affine amounts, fading from half of the run: 56 (0.0198); two thirds of them, not
  fading: 63 (0.0223); fading from the first epoch on: 61 (0.0220).
- A learning rate of 0.006: 66 (0.0207); of 0.002: 59 (0.0222). A weight decay of 0.15: 63 (0.0231).
- Brought too little to be here: the mean weights of the last quarter under a constant learning
  rate, 50 (0.0195) instead of 52 (0.0201). Brought nothing: thicker and thinner strokes, 67
  (0.0214) instead of 52 (0.0210); a convolutional teacher (37 wrong) whose answers to 16 deformed
  copies of each image are the targets, 67 (0.0238), or whose mean answer to them is each image's
  target, 61 (0.0239).
- 4 × 4, 1 pixel, fading, but with translations of 0.5, 1 and 3 instead of 2 pixels: 63, 60 and 61
  (0.0226, 0.0208, 0.0220); with 1.4 pixels: 68 (0.0245). 3 × 3, 1.2 pixels: 50 (0.0208).
- 1,000 epochs, fading: 4 × 4, 48 and 53 (0.0183, 0.0208); with 1.2 times the affine amounts 57
  (0.0191); 7 × 7, 0.5 pixels, 43 and 59 (0.0179, 0.0207); 0.7 pixels, 54 (0.0189).

By best.yaml itself, 1,000 epochs, seeds 0, 1 and 2, each of which holds out its own images: with
batch normalisation 70, 65 and 64 (0.0240, 0.0230, 0.0180); without it, as best.yaml is now, 60, 58
and 59 (0.0218, 0.0222, 0.0192). Without it, seed 0 only, a learning rate of 0.002, 65 (0.0210), of
0.0045, 74 (0.0234); a weight decay of 0.1, 69 (0.0233).

fast.yaml, three seeds each: 108 before; with 24 epochs instead of 20, 96; fading too, 95; with
elastic deformation too, 91. With half the learning rate 103. Without batch normalisation, two
seeds, learning rates of 0.003, 0.006 and 0.01: 140, 125 and 119.

mnist.yaml, three seeds each: with AdamW and weight decays of 0.2, 0.1, 0.05 and 0.02, 178, 175, 186
and 187, and 4 to 11 neurons that never fire; plain momentum, 176; batch normalisation with AdamW,
161 to 174; with momentum, 164 to 174, and 154 with 40 epochs of batches of 32, which take twice as
long.
"""

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the other scripts

from mnist_mlp import load_config
from mnist_mlp.runs.training import RunResult, run_events
from mnist_mlp.views.notebook import train_model
from scripts.benchmark import plain_epoch, plain_loader, plain_network


class Row(NamedTuple):
    """A line of the table: a config, what is different from it, and how many seeds."""

    name: str
    config: str
    overrides: tuple[str, ...] = ()
    seeds: int = 1


SHORT = "train.epochs=250"
ROWS = (
    Row("`mnist.yaml`, the plain baseline", "mnist", ("train.test_each_epoch=false",), seeds=5),
    Row("`fast.yaml`", "fast", seeds=5),
    Row("**`best.yaml`**", "best", seeds=5),
    Row("`best.yaml`, 250 epochs", "best", (SHORT,)),
    Row("without elastic deformation", "best", (SHORT, "augment.elastic=0")),
    Row("without the fade", "best", (SHORT, "augment.fade_fraction=0")),
    Row("with batch normalisation", "best", (SHORT, "model.batch_norm=true")),
)
RESULT = "result.json"

app = typer.Typer()


def train_one(row: Row, seed: int, root: str, run_dir: Path, trial: bool) -> None:
    """Train one seed of a row, or go on with it, and write down what came out."""
    place = [f"data.root={json.dumps(root)}", "threads=1", f"seed={seed}"]
    config = load_config(row.config, [*row.overrides, *place, *["train.epochs=1"] * trial])
    resume = (run_dir / "config.yaml").exists()
    result = None
    for event in run_events(config, run_dir, resume=resume):
        result = event
    assert isinstance(result, RunResult)
    (run_dir / RESULT).write_text(json.dumps(result.to_json()))


def _path(folder: Path, number: int, seed: int) -> Path:
    return folder / f"row-{number}-seed-{seed}"


def table(folder: Path) -> list[str]:
    """What is finished, as Markdown."""
    lines = [
        "| what | seeds | test accuracy, mean (deviation; range) | seconds a seed |",
        "|---|---|---|---|",
    ]
    for number, row in enumerate(ROWS):
        paths = [_path(folder, number, seed) / RESULT for seed in range(row.seeds)]
        results = [json.loads(path.read_text()) for path in paths if path.exists()]
        if not results:
            continue
        accuracies = [100 * result["test_accuracy"] for result in results]
        spread = (
            f" ({statistics.stdev(accuracies):.2f}; {min(accuracies):.2f} to {max(accuracies):.2f})"
            if len(accuracies) > 1
            else ""
        )
        seconds = statistics.median(result["seconds"] for result in results)
        assert all(result["parameters"] == 109_386 for result in results)
        lines.append(
            f"| {row.name} | {len(results)} | {statistics.mean(accuracies):.2f}%{spread} "
            f"| {seconds:,.0f} |"
        )
    return lines


def fast_cost(root: str, rounds: int) -> str:
    """fast.yaml's seconds of training beside an epoch of the plain DataLoader loop, in turns."""
    ours, theirs = [], []
    for number in range(rounds):
        config = load_config("fast", [f"data.root={json.dumps(root)}", f"seed={number}"])
        with tempfile.TemporaryDirectory() as scratch:
            ours.append(train_model(config, Path(scratch, "run")).seconds)
        model = plain_network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        epochs = []
        for workers in (0, 2):
            began = time.perf_counter()
            plain_epoch(model, optimizer, plain_loader(root, True, 64, workers))
            epochs.append(time.perf_counter() - began)
        theirs.append(min(epochs))
    a, b = statistics.median(ours), statistics.median(theirs)
    return f"fast.yaml {a:.1f} s; an epoch of the DataLoader loop {b:.1f} s; ratio {a / b:.2f}"


@app.command()
def main(
    root: Annotated[str, typer.Option(help="The folder above MNIST/raw.")] = "data",
    folder: Annotated[Path, typer.Option(help="Where the runs are kept.")] = Path("record"),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at once, one thread each.")] = 1,
    rows: Annotated[str, typer.Option(help="Which rows, such as 1,4. Default: all.")] = "",
    cost: Annotated[bool, typer.Option("--cost", help="Measure times instead.")] = False,
    trial: Annotated[
        bool, typer.Option("--try", help="One epoch of one seed a row, kept apart: does it work?")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of --cost.")] = 3,
) -> None:
    """Train what is missing and print the table, or measure what it costs."""
    if cost:
        print(fast_cost(root, rounds))
        return
    folder = folder / "try" if trial else folder
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [int(number) for number in rows.split(",")] if rows else range(len(ROWS))
    todo: list[tuple[Any, ...]] = [
        (ROWS[number], seed, root, path, trial)
        for number in wanted
        for seed in range(1 if trial else ROWS[number].seeds)
        if not ((path := _path(folder, number, seed)) / RESULT).exists()
    ]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in [pool.submit(train_one, *arguments) for arguments in todo]:
            done.result()
            print("\n".join(table(folder)), flush=True)
    print("\n".join(table(folder)))


if __name__ == "__main__":
    app()
