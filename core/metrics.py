"""What is measured of a classifier's predictions."""

import numpy as np

from purenets.core.arrays import namespace
from purenets.core.base import Array, UserError


def accuracy(predictions: Array, targets: Array) -> Array:
    """The fraction of right predictions, a scalar float32 array.

    predictions: (batch, classes), scores of any scale; targets: (batch,) class numbers or (batch, classes)
    one-hot.
    """
    xp = namespace(predictions)
    if predictions.shape[0] == 0:
        raise UserError("accuracy: an empty batch has none")
    if targets.ndim == 2:
        targets = xp.argmax(targets, axis=1)
    if targets.shape[0] != predictions.shape[0]:
        raise UserError(f"accuracy: {predictions.shape[0]} predictions for {targets.shape[0]} targets")
    if isinstance(predictions, np.ndarray):  # the same number in fewer calls
        right = np.count_nonzero(predictions.argmax(axis=1) == targets)
        return np.float32(right / predictions.shape[0])
    return xp.mean(xp.astype(xp.argmax(predictions, axis=1) == targets, xp.float32))


def confusion(predicted: Array, targets: Array, n_classes: int) -> Array:
    """Counts (classes, classes): row = true class, column = predicted class."""
    xp = namespace(predicted)
    pairs = xp.reshape(targets * n_classes + predicted, (-1, 1)) == xp.arange(n_classes**2)
    return xp.reshape(xp.sum(xp.astype(pairs, xp.int64), axis=0), (n_classes, n_classes))
