"""Batches as a pure function of a key and the step: any step of any run can be made again."""

import functools
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

from purenets.core import random
from purenets.core.arguments import expect_flags, expect_functions, is_integer
from purenets.core.arrays import namespace, to_host
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.checks import expect_examples


def batches(
    data: Batch, batch_size: int = 0, key: Array | None = None, *, repeat: bool = False
) -> Callable[[int], Batch]:
    """Return the function from the step, counted from 0, to its batch.

    The examples come in permutations, one after the other without a gap: every batch is full, each
    example is seen once in every `n` draws, and the step alone says which. So any step of any run
    can be taken again. The data are checked here, once, and not in the steps.

    Args:
        data: inputs (n, ...), or a tuple or dict of them, and targets (n, ...): class numbers,
            one-hot or soft labels, or floating-point numbers of a regression. Inputs and targets
            are finite.
        batch_size: 0 is full-batch (the data as they are), 1 single-sample, up to n mini-batches.
        key: the key of the permutations; full-batch needs none.
        repeat: allow a batch_size over n, which takes examples more than once in a batch.

    Returns:
        `batch_at(step) -> (inputs, targets)`, on the device of the data.

    Raises:
        UserError: one line that names the example or the argument that is wrong.

    Example:
        >>> import numpy as np
        >>> from purenets import data, random
        >>> x = np.arange(5)
        >>> batch_at = data.batches((x, x), batch_size=2, key=random.key(1))
        >>> [batch_at(step)[0].tolist() for step in range(5)]  # two epochs; step 2 is in both
        [[4, 2], [3, 1], [0, 3], [0, 1], [4, 2]]
    """
    n = expect_examples(data)
    batch_size = _checked_size(batch_size, n, repeat)
    if batch_size == 0:
        return lambda step: data
    x, y = data
    host_key, place = _checked_key(key), _index_like(y)

    @functools.lru_cache(maxsize=2)
    def order(epoch: int):
        return place(random.permutation(random.fold_in(host_key, epoch), n))

    def batch_at(step: int) -> Batch:
        try:
            epoch, offset = divmod(operator.index(step) * batch_size, n)  # np.int8 would overflow
            if offset + batch_size <= n:
                rows = order(epoch)[offset : offset + batch_size]
            else:
                rows = _rows_across_epochs(order, epoch, offset, batch_size)
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, UserError) or is_integer(step):
                raise
            raise UserError(f"batches: step is {step!r}, needs an integer") from error
        return _rows_of(x, rows), y[rows]

    return batch_at


def steps_per_epoch(data: Batch, batch_size: int) -> float:
    """Return the number of steps in which each example is seen once: n / batch_size.

    Args:
        data: inputs (n, ...) and targets (n, ...).
        batch_size: the same as in `batches`.

    Returns:
        A float, not whole where the last batch straddles two epochs; 1 for full-batch (0).

    Raises:
        UserError: the data are wrong (as in `batches`), or batch_size is no integer or negative.

    Example:
        >>> import numpy as np
        >>> from purenets import data
        >>> data.steps_per_epoch((np.zeros((5, 3)), np.zeros(5)), batch_size=2)
        2.5
    """
    expect_examples(data)
    batch_size = _integer(batch_size)
    return data[1].shape[0] / batch_size if batch_size else 1


def part_of(batches: Callable[[int], Batch], rank: int, processes: int) -> Callable[[int], Batch]:
    """Return the function from the step to one process's part of its batch.

    All parts are equally large. In the order of the ranks they make up the batch, so several
    processes together see what one alone would see.

    Args:
        batches: the function from a step to its batch, as `batches` returns it.
        rank: the number of this process, from 0.
        processes: how many there are.

    Returns:
        `part_at(step) -> (inputs, targets)`.

    Raises:
        UserError: there is no such rank; from a step, the batch cannot be shared equally.

    Example:
        >>> import numpy as np
        >>> from purenets import data
        >>> x = np.arange(8.0)
        >>> part_at = data.part_of(lambda step: (x, x), rank=1, processes=4)
        >>> part_at(0)
        (array([2., 3.]), array([2., 3.]))
    """
    expect_functions("part_of", batches=batches)
    if not is_integer(processes) or processes < 1:
        raise UserError(f"part_of: processes: {processes!r}, needs an integer from 1 on")
    if not is_integer(rank) or not 0 <= rank < processes:
        raise UserError(f"part_of: rank: {rank!r}, needs an integer from 0 to {processes - 1}")

    def part_at(step: int) -> Batch:
        x, y = batches(step)
        n = y.shape[0]
        if n % processes:
            raise UserError(
                f"part_of: a batch of {n} cannot be shared equally among {processes} processes"
            )
        own = slice(n // processes * rank, n // processes * (rank + 1))
        return _rows_of(x, own), y[own]

    return part_at


def _checked_size(batch_size: int, n: int, repeat: bool) -> int:
    size = _integer(batch_size)
    expect_flags("batches", repeat=repeat)
    if size > n and not repeat:
        raise UserError(
            f"batch_size: {size} is more than the {n} examples; 0 is full-batch, and "
            "repeat=True takes "
            "examples more than once"
        )
    return size


def _integer(batch_size: int) -> int:
    """Return a batch size as an integer; a UserError if it is none or negative."""
    try:
        size = None if isinstance(batch_size, bool) else operator.index(batch_size)
    except TypeError:
        size = None
    if size is None:
        raise UserError(f"batch_size: {batch_size!r} is no integer; 0 is full-batch")
    if size < 0:
        raise UserError(f"batch_size: {size} is negative; 0 is full-batch")
    return size


def _checked_key(key: Array | None) -> np.ndarray:
    if key is None:
        raise UserError("batches: a batch_size needs a key, such as random.key(0)")
    key = np.asarray(to_host(random.check_key(key)))
    if key.ndim != 1 or not 2 <= len(key) <= 4 or key.dtype.kind != "i":
        raise UserError(f"key: {key} is no key; take random.key(seed)")
    return key


def _rows_of(x: Any, rows: Array) -> Any:
    """Return the rows of all arrays of a batch's inputs."""
    if isinstance(x, dict):
        return {name: _rows_of(part, rows) for name, part in x.items()}
    return tuple(_rows_of(part, rows) for part in x) if isinstance(x, tuple) else x[rows]


def _rows_across_epochs(order, epoch: int, offset: int, length: int) -> Array:
    """Return `length` rows from `offset` in permutation `epoch` on, over as many as it takes."""
    parts = []
    while length > 0:
        parts.append(order(epoch)[offset : offset + length])
        length -= parts[-1].shape[0]
        epoch, offset = epoch + 1, 0
    return namespace(parts[0]).concat(parts)


def _index_like(x: Array) -> Callable[[np.ndarray], Array]:
    xp = namespace(x)
    return lambda rows: xp.asarray(rows, device=x.device)
