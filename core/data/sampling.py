"""Batches as a pure function of a key and the step: any step of any run can be made again."""

import functools
from collections.abc import Callable

import numpy as np

from purenets.core import random
from purenets.core.arrays import namespace
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.tasks import check


def batches(data: Batch, batch_size: int = 0, key: Array | None = None) -> Callable[[int], Batch]:
    """The function from the step (from 0) to its batch.

    batch_size: 0 is full-batch (the data as they are), 1 single-sample, anything between mini-batches. The
    examples come in permutations, one after the other without a gap: every batch is full, each example is
    seen once in every `len(data)` draws, and the step alone says which.
    """
    x, y = data
    n = x.shape[0]
    check(data)
    if batch_size < 0:
        raise UserError(f"batch_size: {batch_size} is negative; 0 is full-batch")
    if batch_size == 0:
        return lambda step: data
    if key is None:
        raise UserError("batches: a batch_size needs a key")
    host_key, place = np.asarray(key), _index_like(x)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int):
        return place(random.permutation(random.fold_in(host_key, epoch), n))

    def batch_at(step: int) -> Batch:
        epoch, offset = divmod(step * batch_size, n)
        if offset + batch_size <= n:
            rows = order(epoch)[offset : offset + batch_size]
        else:
            rows = _run(order, epoch, offset, batch_size, n)
        return x[rows], y[rows]

    return batch_at


def steps_per_epoch(data: Batch, batch_size: int) -> float:
    """Steps until each example has been seen once; not an integer where the last batch straddles epochs."""
    return data[0].shape[0] / batch_size if batch_size else 1


def _run(order, epoch: int, offset: int, length: int, n: int) -> Array:
    """`length` rows from `offset` in the permutation `epoch` on, over as many permutations as it takes."""
    parts = []
    while length > 0:
        parts.append(order(epoch)[offset : offset + length])
        length -= parts[-1].shape[0]
        epoch, offset = epoch + 1, 0
    return namespace(parts[0]).concat(parts)


def _index_like(x: Array) -> Callable[[np.ndarray], Array]:
    xp = namespace(x)
    return lambda rows: xp.asarray(rows, device=x.device)
