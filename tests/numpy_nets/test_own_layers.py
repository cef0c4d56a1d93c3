"""Layers and losses that users write: one line names the one that is wrong, the data stay."""

import numpy as np
import pytest

from purenets import UserError, evaluate, init_state, make_step, optim, random
from purenets.core.gradcheck import check_gradient
from purenets.core.tree import cast
from purenets.numpy_nets import VanillaRNN, grad_fn, image_modules, losses, metrics_fn, modules
from purenets.numpy_nets.grad import model_from_module
from purenets.numpy_nets.own_layers import checked

PARAMS = {"s": np.array([2.0, 0.5], np.float32), "b": np.ones(2, np.float32)}
BATCH = random.normal(random.key(0), (8, 2)), np.arange(8) % 3


def affine(forward=None, backward=None, params=PARAMS, buffers=None):
    """Return the layer y = s x + b with another pass."""

    def right_forward(params, buffers, x, *, train=False, key=None):
        return params["s"] * x + params["b"], buffers, (params["s"], x)

    def right_backward(dout, cache):
        return cache[0] * dout, {"s": (dout * cache[1]).sum(0), "b": dout.sum(0)}

    init = lambda key: (params, buffers or {})
    forward, backward = forward or right_forward, backward or right_backward
    return modules.Module(init, forward, backward, uses_key=False, kind="Affine")


def first(layer):
    return model_from_module(modules.serial(own=layer, fc=modules.Linear(2, 3)))


def hidden(layer):
    """The layer before keeps its output: who writes into it makes its gradient wrong."""
    before = {"fc0": modules.Linear(2, 2), "tanh": modules.Tanh()}
    return model_from_module(modules.serial(**before, own=layer, fc=modules.Linear(2, 3)))


def step_of(model, loss=losses.cross_entropy):
    optimizer = optim.sgd(0.1)
    state = init_state(model, optimizer, random.key(1))
    return make_step(grad_fn(model, loss), optimizer), state


def passed(f):
    def forward(params, buffers, x, *, train=False, key=None):
        f(params, buffers, x)
        return x, buffers, None

    return forward


WRITES = {
    "x *=": lambda p, b, x: x.__imul__(0.5),
    "x[...] =": lambda p, b, x: x.__setitem__(x < 0, 0),
    "out=": lambda p, b, x: np.maximum(x, 0, out=x),
    "sort": lambda p, b, x: x.sort(axis=0),
    "a view": lambda p, b, x: x.reshape(-1).__iadd__(1),
    "params": lambda p, b, x: p["s"].__iadd__(1),
    "buffers": lambda p, b, x: b["mean"].__imul__(0.9),
}


@pytest.mark.parametrize("place", [first, hidden])
def test_a_backward_pass_that_writes_into_dout_is_named(place):
    def backward(dout, cache):
        dout *= cache[0]
        return dout, {"s": (dout * cache[1]).sum(0), "b": dout.sum(0)}

    step, state = step_of(place(affine(backward=backward)))
    with pytest.raises(UserError, match=r"^own.backward: writes into one of its arguments in"):
        step(state, BATCH)


@pytest.mark.parametrize("place", [first, hidden])
@pytest.mark.parametrize("write", WRITES)
def test_a_layer_that_writes_in_place_is_named_and_changes_nothing(place, write):
    model = place(affine(passed(WRITES[write]), buffers={"mean": np.ones(2, np.float32)}))
    step, state = step_of(model)
    x = BATCH[0].copy()
    for use in (
        lambda: step(state, (x, BATCH[1])),
        lambda: evaluate(metrics_fn(model), state, (x, BATCH[1])),
        lambda: model.apply(state.params, state.buffers, x),
    ):
        with pytest.raises(UserError, match=r"^own.forward: writes into one of its arguments in"):
            use()
    np.testing.assert_array_equal(x, BATCH[0])
    assert state.buffers["own.mean"].tolist() == [1, 1]
    assert x.flags.writeable
    assert all(leaf.flags.writeable for leaf in (state.params | state.buffers).values())


@pytest.mark.parametrize("place", [first, hidden])
def test_a_right_layer_computes_what_it_did(place):
    model = place(affine())
    params = cast(model.init(random.key(1))[0], "float64")
    batch = BATCH[0].astype("float64"), BATCH[1]
    grads, _ = grad_fn(model)(params, {}, batch, None)
    loss = lambda params: grad_fn(model)(params, {}, batch, None)[1][1]["loss"]
    assert check_gradient(loss, params, grads, random.key(2)) < 1e-8


def test_buffers_and_inputs_that_pass_through_are_the_arrays_themselves():
    mean = np.ones(2, np.float32)
    layer = checked(affine(passed(lambda *_: None), buffers={"mean": mean}))
    y, buffers, _ = layer.forward(PARAMS, {"mean": mean}, BATCH[0])
    assert y is BATCH[0]
    assert buffers["mean"] is mean
    assert checked(modules.Linear(2, 3)).forward.__module__.startswith("purenets.")


def grads_of(dout, cache):
    return {"s": (dout * cache[1]).sum(0), "b": dout.sum(0)}


BACKWARDS = {
    "swapped": (lambda d, c: (grads_of(d, c), c[0] * d), r"returned \(dict, ndarray\), needs \(dx"),
    "dx alone": (lambda d, c: c[0] * d, r"returned a ndarray, needs \(dx, grads\)"),
    "nothing": (lambda d, c: None, r"returned a NoneType, needs \(dx, grads\)"),
    "three": (lambda d, c: (d, {}, None), r"returned 3 values, needs \(dx, grads\)"),
    "other names": (lambda d, c: (d, {"s": d.sum(0), "B": d.sum(0)}), "missing b; unknown B"),
    "not summed": (
        lambda d, c: (d, {"s": d * c[1], "b": d.sum(0)}),
        r"grads: s has shape \(8, 2\), its param \(2,\)",
    ),
    "no arrays": (lambda d, c: (d, {"s": None, "b": d.sum(0)}), "s is a NoneType, needs an array"),
    "broadcast": (lambda d, c: (d * np.ones(7), {}), r"\(7,\); dout has shape \(8, 2\)"),
}
DX = {
    "summed": (lambda d, c: ((c[0] * d).sum(0), grads_of(d, c)), r"dx has shape \(2,\), the input"),
    "a column": (lambda d, c: ((c[0] * d)[:, :1], grads_of(d, c)), r"dx has shape \(8, 1\)"),
    "missing": (lambda d, c: (None, grads_of(d, c)), r"dx is a NoneType, needs an array of shape"),
}


@pytest.mark.parametrize("wrong", BACKWARDS | DX)
def test_a_wrong_backward_pass_names_its_layer(wrong):
    backward, text = (BACKWARDS | DX)[wrong]
    for place in (first, hidden) if wrong in BACKWARDS else (hidden,):
        step, state = step_of(place(affine(backward=backward)))
        with pytest.raises(UserError, match=rf"^own.backward: .*{text}"):
            step(state, BATCH)


@pytest.mark.parametrize("wrong", DX)
def test_nobody_needs_the_dx_of_a_first_layer(wrong):
    step, state = step_of(first(affine(backward=DX[wrong][0])))
    right, _ = step_of(first(affine()))
    for name, leaf in right(state, BATCH)[0].params.items():
        np.testing.assert_array_equal(step(state, BATCH)[0].params[name], leaf)


def test_a_layer_of_another_width_is_named():
    wide = {name: np.ones(5, np.float32) for name in PARAMS}
    step, state = step_of(hidden(affine(params=wide)))
    with pytest.raises(UserError, match=r"^own.forward: .*\(5,\) \(8,2\).*input has shape \(8, 2"):
        step(state, BATCH)


def test_a_layer_alone_is_checked_too():
    model = model_from_module(affine(backward=BACKWARDS["not summed"][0]))
    step, state = step_of(model)
    with pytest.raises(UserError, match=r"^backward: grads: s has shape"):
        step(state, (BATCH[0], BATCH[1] % 2))
    pair = model_from_module(affine(lambda p, b, x, *, train=False, key=None: (x, b)))
    with pytest.raises(UserError, match=r"^forward: returned a tuple of 2, needs"):
        pair.apply(PARAMS, {}, BATCH[0])


def squares(forward=None, backward=None):
    right = lambda outputs, targets: (np.square(outputs).mean(), outputs)
    slope = lambda dout, outputs: dout * 2 * outputs / outputs.size
    return losses.Loss(forward or right, backward or slope)


def test_a_loss_of_ones_own_is_checked():
    model = model_from_module(modules.serial(fc=modules.Linear(2, 3)))
    x, y = BATCH[0], np.ones((8, 3), np.float32)
    step, state = step_of(model, squares())
    new, metrics = step(state, (x, y))
    assert step(new, (x, y))[1]["loss"] < metrics["loss"]
    wrong = {
        "loss: writes into one of its arguments": squares(lambda o, t: (t.__isub__(o).sum(), o)),
        "loss: forward returned a float32, needs": squares(lambda o, t: o.sum()),
        r"loss: has shape \(8,\), needs a scalar": squares(lambda o, t: (o.sum(1), o)),
        r"loss: backward returned shape \(8,\)": squares(backward=lambda d, o: o.sum(1)),
        r"outputs \(8, 3\), targets \(8, 2\)": squares(lambda o, t: ((o - t[:, :2]).sum(), o)),
    }
    for text, loss in wrong.items():
        targets = y[:, :2] if "targets" in text else y
        with pytest.raises(UserError, match=text):
            step_of(model, loss)[0](state, (x, targets))
    assert (y == 1).all()


@pytest.mark.parametrize("dtype", [str, object, "M8[s]"])
def test_text_is_no_input_and_no_target(dtype):
    step, state = step_of(first(affine()))
    x, y = (part.astype("int64").astype(dtype) for part in BATCH)
    with pytest.raises(UserError, match=r"batch: the inputs are .*, needs numbers"):
        step(state, (x, BATCH[1]))
    with pytest.raises(UserError, match=r"batch: the targets are .*, needs numbers"):
        step(state, (BATCH[0], y))
    with pytest.raises(UserError, match=r"input: dtype is .*, needs numbers"):
        first(affine()).apply(state.params, {}, x)


def frozen(leaves):
    """Return read-only copies."""
    copies = {name: leaf.copy() for name, leaf in leaves.items()}
    for leaf in copies.values():
        leaf.setflags(write=False)
    return copies


PACKAGE = {
    "Linear": (modules.Linear(4, 3), (5, 4)),
    "ReLU": (modules.ReLU(), (5, 4)),
    "Tanh": (modules.Tanh(), (5, 4)),
    "SiLU": (modules.SiLU(), (5, 4)),
    "SoftMax": (modules.SoftMax(), (5, 4)),
    "Dropout": (modules.Dropout(0.5), (5, 4)),
    "Conv": (image_modules.Conv(2, 3, size=3, padding=1), (5, 2, 6, 6)),
    "BatchNorm": (image_modules.BatchNorm(2), (5, 2, 6, 6)),
    "MaxPool": (image_modules.MaxPool(2, stride=2), (5, 2, 6, 6)),
    "GlobalAvgPool": (image_modules.GlobalAvgPool(), (5, 2, 6, 6)),
}


@pytest.mark.parametrize("name", PACKAGE)
def test_layers_of_the_package_are_as_the_check_of_own_ones_wants_them(name):
    """So that they need no check: read-only arguments, and gradients in the shapes of all."""
    module, shape = PACKAGE[name]
    params, buffers = map(frozen, module.init(random.key(0)))
    x = frozen({"x": random.normal(random.key(1), shape)})["x"]
    for train in (True, False):
        y, _, cache = module.forward(params, buffers, x, train=train, key=random.key(2))
        if train:
            dx, grads = module.backward(np.ones_like(y), cache)
            assert dx.shape == x.shape
            assert {n: g.shape for n, g in grads.items()} == {n: p.shape for n, p in params.items()}


def test_calls_that_lack_something_get_one_line():
    model = first(affine())
    with pytest.raises(UserError, match=r"call apply\(params, buffers, x\)"):
        model.apply(PARAMS, BATCH[0])
    rnn = VanillaRNN(5, 1, 3, 10)
    weights, x = rnn.init(random.key(0))[0], np.ones((2, 4, 1), np.float32)
    with pytest.raises(UserError, match=r"call apply\(params, buffers, x\)"):
        rnn.apply(weights, x)
    for dtype in (str, object):
        with pytest.raises(UserError, match=r"x: dtype is .*, needs real numbers"):
            rnn.apply(weights, {}, x.astype(dtype))
    with pytest.raises(UserError, match=r"serial: a layer without a name, Linear; name each"):
        modules.serial(modules.Linear(2, 3), modules.ReLU())
