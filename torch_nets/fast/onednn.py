"""Matrix products by oneDNN as operations of torch, with derivatives to any order, backward and
forward.
"""

import torch
from torch import Tensor

from purenets.torch_nets.fast import matmul, operations


def onednn_matmul(a: Tensor, b: Tensor) -> Tensor:
    """Return a b, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise(a, b.mT, None, "none", [], "")


def onednn_addmm(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return c + a b, without a derivative."""
    return torch.ops.mkldnn._linear_pointwise.binary(a, c, b.mT, None, "add")


torch.library.define("purenets::product", "(Tensor a, Tensor b) -> Tensor")
torch.library.impl("purenets::product", "CompositeExplicitAutograd", onednn_matmul)


@torch.library.register_fake("purenets::product")
def _(a, b):
    return a.new_empty(a.shape[0], b.shape[1])


@torch.library.register_vmap("purenets::product")
def _(info, dims, a, b):
    a_dim, b_dim = dims
    if b_dim is None:  # rows of all members are rows
        rows = a.movedim(a_dim, 0)
        return matmul.product(rows.flatten(0, 1), b).unflatten(0, rows.shape[:2]), 0
    a = a if a_dim is None else a.movedim(a_dim, 0)
    return a @ b.movedim(b_dim, 0), 0


# torch turns forward derivatives off around jvp, for levels below too; an operation of ours turns
# them on again, so the sum in jvp is one
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


def _gradient_by_b(a: Tensor, b: Tensor, dc: Tensor) -> Tensor:
    """Return a^T dc in the layout of b.

    Where b is a weight transposed, the gradient of the weight is contiguous, and an optimizer
    passes through the memory of both once.
    """
    return matmul.product(a.mT, dc) if b.is_contiguous() else matmul.product(dc.mT, a).mT


class _Product(operations.Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        ctx.save_for_forward(a, b)
        return operations.call_below_autograd(torch.ops.purenets.product, a, b)

    @staticmethod
    def backward(ctx, dc):
        a, b = ctx.saved_tensors
        by_a, by_b = ctx.needs_input_grad
        return matmul.product(dc, b.mT) if by_a else None, _gradient_by_b(
            a, b, dc
        ) if by_b else None

    @staticmethod
    def jvp(ctx, da, db):
        a, b = ctx.saved_tensors
        if da is None or db is None:
            return matmul.product(a, db) if da is None else matmul.product(da, b)
        return torch.ops.purenets.sum(matmul.product(da, b), matmul.product(a, db))


class _Sum(operations.Function):
    @staticmethod
    def forward(ctx, a, b):
        return operations.call_below_autograd(torch.ops.purenets.sum, a, b)

    @staticmethod
    def backward(ctx, d):
        return d, d

    @staticmethod
    def jvp(ctx, da, db):
        if da is None or db is None:
            return db if da is None else da
        return torch.ops.purenets.sum(da, db)


operations.register_derivative("purenets::product", _Product)
operations.register_derivative("purenets::sum", _Sum)
