"""The public `elementwise`: the declaration of a user, tried out where the state is made."""

import math

import numpy as np

from purenets.core.arguments import expect_optimizers
from purenets.core.arrays import kind_of, namespace, widened
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals import elementwise as internal
from purenets.core.optim.internals.hyper import first_leaf, is_concrete
from purenets.core.vector_dict import with_vector

MAX_SIZE = 3  # elements along each axis of a leaf of the trial
TOLERANCE = 1e-3  # of the largest element; rounding alone may differ


def elementwise(optimizer: Optimizer) -> Optimizer:
    """Return the same optimizer, declared to treat every element alone, so that it runs faster.

    A declared update may read of the leaves only their elements, whichever leaf they are in, and of
    its state arrays shaped as the params, and scalars. It may then be computed once on the vector
    of all leaves, or block by block. An update that uses a leaf's norm, shape or name must not be
    declared: its numbers would change. `init` tries two updates of a few elements of each leaf.

    Args:
        optimizer: the optimizer to declare.

    Returns:
        An optimizer with the same state and, up to rounding, the same updates.

    Raises:
        UserError: optimizer is not an Optimizer; from `init`: an update on the vector is another
            one for a leaf, which the message names.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> cubes = optim.stateless(lambda grads, params: {n: g**3 for n, g in grads.items()})
        >>> optimizer = optim.elementwise(cubes)
        >>> grads = {"w": np.array([1.0, -2.0])}
        >>> updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
        >>> updates["w"]
        array([ 1., -8.])
    """
    expect_optimizers("elementwise", optimizer=optimizer)
    declared = internal.elementwise(optimizer)
    if internal.is_elementwise(optimizer):
        return declared

    def init(params):
        state = declared.init(params)
        if is_concrete(first_leaf(params)) and all(kind_of(p) == "f" for p in params.values()):
            _expect_same_updates(declared, _small(params))
        return state

    return declared._replace(init=init)


def _small(params: Params) -> Params:
    """Return a few elements of each leaf, in float32 at least."""
    few = {name: widened(p[(slice(MAX_SIZE),) * p.ndim]) for name, p in params.items()}
    moved = {name: p + _numbers(p, 1.0) for name, p in few.items()}
    return {name: np.asarray(p) if isinstance(p, np.generic) else p for name, p in moved.items()}


def _numbers(p: Array, first: float) -> Array:
    """Return first, first + 1, ..., in the shape of a leaf."""
    xp, n = namespace(p), math.prod(p.shape)
    return first + xp.reshape(xp.arange(n, dtype=p.dtype, device=p.device), p.shape)


def _expect_same_updates(optimizer: Optimizer, params: Params) -> None:
    """Raise a UserError that names a leaf whose update is another one on the vector of all."""
    vectors, update = with_vector(params), internal.on_leaves(optimizer)
    if vectors is params:
        return
    grads = {name: _numbers(p, 1.0 + 10 * i) for i, (name, p) in enumerate(params.items())}
    try:
        with np.errstate(all="ignore"):
            state, together = optimizer.init(params), optimizer.init(vectors)
            for _ in range(2):
                right, state = update(grads, state, params)
                found, together = internal.on_vectors(update, grads, together, vectors)
                _expect_close(found, right)
    except (*internal.ERRORS, ArithmeticError) as error:
        # Numbers that are not those of the net: the update may refuse them.
        if isinstance(error, UserError):
            raise


def _expect_close(found: Params, right: Params) -> None:
    for name, update in right.items():
        xp = namespace(update)
        if math.prod(update.shape) and bool(xp.all(xp.isfinite(update))):
            error, size = (float(xp.max(abs(x))) for x in (found[name] - update, update))
            if not error <= TOLERANCE * size:
                raise UserError(
                    f"elementwise: the update of {name} depends on more than its elements, such as "
                    "its norm, its mean or its name; do not declare it"
                )
