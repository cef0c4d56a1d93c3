"""Images as arrays: from folders or from scikit-learn's digits, decoded once into a memory-mapped cache.

An `ImageDataset` holds uint8 arrays (n, channels, height, width); what is read from the cache is a memory map, so
opening takes milliseconds and no memory. The cache lies beside the data, in `.purenets`; its name holds a
signature of the source, so that a changed source is decoded again.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange
from tqdm import tqdm

from purenets.core.base import Batch, UserError

SUFFIXES = (".png", ".jpg", ".jpeg")
FORMAT = 1  # of the cache
PARTS = ("train", "test")


class ImageDataset(NamedTuple):
    """A classification task: inputs (n, channels, height, width) uint8, targets (n,) int64."""

    train: Batch
    test: Batch
    classes: tuple[str, ...]


def digits(size: int = 0) -> ImageDataset:
    """Return scikit-learn's 1,797 handwritten digits, (n, 1, 8, 8) or of another size.

    Every fifth is a test image.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x = np.round(rearrange(x, "n (h w) -> n h w", h=8) * (255 / 16)).astype(np.uint8)
    if size:
        shape, method = (size, size), Image.Resampling.BICUBIC
        x = np.stack([np.asarray(Image.fromarray(image).resize(shape, method)) for image in x])
    x = rearrange(x, "n h w -> n 1 h w")
    held_out = np.arange(len(y)) % 5 == 4
    train, test = ((x[rows], y[rows].astype(np.int64)) for rows in (~held_out, held_out))
    return ImageDataset(train, test, tuple("0123456789"))


def folder(root: Path, size: int = 0) -> ImageDataset:
    """The images of `root/{train,test}/CLASS/*.{png,jpg}`; classes in the order of their names.

    size: height and width to resize to, or 0 if all images are of one size. Gray where the first image is
    gray, else RGB. A UserError names the file or folder that is wrong.
    """
    root = Path(root)
    listed = {part: _listed(root / part) for part in PARTS}
    classes = tuple(sorted(listed["train"]))
    if classes != tuple(sorted(listed["test"])):
        differ = ", ".join(sorted(set(classes) ^ set(listed["test"])))
        raise UserError(f"{root}: the classes of train and test differ: {differ} is in one of them only")
    files = {
        part: [(path, label) for label, name in enumerate(classes) for path in listed[part][name]]
        for part in PARTS
    }
    signature = _signature(str(root), [path for part in PARTS for path, _ in files[part]], size)
    return cached(root, signature, classes, lambda into: _decode_parts(files, size, into))


def cached(
    root: Path, signature: str, classes: Sequence[str], decode: Callable[[Path], None]
) -> ImageDataset:
    """The Images of the cache `root/.purenets/SIGNATURE`, which `decode(folder)` fills where it is missing.

    It is decoded into a folder of another name and renamed when complete; older ones are removed.
    """
    place = Path(root) / ".purenets"
    whole = place / signature
    if not (whole / "classes.json").exists():
        unfinished = place / f"unfinished-{os.getpid()}"
        try:
            _remove_abandoned(place)
            unfinished.mkdir(parents=True)
            decode(unfinished)
            (unfinished / "classes.json").write_text(json.dumps(list(classes)))
            unfinished.rename(whole)
        except OSError as error:
            raise UserError(f"{place}: the cache of images cannot be written ({error.strerror})") from error
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        for old in place.iterdir():
            if old != whole and not old.name.startswith("unfinished-"):
                shutil.rmtree(old, ignore_errors=True)
    try:
        parts = [
            (np.load(whole / f"{part}_x.npy", mmap_mode="r"), np.load(whole / f"{part}_y.npy"))
            for part in PARTS
        ]
    except (OSError, ValueError) as error:
        raise UserError(f"{whole}: the cache is damaged ({error}); remove that folder") from error
    return ImageDataset(*parts, tuple(json.loads((whole / "classes.json").read_text())))


def mean_and_deviation(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (C,) and the deviation (C,) of every channel of uint8 images (n, C, H, W).

    From the histograms of the channels: exact, and in little memory.
    """
    values = np.arange(256)
    counts = np.zeros((x.shape[1], 256))
    for begin in range(0, len(x), 1000):
        channels = rearrange(np.asarray(x[begin : begin + 1000]), "n c h w -> c (n h w)")
        counts += [np.bincount(channel, minlength=256) for channel in channels]
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    return mean, np.where(variance > 0, np.sqrt(np.maximum(variance, 0)), 1.0)


# --- folders ----------------------------------------------------------------------------------------------


def _listed(part: Path) -> dict[str, list[str]]:
    """The paths of the image files of every class folder, sorted; as texts, since there may be many."""
    try:
        names = sorted(entry.name for entry in os.scandir(part) if entry.is_dir() and entry.name[0] != ".")
        found = {name: sorted(_images_in(part / name)) for name in names}
    except OSError as error:
        raise UserError(
            f"{part}: cannot be read ({error.strerror}); needs a folder for each class with its images"
        ) from error
    if not found:
        raise UserError(f"{part}: holds no class folders; needs CLASS/*.png or CLASS/*.jpg")
    for name, paths in found.items():
        if not paths:
            raise UserError(f"{part / name}: holds no images (*.png, *.jpg)")
    return found


def _images_in(where: Path) -> list[str]:
    return [entry.path for entry in os.scandir(where) if entry.name.lower().endswith(SUFFIXES)]


def _signature(root: str, paths: Sequence[str], size: int) -> str:
    """Changes with any file's name, length or time, and with what is made of them."""
    digest = hashlib.sha256(f"{FORMAT} {size}".encode())
    for path in paths:
        about, name = Path(path).stat(), path[len(root) :].lstrip(os.sep)
        digest.update(f"{name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _decode_parts(files: dict, size: int, into: Path) -> None:
    """Fill `into` with {train,test}_{x,y}.npy, decoding in parallel."""
    first = _decoded(files["train"][0][0], None, size)
    for part in PARTS:
        paths, labels = zip(*files[part], strict=True)
        x = np.lib.format.open_memmap(into / f"{part}_x.npy", "w+", np.uint8, (len(paths), *first.shape))

        def fill(i, x=x, paths=paths):
            x[i] = _decoded(paths[i], first.shape, size)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            work = pool.map(fill, range(len(paths)))
            for _ in tqdm(work, f"decoding {part}", len(paths), unit="image", disable=None):
                pass
        x.flush()
        np.save(into / f"{part}_y.npy", np.array(labels, np.int64))


def _decoded(path: str, shape: tuple | None, size: int) -> np.ndarray:
    """Return one image as uint8 (channels, height, width), of `shape` if that is given."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            gray = image.mode in ("L", "1") if shape is None else shape[0] == 1
            image = image.convert("L" if gray else "RGB")
            image = image.resize((size, size), Image.Resampling.BICUBIC) if size else image
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: cannot be decoded ({error})") from error
    pixels = rearrange(pixels, "h w -> 1 h w" if gray else "h w c -> c h w")
    if shape is not None and pixels.shape != shape:
        height, width = pixels.shape[1:]
        raise UserError(
            f"{path}: is {width} x {height}, others are {shape[2]} x {shape[1]}; resize all with --image_size"
        )
    return pixels


def _remove_abandoned(place: Path) -> None:
    """Remove what decoding left unfinished where its process is gone."""
    for old in place.glob("unfinished-*"):
        with contextlib.suppress(PermissionError):  # another user's process: it is alive
            try:
                os.kill(int(old.name.split("-")[1]), 0)
            except (ProcessLookupError, ValueError):
                shutil.rmtree(old, ignore_errors=True)
