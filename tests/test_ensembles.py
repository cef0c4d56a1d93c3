"""Members of an ensemble, each with its own key, data and hyper-parameters, train as they would
alone; the vmapped torch ensemble and the NumPy loop go through the same interface."""

import numpy as np
import pytest
import torch

from purenets import UserError, init_state, make_step, numpy_nets, optim, random, torch_nets, tree
from purenets.numpy_nets import mlp_numpy
from purenets.torch_nets import pytorch_mlp

BACKENDS = {
    "numpy": (numpy_nets, mlp_numpy.MLP, np.asarray),
    "torch": (torch_nets, pytorch_mlp.MLP, torch.as_tensor),
}
RATES, DECAYS = (0.1, 0.01, 0.001), (0.0, 0.5, 0.1)


def setting(backend, **options):
    many, MLP, convert = BACKENDS[backend]
    model = MLP(2, [6], 2, **options)
    optimizer = optim.inject_hyperparams(optim.adamw, lr=0.1, weight_decay=0.0)
    step = make_step(many.grad_fn(model), optimizer)
    states = []
    for seed, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        state = init_state(model, optimizer, convert(random.key(seed)))
        chosen = optim.set_hyperparams(state.opt_state, lr=rate, weight_decay=decay)
        states.append(state._replace(opt_state=chosen))
    draw = np.random.default_rng(0)
    x = convert(draw.normal(size=(3, 8, 2)).astype(np.float32))
    return many, step, states, (x, convert(draw.integers(0, 2, (3, 8))))


@pytest.mark.parametrize("same_batch", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_member_trains_as_alone(backend, same_batch):
    many, step, states, (x, y) = setting(backend, dropout=0.3)
    batch = (x[0], y[0]) if same_batch else (x, y)
    together, all_steps = many.stack_states(states), many.ensemble(step, same_batch=same_batch)
    for _ in range(5):
        together, metrics = all_steps(together, batch)
    for i, (state, member) in enumerate(zip(states, many.unstack_states(together), strict=True)):
        for _ in range(5):
            state, alone = step(state, (x[0], y[0]) if same_batch else (x[i], y[i]))
        for a, b in zip(tree.leaves(member._asdict()), tree.leaves(state._asdict()), strict=True):
            assert np.allclose(a, b, rtol=1e-5, atol=1e-6)
        assert np.isclose(float(metrics["loss"][i]), float(alone["loss"]), rtol=1e-5)
    rates = optim.get_state(together.opt_state, "hyper")["lr"]
    assert np.allclose(np.asarray(rates), RATES)


def test_metrics_of_all_members():
    _, _, states, (x, y) = setting("numpy")
    metrics = numpy_nets.metrics_fn(mlp_numpy.MLP(2, [6], 2))
    params = numpy_nets.stack_states(states).params
    got = numpy_nets.ensemble_metrics(metrics)(params, {}, (x[0], y[0]))
    expected = [metrics(state.params, {}, (x[0], y[0]))["loss"] for state in states]
    assert np.array_equal(got["loss"], expected)
    got = numpy_nets.ensemble_metrics(metrics, same_batch=False)(params, {}, (x, y))
    assert got["accuracy"].shape == (3,)


def test_states_come_back_and_must_be_of_one_step():
    many, step, states, (x, y) = setting("numpy")
    back = many.unstack_states(many.stack_states(states))
    for a, b in zip(back, states, strict=True):
        assert all(map(np.array_equal, tree.leaves(a._asdict()), tree.leaves(b._asdict())))
    ahead, _ = step(states[0], (x[0], y[0]))
    with pytest.raises(UserError, match=r"needs states of one step, got \[1, 0\]"):
        many.stack_states([ahead, states[1]])


# --- as many members everywhere ---------------------------------------------------------------

both_backends = pytest.mark.parametrize("backend", BACKENDS)


@both_backends
@pytest.mark.parametrize("members", [1, 2, 4])
def test_batch_of_more_or_fewer_members_is_refused(backend, members):
    many, step, states, (x, y) = setting(backend)
    batch = [tree.stack([{"a": part[0]}] * members)["a"] for part in (x, y)]
    for wrong in (tuple(batch), (batch[0], y), (x, batch[1])):
        with pytest.raises(UserError, match="for 3 members"):
            many.ensemble(step)(many.stack_states(states), wrong)


@both_backends
@pytest.mark.parametrize("part", ["params", "opt_state"])
def test_state_whose_parts_have_other_numbers_of_members_is_refused(backend, part):
    many, step, states, batch = setting(backend)
    three, two = many.stack_states(states), many.stack_states(states[:2])
    for state, other in ((three, two), (two, three)):
        mixed = state._replace(**{part: getattr(other, part)})
        with pytest.raises(UserError, match=r"ensemble: .* members, expected [23]"):
            many.ensemble(step, same_batch=True)(mixed, (batch[0][0], batch[1][0]))
        with pytest.raises(UserError, match=r"ensemble: .* members, expected [23]"):
            many.unstack_states(mixed)


@both_backends
def test_state_of_one_net_is_no_ensemble(backend):
    many, step, states, batch = setting(backend)
    with pytest.raises(UserError, match="the state is that of one net"):
        many.ensemble(step)(states[0], batch)


@both_backends
def test_a_count_for_each_member_is_refused(backend):
    """As `vmap(init_state)` makes it."""
    many, step, states, batch = setting(backend)
    stacked = many.stack_states(states)
    state = stacked._replace(step=stacked.key[:, 0] * 0)
    with pytest.raises(UserError, match=r"state.step has the shape \(3,\), as vmap stacks it"):
        many.ensemble(step)(state, batch)
    many.ensemble(step)(state._replace(step=state.step[0]), batch)


@both_backends
def test_metrics_of_more_or_fewer_members_are_refused(backend):
    many, _, states, (x, y) = setting(backend)
    params = many.stack_states(states).params
    metrics = many.metrics_fn(BACKENDS[backend][1](2, [6], 2))
    with pytest.raises(UserError, match="for 3 members"):
        many.ensemble_metrics(metrics, same_batch=False)(params, {}, (x[:2], y[:2]))
    mixed = params | {"fc2.bias": params["fc2.bias"][:2]}
    with pytest.raises(UserError, match=r"fc2.bias has 2 members, expected 3"):
        many.ensemble_metrics(metrics)(mixed, {}, (x[0], y[0]))


@both_backends
def test_states_of_other_nets_or_none_are_not_stacked(backend):
    many, _, states, _ = setting(backend)
    with pytest.raises(UserError, match="no states"):
        many.stack_states([])
    net = BACKENDS[backend][1](2, [7], 2)
    other = init_state(net, optim.adam(), BACKENDS[backend][2](random.key(0)))
    with pytest.raises(UserError, match=r"fc1.weight: shape is \(7, 2\), expected \(6, 2\)"):
        many.stack_states([states[0], other])
