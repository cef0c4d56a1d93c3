"""Hyper-parameters of optimizers: a number, a schedule (a function of the count of updates, from 0)
or a scalar array, so that it can be vmapped over. There is no branch on a value: all of it runs
under vmap and torch.compile."""

import math
from collections.abc import Callable
from typing import Any

from purenets.core.arguments import (
    ABOVE_0,
    DECAY,
    FINITE,
    FRACTION,
    FROM_1,
    NOT_NEGATIVE,
    NOT_POSITIVE,
    OPEN_FRACTION,
    POSITIVE,
    shown,
)
from purenets.core.arrays import (
    NUMPY,
    as_array,
    is_tracing,
    kind_of,
    like,
    namespace,
    real_dtype,
    to_host,
)
from purenets.core.base import Array, Optimizer, Params, Schedule, UserError

Hyper = float | Array | Callable[[Array], Array]

# What every optimizer that has a hyper-parameter of the name takes; of others any finite number
RANGES = {
    **dict.fromkeys(("lr", "eps", "weight_decay", "alpha", "lambd", "temperature"), NOT_NEGATIVE),
    **dict.fromkeys(("lr_decay", "momentum_decay", "trust_coefficient"), NOT_NEGATIVE),
    **dict.fromkeys(("coefficient", "beta", "threshold", "lam", "t0"), NOT_NEGATIVE),
    **dict.fromkeys(("betas", "rho", "decay", "beta3", "shampoo_beta"), DECAY),
    **dict.fromkeys(("momentum", "dampening", "min_scale"), FRACTION),
    **dict.fromkeys(("factor", "c1", "c2", "shrink"), OPEN_FRACTION),
    **dict.fromkeys(("gamma", "scaling", "d_coef", "clipping"), POSITIVE),
    **dict.fromkeys(("limit", "max_norm"), ABOVE_0),
    **dict.fromkeys(("d", "growth_rate", "grow"), FROM_1),
    "beta2_decay": NOT_POSITIVE,
}
FIRST_COUNTS = (0, 1)  # at which `init` looks at what a schedule returns


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


def stateless_with_hyper(f: Callable[[Array, Params, Params], Params], **hyper) -> Optimizer:
    """Return the transform `f(value, grads, params) -> updates` of one hyper-parameter, by name."""
    (value,) = hyper.values()
    if type(value) in (int, float):
        return Optimizer(
            lambda params: {}, lambda grads, state, params: (f(value, grads, params), {})
        )
    counts = has_schedule(value)

    def update(grads, state, params):
        return f(resolve_hyper(value, state, grads), grads, params), next_count(state, counts)

    return Optimizer(lambda params: init_count(params, **hyper), update)


def resolve_hyper(value: Hyper, state: dict, grads: Params) -> float | Array:
    """Return the value of a hyper-parameter at the state's count.

    A number stays as it is, a schedule is called, and an array is cast to the dtype of the
    gradients (a NumPy float64 would promote float32 leaves).
    """
    if type(value) in (int, float):
        return value
    if callable(value):
        return resolve_hyper(_at_count(value, count_to_dtype(state["count"], grads)), state, grads)
    leaf = first_leaf(grads)
    xp = namespace(value)
    if value.ndim:  # (1,): a leaf of shape () would get that shape
        value = xp.reshape(value, ())
    if xp is not namespace(leaf):
        return like(value, leaf, real_dtype(leaf))
    same = value.dtype == leaf.dtype
    return value if same else as_array(value, xp, real_dtype(leaf))


def _at_count(schedule: Schedule, count: Array) -> float | Array:
    """Return the value of a schedule; a UserError for one that branches on a count under vmap."""
    try:
        return schedule(count)
    except RuntimeError as error:
        if "vmap" not in str(error) and "data pointer" not in str(error):
            raise
        raise UserError(
            "a schedule branches on its count, or makes a number of it, which vmap does not allow; "
            "use torch.where and tensors, or schedules.piecewise and join"
        ) from error


def has_schedule(*values: Hyper | tuple[Hyper, ...]) -> bool:
    """Return True if one of the values is a schedule, so that updates are counted."""
    return any(has_schedule(*v) if isinstance(v, tuple | list) else callable(v) for v in values)


def init_count(params: Params, **hypers: Hyper | tuple[Hyper, ...]) -> dict:
    """Return the entry "count" of a first state if one of the hyper-parameters is a schedule."""
    return first_count(params, **hypers) if has_schedule(*hypers.values()) else {}


def first_count(params: Params, **hypers: Hyper | tuple[Hyper, ...]) -> dict:
    """Return the entry "count" of a first state; a UserError for a schedule that begins wrong."""
    if is_concrete(first_leaf(params)):
        for name, value in hypers.items():
            for one in value if isinstance(value, tuple | list) else (value,):
                if callable(one):
                    expect_schedule_values(name, one, params)
    return {"count": zero_count(params)}


def expect_schedule_values(name: str, schedule: Schedule, params: Params) -> None:
    """Raise a UserError unless a schedule begins with numbers that its hyper-parameter can have.

    Later values are not looked at: in a step, reading them would wait for the device.
    """
    right = RANGES.get(name, FINITE)
    for i in FIRST_COUNTS:
        try:
            value = schedule(count_to_dtype(zero_count(params) + i, params))
        except Exception:  # the update will raise it, from where it comes
            return
        if getattr(value, "is_meta", False):
            return
        found = _number_of(value)
        if found is None or not right.holds(found):
            what = shown(value) if found is None else found
            hint = "; call it" if callable(value) else ""
            raise UserError(
                f"{name}: its schedule returns {what} at count {i}, needs {right.text}{hint}"
            )


def _number_of(value: Any) -> float | None:
    """Return what a schedule returned as a number; None for what is none."""
    is_array = hasattr(value, "dtype") and hasattr(value, "shape")
    if is_array and (math.prod(value.shape) != 1 or kind_of(value) not in "fiu"):
        return None
    if not is_array and (isinstance(value, bool) or not isinstance(value, int | float)):
        return None
    return float(to_host(value).reshape(()))


def next_count(state: dict, counts: bool = True) -> dict:
    """Return the entry "count" of the next state, if updates are counted."""
    return {"count": state["count"] + 1} if counts else {}


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
