"""Toy sets from scikit-learn, drawn from a seed."""

from collections.abc import Callable

import numpy as np

from purenets.core import random
from purenets.core.arguments import ANY, expect_reals, is_integer
from purenets.core.base import Array, UserError
from purenets.core.data.tasks import Dataset, prepare
from purenets.core.memory import expect_room

BYTES = 200  # an example takes, drawn, split and standardized in float64


def load(
    name: str,
    key: Array,
    *,
    n: int = 1000,
    noise: float | None = None,
    test_fraction: float = 0.2,
    dtype: str = "float32",
) -> Dataset:
    """Return a toy set by name, split and standardized as `prepare` does it.

    Args:
        name: one of `data.DATASETS`: "moons", "circles", "blobs", "overlap", "spirals" are drawn;
            "digits", "iris", "wine" are real sets that scikit-learn holds.
        key: the key of the draws and of the split.
        n: how many examples to draw; a real set has its own number.
        noise: the standard deviation of the noise; None for the set's own. A real set takes none.
        test_fraction: the share of the examples that becomes the test set.
        dtype: the dtype of the inputs: "float16", "float32" or "float64".

    Returns:
        A `Dataset`: train and test, inputs (n, features) and targets (n,) int64.

    Raises:
        UserError: one line that names the argument that is wrong.

    Example:
        >>> from purenets import data, random
        >>> task = data.load("moons", random.key(0), n=100)
        >>> task.train[0].shape, task.test[0].shape, task.n_classes
        ((80, 2), (20, 2), 2)

    Source:
        sklearn.datasets.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise UserError(f"dataset: unknown {name!r}, choose from {', '.join(DATASETS)}")
    if not is_integer(n) or n < 2:
        raise UserError(f"n: {n!r} examples make no set; needs an integer from 2 on")
    if noise is not None:
        expect_reals("load", ANY, noise=noise)
    if noise is not None and not 0 <= noise < float("inf"):
        raise UserError(f"noise: {noise} is no deviation; needs a finite number from 0 on")
    expect_room(BYTES * n, f"n: a set of {n:,} examples")
    draw_key, split_key = random.split(random.check_key(key))
    seed = int(random.bits(draw_key, 1)[0])
    return prepare(DATASETS[name](n, noise, seed), split_key, test_fraction, dtype)


def _points(make: Callable, default_noise: float, argument: str = "noise", **fixed) -> Callable:
    """Return the draw of points in the plane, made by a function of sklearn.datasets."""

    def draw(n, noise, seed):
        from sklearn import datasets

        noise = default_noise if noise is None else noise
        return getattr(datasets, make)(n, random_state=seed, **{argument: noise}, **fixed)

    return draw


def _real(make: str) -> Callable:
    """Return the draw of all examples of a real set that scikit-learn holds."""

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


CORNERS, CORNER_SD = ((0, 0), (4, 0), (0, 4), (4, 4)), 2.0  # the classes of "overlap"
REAL = ("digits", "iris", "wine")  # of their own size, without noise to choose
DATASETS: dict[str, Callable] = {
    "moons": _points("make_moons", 0.1),
    "circles": _points("make_circles", 0.1, factor=0.5),
    "blobs": _points("make_blobs", 1.0, "cluster_std", centers=3),
    "overlap": _points("make_blobs", CORNER_SD, "cluster_std", centers=list(map(list, CORNERS))),
    "spirals": _spirals,
    "digits": _real("load_digits"),
    "iris": _real("load_iris"),
    "wine": _real("load_wine"),
}
