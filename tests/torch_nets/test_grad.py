"""The gradient by autograd or torch.func, as a step takes it."""

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
from purenets.core.optim.internals import kernels
from purenets.core.vector_dict import VectorDict, vector_of
from purenets.torch_nets import MLP, ensemble, grad_fn, jit, stack_states
from purenets.torch_nets import grad as grad_module
from purenets.torch_nets.fast import backward
from purenets.torch_nets.fast.backward import gradients


def data(n: int):
    x = random.normal(torch.as_tensor(random.key(1)), (n, 3))
    return x, (x.sum(1) > 0).long()


@pytest.mark.parametrize("name", ["adam", "nesterov", "adamw", "rmsprop"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_step_on_vectors_is_that_on_leaves(name, dropout, monkeypatch):
    """Bit for bit, without kernels: all arithmetic is by element."""
    monkeypatch.delitem(kernels.KERNELS, torch.Tensor)
    model, optimizer = MLP(3, [7, 4], 2, dropout=dropout), optim.OPTIMIZERS[name](lr=1e-2)
    grad, step = grad_fn(model), make_step(grad_fn(model), optimizer)
    state = init_state(model, optimizer, random.key(0))
    params, opt_state = tree.map(torch.clone, state.params), tree.map(torch.clone, state.opt_state)
    for i in range(20):
        batch = data(20 + i % 2)
        grads, (_, metrics) = grad(params, {}, batch, random.fold_in(state.key, i))
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = {name: p + updates[name] for name, p in params.items()}
        state, found = step(state, batch)
        assert found == metrics
        assert type(grads) is dict
    assert vector_of(state.params) is not None
    for name, leaf in params.items():
        assert torch.equal(state.params[name], leaf)


def test_a_step_changes_no_argument_and_takes_what_it_is_given():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    step, batch = make_step(grad_fn(model), optimizer), data(8)
    state = init_state(model, optimizer, random.key(0))
    before = tree.map(torch.clone, state._asdict())
    one, metrics = step(state, batch)
    two, _ = step(one, batch)
    again, same = step(state, batch)  # from the first state once more
    for a, b in zip(tree.leaves(before), tree.leaves(state._asdict()), strict=True):
        assert torch.equal(a, b)
    assert same == metrics
    for name in one.params:
        assert torch.equal(one.params[name], again.params[name])
        assert not torch.equal(one.params[name], two.params[name])


def test_another_order_of_the_same_leaves_is_the_same():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    step = make_step(grad_fn(model), optimizer)
    state, _ = step(init_state(model, optimizer, random.key(0)), batch)
    expected, _ = step(state, batch)
    found, _ = step(state._replace(params=dict(sorted(state.params.items()))), batch)
    for name, leaf in expected.params.items():
        assert torch.equal(found.params[name], leaf)


def test_is_compiled_and_vmapped_as_any_step():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    step = make_step(grad_fn(model), optimizer)
    state, _ = step(init_state(model, optimizer, random.key(0)), batch)
    assert type(state.params) is VectorDict
    expected, _ = step(state, batch)
    found, _ = jit(step)(state, batch)
    by_torch, _ = torch.compile(step, fullgraph=True)(state, batch)
    members, _ = ensemble(step, same_batch=True)(stack_states([state, state]), batch)
    for name, leaf in expected.params.items():
        assert torch.allclose(found.params[name], leaf, atol=1e-6)
        assert torch.allclose(by_torch.params[name], leaf, atol=1e-6)
        assert torch.allclose(members.params[name][1], leaf, atol=1e-6)


def test_gradients_go_through_two_steps():
    """Params that autograd looks at are not moved as a vector."""
    model, optimizer, batch = MLP(3, [4], 2), optim.sgd(1e-1, momentum=0.9), data(8)
    step = make_step(grad_fn(model), optimizer)
    state, _ = step(init_state(model, optimizer, random.key(0)), batch)

    def total(params):
        after, _ = step(state._replace(params=params), batch)
        return sum((leaf**2).sum() for leaf in after.params.values())

    expected = torch.func.grad(total)(tree.map(torch.clone, state.params))
    leaves = {
        name: leaf.requires_grad_() for name, leaf in state.params.items()
    }  # those of the state
    found = torch.autograd.grad(total(state.params), list(leaves.values()))
    for ours, theirs in zip(found, expected.values(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_metrics_are_those_that_are_asked_for():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    params, buffers = model.init(random.key(0))
    state = train_state(params, buffers, optimizer, random.key(0))
    assert make_step(grad_fn(model, metrics={}), optimizer)(state, batch)[1].keys() == {"loss"}
    largest = {"largest": lambda logits, targets: logits.abs().max()}
    metrics = torch_nets.metrics_fn(model, metrics=largest)(params, buffers, batch)
    assert metrics.keys() == {"loss", "largest"}
    logits, _ = model.apply(params, buffers, batch[0])
    assert metrics["largest"] == logits.abs().max()


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_training_and_evaluation_are_modes_of_their_own(nets):
    """Dropout of nearly all units, and statistics that are far from those of the batch."""
    dropout = nets.MLP(4, [50], 3, dropout=0.9)
    key = random.key(0) if nets is numpy_nets else torch.as_tensor(random.key(0))
    params, buffers = dropout.init(key)
    x, y = random.normal(key, (6, 4)), random.randint(key, (6,), 0, 3)
    whole = nets.metrics_fn(dropout)(params, buffers, (x, y))["loss"]
    assert whole == nets.metrics_fn(dropout)(params, buffers, (x, y))["loss"]
    losses = {
        float(nets.grad_fn(dropout)(params, buffers, (x, y), random.fold_in(key, i))[1][1]["loss"])
        for i in range(5)
    }
    assert len(losses) == 5 and float(whole) not in losses
    net = nets.CNN(3, 4, width=1 / 16)
    params, buffers = net.init(key)
    images, classes = random.normal(key, (4, 3, 8, 8)), random.randint(key, (4,), 0, 4)
    _, (moved, found) = nets.grad_fn(net)(params, buffers, (images, classes), key)
    evaluated = nets.metrics_fn(net)(params, buffers, (images, classes))
    assert abs(float(found["loss"]) - float(evaluated["loss"])) > 1e-3
    assert float(abs(moved["norm1.running_mean"]).max()) > 0


def test_the_loss_cannot_be_replaced():
    model = MLP(3, [4], 2)
    params, _ = model.init(random.key(0))
    with pytest.raises(UserError, match="choose another name than 'loss'"):
        grad_fn(model, metrics={"loss": lambda logits, targets: 0})(params, {}, data(8), None)


@pytest.mark.parametrize("on_vector", [False, True])
def test_a_leaf_that_is_not_used_has_no_gradient(on_vector):
    model = MLP(3, [4], 2)
    params, _ = model.init(random.key(0))
    unused = model._replace(apply=lambda p, b, x, **_: (x[:, :2] * p["fc2.bias"], b))
    params = init_state(model, optim.sgd(), random.key(0)).params if on_vector else params
    grads, _ = grad_fn(unused)(params, {}, data(8), None)
    assert grads["fc2.bias"].abs().sum() > 0
    assert grads["fc1.weight"].abs().sum() == 0
    nothing = model._replace(apply=lambda p, b, x, **_: (x[:, :2].clone().requires_grad_(), b))
    grads, _ = grad_fn(nothing)(params, {}, data(8), None)
    assert all(g.abs().sum() == 0 and g.shape == params[name].shape for name, g in grads.items())


def test_the_engine_gives_the_gradients_of_torch(monkeypatch):
    a, b, unused = (torch.randn(3, requires_grad=True) for _ in range(3))
    value = (a * b).sum() * a[0]
    expected = torch.autograd.grad(value, (a, b, unused), allow_unused=True, retain_graph=True)
    found = gradients(value, [a, b, unused])
    assert found[2] is expected[2] is None
    assert all(map(torch.equal, found[:2], expected[:2]))
    assert a.grad is None
    with pytest.raises(
        RuntimeError, match="grad can be implicitly created only for scalar outputs"
    ):
        gradients(a * b, [a])
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradients(torch.zeros(()), [a])
    monkeypatch.setattr(backward, "enabled", lambda: False)
    assert all(map(torch.equal, gradients((a * b).sum() * a[0], [a, b]), expected[:2]))


def test_a_tensor_cannot_be_changed_between_the_passes():
    """What autograd saved is checked by the engine too."""
    a = torch.randn(3, requires_grad=True)
    b = torch.randn(3)
    value = (a * b).sum()
    b += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(value, [a])


def test_gradients_of_a_vector_are_a_vector():
    model = MLP(3, [4], 2)
    params = init_state(model, optim.sgd(), random.key(0)).params
    grads, _ = grad_module.grad_fn(model)(params, {}, data(8), None)
    assert vector_of(grads).shape == vector_of(params).shape
    with torch.no_grad():
        again, _ = grad_module.grad_fn(model)(params, {}, data(8), None)
    assert torch.equal(vector_of(grads), vector_of(again))


@pytest.mark.parametrize("leaf", [torch.tensor(3), torch.tensor([True])])
def test_a_param_of_integers_is_named(leaf):
    model, batch = MLP(3, [4], 2), data(8)
    params = model.init(random.key(0))[0] | {"count": leaf}
    grad = grad_fn(model._replace(apply=lambda p, b, x, **given: (x * p["count"], b)))
    kind = str(leaf.dtype).removeprefix("torch.")
    message = rf"params\['count'\]: {kind} has no gradient, needs floats; make it a buffer"
    with pytest.raises(UserError, match=message):
        grad(params, {}, batch, None)
    with pytest.raises(UserError, match=message):
        torch.func.vmap(lambda x: grad(params, {}, (x[None], batch[1][:1]), None))(batch[0])
