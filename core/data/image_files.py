"""Image files as pixels: PNG and JPEG as viewers show them, or one line that names the file."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from einops import rearrange

from purenets.core.base import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jif", ".jfif")
OTHERS = (
    *(".apng", ".avif", ".bmp", ".dds", ".eps", ".gif", ".heic", ".heif", ".ico", ".j2k", ".jp2"),
    *(".jpx", ".jxl", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".psd", ".qoi", ".svg", ".tga"),
    *(".tif", ".tiff", ".webp", ".xbm", ".xpm"),
)
FORMATS = ("PNG", "JPEG")  # no other reader of Pillow is tried: some of them start programs
GRAY = ("1", "L", "LA", "I;16", "I;16B", "I")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def images_in(folder: str) -> list[str]:
    """Return the paths of the PNG and JPEG files of a folder, sorted.

    Hidden files are left out, and with them those that macOS lays beside an image ("._x.png").

    Raises:
        UserError: one has such a name but is no regular file (a pipe, a folder, a link to nothing),
            or an image would be left out: it has another format, or lies in a folder below.
    """
    with os.scandir(folder) as entries:
        seen = sorted((e.name, e.path) for e in entries if not e.name.startswith("."))
    paths = [path for name, path in seen if name.lower().endswith(SUFFIXES)]
    for path in paths:
        _expect_regular(path)
    for name, path in seen:
        if name.lower().endswith(OTHERS):
            raise UserError(f"{path}: is no PNG or JPEG file; convert it")
        if not name.lower().endswith(SUFFIXES) and os.path.isdir(path):  # noqa: PTH112
            _expect_no_images(path)
    return paths


def _expect_no_images(folder: str) -> None:
    """Raise a UserError if a folder within that of a class holds images, at any depth: nobody would
    read them."""
    for place, _, names in os.walk(folder):
        if any(is_image(name) for name in names):
            raise UserError(f"{place}: is a folder with images; they lie directly in their class's")


def is_image(name: str) -> bool:
    """Return True for the name of an image file, of any format, that is not hidden."""
    return name.lower().endswith(SUFFIXES + OTHERS) and not name.startswith(".")


def _expect_regular(path: str) -> None:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 (there may be many)
    except FileNotFoundError as error:
        raise UserError(f"{path}: cannot be decoded (it is a link to nothing)") from error
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: cannot be decoded (it is no regular file)")


def is_gray(path: str) -> bool:
    """Return True if the file holds one channel; only its first bytes are read."""
    with _opened(path) as image:
        return image.mode in GRAY


def is_wide(path: str) -> bool:
    """Return True if the file holds numbers of 16 bits; only its first bytes are read."""
    with _opened(path) as image:
        return any(";16" in str(tile) for tile in image.tile)  # as it lies in the file: "RGB;16B"


def decoded(path: str, size: int = 0) -> np.ndarray:
    """Return an image as uint8 (channels, height, width), channels 1 (gray) or 3 (RGB).

    As viewers show it: turned as its EXIF orientation says, palettes and CMYK as RGB. 16-bit gray
    is divided by 257. For 16-bit color and 16-bit gray with alpha (read as RGB), Pillow keeps the
    upper 8 bits.

    Args:
        path: the path of the file.
        size: height and width to resize to, or 0.

    Raises:
        UserError: the file cannot be decoded, or it has transparent pixels, whose color no file
            says.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        image = ImageOps.exif_transpose(image)
        gray = image.mode in GRAY
        image = _eight_bits(_opaque(image, path)).convert("L" if gray else "RGB")
        image = image.resize((size, size), Image.Resampling.BICUBIC) if size else image
        return rearrange(np.asarray(image), "h w -> 1 h w" if gray else "h w c -> c h w")


@contextmanager
def _opened(path: str) -> Iterator:
    """Open an image; what Pillow raises within the block becomes a UserError with the path."""
    from PIL import Image

    try:
        if os.path.getsize(path) == 0:  # noqa: PTH202
            raise ValueError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            yield image
    except UserError:
        raise
    except Exception as error:  # its readers raise nearly everything on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be decoded ({reason})") from error


def _opaque(image, path: str):
    """Return an image without an alpha channel; a UserError if a pixel is not opaque."""
    if image.mode not in WITH_ALPHA and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # one of its grays stands for transparent
        opaque = not (np.asarray(image) == image.info["transparency"]).any()
    else:
        with_alpha = image.convert("RGBA")
        opaque = with_alpha.getchannel("A").getextrema()[0] == 255
        image = image if image.mode in GRAY else with_alpha
    if not opaque:
        raise UserError(f"{path}: has transparent pixels; draw it on a background first")
    return image


def _eight_bits(image):
    from PIL import Image

    if not image.mode.startswith("I"):
        return image
    grays = np.asarray(image).astype(np.float64) / 257  # 65535 becomes 255
    return Image.fromarray(np.round(grays).clip(0, 255).astype(np.uint8))
