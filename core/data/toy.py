"""Toy sets from scikit-learn, drawn from a seed, and sets from a CSV file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from purenets.core import random
from purenets.core.base import Array, UserError
from purenets.core.data.tasks import Dataset, prepare


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


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


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
