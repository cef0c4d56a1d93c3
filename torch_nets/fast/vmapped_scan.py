"""The loop of `purenets.scan` where vmap maps over it under a trace: the loop of the mapped body.

A loop of a map and a map of a loop compute the same. The first is traced as one operation; the
second would be written out, iteration by iteration.
"""

from collections.abc import Callable
from typing import Any

import torch._C._functorch as functorch
from torch import Tensor
from torch._functorch.pyfunctorch import (
    VmapInterpreter,
    retrieve_all_functorch_interpreters,
)
from torch._functorch.vmap import restore_vmap

from purenets.core import scan as core
from purenets.core.nested import iter_leaves, iter_named, map_leaves, with_leaves


def is_only_vmapped() -> bool:
    """Return True under one or more vmaps of torch.func, and no other transform."""
    found = retrieve_all_functorch_interpreters()
    return bool(found) and all(isinstance(one, VmapInterpreter) for one in found)


def vmapped_loop(f: Callable, init: Any, xs: Any, n: int, reverse: bool, unroll: int):
    """Return `purenets.scan(f, init, xs, n)` as the loop of the innermost vmap of `f`.

    All of the carry comes back mapped; so does what no member has changed. None for a carry with
    numbers in the place of tensors.
    """
    carry = list(iter_leaves(init))
    if not all(isinstance(leaf, Tensor) for leaf in carry):
        return None
    vmap = retrieve_all_functorch_interpreters()[-1]
    first = [_mapped(*functorch._unwrap_batched(x, vmap.level()), vmap) for x in carry]
    slices = [functorch._unwrap_batched(x, vmap.level()) for x in iter_leaves(xs)]
    body, y = _mapped_body(f, init, xs, [None if dim is None else 0 for _, dim in slices], vmap)
    slices = [x if dim is None else x.movedim(dim, 1) for x, dim in slices]
    with vmap.lower():
        last, rows = core.scan(body, first, slices, n, reverse=reverse, unroll=unroll)
    last = [functorch._add_batch_dim(x, 0, vmap.level()) for x in last]
    rows = iter([functorch._add_batch_dim(x, 1, vmap.level()) for x in rows])
    return with_leaves(init, last), map_leaves(
        lambda leaf: next(rows) if isinstance(leaf, Tensor) else core.stack((leaf,) * n, carry),
        y[0],
    )


def _mapped_body(
    f: Callable, init: Any, xs: Any, x_dims: list[int | None], vmap: VmapInterpreter
) -> tuple[Callable, list]:
    """Return the body of a loop over lists of tensors, those of the carry with the members first,
    and a list that holds the y of `f` once it has been called."""
    ys = []

    def one(*given: Tensor) -> tuple[Tensor, ...]:
        leaves = iter(given)
        before, x = (with_leaves(value, leaves) for value in (init, xs))
        after, y = core.result_pair(f(before, x))
        core.check_carry(after, before)
        ys[:] = [y]
        named = dict(iter_named(after, ""))  # in the order of `init`
        new = [named[name] for name, _ in iter_named(before, "")]
        return *new, *(leaf for leaf in iter_leaves(y) if isinstance(leaf, Tensor))

    def body(before: list[Tensor], x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        # What `f` has captured is mapped at the level of `vmap`, which this map has too.
        mapped = restore_vmap(
            one, (*[0] * len(before), *x_dims), vmap.batch_size(), vmap.randomness()
        )
        found = [_mapped(value, dim, vmap) for value, dim in zip(*mapped(*before, *x), strict=True)]
        return found[: len(before)], found[len(before) :]

    return body, ys


def _mapped(x: Tensor, dim: int | None, vmap: VmapInterpreter) -> Tensor:
    """Return a tensor with its axis of members first, made by repetition if it has none."""
    return x.expand(vmap.batch_size(), *x.shape) if dim is None else x.movedim(dim, 0)
