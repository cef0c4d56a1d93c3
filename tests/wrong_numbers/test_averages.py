"""Averaged params: found wherever they are kept, and used with statistics of their own."""

import pytest
import torch

from purenets import data, evaluate, fit, init_state, make_step, optim, random, tree
from purenets.torch_nets import MLP, grad_fn, layers, metrics_fn
from tests.wrong_numbers.choice import or_refused

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (64, 2))
Y = (X[:, 0] > 0).long()
NET = MLP(2, [8], 2)
AVERAGED = optim.chain(optim.adam(0.1), optim.ema(0.99))


def after_20_steps(step, optimizer):
    state = init_state(NET, optimizer, KEY)
    for _ in range(20):
        state, _ = step(state, (X, Y))
    return state


def running_mean():
    """What the params' average is after 20 steps."""
    step = make_step(grad_fn(NET), optim.adam(0.1))
    state = init_state(NET, optim.adam(0.1), KEY)
    mean = state.params
    for _ in range(20):
        state, _ = step(state, (X, Y))
        mean = tree.map(lambda m, p: 0.99 * m + 0.01 * p, mean, state.params)
    return mean


def near(a: dict, b: dict) -> bool:
    return all(torch.allclose(a[name], b[name], atol=1e-5) for name in b)


def test_averaged_params_of_a_chain():
    state = after_20_steps(make_step(grad_fn(NET), AVERAGED), AVERAGED)
    assert near(optim.with_averaged_params(state).params, running_mean())


def by_shape(name, leaf) -> str:
    return "matrix" if leaf.ndim > 1 else "vector"


@pytest.mark.parametrize(
    "optimizer",
    [
        pytest.param(optim.muon(0.02, other=AVERAGED), id="muon"),
        pytest.param(
            optim.partition({"matrix": optim.sgd(0.1), "vector": AVERAGED}, by_shape),
            id="partition",
        ),
    ],
)
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="returns the raw params in silence")
def test_average_of_a_part_of_the_params_is_found(optimizer):
    state = after_20_steps(make_step(grad_fn(NET), optimizer), optimizer)
    found, mean = or_refused(optim.with_averaged_params, state), optim.get_state(state.opt_state, "ema")
    assert found is None or all(torch.equal(found.params[name], mean[name]) for name in mean)


@pytest.mark.xfail(strict=True, raises=ImportError, reason="no such function yet")
def test_averaged_params_with_fresh_statistics_are_good():
    from purenets.torch_nets import update_batchnorm

    task = data.load("digits", KEY.numpy())
    train, test = (tuple(map(torch.tensor, part)) for part in (task.train, task.test))
    net = layers.serial(
        fc1=layers.Linear(64, 64),
        norm1=layers.BatchNorm(64),
        relu=layers.ReLU(),
        fc2=layers.Linear(64, 10),
    )
    optimizer = optim.chain(optim.adam(1e-2), optim.ema(0.99))
    batches = data.batches(train, 64, KEY)
    step, state = make_step(grad_fn(net), optimizer), init_state(net, optimizer, KEY)
    state, _ = fit(step, state, batches, steps=200)
    state = optim.with_averaged_params(state)
    seen = [batches(i) for i in range(20)]
    buffers = update_batchnorm(net, state.params, state.buffers, seen)
    fresh = state._replace(buffers=buffers)
    assert evaluate(metrics_fn(net), fresh, test)["accuracy"] > 0.95


@pytest.mark.xfail(strict=True, raises=ImportError, reason="no such function yet")
def test_fresh_statistics_are_those_of_torch():
    from purenets.torch_nets import update_batchnorm

    net, module = layers.serial(norm=layers.BatchNorm(2)), torch.nn.BatchNorm1d(2)
    batches = [(X[:20], Y[:20]), (3 * X[20:], Y[20:])]
    buffers = update_batchnorm(net, *net.init(KEY), batches)
    torch.optim.swa_utils.update_bn(batches, module)
    for name in ("running_mean", "running_var"):
        assert torch.allclose(buffers[f"norm.{name}"], getattr(module, name), atol=1e-5)
