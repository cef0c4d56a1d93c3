"""Wrappers: each function takes optimizers and returns an optimizer.

    partition, masked, freeze   a part of the params each, by name or shape
    accumulate                  one update for every k gradients
    apply_if_finite             no update by a gradient that is not finite
    skip_first                  no update by the first gradient
    ema, lookahead              averages of the params

`optim.state` reads and changes what they keep. Nothing branches on a value: an update that is not
due is computed and not used.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    PART,
    expect_functions,
    expect_hypers,
    expect_integers,
    expect_optimizers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.arithmetic import choose, running_mean, scaled
from purenets.core.optim.internals.elementwise import elementwise, elementwise_as
from purenets.core.optim.internals.extra_args import like_inner, with_extra_args
from purenets.core.optim.internals.hyper import (
    Hyper,
    first_leaf,
    init_count,
    next_count,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.internals.precision import any_dtype
from purenets.core.optim.transforms import chain

Predicate = Callable[[str, Array], bool]  # of the name of a leaf and the leaf


# --- parts of the params --------------------------------------------------------------------------


def partition(optimizers: dict[str, Optimizer], label_fn: Callable[[str, Array], str]) -> Optimizer:
    """Each leaf goes to `optimizers[label_fn(name, leaf)]`; their states lie under their labels.

    partition({"2": adamw(1e-3), "1": adam(1e-3)}, lambda name, leaf: str(leaf.ndim))
    """
    if not isinstance(optimizers, dict):
        raise UserError(f"partition: optimizers is a {type(optimizers).__name__}, needs a dict")
    expect_optimizers("partition", **{str(name): o for name, o in optimizers.items()})
    expect_functions("partition", label_fn=label_fn)

    def labels(params):
        found = {name: label_fn(name, leaf) for name, leaf in params.items()}
        for name, label in found.items():
            if label not in optimizers:
                raise UserError(f"{name}: label {label!r}, needs one of {', '.join(optimizers)}")
        return found

    def split(found, leaves):
        used = [label for label in optimizers if label in found.values()]
        return {label: {n: leaves[n] for n in found if found[n] == label} for label in used}

    def init(params):
        parts = split(labels(params), params)
        return {label: optimizers[label].init(part) for label, part in parts.items()}

    def update(grads, state, params, **extra):
        tree.check_names(grads, params)
        found, updates, new_state = labels(params), {}, {}
        grads, parts = split(found, grads), split(found, params)
        for label, part in grads.items():
            known = _of_part(params, parts[label], **extra) if extra else {}
            inner = inner_updates[label]
            moves, new_state[label] = inner(part, state[label], parts[label], **known)
            updates |= moves
        return {name: updates[name] for name in found}, new_state

    inner_updates = {label: with_extra_args(inner.update) for label, inner in optimizers.items()}
    return Optimizer(init, like_inner(update, optimizers.values()))


def _of_part(params: Params, part: Params, value=None, value_and_grad_fn=None) -> dict:
    """Return the extra arguments for an optimizer of `part`: the other params stay as they are."""

    def of_part(changed: Params):
        loss, grads = value_and_grad_fn({**params, **changed})
        return loss, {name: grads[name] for name in part}

    return {"value": value, "value_and_grad_fn": value_and_grad_fn and of_part}


def masked(transform: Optimizer, where: Predicate) -> Optimizer:
    """`transform` on the leaves that `where(name, leaf)` picks; the others pass as they are.

    masked(add_decayed_weights(1e-2), not_named("*.bias", "norm*"))
    """
    expect_optimizers("masked", transform=transform)
    expect_functions("masked", where=where)
    return partition(
        {"masked": transform, "other": chain()}, lambda *leaf: "masked" if where(*leaf) else "other"
    )


def named(*patterns: str) -> Predicate:
    """Leaves whose name matches one of the patterns, in which * stands for anything.

    >>> named("fc1.*", "*.bias")("fc2.bias", None)
    True
    """
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UserError(f'named: {pattern!r} is no pattern, such as "*.bias"')
    return lambda name, leaf: any(fnmatchcase(name, pattern) for pattern in patterns)


def not_named(*patterns: str) -> Predicate:
    """Leaves whose name matches none of the patterns."""
    picks = named(*patterns)
    return lambda name, leaf: not picks(name, leaf)


def is_matrix(name: str, leaf: Array) -> bool:
    """Leaves of two or more axes: weights, neither biases nor the scales of norms."""
    if not hasattr(leaf, "ndim"):
        raise UserError(f"is_matrix: leaf is a {type(leaf).__name__}, needs an array")
    return leaf.ndim > 1


def freeze() -> Optimizer:
    """No update at all; the leaves may have any dtype."""
    return Optimizer(
        lambda params: {}, lambda grads, state, params: (tree.zeros_like(grads), state)
    )


def normalize_weights(optimizer: Optimizer) -> Optimizer:
    """Each update begins from the weights brought back to the length of the square root of their
    number of rows, so that a rate means the same to every matrix and at all times (K. Jordan
    2024)."""
    expect_optimizers("normalize_weights", optimizer=optimizer)

    def update(grads, state, params, **extra):
        updates, state = optimizer.update(grads, state, params, **extra)

        def back(p, u):
            xp, length = namespace(p), tree.norm({"": p})
            length = xp.where(length > 0, length, xp.ones_like(length))  # a leaf of zeros stays
            rows = p.shape[0] if p.ndim else 1
            return u + p * (rows**0.5 / length - 1)

        return tree.map(back, params, updates), state

    return any_dtype(Optimizer(optimizer.init, like_inner(update, [optimizer])))


# --- when to update -------------------------------------------------------------------------------


def accumulate(optimizer: Optimizer, k: int) -> Optimizer:
    """Every k-th update is that of `optimizer` for the mean of the last k gradients; the others are
    zero.
    """
    expect_optimizers("accumulate", optimizer=optimizer)
    expect_integers("accumulate", 1, k=k)

    def init(params):
        return {
            "count": zero_count(params),
            "sum": tree.zeros_like(params),
            "inner": optimizer.init(params),
        }

    def update(grads, state, params, **extra):
        count, total = state["count"] + 1, tree.map(lambda s, g: s + g, state["sum"], grads)
        due = count == k
        updates, inner = optimizer.update(scaled(total, 1 / k), state["inner"], params, **extra)
        nothing = tree.zeros_like(total)
        new, old = {"sum": nothing, "inner": inner}, {"sum": total, "inner": state["inner"]}
        return choose(due, updates, nothing), {"count": count % k, **choose(due, new, old)}

    return elementwise_as(optimizer, Optimizer(init, like_inner(update, [optimizer])))


def apply_if_finite(optimizer: Optimizer) -> Optimizer:
    """No update and no change of the inner state where the gradient has an infinity or a NaN; the
    entry "skipped" counts these."""
    expect_optimizers("apply_if_finite", optimizer=optimizer)

    def init(params):
        return {"skipped": zero_count(params), "inner": optimizer.init(params)}

    def update(grads, state, params, **extra):
        finite = all_finite(grads)
        nothing = tree.zeros_like(grads)
        updates, inner = optimizer.update(
            choose(finite, grads, nothing), state["inner"], params, **extra
        )
        skipped = namespace(finite).where(finite, state["skipped"], state["skipped"] + 1)
        return choose(finite, updates, nothing), {
            "skipped": skipped,
            "inner": choose(finite, inner, state["inner"]),
        }

    return any_dtype(Optimizer(init, like_inner(update, [optimizer])))


def skip_first(optimizer: Optimizer) -> Optimizer:
    """Return `optimizer` without its first update; its state advances.

    For those that need a gradient before they can scale one.
    """
    expect_optimizers("skip_first", optimizer=optimizer)

    def init(params):
        return {"count": zero_count(params), "inner": optimizer.init(params)}

    def update(grads, state, params, **extra):
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        updates = choose(state["count"] > 0, updates, tree.zeros_like(updates))
        return updates, {"count": state["count"] + 1, "inner": inner}

    return elementwise_as(optimizer, Optimizer(init, like_inner(update, [optimizer])))


def all_finite(grads: Params) -> Array:
    """Whether every element of every leaf is finite: a scalar array of a truth value."""
    each = [namespace(g).all(namespace(g).isfinite(g)) for g in tree.leaves(grads)]
    return namespace(first_leaf(grads)).all(namespace(first_leaf(grads)).stack(each))


# --- averages of the params -----------------------------------------------------------------------


def ema(decay: Hyper = 0.999) -> Optimizer:
    """The end of a chain: passes the updates and keeps, as the entry "ema", the running mean of the
    params after them, from the first params on. Read it by `get_state(opt_state, "ema")`."""
    expect_hypers("ema", DECAY, decay=decay)

    def init(params):
        return {**init_count(params, decay), "ema": params.copy()}

    def update(updates, state, params):
        moved = tree.map(lambda p, u: p + u, params, updates)
        mean = running_mean(resolve_hyper(decay, state, updates), state["ema"], moved)
        return updates, {**next_count(state), "ema": mean}

    return elementwise(Optimizer(init, update))


def lookahead(optimizer: Optimizer, k: int = 5, alpha: Hyper = 0.5) -> Optimizer:
    """After every k updates of `optimizer` the slow params go `alpha` of the way to the fast ones,
    and the fast ones back to them (Zhang et al. 2019)."""
    expect_optimizers("lookahead", optimizer=optimizer)
    expect_integers("lookahead", 1, k=k)
    expect_hypers("lookahead", PART, alpha=alpha)

    def init(params):
        return {"count": zero_count(params), "slow": params.copy(), "inner": optimizer.init(params)}

    def update(grads, state, params, **extra):
        a, count = resolve_hyper(alpha, state, grads), state["count"] + 1
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        fast = tree.map(lambda p, u: p + u, params, updates)
        slow = tree.map(lambda s, f: s + a * (f - s), state["slow"], fast)
        due = count % k == 0
        back = tree.map(lambda s, p: s - p, slow, params)
        return choose(due, back, updates), {
            "count": count,
            "slow": choose(due, slow, state["slow"]),
            "inner": inner,
        }

    return elementwise_as(optimizer, Optimizer(init, like_inner(update, [optimizer])))
