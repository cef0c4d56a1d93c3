"""What the order of a chain must respect: which transforms average, turn, normalize or decay.

An average of the params is that of `params + updates`, so it is right only if nothing changes the
updates after it. Weight decay is added to updates that point uphill, so it is right only before
they are turned downhill; turned twice they point uphill again. What divides updates by their own
size divides a rate out that was multiplied in before. A line search reads the loss at other params,
which knows nothing of a decay or a clipping before it. `update.order` says of a transform what is
known; of a function of the user's nothing is, and nothing is refused because of it.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from purenets.core.base import Optimizer, UserError


class Order(NamedTuple):
    """What is known of the updates of a transform.

    Args:
        average: the name of the average of the params that it keeps, "" for none.
        passes: True if the updates come out as they went in.
        signs: one for each part of the params: -1 if it is turned downhill, 1 if it is not turned,
            0 if that is unknown. None for an optimizer that moves nothing.
        decays: True if it adds weight decay, and turns nothing after it.
        normalizes: True if the size of what comes in does not change what goes out.
        rated: True if a rate is multiplied in, and nothing after it may have undone that.
        own: the optimizers in it that the package does not know.
        searches: the name of the line search in it, "" for none: its loss at other params has to be
            that of its gradients.
        penalizes: True if weight decay or another penalty is in its updates.
    """

    average: str = ""
    passes: bool = False
    signs: frozenset[int] = frozenset({0})
    decays: bool = False
    normalizes: bool = False
    rated: bool = False
    own: tuple[Optimizer, ...] = ()
    searches: str = ""
    penalizes: bool = False

    @property
    def sign(self) -> int:
        """Return the sign of all params, 0 if it is unknown or differs."""
        return next(iter(self.signs)) if len(self.signs) == 1 else 0


UNCHANGED, DOWN = frozenset({1}), frozenset({-1})
UNKNOWN = Order()
KEEPS = Order(signs=UNCHANGED)
TURNS = Order(signs=DOWN, rated=True)
SCALES = Order(signs=UNCHANGED, rated=True)
NORMALIZES = Order(signs=UNCHANGED, normalizes=True)
DECAYS = Order(signs=UNCHANGED, decays=True, penalizes=True)
FREEZES = Order(signs=frozenset())


def average_of_params(name: str) -> Order:
    """Return the order of a transform that only keeps an average of the params."""
    return Order(name, passes=True, signs=UNCHANGED)


def searching(name: str) -> Order:
    """Return the order of a line search."""
    return TURNS._replace(searches=name)


def order_of(optimizer: Optimizer) -> Order:
    """Return what is known of an optimizer."""
    order = getattr(optimizer.update, "order", None)
    return UNKNOWN._replace(own=(optimizer,)) if order is None else order


def with_order(order: Order, optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, with what is known of it."""
    optimizer.update.order = order
    return optimizer


def order_of_wrapper(inner: Iterable[Optimizer]) -> Order:
    """Return the order of an optimizer that may change the updates of the inner ones."""
    return order_of_parts(inner)._replace(passes=False)


def order_of_parts(inner: Iterable[Optimizer]) -> Order:
    """Return the order of optimizers of a part of the params each."""
    orders = [order_of(optimizer) for optimizer in inner]
    averages = [order.average for order in orders if order.average]
    return Order(
        averages[0] if averages else "",
        all(order.passes for order in orders),
        frozenset().union(*[order.signs for order in orders]),
        any(order.decays for order in orders),
        any(order.normalizes for order in orders),
        any(order.rated for order in orders),
        _own(orders),
        _searches(orders),
        any(order.penalizes for order in orders),
    )


def _own(orders: list[Order]) -> tuple[Optimizer, ...]:
    return tuple(optimizer for order in orders for optimizer in order.own)


def _searches(orders: list[Order]) -> str:
    return next((order.searches for order in orders if order.searches), "")


# --- chains ---------------------------------------------------------------------------------------


def order_in_sequence(transforms: tuple[Optimizer, ...]) -> Order:
    """Return the order of a chain; raise a UserError for one whose numbers would be wrong."""
    orders = [order_of(transform) for transform in transforms]
    average, (signs, decays) = _average(orders), _direction(orders)
    _expect_own_gradient(orders)
    return Order(
        average,
        all(order.passes for order in orders),
        signs,
        decays,
        any(order.normalizes for order in orders),
        _rated(orders),
        _own(orders),
        _searches(orders),
        any(order.penalizes for order in orders),
    )


def _expect_own_gradient(orders: list[Order]) -> None:
    """Raise a UserError for a line search whose gradient is another one than that of its loss."""
    changed_by = None
    for i, order in enumerate(orders):
        if order.searches and changed_by is not None:
            raise UserError(
                f"chain: transform_{changed_by} changes the gradient before the line search of "
                f"transform_{i} ({order.searches}), whose loss it does not change; leave it out, "
                "and add a penalty such as weight decay to the loss"
            )
        changes = not order.passes and (order.penalizes or not order.own)
        changed_by = i if changes and changed_by is None else changed_by


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


def _direction(orders: list[Order]) -> tuple[frozenset[int], bool]:
    """Return the signs of a chain, and whether it decays; a UserError if weights would grow, or
    some params would climb.
    """
    signs, decays, turned_by, wrong = UNCHANGED, False, 0, None
    for i, order in enumerate(orders):
        if order.sign == 1:
            decays = decays or order.decays
            wrong = i if order.decays and signs == DOWN else wrong
        elif order.signs:
            _expect_downhill(signs, order.signs, turned_by, i)
            decays, turned_by, wrong = order.decays, i, None
        signs = _product(signs, order.signs)
    if wrong is not None:
        raise UserError(
            f"chain: transform_{wrong} adds weight decay to updates that transform_{turned_by} has "
            "turned downhill, so weights would grow; put it before them, or use their weight_decay"
        )
    return signs, decays


def _expect_downhill(signs: frozenset, turns: frozenset, turned_by: int, i: int) -> None:
    """Raise a UserError if updates of the `signs` are turned uphill again by transform i."""
    certain = (signs == DOWN and -1 in turns) or (-1 in signs and turns == DOWN)
    if certain:
        raise UserError(
            f"chain: transform_{i} turns downhill updates uphill, since transform_{turned_by} has "
            "turned them already; leave one of the two out: a whole optimizer, such as adam(lr), "
            "and scale_by_learning_rate each multiply by -lr"
        )


def _product(before: frozenset, after: frozenset) -> frozenset:
    """Return the signs after two transforms; of two that differ by leaf, nothing is known."""
    if len(before) > 1 and len(after) > 1:
        return UNKNOWN.signs
    # an unknown sign counts as uphill, as gradients are, before what turns
    return frozenset(b if b == 0 and a == 0 else a * (b or (a < 0)) for b in before for a in after)


def _rated(orders: list[Order]) -> bool:
    """Return whether a chain multiplies by a rate; a UserError if a later part divides it out."""
    rated_by = None
    for i, order in enumerate(orders):
        if order.normalizes and rated_by is not None:
            raise UserError(
                f"chain: transform_{i} normalizes the updates, which cancels the rate of "
                f"transform_{rated_by}; put the rate after it"
            )
        rated_by = i if order.rated else None if order.own else rated_by
    return rated_by is not None


def own_after_rates(transforms: tuple[Optimizer, ...]) -> dict[int, int]:
    """Return the places of transforms that users wrote, each with that of a rate before it."""
    found, rated_by = {}, None
    for i, order in enumerate(map(order_of, transforms)):
        if order.own == (transforms[i],) and rated_by is not None:
            found[i] = rated_by
        rated_by = i if order.rated else rated_by
    return found


# --- where an optimizer is taken ------------------------------------------------------------------


def expect_no_average(function: str, optimizer: Optimizer) -> None:
    """Raise a UserError for an average of params that the wrapper `function` moves afterwards."""
    average = order_of(optimizer).average
    if average:
        raise UserError(
            f"{function}: optimizer averages the params ({average}), which {function} moves "
            f"afterwards; an average comes last, as in chain({function}(...), ema(...))"
        )


def expect_no_search(function: str, optimizer: Optimizer) -> None:
    """Raise a UserError for a line search, by a function that has the loss of a part only."""
    _refuse_search(
        function,
        optimizer,
        f"which needs the loss of the whole batch at other params; {function} has only that of its "
        "last part",
    )


def expect_no_penalized_search(function: str, optimizer: Optimizer) -> None:
    """Raise a UserError for a line search, by a function that adds a penalty to its gradient."""
    reason = f"whose loss lacks the penalty of {function}; add the penalty to the loss"
    _refuse_search(function, optimizer, reason)


def _refuse_search(function: str, optimizer: Optimizer, reason: str) -> None:
    name = order_of(optimizer).searches
    if name:
        raise UserError(f"{function}: optimizer is a line search ({name}), {reason}")


def expect_no_penalty(function: str, direction: Optimizer) -> None:
    """Raise a UserError for a direction with weight decay, by a search along it."""
    if order_of(direction).penalizes:
        raise UserError(
            f"{function}: direction has weight decay, which the loss along it lacks; set its "
            "weight_decay to 0, and add the penalty to the loss"
        )


def expect_descent(function: str, **optimizers: Optimizer) -> None:
    """Raise a UserError for an optimizer known to add updates that point uphill."""
    for name, optimizer in optimizers.items():
        signs = order_of(optimizer).signs
        if 1 in signs:
            which = "its updates point" if len(signs) == 1 else "updates of some leaves point"
            raise UserError(
                f"{function}: {name} has no learning rate: {which} uphill; end it with "
                "scale_by_learning_rate(lr), as in chain(scale_by_adam(), "
                "scale_by_learning_rate(lr)); leaves that should stay: partition and freeze()"
            )


def keep_order(source: Callable, target: Callable) -> None:
    """Give the update `target` what is known of the update `source`, which it computes."""
    order = getattr(source, "order", None)
    if order is not None:
        target.order = order
