"""All leaves of a dict as one vector, for methods that work on vectors."""

from collections.abc import Callable

from purenets.core import tree
from purenets.core.arrays import namespace
from purenets.core.base import Array, Params
from purenets.core.optim.internals.arithmetic import in_order_of


def flattened(leaves: Params, params: Params) -> tuple[Array, Callable[[Array], Params]]:
    """Return all leaves, in the order of params, as one vector (n,) of float32 at least, and the
    way back.
    """
    vector, unravel = tree.ravel(in_order_of(params, leaves))
    xp, dtypes = namespace(vector), {name: leaf.dtype for name, leaf in leaves.items()}
    if vector.dtype not in (xp.float32, xp.float64):
        vector = xp.astype(vector, xp.float32)

    def back(vector: Array) -> Params:
        parts = unravel(vector)
        return {n: xp.astype(part, dtypes[n], copy=False) for n, part in parts.items()}

    return vector, back


def largest(a: Array) -> Array:
    """Return the largest absolute value of the elements of a vector."""
    return namespace(a).max(abs(a))


def dot(a: Array, b: Array) -> Array:
    """Return the inner product of two vectors."""
    return (a * b).sum()
