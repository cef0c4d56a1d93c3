"""What the order of a chain must respect: which transforms average, turn or decay.

An average of the params is that of `params + updates`, so it is right only if nothing changes the
updates after it. Weight decay is added to updates that point uphill, so it is right only before
they are turned. `update.order` says of a transform what is known; of a function of the user's
nothing is, and nothing is refused because of it.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from purenets.core.base import Optimizer, UserError


class Order(NamedTuple):
    """What is known of the updates of a transform.

    Args:
        average: the name of the average of the params that it keeps, "" for none.
        passes: True if the updates come out as they went in.
        sign: -1 if it turns them downhill, 1 if it does not turn them, 0 if that is unknown.
        decays: True if it adds weight decay, and turns nothing after it.
    """

    average: str = ""
    passes: bool = False
    sign: int = 0
    decays: bool = False


UNKNOWN = Order()
KEEPS = Order(sign=1)
TURNS = Order(sign=-1)
DECAYS = Order(sign=1, decays=True)


def average_of_params(name: str) -> Order:
    """Return the order of a transform that only keeps an average of the params."""
    return Order(name, passes=True, sign=1)


def order_of(optimizer: Optimizer) -> Order:
    """Return what is known of an optimizer."""
    return getattr(optimizer.update, "order", UNKNOWN)


def with_order(order: Order, optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, with what is known of it."""
    optimizer.update.order = order
    return optimizer


def order_of_wrapper(inner: Iterable[Optimizer]) -> Order:
    """Return the order of an optimizer that may change the updates of the inner ones."""
    order = order_of_parts(inner)
    return Order(order.average, False, order.sign, order.decays)


def order_of_parts(inner: Iterable[Optimizer]) -> Order:
    """Return the order of optimizers of a part of the params each."""
    orders = [order_of(optimizer) for optimizer in inner]
    averages = [order.average for order in orders if order.average]
    signs = [order.sign for order in orders]
    return Order(
        averages[0] if averages else "",
        all(order.passes for order in orders),
        signs[0] if signs and min(signs) == max(signs) else 0,
        any(order.decays for order in orders),
    )


def order_in_sequence(transforms: tuple[Optimizer, ...]) -> Order:
    """Return the order of a chain; raise a UserError for one whose numbers would be wrong."""
    orders = [order_of(transform) for transform in transforms]
    average, (sign, decays) = _average(orders), _direction(orders)
    return Order(average, all(order.passes for order in orders), sign, decays)


def _average(orders: list[Order]) -> str:
    """Return the average of a chain, the first one; a UserError if the params move after it."""
    average, place = "", 0
    for i, order in enumerate(orders):
        if average and not order.passes:
            raise UserError(
                f"chain: transform_{place} ({average}) averages the params after its updates, "
                f"which transform_{i} changes; put the average last"
            )
        if order.average and not average:
            average, place = order.average, i
    return average


def _direction(orders: list[Order]) -> tuple[int, bool]:
    """Return the sign of a chain, and whether it decays; a UserError if weights would grow."""
    sign, decays, turned_by, wrong = 1, False, 0, None
    for i, order in enumerate(orders):
        if order.sign == 1:
            decays = decays or order.decays
            wrong = i if order.decays and sign < 0 else wrong
        else:
            sign = 0 if order.sign == 0 else 1 if sign < 0 else -1
            decays, turned_by, wrong = order.decays, i, None
    if wrong is not None:
        raise UserError(
            f"chain: transform_{wrong} adds weight decay to updates that transform_{turned_by} has "
            "turned downhill, so weights would grow; put it before them, or use their weight_decay"
        )
    return sign, decays


def expect_no_average(function: str, optimizer: Optimizer) -> None:
    """Raise a UserError for an average of params that the wrapper `function` moves afterwards."""
    average = order_of(optimizer).average
    if average:
        raise UserError(
            f"{function}: optimizer averages the params ({average}), which {function} moves "
            f"afterwards; an average comes last, as in chain({function}(...), ema(...))"
        )


def keep_order(source: Callable, target: Callable) -> None:
    """Give the update `target` what is known of the update `source`, which it computes."""
    order = getattr(source, "order", None)
    if order is not None:
        target.order = order
