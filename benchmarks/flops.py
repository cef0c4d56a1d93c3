"""Floating-point operations of a call, by the shapes of its products and convolutions.

A multiplication and an addition are two operations, as in `torch.utils.flop_counter`. What is not a
product or a convolution (activations, norms, pools, updates of single elements) counts as nothing.
"""

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from purenets.torch_nets.fast import matmul


def flops(call: Callable[[], object]) -> int:
    """Return the operations of one call in eager mode, those of its backward pass included."""
    counter = FlopCounterMode(display=False, custom_mapping=OURS)
    with counter:
        call()
    return counter.get_total_flops()


def of_product(a: tuple[int, ...], b: tuple[int, ...], *, out_shape=None, **_) -> int:
    """Return the operations of a product of matrices (m, k) and (k, n)."""
    return 2 * a[0] * a[1] * b[1]


OURS = {torch.ops.purenets.product: of_product} if matmul.ONEDNN else {}
