"""An optimizer that asks for the loss gets it, through every wrapper; one that does not pays
nothing.
"""

import numpy as np
import pytest
import torch

from purenets import (
    UserError,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    torch_nets,
    train_state,
    tree,
)
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


LOSS_AWARE = {
    "polyak": lambda: optim.polyak(1.0),
    "momo": optim.momo,
    "momo_adam": optim.momo_adam,
    "reduce_on_plateau": lambda: optim.chain(optim.sgd(0.1), optim.reduce_on_plateau(patience=0)),
    "accumulate": lambda: optim.accumulate(optim.polyak(1.0), 2),
    "backtracking": optim.backtracking,
    "strong_wolfe": optim.strong_wolfe,
    "lbfgs": optim.lbfgs,
}
LIBRARIES = {"numpy": np.asarray, "torch": torch.tensor}
LOSSES = {
    "unreduced": (np.array([1.0, 4.0]), r"value has the shape \(2,\), needs a scalar"),
    "none of a batch": (np.zeros(0), r"value has the shape \(0,\), needs a scalar"),
    "complex": (np.array(1.0 + 1j), r"value is complex128 of shape \(\), needs a real number"),
    "a text": ("low", "value is 'low', needs a number"),
    "a list": ([1.0, 4.0], r"value is \[1.0, 4.0\], needs a number"),
}


def step_with_loss(optimizer, params: dict, loss):
    """Take a step at a loss that the gradient does not belong to."""
    state = train_state(params, {}, optimizer, random.key(0))
    return make_step(lambda p, b, x, key: (p, (b, {"loss": loss})), optimizer)(state, None)[0]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("what", LOSSES)
@pytest.mark.parametrize("name", LOSS_AWARE)
def test_loss_that_is_no_real_number_is_told(name, what, library):
    convert = LIBRARIES[library]
    loss, message = LOSSES[what]
    loss = convert(loss) if isinstance(loss, np.ndarray) else loss
    with pytest.raises(UserError, match=message):
        step_with_loss(LOSS_AWARE[name](), {"w": convert([1.0, 2.0])}, loss)


@pytest.mark.parametrize("metrics", [{}, {"accuracy": 1.0}, {"loss": None}])
@pytest.mark.parametrize("name", LOSS_AWARE)
def test_missing_loss_is_told(name, metrics):
    optimizer = LOSS_AWARE[name]()
    state = train_state({"w": np.ones(2)}, {}, optimizer, random.key(0))
    with pytest.raises(UserError, match="make_step: the optimizer needs the loss"):
        make_step(lambda p, b, x, key: (p, (b, metrics)), optimizer)(state, None)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", LOSS_AWARE)
def test_loss_of_any_library_and_dtype_is_one_number(name, library):
    convert = LIBRARIES[library]
    params = {"w": convert(np.float32([1.0, 2.0]))}
    same = [
        2.5,
        np.float64(2.5),
        np.float16([2.5]),
        torch.tensor(2.5),
        torch.tensor([[2.5]]).half(),
    ]
    found = [step_with_loss(LOSS_AWARE[name](), params, loss) for loss in same]
    for state in found:
        assert np.array_equal(state.params["w"], found[0].params["w"])
        leaves = tree.flatten(state.opt_state)
        assert all(torch.is_tensor(leaf) == (library == "torch") for leaf in leaves.values())
        for leaf, first in zip(leaves.values(), tree.leaves(found[0].opt_state), strict=True):
            assert leaf.dtype == first.dtype
            assert leaf.shape == first.shape
