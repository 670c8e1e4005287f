"""The explorer page's preprocessing is tested against the same samples and arrays."""

import json

import numpy as np
import pytest

from mnist_mlp.errors import ImageError
from mnist_mlp.pictures.ink import Grey, Invert, find_ink, shrink
from mnist_mlp.pictures.preprocess import Pixels, centre, prepare, thicken
from mnist_mlp.pictures.read import read_grey
from tests.conftest import REPOSITORY

SAMPLES = REPOSITORY / "tests" / "samples"
EXPECTED = json.loads((SAMPLES / "expected.json").read_text())


def stroke(height: int = 120, width: int = 100, thickness: int = 10) -> Grey:
    """Ink (1) in the shape of a seven on paper (0)."""
    ink = np.zeros((height, width))
    ink[20 : 20 + thickness, 20:80] = 1
    for y in range(20, 100):
        x = 80 - (y - 20) // 2
        ink[y, x - thickness : x] = 1
    return ink


def pixels_of(grey: Grey, invert: Invert = "auto") -> Pixels:
    """What is prepared of a picture that is not refused."""
    pixels, found = prepare(grey, invert)
    assert found.refusal is None
    return pixels


def test_every_sample_has_its_array() -> None:
    assert sorted(EXPECTED) == sorted(path.name for path in SAMPLES.glob("*.png"))
    assert len(EXPECTED) >= 32


@pytest.mark.parametrize("name", EXPECTED)
def test_samples(name: str) -> None:
    pixels = pixels_of(read_grey(SAMPLES / name)).astype(int)
    assert np.abs(pixels.ravel() - EXPECTED[name]).max() <= 1


@pytest.mark.parametrize("name", EXPECTED)
def test_prepared_pixels_look_like_mnists(name: str) -> None:
    image = np.array(EXPECTED[name]).reshape(28, 28)
    sides = [np.ptp(np.flatnonzero(image.any(axis=axis))) + 1 for axis in (0, 1)]
    assert max(sides) in (19, 20)  # a faint row at the end may round to nothing
    assert image.max() == 255
    for axis in (0, 1):
        middle = image.sum(axis=axis) @ (np.arange(28) + 0.5) / image.sum()
        assert 14 <= middle < 15.01


def test_the_middle_of_an_image_of_one_stroke_is_where_mnist_has_it() -> None:
    box = np.ones((20, 4))
    rows, columns = np.nonzero(centre(box))
    assert (rows.min(), rows.max()) == (4, 23)
    assert (columns.min(), columns.max()) == (12, 15)


def test_a_box_that_is_all_on_one_side_stays_whole() -> None:
    box = np.zeros((20, 20))
    box[-1] = 1
    box[0, 0] = 0.01
    assert centre(box).any(axis=1).sum() == 2


def test_invert() -> None:
    ink = stroke()
    light, dark = pixels_of(ink), pixels_of(1 - ink)
    assert (light == dark).all()
    assert (pixels_of(1 - ink, "yes") == dark).all()
    assert (pixels_of(ink, "no") == light).all()
    with pytest.raises(ImageError, match="blank"):
        pixels_of(ink, "yes")


def test_uneven_light_is_told_from_ink() -> None:
    ink = stroke()
    y, x = (np.linspace(-1, 1, n) for n in ink.shape)
    paper = 0.6 + 0.2 * x + 0.1 * y[:, None] - 0.1 * x * x
    found = find_ink(paper * (1 - 0.8 * ink)).ink
    assert np.abs(found - ink).max() < 0.1


def test_dust_is_left_out_and_a_dot_of_a_stroke_is_not() -> None:
    ink = stroke()
    ink[3:5, 3:5] = 1
    assert find_ink(ink).ink[3:5, 3:5].max() == 0
    ink[100:112, 44:56] = 1
    assert find_ink(ink).ink[105, 50] == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (28, 28), (300, 200)])
def test_blank(shape: tuple[int, int]) -> None:
    for grey in (0.0, 0.5, 1.0):
        with pytest.raises(ImageError, match="blank"):
            pixels_of(np.full(shape, grey))


def test_noise_alone_is_blank() -> None:
    noise = np.random.default_rng(0).normal(0.5, 0.05, (200, 200))
    with pytest.raises(ImageError, match="blank"):
        pixels_of(noise)


def test_thin_strokes_become_as_thick_as_mnists() -> None:
    thin, thick = stroke(thickness=2), stroke(thickness=10)
    assert pixels_of(thin).sum() > 0.7 * pixels_of(thick).sum()
    crop = thick[20:100, 20:80]
    assert thicken(crop) is crop


def test_shrinking_keeps_the_mean_of_every_block() -> None:
    grey = np.arange(35.0).reshape(5, 7)
    small = shrink(grey, 3)
    assert small.shape == (2, 3)
    assert small[0, 0] == grey[:3, :3].mean()
    assert small[1, 2] == grey[3:, 6:].mean()
    assert np.array_equal(shrink(grey, 1), grey)


@pytest.mark.parametrize("shape", [(1, 4000), (5000, 1), (2, 900), (3, 3)])
def test_odd_shapes_are_refused(shape: tuple[int, int]) -> None:
    grey = np.zeros(shape)
    grey[shape[0] // 2, shape[1] // 2] = 1
    try:
        refusal = prepare(grey)[1].refusal or ""
    except ImageError as error:
        refusal = str(error)
    assert refusal.startswith(("no digit", "blank"))


PAPER_AND_INK = 0.85 - 0.65 * stroke(240, 200, 14)  # a seven


def test_ruled_lines_are_removed_and_the_stroke_that_crosses_them_stays() -> None:
    plain = find_ink(PAPER_AND_INK).ink
    ruled = PAPER_AND_INK.copy()
    for y in range(30, 240, 40):
        ruled[y : y + 2] = np.minimum(ruled[y : y + 2], 0.5)
    for x in range(10, 200, 40):
        ruled[:, x : x + 2] = np.minimum(ruled[:, x : x + 2], 0.6)
    found = find_ink(ruled)
    assert found.left_out == ["ruled lines"]
    assert np.abs(found.ink - plain).mean() < 0.002
    assert (found.ink > 0.5).sum() > 0.97 * (plain > 0.5).sum()


@pytest.mark.parametrize("beyond", [0.05, 0.3, 1.0])
def test_what_lies_beyond_the_paper_is_left_out(beyond: float) -> None:
    picture = PAPER_AND_INK.copy()
    for y in range(len(picture)):
        picture[y, : 12 - y // 30] = beyond
    picture[-9:] = beyond
    difference = pixels_of(picture).astype(int) - pixels_of(PAPER_AND_INK)
    assert np.abs(difference).mean() < 1


def test_a_shadow_is_not_ink() -> None:
    y, x = np.mgrid[:240, :200]
    shadow = 1 - 0.5 / (1 + np.exp((x - 0.3 * y - 60) / 3))
    assert np.abs(find_ink(PAPER_AND_INK * shadow).ink - find_ink(PAPER_AND_INK).ink).mean() < 0.01


def test_the_piece_of_a_neighbour_at_the_border_is_left_out() -> None:
    picture = PAPER_AND_INK.copy()
    picture[-60:, -40:] = 0.2
    found = find_ink(picture)
    assert found.left_out == ["1 at the border"]
    assert found.ink[-60:, -40:].max() == 0
    alone = np.full_like(picture, 0.85)
    alone[60:, 90:104] = 0.2  # reaches the border, and is all there is
    assert find_ink(alone).ink[-1, 97] == 1


def test_what_is_not_one_digit_is_refused() -> None:
    two = np.hstack([PAPER_AND_INK, PAPER_AND_INK])
    y, x = np.mgrid[:240, :200]
    text = 0.85 - 0.6 * ((y % 30 > 20) & (x % 20 > 12) & (y > 30) & (x > 30) & (x < 170))
    blot = 0.85 - 0.6 * (np.hypot(y - 120, x - 100) < 35)
    texture = 0.6 + 0.3 * np.sin(y / 7) * np.sin(x / 9)
    for picture, reason in (
        (two, "2 things"), (text, "42 things"), (blot, "few strokes"), (texture, "35 pieces"),
    ):  # fmt: skip
        assert reason in (prepare(picture)[1].refusal or "")
