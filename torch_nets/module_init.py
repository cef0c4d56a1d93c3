"""The first params of a torch.nn.Module under a key: by construction, or by `reset_parameters`.

Construction draws every leaf as the module's author meant it. `reset_parameters` is all that an
instance offers, and it is the same only for a module that was built of such layers and not touched
since. What is not is refused by name.
"""

import contextlib
import copy
import random as python_random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purenets.core import random
from purenets.core.base import Buffers, Params, UserError
from purenets.core.serial import NotDrawnError
from purenets.torch_nets.fast.drawn_at import DrawnAt
from purenets.torch_nets.module_draws import seeded

SAMPLE = 4096  # elements of a leaf that are compared with those drawn anew
# Of the Kolmogorov-Smirnov statistic, times sqrt(1/n + 1/m): one leaf in 10**6 by chance
CRITICAL = 2.7
POOLED = 2**16  # elements of all leaves together
SLACK = 0.005  # of the range of a uniform draw, for those rounded to bfloat16
NAMED = 6  # leaves that an error names


def leaves(module: nn.Module) -> tuple[Params, Buffers]:
    """Return copies of the params of a module, and of its buffers.

    Params are the trainable ones; frozen params are buffers.

    Args:
        module: the module.

    Returns:
        (params, buffers).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.module_init import leaves
        >>> params, buffers = leaves(torch.nn.BatchNorm1d(2))
        >>> list(params), list(buffers)
        (['weight', 'bias'], ['running_mean', 'running_var', 'num_batches_tracked'])
    """
    params, buffers = {}, {}
    for name, p in module.named_parameters():
        (params if p.requires_grad else buffers)[name] = p.detach().clone()
    return params, buffers | {name: b.detach().clone() for name, b in module.named_buffers()}


def constructed(
    make: Callable[[], nn.Module], key: Any, earlier: nn.Module | None = None
) -> tuple[Params, Buffers]:
    """Return the leaves of a module that is built anew, with draws from a key.

    Args:
        make: builds the module.
        key: the source of the draws.
        earlier: what `make` returned before.

    Returns:
        (params, buffers).

    Raises:
        UserError: `make` does not build a module but returns the params of `earlier` again.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.module_init import constructed
        >>> make = lambda: torch.nn.Linear(2, 3)
        >>> a, b = (constructed(make, random.key(0))[0] for _ in range(2))
        >>> torch.equal(a["weight"], b["weight"])
        True
    """
    versions = {id(p): p._version for p in earlier.parameters()} if earlier else {}
    with seeded(key), _seeded_elsewhere(key):
        module = make()
    trained = [p for p in module.parameters() if p.requires_grad]
    if trained and all(versions.get(id(p)) == p._version for p in trained):
        raise UserError(
            f"init(key): the function returns a {type(module).__name__} that was built before, the "
            "same for every key; build it within the function, or pass from_module the module"
        )
    return leaves(module)


@contextlib.contextmanager
def _seeded_elsewhere(key: Any) -> Iterator[None]:
    """Seed the generators of Python and of NumPy within the block, and put them back after it."""
    words = random.bits(torch.as_tensor(key), 2)
    # what a constructor may draw from
    before = python_random.getstate(), np.random.get_state()  # noqa: NPY002
    python_random.seed(int(words[1]))
    np.random.seed(int(words[1]))  # noqa: NPY002
    try:
        yield
    finally:
        python_random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def redrawn(module: nn.Module, key: Any) -> tuple[Params, Buffers]:
    """Return the leaves of a copy of a module after `reset_parameters` under a key.

    Frozen params, and buffers that no `reset_parameters` writes, keep the module's values.

    Args:
        module: the module.
        key: the source of the draws.

    Returns:
        (params, buffers).

    Raises:
        NotDrawnError: no `reset_parameters` draws a param, or a leaf has values of another origin:
            trained, loaded, set to zero, or drawn in another way. The message names it. For a
            copied module only its values can tell, so a leaf of few elements may pass by chance.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.module_init import redrawn
        >>> params, buffers = redrawn(torch.nn.Linear(2, 3), random.key(0))
        >>> params["weight"].shape
        torch.Size([3, 2])
    """
    key = torch.as_tensor(random.check_key(key))
    first, writes = _reset(module, key)
    second, _ = _reset(module, random.fold_in(key, 1))
    own = dict([*module.named_parameters(), *module.named_buffers()])
    undrawn = [name for name, leaf in first[0].items() if leaf.isnan().any()]
    drawn = {name: leaf for part in first for name, leaf in part.items() if writes[name]}
    others = second[0] | second[1]
    set_since = [
        name
        for name, leaf in drawn.items()
        if name not in undrawn
        and (
            own[name]._version > writes[name]
            or not _plausible(own[name].detach(), leaf, others[name])
        )
    ]
    shares = _shares(module, {name for name in drawn if name not in {*undrawn, *set_since}})
    outside = [name for name, share in shares.items() if not 0 <= share.min() <= share.max() <= 1]
    if not outside and not _uniform(shares):
        outside = list(shares)  # all of them together
    set_since += outside
    if undrawn or set_since:
        raise NotDrawnError(_refusal(type(module).__name__, undrawn, set_since))
    return first


def _shares(module: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Return the values of the distribution functions of the elements that layers of torch draw.

    In a leaf that was drawn they are uniform between 0 and 1; outside of that where no draw can be.
    """
    low, high = _reset_at(module, False), _reset_at(module, True)
    shares = {}
    for name, p in module.named_parameters():
        if name in names & low.keys():
            kind, first, last = *low[name], high[name][1]
            own, first, last = (_numbers(leaf.detach()) for leaf in (p, first, last))
            share = ((own - first) / (last - first))[first != last]
            share = (1 + torch.erf(share / 2**0.5)) / 2 if kind == "normal" else share
            near = (share > -SLACK) & (share < 1 + SLACK)
            shares[name] = torch.where(near, share.clamp(0, 1), share)
    return {name: share for name, share in shares.items() if len(share)}


def _reset_at(module: nn.Module, high: bool) -> dict[str, tuple[str, Tensor]]:
    """Return the kind of distribution, and an end of it, of each param that only torch resets."""
    fresh, others = detached_copy(module), []
    with DrawnAt(high) as mode:
        for place, part in reversed(list(fresh.named_modules())):
            reset = getattr(type(part), "reset_parameters", None)
            if reset is not None and not reset.__module__.startswith("torch.nn."):
                others.append(f"{place}." if place else "")  # it may reset all that is in it
            elif reset is not None and not _is_frozen(part):
                part.reset_parameters()
    return {
        name: (mode.kinds[id(p)], p)
        for name, p in fresh.named_parameters()
        if id(p) in mode.kinds and not name.startswith(tuple(others))
    }


def _uniform(shares: dict[str, Tensor]) -> bool:
    """Return True if all elements together may be uniform between 0 and 1.

    Of small leaves too, each of which says little, many do.
    """
    if not shares:
        return True
    found = torch.cat([share[:: -(-len(share) // SAMPLE)] for share in shares.values()])
    found = found[:: -(-len(found) // POOLED)].sort().values
    at = torch.linspace(0, 1, len(found) + 1, dtype=found.dtype)
    distance = torch.maximum(found - at[:-1], at[1:] - found).max()
    return float(distance) <= CRITICAL / len(found) ** 0.5


def _reset(module: nn.Module, key: Tensor) -> tuple[tuple[Params, Buffers], dict[str, int]]:
    """Return the leaves after a reset, and how often each was written.

    A param that was not written is NaN.
    """
    fresh = detached_copy(module)
    named = dict([*fresh.named_parameters(), *fresh.named_buffers()])
    for p in fresh.parameters():
        if p.requires_grad:
            p.detach().fill_(torch.nan)
    before = {name: leaf._version for name, leaf in named.items()}
    with seeded(key):
        # the inner ones first, as in construction
        for name, part in reversed(list(fresh.named_modules())):
            if hasattr(part, "reset_parameters") and not _is_frozen(part):
                _call_reset(part, f"{name}.reset_parameters" if name else "reset_parameters")
    writes = {name: leaf._version - before[name] for name, leaf in named.items()}
    params, buffers = leaves(fresh)
    for name, p in module.named_parameters():
        if not p.requires_grad:
            buffers[name], writes[name] = p.detach().clone(), 0
    return (params, buffers), writes


def _call_reset(part: Any, name: str) -> None:
    try:
        part.reset_parameters()
    except Exception as error:
        raise NotDrawnError(f"init: {name}() failed, {type(error).__name__}: {error}") from error


def _is_frozen(part: nn.Module) -> bool:
    """Return True if a module has params of its own and none of them is trained."""
    own = list(part.parameters(recurse=False))
    return bool(own) and not any(p.requires_grad for p in own)


def _refusal(name: str, undrawn: list[str], set_since: list[str]) -> str:
    reasons = []
    if undrawn:
        reasons.append(f"{_some(undrawn)}: not drawn by reset_parameters")
    if set_since:
        reasons.append(
            f"{_some(set_since)}: trained, loaded or initialized otherwise, would be overwritten"
        )
    remedy = (
        "pass from_module a function that builds the module, or call init(None) to keep its values"
    )
    return f"init(key) of {name}: {'; '.join(reasons)}; {remedy}"


def _some(names: list[str]) -> str:
    left = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {left} more" if left > 0 else "")


def _plausible(own: Tensor, first: Tensor, second: Tensor) -> bool:
    """Return True if a leaf's values may be of the same distribution as two that were drawn.

    Constants must be equal. The rest is compared by the Kolmogorov-Smirnov statistic of some
    elements.
    """
    constant = (first == second) & ((first == 0) | (first == 1))
    if not torch.equal(own[constant], first[constant]):
        return False
    own, first, second = (_numbers(leaf[~constant]) for leaf in (own, first, second))
    if torch.equal(first, second):
        return torch.equal(own, first)
    if (own.numel() > 1 and (own == own[0]).all()) or not own.any():
        return False
    step = -(-own.numel() // SAMPLE)
    drawn = torch.cat([first[::step], second[::step]]).sort().values
    return _distance(own[::step].sort().values, drawn) <= CRITICAL * (1.5 / len(own[::step])) ** 0.5


def _numbers(leaf: Tensor) -> Tensor:
    """Return the elements as a vector of float64; of complex ones both parts."""
    return (torch.view_as_real(leaf) if leaf.is_complex() else leaf).flatten().double().cpu()


def _distance(a: Tensor, b: Tensor) -> float:
    """Return the largest difference of the distribution functions of two sorted samples."""
    at = torch.cat([a, b])
    shares = [torch.searchsorted(sample, at, right=True) / len(sample) for sample in (a, b)]
    return float((shares[0] - shares[1]).abs().max())


def detached_copy(module: nn.Module, share: bool = False) -> nn.Module:
    """Return a deep copy of a module.

    Tensors that hooks computed from params, as the old weight_norm does, are detached first.

    Args:
        module: the module.
        share: True to let the copy have the very params and buffers of the module, where both are
            only replaced.

    Returns:
        The copy.
    """
    memo = {}
    for part in module.modules():
        for value in vars(part).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    if share:
        memo |= {id(leaf): leaf for leaf in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)
