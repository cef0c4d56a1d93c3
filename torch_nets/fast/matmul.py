"""Matrix products in float32 on a CPU: by oneDNN where that is faster, else torch's own.

torch takes oneDNN for convolutions and for bfloat16, but MKL for products of float32 matrices; on
AMD's processors MKL takes about twice as long for them (`python -m benchmarks.products`).
"""

import torch
from torch import Tensor

from purenets.torch_nets.fast import enabled

ONEDNN = (
    enabled()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)
MIN_MULTIPLIES_OPERATION = 1 << 24  # from here on it pays to call an operation written in Python
MIN_MULTIPLIES_ONEDNN = 1 << 20  # from here on it pays to call oneDNN


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b: (m, k), (k, n) -> (m, n), differentiable to any order, backward and forward."""
    return torch.ops.purenets.product(a, b) if use_onednn(a, b, MIN_MULTIPLIES_OPERATION) else a @ b


def use_onednn(a: Tensor, b: Tensor, min_multiplies: int) -> bool:
    """Return True if oneDNN supports the product of matrices a b and it has `min_multiplies` or
    more.
    """
    return onednn_supports(a, b) and a.shape[0] * a.shape[1] * b.shape[1] >= min_multiplies


def onednn_supports(a: Tensor, b: Tensor) -> bool:
    """Return True if oneDNN is there and both are float32 on a CPU, which no autocast makes
    bfloat16.
    """
    on_cpu = a.device.type == b.device.type == "cpu"
    return (
        ONEDNN
        and on_cpu
        and a.dtype == b.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )


if ONEDNN:
    from purenets.torch_nets.fast import onednn  # noqa: F401 (registers torch.ops.purenets.product)
