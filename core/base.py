"""The contracts that everything is built of; both backends, NumPy and torch, keep them.

An `Array` is a `numpy.ndarray` or a `torch.Tensor`. Nothing that satisfies a contract changes its
arguments: new values come back.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any
Params = dict[str, Array]  # flat; names as in a PyTorch state_dict: "fc1.weight" (out, in)
Buffers = dict[str, Array]  # what is not trained, e.g. BatchNorm's running statistics; {} if none
Batch = tuple[Array, Array]  # inputs, integer targets
Metrics = dict[str, Array]  # "loss", "accuracy", ...: scalars
History = list[dict[str, float]]  # a row for each evaluation: "step", metrics


class Model(NamedTuple):
    """A network: `init(key) -> (params, buffers)` and
    `apply(params, buffers, x, *, train=False, key=None) -> (logits, buffers)`.

    draws: False if `apply` never draws from its key, so that no key need be derived for it."""

    init: Callable
    apply: Callable
    uses_key: bool = True


class Optimizer(NamedTuple):
    """`init(params) -> opt_state` (a nested dict of arrays with string keys) and
    `update(grads, opt_state, params) -> (updates, opt_state)`; the sign is already in the updates."""

    init: Callable
    update: Callable


class TrainState(NamedTuple):
    """All that a training step reads and returns."""

    params: Params
    buffers: Buffers
    opt_state: dict
    key: Array
    step: Array


# grad_fn(params, buffers, batch, key) -> (grads, (buffers, metrics)): all that the loop knows of a network
GradFn = Callable[[Params, Buffers, Batch, Array], tuple[Params, tuple[Buffers, Metrics]]]
# step(state, batch) -> (state, metrics)
Step = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
# schedule(count) -> value of a hyper-parameter at the count-th update (from 0)
Schedule = Callable[[Array], Array]


class UserError(ValueError):
    """Wrong input. The message is one line that names the flag, file or leaf, and what would be right;
    scripts print it and exit with code 2. What cannot be printed, as it may come from a file, is escaped."""

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))
