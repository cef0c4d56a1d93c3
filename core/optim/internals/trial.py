"""A trial of what users wrote, on a few elements of each leaf, where the state is made.

An update that writes into its arguments gives right numbers in one loop and wrong ones in the next:
the state from before it is no longer there. One that returns something else than `(updates,
opt_state)` ends in an error far from it. One that has no learning rate, or is turned twice, trains
uphill. All are told before the first step. The optimizers of the package are tested for it, and not
tried.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from purenets.core import tree
from purenets.core.arrays import kind_of, namespace, to_host, widened
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.extra_args import takes_extra_args
from purenets.core.optim.internals.hyper import first_leaf, is_concrete
from purenets.core.optim.internals.order import order_of
from purenets.core.optim.internals.precision import expect_like

MAX_SIZE = 3  # elements along each axis of a leaf of the trial
RATES = (0.1, 10.0)  # that a transform either keeps or loses
SIZE = 0.5  # of an update that has no rate
NEAR_ONE = 0.25  # how far from 1 the growth of new params is that are decayed too


def can_be_tried(params: Params) -> bool:
    """Return True for real leaves that nothing traces."""
    return is_concrete(first_leaf(params)) and all(kind_of(p) == "f" for p in params.values())


def small(params: Params) -> Params:
    """Return a few elements of each leaf, in float32 at least."""
    few = {name: widened(p[(slice(MAX_SIZE),) * p.ndim]) for name, p in params.items()}
    moved = {name: p + numbers(p, 1.0) for name, p in few.items()}
    return {name: np.asarray(p) if isinstance(p, np.generic) else p for name, p in moved.items()}


def numbers(p: Array, first: float) -> Array:
    """Return first, first + 1, ..., in the shape of a leaf."""
    xp, n = namespace(p), math.prod(p.shape)
    return first + xp.reshape(xp.arange(n, dtype=p.dtype, device=p.device), p.shape)


def expect_own_parts(optimizer: Optimizer, params: Params) -> None:
    """Raise a UserError for an update, not the package's, that writes into its arguments or returns
    something else than it should.
    """
    own = order_of(optimizer).own
    if own and can_be_tried(params):
        for part in own:
            _expect_pure(part, small(params))
        _expect_downhill(optimizer, own, params)


def _expect_downhill(optimizer: Optimizer, own: tuple[Optimizer, ...], params: Params) -> None:
    """Raise a UserError for an optimizer whose first updates climb although no part of it returns
    -g, which says that they should.

    Updates climb where their product with the gradient is positive. The params of the trial are
    positive, as its gradients are: weight decay shrinks both.
    """
    at = {name: numbers(p, 1.0) for name, p in small(params).items()}
    updates = _first_updates(optimizer, at)
    _expect_no_params(optimizer, updates, at)
    _expect_gradient_used(optimizer, updates, at)
    if not _climbs(updates, at):
        return
    alone = [_first_updates(part, at) for part in own]
    turning = [updates for updates in alone if not _climbs(updates, at)]
    if any(updates is None or _is_reversed(updates, at) for updates in turning):
        return
    why = (
        "an update of your own points downhill already, and a rate or an optimizer after it turns "
        "it; leave one of the two out"
        if turning
        else "nothing in it turns them downhill; end it with scale_by_learning_rate(lr), or return "
        "-lr * g in place of lr * g"
    )
    raise UserError(
        f"optimizer: its first updates point uphill: {why}; to climb on purpose, begin the chain "
        "with a transform that returns -g"
    )


def _expect_no_params(optimizer: Optimizer, updates: dict | None, at: Params) -> None:
    """Raise a UserError for an optimizer that returns new params, p - lr * g, in place of updates.

    At params twice as large, with the same gradient, its "updates" of a leaf grow by about these
    params. Those of any right one do not: weight decay shrinks params, a trust ratio scales -g.
    """
    other = _first_updates(optimizer, {name: p + p for name, p in at.items()}, _gradient(at))
    for name, p in at.items():
        if updates is None or other is None or not updates[name].size:
            continue
        growth = (other[name] - updates[name]) / to_host(p)
        if (abs(growth - 1) < NEAR_ONE).all():
            raise UserError(
                f"optimizer: update returns new params for {name!r}, needs what is added to them: "
                "-lr * g in place of p - lr * g"
            )


def _expect_gradient_used(optimizer: Optimizer, updates: dict | None, at: Params) -> None:
    """Raise a UserError for an optimizer whose first updates are the same for -g as for g."""
    turned = {name: -g for name, g in _gradient(at).items()}
    other = None if updates is None else _first_updates(optimizer, at, turned)
    if other is None or not any(u.any() for u in updates.values()):
        return
    if all(np.array_equal(u, other[name]) for name, u in updates.items()):
        raise UserError(
            "optimizer: its updates do not depend on the gradient; the arguments of update are "
            "(grads, opt_state, params), in this order"
        )


def _first_updates(
    optimizer: Optimizer, at: Params, grads: Params | None = None
) -> dict[str, np.ndarray] | None:
    """Return the updates of a gradient of positive numbers, None where they are not known."""
    if takes_extra_args(optimizer.update):
        return None
    try:
        with np.errstate(all="ignore"):
            updates, _ = optimizer.update(grads or _gradient(at), optimizer.init(at), at)
            found = {name: np.asarray(to_host(leaf)) for name, leaf in updates.items()}
    except Exception:  # the numbers are not those of the net: the update may refuse them
        return None
    same = found.keys() == at.keys()
    return found if same and all(np.isfinite(u).all() for u in found.values()) else None


def _gradient(at: Params) -> Params:
    return {name: numbers(p, 1.0 + 10 * i) for i, (name, p) in enumerate(at.items())}


def _climbs(updates: dict[str, np.ndarray] | None, at: Params) -> bool:
    """Return True if some leaves move uphill and none downhill."""
    if updates is None:
        return False
    grads = {name: to_host(g) for name, g in _gradient(at).items()}
    slopes = [float((u * grads[name]).sum()) for name, u in updates.items()]
    return min(slopes) >= 0 and max(slopes) > 0


def _is_reversed(updates: dict[str, np.ndarray], at: Params) -> bool:
    """Return True for updates that are -g: whoever returns them wants to maximize."""
    grads = {name: to_host(g) for name, g in _gradient(at).items()}
    return all(np.array_equal(u, -grads[name]) for name, u in updates.items())


def _expect_pure(optimizer: Optimizer, params: Params) -> None:
    grads = _gradient(params)
    try:
        with np.errstate(all="ignore"):
            given = {"grads": grads, "opt_state": optimizer.init(params), "params": params}
            before = {what: _contents(part) for what, part in given.items()}
            result = optimizer.update(*given.values(), **_loss(optimizer, params))
    except TypeError as error:
        if "must be Tensor, not" in str(error):  # a function of torch, and arrays of NumPy
            text = str(error).splitlines()[0]
            raise UserError(
                f"optimizer: update calls a function of torch with NumPy arrays ({text}); take "
                "functions from core.arrays.namespace(g), as namespace(g).sign(g)"
            ) from error
        return
    except Exception:  # the numbers are not those of the net: the update may refuse them
        return
    for what, part in given.items():
        _expect_unchanged(what, before[what], part)
    expect_returned("optimizer", result, params)
    _expect_same_state(result[1], given["opt_state"])


def _expect_same_state(new: dict, old: dict) -> None:
    """Raise a UserError unless a state keeps its names, shapes and dtypes.

    Another one could be saved, but not restored: a checkpoint is read into what `init` returns.
    """
    new, old = tree.flatten(new), tree.flatten(old)
    for name in [*old, *new]:
        lacks = name not in new or name not in old
        found = [_outline(part.get(name)) for part in (new, old)]
        if lacks or found[0] != found[1]:
            was, now = ("nothing" if name not in old else found[1]), found[0]
            raise UserError(
                f"optimizer: update returns {now if name in new else 'no entry'} as "
                f"opt_state/{name}, init {was}; a state keeps its names, shapes and dtypes"
            )


def _outline(leaf: Any) -> str:
    if not hasattr(leaf, "dtype"):
        return f"a {type(leaf).__name__}"
    return f"{str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)}"


def expect_rates_kept(
    transforms: tuple[Optimizer, ...], after_rates: dict[int, int], params: Params
) -> None:
    """Raise a UserError for a transform, not the package's, that returns updates of about the size
    1 whatever the size of those that come in, and so loses the rate of an earlier one.

    Smaller updates may have a rate of their own, and are taken.
    """
    if after_rates and can_be_tried(params):
        for i, rated_by in after_rates.items():
            if _loses_rates(transforms[i], small(params)):
                raise UserError(
                    f"chain: transform_{i} returns updates of the same size whatever comes in, so "
                    f"the rate of transform_{rated_by} is lost; put the rate after it"
                )


def _loses_rates(transform: Optimizer, params: Params) -> bool:
    grads = {name: numbers(p, 1.0) for name, p in params.items()}
    extra = _loss(transform, params)
    found = []
    for rate in RATES:
        try:
            with np.errstate(all="ignore"):
                scaled = {name: g * -rate for name, g in grads.items()}
                updates, _ = transform.update(scaled, transform.init(params), params, **extra)
                found.append({name: to_host(leaf) for name, leaf in updates.items()})
        except Exception:  # it may refuse such numbers
            return False
    first, second = found
    pairs = [(leaf, second[name]) for name, leaf in first.items() if name in second]
    same = all(a.shape == b.shape and np.allclose(a, b, rtol=1e-3, atol=0) for a, b in pairs)
    return same and all(a.size == 0 or abs(a).min() >= SIZE for a, _ in pairs)


def _loss(optimizer: Optimizer, params: Params) -> dict[str, Any]:
    """Return the arguments of an update that asks for the loss: that of a straight line."""
    if not takes_extra_args(optimizer.update):
        return {}

    def value_and_grad_fn(params):
        total = sum(p.sum() for p in params.values())
        return total, tree.map(lambda p: namespace(p).ones_like(p), params)

    return {"value": value_and_grad_fn(params)[0], "value_and_grad_fn": value_and_grad_fn}


def _contents(part: dict) -> dict[str, tuple[Array, np.ndarray]]:
    """Return each leaf of a nested dict, and a copy of its elements."""
    return {name: (leaf, np.array(to_host(leaf))) for name, leaf in tree.flatten(part).items()}


def _expect_unchanged(what: str, before: dict[str, tuple[Array, np.ndarray]], part: dict) -> None:
    leaves = tree.flatten(part)
    for name, (leaf, elements) in before.items():
        same = leaves.get(name) is leaf
        if not same or not np.array_equal(to_host(leaf), elements, equal_nan=True):
            raise UserError(
                f"optimizer: update changes its argument {what} in place ({name}); return new "
                "arrays and dicts, as m + g in place of m += g"
            )


def expect_returned(what: str, result: Any, params: Params | None = None) -> None:
    """Raise a UserError for what an update must not return; `what` begins the message."""
    if not isinstance(result, tuple | list) or len(result) != 2:
        kind = f"{len(result)} values" if isinstance(result, tuple | list) else _kind(result)
        raise UserError(f"{what}: update returns {kind}, needs the pair (updates, opt_state)")
    for name, part in zip(("updates", "opt_state"), result, strict=True):
        if not isinstance(part, dict):
            raise UserError(f"{what}: update returns {_kind(part)} as {name}, needs a dict")
    if params is not None:
        try:
            expect_like("updates", result[0], params)
        except UserError as error:
            raise UserError(f"{what}: update returns wrong {error}") from None


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}" + (" alone" if isinstance(value, dict) else "")


def returning_pairs(what: str, transform: Optimizer) -> Callable:
    """Return the update of a transform; of one that users wrote, with a look at what it returns."""
    update = transform.update
    if hasattr(update, "full") or order_of(transform).own != (transform,):
        return update

    def checked(grads, state, params, **extra):
        result = update(grads, state, params, **extra)
        if type(result) is not tuple or len(result) != 2 or type(result[0]) is not dict:
            expect_returned(what, result)
        return result

    if takes_extra_args(update):
        return checked
    return lambda grads, state, params: checked(grads, state, params)
