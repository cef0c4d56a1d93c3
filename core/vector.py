"""Training steps that move all params as one vector behind the dict: in nets of some dozen units an operation
costs more than its arithmetic, and an optimizer has several for each leaf."""

import operator
from collections.abc import Callable

from purenets.core import random, tree
from purenets.core.arrays import namespace
from purenets.core.base import Array, Batch, Metrics, Optimizer, Params, Step, TrainState, UserError
from purenets.core.optim.transforms import apply_update
from purenets.core.tree import Layout


def vector_step(
    gradient: Callable,
    optimizer: Optimizer,
    uses_key: bool = False,
    views_at: Callable[[Layout], Callable[[Array], Params]] = tree.views_at,
) -> Step:
    """`step(state, batch) -> (state, metrics)` as `make_step` makes it, for `optimizer` on the vector
    of all params (`optim.flat` says for which optimizers that is the same); the state is that of
    `optim.flat(optimizer)`.

    gradient: `f(params, buffers, batch, key, places) -> (vector, (buffers, metrics))`; key: None unless `draws`.
    """
    last: list = [{}, None, (), None]  # the params that the last call returned, vector, places, views

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        params, (known, vector, places, views) = state.params, last
        if list(params) != list(known) or not all(map(operator.is_, params.values(), known.values())):
            if params.keys() == known.keys() and all(leaf is known[name] for name, leaf in params.items()):
                params = known  # what was returned, in another order
            else:
                vector, places = None, tree.flat_layout(params)
                views = views_at(places)
        key = random.fold_in(state.key, state.step) if uses_key else None
        grad, (buffers, metrics) = gradient(params, state.buffers, batch, key, places)
        if vector is None:
            leaves = [leaf.reshape(-1) for leaf in params.values()]
            if len({leaf.dtype for leaf in leaves}) != 1:
                raise UserError("params: one vector needs leaves, all of one dtype")
            vector = namespace(leaves[0]).concat(leaves)
        updates, opt_state = optimizer.update({"all": grad}, state.opt_state, {"all": vector})
        vector = apply_update(vector, updates["all"])
        params = views(vector)
        last[:] = dict(params), vector, places, views
        return TrainState(params, buffers, opt_state, state.key, state.step + 1), metrics

    return step
