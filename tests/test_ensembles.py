"""Members of an ensemble, each with its own key, data and hyper-parameters, train as they would alone; the
vmapped torch ensemble and the NumPy loop go through the same interface."""

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
