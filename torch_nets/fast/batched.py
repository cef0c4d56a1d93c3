"""An operation outside of torch.func.vmap: on all examples at once, in the midst of a function that
vmap maps over them.

A torch.autograd.Function with a rule for vmap does the same, at ten times the price of a call.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch._C._functorch import _add_batch_dim, _unwrap_batched
from torch._functorch.pyfunctorch import (
    VmapInterpreter,
    retrieve_all_functorch_interpreters,
    retrieve_current_functorch_interpreter,
)


def outside_vmap(f: Callable[..., Tensor], *xs: Tensor) -> Tensor:
    """Return f(*xs) as vmap has it: f is told those of all examples, with their axis in front.

    The innermost transform of torch.func must be vmap.

    Args:
        f: (examples, ...) -> (examples, ...).
        xs: of one example, as vmap shows them.
    """
    vmap = retrieve_current_functorch_interpreter()
    level, n = vmap.level(), vmap.batch_size()
    with vmap.lower():
        y = f(*(_of_all(n, *_unwrap_batched(x, level)) for x in xs))
    return _add_batch_dim(y, 0, level)


@torch.compiler.assume_constant_result
def inner_randomness(depth: int) -> tuple[str, ...]:
    """Return what each vmap deeper than `depth` transforms says of random draws.

    Returns:
        "error", "same" or "different" for each.
    """
    return tuple(vmap.randomness() for vmap in _inner_vmaps(depth))


def member_numbers(depth: int) -> list[Tensor]:
    """Return the number of this member of each vmap deeper than `depth` transforms whose members
    draw differently: scalars, as vmap shows them.
    """
    vmaps = [vmap for vmap in _inner_vmaps(depth) if vmap.randomness() == "different"]
    return [_add_batch_dim(torch.arange(vmap.batch_size()), 0, vmap.level()) for vmap in vmaps]


def _inner_vmaps(depth: int) -> list[VmapInterpreter]:
    inner = retrieve_all_functorch_interpreters()[depth:]
    return [transform for transform in inner if isinstance(transform, VmapInterpreter)]


def _of_all(n: int, x: Tensor, dim: int | None) -> Tensor:
    """Return x with the axis of the n examples in front; None: they share x."""
    if dim is None:
        return x.expand(n, *x.shape)
    return x if dim == 0 else x.movedim(dim, 0)


def version_of(x: Tensor) -> int:
    """Return how often a tensor, or one that it shares memory with, was written into."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return 0 if x.is_inference() else x._version
