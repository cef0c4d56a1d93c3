"""Gradients through a step of training, and second derivatives."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from purenets import apply_updates, make_step, optim, random, train_state
from purenets.torch_nets import MLP, from_module, grad_fn
from purenets.torch_nets.analysis.curvature import hvp, loss_at
from tests.wrong_numbers.choice import or_refused

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
Y = torch.tensor([0, 1, 2] * 2)
NET = MLP(4, [8], 3)
PARAMS, _ = NET.init(KEY)


# --- through steps ------------------------------------------------------------------------


def after_two_steps(temperature, rate):
    """The loss after two steps, whose own loss has a temperature."""

    def loss(logits, y):
        return F.cross_entropy(logits * temperature, y)

    step = make_step(grad_fn(NET, loss), optim.sgd(rate))
    state = train_state(PARAMS, {}, optim.sgd(rate), KEY)
    for _ in range(2):
        state, _ = step(state, (X, Y))
    return F.cross_entropy(NET.apply(state.params, {}, X)[0], Y)


def gradient_and_difference(f, at: float) -> tuple:
    value = torch.tensor(at, requires_grad=True)
    (gradient,) = torch.autograd.grad(f(value), value)
    above, below = (float(f(torch.tensor(at + d)).detach()) for d in (0.01, -0.01))
    return float(gradient), pytest.approx((above - below) / 0.02, rel=1e-2)


def test_gradient_by_a_learned_temperature_agrees_with_differences():
    def by_temperature(temperature):
        rate = torch.tensor(0.5, requires_grad=True)
        return after_two_steps(temperature, rate)

    gradient, difference = gradient_and_difference(by_temperature, 1.5)
    assert gradient == difference


def test_gradient_by_the_temperature_alone_agrees_with_differences():
    gradient, difference = gradient_and_difference(lambda t: after_two_steps(t, 0.5), 1.5)
    assert gradient == difference


def test_gradient_by_the_rate_agrees_with_differences():
    gradient, difference = gradient_and_difference(lambda rate: after_two_steps(1.5, rate), 0.5)
    assert gradient == difference


def test_gradient_of_the_gradient_by_the_inputs_is_there():
    x = X.clone().requires_grad_()
    grads, _ = grad_fn(NET)(PARAMS, {}, (x, Y), None)
    assert grads["fc1.weight"].requires_grad
    assert torch.autograd.grad(grads["fc1.weight"].square().sum(), x)[0].any()


# --- through an optimizer -----------------------------------------------------------------


def with_root(make, **hypers):
    """The optimizer, with something under its root where it takes that."""
    takes = "eps_root" in inspect.signature(make).parameters
    return make(**hypers, **({"eps_root": 1e-12} if takes else {}))


root = pytest.mark.xfail(
    strict=True,
    raises=AssertionError,
    reason="the slope of the root at 0 is infinite",
)


@pytest.mark.parametrize(
    "name",
    [
        "sgd",
        *(
            pytest.param(name, marks=root)
            for name in ("adam", "adamw", "rmsprop", "adagrad", "nadam", "radam", "lamb")
        ),
        pytest.param("schedule_free_adamw", marks=root),
    ],
)
def test_gradient_through_a_step_is_finite_where_a_unit_is_dead(name):
    dead = PARAMS | {"fc1.bias": torch.cat([torch.tensor([-100.0]), PARAMS["fc1.bias"][1:]])}

    def outer(params):
        optimizer = with_root(optim.OPTIMIZERS[name], lr=1e-2)
        grads, _ = grad_fn(NET)(params, {}, (X, Y), None)
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return F.cross_entropy(NET.apply(apply_updates(params, updates), {}, X)[0], Y)

    grads = torch.func.grad(outer)(dead)
    assert all(leaf.isfinite().all() for leaf in grads.values())


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="NaN")
def test_gradient_through_clipping_is_that_of_the_identity_at_a_zero_gradient():
    clip = with_root(optim.clip_by_global_norm, max_norm=1.0)

    def clipped(g):
        return clip.update({"w": g}, clip.init({"w": g}), {"w": g})[0]["w"].sum()

    assert torch.equal(torch.func.grad(clipped)(torch.zeros(3)), torch.ones(3))


# --- second derivatives -------------------------------------------------------------------


class Last(nn.Module):
    """The last output of a sequence module, and a linear layer."""

    def __init__(self, part):
        super().__init__()
        self.part, self.out = part, nn.Linear(4, 3)

    def forward(self, x):
        z = self.part(x)
        return self.out((z[0] if isinstance(z, tuple) else z)[:, -1])


def lstm():
    return nn.LSTM(4, 4, batch_first=True)


def encoder():
    return nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)


@pytest.mark.parametrize("part", [lstm, encoder])
def test_hessian_times_vector_of_a_sequence_module(part):
    torch.manual_seed(0)
    net = from_module(Last(part()))
    params, buffers = net.init(None)
    f = loss_at(net, buffers, (random.normal(KEY, (6, 5, 4)), Y))
    ahead = {name: p + 1e-2 * p for name, p in params.items()}
    behind = {name: p - 1e-2 * p for name, p in params.items()}
    above, below = torch.func.grad(f)(ahead), torch.func.grad(f)(behind)
    for name, found in hvp(f, params, params).items():
        assert torch.allclose(found, (above[name] - below[name]) / 2e-2, rtol=2e-2, atol=2e-4)


def test_hessian_times_vector_in_another_order_of_the_names():
    f = loss_at(NET, {}, (X, Y))
    backwards, right = dict(reversed(PARAMS.items())), hvp(f, PARAMS, PARAMS)
    found = or_refused(hvp, f, PARAMS, backwards)
    assert found is None or all(torch.allclose(found[name], right[name]) for name in right)
