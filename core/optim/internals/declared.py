"""The public `elementwise`: the declaration of a user, tried out where the state is made."""

import math

import numpy as np

from purenets.core.arguments import expect_optimizers
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals import elementwise as internal
from purenets.core.optim.internals.trial import can_be_tried, numbers, small
from purenets.core.vector_dict import with_vector

TOLERANCE = 1e-3  # of the largest element; rounding alone may differ


def elementwise(optimizer: Optimizer) -> Optimizer:
    """Return the same optimizer, declared to treat every element alone, so that it runs faster.

    A declared update may read of the leaves only their elements, whichever leaf they are in, and of
    its state arrays shaped as the params, and scalars. It may then be computed once on the vector
    of all leaves, or block by block. An update that uses a leaf's norm, mean, shape or name must
    not be declared: its numbers would change. `init` tries two updates of a few elements of each
    leaf, and cannot notice what these two do not show.

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
        if can_be_tried(params):
            _expect_same_updates(declared, small(params))
        return state

    return declared._replace(init=init)


def _expect_same_updates(optimizer: Optimizer, params: Params) -> None:
    """Raise a UserError that names a leaf whose update is another one on the vector of all."""
    vectors, update = with_vector(params), internal.on_leaves(optimizer)
    if vectors is params:
        return
    try:
        with np.errstate(all="ignore"):
            state, together = optimizer.init(params), optimizer.init(vectors)
            for t in range(2):
                grads = {name: _signed(p, i, t) for i, (name, p) in enumerate(params.items())}
                right, state = update(grads, state, params)
                found, together = internal.on_vectors(update, grads, together, vectors)
                _expect_close(found, right)
    except (*internal.ERRORS, ArithmeticError, IndexError) as error:
        # Numbers that are not those of the net: the update may refuse them.
        if isinstance(error, UserError):
            raise


def _signed(p: Array, i: int, t: int) -> Array:
    """Return a gradient of leaf i for trial t: some signs differ between leaves and trials.

    It falls with t, so that a running mean does not follow each change of sign.
    """
    g = numbers(p, 1.0 + 10 * i)
    return namespace(p).where((g + t) % (2 + i) == 0, -g, g) / (1 + t)


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
