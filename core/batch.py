"""Batches whose inputs are an array, or a tuple or dict of arrays: the examples, counted and
sliced.
"""

from collections.abc import Callable
from typing import Any

from purenets.core.arrays import expect_plain
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.checks import input_leaves


def map_arrays(f: Callable[[Array], Array], part: Any) -> Any:
    """Return the same structure with `f` of each array."""
    if isinstance(part, dict):
        return {name: map_arrays(f, inner) for name, inner in part.items()}
    if isinstance(part, tuple):
        return tuple(map_arrays(f, inner) for inner in part)
    return f(part)


def count_examples(batch: Batch, name: str) -> int:
    """Return the length of the first axis, which all arrays of a batch share.

    Raises:
        UserError: if they do not share one, or it is 0; `name` begins the message.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise UserError(f"{name}: batch is a {type(batch).__name__}, needs (inputs, targets)")
    for array in (array for part in batch for array in input_leaves(part)):
        if not hasattr(array, "shape"):
            raise UserError(f"{name}: the batch holds a {type(array).__name__}, needs arrays")
        expect_plain(f"{name}: batch", array)
    lengths = [
        array.shape[0] if array.ndim else 0 for part in batch for array in input_leaves(part)
    ]
    if not lengths or min(lengths) != max(lengths) or not lengths[0]:
        raise UserError(
            f"{name}: arrays of {lengths} examples; needs as many in each, at least one"
        )
    return lengths[0]
