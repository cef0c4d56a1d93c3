"""Data sets for classification: checked, split by a key, standardized on the training part only."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from purenets.core import random
from purenets.core.arguments import ANY, expect_integers, expect_numbers, expect_reals
from purenets.core.arrays import expect_plain, to_host
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.checks import expect_examples
from purenets.core.data.labels import expect_classes, expect_names, number_labels
from purenets.core.data.scaling import Scaling, scaling_of
from purenets.core.memory import expect_room
from purenets.core.runs.notes import warn


class _Parts(NamedTuple):
    train: Batch
    test: Batch
    n_features: int
    n_classes: int


DTYPES = ("float16", "float32", "float64")  # of standardized inputs


class Dataset(_Parts):
    """A classification task: the tuple (train, test, n_features, n_classes), and how it was made.

    Args:
        train: inputs (n, features) floating point, and targets (n,) int64.
        test: the same for the examples that were held out.
        n_features: how many there are.
        n_classes: how many there are.
        scaling: the map that standardized the inputs, None if there is none.
        classes: the label of each class, by its number; None for the numbers themselves.

    Attributes:
        classes: the labels, a tuple: class i of the targets and logits is `classes[i]`.
        mean, std: those of each feature of the training part before it was standardized.
    """

    scaling: Scaling | None
    classes: tuple

    def __new__(
        cls, train, test, n_features, n_classes, *, scaling=None, classes: Sequence | None = None
    ):
        self = super().__new__(cls, train, test, n_features, n_classes)
        self.scaling = scaling
        if classes is None:
            expect_room(40 * int(n_classes), f"{n_classes:,} classes", "take a smaller n_classes")
            classes = range(n_classes)
        self.classes = tuple(classes)
        return self

    def _replace(self, **fields) -> "Dataset":
        """Return the set with other fields, by name."""
        about = {"scaling": self.scaling, "classes": self.classes}
        return Dataset(**(self._asdict() | about | fields))

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of each feature of the training part, (features,) float64."""
        return self._known_scaling().mean

    @property
    def std(self) -> np.ndarray:
        """Return the deviation of each feature of the training part; 1 for a constant feature."""
        return self._known_scaling().std

    def standardize(self, x: Array) -> Array:
        """Return new examples as the net saw those of the training part.

        Args:
            x: (n, features), in the units of the data before they were standardized.

        Returns:
            (n, features) in the dtype of the training inputs, an array or tensor as `x` is.

        Raises:
            UserError: `x` is no array of finite real numbers with the features of the set.
        """
        return self._known_scaling().apply(x, self.train[0].dtype)

    def _known_scaling(self) -> Scaling:
        if self.scaling is None:
            raise UserError(
                "Dataset: made by hand, it knows no mean; see data.prepare and data.standardize"
            )
        return self.scaling


def prepare(
    batch: Batch,
    key: Array | None = None,
    test_fraction: float | None = None,
    dtype: str = "float32",
    n_classes: int | None = None,
    *,
    test: Batch | None = None,
    classes: Sequence[str | int] | None = None,
) -> Dataset:
    """Return inputs and targets as a task: checked, split, standardized on the training part only.

    The test part is `test_fraction` of the examples, drawn by the key, or a set of its own, `test`.
    Examples that arrive later are standardized in the same way by the task's `standardize`. A
    class that only the test part has is warned of, unless `n_classes` or `classes` says that it is
    meant.

    Args:
        batch: inputs (n, features), and targets (n,): class numbers, counted from 0, or names of
            classes, which are numbered in alphabetical order.
        key: the key of the split; not needed with `test`.
        test_fraction: the share of the examples that becomes the test set; not with `test`.
        dtype: the dtype of the inputs: "float16", "float32" or "float64". They are computed in
            float64 from inputs of any dtype.
        n_classes: the number of classes; None if every class has an example.
        test: inputs and targets of a test set; then all of `batch` is the training part.
        classes: the labels in the order of their numbers, names or integers, as [1, 2, 3]. None for
            class numbers, and for the names that there are.

    Returns:
        A `Dataset` of NumPy arrays. Its `classes` are the labels by class number.

    Raises:
        UserError: `check` refuses the set, a part of the split is empty, `dtype` is not floating
            point, or an argument is missing, is wrong or contradicts another.

    Example:
        >>> import numpy as np
        >>> from purenets import data, random
        >>> x = np.arange(20.0).reshape(10, 2)
        >>> task = data.prepare((x, np.arange(10) % 2), random.key(0), test_fraction=0.2)
        >>> task.train[0].shape, task.test[0].shape
        ((8, 2), (2, 2))
        >>> task.train[0].std(axis=0).round(3)
        array([1., 1.], dtype=float32)
        >>> named = np.array(["dog", "cat"] * 5)
        >>> task = data.prepare((x, named), random.key(0), test_fraction=0.2)
        >>> task.classes
        ('cat', 'dog')
        >>> new = np.array([[8.0, 9.0]])  # standardized by mean and deviation of task.train
        >>> task.standardize(new).shape
        (1, 2)
    """
    expect_float_name(dtype)
    expect_split("prepare", key, test_fraction, test)
    if classes is not None:
        expect_classes("prepare", classes, n_classes)
    labeled = classes is not None
    sets = [_pair(batch, "data", labeled)]
    if test is not None:
        sets.append(_pair(test, "test", labeled))
    sets, labels = _numbered(sets, classes)
    if labels is not None:
        expect_classes("prepare", labels, n_classes)
    known = labeled or n_classes is not None
    n_classes = _count_classes(sets, len(classes) if labeled else n_classes)
    sets = [(x, y.astype(np.int64, copy=False)) for x, y in sets]
    parts = _split(sets[0], key, "test_fraction", test_fraction) if test is None else sets
    return assemble(*parts, dtype, n_classes, labels, warns=not known)


def assemble(
    train: Batch,
    test: Batch,
    dtype: str,
    n_classes: int,
    classes: Sequence | None,
    warns: bool,
    name: str = "data",
) -> Dataset:
    """Return the two parts as a `Dataset`, standardized by the first one.

    Args:
        train, test: inputs (n, features) and class numbers (n,), checked.
        dtype: that of the inputs.
        n_classes: the number of classes.
        classes: their labels, None for their numbers.
        warns: True to warn of a class that only the test part has.
        name: what the warning calls the set, such as the file of the test part.
    """
    scaling = scaling_of(train[0])
    inputs = [scaling.apply(x, np.dtype(dtype)) for x, _ in (train, test)]
    n_features = inputs[0].shape[1]
    task = Dataset(
        (inputs[0], train[1]),
        (inputs[1], test[1]),
        n_features,
        n_classes,
        scaling=scaling,
        classes=classes,
    )
    if warns:
        _warn_of_untrained_classes(task, name)
    return task


def _warn_of_untrained_classes(task: Dataset, name: str) -> None:
    only = np.setdiff1d(task.test[1], task.train[1])
    if len(only):
        labels = ", ".join(str(task.classes[i]) for i in only[:3]) + (", ..." * (len(only) > 3))
        warn(
            f"{name}: {len(only)} of {task.n_classes} classes have no example in the training "
            f"part ({labels}), only in the test part",
            "n_classes or classes says that this is meant",
        )


def expect_split(function: str, key: Any, test_fraction: Any, test: Any) -> None:
    """Raise a UserError unless there is one way to the test part: a share and a key, or a set."""
    if test is not None:
        if test_fraction is not None:
            raise UserError(f"{function}: test and test_fraction are given, needs one of them")
        return
    if test_fraction is None:
        raise UserError(f"{function}: needs test_fraction, such as 0.2, or a set as test")
    expect_numbers(function, ANY, test_fraction=test_fraction)
    if key is None:
        raise UserError(f"{function}: a split needs a key, such as random.key(0)")


def _pair(batch: Batch, name: str, labeled: bool) -> Batch:
    """Return inputs and targets on the host; as a list, targets that are labels, no numbers."""
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"{name}: needs a pair (inputs, targets), got {type(batch).__name__}")
    for what, part in zip(("inputs", "targets"), batch, strict=True):  # before they become lists
        expect_plain(f"{name}: {what}", part)
    x, labels = batch[0], _labels(batch[1], name, labeled)
    if labels is None:
        expect_examples((x, batch[1]), name)
        x, y = map(to_host, batch)
    else:
        x, y = to_host(x) if hasattr(x, "shape") else x, labels
        expect_examples((x, np.zeros(len(y), np.int64)), name)
    if x.ndim != 2:
        raise UserError(f"{name}: inputs of shape {x.shape}, needs (n, features)")
    return x, y


def _labels(y: Any, name: str, labeled: bool) -> list | None:
    """Return targets that are labels, names or the integers of `classes`; None for numbers."""
    if isinstance(y, list | tuple) and y and all(isinstance(label, str) for label in y):
        return expect_names(y, name)
    if not hasattr(y, "dtype") or not hasattr(y, "shape"):
        return None  # refused by `expect_examples`
    y = to_host(y)
    if y.dtype.kind in "OU" and y.ndim == 1:
        return expect_names(y.tolist(), name)
    if y.dtype.kind in "OU":
        raise UserError(
            f"{name}: targets are names of shape {y.shape}, needs names (n,){_column_hint(y)}"
        )
    if labeled and (y.ndim != 1 or y.dtype.kind not in "iu"):
        raise UserError(
            f"{name}: targets are {y.dtype} of shape {y.shape}, needs the labels in `classes` "
            f"(n,){_column_hint(y)}"
        )
    return y.tolist() if labeled else None


def _column_hint(y: np.ndarray) -> str:
    return ": pass targets[:, 0]" if y.ndim == 2 and y.shape[1] == 1 else ""


def _numbered(sets: list[Batch], classes: Sequence | None) -> tuple[list[Batch], tuple | None]:
    """Return the sets with class numbers in place of labels, and the labels by class number."""
    ys = [y for _, y in sets]
    if not any(isinstance(y, list) for y in ys):
        return sets, None
    if not all(isinstance(y, list) for y in ys):
        raise UserError("test: targets are names in one of data and test, needs them in both")
    n = len(ys[0])
    found, labels = number_labels(
        [label for y in ys for label in y],
        classes,
        lambda i: f"data: target {i}" if i < n else f"test: target {i - n}",
    )
    parts = np.split(found, [n])[: len(sets)]
    return [(x, part) for (x, _), part in zip(sets, parts, strict=True)], labels


def _count_classes(sets: list[Batch], n_classes: int | None) -> int:
    """Return the number of classes of all sets; a UserError if one holds what is no class."""
    if len({x.shape[1:] for x, _ in sets}) > 1:
        a, b = (x.shape for x, _ in sets)
        raise UserError(f"test: inputs of shape {b}, needs as many features as data {a}")
    for (x, y), name in zip(sets, ("data", "test"), strict=False):
        _expect_integers(y, name)
        if n_classes is not None:
            check((x, y), n_classes, name)
    together = np.concatenate([y for _, y in sets])
    if n_classes is None:
        _expect_no_gap(together, "data")
    return int(together.max()) + 1 if n_classes is None else int(n_classes)


def expect_float_name(dtype: str) -> None:
    """Raise a UserError for what names no dtype that both NumPy and torch compute with."""
    try:
        good = isinstance(dtype, str | type | np.dtype) and np.dtype(dtype) in DTYPES
    except TypeError:
        good = False
    if not good:
        names = ", ".join(DTYPES[:-1])
        raise UserError(
            f"dtype: {dtype} cannot hold standardized inputs; needs {names} or {DTYPES[-1]}"
        )


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
    _expect_integers(y, name)
    last = y.max() if n_classes is None else n_classes - 1
    if y.min() < 0 or y.max() > last:
        wrong = int(y[(y < 0) | (y > last)][0])
        raise UserError(f"{name}: target {wrong} is none of the classes 0 to {last}")
    if n_classes is None:
        _expect_no_gap(y, name)
    return batch


def _expect_integers(y: np.ndarray, name: str) -> None:
    if y.ndim != 1 or y.dtype.kind not in "iub":
        raise UserError(
            f"{name}: targets must be integers of shape (n,), got {y.dtype} of shape {y.shape}"
            f"{_column_hint(y)}{'; for a regression see data.standardize' * (y.dtype.kind == 'f')}"
        )


def _expect_no_gap(y: np.ndarray, name: str) -> None:
    present = np.unique(y)
    if len(present) <= int(present[-1]):
        missing = int(np.argmax(present != np.arange(len(present))))
        raise UserError(
            f"{name}: no example has target {missing}, but one has {present[-1]}; number the "
            f"classes from 0 without a gap, or say n_classes{_classes_hint(present)}"
        )


def _classes_hint(present: np.ndarray) -> str:
    """Return how to number the labels that there are, if they are few."""
    return f" or, for prepare, classes={present.tolist()}" if len(present) <= 10 else ""


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
    for part in batch:
        expect_plain("split", part)
    if not all(getattr(part, "shape", ()) for part in batch):
        raise UserError("split: needs arrays of inputs and targets (n, ...)")
    expect_reals("split", ANY, fraction=fraction)
    random.check_key(key)
    if len(batch[0]) != len(batch[1]):
        a, b = map(len, batch)
        raise UserError(f"split: {a} inputs and {b} targets; needs as many of both")
    return _split(batch, key, "split: fraction", fraction)


def _split(batch: Batch, key: Array, name: str, fraction: float) -> tuple[Batch, Batch]:
    """Return the examples in two random parts; `name` is what a message calls the fraction."""
    n = len(batch[1])
    second = round(n * float(fraction)) if 0 <= fraction <= 1 else 0  # also where it is no number
    if not 0 < second < n:
        raise UserError(
            f"{name}: {fraction}, needs a number between 0 and 1 that leaves examples in both "
            f"parts of {n}"
        )
    order = random.permutation(key, n)
    return tuple(tuple(part[rows] for part in batch) for rows in (order[second:], order[:second]))
