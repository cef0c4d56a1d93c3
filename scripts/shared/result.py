"""What every training of the scripts returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purenets import History, Model, Params, TrainState


class Result(NamedTuple):
    """A trained network: all that a notebook, a table or a figure needs of it.

    Args:
        state: the last state; its params are the running mean where the training keeps one (--ema).
        history: a row for each evaluation.
        model: the network that was trained. Of images: it takes them as uint8.
        task: the data, where they are not drawn anew for each step: a `data.Dataset` of an MLP,
            an `ImageTask` of images.
        test: of images: loss, accuracy, confusion (classes, classes), ... on the test images.
        valid: of images: the accuracy over views on the held-out images, where there are both.
        first_params: of the RNN: the params before the first step.
        predict: of an MLP: the classes (n,) of inputs (n, features), both NumPy arrays.
    """

    state: TrainState
    history: History
    model: Model
    task: Any = None
    test: dict | None = None
    valid: dict | None = None
    first_params: Params | None = None
    predict: Callable[[np.ndarray], np.ndarray] | None = None
