"""Norms and clipped sums of per-example gradients, without per-example gradients.

    norms, losses = ghost_norms(model)(params, buffers, (x, y))  # (batch,), (batch,)

The factors that the gradient of a leaf is a product of tell its norm, and the clipped sum is one
product of them (`ghost_pass`, `ghost_terms`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import tree
from purenets.core.arguments import (
    ABOVE_0,
    expect_flags,
    expect_functions,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params
from purenets.torch_nets.analysis.ghost_pass import can_trace, chunks, concatenated
from purenets.torch_nets.analysis.per_example import check_chunk, per_example_grads_by_vmap
from purenets.torch_nets.grad import expect_tensors
from purenets.torch_nets.losses import cross_entropy

# --- the functions that users call ----------------------------------------------------------------


def ghost_norms(
    model: Model,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
) -> Callable:
    """Return `f(params, buffers, batch, key=None) -> (norms, losses)`, both (batch,).

    The norm of each example's gradient over all leaves, as `per_example_grads(reduce=tree.norm)`
    tells it, in little more than the time of one gradient of the batch.

    Args:
        loss: `loss(outputs, targets) -> a scalar`, of a batch of one.
        train: apply the model in training mode.
        chunk_size: examples at a time, None for all; it limits the memory.
        key: with `train`, for models that draw; each example gets a key of its own.
    """
    _check("ghost_norms", model, loss, train, chunk_size)
    options = {"train": train, "chunk_size": chunk_size}
    by_vmap = per_example_grads_by_vmap(model, loss, reduce=tree.norm, **options)

    def norms(params: Params, buffers: Buffers, batch: Batch, key: Tensor | None = None):
        expect_tensors(params, batch)
        if not can_trace(params, buffers, batch):
            return by_vmap(params, buffers, batch, key)
        parts = chunks(model, loss, params, buffers, batch, key, **options)
        return concatenated([(part.squared_norms().sqrt(), part.losses) for part in parts])

    return norms


def clipped_sum(
    model: Model,
    clip: float,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
) -> Callable:
    """Return `f(params, buffers, batch, key=None, *, scale=1.0) -> (grads, (losses, outputs))`.

    grads: the sum of the gradients of all examples, each clipped to the norm `clip`, times `scale`.
    outputs: of the model, (batch, ...); None if they are not tensors only. The other arguments are
    those of `ghost_norms`.
    """
    _check("clipped_sum", model, loss, train, chunk_size)
    expect_numbers("clipped_sum", ABOVE_0, clip=clip)
    options = {"train": train, "chunk_size": chunk_size}
    by_vmap = clipped_sum_by_vmap(model, clip, loss, **options)

    def clipped(
        params: Params,
        buffers: Buffers,
        batch: Batch,
        key: Tensor | None = None,
        *,
        scale: float = 1.0,
    ):
        expect_tensors(params, batch)
        if not can_trace(params, buffers, batch):
            return by_vmap(params, buffers, batch, key, scale=scale)
        total, losses, outputs = None, [], []
        for part in chunks(model, loss, params, buffers, batch, key, **options):
            factors = clip_factors(part.squared_norms().sqrt(), clip)
            sums = part.total(factors * scale, params)
            total = sums if total is None else tree.map(torch.add, total, sums)
            losses.append(part.losses)
            outputs.append(part.outputs)
        return total, (torch.cat(losses), concatenated(outputs))

    return clipped


def clipped_sum_by_vmap(
    model: Model,
    clip: float,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
) -> Callable:
    """Return what `clipped_sum` returns, by a gradient for each example, and without outputs.

    It is taken under transforms of torch.func, and tells whether `clipped_sum` is right.
    """

    def clipped(grads):
        grads = tree.map(widened, grads)  # a rounded gradient may be longer than `clip`
        factor = clip_factors(tree.norm(grads), clip)
        return tree.map(lambda g: torch.where(factor < 1, g * factor, g), grads)

    options = {"train": train, "chunk_size": chunk_size, "reduce": clipped}
    per_example = per_example_grads_by_vmap(model, loss, **options)

    def sums(params: Params, buffers: Buffers, batch: Batch, key=None, *, scale: float = 1.0):
        grads, losses = per_example(params, buffers, batch, key)
        return tree.map(lambda g: g.sum(0) * scale, grads), (losses, None)

    return sums


def _check(
    function: str, model: Model, loss: Callable, train: bool, chunk_size: int | None
) -> None:
    """Raise a UserError that names the argument that is wrong."""
    expect_models(function, ("apply",), model=model)
    expect_functions(function, loss=loss)
    expect_flags(function, train=train)
    check_chunk(chunk_size)


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """Return what each gradient is multiplied with so that no norm is larger than `clip`."""
    factors = clip / norms
    return torch.where(factors < 1, factors, torch.ones_like(factors))
