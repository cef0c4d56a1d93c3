"""Matrix products in float32 on a CPU, by oneDNN.

torch takes oneDNN for convolutions and for bfloat16, but MKL for products of float32 matrices; on AMD's
processors MKL takes about twice as long for them (`python -m benchmarks.products`). `product(a, b)` is `a @ b` by
oneDNN from a size on that was measured there, under autograd, torch.func and torch.compile, as often
differentiable as one likes, backward and forward.
"""

import torch
from torch import Tensor

from purenets.torch_nets.fast import operations

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
MANY = 1 << 24  # multiplications that are worth an operation of Python
SOME = 1 << 20  # multiplications that are worth a call of oneDNN


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b: (m, k), (k, n) -> (m, n)."""
    return torch.ops.purenets.product(a, b) if use_onednn(a, b, MANY) else a @ b


def use_onednn(a: Tensor, b: Tensor, multiplications: int) -> bool:
    """Whether a b, of matrices, is for oneDNN: it suits, and has so many multiplications or more."""
    return onednn_supports(a, b) and a.shape[0] * a.shape[1] * b.shape[1] >= multiplications


def onednn_supports(a: Tensor, b: Tensor) -> bool:
    """Whether oneDNN is there, and both are float32 on a CPU, which no autocast makes bfloat16."""
    on_cpu = a.device.type == b.device.type == "cpu"
    return ONEDNN and on_cpu and a.dtype == b.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


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


# torch turns forward derivatives off around jvp, for levels below too; an operation of ours turns them on again,
# so the sum in jvp is one
torch.library.define("purenets::sum", "(Tensor a, Tensor b) -> Tensor")
torch.library.impl("purenets::sum", "CompositeExplicitAutograd", torch.add)
torch.library.register_fake("purenets::sum", torch.add)


@torch.library.register_vmap("purenets::sum")
def _(info, dims, a, b):
    a, b = (
        x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        for x, dim in zip((a, b), dims, strict=True)
    )
    return torch.ops.purenets.sum(a, b), 0


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
        if da is None or db is None:
            return product(a, db) if da is None else product(da, b)
        return torch.ops.purenets.sum(product(da, b), product(a, db))


class _Sum(operations.Function):
    @staticmethod
    def forward(ctx, a, b):
        return operations.below(torch.ops.purenets.sum, a, b)

    @staticmethod
    def backward(ctx, d):
        return d, d

    @staticmethod
    def jvp(ctx, da, db):
        if da is None or db is None:
            return db if da is None else da
        return torch.ops.purenets.sum(da, db)


operations.differentiable("purenets::product", _Product)
operations.differentiable("purenets::sum", _Sum)
