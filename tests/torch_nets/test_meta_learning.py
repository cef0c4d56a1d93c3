"""Gradients through k steps of training against central differences in float64: by the first params
(MAML), by learning rates, and by weights of parts of the loss. The functions are those of
docs/meta_learning.md.
"""

import math

import pytest
import torch
from torch.func import grad, vmap

from purenets import apply_updates, make_step, optim, random, train_state, tree
from purenets.torch_nets import MLP, grad_fn, jit
from purenets.torch_nets.analysis.curvature import hvp
from purenets.torch_nets.losses import mse

KEY = torch.as_tensor(random.key(0))
MODEL = MLP(1, [4, 3], 1, activation="tanh")
START = tree.cast(MODEL.init(KEY)[0], "float64")
STEPS = [1, 2, 5]
MAKE = {
    "sgd": lambda rate: optim.sgd(rate),
    "momentum": lambda rate: optim.sgd(rate, momentum=0.9, weight_decay=0.1),
    "adam": lambda rate: optim.adam(rate, eps=1e-3),
    "clipped rmsprop": lambda rate: optim.chain(
        optim.clip_by_global_norm(0.5), optim.rmsprop(rate, eps=1e-2)
    ),
}
by_optimizer = pytest.mark.parametrize("name", MAKE)
by_steps = pytest.mark.parametrize("steps", STEPS)


def sinusoid(key):
    """Return ten points to learn from and ten to be judged by, of a sinusoid that the key draws."""
    a, p, x = random.split(key, 3).unbind(0)
    amplitude = random.uniform(a, (), "float64", low=0.1, high=5.0)
    phase = random.uniform(p, (), "float64", high=math.pi)
    x = random.uniform(x, (20, 1), "float64", low=-5.0, high=5.0)
    y = amplitude * torch.sin(x + phase)
    return (x[:10], y[:10]), (x[10:], y[10:])


TRAIN, TEST = sinusoid(KEY)


def loss(params, batch):
    return mse(MODEL.apply(params, {}, batch[0])[0], batch[1])


def adapted(optimizer, params, steps: int, inner=lambda params: loss(params, TRAIN)):
    opt_state = optimizer.init(params)
    for _ in range(steps):
        updates, opt_state = optimizer.update(grad(inner)(params), opt_state, params)
        params = apply_updates(params, updates)
    return params


def assert_is_slope(f, at, h: float = 1e-6, rel: float = 1e-6):
    """Compare the gradient of f, along one direction of all leaves, with central differences."""
    leaves = at if isinstance(at, dict) else {"": at}
    unwrap = (lambda d: d) if isinstance(at, dict) else (lambda d: d[""])
    slope = grad(lambda d: f(unwrap(d)))(leaves)
    for i in range(3):
        along = {
            name: random.normal(random.fold_in(random.fold_in(KEY, i), j), p.shape, "float64")
            for j, (name, p) in enumerate(leaves.items())
        }
        moved = lambda t, along=along: unwrap(tree.map(lambda leaf, d: leaf + t * d, leaves, along))
        difference = (f(moved(h)) - f(moved(-h))) / (2 * h)
        found = sum((slope[name] * along[name]).sum() for name in leaves)
        assert abs(difference) > 1e-6, "nothing is compared"
        assert float(found) == pytest.approx(float(difference), rel=rel, abs=1e-8)


# --- MAML -----------------------------------------------------------------------------------------


@by_steps
@by_optimizer
def test_gradient_by_the_first_params_agrees_with_differences(name, steps):
    assert_is_slope(lambda p: loss(adapted(MAKE[name](0.05), p, steps), TEST), START)


@by_steps
def test_gradient_of_a_batch_of_tasks_under_vmap_is_the_mean_of_single_ones(steps):
    def task_loss(params, key):
        train, test = sinusoid(key)
        inner = lambda p: loss(p, train)
        return loss(adapted(optim.sgd(0.01), params, steps, inner), test)

    keys = random.split(KEY, 4)
    together = lambda params: vmap(lambda key: task_loss(params, key))(keys).mean()
    assert_is_slope(together, START)
    each = [grad(task_loss)(START, key) for key in keys]
    found = grad(together)(START)
    for name in START:
        mean = sum(g[name] for g in each) / 4
        assert torch.allclose(found[name], mean, rtol=1e-10, atol=1e-13)


def test_gradient_of_one_step_of_maml_is_the_formula():
    """(I - rate H) g(p - rate g(p)): the second way is written out."""
    rate, inner = 0.05, lambda p: loss(p, TRAIN)
    found = grad(lambda p: loss(adapted(optim.sgd(rate), p, 1), TEST))(START)
    outer = grad(lambda p: loss(p, TEST))(adapted(optim.sgd(rate), START, 1))
    bent = hvp(inner, START, outer)
    for name in START:
        assert torch.allclose(found[name], outer[name] - rate * bent[name], rtol=1e-10, atol=1e-13)
        assert not torch.allclose(found[name], outer[name], rtol=1e-3, atol=1e-6)  # of first order


def test_training_of_the_first_params_helps_on_tasks_that_were_not_seen():
    def meta_loss(params, keys):
        def task_loss(key):
            train, test = sinusoid(key)
            inner = lambda p: loss(p, train)
            return loss(adapted(optim.sgd(0.02), params, 1, inner), test)

        return vmap(task_loss)(keys).mean()

    def meta_grad_fn(params, buffers, keys, key):
        grads, value = torch.func.grad_and_value(meta_loss)(params, keys)
        return grads, (buffers, {"loss": value})

    optimizer = optim.adam(1e-2)
    step, state = make_step(meta_grad_fn, optimizer), train_state(START, {}, optimizer, KEY)
    for i in range(60):
        state, _ = step(state, random.split(random.fold_in(KEY, i), 16))
    unseen = random.split(torch.as_tensor(random.key(9)), 200)
    assert meta_loss(state.params, unseen) < 0.9 * meta_loss(START, unseen)


def test_step_of_maml_under_jit_is_the_eager_one(traced_only):
    f = grad(lambda p: loss(adapted(optim.sgd(0.05), p, 2), TEST))
    found, right = jit(f)(START), f(START)
    assert all(torch.allclose(found[n], right[n], rtol=1e-9, atol=1e-12) for n in START)


# --- a learned learning rate ----------------------------------------------------------------------


@by_steps
@by_optimizer
def test_gradient_by_the_rate_agrees_with_differences(name, steps):
    after = lambda log_rate: loss(adapted(MAKE[name](log_rate.exp()), START, steps), TEST)
    assert_is_slope(after, torch.tensor(math.log(0.05), dtype=torch.float64))


@by_optimizer
def test_gradient_by_a_rate_for_each_step_agrees_with_differences(name):
    def after(log_rates):
        schedule = lambda count: log_rates.exp()[count.long()]
        return loss(adapted(MAKE[name](schedule), START, 4), TEST)

    assert_is_slope(after, torch.linspace(-4, -2, 4, dtype=torch.float64))


@by_steps
def test_gradient_by_a_rate_for_each_leaf_agrees_with_differences(steps):
    """Meta-SGD: rates and first params in one dict."""

    def after(leaves):
        rates, params = tree.select(leaves, "rate."), tree.select(leaves, "start.")
        for _ in range(steps):
            g = grad(lambda p: loss(p, TRAIN))(params)
            params = tree.map(lambda p, r, g: p - r * g, params, rates, g)
        return loss(params, TEST)

    rates = tree.map(lambda p: torch.full_like(p, 0.02), START)
    assert_is_slope(after, tree.prefixed(rates, "rate.") | tree.prefixed(START, "start."))


@by_steps
def test_rate_that_make_step_trains_with_has_the_gradient_of_autograd(steps):
    """The same through `make_step` and `grad_fn`, by torch.autograd.grad."""

    def after(rate):
        optimizer = optim.sgd(rate, momentum=0.9)
        step = make_step(grad_fn(MODEL, mse), optimizer)
        state = train_state(START, {}, optimizer, KEY)
        for _ in range(steps):
            state, _ = step(state, TRAIN)
        return loss(state.params, TEST)

    rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(after(rate), rate)
    above, below = (float(after(rate.detach() + d)) for d in (1e-5, -1e-5))
    assert float(found) == pytest.approx((above - below) / 2e-5, rel=1e-6)


# --- a learned weight of a loss -------------------------------------------------------------------


@by_steps
@by_optimizer
def test_gradient_by_the_weight_of_a_part_agrees_with_differences(name, steps):
    def after(log_weight):
        decay = lambda params: sum(p.square().sum() for p in params.values())
        inner = lambda params: loss(params, TRAIN) + log_weight.exp() * decay(params)
        return loss(adapted(MAKE[name](0.05), START, steps, inner), TEST)

    assert_is_slope(after, torch.tensor(-2.0, dtype=torch.float64))


@by_steps
def test_gradient_by_the_weights_of_examples_agrees_with_differences(steps):
    def after(weights):
        def inner(params):
            return (weights * (MODEL.apply(params, {}, TRAIN[0])[0] - TRAIN[1])[:, 0] ** 2).sum()

        return loss(adapted(optim.sgd(0.05), START, steps, inner), TEST)

    assert_is_slope(after, torch.full((10,), 0.1, dtype=torch.float64))
