"""The contracts that everything is built of; the NumPy and the torch backend both keep them.

An `Array` is a `numpy.ndarray` or a `torch.Tensor`. Nothing that satisfies a contract changes its
arguments: new values come back.
"""

from typing import Any, NamedTuple, Protocol

Array = Any
Params = dict[str, Array]  # flat; names as in a PyTorch state_dict: "fc1.weight" (out, in)
Buffers = dict[str, Array]  # what is not trained, e.g. BatchNorm's running statistics; {} if none
Batch = tuple[Any, Any]  # inputs (an array, or a tuple or dict of them); targets
Metrics = dict[str, Array]  # "loss", "accuracy", ...: scalars
History = list[dict[str, float]]  # a row for each evaluation: "step", metrics


class Init(Protocol):
    """Draw the params and buffers of a network from a key.

    A network with lazily sized layers reads sizes from an example of its inputs: its `init` is
    `init(key, example)` and has the attribute `takes_example`.
    """

    def __call__(self, key: Array, /) -> tuple[Params, Buffers]: ...


class Apply(Protocol):
    """Return the output of a network (for a classifier: logits) and its next buffers."""

    def __call__(
        self, params: Params, buffers: Buffers, x: Any, /, *, train: bool = False, key: Any = None
    ) -> tuple[Array, Buffers]: ...


class Model(NamedTuple):
    """A network or a layer: two pure functions, and its description in tables.

    Args:
        init: `init(key) -> (params, buffers)`.
        apply: `apply(params, buffers, x, *, train=False, key=None) -> (logits, buffers)`.
        uses_key: False if `apply` never draws from its key; then no key is derived for it.
        kind: its name in a table, such as "Linear".
        layers: the layers it applies in sequence, by name. Their params are named "layer.param". No
            computation depends on it; a wrapper that replaces `apply` clears it.
    """

    init: Init
    apply: Apply
    uses_key: bool = True
    kind: str = ""
    layers: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default; never changed)


class InitState(Protocol):
    """Return the state of an optimizer before its first update."""

    def __call__(self, params: Params, /) -> dict: ...


class Update(Protocol):
    """Return the updates to add to the params, sign included, and the next state.

    `value` is the loss at `params`; `value_and_grad_fn(params) -> (loss, grads)` evaluates it at
    other params on the same batch. An optimizer that needs neither may leave them out of its
    signature.
    """

    def __call__(
        self,
        grads: Params,
        opt_state: dict,
        params: Params,
        /,
        *,
        value: Any = None,
        value_and_grad_fn: Any = None,
    ) -> tuple[Params, dict]: ...


class Optimizer(NamedTuple):
    """An optimizer, or one transform of a chain: two pure functions.

    Args:
        init: `init(params) -> opt_state`, a nested dict of arrays with string keys.
        update: `update(grads, opt_state, params, *, value=None, value_and_grad_fn=None)
            -> (updates, opt_state)`; the sign is already in the updates.
    """

    init: InitState
    update: Update


class TrainState(NamedTuple):
    """Everything that a training step reads and returns.

    Args:
        params: the arrays that are trained, by name.
        buffers: the arrays that are not, such as running statistics.
        opt_state: the state of the optimizer.
        key: the key that all steps derive theirs from.
        step: the number of steps taken, a scalar int64 array.
    """

    params: Params
    buffers: Buffers
    opt_state: dict
    key: Array
    step: Array


class GradFn(Protocol):
    """Return the gradient of the loss, the next buffers and the metrics, of which "loss" is one.

    This is all that the training loop knows of a network or of autograd.
    """

    def __call__(
        self, params: Params, buffers: Buffers, batch: Batch, key: Any, /
    ) -> tuple[Params, tuple[Buffers, Metrics]]: ...


class MetricsFn(Protocol):
    """Return the metrics of a batch in evaluation mode."""

    def __call__(self, params: Params, buffers: Buffers, batch: Batch, /) -> Metrics: ...


class Step(Protocol):
    """Take one training step."""

    def __call__(self, state: TrainState, batch: Batch, /) -> tuple[TrainState, Metrics]: ...


class Schedule(Protocol):
    """Return the value of a hyper-parameter at the count-th update (from 0)."""

    def __call__(self, count: Any, /) -> Array: ...


class UserError(ValueError):
    """Wrong input, explained in one line that names the flag, file, argument or leaf.

    Scripts print the message and exit with code 2. Characters that cannot be printed (a file may
    hold some) are escaped.
    """

    def __init__(self, message: str):
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))
