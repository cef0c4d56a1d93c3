"""Images as arrays: from folders, decoded once into a cache, or scikit-learn's digits.

An `ImageDataset` holds uint8 arrays (n, channels, height, width). What is read from the cache is a
memory map: opening a set reads its files once, to see that they and the cache are unchanged, and
keeps no memory.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from einops import rearrange
from tqdm import tqdm

from purenets.core.arguments import expect_paths
from purenets.core.arrays import expect_plain
from purenets.core.base import Batch, UserError
from purenets.core.data.image_cache import PARTS, cache_folder, cached
from purenets.core.data.image_files import decoded, images_in, is_gray, is_image, is_wide
from purenets.core.memory import expect_room
from purenets.core.runs.notes import warn

FORMAT = 3  # of what is made of the files
DARK = 64  # a brightest gray of 16 bits below it: all numbers have 14 bits or fewer


class ImageDataset(NamedTuple):
    """A classification task of images: train and test, pairs of inputs and targets.

    Args:
        train: inputs (n, channels, height, width) uint8, and targets (n,) int64.
        test: the same for the examples that were held out.
        classes: their names, in the order of the class numbers.
    """

    train: Batch
    test: Batch
    classes: tuple[str, ...]


def digits(size: int = 0) -> ImageDataset:
    """Return scikit-learn's 1,797 handwritten digits; every fifth one is a test image.

    Args:
        size: height and width to resize to; 0 for the 8 x 8 pixels that they have.

    Returns:
        An `ImageDataset` of one channel.

    Raises:
        UserError: `size` is not a non-negative integer, or the images would not fit into the
            memory.

    Example:
        >>> from purenets.core.data import images
        >>> images.digits().test[0].shape
        (359, 1, 8, 8)

    Source:
        sklearn.datasets.load_digits.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    _expect_size(size)
    x, y = load_digits(return_X_y=True)
    _expect_room(len(y), size)
    x = np.round(rearrange(x, "n (h w) -> n h w", h=8) * (255 / 16)).astype(np.uint8)
    if size:
        shape, method = (size, size), Image.Resampling.BICUBIC
        x = np.stack([np.asarray(Image.fromarray(image).resize(shape, method)) for image in x])
    x = rearrange(x, "n h w -> n 1 h w")
    held_out = np.arange(len(y)) % 5 == 4
    train, test = ((x[rows], y[rows].astype(np.int64)) for rows in (~held_out, held_out))
    return ImageDataset(train, test, tuple("0123456789"))


def folder(root: Path, size: int = 0, cache: Path | None = None) -> ImageDataset:
    """Return the images of `root/{train,test}/CLASS/*.{png,jpg,jpeg}`, classes sorted by name.

    They are gray if all of them are gray, else RGB, decoded as `image_files.decoded` says. Nothing
    is written below `root`, which may be read-only.

    Args:
        root: the folder of the set.
        size: height and width to resize to; 0 if all images have one size.
        cache: the folder that keeps decoded images; None for `image_cache.cache_folder()`.

    Returns:
        An `ImageDataset`. Its inputs are memory maps of the cache.

    Raises:
        UserError: one line that names the file or folder that is wrong, such as images of 16 bits
            that hold values of 8 bits, all of which would be black.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from purenets.core.data import images
        >>> with tempfile.TemporaryDirectory() as place:
        ...     for part in ("train", "test"):
        ...         for name in ("cat", "dog"):
        ...             path = pathlib.Path(place) / "set" / part / name / "0.png"
        ...             path.parent.mkdir(parents=True)
        ...             Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(path)
        ...     found = images.folder(path.parents[2], cache=pathlib.Path(place) / "cache")
        ...     found.classes, found.train[0].shape
        (('cat', 'dog'), (2, 3, 4, 6))
    """
    _expect_size(size)
    expect_paths("folder", root=root, **({} if cache is None else {"cache": cache}))
    root = Path(root)
    listed = {part: _listed(root / part) for part in PARTS}
    classes = tuple(sorted(listed["train"]))
    if classes != tuple(sorted(listed["test"])):
        differ = ", ".join(sorted(set(classes) ^ set(listed["test"])))
        raise UserError(
            f"{root}: the classes of train and test differ: {differ} is in one of them only"
        )
    files = {
        part: [(path, label) for label, name in enumerate(classes) for path in listed[part][name]]
        for part in PARTS
    }
    _expect_room(sum(map(len, files.values())), size)
    key = _key(root, [path for part in PARTS for path, _ in files[part]], size)
    parts = cached(
        cache or cache_folder(), key, classes, lambda into: _decode_parts(files, size, into)
    )
    return ImageDataset(*parts, classes)


def folder_digest(root: Path) -> str:
    """Return a digest of the names and the contents of all images of a folder, and so its classes.

    It is what `open_run` takes for a run's data; how the images are decoded has no part in it.

    Args:
        root: the folder of the set, as `folder` takes it.

    Returns:
        64 hexadecimal digits.

    Raises:
        UserError: one line that names the file or folder that is wrong.
    """
    expect_paths("folder_digest", root=root)
    listed = [_listed(Path(root) / part) for part in PARTS]
    paths = [path for classes in listed for of_class in classes.values() for path in of_class]
    return _digest_of(Path(root), paths, "")


def channel_mean_std(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation of every channel of uint8 images.

    They come from the histograms of the channels: exact, and in little memory.

    Args:
        x: (n, channels, height, width) uint8.

    Returns:
        mean (channels,) and deviation (channels,), float64, in units of the pixel values; the
        deviation of a constant channel is 1.

    Raises:
        UserError: `x` is not such an array, or is empty.

    Example:
        >>> import numpy as np
        >>> from purenets.core.data.images import channel_mean_std
        >>> x = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
        >>> channel_mean_std(x)
        (array([127.5]), array([127.5]))
    """
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 4 or x.size == 0:
        about = f"{x.dtype} of shape {x.shape}" if hasattr(x, "dtype") else f"a {type(x).__name__}"
        raise UserError(f"images: {about}, needs uint8 (n, channels, height, width), not empty")
    expect_plain("images", x)
    values = np.arange(256)
    counts = np.zeros((x.shape[1], 256))
    for begin in range(0, len(x), 1000):
        channels = rearrange(np.asarray(x[begin : begin + 1000]), "n c h w -> c (n h w)")
        counts += [np.bincount(channel, minlength=256) for channel in channels]
    total = counts.sum(axis=1)
    mean = counts @ values / total
    variance = counts @ values**2 / total - mean**2
    # the difference of two large numbers rounds a small variance away; this sum does not
    centered = (counts * (values - mean[:, None]) ** 2).sum(axis=1) / total
    variance = np.where(variance < 1e-3, centered, variance)
    constant = np.count_nonzero(counts, axis=1) == 1
    return mean, np.sqrt(np.where(constant, 1.0, variance))


# --- folders --------------------------------------------------------------------------------------


def _expect_size(size: int) -> None:
    if not isinstance(size, int | np.integer) or size < 0:
        raise UserError(
            f"size: {size!r}, needs a positive integer (height and width), or 0 to keep the size"
        )


def _expect_room(n: int, size: int) -> None:
    """Raise a UserError for images that no memory holds once they are resized."""
    expect_room(3 * n * int(size) ** 2, f"--image_size {size:,}: {n:,} images of that size")


def _listed(part: Path) -> dict[str, list[str]]:
    """Return the paths of every class's image files, sorted; as texts, since there may be many."""
    try:
        with os.scandir(part) as entries:
            seen = sorted((entry.name, entry.is_dir()) for entry in entries)
        for name, is_folder in seen:
            if not is_folder and is_image(name):
                raise UserError(
                    f"{part / name}: is of no class; move it into a folder of its class"
                )
        names = [name for name, is_folder in seen if is_folder and name[0] != "."]
        found = {_utf8(name, part): images_in(os.fspath(part / name)) for name in names}
    except UserError:
        raise
    except (OSError, ValueError) as error:  # a ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"{part}: cannot be read ({reason}); needs a folder for each class with its images"
        ) from error
    if not found:
        raise UserError(f"{part}: holds no class folders; needs CLASS/*.png or CLASS/*.jpg")
    for name, paths in found.items():
        if not paths:
            raise UserError(f"{part / name}: holds no images (*.png, *.jpg)")
    return found


def _utf8(name: str, part: Path) -> str:
    """Return the name of a class, which is printed and written to files."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{part / name}: the name of this class is not UTF-8; rename the folder"
        ) from error
    return name


def _key(root: Path, paths: Sequence[str], size: int) -> str:
    """Return a digest of all names below `root`, all contents, and of how they are decoded."""
    from PIL import Image

    about = f"{FORMAT} {size} {Image.__version__}"
    return _digest_of(root, paths, about)[:32]


def _digest_of(root: Path, paths: Sequence[str], about: str) -> str:
    digest = hashlib.sha256(about.encode())
    for path, content in zip(paths, _in_threads(_content_digest, paths), strict=True):
        name = os.fsencode(os.path.relpath(path, root).replace(os.sep, "/"))
        digest.update(name + b"\0" + content)
    return digest.hexdigest()


def _content_digest(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error


def _decode_parts(files: dict, size: int, into: Path) -> None:
    """Fill `into` with {train,test}_{x,y}.npy, decoding in parallel."""
    every = [path for part in PARTS for path, _ in files[part]]
    channels = 1 if all(_in_threads(is_gray, every)) else 3
    shape = (channels, *decoded(every[0], size).shape[1:])
    for part in PARTS:
        paths, labels = zip(*files[part], strict=True)
        brightest = np.zeros(len(paths), np.uint8)
        x = np.lib.format.open_memmap(into / f"{part}_x.npy", "w+", np.uint8, (len(paths), *shape))

        def fill(i, x=x, paths=paths, brightest=brightest):
            x[i] = _of_shape(decoded(paths[i], size), shape, paths[i])  # gray is repeated to RGB
            brightest[i] = x[i].max()

        work = _in_threads(fill, range(len(paths)))
        for _ in tqdm(work, f"decoding {part}", len(paths), unit="image", disable=None):
            pass
        _expect_light(paths, brightest)
        x.flush()
        np.save(into / f"{part}_y.npy", np.array(labels, np.int64))


def _expect_light(paths: Sequence[str], brightest: np.ndarray) -> None:
    """Raise a UserError for 16-bit images whose values are so small that all are 0 or 1 now.

    Warn of values of 14 bits or fewer, as of medical images: few of the 256 grays are left.
    """
    most = int(brightest.max())
    path = paths[int(np.argmax(brightest))]
    if most >= DARK or not is_wide(path):
        return
    dark = (
        f"{path}: has 16 bits, of which 65535 is white, but this and all other images of the part"
    )
    if most <= 1:
        raise UserError(
            f"{dark} are so dark that their pixels become 0 or 1; save 8-bit values with 8 bits"
        )
    warn(f"{dark} are so dark that {most + 1} grays are left; multiply 12-bit values by 16")


def _of_shape(pixels: np.ndarray, shape: tuple, path: str) -> np.ndarray:
    if pixels.shape[1:] != shape[1:]:
        height, width = pixels.shape[1:]
        raise UserError(
            f"{path}: is {width} x {height}, others are {shape[2]} x {shape[1]}; resize all "
            "with --image_size"
        )
    return pixels


def _in_threads(f: Callable, items: Iterable) -> Iterable:
    """Yield `f` of each item, in order; the first error cancels what is not begun."""
    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from pool.map(f, items)
    finally:
        pool.shutdown(cancel_futures=True)
