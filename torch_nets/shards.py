"""Gradients of fixed shards, summed in a fixed order: the same bits from any number of processes.

A batch is cut into S shards. Process r of R takes the shards r, r + R, r + 2 R, ... In each round
every process computes one shard, all exchange their results, and each adds them to its sum in the
order of the shards. A floating-point sum depends on its order, which here is 0, 1, ..., S - 1 for
every R; an `all_reduce` would choose another for each R. A round holds R gradients in memory, and
a step sends the gradient of each shard once.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from purenets.core import random, tree
from purenets.core.arguments import whole_only_of
from purenets.core.arrays import widened
from purenets.core.base import (
    Batch,
    Buffers,
    GradFn,
    Metrics,
    MetricsFn,
    Params,
    UserError,
)
from purenets.core.batch import count_examples, map_arrays

Vectors = dict[torch.dtype, Tensor]  # the leaves of a nested dict, as one vector for each dtype
FAR = 1024  # times its new value: from there a buffer's change has lost digits of that value
Gather = Callable[[Tensor], Sequence[Tensor]]  # a vector of each process, in the order of ranks


def alone(vector: Tensor) -> list[Tensor]:
    """Return what a group of one process gathers: its own vector.

    Args:
        vector: that of this process.

    Returns:
        A list of it.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.shards import alone
        >>> alone(torch.ones(2))
        [tensor([1., 1.])]
    """
    return [vector]


def sharded_grad_fn(
    grad_fn: GradFn, shards: int, own: Sequence[int], gather: Gather = alone
) -> GradFn:
    """Return the gradient function that averages the gradients of the shards of a batch.

    Each shard has a key of its own, and BatchNorm normalizes it by its own statistics. Metrics are
    means over the shards. Buffers move by the mean of their changes, and keep their bits where they
    do not; those that are not floating-point numbers (counters) are those of the first shard.

    Args:
        grad_fn: the gradient function of one shard.
        shards: the number of equal parts that a batch is cut into.
        own: the shards of this process, `range(rank, shards, processes)`.
        gather: exchanges vectors with the other processes.

    Returns:
        A gradient function, with the same bits from any number of processes.

    Raises:
        UserError: when called: a batch cannot be cut into equal shards, or the loss or a metric is
            no mean over the examples (a sum, class weights, targets that are not counted).

    Example:
        >>> import torch
        >>> from purenets.torch_nets import grad_fn, layers, losses
        >>> from purenets.torch_nets.shards import sharded_grad_fn
        >>> grad = grad_fn(layers.Linear(1, 1, bias=False), losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)  # the gradients are 2 and 8
        >>> params = {"weight": torch.tensor([[1.0]])}
        >>> sharded_grad_fn(grad, shards=2, own=range(2))(params, {}, batch, None)[0]
        {'weight': tensor([[5.]])}
    """

    def grad(params: Params, buffers: Buffers, batch: Batch, key):
        expect_equal_parts(count_examples(batch, "sharded_grad_fn"), shards, "shards")
        expect_means("sharded_grad_fn", grad_fn, batch[1])

        def of(shard: int) -> dict:
            own_key = None if key is None else random.fold_in(key, shard)
            part = shard_of(batch, shard, shards)
            grads, (new, metrics) = grad_fn(params, buffers, part, own_key)
            moves = {name: _moved_by(new[name], buffers.get(name)) for name in new}
            moved = {n: leaf for n, leaf in new.items() if n in buffers and _is_real(leaf.dtype)}
            return {"grads": grads, "moves": moves, "moved": moved, "metrics": metrics}

        means = mean_in_order(map(of, own), shards, gather)
        moved = means["moved"]
        new = {
            name: _moved(buffers[name], move, moved[name]) if name in moved else move
            for name, move in means["moves"].items()
        }
        return means["grads"], (new, means["metrics"])

    grad.uses_key = getattr(grad_fn, "uses_key", True)
    return grad


def sharded_metrics(
    metrics: MetricsFn, shards: int, own: Sequence[int], gather: Gather = alone
) -> MetricsFn:
    """Return the evaluation that averages over the shards of a batch, weighted by their size.

    Every process evaluates all of a batch that has fewer examples than shards.

    Args:
        metrics: `f(params, buffers, batch) -> metrics`, as `metrics_fn` returns it.
        shards, own, gather: as in `sharded_grad_fn`.

    Returns:
        `f(params, buffers, batch) -> metrics`, with the same bits from any number of processes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses, metrics_fn
        >>> from purenets.torch_nets.shards import sharded_metrics
        >>> measure = metrics_fn(layers.Linear(1, 1, bias=False), losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)
        >>> params = {"weight": torch.tensor([[1.0]])}
        >>> sharded_metrics(measure, shards=2, own=range(2))(params, {}, batch)
        {'loss': tensor(2.5000)}
    """

    def measure(params: Params, buffers: Buffers, batch: Batch) -> Metrics:
        n = count_examples(batch, "metrics")
        if n < shards:
            return metrics(params, buffers, batch)

        def of(shard: int) -> Metrics:
            part = shard_of(batch, shard, shards)
            weight = len(part[1]) * shards / n  # 1 where all shards are as large
            return {name: weight * v for name, v in metrics(params, buffers, part).items()}

        return mean_in_order(map(of, own), shards, gather)

    return measure


def shard_of(batch: Batch, shard: int, shards: int) -> Batch:
    """Return one shard of a batch; shards are equal, or differ by one example.

    Args:
        batch: (inputs, targets).
        shard: the number of the shard, from 0.
        shards: how many there are.

    Returns:
        A batch.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.shards import shard_of
        >>> shard_of((torch.zeros(5, 2), torch.arange(5)), 1, 2)[1]
        tensor([2, 3, 4])
    """
    n = count_examples(batch, "shard_of")
    return rows_of(batch, slice(n * shard // shards, n * (shard + 1) // shards))


def rows_of(batch: Batch, rows: slice) -> Batch:
    """Return some examples of a batch.

    Args:
        batch: (inputs, targets).
        rows: which examples.

    Returns:
        A batch.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.shards import rows_of
        >>> rows_of((torch.zeros(5, 2), torch.arange(5)), slice(1, 3))[1]
        tensor([1, 2])
    """
    x, y = (map_arrays(lambda array: array[rows], part) for part in batch)
    return x, y


def expect_means(function: str, grad_fn: GradFn, targets: Any) -> None:
    """Raise a UserError if the loss or a metric of `grad_fn` is no mean over the examples.

    Args:
        function: how the message begins.
        grad_fn: what `torch_nets.grad_fn` returned; another function is taken as it is.
        targets: those of the batch.
    """
    if names := whole_only_of(grad_fn)(targets):
        example = "(weight[y] * cross_entropy(z, y, reduction='none')).mean()"
        raise UserError(
            f"{function}: {', '.join(names)} of the batch is not the mean of its parts; needs a "
            f"mean over the examples{', as ' + example if 'loss' in names else ''}"
        )


def expect_equal_parts(batch_size: int, n: int, what: str) -> None:
    """Raise a UserError unless a batch can be divided into n equal parts.

    Args:
        batch_size: examples of the batch.
        n: how many parts.
        what: what the message calls them.
    """
    if batch_size % n:
        raise UserError(f"--batch_size {batch_size}: needs a multiple of the {n} {what}")


def mean_in_order(values: Iterable[dict], shards: int, gather: Gather) -> dict:
    """Return the mean of nested dicts of tensors over all shards, added in the order of the shards.

    Half-precision numbers are summed in float32. Integers are those of the first shard.

    Args:
        values: those of this process, one for each round.
        shards: how many there are in all processes.
        gather: exchanges vectors with the other processes.

    Returns:
        A nested dict.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.shards import alone, mean_in_order
        >>> mean_in_order([{"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}], 2, alone)
        {'w': tensor([2.])}
    """
    sums: Vectors = {}
    for value in values:
        for dtype, vector in packed(value).items():
            for part in gather(vector.detach()):
                sums[dtype] = _added(sums.get(dtype), part)
    means = {
        dtype: (total / shards).to(dtype) if _is_real(dtype) else total
        for dtype, total in sums.items()
    }
    return unpacked(means, value)


def _added(total: Tensor | None, part: Tensor) -> Tensor:
    if total is None:
        return widened(part)
    return total + widened(part) if _is_real(part.dtype) else total


def _is_real(dtype: torch.dtype) -> bool:
    """Return True for floating-point and complex numbers."""
    return dtype.is_floating_point or dtype.is_complex


def packed(values: dict) -> Vectors:
    """Return the leaves of a nested dict as one vector for each dtype.

    Args:
        values: a nested dict of tensors.

    Returns:
        Vectors by dtype.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.shards import packed
        >>> packed({"w": torch.ones(1, 2), "b": torch.zeros(1)})
        {torch.float32: tensor([1., 1., 0.])}
    """
    leaves = tree.flatten(values).values()
    return {
        dtype: torch.cat([leaf.reshape(-1) for leaf in leaves if leaf.dtype == dtype])
        for dtype in dict.fromkeys(leaf.dtype for leaf in leaves)
    }


def unpacked(vectors: Vectors, like: dict) -> dict:
    """Return the nested dict whose leaves `packed` made into vectors.

    Args:
        vectors: vectors by dtype.
        like: a nested dict of the same structure, shapes and dtypes.

    Returns:
        The nested dict.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.shards import packed, unpacked
        >>> values = {"w": torch.ones(1, 2), "b": torch.zeros(1)}
        >>> unpacked(packed(values), like=values)
        {'w': tensor([[1., 1.]]), 'b': tensor([0.])}
    """
    flat, new = tree.flatten(like), {}
    for dtype, vector in vectors.items():
        own = {name: leaf for name, leaf in flat.items() if leaf.dtype == dtype}
        parts = vector.split([leaf.numel() for leaf in own.values()])
        new |= {name: p.view(own[name].shape) for name, p in zip(own, parts, strict=True)}
    return tree.unflatten({name: new[name] for name in flat}, like)


def _moved_by(new: Tensor, old: Tensor | None) -> Tensor:
    """Return by how much a buffer moved; a new or an integer one as it is."""
    return new if old is None or not _is_real(new.dtype) else new - old


def _moved(old: Tensor, move: Tensor, mean: Tensor) -> Tensor:
    """Return a buffer moved by the mean of its changes, or the mean of its new values.

    The mean is that where the old value is infinite or far away, such as a sentinel of -1e30: a
    change holds no digits of the new value there.
    """
    return torch.where(old.abs() < FAR * mean.abs(), old + move, mean)
