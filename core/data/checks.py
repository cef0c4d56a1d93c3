"""What a batch must look like: its shapes and dtypes, and the values that no loss can use.

`are_class_indices` looks at shapes and dtypes only, so a loss may call it in every step on any
device. `expect_examples` reads all values once, where data enter (`batches`, `check`).
"""

import math
from typing import Any

import numpy as np

from purenets.core.arrays import expect_plain, int64, kind_of, namespace
from purenets.core.base import Array, Batch, UserError


def are_class_indices(logits: Array, targets: Array, integers: bool) -> bool:
    """Return True for class numbers, False for one-hot or soft labels.

    Args:
        logits: (batch, classes, ...).
        targets: class numbers (batch, ...), or labels (batch, classes, ...).
        integers: True if the targets are integers or booleans.

    Raises:
        UserError: the targets are neither; the message says which shapes would be.
    """
    shape, labels = targets.shape, logits.shape
    if integers and len(labels) == 2 and shape == labels[:1] and shape[0] > 0 and labels[1] != 1:
        return True  # most calls end here, at the cost of a fraction of a microsecond
    shape, labels = tuple(shape), tuple(labels)
    if len(labels) < 2:
        raise UserError(
            f"cross_entropy: logits of shape {labels}, needs (batch, classes); a single logit "
            "for each "
            "example takes a binary cross-entropy"
        )
    if labels[0] == 0:
        raise UserError("cross_entropy: an empty batch has no mean")
    classes = (labels[0], *labels[2:])
    if shape == classes and integers and labels[1] > 1:
        return True
    if shape == labels and labels[1] > 1:
        return False
    raise UserError(_what_is_wrong(shape, classes, labels, targets.dtype))


def _what_is_wrong(shape: tuple, classes: tuple, labels: tuple, dtype) -> str:
    right = f"class numbers {classes} or one-hot or soft labels {labels}"
    if shape == classes and labels[1] == 1:
        return (
            f"cross_entropy: logits of shape {labels} are of one class, whose loss is 0 whatever "
            "the net does; one output takes binary_cross_entropy (yes or no) or mse (a number)"
        )
    if shape == classes:
        return f"cross_entropy: class numbers must be integers, got {dtype}"
    if labels == shape:
        return f"cross_entropy: logits and targets of shape {shape} leave one class to choose from"
    if shape == (*classes, 1):
        return f"cross_entropy: targets are a column {shape}, needs {right}: pass targets[:, 0]"
    if len(labels) > 2 and shape == labels[:-1]:
        return (
            f"cross_entropy: targets of shape {shape} for logits of shape {labels}, whose classes "
            "are axis 1, as in torch; if they are the last axis, pass logits.movedim(-1, 1)"
        )
    return f"cross_entropy: targets of shape {shape} for logits of shape {labels}, needs {right}"


def expect_real_outputs(name: str, outputs: Array) -> None:
    """Raise a UserError unless the outputs are real floating-point numbers, as a gradient needs.

    Args:
        name: that of the loss.
        outputs: what the model returned; only the dtype is looked at.
    """
    if kind_of(outputs) != "f":
        raise UserError(
            f"{name}: the outputs are {str(outputs.dtype).removeprefix('torch.')}, needs floating "
            "point; the arguments are (outputs, targets) in this order"
        )


def expect_distributions(labels: Array, integers: bool, name: str = "cross_entropy") -> None:
    """Raise a UserError for labels (batch, classes, ...) that are no distribution over the classes.

    Args:
        labels: one-hot or soft labels, whose values may be read.
        integers: True if they are integers; then they must be one-hot.
        name: the function that takes them.
    """
    xp = namespace(labels)
    if integers:
        labels = int64(labels)
        if not bool(xp.all((labels >= 0) & (labels.sum(1, keepdims=True) == 1))):
            raise UserError(f"{name}: integer labels (batch, classes) must be one-hot")
        return
    few_bits = labels.dtype.itemsize < 4
    wide = xp.astype(labels, xp.float32) if few_bits else labels
    error = abs(wide.sum(1) - 1)
    allowed = 0.05 if few_bits else 1e-3
    if bool(xp.all(error <= allowed) & xp.all(labels >= 0)):
        return
    i = int(xp.argmax(xp.reshape(xp.astype(~(error <= allowed), xp.int8), (-1,))))
    total, least = float(xp.reshape(wide.sum(1), (-1,))[i]), float(wide.min())
    example = i // max(1, math.prod(labels.shape[2:]))
    what = f"those of example {example} sum to {total:.4g}"
    what = what if least >= 0 else f"an entry is {least:.4g}"
    raise UserError(
        f"{name}: labels of the shape of the logits must be probabilities, from 0 on and of "
        f"sum 1 over the classes, but {what}; the arguments are (logits, targets) in this order"
    )


def expect_yes_or_no(name: str, targets: Array) -> None:
    """Raise a UserError for targets, whose values may be read, that are not from 0 to 1."""
    xp = namespace(targets)
    right = (targets >= 0) & (targets <= 1)
    if not bool(xp.all(right)):
        wrong = float(targets[~right][0])
        raise UserError(
            f"{name}: target {wrong:.4g} is not from 0 (no) to 1 (yes); the arguments are (logits, "
            "targets) in this order"
        )


def expect_examples(batch: Batch, name: str = "data") -> int:
    """Return the number of examples of a batch, after a look at all of it.

    Args:
        batch: inputs (n, ...), or a tuple or dict of them, and targets (n, ...). Floating-point
            inputs and targets are finite. Integer targets count classes from 0: (n,), (n, classes)
            one-hot, or (n, positions); targets of a regression are floating point.
        name: what the batch is called in a message.

    Raises:
        UserError: one line that names the example that is wrong.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"{name}: needs a pair (inputs, targets), got {type(batch).__name__}")
    x, y = batch
    parts = [("input", leaf) for leaf in input_leaves(x)] + [("target", y)]
    n = _expect_one_length(parts, name)
    for what, array in parts:
        _expect_finite(array, what, name)
    if kind_of(y) in "bi":
        _expect_class_numbers(y, name)
    return n


def input_leaves(x: Any) -> list[Array]:
    """Return the arrays of a batch's inputs."""
    if isinstance(x, dict):
        x = tuple(x.values())
    return [leaf for part in x for leaf in input_leaves(part)] if isinstance(x, tuple) else [x]


def _expect_one_length(parts: list[tuple[str, Array]], name: str) -> int:
    for what, array in parts:
        expect_plain(f"{name}: {what}s", array)
        if not hasattr(array, "dtype") or not hasattr(array, "shape"):
            raise UserError(f"{name}: {what}s must be an array, got {type(array).__name__}")
        if len(array.shape) == 0 or kind_of(array) not in "bifc":
            raise UserError(
                f"{name}: {what}s are {array.dtype} of shape {tuple(array.shape)}, needs "
                "numbers (n, ...)"
            )
    target = parts[-1][1]
    n = int(target.shape[0])
    for _, array in parts[:-1]:
        if len(array) != n or n == 0:
            raise UserError(
                f"{name}: {len(array)} inputs and {n} targets; needs as many of both, at least one"
            )
        if namespace(array) is not namespace(target) or array.device != target.device:
            raise UserError(
                f"{name}: inputs are {_place(array)}, targets {_place(target)}; needs both in "
                "one place"
            )
    return n


def _place(x: Array) -> str:
    return "a NumPy array" if isinstance(x, np.ndarray) else f"a tensor on {x.device}"


def _expect_finite(x: Array, what: str, name: str) -> None:
    if kind_of(x) not in "fc":
        return
    xp = namespace(x)
    finite = xp.isfinite(x)
    if not bool(xp.all(finite)):
        where = tuple(int(i[0]) for i in xp.nonzero(~finite))
        value = complex(x[where]) if kind_of(x) == "c" else float(x[where])
        raise UserError(f"{name}: {what} {where[0]} has a value that is not finite: {value}")


def _expect_class_numbers(y: Array, name: str) -> None:
    """Raise a UserError for integer targets that are a column, or hold a negative number."""
    shape = tuple(y.shape)
    if len(shape) == 2 and shape[1] == 1:
        raise UserError(
            f"{name}: targets are a column of integers {shape}; class numbers have shape "
            f"{shape[:1]} "
            "(targets[:, 0]), targets of a regression are floating point"
        )
    if kind_of(y) == "i" and int(namespace(y).min(int64(y))) < 0:
        row = tuple(int(i[0]) for i in namespace(y).nonzero(int64(y) < 0))
        raise UserError(
            f"{name}: target {int(y[row])} of example {row[0]} is no class, which count from 0; "
            "targets of a "
            "regression are floating point"
        )
