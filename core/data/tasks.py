"""Data sets for classification: checked, split by a key, standardized on the training part only."""

from typing import NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arrays import to_host
from purenets.core.base import Array, Batch, UserError


class Dataset(NamedTuple):
    """A classification task: inputs (n, features) float, targets (n,) int64."""

    train: Batch
    test: Batch
    n_features: int
    n_classes: int


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


# --- the sets ---------------------------------------------------------------------------------------------
