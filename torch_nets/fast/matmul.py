"""Matrix products in float32 on a CPU: by oneDNN where a rule says so, else torch's own.

torch takes oneDNN for convolutions and for bfloat16, but MKL for products of float32 matrices; on
some processors MKL takes twice as long for them (`core/kernel_rules.py`).
"""

import torch
from torch import Tensor

from purenets.core.kernel_rules import product_rule
from purenets.torch_nets.fast import enabled

ONEDNN = (
    enabled()
    and torch.backends.mkldnn.is_available()
    and hasattr(torch.ops.mkldnn, "_linear_pointwise")
)


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a b: (m, k), (k, n) -> (m, n), differentiable to any order, backward and forward."""
    by_onednn = use_onednn(a, b, product_rule().min_multiplies_operation)
    return torch.ops.purenets.product(a, b) if by_onednn else a @ b


def use_onednn(a: Tensor, b: Tensor, min_multiplies: int | None = None) -> bool:
    """Return True if oneDNN supports the product of matrices a b and it has `min_multiplies` or
    more, by default as many as the rule in force has for a plain call.
    """
    least = product_rule().min_multiplies if min_multiplies is None else min_multiplies
    return onednn_supports(a, b) and a.shape[0] * a.shape[1] * b.shape[1] >= least


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
