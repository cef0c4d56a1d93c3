"""The direction along which a line search goes: another optimizer's update."""

from collections.abc import Callable
from typing import NamedTuple

from purenets.core import tree
from purenets.core.arguments import expect_optimizers
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.extra_args import (
    loss_value,
    need_value_and_grad_fn,
    with_extra_args,
)
from purenets.core.optim.internals.order import (
    expect_descent,
    expect_no_average,
    expect_no_penalty,
)
from purenets.core.optim.transforms import scale_by_learning_rate


class Start(NamedTuple):
    """What a line search begins with."""

    value_and_grad_fn: Callable
    loss: Array
    moves: Params  # the direction, a leaf for each of the params
    inner: dict  # the state of the optimizer whose update the direction is


def direction_of(name: str, direction: Optimizer | None) -> tuple[Callable, Callable]:
    """Return `(init, start)` of the direction: -g, or the update of the optimizer that is given.

    `init(params)` returns the state of the direction, `start(grads, inner, params, value,
    value_and_grad_fn)` the Start of a line search. `name` is the optimizer that searches, for
    messages.
    """
    direction = scale_by_learning_rate(1.0) if direction is None else direction
    expect_optimizers(name, direction=direction)
    expect_no_average(name, direction)
    expect_no_penalty(name, direction)
    expect_descent(name, direction=direction)
    update = with_extra_args(direction.update)

    def start(grads, inner, params, value, value_and_grad_fn) -> Start:
        f = need_value_and_grad_fn(name, value_and_grad_fn)
        loss = loss_value(name, value, f, params)
        moves, inner = update(grads, inner, params, value=value, value_and_grad_fn=f)
        return Start(f, loss, moves, inner)

    return direction.init, start


def along(moves: Params, step: Array) -> Params:
    """Return the moves times the step; zeros for a step of 0, also where a move is not finite."""
    return tree.map(
        lambda u: namespace(u).where(step > 0, u * step, namespace(u).zeros_like(u)), moves
    )
