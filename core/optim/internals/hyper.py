"""Hyper-parameters of optimizers: a number, a schedule (a function of the count of updates, from 0)
or a scalar array, so that it can be vmapped over. There is no branch on a value: all of it runs
under vmap and torch.compile."""

from collections.abc import Callable

from purenets.core.arrays import NUMPY, is_tracing, like, namespace, real_dtype
from purenets.core.base import Array, Optimizer, Params, UserError

Hyper = float | Array | Callable[[Array], Array]


def is_zero(value: Hyper) -> bool:
    """Return True if a hyper-parameter is the number 0, which leaves its transform out.

    An array never is: its value may be unknown.
    """
    return type(value) in (int, float) and value == 0


def as_numbers(*values: Hyper) -> tuple[float, ...] | None:
    """Return the hyper-parameters if all of them are numbers, else None."""
    return values if all(type(value) in (int, float) for value in values) else None


def unless_zero(value: Hyper, transform: Callable[[Hyper], Optimizer]) -> tuple[Optimizer, ...]:
    """Return the transform of a hyper-parameter, or none where that is the number 0."""
    return () if is_zero(value) else (transform(value),)


def stateless_with_hyper(value: Hyper, f: Callable[[Array, Params, Params], Params]) -> Optimizer:
    """Return the transform `f(value, grads, params) -> updates` of one hyper-parameter."""
    if type(value) in (int, float):
        return Optimizer(
            lambda params: {}, lambda grads, state, params: (f(value, grads, params), state)
        )

    def update(grads, state, params):
        return f(resolve_hyper(value, state, grads), grads, params), next_count(state)

    return Optimizer(lambda params: init_count(params, value), update)


def resolve_hyper(value: Hyper, state: dict, grads: Params) -> float | Array:
    """Return the value of a hyper-parameter at the state's count.

    A number stays as it is, a schedule is called, and an array is cast to the dtype of the
    gradients (a NumPy float64 would promote float32 leaves).
    """
    if type(value) in (int, float):
        return value
    if callable(value):
        return resolve_hyper(value(count_to_dtype(state["count"], grads)), state, grads)
    leaf = first_leaf(grads)
    xp = namespace(value)
    if xp is not namespace(leaf):
        return like(value, leaf, real_dtype(leaf))
    same = value.dtype == leaf.dtype
    return value if same else xp.astype(xp.asarray(value), real_dtype(leaf))


def init_count(params: Params, *values: Hyper) -> dict:
    """Return the entry "count" of a first state if one of the values is a schedule."""
    return {"count": zero_count(params)} if any(callable(value) for value in values) else {}


def next_count(state: dict) -> dict:
    """Return the entry "count" of the next state, if this one has it."""
    return {"count": state["count"] + 1} if "count" in state else {}


def zero_count(params: Params) -> Array:
    """Return a count of 0: int64, on the device of the params."""
    leaf = first_leaf(params)
    xp = namespace(leaf)
    return xp.zeros((), dtype=xp.int64, device=leaf.device)


def count_to_dtype(count: Array, grads: Params) -> Array:
    """Return the count as a real number of the gradients' dtype, float32 at least.

    So what is computed from it has the dtype of the network.
    """
    return namespace(count).astype(count, real_dtype(first_leaf(grads)))


def count_as_float(count: Array, grads: Params) -> float | Array:
    """Return the count as a Python float where reading it costs nothing, else as an array.

    That is `is_readable`; the array is that of `count_to_dtype`.
    """
    return float(count) if is_readable(count) else count_to_dtype(count, grads)


def is_concrete(x: Array) -> bool:
    """Return True if `x` has a value: it is under no trace and no transform.

    To read it may wait for the device. This is for decisions about work that waits anyway, such as
    an eigendecomposition.
    """
    return isinstance(x, NUMPY) or not is_tracing()


def is_readable(x: Array) -> bool:
    """Return True if reading the value of `x` waits for nothing and is seen by no trace.

    So it is for NumPy arrays, and for tensors on the CPU outside of torch.compile and torch.func. A
    branch on such a value may leave out work that is not used; results are the same.
    """
    return isinstance(x, NUMPY) or (x.is_cpu and not is_tracing())


def first_leaf(params: Params) -> Array:
    """Return any leaf, for its library, device and dtype."""
    if not isinstance(params, dict):
        raise UserError(f"params: a {type(params).__name__}, needs a dict of arrays by name")
    for leaf in params.values():
        return leaf
    raise UserError("params: an optimizer needs at least one leaf")
