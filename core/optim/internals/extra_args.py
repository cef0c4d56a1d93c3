"""Arguments of an update beyond the gradient: the loss, and a function that evaluates it elsewhere.

`value` and `value_and_grad_fn` reach an optimizer only where it takes them, through every wrapper;
an update that needs neither has the plain signature `update(grads, opt_state, params)`.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

from purenets.core.arguments import shown
from purenets.core.arrays import kind_of, like, namespace
from purenets.core.base import Array, Optimizer, Params, Update, UserError
from purenets.core.optim.internals.hyper import count_to_dtype, zero_count
from purenets.core.optim.internals.order import order_of_wrapper

NAMES = ("value", "value_and_grad_fn")
MISSING = object()  # params that an update is called without


def expect_given(params: Params) -> None:
    """Raise a UserError for an update that is called without params."""
    if params is MISSING:
        raise UserError("update: needs the params too, as update(grads, state, params)")


def takes_extra_args(update: Update) -> bool:
    """Return True if `update` takes `value` and `value_and_grad_fn`."""
    code = getattr(update, "__code__", None)
    if code is not None:  # torch.compile traces this, and cannot trace inspect.signature
        keywords = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
        return bool(code.co_flags & inspect.CO_VARKEYWORDS) or any(
            name in NAMES for name in keywords
        )
    parameters = inspect.signature(update).parameters.values()
    return any(p.kind is p.VAR_KEYWORD or p.name in NAMES for p in parameters)


def with_extra_args(update: Update) -> Update:
    """Return `update`, made to accept `value` and `value_and_grad_fn` and to ignore them if it
    needs neither.
    """
    if takes_extra_args(update):
        return update
    return lambda grads, state, params, **extra: update(grads, state, params)


def like_inner(update: Callable, inner: Iterable[Optimizer]) -> Update:
    """Return `update(grads, state, params, **extra)` with the plain signature if no inner optimizer
    takes more.

    A wrapper ends in this, so that nobody computes arguments that nobody reads.
    """
    inner = tuple(inner)

    def plain(grads, state, params=MISSING):
        expect_given(params)
        return update(grads, state, params)

    def with_loss(grads, state, params=MISSING, **extra):
        expect_given(params)
        return update(grads, state, params, **extra)

    takes_more = any(takes_extra_args(optimizer.update) for optimizer in inner)
    like = with_loss if takes_more else plain
    like.order = order_of_wrapper(inner)
    return like


def need_value_and_grad_fn(name: str, value_and_grad_fn: Callable | None) -> Callable:
    """Return `value_and_grad_fn`; a UserError that names the optimizer if it is missing."""
    if value_and_grad_fn is None:
        raise UserError(
            f"{name}: update needs value_and_grad_fn, a function params -> (loss, grads); "
            "make_step passes it"
        )
    return value_and_grad_fn


def loss_value(
    name: str, value: Array | None, value_and_grad_fn: Callable | None, params: Params
) -> Array:
    """Return the loss at `params`: `value`, or computed if that is missing.

    It is a scalar of their library, in their dtype, float32 at least. A UserError names the
    optimizer if neither is there, or the loss is no real number.
    """
    if value is None and value_and_grad_fn is None:
        raise UserError(f"{name}: update needs value, the loss; make_step passes it")
    if value is None:
        value = value_and_grad_fn(params)[0]
    number = count_to_dtype(zero_count(params), params)
    dtype, right = getattr(value, "dtype", None), number.dtype
    is_scalar = type(dtype) is type(right) and dtype == right and value.shape == ()
    return value if is_scalar else _scalar(name, value, number)


def _scalar(name: str, value: Any, number: Array) -> Array:
    """Return a loss as a scalar of the library and dtype of `number`; a UserError for what is none.

    An array of one element is a scalar.
    """
    what = f"{name}: value" if name else "value"
    if not hasattr(value, "dtype") and not isinstance(value, int | float):
        raise UserError(f"{what} is {shown(value)}, needs a number, the loss")
    if math.prod(getattr(value, "shape", ())) != 1:
        raise UserError(
            f"{what} has the shape {tuple(value.shape)}, needs a scalar, as loss.mean()"
        )
    if hasattr(value, "dtype") and kind_of(value) not in "fib":
        raise UserError(f"{what} is {shown(value)}, needs a real number")
    return namespace(number).reshape(like(value, number), ())
