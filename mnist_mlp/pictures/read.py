"""Read an image file as greyscale, upright, at a working size, within bounded memory."""

import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from mnist_mlp.errors import ImageError
from mnist_mlp.pictures.ink import Grey, shrink

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif")
MAX_PIXELS = 50_000_000
WORKING_SIDE = 800  # pixels of the longer side at most; larger pictures are shrunk
REDUCED_JPEG_PIXELS = 4_000_000  # larger JPEGs are decoded at a reduced size
STRIP_PIXELS = 1_000_000  # converted to floating point at a time
LUMINANCE = (0.299, 0.587, 0.114)  # weights of red, green and blue (ITU-R BT.601)


def read_grey(path: Path) -> Grey:
    """Read a picture as (H, W), from 0 (black) to 1 (white), rotated as its EXIF data says.

    A transparent background becomes white or black, whichever contrasts more with the rest. An
    ImageError where the file is missing, damaged, animated, too large or not in `FORMATS`.
    """
    if path.is_dir():
        raise ImageError(f"a folder without pictures ({', '.join(SUFFIXES)})")
    if not path.is_file():
        raise ImageError("no such file")
    try:
        with warnings.catch_warnings(action="ignore"):  # about oddities in readable files
            with Image.open(path, formats=FORMATS) as image:
                _check(image)
            with Image.open(path, formats=FORMATS) as image:  # _check may leave it unusable
                return _read(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"not a picture that can be read ({', '.join(FORMATS)})") from None
    except Image.DecompressionBombError:
        raise ImageError(f"more than {MAX_PIXELS:,} pixels; make it smaller") from None
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise ImageError(f"damaged: {error or type(error).__name__}") from None


def _check(image: ImageFile.ImageFile) -> None:
    """Refuse what can be recognised before the pixels take up memory."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(f"{width} × {height} are more than {MAX_PIXELS:,} pixels; make it smaller")
    # A JPEG with several frames is a photo with a preview or a depth map, not an animation.
    if image.format in ("GIF", "PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise ImageError("animated; save one frame of it")
    if image.format == "PNG":
        image.verify()  # checksums and completeness


def _read(image: ImageFile.ImageFile) -> Grey:
    orientation = image.getexif().get(ExifTags.Base.Orientation)
    if image.width * image.height > REDUCED_JPEG_PIXELS:
        times = 2 * WORKING_SIDE / max(image.size)
        size = (int(image.width * times), int(image.height * times))
        image.draft(image.mode, size)  # affects JPEG only; it stays at least this large
    image.load()
    factor = -(-max(image.size) // WORKING_SIDE)
    rows = factor * max(1, STRIP_PIXELS // (factor * image.width))
    strips = (
        image.crop((0, top, image.width, min(top + rows, image.height)))
        for top in range(0, image.height, rows)
    )
    light, opacity = np.concatenate([shrink(_light(strip), factor) for strip in strips], axis=1)
    background = light.sum() < opacity.sum() / 2  # white behind dark ink, black behind light ink
    grey: Grey = light + (1 - opacity) * background
    # Pillow's exif_transpose would copy the full-size picture and fail on malformed EXIF data.
    if orientation in (5, 6, 7, 8):
        grey = grey.T
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    return grey


def _light(image: Image.Image) -> Grey:
    """Return luminance times opacity, and opacity: (2, H, W), each from 0 to 1."""
    if image.mode.startswith("I"):  # 16 bits
        light = np.asarray(image, dtype=np.float64) / 0xFFFF
        return np.stack([light.clip(0, 1), np.ones_like(light)])
    rgba = np.asarray(image.convert("RGBA"), dtype=np.float64) / 255  # (H, W, 4)
    opacity = rgba[..., 3]
    return np.stack([rgba[..., :3] @ LUMINANCE * opacity, opacity])
