"""What every training of the scripts returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from purenets import History, Model, Params, TrainState


class Result(NamedTuple):
    """A trained network: all that a notebook, a table or a figure needs of it.

    Args:
        state: the last state; its params are the running mean if the training keeps one (--ema).
        history: a row for each evaluation.
        model: the trained network. A network for images takes them as uint8.
        task: the data, unless they are drawn anew for each step: a `data.Dataset` for an MLP, an
            `ImageTask` for images.
        test: for images: loss, accuracy, confusion (classes, classes), ... on the test images.
        valid: for images: the accuracy over views on the held-out images, if there are both.
        first_params: for the RNN: the params before the first step.
        predict: for an MLP: the function from inputs (n, features) to classes (n,), both NumPy
            arrays.
    """

    state: TrainState
    history: History
    model: Model
    task: Any = None
    test: dict | None = None
    valid: dict | None = None
    first_params: Params | None = None
    predict: Callable[[np.ndarray], np.ndarray] | None = None
