"""Outer products of many vectors at once, by multiplication.

The gradient of a weight by one example is an outer product: under vmap a batched product over an
axis of one element, for which torch calls a library once an example. To multiply elements gives the
same bits in a quarter of the time.
"""

import contextlib

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from purenets.core.base import Params
from purenets.torch_nets.fast import enabled

BATCHED_PRODUCT = torch.ops.aten.bmm.default
MIN_ELEMENTS = 1 << 22  # of the products; with fewer, watching all operations costs more


class _OuterProducts(TorchDispatchMode):
    """Replace batched products over one element: (n, a, 1), (n, 1, b) -> (n, a, b)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is BATCHED_PRODUCT and args[0].shape[-1] == 1:
            return args[0] * args[1]
        return func(*args, **(kwargs or {}))


def by_multiplication(params: Params, n: int) -> contextlib.AbstractContextManager:
    """Return the context in which outer products are multiplications, where that pays.

    Args:
        params: the leaves that are differentiated by; each matrix takes an outer product.
        n: the examples.
    """
    elements = n * sum(p.numel() for p in params.values() if p.ndim == 2)
    if not enabled() or torch.compiler.is_compiling() or elements < MIN_ELEMENTS:
        return contextlib.nullcontext()
    return _OuterProducts()
