import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from mnist_mlp.config import load_config
from mnist_mlp.errors import UsageError
from mnist_mlp.runs.training import RunEvent, RunResult, RunStart
from mnist_mlp.steps.model import build_mlp
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.tensorboard import with_board
from tests.conftest import Outcome

ROW = EpochResult(
    epoch=0, updates=0, examples_seen=0, learning_rate=0.1, train_loss=2.25, train_accuracy=0.125,
    validation_loss=None, validation_accuracy=None, test_loss=2.5, test_accuracy=0.0625,
    seconds=0.0,
)  # fmt: skip


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def points(events: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(e.step, e.value) for e in events.Scalars(tag)]


def write(run_dir: Path | None, *events: RunEvent) -> None:
    """Let events of a run on the digits pass by TensorBoard."""
    start = RunStart(
        run_dir=run_dir, config=load_config("digits"), examples={}, parameters=109_386,
        environment={}, resumed_at=None,
    )  # fmt: skip
    assert list(with_board(iter([start, *events]))) == [start, *events]


def rows(*epochs: int) -> list[EpochResult]:
    return [replace(ROW, epoch=epoch, train_loss=epoch) for epoch in epochs]


def result(run_dir: Path) -> RunResult:
    return RunResult(
        run_dir=run_dir, dataset="digits", epochs=3, updates=3, examples_seen=3, initial_loss=2.0,
        train_loss=1.0, validation_accuracy=None, test_loss=1.0, test_accuracy=0.5, seconds=1.0,
        parameters=109_386, weights_sha256="", warnings=[], model=build_mlp(seed=0),
    )  # fmt: skip


def test_rows_become_scalars(tmp_path: Path) -> None:
    second = replace(ROW, epoch=1, train_loss=0.5, test_loss=None, test_accuracy=None)
    write(tmp_path, ROW, second)
    events = read(tmp_path / "tensorboard")
    assert points(events, "loss/train") == [(0, 2.25), (1, 0.5)]
    assert points(events, "accuracy/train") == [(0, 0.125), (1, 0.125)]
    assert points(events, "loss/test") == [(0, 2.5)]
    assert points(events, "learning_rate") == [(epoch, float(np.float32(0.1))) for epoch in (0, 1)]
    assert set(events.Tags()["scalars"]) == {
        "loss/train", "loss/test", "accuracy/train", "accuracy/test", "learning_rate",
    }  # fmt: skip


@pytest.mark.parametrize("first", [0, 2])
def test_a_resumed_run_has_each_point_once(tmp_path: Path, first: int) -> None:
    write(tmp_path, *rows(*range(4)))
    write(tmp_path, *rows(*range(first, 6)))
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    found = points(read(tmp_path / "tensorboard"), "loss/train")
    assert found == [(epoch, epoch) for epoch in range(6)]


def test_pictures_at_the_end(tmp_path: Path) -> None:
    write(tmp_path, *rows(3), result(tmp_path))
    events = read(tmp_path / "tensorboard")
    assert events.Tags()["images"] == ["layer1/weights", "confusion_matrix"]
    for tag in ("layer1/weights", "confusion_matrix"):
        (event,) = events.Images(tag)
        image = Image.open(io.BytesIO(event.encoded_image_string))
        assert event.step == 3
        assert image.width > 900
        assert len(image.getcolors(1 << 24) or []) > 100


def test_nothing_is_written_without_a_row_or_a_run_directory(tmp_path: Path) -> None:
    write(tmp_path, result(tmp_path))
    write(None, *rows(0, 1), result(tmp_path))
    assert not list(tmp_path.iterdir())


def test_a_run_and_its_end(run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    train = ("train", "--config", "digits", "--tensorboard", "--quiet")
    assert run(*train, "train.epochs=2") == Outcome(0, "", "")
    assert run(*train[:1], "--resume", "latest", *train[3:], "train.epochs=3").code == 0
    metrics = Path("runs/digits-001/metrics.jsonl").read_text().splitlines()
    losses = {row["epoch"]: row["train_loss"] for row in map(json.loads, metrics)}
    events = read(Path("runs/digits-001/tensorboard"))
    told = points(events, "loss/train")
    assert dict(told) == pytest.approx(losses)
    assert len(told) == len(losses) == 4
    assert events.Tags()["images"]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert run(*train).code == 2
    assert run(*train[:3], "--dry-run", "--tensorboard").code == 2
    assert not Path("runs/digits-002").exists()


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"pip install 'mnist-mlp\[tensorboard\]'"):
        next(with_board(iter([ROW])))
