"""Images on a device: loaded, split and normalized."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from purenets.core import data, random
from purenets.core.arguments import FRACTION, expect_integers, expect_paths, expect_reals
from purenets.core.base import Batch, UserError
from purenets.core.data import images
from purenets.core.data.images import ImageDataset, channel_mean_std
from purenets.torch_nets.convert import expect_device

SOURCES = ("cifar10", "folder", "digits")
WAYS_OUT = (
    "either run it with a network, or give a folder of images by --data folder --data_dir DIR "
    "(DIR/{train,test}/CLASS/*.png or *.jpg), or take --data digits, which is always there"
)


class ImageTask(NamedTuple):
    """Images as uint8 tensors on a device: a training, a validation and a test part."""

    train: Batch
    valid: Batch
    test: Batch
    classes: tuple[str, ...]
    normalize: Callable[
        [Tensor], Tensor
    ]  # uint8 (batch, C, H, W) -> float32, by train's mean and deviation


def load(source: str, data_dir: str, size: int = 0) -> ImageDataset:
    """Return the images of a source.

    Args:
        source: "cifar10", "folder" or "digits".
        data_dir: the folder of "folder", and where "cifar10" is kept.
        size: height and width to resize to; 0 for no change. CIFAR-10 is always 32 x 32.

    Returns:
        An `ImageDataset`: train and test, uint8 images (n, C, H, W) and class numbers (n,), and the
        names of the classes.

    Raises:
        UserError: the source is unknown, or its images cannot be read.

    Example:
        >>> from purenets.torch_nets.images import load
        >>> digits = load("digits", data_dir="")
        >>> digits.train[0].shape[1:], len(digits.classes)
        ((1, 8, 8), 10)
    """
    if not isinstance(source, str) or source not in SOURCES:
        raise UserError(f"data: unknown {source!r}, choose from {', '.join(SOURCES)}")
    expect_paths("load", data_dir=data_dir)
    if source == "folder":
        return images.folder(Path(data_dir), size)
    if source == "digits":
        return images.digits(size)
    if size not in (0, 32):
        raise UserError(
            f"image_size: {size}, but the images of cifar10 are 32 x 32 and are not resized; needs "
            "0 or 32"
        )
    return cifar10(Path(data_dir))


def cifar10(root: Path) -> ImageDataset:
    """Return torchvision's CIFAR-10, downloaded and checked where it is missing.

    Args:
        root: the folder that holds it.

    Returns:
        An `ImageDataset` of 50,000 and 10,000 images (3, 32, 32).

    Raises:
        UserError: it is not there and cannot be downloaded.

    Source:
        Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(root, train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--data cifar10: neither in {root} nor to be downloaded ({reason}); {WAYS_OUT}"
        ) from error
    pixels = [np.ascontiguousarray(rearrange(part.data, "n h w c -> n c h w")) for part in parts]
    targets = [np.array(part.targets, np.int64) for part in parts]
    return ImageDataset(*zip(pixels, targets, strict=True), tuple(parts[0].classes))


def expect_images(function: str, found: ImageDataset) -> None:
    """Raise a UserError for what is no `ImageDataset`."""
    fields = ("train", "test", "classes")
    if not all(hasattr(found, field) for field in fields):
        kind = type(found).__name__
        raise UserError(f"{function}: found is a {kind}, needs an ImageDataset, as load returns it")


def _expect_pixels(name: str, x: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise a UserError for images that are not uint8, or not of the shape of those to train on."""
    if not isinstance(x, np.ndarray) or x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:] != shape:
        sizes = ", ".join(map(str, shape)) if len(shape) == 3 else "channels, height, width"
        about = f"{x.dtype} of shape {tuple(x.shape)}"
        raise UserError(f"{name}: images of {about}, needs uint8 (n, {sizes})")


def _split_rows(y: np.ndarray, key, valid_fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those held out, of targets `y`.

    Rows that are sorted by class, as those of a folder, are shuffled: the first ones are used alone
    in some places, as for statistics or with `n_train`.
    """
    rows = np.arange(len(y))
    if not valid_fraction:
        is_sorted = y[0] != y[-1] and bool((y[:-1] <= y[1:]).all())
        return random.permutation(key, len(y)) if is_sorted else rows, rows[:0]
    try:
        (train_rows, _), (valid_rows, _) = data.split((rows, rows), key, valid_fraction)
    except UserError as error:
        raise UserError(str(error).replace("test_fraction", "valid_fraction")) from error
    return train_rows, valid_rows


def prepare(
    found: ImageDataset, key, valid_fraction: float, device="cpu", n_train: int = 0
) -> ImageTask:
    """Return images on a device, with a validation part and a normalization by the training part.

    Args:
        found: an `ImageDataset`, uint8 images and class numbers.
        key: of the split.
        valid_fraction: the part of the training images that is held out; 0 for none.
        device: where the tensors go.
        n_train: keep only so many training images; 0 for all.

    Returns:
        An `ImageTask` with the parts `train`, `valid` and `test`, `classes` and `normalize`.

    Raises:
        UserError: images or class numbers are wrong, or an argument is out of range.

    Example:
        >>> from purenets import random
        >>> from purenets.torch_nets.images import load, prepare
        >>> task = prepare(load("digits", ""), random.key(0), valid_fraction=0.1)
        >>> x = task.normalize(task.train[0])
        >>> x.shape[1:], bool(x.mean().abs() < 1e-3)
        (torch.Size([1, 8, 8]), True)
    """
    expect_images("prepare", found)
    expect_integers("prepare", 0, n_train=n_train)
    expect_reals("prepare", FRACTION, valid_fraction=valid_fraction)
    expect_device("prepare", device)
    for name, part in zip(("train", "test"), found, strict=False):
        data.check(part, len(found.classes), name)
        _expect_pixels(name, part[0], found.train[0].shape[1:])
    train_rows, valid_rows = _split_rows(found.train[1], key, valid_fraction)
    if n_train > len(train_rows):
        raise UserError(f"n_train {n_train}: there are {len(train_rows)} images to train on")
    train_rows = train_rows[:n_train] if n_train else train_rows
    x, y = found.train
    parts = (
        (x[train_rows], y[train_rows]),
        (x[valid_rows], y[valid_rows]),
        tuple(map(np.array, found.test)),
    )
    mean, deviation = (
        rearrange(torch.tensor(a, dtype=torch.float32, device=device), "c -> 1 c 1 1")
        for a in channel_mean_std(parts[0][0])
    )

    def normalize(x: Tensor) -> Tensor:
        return (x.float() - mean) / deviation

    tensors = (tuple(torch.as_tensor(array, device=device) for array in part) for part in parts)
    return ImageTask(*tensors, found.classes, normalize)
