"""Gradients that are differentiated again, and what they hold on to."""

import pytest
import torch
import torch.nn.functional as F

from purenets import make_step, optim, random, train_state
from purenets.torch_nets import MLP, from_module, grad_fn

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


def test_gradient_by_the_inputs_of_a_module_agrees_with_ours():
    net = from_module(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    )
    params, _ = net.init(None)
    x = X.clone().requires_grad_()
    grads, _ = grad_fn(net)(params, {}, (x, Y), None)
    by_autograd = torch.autograd.grad(grads["0.weight"].square().sum(), x)[0]
    by_func = torch.func.grad(
        lambda x: grad_fn(net)(params, {}, (x, Y), None)[0]["0.weight"].square().sum()
    )
    assert torch.allclose(by_autograd, by_func(X), atol=1e-6)


def test_gradient_by_a_parameter_of_the_loss_and_by_buffers():
    temperature = torch.nn.Parameter(torch.tensor(1.5))
    loss = lambda logits, y: F.cross_entropy(logits * temperature, y)
    grads, _ = grad_fn(NET, loss)(PARAMS, {}, (X, Y), None)
    assert torch.autograd.grad(grads["fc1.weight"].square().sum(), temperature)[0] != 0
    scaled = NET._replace(apply=lambda p, b, x, **_: (NET.apply(p, {}, x)[0] * b["scale"], b))
    buffers = {"scale": torch.tensor(1.5, requires_grad=True)}
    again, (new, _) = grad_fn(scaled)(PARAMS, buffers, (X, Y), None)
    assert torch.equal(again["fc1.weight"], grads["fc1.weight"])
    assert torch.autograd.grad(again["fc1.weight"].square().sum(), buffers["scale"])[0] != 0
    assert new["scale"].requires_grad


def test_gradient_by_the_first_params_of_a_training_agrees_with_differences():
    def after(scale):
        params = {name: p * scale for name, p in PARAMS.items()}
        step = make_step(grad_fn(NET), optim.sgd(0.5))
        state = train_state(params, {}, optim.sgd(0.5), KEY)
        for _ in range(2):
            state, _ = step(state, (X, Y))
        return F.cross_entropy(NET.apply(state.params, {}, X)[0], Y)

    gradient, difference = gradient_and_difference(after, 1.5)
    assert gradient == difference
    leaves = {name: p.clone().requires_grad_() for name, p in PARAMS.items()}
    state, _ = make_step(grad_fn(NET), optim.sgd(0.5))(
        train_state(leaves, {}, optim.sgd(0.5), KEY), (X, Y)
    )
    assert all(
        g.any()
        for g in torch.autograd.grad(state.params["fc1.weight"].sum(), [*leaves.values()][:1])
    )


def test_nothing_is_held_where_nothing_else_requires_grad():
    grads, (_, metrics) = grad_fn(NET)(PARAMS, {}, (X, Y), None)
    assert not any(g.requires_grad for g in grads.values())
    assert not metrics["loss"].requires_grad
    with torch.no_grad():
        grads, _ = grad_fn(NET)(PARAMS, {}, (X.clone().requires_grad_(), Y), None)
    assert not any(g.requires_grad for g in grads.values())


@pytest.mark.parametrize("under", [torch.enable_grad, torch.no_grad])
def test_parameters_of_a_module_count_as_values(under):
    leaves = {name: torch.nn.Parameter(p.clone()) for name, p in PARAMS.items()}
    with under():
        grads, _ = grad_fn(NET)(leaves, {}, (X, Y), None)
        state = train_state(leaves, {}, optim.adam(0.1), KEY)
        state, _ = make_step(grad_fn(NET), optim.adam(0.1))(state, (X, Y))
    right, _ = grad_fn(NET)(PARAMS, {}, (X, Y), None)
    assert all(torch.equal(grads[name], right[name]) for name in right)
    assert not any(leaf.requires_grad for leaf in (*grads.values(), *state.params.values()))
