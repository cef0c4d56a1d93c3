"""Norms and clipped sums of per-example gradients, without per-example gradients.

    norms, losses = ghost_norms(model)(params, buffers, (x, y))  # (batch,), (batch,)

The gradient of a leaf is a product of factors. They give its norm, and the clipped sum is one
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
from purenets.torch_nets.analysis.ghost_pass import (
    can_trace,
    chunks,
    concatenated,
    expect_used_key,
)
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
    """Return the function that computes the norm of each example's gradient, without the gradients.

    It takes little more than the time of one gradient of the batch.

    Args:
        model: the network.
        loss: `loss(outputs, targets) -> scalar`, a mean over the examples, called with batches of
            one.
        train: True to apply the model in training mode.
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        `f(params, buffers, batch, key=None) -> (norms, losses)`, both (batch,), the norms over all
        leaves. The key is for models that draw in training; each example gets a key of its own.

    Raises:
        UserError: an argument is wrong. When called: params or batch are not tensors, or the loss
            is not a mean over the examples (see `per_example_grads`).

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.ghost import ghost_norms
        >>> norms_of = ghost_norms(layers.Linear(1, 1, bias=False), losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)  # the losses are (x w)^2
        >>> norms_of({"weight": torch.tensor([[1.0]])}, {}, batch)
        (tensor([2., 8.]), tensor([1., 4.]))

    Source:
        Goodfellow 2015, arXiv 1510.01799; Li et al. 2022, arXiv 2110.05679.
    """
    _check("ghost_norms", model, loss, train, chunk_size)
    options = {"train": train, "chunk_size": chunk_size}
    by_vmap = per_example_grads_by_vmap(model, loss, reduce=tree.norm, **options)

    def norms(params: Params, buffers: Buffers, batch: Batch, key: Tensor | None = None):
        expect_tensors(params, batch)
        expect_used_key("ghost_norms", train, key)
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
    """Return the function that sums per-example gradients, each clipped to a norm.

    Args:
        model: the network.
        clip: the largest norm of an example's gradient, over all leaves.
        loss: `loss(outputs, targets) -> scalar`, a mean over the examples, called with batches of
            one.
        train: True to apply the model in training mode.
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        `f(params, buffers, batch, key=None, *, scale=1.0) -> (grads, (losses, outputs))`, where
        grads is the sum times `scale`, losses are (batch,), and outputs are those of the model,
        (batch, ...), or None if they are not tensors only.

    Raises:
        UserError: an argument is wrong. When called: params or batch are not tensors, or the loss
            is not a mean over the examples (see `per_example_grads`).

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.ghost import clipped_sum
        >>> sum_of = clipped_sum(layers.Linear(1, 1, bias=False), 3.0, losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)  # the gradients are 2 and 8
        >>> sum_of({"weight": torch.tensor([[1.0]])}, {}, batch)[0]
        {'weight': tensor([[5.]])}

    Source:
        Bu et al. 2023, arXiv 2210.00038.
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
        expect_used_key("clipped_sum", train, key)
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

    It serves transforms of torch.func, and is the reference that `clipped_sum` is tested against.

    Args:
        model, clip, loss, train, chunk_size: as in `clipped_sum`.

    Returns:
        `f(params, buffers, batch, key=None, *, scale=1.0) -> (grads, (losses, None))`.

    Raises:
        UserError: as for `per_example_grads`.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.ghost import clipped_sum_by_vmap
        >>> sum_of = clipped_sum_by_vmap(layers.Linear(1, 1, bias=False), 3.0, losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> sum_of({"weight": torch.tensor([[1.0]])}, {}, batch)[0]
        {'weight': tensor([[5.]])}
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
    """Return the factors that bring gradients to a norm of at most `clip`.

    Args:
        norms: (...), the norms of the gradients.
        clip: the largest norm.

    Returns:
        Factors (...), 1 for a norm that is small enough.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.ghost import clip_factors
        >>> clip_factors(torch.tensor([0.0, 2.0, 8.0]), 4.0)
        tensor([1.0000, 1.0000, 0.5000])
    """
    factors = clip / norms
    return torch.where(factors < 1, factors, torch.ones_like(factors))
