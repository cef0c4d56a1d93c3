"""Matrix products in float32 on a CPU, by oneDNN.

torch takes oneDNN for convolutions and for bfloat16, but MKL for products of float32 matrices; on AMD's
processors MKL takes about twice as long for them (`python -m benchmarks.products`). `product(a, b)` is `a @ b` by
the one that is faster, under autograd, torch.func and torch.compile, as often differentiable as one likes.
"""

import torch
from torch import Tensor

from torch_nets import operations

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
MANY = 1 << 24  # multiplications that are worth an operation of Python
SOME = 1 << 20  # multiplications that are worth a call of oneDNN


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b: (m, k), (k, n) -> (m, n)."""
    return torch.ops.purenets.product(a, b) if worth(a, b, MANY) else a @ b


def worth(a: Tensor, b: Tensor, multiplications: int) -> bool:
    """Whether a b, of matrices, is for oneDNN: it suits, and has so many multiplications or more."""
    return suits(a, b) and a.shape[0] * a.shape[1] * b.shape[1] >= multiplications


def suits(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is there, and both are float32 and on a CPU."""
    return ONEDNN and a.dtype == b.dtype == torch.float32 and a.device.type == "cpu"


def by_onednn(a: Tensor, b: Tensor) -> Tensor:
    """a b, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")


def add_by_onednn(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """c + a b, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise.binary(a, c, b.mT, None, "add")


torch.library.define("purenets::product", "(Tensor a, Tensor b) -> Tensor")
torch.library.impl("purenets::product", "CompositeExplicitAutograd", by_onednn)


@torch.library.register_fake("purenets::product")
def _(a, b):
    return a.new_empty(a.shape[0], b.shape[1])


@torch.library.register_vmap("purenets::product")
def _(info, dims, a, b):
    a_dim, b_dim = dims
    if b_dim is None:  # rows of all members are rows
        rows = a.movedim(a_dim, 0)
        return product(rows.flatten(0, 1), b).unflatten(0, rows.shape[:2]), 0
    a = a if a_dim is None else a.movedim(a_dim, 0)
    return a @ b.movedim(b_dim, 0), 0


class _Product(operations.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)
        return operations.below(torch.ops.purenets.product, a, b)

    @staticmethod
    def backward(ctx, dc):
        a, b = ctx.saved_tensors
        by_a, by_b = ctx.needs_input_grad
        return product(dc, b.mT) if by_a else None, product(a.mT, dc) if by_b else None

    @staticmethod
    def jvp(ctx, da, db):
        a, b = ctx.saved_tensors
        parts = ([] if da is None else [product(da, b)]) + ([] if db is None else [product(a, db)])
        return sum(parts[1:], parts[0])


operations.differentiable("purenets::product", _Product)
