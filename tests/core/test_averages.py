"""Averaged params are found wherever an optimizer keeps them, or their absence is told."""

import numpy as np
import pytest
import torch

from purenets import UserError, init_state, make_step, numpy_nets, optim, random, torch_nets, tree

BACKENDS = {"numpy": (numpy_nets, np.asarray), "torch": (torch_nets, torch.as_tensor)}
both_backends = pytest.mark.parametrize("backend", BACKENDS)


def averaged():
    """Adam with a running mean of the params behind it."""
    return optim.chain(optim.adam(0.1), optim.ema(0.9))


def by_shape(name, leaf) -> str:
    return "matrix" if leaf.ndim > 1 else "vector"


def after_steps(optimizer, backend="torch", dtype="float32", steps=10):
    """The state after some steps, and the means of all params that an `ema` of 0.9 keeps."""
    nets, convert = BACKENDS[backend]
    net = nets.MLP(2, [8], 2)
    x = convert(random.normal(random.key(1), (64, 2)))
    y = convert(np.asarray(x[:, 0] > 0).astype(np.int64))
    state = init_state(net, optimizer, convert(random.key(0)))
    if dtype != "float32":
        params = tree.cast(state.params, dtype)
        state = state._replace(params=params, opt_state=optimizer.init(params))
        x = tree.cast({"x": x}, dtype)["x"]
    step, mean = make_step(nets.grad_fn(net), optimizer), state.params
    for _ in range(steps):
        state, _ = step(state, (x, y))
        mean = tree.map(lambda m, p: 0.9 * m + 0.1 * p, mean, state.params)
    return state, mean


def near(a, b) -> bool:
    return np.allclose(np.asarray(a), np.asarray(b), atol=1e-5)


ALL = {
    "chain": averaged,
    "chain in a chain": lambda: optim.chain(optim.chain(averaged())),
    "apply_if_finite": lambda: optim.apply_if_finite(averaged()),
    "accumulate": lambda: optim.accumulate(averaged(), 1),
    "injected": lambda: optim.inject_hyperparams(
        lambda lr: optim.chain(optim.adam(lr), optim.ema(0.9)), lr=0.1
    ),
    "partition of all": lambda: optim.partition(
        {"matrix": averaged(), "vector": averaged()}, by_shape
    ),
    "labels called ema and x": lambda: optim.partition(
        {"ema": averaged(), "x": averaged()}, lambda name, leaf: "ema" if leaf.ndim > 1 else "x"
    ),
    "partition, then ema": lambda: optim.chain(
        optim.partition({"matrix": optim.adam(0.1), "vector": optim.sgd(0.1)}, by_shape),
        optim.ema(0.9),
    ),
    "muon and adam": lambda: optim.chain(optim.muon(0.02, other=optim.adam(0.1)), optim.ema(0.9)),
}
PARTS = {
    "partition": lambda: optim.partition(
        {"matrix": optim.sgd(0.1), "vector": averaged()}, by_shape
    ),
    "muon": lambda: optim.muon(0.02, other=averaged()),
    "partition in a partition": lambda: optim.partition(
        {
            "matrix": optim.sgd(0.1),
            "vector": optim.apply_if_finite(
                optim.partition({"all": optim.chain(averaged())}, lambda name, leaf: "all")
            ),
        },
        by_shape,
    ),
    "masked": lambda: optim.chain(
        optim.adam(0.1), optim.masked(optim.ema(0.9), lambda name, leaf: leaf.ndim == 1)
    ),
    "frozen": lambda: optim.partition({"matrix": optim.freeze(), "vector": averaged()}, by_shape),
}


@both_backends
@pytest.mark.parametrize("name", ALL)
def test_average_of_all_params_is_found_at_any_depth(name, backend):
    state, mean = after_steps(ALL[name](), backend)
    found = optim.with_averaged_params(state)
    assert list(found.params) == list(state.params)
    assert all(near(found.params[leaf], mean[leaf]) for leaf in mean)
    assert not any(near(found.params[leaf], state.params[leaf]) for leaf in mean)
    assert found.opt_state is state.opt_state


@both_backends
@pytest.mark.parametrize("name", PARTS)
def test_average_of_a_part_of_the_params_is_merged_leaf_by_leaf(name, backend):
    state, mean = after_steps(PARTS[name](), backend)
    found = optim.with_averaged_params(state).params
    assert list(found) == list(state.params)
    for leaf, value in found.items():
        assert near(value, mean[leaf] if value.ndim == 1 else state.params[leaf])


@both_backends
def test_two_parts_with_averages_of_two_kinds(backend):
    optimizer = optim.partition(
        {"matrix": optim.schedule_free_adamw(0.1), "vector": averaged()}, by_shape
    )
    state, mean = after_steps(optimizer, backend)
    found = optim.with_averaged_params(state).params
    free = optim.get_state(state.opt_state, "x")
    for leaf, value in found.items():
        assert near(value, mean[leaf] if value.ndim == 1 else free[leaf])


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_averaged_params_have_the_dtype_of_the_params(dtype):
    state, _ = after_steps(averaged(), dtype=dtype)
    wide = {"ema": tree.cast(optim.get_state(state.opt_state, "ema"), "float64")}
    found = optim.with_averaged_params(state._replace(opt_state={"0": {}, "1": wide}))
    assert {str(leaf.dtype) for leaf in found.params.values()} == {f"torch.{dtype}"}


def test_averaged_params_of_all_members_of_an_ensemble():
    states = [
        after_steps(PARTS["muon"](), steps=n)[0]._replace(step=torch.tensor(0)) for n in (3, 5)
    ]
    found = torch_nets.unstack_states(optim.with_averaged_params(torch_nets.stack_states(states)))
    for one, state in zip(found, states, strict=True):
        alone = optim.with_averaged_params(state).params
        assert all(torch.equal(one.params[name], alone[name]) for name in alone)


@both_backends
@pytest.mark.parametrize(
    "optimizer", [optim.adam(0.1), optim.lookahead(optim.adam(0.1)), optim.muon(0.02)]
)
def test_optimizer_without_an_average_leaves_the_state_as_it_is(optimizer, backend):
    state, _ = after_steps(optimizer, backend)
    assert optim.with_averaged_params(state) is state


@both_backends
def test_leaf_with_two_averages_is_refused(backend):
    state, _ = after_steps(optim.chain(averaged(), optim.ema(0.5)), backend)
    with pytest.raises(UserError, match=r"fc1.weight has two averages, 0/1/ema and 1/ema"):
        optim.with_averaged_params(state)


@both_backends
def test_average_of_other_leaves_is_refused(backend):
    state, _ = after_steps(averaged(), backend)
    vector = {"ema": {"all": tree.ravel(state.params)[0]}}
    with pytest.raises(UserError, match=r"1/ema averages 'all' of shape \(42,\)"):
        optim.with_averaged_params(state._replace(opt_state={"1": vector}))
    shorter = {"ema": {"fc1.bias": state.params["fc1.bias"][:3]}}
    with pytest.raises(UserError, match=r"averages 'fc1.bias' of shape \(3,\)"):
        optim.with_averaged_params(state._replace(opt_state={"1": shorter}))


@both_backends
def test_average_of_a_decay_close_to_1_does_not_fade(backend):
    """1 - 0.999999 of float32 is 1.013e-6: with it the mean of constant params would fall."""
    params = {"w": BACKENDS[backend][1](np.full(3, 2.0, np.float32))}
    nothing, transform = tree.zeros_like(params), optim.ema(0.999999)
    state = transform.init(nothing)
    assert near(transform.update(nothing, state, params)[1]["ema"]["w"] / 2e-6, 1.0)
    state = transform.init(params)
    for _ in range(1000):
        _, state = transform.update(nothing, state, params)
    assert (np.asarray(state["ema"]["w"]) == 2.0).all()
