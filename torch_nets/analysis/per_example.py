"""One gradient for each example of a batch, and statistics of them.

    grads, losses = per_example_grads(model)(params, buffers, (x, y))
    grads["fc1.weight"].shape  # (batch, out, in)
    norm_fn = per_example_grads(model, reduce=tree.norm, chunk_size=64)
    norms, _ = norm_fn(params, buffers, (x, y))  # (batch,)

It works for any model that does not mix its examples: with BatchNorm only in evaluation mode, which
is the default here. The loss must be a mean over the examples: one that divides by a number of the
whole batch, such as its count of tokens, is another loss for a batch of one. `check_per_example`
tests both. `reduce` is applied to each example's dict, chunk by chunk, so that no more than
`chunk_size` gradients are held at a time.

Where all matrices are used in known operations only (`ghost_rules`), one backward pass of the whole
batch yields the factors of the gradients (`ghost_pass`). All other models, and all under torch.func
and torch.compile, are differentiated by torch.func.vmap.
"""

import contextlib
import math
from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_dicts,
    expect_flags,
    expect_functions,
    expect_leaves,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.torch_nets.analysis.ghost_pass import (
    UnknownUse,
    can_trace,
    chunks,
    concatenated,
    example_keys,
    expect_used_key,
    known_outputs,
    one_batch,
)
from purenets.torch_nets.analysis.ghost_terms import rows_of
from purenets.torch_nets.fast.outer_products import by_multiplication
from purenets.torch_nets.foreign_losses import (
    expect_counted,
    expect_mean_of_examples,
    loss_of_one,
)
from purenets.torch_nets.grad import expect_param_tensors, expect_tensors
from purenets.torch_nets.keys import expect_key_for, key_like
from purenets.torch_nets.losses import cross_entropy

MIXED = "examples mix in the model, or the loss is no mean over them"


def unchanged(grads: Params) -> Params:
    """Return the gradients as they are: the default `reduce` of `per_example_grads`.

    Args:
        grads: the gradient of an example.

    Returns:
        The same dict.

    Example:
        >>> unchanged({"w": 1.0})
        {'w': 1.0}
    """
    return grads


def per_example_grads(
    model: Model,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
    reduce: Callable[[Params], object] = unchanged,
) -> Callable:
    """Return the function that computes one gradient for each example of a batch.

    Args:
        model: the network.
        loss: `loss(logits, targets) -> scalar`, a mean over the examples, called with batches of
            one. `check_per_example` detects a loss that is not.
        train: True to apply the model in training mode. By default it is evaluated: nothing is
            dropped, and BatchNorm uses its running statistics.
        chunk_size: examples at a time, which limits the memory; None for all.
        reduce: a function of one example's gradients, such as `tree.norm`, applied by
            torch.func.vmap before the next chunk.

    Returns:
        `f(params, buffers, batch, key=None) -> (grads, losses)`, with batch (x: (batch, ...), y:
        (batch, ...)), grads a dict of leaves (batch, ...) or what `reduce` makes of them, and
        losses (batch,). The key is for models that draw in training; each example gets a key of its
        own.

    Raises:
        UserError: an argument is wrong. When called: the batch is empty or not of tensors, there
            is a key but `train` is False, so that nothing draws from it, or the loss is no mean
            over the examples: its attribute `mean_over_examples` is False, it is the mean of
            torch's with class weights, which one example divides out, or it ignores targets.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.per_example import per_example_grads
        >>> grads_of = per_example_grads(layers.Linear(1, 1, bias=False), losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)  # the losses are (x w)^2
        >>> grads, values = grads_of({"weight": torch.tensor([[1.0]])}, {}, batch)
        >>> grads["weight"].flatten(), values
        (tensor([2., 8.]), tensor([1., 4.]))

    Source:
        "Per-sample-gradients" in the tutorials of PyTorch; `grad_sample` of Opacus.
    """
    options = {"train": train, "chunk_size": chunk_size}
    by_vmap = per_example_grads_by_vmap(model, loss, reduce=reduce, **options)
    reduced = reduce if reduce is unchanged else torch.func.vmap(reduce)

    def per_example(params: Params, buffers: Buffers, batch: Batch, key: Tensor | None = None):
        expect_tensors(params, batch)
        expect_used_key("per_example_grads", train, key)
        count_examples(batch, "per_example_grads")
        if can_trace(params, buffers, batch):
            with contextlib.suppress(UnknownUse):
                parts = chunks(model, loss, params, buffers, batch, key, only_known=True, **options)
                return concatenated([(reduced(part.each(params)), part.losses) for part in parts])
        return by_vmap(params, buffers, batch, key)

    return per_example


def per_example_grads_by_vmap(
    model: Model,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
    reduce: Callable[[Params], object] = unchanged,
) -> Callable:
    """Return what `per_example_grads` returns, computed by torch.func.vmap for every model.

    It serves models with operations that no rule knows, and transforms of torch.func. It is also
    the reference that `per_example_grads` is tested against.

    Args:
        model, loss, train, chunk_size, reduce: as in `per_example_grads`.

    Returns:
        `f(params, buffers, batch, key=None) -> (grads, losses)`.

    Raises:
        UserError: as for `per_example_grads`.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.per_example import per_example_grads_by_vmap
        >>> grads_of = per_example_grads_by_vmap(layers.Linear(1, 1, bias=False), losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> grads_of({"weight": torch.tensor([[1.0]])}, {}, batch)[0]["weight"].flatten()
        tensor([2., 8.])
    """
    expect_models("per_example_grads", ("apply",), model=model)
    expect_functions("per_example_grads", loss=loss, reduce=reduce)
    expect_flags("per_example_grads", train=train)
    check_chunk(chunk_size)
    of_one = loss_of_one(loss)

    def one(params, buffers, x, y, key):
        logits, _ = model.apply(
            params, buffers, map_arrays(lambda a: a[None], x), train=train, key=key
        )
        value = of_one(logits, map_arrays(lambda a: a[None], y))
        return value, (value.detach(), *known_outputs(logits))

    def one_grad(params, buffers, x, y, key):
        grads, found = torch.func.grad(one, has_aux=True)(params, buffers, x, y, key)
        return reduce(grads), found

    def per_example(params: Params, buffers: Buffers, batch: Batch, key: Tensor | None = None):
        expect_tensors(params, batch)
        expect_used_key("per_example_grads", train, key)
        n = count_examples(batch, "per_example_grads")
        x, y = batch
        expect_counted(loss, y)
        keys = None if key is None else example_keys(key_like(key, params), n)
        in_dims = (None, None, 0, 0, None if key is None else 0)
        each = torch.func.vmap(one_grad, in_dims, chunk_size=chunk_size)
        try:
            with by_multiplication(params, n):
                grads, (losses, *outputs) = each(params, buffers, x, y, keys)
        except UserError as error:
            expect_key_for("per_example_grads", key, error)
            raise
        expect_mean_of_examples(loss, one_batch(outputs), y, losses)
        return grads, losses

    return per_example


def check_chunk(chunk_size: int | None) -> None:
    """Raise a UserError unless a chunk holds at least one example.

    Args:
        chunk_size: examples at a time, or None for all.

    Raises:
        UserError: it is not a positive integer.
    """
    if chunk_size is not None and (type(chunk_size) is not int or chunk_size < 1):
        raise UserError(f"chunk_size: {chunk_size!r}, needs a positive integer, or None for all")


def check_per_example(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    key: Tensor | None = None,
    tolerance: float = 1e-6,
) -> float:
    """Return the error of per-example gradients against a loop over batches of one.

    It also compares their mean with the gradient of the whole batch. The two differ where a model
    mixes its examples, as BatchNorm does in training mode, and where the loss is no mean over the
    examples, such as one divided by the number of all tokens that count.

    Args:
        model: the network.
        params: tensors by name.
        buffers: tensors by name.
        batch: (inputs, targets).
        loss: `loss(logits, targets) -> scalar`.
        train: True to apply the model in training mode.
        key: for models that draw; then the mean is not compared.
        tolerance: the largest error that is accepted.

    Returns:
        The largest error, relative to the largest element of the gradient.

    Raises:
        UserError: the error is over `tolerance`; the message names the leaf. Also for wrong
            arguments.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import MLP
        >>> from purenets.torch_nets.analysis.per_example import check_per_example
        >>> model = MLP(2, [8], 3)
        >>> batch = torch.eye(2), torch.tensor([0, 2])
        >>> check_per_example(model, *model.init(random.key(0)), batch) < 1e-6
        True
    """
    expect_leaves("check_per_example", params=params)
    expect_param_tensors(params)
    expect_numbers("check_per_example", NOT_NEGATIVE, tolerance=tolerance)
    expect_used_key("check_per_example", train, key)
    count_examples(batch, "check_per_example")
    x, y = batch
    key = key_like(key, params)
    together, _ = per_example_grads(model, loss, train=train)(params, buffers, batch, key)
    keys = [None] * len(y) if key is None else example_keys(key, len(y))

    def mean_loss(params, x, y, key):
        return loss(model.apply(params, buffers, x, train=train, key=key)[0], y)

    grad = torch.func.grad(mean_loss)
    rows = (map_arrays(lambda a, i=i: a[i : i + 1], batch) for i in range(len(y)))
    looped = tree.stack([grad(params, *row, keys[i]) for i, row in enumerate(rows)])
    worst = _worst(together, looped, "differs from the loop", tolerance)
    if key is not None:  # with draws, a batch as a whole draws something else
        return worst
    mean, whole = tree.map(lambda g: g.mean(0), together), grad(params, x, y, None)
    return max(
        worst,
        _worst(mean, whole, f"mean differs from the batch's gradient: {MIXED}", tolerance),
    )


def _worst(a: Params, b: Params, text: str, tolerance: float) -> float:
    scale = max(float(leaf.abs().nan_to_num().max()) for leaf in b.values()) or 1.0
    errors = {name: float((a[name] - b[name]).abs().max()) / scale for name in b}
    errors = {name: math.inf if math.isnan(error) else error for name, error in errors.items()}
    name = max(errors, key=errors.get)
    if not errors[name] <= tolerance:
        raise UserError(
            f"{name}: per-example gradient {text}, by {errors[name]:.1e} of the largest element"
        )
    return errors[name]


# --- what per-example gradients tell --------------------------------------------------------------


def _expect_examples(function: str, grads: Params) -> None:
    """Raise a UserError unless all leaves are tensors (batch, ...)."""
    expect_dicts(function, grads=grads)
    if not grads or not all(isinstance(g, Tensor) and g.ndim for g in grads.values()):
        raise UserError(f"{function}: grads: needs a dict of tensors (batch, ...)")
    sizes = {name: g.shape[0] for name, g in grads.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{n} in {name}" for name, n in [*sizes.items()][:3])
        raise UserError(
            f"{function}: grads: needs as many examples in each leaf, as per_example_grads returns "
            f"them, got {shown}; a mean gradient has none"
        )


def leaf_grad_norms(grads: Params) -> Params:
    """Return the norm of each example's gradient, leaf by leaf.

    Args:
        grads: per-example gradients, leaves (batch, ...).

    Returns:
        A dict of leaves (batch,), in float32 for half-precision gradients.

    Raises:
        UserError: `grads` is not a dict of tensors (batch, ...).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.per_example import leaf_grad_norms
        >>> leaf_grad_norms({"w": torch.tensor([[3.0, 4.0], [0.0, 1.0]])})
        {'w': tensor([5., 1.])}
    """
    _expect_examples("leaf_grad_norms", grads)
    return tree.map(lambda g: rows_of(widened(g)).norm(dim=1), grads)


def example_grad_norms(grads: Params) -> Tensor:
    """Return the norm of each example's gradient over all leaves.

    Args:
        grads: per-example gradients, leaves (batch, ...).

    Returns:
        A tensor (batch,).

    Raises:
        UserError: `grads` is not a dict of tensors (batch, ...).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.per_example import example_grad_norms
        >>> example_grad_norms({"w": torch.tensor([[3.0]]), "b": torch.tensor([[4.0]])})
        tensor([5.])
    """
    return torch.stack(list(leaf_grad_norms(grads).values())).norm(dim=0)


def noise_scale(grads: Params) -> Tensor:
    """Return tr(S) / |G|^2, the batch size at which a gradient is half noise.

    S is the covariance of per-example gradients, G their mean. Larger batches than this bring
    little. Both estimates are unbiased, so that of |G|^2 may come out below 0 where the examples
    are too few to show the gradient, as at the end of a training; then the result is infinite.

    Args:
        grads: per-example gradients of two examples or more, leaves (batch, ...).

    Returns:
        A scalar, in examples; infinite if all that these examples show is noise.

    Raises:
        UserError: `grads` is not a dict of tensors (batch, ...), or of one example.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.per_example import noise_scale
        >>> noise_scale({"w": torch.tensor([[1.0], [3.0]])})  # a variance of 2, |G|^2 of 3
        tensor(0.6667)

    Source:
        McCandlish et al. 2018, arXiv 1812.06162, appendix A.
    """
    _expect_examples("noise_scale", grads)
    n = next(iter(grads.values())).shape[0]
    if n < 2:
        raise UserError(f"noise_scale: {n} example, needs two or more")
    grads = tree.map(widened, grads)
    mean = tree.map(lambda g: g.mean(0), grads)
    noise = tree.norm(tree.map(lambda g, m: g - m, grads, mean)) ** 2 / (n - 1)
    signal = tree.norm(mean) ** 2 - noise / n
    return torch.where(signal <= 0, torch.inf, noise / signal)


def top_loss_indices(losses: Tensor, k: int) -> Tensor:
    """Return the indices of the examples with the largest losses, often mislabeled ones.

    Args:
        losses: (batch,).
        k: how many indices, from 1 to batch.

    Returns:
        Indices (k,), of the largest loss first.

    Raises:
        UserError: `losses` is not a tensor (batch,), or `k` is out of range.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.per_example import top_loss_indices
        >>> top_loss_indices(torch.tensor([0.1, 3.0, 2.0]), 2)
        tensor([1, 2])
    """
    if not isinstance(losses, Tensor) or losses.ndim != 1:
        raise UserError("top_loss_indices: losses: needs a tensor (batch,)")
    if type(k) is not int or not 1 <= k <= losses.shape[0]:
        raise UserError(
            f"top_loss_indices: k is {k!r}, needs an integer from 1 to {losses.shape[0]}"
        )
    return torch.topk(losses, k).indices


def influence(grads: Params, reference: Params) -> Tensor:
    """Return how much a step on each example lowers another loss, to first order.

    It is the product g_i . g of each example's gradient with the gradient of that other loss, for a
    learning rate of 1. Examples below 0 do harm.

    Args:
        grads: per-example gradients, leaves (batch, ...).
        reference: the gradient of the other loss, such as that of the validation set, a dict with
            the same names.

    Returns:
        A tensor (batch,).

    Raises:
        UserError: an argument is not a dict of tensors, or the shapes do not fit.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.per_example import influence
        >>> grads = {"w": torch.tensor([[1.0, 0.0], [0.0, -1.0]])}
        >>> influence(grads, {"w": torch.tensor([2.0, 1.0])})
        tensor([ 2., -1.])

    Source:
        Pruthi et al. 2020, arXiv 2002.08484 (TracIn), at one checkpoint.
    """
    _expect_examples("influence", grads)
    expect_leaves("influence", reference=reference)
    _expect_reference(grads, reference)

    def dots(g: Tensor, r: Tensor) -> Tensor:
        products = rows_of(widened(g)) @ widened(r).flatten().conj()
        return products.real if products.is_complex() else products

    return torch.stack(list(tree.map(dots, grads, reference).values())).sum(0)


def _expect_reference(grads: Params, reference: Params) -> None:
    """Raise a UserError unless `reference` has the leaves of one example's gradient."""
    if grads.keys() != reference.keys():
        odd = ", ".join(sorted(grads.keys() ^ reference.keys()))
        raise UserError(f"influence: {odd}: in one of grads and reference, needs the same names")
    for name, g in grads.items():
        found, right = tuple(reference[name].shape), tuple(g.shape[1:])
        if found != right:
            raise UserError(
                f"influence: reference[{name!r}]: shape is {found}, expected {right}; the "
                "arguments are (per-example gradients, gradient) in this order"
            )
