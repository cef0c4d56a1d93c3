"""Training steps that move all params as one vector behind the dict: in nets of some dozen units an operation
costs more than its arithmetic, and an optimiser has several for each leaf."""

import math
from collections.abc import Callable

from core import random
from core.arrays import namespace
from core.base import Array, Batch, Metrics, Optimizer, Params, Step, TrainState, UserError
from core.transforms import apply_updates

Places = tuple[tuple[str, slice, tuple[int, ...]], ...]  # of the leaves in the vector of all


def slices(vector: Array, places: Places) -> Params:
    """The leaves as views of the vector."""
    return {name: vector[place].reshape(shape) for name, place, shape in places}


def vector_step(
    gradient: Callable,
    optimizer: Optimizer,
    draws: bool = False,
    views: Callable[[Array, Places], Params] = slices,
) -> Step:
    """`step(state, batch) -> (state, metrics)` as `core.train.make_step` makes it, for `optimizer` on the vector
    of all params (`core.optim.flat` says for which optimisers that is the same); the state is that of
    `optim.flat(optimizer)`.

    gradient: `f(params, buffers, batch, key, places) -> (vector, (buffers, metrics))`; key: None unless `draws`.
    """
    last: list = [
        {},
        None,
        (),
    ]  # the params that the last call returned, the vector whose views they are, places

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        params, (known, vector, places) = state.params, last
        if params.keys() != known.keys() or any(leaf is not known[name] for name, leaf in params.items()):
            vector, places = None, places_of(params)
        key = random.fold_in(state.key, state.step) if draws else None
        grad, (buffers, metrics) = gradient(params, state.buffers, batch, key, places)
        if vector is None:
            leaves = [leaf.reshape(-1) for leaf in params.values()]
            if len({leaf.dtype for leaf in leaves}) != 1:
                raise UserError("params: one vector needs leaves, all of one dtype")
            vector = namespace(leaves[0]).concat(leaves)
        updates, opt_state = optimizer.update({"all": grad}, state.opt_state, {"all": vector})
        vector = apply_updates({"all": vector}, updates)["all"]
        params = views(vector, places)
        last[:] = dict(params), vector, places
        return TrainState(params, buffers, opt_state, state.key, state.step + 1), metrics

    return step


def places_of(params: Params) -> Places:
    """Where each leaf lies in the vector of all, and its shape."""
    places, begin = [], 0
    for name, leaf in params.items():
        end = begin + math.prod(leaf.shape)
        places.append((name, slice(begin, end), tuple(leaf.shape)))
        begin = end
    return tuple(places)
