"""Every optimizer of the catalogue ends at the same params, whichever way its steps are taken.

A new optimizer joins by its entry in `optim.OPTIMIZERS` or `optim.SAMPLERS`. The reference is NumPy
on plain dicts, leaf by leaf. All is float64, where 25 steps of any two ways agree to 1e-9 of an
element: they differ by rounding alone.

An optimizer that asks for the loss gets it here as `make_step` passes it; those that evaluate it
several times in an update take fewer steps.
"""

import functools

import numpy as np
import pytest
import torch

from purenets import (
    TrainState,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    scan,
    torch_nets,
    train_state,
    tree,
)
from purenets.core.optim.internals.extra_args import with_extra_args
from purenets.core.vector_dict import VectorDict, vector_of

STEPS = 25
TOLERANCE = 1e-9
RATES = {"lars": 0.5, "adadelta": 1.0}  # of those whose steps are short else
RATES |= dict.fromkeys(("dadapt_adam", "prodigy", "dog", "strong_wolfe", "lbfgs"), 1.0)
EXTRA: dict[str, dict] = {  # arguments beside the rate
    "dog": {"reps_rel": 1e-3},
    # rotated gradients may be 0 but for rounding, which a root enlarges
    "soap": {"eps": 1e-3, "max_precond_dim": 4, "precondition_frequency": 3},
    "shampoo": {"max_dim": 4, "every": 3},
    "backtracking": {"max_steps": 6},
    "strong_wolfe": {"max_eval": 6},
    "lbfgs": {"line_search_fn": "strong_wolfe", "max_iter": 2, "max_eval": 6, "history_size": 3},
}
FEWER = dict.fromkeys(("backtracking", "strong_wolfe", "lbfgs"), 10)  # steps: each has several
LOOPS = tuple(FEWER)  # those with a loop in an update, which is compiled otherwise than the rest
CATALOGUE = optim.OPTIMIZERS | {
    name: functools.partial(make, key=random.key(5)) for name, make in optim.SAMPLERS.items()
}
by_optimizer = pytest.mark.parametrize("name", CATALOGUE)
OTHERS = [name for name in CATALOGUE if name not in LOOPS]
TOGETHER = [LOOPS, *(OTHERS[i : i + 6] for i in range(0, len(OTHERS), 6))]  # are compiled


def optimizer_of(name: str):
    return CATALOGUE[name](lr=RATES.get(name, 1e-2), **EXTRA.get(name, {}))


def steps_of(name: str) -> int:
    return FEWER.get(name, STEPS)


def first_params() -> dict:
    return tree.cast(numpy_nets.MLP(3, [6], 3).init(random.key(0))[0], "float64")


def batches() -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.normal(size=(STEPS, 16, 3)), draw.integers(0, 3, (STEPS, 16))


def plain_state(state: TrainState) -> TrainState:
    """Return a state whose dicts are all plain and whose leaves lie apart."""
    copy = np.copy if isinstance(state.key, np.ndarray) else torch.clone
    params, opt_state = (tree.map(copy, part) for part in (state.params, state.opt_state))
    return state._replace(params=params, opt_state=opt_state)


def start(nets, optimizer) -> tuple[TrainState, tuple]:
    convert = torch.as_tensor if nets is torch_nets else np.asarray
    params = tree.map(convert, first_params())
    return train_state(params, {}, optimizer, random.key(1)), tuple(map(convert, batches()))


def step_of(nets, optimizer):
    return make_step(nets.grad_fn(nets.MLP(3, [6], 3)), optimizer)


def loop(nets, name: str, prepare=lambda state: state) -> dict:
    optimizer = optimizer_of(name)
    step, (state, (x, y)) = step_of(nets, optimizer), start(nets, optimizer)
    for i in range(steps_of(name)):
        state, _ = step(prepare(state), (x[i], y[i]))
    return tree.map(np.asarray, state.params)


@functools.cache
def reference(name: str) -> dict:
    """Return the params after updates written out, on plain dicts: no step, no vector."""
    optimizer, model = optimizer_of(name), numpy_nets.MLP(3, [6], 3)
    grad, params = numpy_nets.grad_fn(model), first_params()
    state = optimizer.init(params)
    update = with_extra_args(optimizer.update)
    for batch in list(zip(*batches(), strict=True))[: steps_of(name)]:

        def value_and_grad(params, batch=batch):
            grads, (_, metrics) = grad(params, {}, batch, None)
            return metrics["loss"], grads

        value, grads = value_and_grad(params)
        updates, state = update(grads, state, params, value=value, value_and_grad_fn=value_and_grad)
        assert not any(isinstance(part, VectorDict) for part in (grads, updates))
        params = {name: p + updates[name] for name, p in params.items()}
    return params


def assert_same(found: dict, name: str) -> None:
    expected = reference(name)
    assert list(found) == list(expected)
    moved = max(abs(expected[leaf] - p).max() for leaf, p in first_params().items())
    assert moved > 1e-3, "the params have hardly moved: nothing is compared"
    for leaf, value in expected.items():
        np.testing.assert_allclose(found[leaf], value, rtol=0, atol=TOLERANCE, err_msg=leaf)


@by_optimizer
@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_vectors(nets, name):
    optimizer = optimizer_of(name)
    state, (x, y) = start(nets, optimizer)
    after, _ = step_of(nets, optimizer)(state, (x[0], y[0]))
    assert vector_of(state.params) is not None
    assert vector_of(after.params) is not None
    assert_same(loop(nets, name), name)


@by_optimizer
@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_plain_dicts(nets, name):
    assert_same(loop(nets, name, plain_state), name)


@by_optimizer
@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_plain_dicts_without_vectors(nets, name, monkeypatch):
    """With a limit of no elements nothing is put on a vector: large leaves, in blocks."""
    monkeypatch.setattr("purenets.core.vector_dict.MAX_MEAN_SIZE", 0)
    monkeypatch.setattr("purenets.core.optim.internals.blocks.BLOCK", 7)
    optimizer = optimizer_of(name)
    assert vector_of(start(nets, optimizer)[0].params) is None
    assert_same(loop(nets, name), name)


@by_optimizer
def test_large_leaves_beside_small_ones(name):
    """Parts of the params, each with an optimizer of its own: dicts that have no vector."""
    nets, inner = torch_nets, optimizer_of(name)
    optimizer = optim.partition({"all": inner}, lambda name, leaf: "all")
    step, (state, (x, y)) = step_of(nets, optimizer), start(nets, optimizer)
    for i in range(steps_of(name)):
        state, _ = step(state, (x[i], y[i]))
    assert_same(tree.map(np.asarray, state.params), name)


@by_optimizer
@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_ensemble(nets, name):
    optimizer = optimizer_of(name)
    step, (state, (x, y)) = (
        nets.ensemble(step_of(nets, optimizer), same_batch=True),
        start(nets, optimizer),
    )
    other = state._replace(params=tree.map(lambda p: p + 0.1, state.params))
    states = nets.stack_states([other, state])
    for i in range(steps_of(name)):
        states, _ = step(states, (x[i], y[i]))
    assert_same(tree.map(np.asarray, nets.unstack_states(states)[1].params), name)


@by_optimizer
@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_scan(nets, name):
    optimizer = optimizer_of(name)
    state, (x, y) = start(nets, optimizer)
    n = steps_of(name)
    state, _ = scan(step_of(nets, optimizer), state, (x[:n], y[:n]))
    assert_same(tree.map(np.asarray, state.params), name)


together = functools.partial(
    pytest.mark.parametrize, "names", ids=lambda names: f"{names[0]} to {names[-1]}"
)


@together(TOGETHER[2:])
def test_traced(names, traced_only):
    assert_jit_steps_are_the_same(names)


@together(TOGETHER[:2])  # for all of them, code is generated for minutes
def test_jit(names):
    assert_jit_steps_are_the_same(names)


def assert_jit_steps_are_the_same(names):
    """One function of `jit` takes a step with each of several optimizers."""
    steps = {name: step_of(torch_nets, optimizer_of(name)) for name in names}
    states = {name: start(torch_nets, optimizer_of(name))[0] for name in steps}
    x, y = map(torch.as_tensor, batches())
    step_all = torch_nets.jit(
        lambda states, batch: {n: steps[n](s, batch)[0] for n, s in states.items()}
    )
    for i in range(STEPS):
        states = step_all(states, (x[i], y[i]))
        for name in names:
            if steps_of(name) == i + 1:
                assert_same(tree.map(np.asarray, states[name].params), name)


def test_a_compiled_and_an_eager_state_are_exchanged():
    """A state that one way returned is one for the other."""
    optimizer = optim.adam(1e-2)
    step, (state, (x, y)) = step_of(torch_nets, optimizer), start(torch_nets, optimizer)
    jitted = torch_nets.jit(step)
    for i in range(STEPS):
        state, _ = (jitted if i % 3 else step)(state, (x[i], y[i]))
    assert_same(tree.map(np.asarray, state.params), "adam")


def test_init_state_draws_what_train_state_is_given():
    model, optimizer = torch_nets.MLP(3, [6], 3), optim.adam()
    state = init_state(model, optimizer, random.key(0))
    params, _ = model.init(random.split(random.key(0))[0])
    assert all(torch.equal(state.params[name], leaf) for name, leaf in params.items())
