"""Gradients are found by name: a backward by hand may collect the last layer first."""

import functools

import numpy as np
import pytest
import torch

from purenets import UserError, make_step, optim, random, train_state, tree
from purenets.core.optim.internals.extra_args import with_extra_args

CURVATURE = {"a": 1.0, "b": 5.0, "c": 3.0}
MINIMUM = {"a": -2.0, "b": 1.0, "c": 0.5}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
LIBRARIES = {
    "numpy": lambda leaf: np.asarray(leaf, np.float64),
    **{f"torch {name}": functools.partial(torch.tensor, dtype=d) for name, d in DTYPES.items()},
}
SPLIT = {"x": optim.chain(optim.scale_by_adam(), optim.scale_by_learning_rate(1.0))}
SPLIT["y"] = optim.scale_by_learning_rate(1.0)
CASES = {
    name: functools.partial(make, lr=0.01)
    for name, make in optim.OPTIMIZERS.items()
    if name not in ("lbfgs", "strong_wolfe", "backtracking")
}
CASES |= {
    "lbfgs": lambda: optim.lbfgs(0.1, max_iter=3),
    "lbfgs with a search": lambda: optim.lbfgs(line_search_fn="strong_wolfe", max_iter=3),
    "strong_wolfe": optim.strong_wolfe,
    "strong_wolfe of parts": lambda: optim.strong_wolfe(
        direction=optim.partition(SPLIT, lambda name, leaf: "x" if name == "b" else "y")
    ),
    "strong_wolfe of an own direction": lambda: optim.strong_wolfe(
        direction=optim.stateless(lambda grads, params: {n: -grads[n] for n in sorted(grads)[::-1]})
    ),
    "backtracking": optim.backtracking,
    "accumulate": lambda: optim.accumulate(optim.adam(0.1), 2),
    "lookahead": lambda: optim.lookahead(optim.sgd(0.1, 0.9), 2),
    "beta_lasso": lambda: optim.beta_lasso(optim.adam(0.1), 0.01),
    "schedule_free": lambda: optim.schedule_free(optim.sgd(0.1), 0.1),
}
CASES |= {
    name: functools.partial(make, 0.01, key=random.key(3)) for name, make in optim.SAMPLERS.items()
}
# The larger ones are too large for one vector of all leaves
PATHS = [("numpy", 3), ("numpy", 250), ("torch float32", 3), ("torch float64", 3)]
PATHS += [("torch bfloat16", 250)]


def params_of(convert, size):
    shapes = {"a": (2,), "b": (size, size), "c": (size,)}
    return {name: convert(np.full(shape, 0.25)) for name, shape in shapes.items()}


def gradient(order):
    def grad_fn(params, buffers, batch, key):
        away = {name: params[name] - MINIMUM[name] for name in order(params)}
        loss = sum((CURVATURE[name] * (away[name] ** 2).sum() / 2 for name in params), 0.0)
        return {name: CURVATURE[name] * d for name, d in away.items()}, (buffers, {"loss": loss})

    return grad_fn


def by_steps(optimizer, params, order):
    step = make_step(gradient(order), optimizer)
    state = train_state(params, {}, optimizer, random.key(0))
    for _ in range(3):
        state, _ = step(state, None)
    return state.params


def by_updates(optimizer, params, order):
    def f(params):
        grads, (_, metrics) = gradient(order)(params, {}, None, None)
        return metrics["loss"], grads

    update, state = with_extra_args(optimizer.update), optimizer.init(params)
    for _ in range(3):
        value, grads = f(params)
        updates, state = update(grads, state, params, value=value, value_and_grad_fn=f)
        params = optim.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(("library", "size"), PATHS)
@pytest.mark.parametrize("name", CASES)
def test_order_of_the_gradients_changes_nothing(name, library, size):
    if size > 3 and name in ("lbfgs", "lbfgs with a search", "soap", "shampoo", "muon"):
        size = 8
    params = params_of(LIBRARIES[library], size)
    tolerance = 1e-9 if "64" in library or library == "numpy" else 1e-4
    tolerance = 2e-2 if "bfloat16" in library else tolerance
    for train in (by_steps, by_updates):
        right, other = (train(CASES[name](), params, order) for order in (list, reversed))
        for leaf, expected in right.items():
            found = (np.asarray(tree.cast({"": x}, "float64")[""]) for x in (other[leaf], expected))
            np.testing.assert_allclose(*found, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("library", LIBRARIES)
def test_lbfgs_finds_the_minimum_whatever_the_order(library):
    for order in (list, reversed):
        params = params_of(LIBRARIES[library], 3)
        found = by_updates(optim.lbfgs(line_search_fn="strong_wolfe"), params, order)
        for leaf, minimum in MINIMUM.items():
            assert abs(found[leaf] - minimum).max() < 0.02


def test_gradient_at_other_params_that_lacks_a_leaf_is_told():
    params = params_of(np.asarray, 3)
    f = lambda params: (np.float64(1), {"a": params["a"]})
    for search in (optim.lbfgs(), optim.strong_wolfe()):
        with pytest.raises(UserError, match=r"the names of the leaves differ: missing b, c$"):
            search.update(params, search.init(params), params, value=1.0, value_and_grad_fn=f)
