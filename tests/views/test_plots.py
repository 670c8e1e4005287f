import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import sklearn.metrics
import torch
from matplotlib.colors import Normalize
from numpy.typing import NDArray
from PIL import Image

from mnist_mlp.config import load_config
from mnist_mlp.runs.checkpoint import Checkpoint, load_checkpoint
from mnist_mlp.steps.data import Dataset, Split, load_dataset
from mnist_mlp.steps.evaluate import evaluate_model
from mnist_mlp.steps.train import EpochResult
from mnist_mlp.views.notebook import train_model
from mnist_mlp.views.plots import Picture, draw_pictures
from tests.views.drawn import sheet_of, texts

WORDS = {
    "curves": ["Loss", "Accuracy", "cross-entropy (nats, log scale)", "epoch (0: before training)",
               "before training", "validation", "test", "ln 10 = 2.3026: ten equal guesses"],
    "digits": ["Accuracy of each digit", "digit", "share of the digit's images"],
    "confusion-matrix": ["Confusion matrix", "true digit", "read as"],
    "mistakes": ["Most confidently wrong: 30 of"],
    "calibration": ["accuracy", "confidence, in 15 bins", "images (log scale)"],
    "tiles": ["First-layer weights", "weight of the pixel"],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    run_dir = tmp_path_factory.mktemp("runs") / "some-run"
    train_model(load_config("digits", ["train.epochs=2", "data.validation=200"]), run_dir)
    return load_checkpoint(run_dir)


@pytest.fixture(scope="module")
def pictures(
    checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult]
) -> dict[str, tuple[Picture, dict[str, bytes]]]:
    drawn = draw_pictures(checkpoint, data, rows)
    return {picture.stem: (picture, picture.files()) for picture in drawn}


Pictures = dict[str, tuple[Picture, dict[str, bytes]]]


def table(pictures: Pictures, stem: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(pictures[stem][1][f"{stem}.csv"].decode())))


def p_of(checkpoint: Checkpoint, data: Dataset) -> NDArray[np.float64]:
    """Probabilities of the test images, without the program's own softmax."""
    with torch.no_grad():
        logits = checkpoint.model(data.test.images).double().numpy()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("stem", WORDS)
def test_a_picture_can_be_seen_and_read(pictures: Pictures, stem: str) -> None:
    picture, files = pictures[stem]
    assert set(files) == {f"{stem}.png", f"{stem}.svg", f"{stem}.{picture.kind}"}

    image = Image.open(io.BytesIO(files[f"{stem}.png"]))
    image.load()
    assert 900 < image.width < 1600
    assert 500 < image.height < 1800
    grey = np.asarray(image.convert("L"))
    assert grey[:5].min() == grey[-5:].min() == grey[:, :5].min() == grey[:, -5:].min() == 255, (
        "something is cut off at an edge"
    )
    assert (grey < 200).mean() > 0.01

    written = texts(files[f"{stem}.svg"])
    for words in [*WORDS[stem], "some-run", "digits"]:
        assert any(words in text for text in written), words
    assert b"<dc:date>" not in files[f"{stem}.svg"]
    assert picture.shows
    assert picture.caption


def test_there_is_a_picture_of_everything(
    pictures: Pictures, checkpoint: Checkpoint, data: Dataset
) -> None:
    assert set(pictures) == set(WORDS)
    assert {picture.stem for picture in draw_pictures(checkpoint, data, [])} == {*WORDS} - {
        "curves"
    }


def test_the_same_run_draws_the_same_bytes_whatever_the_style(
    pictures: Pictures, checkpoint: Checkpoint, data: Dataset, rows: list[EpochResult]
) -> None:
    with matplotlib.rc_context({"font.size": 20, "axes.edgecolor": "red", "savefig.dpi": 30}):
        again = {p.stem: p.files() for p in draw_pictures(checkpoint, data, rows)}
    assert again == {stem: files for stem, (_, files) in pictures.items()}


def test_the_numbers_of_the_curves_are_the_rows(
    pictures: Pictures, rows: list[EpochResult]
) -> None:
    written = table(pictures, "curves")
    assert len(written) == len(rows) == 3
    for line, row in zip(written, rows, strict=True):
        for name, value in line.items():
            assert float(value) == getattr(row, name)


def test_the_confusion_matrix_is_the_evaluations(
    pictures: Pictures, checkpoint: Checkpoint, data: Dataset
) -> None:
    written = [
        [int(value) for name, value in line.items() if name != "true"]
        for line in table(pictures, "confusion-matrix")
    ]
    assert written == evaluate_model(checkpoint.model, *data.test).confusion_matrix
    guesses = p_of(checkpoint, data).argmax(axis=1)
    labels = data.test.labels.numpy()
    assert written == sklearn.metrics.confusion_matrix(labels, guesses).tolist()
    cells = texts(pictures["confusion-matrix"][1]["confusion-matrix.svg"])
    assert cells.count("·") == sum(row.count(0) for row in written)


def test_the_accuracy_of_each_digit(
    pictures: Pictures, checkpoint: Checkpoint, data: Dataset
) -> None:
    guesses, labels = p_of(checkpoint, data).argmax(axis=1), data.test.labels.numpy()
    recalls = sklearn.metrics.recall_score(labels, guesses, average=None)
    written = table(pictures, "digits")
    assert [float(line["accuracy"]) for line in written] == pytest.approx(recalls)
    assert [int(line["support"]) for line in written] == np.bincount(labels).tolist()
    words = texts(pictures["digits"][1]["digits.svg"])
    for line in written:
        support, correct = int(line["support"]), int(line["correct"])
        assert f"{support - correct} of {support}" in words
        assert f"{correct / support:.2%}" in words


def test_the_most_confident_mistakes_come_first(
    pictures: Pictures, checkpoint: Checkpoint, data: Dataset
) -> None:
    p, labels = p_of(checkpoint, data), data.test.labels.tolist()
    wrong = [(max(row), k) for k, row in enumerate(p.tolist()) if row.index(max(row)) != labels[k]]
    wrong.sort(reverse=True)
    assert len(wrong) > 30
    written = table(pictures, "mistakes")
    assert [int(line["index"]) for line in written] == [k for _, k in wrong[:30]]
    for line, (confidence, k) in zip(written, wrong[:30], strict=True):
        assert float(line["confidence"]) == pytest.approx(confidence)
        assert (int(line["label"]), int(line["guess"])) == (labels[k], int(p[k].argmax()))
    words = texts(pictures["mistakes"][1]["mistakes.svg"])
    first = written[0]
    assert f"index {first['index']}" in words
    assert f"{first['label']} read as {first['guess']}" in words
    assert f"{float(first['confidence']):.2%} sure" in words
    assert f"Most confidently wrong: 30 of {len(wrong)}" in words


def test_the_calibration_of_the_network(
    pictures: Pictures, checkpoint: Checkpoint, data: Dataset
) -> None:
    p, labels = p_of(checkpoint, data), data.test.labels.numpy()
    confidences, right = p.max(axis=1), p.argmax(axis=1) == labels
    expected = 0.0
    counts = []
    for m in range(1, 16):
        inside = ((m - 1) / 15 < confidences) & (confidences <= m / 15)
        counts.append(int(inside.sum()))
        if inside.any():
            gap = abs(right[inside].mean() - confidences[inside].mean())
            expected += inside.mean() * gap
    written = json.loads(pictures["calibration"][1]["calibration.json"])
    assert written["expected_error"] == pytest.approx(expected)
    assert [b["images"] for b in written["bins"]] == counts
    assert all((b["accuracy"] is None) == (b["images"] == 0) for b in written["bins"])
    words = texts(pictures["calibration"][1]["calibration.svg"])
    assert f"Calibration: expected error {100 * expected:.2f} percentage points" in words


def test_the_tiles_are_the_weights_on_one_symmetric_scale(
    pictures: Pictures, checkpoint: Checkpoint
) -> None:
    weights = checkpoint.model.get_parameter("layer1.weight").detach().numpy()
    written = [
        [value for name, value in line.items() if name != "neuron"]
        for line in table(pictures, "tiles")
    ]
    assert np.array_equal(np.array(written, dtype=np.float32), weights)

    figure = pictures["tiles"][0].figure
    (image,) = (image for axes in figure.axes[:1] for image in axes.images)
    norm = image.norm
    assert isinstance(norm, Normalize)
    assert norm.vmin is not None
    assert norm.vmax is not None
    assert norm.vmin == -norm.vmax < 0
    assert len(figure.axes) == 2  # the sheet, the colour bar
    sheet = sheet_of(figure)
    assert np.array_equal(sheet[1:29, 1:29].ravel(), weights[0])
    assert np.array_equal(sheet[30:58, 30:58].ravel(), weights[17])  # second line, second column
    assert np.isnan(sheet[29]).all()


def test_a_run_may_have_any_name(checkpoint: Checkpoint, tmp_path: Path) -> None:
    digits = load_dataset("digits")
    few = digits._replace(test=Split(*(t[:20] for t in digits.test)))
    name = "$\\frac{x$ <b>&amp; 漢字\n\x07" + "y" * 100
    path = tmp_path / name / "checkpoints" / checkpoint.path.name
    for picture in draw_pictures(replace(checkpoint, path=path), few, []):
        files = picture.files()
        about = texts(files[f"{picture.stem}.svg"])
        assert any("$\\frac{x$ <b>&amp; 漢字??yyyy" in text for text in about)
        assert not any("y" * 60 in text for text in about)
    assert any(
        text.startswith("weights, epoch 2")
        for text in texts(
            next(
                draw_pictures(replace(checkpoint, path=tmp_path / "weights.safetensors"), few, [])
            ).files()["digits.svg"]
        )
    )
