"""Updates in one pass over memory, and in one call.

An Adam step written as array operations takes some ten of both: calls are what costs in small nets,
passes over memory in large ones. A backend may register a kernel that does a whole step, for the
optimizers that say by a `Rule` what they compute. It makes new arrays, as every update does, and
gives the same numbers as the plain arithmetic up to rounding: the order of the operations within an
element is its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from purenets.core.base import Optimizer, Params


class Rule(NamedTuple):
    """What an optimizer computes, for a kernel.

    Args:
        kind: "adam", "adamw" or "sgd".
        hypers: the hyper-parameters of the constructor of that name.
        places: the entries of the state: "moments" (of the transform that keeps them) and "lr".
    """

    kind: str
    hypers: dict[str, Any]
    places: dict[str, str]


Kernel = Callable[[Rule, Params, dict, Params], tuple[Params, dict] | None]
_kernels: list[Kernel] = []


def register_kernel(kernel: Kernel) -> None:
    """Let `advance_by_kernel` ask `kernel`, which returns None where it does not suit."""
    _kernels[:] = [kernel]


def with_rule(optimizer: Optimizer, kind: str, places: dict[str, str], **hypers) -> Optimizer:
    """Return `optimizer` with the rule that it computes."""
    optimizer.update.rule = Rule(kind, hypers, places)
    return optimizer


def rule_of(optimizer: Optimizer) -> Rule | None:
    """Return the rule of an optimizer, or None of one that has none."""
    return getattr(optimizer.update, "rule", None)


def advance_by_kernel(rule: Rule, grads: Params, state: dict, params: Params):
    """Return the params and the state after an update by a registered kernel, or None where none
    suits.
    """
    for kernel in _kernels:
        return kernel(rule, grads, state, params)
    return None
