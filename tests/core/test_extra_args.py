"""An optimizer that asks for the loss gets it, through every wrapper; one that does not pays
nothing.
"""

import numpy as np
import pytest
import torch

from purenets import UserError, init_state, make_step, numpy_nets, optim, random, torch_nets
from purenets.core.base import Optimizer
from purenets.core.optim.internals.extra_args import takes_extra_args

DESCENT = optim.scale_by_learning_rate(0.1)
WRAPPERS = {
    "chain": lambda inner: optim.chain(optim.clip_by_global_norm(9.0), inner),
    "partition": lambda inner: optim.partition({"all": inner}, lambda name, leaf: "all"),
    "masked": lambda inner: optim.chain(optim.masked(inner, optim.named("fc1.*")), DESCENT),
    "accumulate": lambda inner: optim.accumulate(inner, 1),
    "apply_if_finite": optim.apply_if_finite,
    "lookahead": optim.lookahead,
    "normalize_weights": optim.normalize_weights,
    "inject_hyperparams": lambda inner: optim.inject_hyperparams(lambda lr: inner, lr=0.1),
    "schedule_free": lambda inner: optim.schedule_free(inner, 0.1),
    "beta_lasso": lambda inner: optim.beta_lasso(inner, 1e-3),
}
BACKENDS = {"numpy": (numpy_nets, np.asarray), "torch": (torch_nets, torch.as_tensor)}


def recorder(seen: list) -> Optimizer:
    """Return an optimizer that keeps the loss, and the loss and gradient at params moved by 0.1."""

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        moved = {name: p + 0.1 for name, p in params.items()}
        seen.append((value, value_and_grad_fn(params), value_and_grad_fn(moved), grads))
        return {name: 0 * g for name, g in grads.items()}, state

    return Optimizer(lambda params: {}, update)


def setting(backend: str):
    nets, convert = BACKENDS[backend]
    model = nets.MLP(2, [5], 3, dropout=0.5)  # a key matters to its loss
    x = convert(random.normal(random.key(1), (8, 2)))
    y = convert(random.randint(random.key(2), (8,), 0, 3))
    return nets, model, convert(random.key(0)), (x, y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_the_loss_reaches_the_optimizer_through(wrapper, backend):
    nets, model, key, batch = setting(backend)
    seen: list = []
    optimizer = WRAPPERS[wrapper](recorder(seen))
    state = init_state(model, optimizer, key)
    _, metrics = make_step(nets.grad_fn(model), optimizer)(state, batch)
    value, (same, grads_again), (moved, _), grads = seen[-1]
    assert float(value) == float(metrics["loss"]) == float(same) != float(moved)
    if wrapper != "beta_lasso":  # which adds its own pull to the gradient
        assert all(np.allclose(grads_again[name], grads[name], atol=1e-7) for name in grads)
    assert grads_again.keys() == grads.keys()


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_without_need_nothing_is_passed(wrapper):
    plain = Optimizer(lambda params: {}, lambda grads, state, params: (grads, state))
    assert not takes_extra_args(WRAPPERS[wrapper](plain).update)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_no_optimizer_of_the_catalogue_asks_for_what_it_does_not_use(name):
    """One that takes the loss fails without it, and no other takes it."""
    optimizer = optim.OPTIMIZERS[name]()
    params = {"w": np.ones((2, 2)), "b": np.ones(2)}

    def update():
        return optimizer.update(params, optimizer.init(params), params)

    if takes_extra_args(optimizer.update):
        with pytest.raises(UserError, match=f"{name}: update needs value"):
            update()
    else:
        update()


def test_a_plain_transform_stands_beside_one_that_asks():
    nets, model, key, batch = setting("torch")
    seen: list = []
    optimizer = optim.chain(optim.trace(0.9), recorder(seen), optim.scale_by_learning_rate(0.1))
    state = init_state(model, optimizer, key)
    seen.clear()  # of the trial
    make_step(nets.grad_fn(model), optimizer)(state, batch)
    assert len(seen) == 1
