"""The gradient by hand, as a step takes it."""

import numpy as np
import pytest

from purenets import (
    UserError,
    evaluate,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    scan,
    tree,
)
from purenets.numpy_nets import MLP, grad_fn, losses, metrics_fn
from purenets.numpy_nets.grad import model_from_module
from purenets.numpy_nets.image_modules import Conv, GlobalAvgPool
from purenets.numpy_nets.modules import Dropout, Linear, ReLU, Tanh, params_backward, serial


def data(n: int, dtype="float32"):
    x = random.normal(random.key(1), (n, 3), dtype=dtype)
    return x, (x.sum(axis=1) > 0).astype(np.int64)


def test_a_step_changes_no_argument_and_keeps_nothing_that_it_returned():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    step, batch = make_step(grad_fn(model), optimizer), data(8)
    state = init_state(model, optimizer, random.key(0))
    before = tree.map(np.copy, state._asdict())
    copies = tuple(part.copy() for part in batch)
    one, metrics = step(state, batch)
    two, _ = step(one, batch)
    again, same = step(state, batch)  # from the first state once more
    assert all(np.array_equal(a, b) for a, b in zip(batch, copies, strict=True))
    for a, b in zip(tree.leaves(before), tree.leaves(state._asdict()), strict=True):
        assert np.array_equal(a, b)
    assert same == metrics
    for name in one.params:
        assert np.array_equal(one.params[name], again.params[name])
        assert not np.array_equal(one.params[name], two.params[name])


def test_wrong_params_and_inputs_are_named():
    model, optimizer = MLP(3, [4], 2), optim.adam()
    step, state = make_step(grad_fn(model), optimizer), init_state(model, optimizer, random.key(0))
    params = {name: leaf for name, leaf in state.params.items() if name != "fc1.bias"}
    with pytest.raises(UserError, match=r"fc1\.bias: missing in params"):
        step(state._replace(params=params), data(4))
    with pytest.raises(UserError, match=r"fc1\.bias: shape"):
        step(state._replace(params=state.params | {"fc1.bias": np.ones((4, 1))}), data(4))
    with pytest.raises(UserError, match=r"input: shape is \(4, 2\), expected \(batch, 3\)"):
        step(state, (np.ones((4, 2), np.float32), np.zeros(4, np.int64)))


def test_a_scan_of_steps_is_the_steps():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    step = make_step(grad_fn(model), optimizer)
    first = init_state(model, optimizer, random.key(0))
    xs, ys = (np.stack(parts) for parts in zip(*[data(6) for _ in range(3)], strict=True))
    state, metrics = scan(step, first, (xs, ys))
    other = first
    for i in range(3):
        other, row = step(other, (xs[i], ys[i]))
        assert metrics["loss"][i] == row["loss"]
    assert all(np.array_equal(state.params[name], leaf) for name, leaf in other.params.items())
    assert state.step == 3


NETS = {
    "linear first": serial(fc1=Linear(3, 4), relu1=ReLU(), fc2=Linear(4, 2)),
    "activation first": serial(relu1=ReLU(), fc1=Linear(3, 4), tanh1=Tanh(), fc2=Linear(4, 2)),
    "serial first": serial(a=serial(fc1=Linear(3, 4), tanh1=Tanh()), b=Linear(4, 2)),
    "dropout first": serial(drop=Dropout(0.5), fc1=Linear(3, 2)),
    "one layer": serial(fc1=Linear(3, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_the_backward_pass_without_the_inputs_gradient_is_the_same(name):
    module, (x, _) = NETS[name], data(5)
    params, buffers = module.init(random.key(0))
    out, _, cache = module.forward(params, buffers, x, train=True, key=random.key(2))
    _, expected = module.backward(np.ones_like(out), cache)
    found = params_backward(module)(np.ones_like(out), cache)
    assert list(found) == list(expected) == list(params)
    assert all(np.array_equal(found[leaf], expected[leaf]) for leaf in expected)


def test_so_is_that_of_a_convolution():
    net = serial(conv1=Conv(3, 4, padding=1), relu1=ReLU(), pool=GlobalAvgPool(), fc=Linear(4, 2))
    params, buffers = net.init(random.key(0))
    x = random.normal(random.key(1), (2, 3, 5, 5))
    out, _, cache = net.forward(params, buffers, x)
    _, expected = net.backward(out, cache)
    found = params_backward(net)(out, cache)
    assert all(np.array_equal(found[leaf], expected[leaf]) for leaf in expected)


def test_a_module_of_ones_own_needs_no_second_backward_pass():
    double = Linear(3, 2)._replace(backward_params=None)
    model = model_from_module(serial(fc=double))
    params, _ = model.init(random.key(0))
    found, _ = grad_fn(model)(params, {}, data(5), None)
    expected, _ = grad_fn(model_from_module(serial(fc=Linear(3, 2))))(params, {}, data(5), None)
    assert all(np.array_equal(found[leaf], expected[leaf]) for leaf in expected)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_key_is_derived_for_a_net_that_draws(dropout):
    seen = []
    model = MLP(3, [4], 2, dropout=dropout)

    def forward(params, buffers, x, *, train=False, key=None):
        seen.append(key)
        return model.forward(params, buffers, x, train=train, key=key)

    grad, optimizer = grad_fn(model._replace(forward=forward)), optim.sgd(0.1)
    state = init_state(model, optimizer, random.key(0))
    make_step(grad, optimizer)(state, data(4))
    wrapped = lambda *arguments: grad(*arguments)
    make_step(wrapped, optimizer)(state, data(4))  # nothing is known of what wraps a gradient
    assert (seen[0] is not None) == (dropout > 0)
    assert np.array_equal(seen[1], random.fold_in(state.key, 0))


def test_the_package_exports_one_way_to_write_a_step():
    assert not {"fast_step", "vector_step", "flat"} & {*dir(numpy_nets), *dir(optim)}


@pytest.mark.parametrize("labels", ["classes", "soft"])
def test_logits_that_are_nan_are_never_right(labels):
    model = MLP(2, [3], 2)
    params, _ = model.init(random.key(0))
    x = np.asarray(random.normal(random.key(1), (8, 2)))
    classes = model.apply(params, {}, x)[0].argmax(1)
    targets = classes if labels == "classes" else np.eye(2, dtype=np.float32)[classes]
    for gone in (slice(0, 8), slice(0, 3)):
        wrong = x.copy()
        wrong[gone] = np.nan
        expected = np.isfinite(wrong).all(1).mean()
        with np.errstate(invalid="ignore"):
            _, (_, found) = grad_fn(model)(params, {}, (wrong, targets), None)
            evaluated = metrics_fn(model)(params, {}, (wrong, targets))
        assert found["accuracy"] == evaluated["accuracy"] == expected


def test_a_loss_that_is_no_mean_is_evaluated_as_a_whole():
    def forward(outputs, targets):
        rest = outputs - targets
        return (rest * rest).sum(), rest

    forward.mean_over_examples = False
    loss = losses.Loss(forward, lambda dout, rest: 2 * dout * rest)
    model, sgd = MLP(2, [], 1), optim.sgd(0.1)
    state = init_state(model, sgd, random.key(0))
    batch = np.ones((10, 2), np.float32), np.arange(10, dtype=np.float32)[:, None]
    whole = evaluate(metrics_fn(model, loss), state, batch)
    assert whole["loss"] == evaluate(metrics_fn(model, loss), state, batch, 10)["loss"] > 200
    with pytest.raises(UserError, match="loss on 10 examples is not the mean of its values"):
        evaluate(metrics_fn(model, loss), state, batch, 5)
