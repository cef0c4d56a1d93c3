"""Toy data from scikit-learn: drawn from a key, split, standardized on train only; and batches of it.

`batches` is a pure function of a key and the step, so any step of any run can be created again.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arrays import namespace, to_host
from purenets.core.base import Array, Batch, UserError


class Dataset(NamedTuple):
    """A classification task: inputs (n, features) float, targets (n,) int64."""

    train: Batch
    test: Batch
    n_features: int
    n_classes: int


def load(
    name: str,
    key: Array,
    *,
    n: int = 1000,
    noise: float | None = None,
    test_fraction: float = 0.2,
    dtype: str = "float32",
) -> Dataset:
    """The toy set `name`, one of DATASETS, split and standardized.

    noise: the deviation of the noise, or None for the set's own (real sets have none to set).
    """
    if name not in DATASETS:
        raise UserError(f"dataset: unknown {name!r}, choose from {', '.join(DATASETS)}")
    draw_key, split_key = random.split(key)
    seed = int(random.bits(draw_key, 1)[0])
    return prepare(DATASETS[name](n, noise, seed), split_key, test_fraction, dtype)


def from_csv(path: Path, key: Array, test_fraction: float = 0.2, dtype: str = "float32") -> Dataset:
    """A set from a file of numbers with commas between: features, then the class (0, 1, ...) as an integer.
    A first line of names is skipped."""
    try:
        lines = [line.split(",") for line in Path(path).read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    if lines and not any(map(_is_number, lines[0])):
        lines = lines[1:]
    if len(lines) < 2:
        raise UserError(f"{path}: needs at least two rows of numbers")
    for number, cells in enumerate(lines, start=1):
        if len(cells) != len(lines[0]) or len(cells) < 2 or not all(map(_is_number, cells)):
            raise UserError(f"{path}: row {number} is not {max(len(lines[0]), 2)} numbers: {','.join(cells)}")
    table = np.array(lines, dtype=float)
    y = table[:, -1]
    if not ((y == np.floor(y)) & (y >= 0) & (y < 2**31)).all():
        raise UserError(f"{path}: the last column must be the class, an integer from 0 on, below 2**31")
    return prepare((table[:, :-1], y.astype(np.int64)), random.split(key)[1], test_fraction, dtype)


def prepare(batch: Batch, key: Array, test_fraction: float, dtype: str) -> Dataset:
    """Inputs and targets as a task: checked, split, standardized on train only, inputs as `dtype`."""
    train, test = split(check(batch), key, test_fraction)
    n_classes = int(np.max(batch[1])) + 1
    with np.errstate(over="ignore"):
        train_x, test_x = (x.astype(dtype) for x in standardize(train[0], test[0]))
    for x in (train_x, test_x):
        _check_spans(np.isfinite(x).all(axis=0), dtype)
    return Dataset((train_x, train[1]), (test_x, test[1]), train_x.shape[1], n_classes)


def check(batch: Batch, n_classes: int | None = None, name: str = "data") -> Batch:
    """The batch itself; a UserError if an input is not finite or a target is no class (None: any from 0)."""
    x, y = map(to_host, batch)
    if len(x) == 0 or len(x) != len(y):
        raise UserError(f"{name}: {len(x)} inputs and {len(y)} targets; needs as many of both, at least one")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0]
        raise UserError(f"{name}: input {where[0]} has a value that is not finite: {x[tuple(where)]}")
    if y.dtype.kind not in "iu":
        raise UserError(f"{name}: targets must be integers, got {y.dtype}")
    last = y.max() if n_classes is None else n_classes - 1
    if y.min() < 0 or y.max() > last:
        wrong = int(y[(y < 0) | (y > last)][0])
        raise UserError(f"{name}: target {wrong} is none of the classes 0 to {last}")
    return batch


def split(batch: Batch, key: Array, fraction: float) -> tuple[Batch, Batch]:
    """A random (1 - fraction, fraction) of the examples; both parts hold at least one."""
    n = len(batch[1])
    second = round(n * fraction) if 0 <= fraction <= 1 else 0  # also where it is no number
    if not 0 < second < n:
        raise UserError(f"test_fraction: {fraction} of {n} examples leaves a part empty")
    order = random.permutation(key, n)
    return tuple(tuple(part[rows] for part in batch) for rows in (order[second:], order[:second]))


def standardize(train: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean 0 and deviation 1 on `train`, the same map on the others; constant features stay constant 0.
    A UserError names a feature whose values are too far apart for that."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean, deviation = train.mean(axis=0), train.std(axis=0)
        _check_spans(np.isfinite(mean + deviation), "float64")
        deviation = np.where(deviation > 0, deviation, 1)
        return tuple((x - mean) / deviation for x in (train, *others))


def _check_spans(good: np.ndarray, dtype: str) -> None:
    if not good.all():
        raise UserError(
            f"data: the values of feature {np.argmin(good)} are too far apart to be standardized in {dtype}"
        )


def batches(data: Batch, batch_size: int = 0, key: Array | None = None) -> Callable[[int], Batch]:
    """The function from the step (from 0) to its batch.

    batch_size: 0 is full-batch (the data as they are), 1 single-sample, anything between mini-batches. The
    examples come in permutations, one after the other without a gap: every batch is full, each example is
    seen once in every `len(data)` draws, and the step alone says which.
    """
    x, y = data
    n = x.shape[0]
    check(data)
    if batch_size < 0:
        raise UserError(f"batch_size: {batch_size} is negative; 0 is full-batch")
    if batch_size == 0:
        return lambda step: data
    if key is None:
        raise UserError("batches: a batch_size needs a key")
    host_key, place = np.asarray(key), _index_like(x)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int):
        return place(random.permutation(random.fold_in(host_key, epoch), n))

    def batch_at(step: int) -> Batch:
        epoch, offset = divmod(step * batch_size, n)
        if offset + batch_size <= n:
            rows = order(epoch)[offset : offset + batch_size]
        else:
            rows = _run(order, epoch, offset, batch_size, n)
        return x[rows], y[rows]

    return batch_at


def steps_per_epoch(data: Batch, batch_size: int) -> float:
    """Steps until each example has been seen once; not an integer where the last batch straddles epochs."""
    return data[0].shape[0] / batch_size if batch_size else 1


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _run(order, epoch: int, offset: int, length: int, n: int) -> Array:
    """`length` rows from `offset` in the permutation `epoch` on, over as many permutations as it takes."""
    parts = []
    while length > 0:
        parts.append(order(epoch)[offset : offset + length])
        length -= parts[-1].shape[0]
        epoch, offset = epoch + 1, 0
    return namespace(parts[0]).concat(parts)


def _index_like(x: Array) -> Callable[[np.ndarray], Array]:
    xp = namespace(x)
    return lambda rows: xp.asarray(rows, device=x.device)


# --- the sets ---------------------------------------------------------------------------------------------


def _points(make: Callable, default_noise: float, argument: str = "noise", **fixed) -> Callable:
    """A set of points in the plane made by a function of sklearn.datasets."""

    def draw(n, noise, seed):
        from sklearn import datasets

        noise = default_noise if noise is None else noise
        return getattr(datasets, make)(n, random_state=seed, **{argument: noise}, **fixed)

    return draw


def _real(make: str) -> Callable:
    """All of a real set that scikit-learn carries."""

    def draw(n, noise, seed):
        from sklearn import datasets

        if noise is not None:
            raise UserError(f"noise: {make.removeprefix('load_')} is a real set, it takes no noise")
        return getattr(datasets, make)(return_X_y=True)

    return draw


def _spirals(n, noise, seed):
    """Three interleaved spirals, one class each."""
    generator = np.random.default_rng(seed)
    y = np.arange(n) % 3
    radius = generator.uniform(0.1, 1, n)
    angle = 4 * radius + y * 2 * np.pi / 3 + generator.normal(0, 0.2 if noise is None else noise, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), y


DATASETS: dict[str, Callable] = {
    "moons": _points("make_moons", 0.1),
    "circles": _points("make_circles", 0.1, factor=0.5),
    "blobs": _points("make_blobs", 1.0, "cluster_std", centers=3),
    "overlap": _points("make_blobs", 2.0, "cluster_std", centers=[[0, 0], [4, 0], [0, 4], [4, 4]]),
    "spirals": _spirals,
    "digits": _real("load_digits"),
    "iris": _real("load_iris"),
    "wine": _real("load_wine"),
}
