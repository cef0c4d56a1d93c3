"""Updates in one pass over memory, and in one call.

An Adam step written as array operations takes some ten of both: calls are what costs in small nets,
passes over memory in large ones. A backend may register a kernel that does a whole step, for the
optimizers that say by a `Rule` what they compute. It makes new arrays, as every update does, and
gives the same numbers as the plain arithmetic up to rounding: the order of the operations within an
element is its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.hyper import as_numbers, next_count, resolve_hyper
from purenets.core.vector_dict import from_vector, packed, vector_of


class Rule(NamedTuple):
    """What an optimizer computes, for a kernel.

    Args:
        kind: "adam", "adamw" or "sgd".
        hypers: the hyper-parameters of the constructor of that name.
        places: the entries of the state: "moments" (of the transform that keeps them) and "lr".
        numbers: those of `hypers` that are not the rate, if all are numbers; else None, and no
            kernel suits.
        entries: what the state has at `places["moments"]`, and at `places["lr"]`.
        parts: how many transforms the chain has.
    """

    kind: str
    hypers: dict[str, Any]
    places: dict[str, str]
    numbers: tuple[float, ...] | None
    entries: tuple[frozenset[str], frozenset[str]]
    parts: int


class Leaves(NamedTuple):
    """The leaves that a kernel advances, as lists in one order.

    Args:
        params: the arrays.
        grads: one for each.
        moments: lists of one array for each, by the name of the moment.
        is_vector: True for one vector of all leaves.
    """

    params: list[Array]
    grads: list[Array]
    moments: dict[str, list[Array]]
    is_vector: bool


# kernel(rule, lr, count, leaves) -> (params, moments), or None where it does not suit; count: of
# the step that is taken, None where the optimizer has none
Kernel = Callable[[Rule, Any, Array | None, Leaves], tuple[list[Array], dict[str, list]] | None]
KERNELS: dict[type, Kernel] = {}


def register_kernel(array: type, kernel: Kernel) -> None:
    """Let `advance_by_kernel` ask `kernel` where the params are arrays of type `array`."""
    KERNELS[array] = kernel


def with_rule(
    optimizer: Optimizer,
    kind: str,
    places: dict[str, str],
    moments: tuple[str, ...],
    **hypers,
) -> Optimizer:
    """Return `optimizer` with the rule that it computes, on a state with the entries `moments`."""
    flat = [v for name, value in hypers.items() if name != "lr" for v in _flat(value)]
    counts = ("count",) if callable(hypers["lr"]) else ()
    entries = frozenset(moments), frozenset(counts)
    parts = int(places["lr"]) + 1  # the rate comes last
    optimizer.update.rule = Rule(kind, hypers, places, as_numbers(*flat), entries, parts)
    return optimizer


def _flat(value) -> tuple:
    return () if isinstance(value, bool) else tuple(value) if isinstance(value, tuple) else (value,)


def rule_of(optimizer: Optimizer) -> Rule | None:
    """Return the rule of an optimizer, or None of one that has none."""
    return getattr(optimizer.update, "rule", None)


def advance_by_kernel(rule: Rule, grads: Params, state: dict, params: Params):
    """Return the params and the state after an update by a registered kernel, or None where none
    suits.
    """
    if not _is_state_of(rule, state):
        return None  # the plain arithmetic has the message
    vector, inner = vector_of(params), state[rule.places["moments"]]
    first = next(iter(params.values())) if vector is None else vector
    kernel = KERNELS.get(type(first))
    if kernel is None or rule.numbers is None:
        return None
    if vector is None:
        leaves, dict_of = _lists(params, grads, inner)
    else:
        leaves, dict_of = _vectors(params.layout, vector, grads, inner)
    if leaves is None:
        return None
    lr_at, count = rule.places["lr"], inner["count"] + 1 if "count" in inner else None
    lr = resolve_hyper(rule.hypers["lr"], state[lr_at], {"": first})
    done = kernel(rule, lr, count, leaves)
    if done is None:
        return None
    moments = {name: dict_of(arrays) for name, arrays in done[1].items()}
    moments = moments if count is None else {"count": count, **moments}
    counted = next_count(state[lr_at], bool(rule.entries[1]))
    state = {**state, rule.places["moments"]: moments, lr_at: counted}
    return dict_of(done[0]), state


def _is_state_of(rule: Rule, state: dict) -> bool:
    """Return True for a state with the entries that the rule reads, and no others."""
    moments, lr = rule.places["moments"], rule.places["lr"]
    if not isinstance(state, dict) or len(state) != rule.parts or lr not in state:
        return False
    for name, part in state.items():  # no generator: this is a part of every step
        if name != moments and name != lr and part:
            return False  # the decay of weights, a number, keeps nothing
    return state[moments].keys() == rule.entries[0] and state[lr].keys() == rule.entries[1]


def _vectors(layout, vector: Array, grads: Params, inner: dict):
    """Return leaves that are one vector, and the function from a list of it to a dict."""
    grad, moments = packed(layout, grads), {}
    if grad is None:
        return None, None
    for name, part in inner.items():
        if name != "count":
            moments[name] = [packed(layout, part)]
            if moments[name][0] is None:
                return None, None
    return Leaves([vector], [grad], moments, True), lambda arrays: from_vector(layout, *arrays)


def _lists(params: Params, grads: Params, inner: dict):
    """Return leaves in the order of the params, and the function from a list of them to a dict."""
    if grads.keys() != params.keys():
        return None, None
    moments = {
        name: [part[leaf] for leaf in params] for name, part in inner.items() if name != "count"
    }
    leaves = Leaves(list(params.values()), [grads[leaf] for leaf in params], moments, False)
    return leaves, lambda arrays: dict(zip(params, arrays, strict=True))
