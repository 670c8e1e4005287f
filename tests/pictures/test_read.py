import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from mnist_mlp import build_mlp
from mnist_mlp.errors import ImageError
from mnist_mlp.pictures.predict import predict_file
from mnist_mlp.pictures.read import WORKING_SIDE, read_grey
from tests.pictures.test_preprocess import SAMPLES, stroke


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_mlp(seed=0)


SEVEN = 1 - stroke()  # dark on light


def grey_image(levels: int = 255, dtype: type = np.uint8) -> Image.Image:
    return Image.fromarray((SEVEN * levels).astype(dtype))


def in_mode(mode: str) -> Image.Image:
    if mode == "I;16":
        return grey_image(65_535, np.uint16)
    if mode == "I;16 dim":  # clipped to 8 bits it would be white all over
        return Image.fromarray((20_000 + SEVEN * 40_000).astype(np.uint16))
    if mode in ("LA", "RGBA"):
        image = grey_image().convert(mode)
        image.putalpha(255)
        return image
    return grey_image().convert(mode)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I;16 dim")),
        *((mode, "jpg") for mode in ("L", "RGB", "CMYK")),
        *((mode, "bmp") for mode in ("1", "L", "P", "RGB")),
        *((mode, "webp") for mode in ("RGB", "RGBA")),
        *((mode, "gif") for mode in ("1", "L", "P")),
    ],
)
def test_formats_and_modes(mode: str, suffix: str, tmp_path: Path, model: torch.nn.Module) -> None:
    grey_image().save(tmp_path / "as.png")
    path = tmp_path / f"picture.{suffix}"
    in_mode(mode).save(path)
    expected = predict_file(model, tmp_path / "as.png").pixels.astype(int)
    seen = predict_file(model, path).pixels.astype(int)
    assert np.abs(seen - expected).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_picture_as_pillow_would(orientation: int, tmp_path: Path) -> None:
    image = grey_image()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.png", exif=exif)
    turned = ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))
    assert np.array_equal(np.rint(read_grey(tmp_path / "a.png") * 255), np.asarray(turned))


def test_what_is_transparent_is_the_paper(tmp_path: Path) -> None:
    for ink in (0, 255):
        pixels = np.full((*SEVEN.shape, 4), ink, dtype=np.uint8)
        pixels[..., 3] = 255 * (1 - SEVEN)
        Image.fromarray(pixels).save(tmp_path / f"{ink}.png")
        grey = read_grey(tmp_path / f"{ink}.png")
        assert np.allclose(grey, SEVEN if ink == 0 else 1 - SEVEN)


def test_a_large_photograph_is_shrunk(tmp_path: Path, model: torch.nn.Module) -> None:
    big = Image.fromarray((SEVEN * 255).astype(np.uint8)).resize((7000, 7142))  # 49,994,000
    for name in ("big.png", "big.jpg"):
        big.save(tmp_path / name)
        assert max(read_grey(tmp_path / name).shape) <= WORKING_SIDE == 800
        assert predict_file(model, tmp_path / name).pixels.max() == 255


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG file of any size whose pixels are these, or zeros that compress to little."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + end


def refused(folder: Path) -> list[Path]:
    """Files that must be refused; those of the large ones are large in pixels only."""
    frames = [Image.new("L", (9, 9), value) for value in (0, 255)]
    for kind in ("gif", "png", "webp"):
        frames[0].save(folder / f"animated.{kind}", save_all=True, append_images=frames[1:])
    for kind in ("png", "jpg", "bmp", "webp", "gif"):
        whole = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99)).astype(np.uint8)).save(
            whole, {"jpg": "jpeg"}.get(kind, kind)
        )
        (folder / f"truncated.{kind}").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    large = io.BytesIO()
    Image.new("RGB", (7000, 7000), "white").save(large, "PNG")
    (folder / "large-truncated.png").write_bytes(large.getvalue()[:-5000])
    (folder / "bomb.png").write_bytes(png(40_000, 40_000, bytes(1_000_000)))
    (folder / "over.png").write_bytes(png(50_000, 1_001))
    (folder / "over.bmp").write_bytes(
        b"BM"
        + struct.pack("<IIIIiiHHIIiiII", 54, 0, 54, 40, 30_000, 30_000, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    (folder / "nothing.png").touch()
    (folder / "text.png").write_text("a letter\n" * 100)
    (folder / "svg.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    (folder / "tiff.png").write_bytes(b"II*\0" + bytes(100))
    Image.new("L", (200, 200), "white").save(folder / "blank.png")
    Image.new("RGBA", (200, 200), (0, 0, 0, 0)).save(folder / "empty.png")
    return sorted(path for path in folder.iterdir() if path.is_file())


REASONS = {
    "animated": "animated", "truncated": "damaged|not a picture", "large-truncated": "damaged",
    "bomb": "pixels; make it", "over": "pixels; make it", "nothing": "not a picture",
    "text": "not a picture", "svg": "not a picture", "tiff": "not a picture", "blank": "blank",
    "empty": "blank",
}  # fmt: skip


def test_what_is_refused(tmp_path: Path, model: torch.nn.Module) -> None:
    for path in refused(tmp_path):
        reason = next(reason for name, reason in REASONS.items() if path.name.startswith(name))
        with pytest.raises(ImageError, match=f": .*({reason})") as error:
            predict_file(model, path)
        assert str(error.value).startswith(f"{path}: ")
        assert "\n" not in str(error.value)
    for path in (tmp_path, tmp_path / "none.png", Path("/dev/null")):
        with pytest.raises(ImageError):
            predict_file(model, path)


def test_a_refused_file_takes_little_memory(tmp_path: Path) -> None:
    script = """
import re, sys
from pathlib import Path
from mnist_mlp import build_mlp
from mnist_mlp.errors import ImageError
from mnist_mlp.pictures.predict import predict_file

model = build_mlp()
predict_file(model, Path(sys.argv[1]))

def megabytes(what):
    status = Path("/proc/self/status").read_text()
    return int(re.search(what + r":\\s+(\\d+) kB", status)[1]) // 1024

Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = megabytes("VmRSS")
for name in sys.argv[2:]:
    try:
        predict_file(model, Path(name))
        sys.exit(f"{name} was taken")
    except ImageError:
        pass
print(megabytes("VmHWM") - before)
"""
    sample = SAMPLES / "7_plain.png"
    files = [sample, *refused(tmp_path)]
    used = subprocess.run(
        [sys.executable, "-c", script, *map(str, files)], capture_output=True, text=True, check=True
    )
    assert int(used.stdout) <= 64


@pytest.mark.parametrize("count", [200, pytest.param(1_000, marks=pytest.mark.long)])
def test_broken_files(count: int, tmp_path: Path, model: torch.nn.Module) -> None:
    """Each is read or refused, whatever was done to its bytes."""
    rng = np.random.default_rng(0)
    originals = []
    for mode, kind in (
        ("L", "png"), ("P", "png"), ("RGBA", "png"), ("I;16", "png"), ("L", "jpg"), ("CMYK", "jpg"),
        ("RGB", "bmp"), ("P", "bmp"), ("RGB", "webp"), ("P", "gif"),
    ):  # fmt: skip
        path = tmp_path / f"original.{kind}"
        in_mode(mode).save(path)
        originals.append((path.read_bytes(), kind))
    outcomes = {"read": 0, "refused": 0}
    for number in range(count):
        content, kind = originals[number % len(originals)]
        broken = bytearray(content)
        for _ in range(rng.integers(1, 8)):
            where = int(rng.integers(0, len(broken)))
            what = rng.integers(0, 4)
            if what == 0:
                broken[where] ^= 1 << int(rng.integers(0, 8))
            elif what == 1:
                broken[where] = int(rng.choice([0, 1, 127, 128, 255]))
            elif what == 2:
                del broken[where : where + int(rng.integers(1, 50))]
            else:
                broken[where:where] = rng.bytes(int(rng.integers(1, 50)))
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(broken)
        try:
            assert 0 <= predict_file(model, path).digit <= 9
            outcomes["read"] += 1
        except ImageError:
            outcomes["refused"] += 1
        path.unlink()
    assert min(outcomes.values()) > count // 10
