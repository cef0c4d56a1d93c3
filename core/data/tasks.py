"""Data sets for classification: checked, split by a key, standardized on the training part only."""

from typing import NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arguments import ANY, expect_integers, expect_numbers, expect_reals
from purenets.core.arrays import like, namespace, to_host
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.checks import expect_examples, kind_of

ROUNDINGS = (
    4.0  # a spread of so many units in the last place of a feature is noise, not information
)


class Dataset(NamedTuple):
    """A classification task: train and test, pairs of inputs and targets.

    Args:
        train: inputs (n, features) floating point, and targets (n,) int64.
        test: the same for the examples that were held out.
        n_features: how many there are.
        n_classes: how many there are.
    """

    train: Batch
    test: Batch
    n_features: int
    n_classes: int


def prepare(
    batch: Batch,
    key: Array,
    test_fraction: float,
    dtype: str = "float32",
    n_classes: int | None = None,
) -> Dataset:
    """Return inputs and targets as a task: checked, split, standardized on the training part only.

    Args:
        batch: inputs (n, features) and class numbers (n,), counted from 0.
        key: the key of the split.
        test_fraction: the share of the examples that becomes the test set.
        dtype: the dtype of the inputs, "float32" or "float64".
        n_classes: the number of classes; None if every class has an example.

    Returns:
        A `Dataset` of NumPy arrays.

    Raises:
        UserError: `check` refuses the set, a part of the split is empty, or `dtype` is not
            floating point.

    Example:
        >>> import numpy as np
        >>> from purenets import data, random
        >>> x = np.arange(20.0).reshape(10, 2)
        >>> task = data.prepare((x, np.arange(10) % 2), random.key(0), test_fraction=0.2)
        >>> task.train[0].shape, task.test[0].shape
        ((8, 2), (2, 2))
        >>> task.train[0].std(axis=0).round(3)
        array([1., 1.], dtype=float32)
    """
    if not _is_float(dtype):
        raise UserError(f"dtype: {dtype} cannot hold standardized inputs; needs float32 or float64")
    expect_numbers("prepare", ANY, test_fraction=test_fraction)
    x, y = map(to_host, check(batch, n_classes))
    if x.ndim != 2:
        raise UserError(f"data: inputs of shape {x.shape}, needs (n, features)")
    n_classes = int(np.max(y)) + 1 if n_classes is None else n_classes
    train, test = split((x, y.astype(np.int64, copy=False)), key, test_fraction)
    with np.errstate(over="ignore"):
        train_x, test_x = (x.astype(dtype) for x in standardize(train[0], test[0]))
    for x in (train_x, test_x):
        _check_spans(np.isfinite(x).all(axis=0), dtype)
    return Dataset((train_x, train[1]), (test_x, test[1]), train_x.shape[1], n_classes)


def _is_float(dtype: str) -> bool:
    """Return True for the name of a floating-point dtype of NumPy."""
    try:
        return isinstance(dtype, str | type | np.dtype) and np.dtype(dtype).kind == "f"
    except TypeError:
        return False


def check(batch: Batch, n_classes: int | None = None, name: str = "data") -> Batch:
    """Return a set for classification unchanged, or say in one line what is wrong with it.

    Args:
        batch: inputs (n, ...), all finite, and class numbers (n,), counted from 0.
        n_classes: the number of classes; some may have no example. None: the largest class number
            plus 1. Then every class must have an example, so that a stray number such as 1,000,000
            is refused.
        name: what the message of an error calls the set.

    Returns:
        The batch.

    Raises:
        UserError: one line that names the example or the class that is wrong.

    Example:
        >>> import numpy as np
        >>> from purenets import data
        >>> x, y = data.check((np.zeros((3, 2)), np.array([0, 2, 1])))
        >>> data.check((x, np.array([0, 2, 2])))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        purenets.core.base.UserError: data: no example has target 1, but one has 2; ...
    """
    expect_examples(batch, name)
    if n_classes is not None:
        expect_integers(name, 1, n_classes=n_classes)
    y = to_host(batch[1])
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise UserError(
            f"{name}: targets must be integers of shape (n,), got {y.dtype} of shape {y.shape}"
        )
    last = y.max() if n_classes is None else n_classes - 1
    if y.min() < 0 or y.max() > last:
        wrong = int(y[(y < 0) | (y > last)][0])
        raise UserError(f"{name}: target {wrong} is none of the classes 0 to {last}")
    if n_classes is None:
        _expect_no_gap(y, name)
    return batch


def _expect_no_gap(y: np.ndarray, name: str) -> None:
    present = np.unique(y)
    if len(present) <= int(present[-1]):
        missing = int(np.argmax(present != np.arange(len(present))))
        raise UserError(
            f"{name}: no example has target {missing}, but one has {present[-1]}; number the "
            "classes from 0 "
            "without a gap, or say n_classes"
        )


def split(batch: Batch, key: Array, fraction: float) -> tuple[Batch, Batch]:
    """Return the examples in two random parts, (1 - fraction) and `fraction` of them.

    Args:
        batch: inputs (n, ...) and targets (n, ...).
        key: the key of the permutation.
        fraction: the share of the second part.

    Returns:
        Two pairs (inputs, targets). Both hold at least one example.

    Raises:
        UserError: one of the parts would be empty, or inputs and targets differ in length.

    Example:
        >>> import numpy as np
        >>> from purenets import data, random
        >>> x = np.arange(5)
        >>> (train, _), (test, _) = data.split((x, x), random.key(0), fraction=0.4)
        >>> train, test
        (array([2, 4, 0]), array([3, 1]))
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"split: a {type(batch).__name__}, needs a pair (inputs, targets)")
    if not all(getattr(part, "shape", ()) for part in batch):
        raise UserError("split: needs arrays of inputs and targets (n, ...)")
    expect_reals("split", ANY, test_fraction=fraction)
    random.check_key(key)
    n = len(batch[1])
    if len(batch[0]) != n:
        raise UserError(f"split: {len(batch[0])} inputs and {n} targets; needs as many of both")
    second = round(n * fraction) if 0 <= fraction <= 1 else 0  # also where it is no number
    if not 0 < second < n:
        raise UserError(f"test_fraction: {fraction} of {n} examples leaves a part empty")
    order = random.permutation(key, n)
    return tuple(tuple(part[rows] for part in batch) for rows in (order[second:], order[:second]))


# --- standardization ------------------------------------------------------------------------------


def standardize(train: Array, *others: Array) -> tuple[Array, ...]:
    """Return `train` with mean 0 and deviation 1 in every feature, and the others by the same map.

    A feature is constant if its values on `train` differ by no more than rounding (4 units in the
    last place of their dtype). It becomes 0; in the other arrays, the difference from its value on
    `train`.

    Args:
        train: (n, features), real numbers. Computed in float64.
        others: arrays (m, features), such as the test set.

    Returns:
        As many arrays, each in its own dtype (integers as float64).

    Raises:
        UserError: there are no examples, the features differ in number, or a value is not finite or
            too large.

    Example:
        >>> import numpy as np
        >>> from purenets import data
        >>> train, test = data.standardize(np.array([[1.0], [3.0]]), np.array([[2.0], [5.0]]))
        >>> train.ravel(), test.ravel()
        (array([-1.,  1.]), array([0., 3.]))
    """
    arrays = (train, *others)
    for array in arrays:
        if not hasattr(array, "dtype") or not hasattr(array, "shape"):
            raise UserError(f"standardize: a {type(array).__name__}, needs an array (n, features)")
    parts = [_as_float64(array, train) for array in arrays]
    rounding = ROUNDINGS * _epsilon(train) * np.abs(parts[0]).max(axis=0)
    with np.errstate(all="ignore"):
        constant = np.ptp(parts[0], axis=0) <= rounding
        exponent, shift, mean, deviation = _statistics(parts[0], constant)
        # exponent and shift are 0 for most features, and then change no bit
        found = [np.ldexp(x, -exponent) - shift - mean for x in parts]
        found = [np.where(constant & (np.abs(x) <= rounding), 0.0, x) / deviation for x in found]
    for x in found:
        _check_spans(np.isfinite(x).all(axis=0), "float64")
    return tuple(_like_given(x, given) for x, given in zip(found, arrays, strict=True))


def _statistics(x: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return exponent, shift, mean and deviation: z = (x / 2**exponent - shift - mean) / deviation.

    Most features have exponent 0 and shift 0. Where rounding would spoil the mean (an offset that
    is large against the deviation), or squares would leave the range of float64, the feature is
    divided by a power of two, which is exact, and its first value is subtracted, before its mean
    and deviation are taken.
    """
    mean, deviation, largest = x.mean(axis=0), x.std(axis=0), np.abs(x).max(axis=0)
    rounding_of_mean = len(x) * np.finfo(np.float64).eps * largest  # a bound
    plain = constant | (
        (rounding_of_mean <= 1e-8 * deviation) & (largest < 1e100) & (deviation > 1e-100)
    )
    exponent = np.where(plain, 0, np.frexp(largest)[1])
    scaled = np.ldexp(x, -exponent)
    shift = np.where(plain, 0.0, scaled[0])
    scaled -= shift
    mean = np.where(plain, mean, scaled.mean(axis=0))
    deviation = np.where(plain, deviation, scaled.std(axis=0))
    return exponent, shift, np.where(constant, x[0], mean), np.where(constant, 1.0, deviation)


def _as_float64(x: Array, train: Array) -> np.ndarray:
    if x.ndim < 1 or kind_of(x) not in "bif" or x.shape[1:] != train.shape[1:]:
        raise UserError(
            f"standardize: {x.dtype} of shape {tuple(x.shape)}, needs real numbers (n, "
            "features) with the "
            f"features of train {tuple(train.shape)}"
        )
    if train.shape[0] == 0:
        raise UserError("standardize: no examples in train; needs at least one")
    if not isinstance(x, np.ndarray):
        x = to_host(namespace(x).astype(x, namespace(x).float64))
    x = x.astype(np.float64, copy=False)
    if not np.isfinite(x).all():
        raise UserError(
            f"standardize: a value of example {np.argwhere(~np.isfinite(x))[0][0]} is not finite"
        )
    return x


def _epsilon(x: Array) -> float:
    return float(namespace(x).finfo(x.dtype if kind_of(x) == "f" else namespace(x).float64).eps)


def _like_given(x: np.ndarray, given: Array) -> Array:
    """Return `x` in the library and dtype of what was given; float64 for integers."""
    if kind_of(given) == "f":
        return like(x, given)
    return x if isinstance(given, np.ndarray) else namespace(given).asarray(x, device=given.device)


def _check_spans(good: np.ndarray, dtype: str) -> None:
    if not good.all():
        feature = np.argmin(good) if good.ndim else 0
        raise UserError(
            f"data: the values of feature {feature} are too far apart to be standardized in {dtype}"
        )
