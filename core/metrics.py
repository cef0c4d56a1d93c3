"""Metrics of predictions, beside the loss, for NumPy arrays and torch tensors alike.

    accuracy, top_k_accuracy(k), expected_calibration_error   class scores, class numbers
    binary_accuracy                                           scores of yes or no, one logit
    r2                                                        numbers, numbers

Each is `f(predictions, targets) -> a scalar float32 array` and raises a UserError for shapes that
mean something else. Nothing branches on a value, so all run under vmap and jit. All but
`expected_calibration_error` and `r2` are means over the examples: the mean of their values on equal
parts of a set is the value on the whole. Those two have `mean_over_examples = False`. `accuracy`
and `top_k_accuracy` are such means only if no target is ignored; their `mean_over_examples` is
therefore a function of the targets. `evaluate` reads this attribute, on your own metrics too.
`confusion` returns counts.

An example with a NaN among its scores is never right, as the index of the largest would be that of
a NaN. A class number beyond the last class is refused where its value can be read (in NumPy, and
in eager mode on a CPU); elsewhere the metric is NaN.
"""

from collections.abc import Callable

import numpy as np

from purenets.core.arguments import (
    ANY,
    attribute_of,
    expect_arrays,
    expect_integers,
    expect_numbers,
    shown,
)
from purenets.core.arrays import expect_plain, int64, is_tracing, kind_of, namespace
from purenets.core.base import Array, UserError
from purenets.core.data.checks import expect_distributions


# --- classes ------------------------------------------------------------------------------------
def accuracy(predictions: Array, targets: Array) -> Array:
    """Return the fraction of targets whose class has the largest score.

    Args:
        predictions: (batch, classes, ...), scores of any scale for two or more classes.
        targets: (batch, ...) class numbers, or (batch, classes, ...) one-hot or soft labels. Class
            numbers below 0, such as the -100 that torch's losses ignore, are not counted.

    Returns:
        A scalar, float32; NaN if no target counts.

    Raises:
        UserError: the shapes do not fit, or mean no classes: one score for each example
            (`binary_accuracy`), or numbers as targets (`r2`); a target is beyond the last class.

    Example:
        >>> import numpy as np
        >>> from purenets import accuracy
        >>> scores = np.array([[2.0, 1.0], [0.0, 3.0], [0.5, 0.1], [0.3, 0.2]])
        >>> accuracy(scores, np.array([0, 1, 1, -100]))  # two of three
        np.float32(0.6666667)
    """
    classes = _classes("accuracy", predictions, targets)
    return _mean_of_counted(_hits(predictions, classes), classes, predictions.shape[1])


def none_ignored(targets: Array) -> bool:
    """Return True unless targets, whose values may be read, hold a class number below 0."""
    if not hasattr(targets, "dtype") or not _is_integer(targets):
        return True
    if not isinstance(targets, np.ndarray) and is_tracing():
        return True
    return not bool((int64(targets) < 0).any())


accuracy.mean_over_examples = none_ignored


def is_mean_of(f: Callable, targets: Array) -> bool:
    """Return what `f.mean_over_examples` says of a metric and its targets; without it, True."""
    rule = attribute_of(f, "mean_over_examples", True)
    return rule(targets) if callable(rule) else bool(rule)


def _hits(predictions: Array, classes: Array) -> Array:
    """Return whether the largest score is that of the class; not so where a score is NaN."""
    hits = predictions.argmax(1) == classes
    if isinstance(predictions, np.ndarray):
        largest = predictions.max(axis=1)
        return hits if predictions.dtype.kind != "f" else hits & (largest == largest)
    largest = predictions.amax(1)  # NaN if one of them is
    return hits & (largest == largest)


def class_accuracy(predictions: Array, targets: Array) -> Array:
    """Return `accuracy` for a loss of classes, as a training step reports it.

    It is cheaper than `accuracy`: no target is ignored, since such a loss takes none below 0. A
    single class is allowed; it is always right.

    Args:
        predictions, targets: the same as in `accuracy`.

    Returns:
        A scalar, float32.

    Raises:
        UserError: the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> from purenets.core.metrics import class_accuracy
        >>> class_accuracy(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 0]))
        np.float32(0.5)
    """
    classes = _classes("accuracy", predictions, targets, least=1)
    hits = _hits(predictions, classes)
    if isinstance(hits, np.ndarray):  # the same number in fewer calls
        return np.float32(np.count_nonzero(hits) / hits.size)
    return _as_float32(hits.sum() / hits.numel())  # torch 2.11 vmaps no count_nonzero


def top_k_accuracy(k: int) -> Callable[[Array, Array], Array]:
    """Return the metric "fraction of targets whose class is among the k largest scores".

    Of equal scores the first class counts as the largest, so k = 1 is `accuracy`.

    Args:
        k: how many of the largest scores count as right.

    Returns:
        `metric(predictions, targets)`, with the arguments and the result of `accuracy`.

    Raises:
        UserError: `k` is not a positive integer; from the metric, there are fewer than `k` classes.

    Example:
        >>> import numpy as np
        >>> from purenets.core.metrics import top_k_accuracy
        >>> scores = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
        >>> top_k_accuracy(2)(scores, np.array([1, 2]))
        np.float32(0.5)
    """
    expect_integers("top_k_accuracy", 1, k=k)

    def top_k(predictions: Array, targets: Array) -> Array:
        classes = _classes("top_k_accuracy", predictions, targets)
        xp = namespace(predictions)
        if predictions.shape[1] < k:
            raise UserError(
                f"top_k_accuracy: k is {k}, but there are {predictions.shape[1]} classes"
            )
        n, n_classes, *rest = predictions.shape
        index = _arange_like(n_classes, classes).reshape((n_classes, *[1] * len(rest)))
        number = classes.reshape((n, 1, *rest))
        own = xp.where(index == number, predictions, xp.zeros_like(predictions))
        own = xp.sum(own, axis=1, keepdims=True)
        behind = (predictions < own) | ((predictions == own) & (index >= number))  # not so a NaN
        ahead = xp.sum(xp.astype(~behind, xp.int64), axis=1)
        largest = xp.max(predictions, axis=1)
        hits = (ahead < k) & (classes >= 0) & (largest == largest)
        return _mean_of_counted(hits, classes, n_classes)

    top_k.mean_over_examples = none_ignored
    return top_k


def expected_calibration_error(predictions: Array, targets: Array, n_bins: int = 15) -> Array:
    """Return the mean distance between confidence and accuracy.

    The confidence is the largest softmax probability. Examples are binned by it into `n_bins`
    intervals of equal width, (0, 1/n], ...; the result is the sum over bins of

        |accuracy of the bin - mean confidence of the bin| * share of the examples in the bin

    Args:
        predictions: (batch, classes, ...) logits of two or more classes.
        targets: the same as in `accuracy`.
        n_bins: the number of intervals.

    Returns:
        A scalar, float32.

    Raises:
        UserError: `n_bins` is not a positive integer, or the shapes do not fit.

    Example:
        >>> import numpy as np
        >>> from purenets.core.metrics import expected_calibration_error
        >>> logits = np.log(np.array([[0.8, 0.2], [0.8, 0.2]]))  # right in one of two
        >>> round(float(expected_calibration_error(logits, np.array([0, 1]))), 3)
        0.3

    Source:
        Guo et al. 2017, arXiv 1706.04599, equation 3.
    """
    expect_integers("expected_calibration_error", 1, n_bins=n_bins)
    classes = _classes("expected_calibration_error", predictions, targets)
    xp, counted = namespace(predictions), classes >= 0
    logits = xp.astype(predictions, xp.float64)
    seen = counted.reshape((len(classes), 1, *classes.shape[1:]))
    logits = xp.where(seen, logits, xp.zeros_like(logits))  # others may hold anything
    shifted = xp.exp(logits - xp.max(logits, axis=1, keepdims=True))
    confidence = 1.0 / xp.sum(shifted, axis=1)  # the largest of them is exp(0)
    hits = xp.astype(xp.argmax(predictions, axis=1) == classes, xp.float64)
    counted = xp.astype(counted, xp.float64)
    gaps = xp.reshape((hits - confidence) * counted, (-1, 1))
    bins = xp.clip(xp.ceil(xp.reshape(confidence, (-1, 1)) * n_bins) - 1, 0, n_bins - 1)
    in_bin = bins == _arange_like(n_bins, classes)
    by_bin = xp.sum(xp.where(in_bin, gaps, xp.zeros_like(gaps)), axis=0)
    total = xp.sum(gaps)
    lost = total != total  # NaN has no bin; 0 * total would be compiled to 0 by torch 2.11
    found = xp.where(lost, total, xp.sum(xp.abs(by_bin))) / xp.sum(counted)
    return xp.astype(_unless_beyond(found, classes, predictions.shape[1]), xp.float32)


def confusion(predicted: Array, targets: Array, n_classes: int) -> Array:
    """Return the counts of each pair of true and predicted class.

    Args:
        predicted: (n,) class numbers, from 0 to n_classes - 1.
        targets: (n,) class numbers, from 0 to n_classes - 1.
        n_classes: the number of classes.

    Returns:
        (classes, classes) int64; the row is the true class, the column the predicted one.

    Raises:
        UserError: an argument is not an array of integers, the shapes differ, or a number is that
            of no class. Under a trace, where no value can be read, such a pair is not counted.

    Example:
        >>> import numpy as np
        >>> from purenets.core.metrics import confusion
        >>> confusion(predicted=np.array([0, 1, 1]), targets=np.array([0, 0, 1]), n_classes=2)
        array([[1, 1],
               [0, 1]])
    """
    expect_arrays("confusion", predicted=predicted, targets=targets)
    expect_integers("confusion", 1, n_classes=n_classes)
    for name, array in (("predicted", predicted), ("targets", targets)):
        if not _is_integer(array) or tuple(array.shape) != tuple(targets.shape):
            about = f"{_dtype(array)} of shape {tuple(array.shape)}"
            raise UserError(f"confusion: {name}: {about}, needs class numbers, of one shape")
    xp, n_classes = namespace(predicted), int(n_classes)
    predicted, targets = int64(predicted), int64(targets)
    known = (predicted >= 0) & (predicted < n_classes) & (targets >= 0) & (targets < n_classes)
    if (isinstance(known, np.ndarray) or not is_tracing()) and not bool(xp.all(known)):
        raise UserError(f"confusion: needs class numbers from 0 to {n_classes - 1} in both arrays")
    places = xp.where(known, targets * n_classes + predicted, xp.full_like(targets, -1))
    if isinstance(places, np.ndarray):
        counts = np.bincount(places.ravel(), minlength=n_classes**2)
    elif not is_tracing():
        counts = places.flatten().bincount(minlength=n_classes**2)
    else:  # vmap and jit take no bincount
        pairs = xp.reshape(places, (-1, 1)) == _arange_like(n_classes**2, predicted)
        counts = xp.sum(xp.astype(pairs, xp.int64), axis=0)
    return xp.reshape(counts, (n_classes, n_classes))


# --- yes or no, numbers -------------------------------------------------------------------------
def binary_accuracy(predictions: Array, targets: Array, threshold: float = 0.0) -> Array:
    """Return the fraction of scores on the right side of `threshold`.

    Args:
        predictions: (batch,), (batch, 1) or (batch, labels) scores; NaN is never right.
        targets: the same shape; (batch,) and (batch, 1) go together. More than 0.5 is yes, so 0 and
            1, False and True, and -1 and 1 are all understood; more than 1 is no target.
        threshold: a larger score means yes; 0 for a logit, 0.5 for a probability.

    Returns:
        A scalar, float32; NaN if a target is NaN.

    Raises:
        UserError: the shapes differ, the threshold is not a number, or a target is above 1.

    Example:
        >>> import numpy as np
        >>> from purenets.core.metrics import binary_accuracy
        >>> binary_accuracy(np.array([1.5, -0.5, 0.1, -2.0]), np.array([1, 0, 0, 0]))
        np.float32(0.75)
    """
    expect_numbers("binary_accuracy", ANY, threshold=threshold)
    predictions, targets = _same_shape("binary_accuracy", predictions, targets)
    xp = namespace(predictions)
    if _is_readable(targets) and bool((targets > 1).any()):
        wrong = float(targets[targets > 1][0])
        raise UserError(
            f"binary_accuracy: target {wrong:.4g} is neither no (0 or -1) nor yes (1); of classes "
            "1 and 2, pass targets == 2"
        )
    hits = (predictions > threshold) == (targets > 0.5)
    hits = hits & (predictions == predictions)  # a NaN is never right
    hits = xp.astype(hits, xp.float32)
    return xp.mean(hits if _is_integer(targets) else xp.where(targets == targets, hits, xp.nan))


def r2(predictions: Array, targets: Array) -> Array:
    """Return the coefficient of determination: 1 - sum (y - f)^2 / sum (y - mean y)^2.

    With several outputs, the mean over them. Where all targets are equal it is 1 for perfect
    predictions and 0 for others.

    Args:
        predictions: (batch,) or (batch, outputs) numbers f, for two or more examples.
        targets: numbers y of the same shape; (batch,) and (batch, 1) go together.

    Returns:
        A scalar, float32; 1 is perfect, 0 as good as predicting the mean.

    Raises:
        UserError: the shapes differ, or there is one example only.

    Example:
        >>> import numpy as np
        >>> from purenets.core.metrics import r2
        >>> y = np.array([1.0, 2.0, 3.0])
        >>> r2(y, y), r2(np.full(3, 2.0), y)
        (np.float32(1.0), np.float32(0.0))

    Source:
        sklearn.metrics.r2_score.
    """
    predictions, targets = _same_shape("r2", predictions, targets)
    xp = namespace(predictions)
    n = targets.shape[0]
    if n < 2:
        raise UserError(f"r2: {n} example has no spread of its own, needs two or more")
    f, y = (xp.astype(part, xp.float64) for part in (predictions, targets))
    rest = xp.sum((y - f) ** 2, axis=0)
    spread = xp.sum((y - xp.mean(y, axis=0, keepdims=True)) ** 2, axis=0)
    rounding = n * (1e-15 * xp.max(xp.abs(y), axis=0)) ** 2  # what is left of equal targets
    varied, one = spread > rounding, xp.ones_like(spread)
    perfect = xp.astype(rest <= rounding, xp.float64)
    explained = xp.where(varied, 1 - rest / xp.where(varied, spread, one), perfect)
    explained = xp.where(rest == rest, explained, rest)  # NaN stays NaN
    return xp.astype(xp.mean(explained), xp.float32)


for _metric in (expected_calibration_error, r2):
    _metric.mean_over_examples = False


# --- shapes -------------------------------------------------------------------------------------
def means_classes(predictions: Array, targets: Array, least: int = 2) -> bool:
    """Return True for scores of `least` or more classes and a class number for each position."""
    return (
        predictions.ndim >= 2
        and predictions.shape[1] >= least
        and _is_integer(targets)
        and targets.shape == predictions.shape[:1] + predictions.shape[2:]
    )


def means_one_hot(predictions: Array, targets: Array, least: int = 2) -> bool:
    """Return True for scores of `least` or more classes and targets of the same shape."""
    return (
        predictions.ndim >= 2
        and predictions.shape[1] >= least
        and targets.shape == predictions.shape
    )


def _classes(name: str, predictions: Array, targets: Array, least: int = 2) -> Array:
    """Return the class numbers (batch, ...) that `targets` mean; a UserError if none."""
    _expect_examples(name, predictions, targets)
    if means_classes(predictions, targets, least):
        classes = int64(targets)
        _expect_known_classes(name, classes, predictions.shape[1])
        return classes
    if means_one_hot(predictions, targets, least):
        numbers = int64(targets) if _is_integer(targets) else targets
        if _is_readable(targets):
            expect_distributions(targets, _is_integer(targets), name)
        return namespace(targets).argmax(numbers, axis=1)
    shapes = (
        f"predictions {tuple(predictions.shape)}, {_dtype(targets)} targets {tuple(targets.shape)}"
    )
    if predictions.ndim > 2 and tuple(targets.shape) == tuple(predictions.shape[:-1]):
        raise UserError(
            f"{name}: {shapes}; classes are axis 1, as in torch; if they are the last axis, pass "
            "predictions.movedim(-1, 1)"
        )
    raise UserError(
        f"{name}: {shapes}; needs two or more classes (batch, classes, ...) and integers "
        "(batch, ...), or both alike; see binary_accuracy and r2 for other targets"
    )


def _same_shape(name: str, predictions: Array, targets: Array) -> tuple[Array, Array]:
    """Return both in one shape: a last axis of one element may be missing in one of them."""
    _expect_examples(name, predictions, targets)
    for part, array in (("predictions", predictions), ("targets", targets)):
        if kind_of(array) == "c":
            raise UserError(f"{name}: {part} are complex, needs real numbers")
    a, b = tuple(predictions.shape), tuple(targets.shape)
    if a != b and a != (*b, 1) and b != (*a, 1):
        raise UserError(f"{name}: predictions {a} and targets {b}; needs the same shape")
    shape = a if len(a) <= len(b) else b
    return predictions.reshape(shape), targets.reshape(shape)


def _expect_examples(name: str, predictions: Array, targets: Array) -> None:
    """Raise a UserError unless both have the same number of examples, at least one."""
    for what, part in (("predictions", predictions), ("targets", targets)):
        expect_plain(name, part)
        if not hasattr(part, "ndim"):
            kind = type(part).__name__
            raise UserError(f"{name}: {what}: a {kind}, needs an array (batch, ...)")
    if predictions.ndim == 0 or predictions.shape[0] == 0:
        raise UserError(
            f"{name}: predictions: {shown(predictions)}, needs one example (batch, ...) or more"
        )
    n = targets.shape[0] if targets.ndim else 0
    if n != predictions.shape[0]:
        raise UserError(f"{name}: {predictions.shape[0]} predictions for {n} targets")


def _mean_of_counted(hits: Array, classes: Array, n_classes: int) -> Array:
    """Return the share of hits among the targets that are a class; one below 0 never hits."""
    if isinstance(hits, np.ndarray):
        n = np.count_nonzero(classes >= 0)
        return np.float32(np.count_nonzero(hits) / n if n else np.nan)
    return _as_float32(_unless_beyond(hits.sum() / (classes >= 0).sum(), classes, n_classes))


def _unless_beyond(value: Array, classes: Array, n_classes: int) -> Array:
    """Return the value of a metric, NaN if a class is beyond the last one and nothing was raised.

    Where it could have been, all classes are known here.
    """
    if isinstance(classes, np.ndarray) or (not is_tracing() and classes.is_cpu):
        return value
    return namespace(value).where((classes < n_classes).all(), value, float("nan"))


def _expect_known_classes(name: str, classes: Array, n_classes: int) -> None:
    """Raise a UserError for a class beyond the last one, where looking costs no waiting."""
    if not _is_readable(classes):
        return
    beyond = classes >= n_classes
    if bool(beyond.any()):
        wrong = int(classes[beyond][0])
        raise UserError(f"{name}: target {wrong} is none of the classes 0 to {n_classes - 1}")


def _is_readable(x: Array) -> bool:
    """Return True if looking at values costs no waiting: in NumPy, and in eager mode on a CPU."""
    return isinstance(x, np.ndarray) or (not is_tracing() and x.is_cpu)


def _as_float32(x: Array) -> Array:
    """Return `x` in float32, whatever torch's default dtype is."""
    xp = namespace(x)
    return x if x.dtype == xp.float32 else xp.astype(x, xp.float32)


def _is_integer(x: Array) -> bool:
    """Return True for integers and truth values."""
    kind = getattr(x.dtype, "kind", None)  # of NumPy only
    return (
        kind in ("i", "u", "b") if kind else not (x.dtype.is_floating_point or x.dtype.is_complex)
    )


def _dtype(x: Array) -> str:
    return str(x.dtype).removeprefix("torch.")


def _arange_like(n: int, x: Array) -> Array:
    return namespace(x).arange(n, device=x.device)
