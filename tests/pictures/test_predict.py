import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from mnist_mlp import load_config, train_model
from mnist_mlp.pictures.predict import predict_file
from mnist_mlp.runs.checkpoint import load_checkpoint
from mnist_mlp.steps.data import load_dataset
from tests.conftest import Outcome
from tests.pictures.test_preprocess import EXPECTED, SAMPLES

Run = Callable[..., Outcome]


@pytest.mark.usefixtures("digits_run")
def test_many_files_and_folders(run: Run, tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "4_bad.png").write_text("no picture")
    (tmp_path / "more" / "notes.txt").write_text("passed over")
    outcome = run("predict", SAMPLES, "more", "gone.png", "--json")
    assert outcome.code == 3
    rows = json.loads(outcome.out)
    assert [Path(row["file"]).name for row in rows] == [*EXPECTED, "4_bad.png", "gone.png"]
    for row in rows[: len(EXPECTED)]:
        assert sum(row["probabilities"]) == pytest.approx(1)
        assert isinstance(row["sure"], bool)
        assert row["confidence"] == max(row["probabilities"]) == row["probabilities"][row["digit"]]
    assert all(set(row) == {"file", "error"} for row in rows[-2:])
    assert outcome.err.splitlines() == [
        "mnist-mlp: more/4_bad.png: not a picture that can be read (PNG, JPEG, BMP, WEBP, GIF)",
        "gone.png: no such file",
    ]
    assert f"of {len(EXPECTED)} labelled pictures read right" in run("predict", SAMPLES).out


@pytest.mark.usefixtures("digits_run")
def test_show_and_save_what_was_seen(run: Run, tmp_path: Path) -> None:
    picture = SAMPLES / "7_plain.png"
    outcome = run("predict", "runs/digits-001", picture, picture, "--show", "--save-seen", "seen")
    assert outcome.code == 0
    assert outcome.out.count("████") > 10
    assert all(len(line) <= max(80, len(str(picture)) + 40) for line in outcome.out.splitlines())
    for name in ("7_plain.png", "7_plain-2.png"):
        saved = np.asarray(Image.open(tmp_path / "seen" / name))
        assert saved.ravel().tolist() == EXPECTED["7_plain.png"]


@pytest.mark.usefixtures("digits_run")
def test_every_step_is_saved_also_of_a_refused_picture(run: Run, tmp_path: Path) -> None:
    ruled = SAMPLES / "0_ruled_1.png"
    seven = Image.open(SAMPLES / "7_plain.png")
    two = Image.new("L", (2 * seven.width, seven.height))
    for left in (0, seven.width):
        two.paste(seven, (left, 0))
    two.save(tmp_path / "7_two.png")
    outcome = run("predict", ruled, "7_two.png", "--show", "--save-steps", "steps")
    assert outcome.code == 3
    assert "left out: ruled lines" in outcome.out
    assert re.search(r"7_two\.png +2 things could be the digit", outcome.out)
    names = ["grey", "paper", "darkness", "unruled", "pieces", "ink", "input"]
    for stem in ("0_ruled_1", "7_two"):
        saved = [tmp_path / "steps" / f"{stem}-{n}-{name}.png" for n, name in enumerate(names, 1)]
        assert all(path.is_file() for path in saved)
    last = np.asarray(Image.open(tmp_path / "steps" / "0_ruled_1-7-input.png"))
    assert last.ravel().tolist() == EXPECTED["0_ruled_1.png"]
    assert len(list((tmp_path / "steps").iterdir())) == 14


class Fixed(torch.nn.Module):
    """Answers 3 with a probability of 0.9 for an image, of the second for each change of it."""

    def __init__(self, changed: float) -> None:
        super().__init__()
        self.changed = changed

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        p = torch.full((len(images), 10), self.changed)
        p[0] = 0.9
        others = ((1 - p) / 9).log()
        others[:, 3] = p[:, 3].log()
        return others


@pytest.mark.parametrize(("changed", "sure"), [(0.95, True), (0.5, False)])
def test_an_answer_that_small_changes_upset_is_unsure(changed: float, sure: bool) -> None:
    prediction = predict_file(Fixed(changed), SAMPLES / "7_plain.png")
    assert prediction.digit == 3
    assert prediction.sure is sure


@pytest.mark.usefixtures("digits_run")
def test_a_wrong_reading_is_told_beside_its_label(run: Run, tmp_path: Path) -> None:
    for digit in range(10):
        (tmp_path / f"{digit}_.png").write_bytes((SAMPLES / "7_plain.png").read_bytes())
    outcome = run("predict", *sorted(tmp_path.glob("*_.png")))
    assert outcome.out.count("labelled ") == 10  # nine beside wrong readings, and the summary
    assert "1 of 10 labelled pictures read right: 10.00%" in outcome.out
    assert run("predict", SAMPLES / "7_plain.png", "--quiet") == Outcome(0, "", "")


def test_predict_without_a_network_or_a_picture(run: Run, shared_digits_run: Path) -> None:
    assert run("predict", SAMPLES / "7_plain.png").code == 4
    assert run("predict").code == 2
    shutil.copytree(shared_digits_run, "runs/digits-001")
    assert run("predict", "runs/digits-001").code == 2
    checkpoint = "runs/digits-001/checkpoints/epoch-001.safetensors"
    assert run("predict", checkpoint, SAMPLES / "7_plain.png").code == 0


@pytest.mark.usefixtures("digits_run")
def test_trace_takes_a_picture(run: Run) -> None:
    traced = json.loads(run("trace", "--image", SAMPLES / "7_plain.png", "--json").out)
    assert np.rint(np.array(traced["input"]) * 255).tolist() == EXPECTED["7_plain.png"]
    assert traced["label"] == 7
    assert traced["index"] is None
    assert traced["image"].endswith("7_plain.png")
    other = json.loads(
        run("trace", "--image", SAMPLES / "7_plain.png", "--label", "3", "--json").out
    )
    assert other["label"] == 3
    assert other["loss"] != traced["loss"]
    refused = run("trace", "--image", SAMPLES / "expected.json")
    assert refused.code == 3


def disguise(pixels: NDArray[np.uint8], size: int, rng: np.random.Generator, path: Path) -> None:
    """Save an MNIST image enlarged, moved, on grey or uneven paper, inverted or not, turned."""
    ink = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)) / 255
    height, width = (int(size * rng.uniform(1, 1.5)) for _ in range(2))
    canvas = np.zeros((height, width))
    top, left = rng.integers(0, height - size + 1), rng.integers(0, width - size + 1)
    canvas[top : top + size, left : left + size] = ink
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    slope = rng.uniform(-0.15, 0.15, 3) * rng.integers(0, 2)
    paper = rng.uniform(0.6, 0.85) + slope[0] * y + slope[1] * x + slope[2] * x * y
    picture = paper * (1 - canvas) + rng.uniform(0, 0.2) * canvas
    picture = picture if rng.random() < 0.5 else 1 - picture
    image = Image.fromarray(np.uint8(255 * picture.clip(0, 1)))
    orientation = int(rng.integers(1, 9))
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }.get(orientation)  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = image if back is None else image.transpose(back)
    image.save(path, quality=int(rng.integers(60, 95)), exif=exif)


@pytest.mark.mnist
@pytest.mark.parametrize("count", [200, pytest.param(1_000, marks=pytest.mark.long)])
def test_disguised_mnist_images_are_read_as_well(
    count: int, mnist_root: Path, tmp_path: Path
) -> None:
    config = load_config("sprint", [f"data.root={mnist_root}"])
    trained = load_checkpoint(train_model(config).run_dir or "").model
    pixels, labels = load_dataset("mnist", mnist_root).test
    rng = np.random.default_rng(0)
    with torch.no_grad():
        plain = (trained(pixels[:count] / 255).argmax(1) == labels[:count]).double().mean()
    right = 0
    for number in range(count):
        size = int(rng.uniform(800, 2000) if number % 20 == 0 else rng.uniform(200, 400))
        disguise(pixels[number].view(28, 28).numpy(), size, rng, tmp_path / "picture.jpg")
        right += predict_file(trained, tmp_path / "picture.jpg").digit == labels[number]
    print(f"plain {plain:.2%}, disguised {right / count:.2%}")
    assert right / count >= plain - 0.005
