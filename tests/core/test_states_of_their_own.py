"""A state holds no memory of the params or the gradient: loops in place write into both."""

import functools

import numpy as np
import pytest
import torch

from purenets import make_step, optim, random, train_state, tree
from purenets.core.optim.internals.extra_args import with_extra_args
from purenets.core.vector_dict import with_vector

CASES = {name: functools.partial(make, lr=0.1) for name, make in optim.OPTIMIZERS.items()}
CASES |= {
    name: functools.partial(make, 0.1, key=random.key(0)) for name, make in optim.SAMPLERS.items()
}
CASES |= {
    "nesterov": lambda: optim.sgd(0.1, 0.9, nesterov=True),
    "trace": lambda: optim.chain(optim.trace(0.0), optim.sgd(0.1)),
    "amsgrad": lambda: optim.adam(0.1, amsgrad=True),
    "centered": lambda: optim.rmsprop(0.1, momentum=0.9, centered=True),
    "layerwise dog": lambda: optim.dog(layerwise=True),
    "sophia": lambda: optim.sophia(0.1, betas=(0.0, 0.0)),
    "lbfgs with a search": lambda: optim.lbfgs(line_search_fn="strong_wolfe"),
    "ema": lambda: optim.chain(optim.sgd(0.1), optim.ema(0.9)),
    "ema of 0": lambda: optim.chain(optim.freeze(), optim.ema(0.0)),
    "swa": lambda: optim.chain(optim.sgd(0.1), optim.swa(3)),
    "lookahead": lambda: optim.lookahead(optim.sgd(0.1), 2),
    "schedule_free": lambda: optim.schedule_free(optim.sgd(0.1), 0.1),
    "accumulate": lambda: optim.accumulate(optim.chain(optim.sgd(0.1), optim.ema(0.9)), 2),
    "accumulate 1": lambda: optim.accumulate(optim.sgd(0.1), 1),
    "apply_if_finite": lambda: optim.apply_if_finite(optim.dog()),
    "skip_first": lambda: optim.skip_first(optim.adan(0.1)),
    "normalize_weights": lambda: optim.normalize_weights(optim.prodigy()),
    "partition": lambda: optim.partition({"a": optim.adan(), "b": optim.dog()}, lambda n, _: n),
    "beta_lasso": lambda: optim.beta_lasso(optim.adan(0.1), 0.01),
    "plateau": lambda: optim.chain(optim.adan(0.1), optim.reduce_on_plateau()),
    "injected": lambda: optim.inject_hyperparams(optim.adan, lr=0.1),
}
by_case = pytest.mark.parametrize("name", CASES)
by_library = pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])


def two_leaves(convert, size=3):
    return {"a": convert(np.ones((2, size))), "b": convert(np.full(size, -1.0))}


def loss_and_gradient(params):
    return sum((p * p).sum() for p in params.values()), {n: 2 * p for n, p in params.items()}


def contents(state):
    return {name: np.asarray(leaf).copy() for name, leaf in tree.flatten(state).items()}


def expect_unmoved(state, *dicts):
    before = contents(state)
    for leaves in dicts:
        for leaf in leaves.values():
            leaf[...] = 77.0
    for name, leaf in contents(state).items():
        assert np.array_equal(leaf, before[name]), name


@by_library
@by_case
@pytest.mark.parametrize("place", [dict, with_vector], ids=["leaves", "vector"])
def test_state_shares_no_memory_with_params_and_gradients(name, place, convert):
    optimizer, params = CASES[name](), two_leaves(convert)
    if place is dict:
        state = optimizer.init(params)
        expect_unmoved(state, params)
    params = place(two_leaves(convert))
    state, update = optimizer.init(params), with_extra_args(optimizer.update)
    for _ in range(2):
        value, grads = loss_and_gradient(params)
        grads, before = place(grads), contents(params)
        _, state = update(grads, state, params, value=value, value_and_grad_fn=loss_and_gradient)
        expect_unmoved(state, grads, params)
        params = place({n: convert(leaf) for n, leaf in before.items()})


@by_library
@by_case
def test_state_of_a_step_shares_no_memory_with_its_gradient(name, convert):
    optimizer, seen = CASES[name](), []

    def grad_fn(params, buffers, batch, key):
        value, grads = loss_and_gradient(params)
        seen.append(grads)
        return grads, (buffers, {"loss": value})

    size = 3 if name.startswith(("lbfgs", "soap", "shampoo", "muon")) else 30_000
    first = train_state(two_leaves(convert, size), {}, optimizer, random.key(0))
    second, _ = make_step(grad_fn, optimizer)(first, None)
    expect_unmoved({"opt_state": second.opt_state, "params": second.params}, *seen, first.params)


@by_library
@pytest.mark.parametrize("name", ["prodigy", "dog", "adan", "asgd", "lookahead", "swa", "ema"])
def test_loop_in_place_ends_where_the_pure_one_does(name, convert):
    """One gradient's memory for all updates, and `p += u`."""
    optimizer, ends = CASES[name](), []
    for in_place in (False, True):
        params = two_leaves(convert)
        state, memory = optimizer.init(params), tree.zeros_like(params)
        for _ in range(6):
            _, grads = loss_and_gradient(params)
            if in_place:
                for leaf, g in grads.items():
                    memory[leaf][...] = g
                grads = memory
            updates, state = optimizer.update(grads, state, params)
            if in_place:
                for leaf, u in updates.items():
                    params[leaf] += u
            else:
                params = optim.apply_updates(params, updates)
        ends.append(contents({"params": params, "state": state}))
    for leaf, right in ends[0].items():
        np.testing.assert_array_equal(ends[1][leaf], right)
