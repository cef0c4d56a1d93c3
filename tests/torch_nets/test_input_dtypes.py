"""Inputs of another dtype than the params: one line on every path, and the same when compiled."""

import numpy as np
import pytest
import torch
from torch import nn

from purenets import UserError, data, evaluate, fit, init_state, make_step, optim, random
from purenets.torch_nets import (
    CNN,
    MLP,
    VanillaRNN,
    from_module,
    grad_fn,
    jit,
    layers,
    metrics_fn,
    precision,
    to_numpy,
    to_torch,
)
from purenets.torch_nets.analysis.per_example import per_example_grads

KEY = torch.as_tensor(random.key(0))
NETS = {
    "mlp": (MLP(7, [16], 3), (7,), "fc1.input"),
    "linear": (layers.Linear(7, 3), (7,), "input"),
    "cnn": (CNN(3, 4, width=0.05), (3, 16, 16), "conv1.input"),
    "conv1d": (layers.Conv1d(3, 4, 3), (3, 9), "input"),
    "conv transpose": (layers.ConvTranspose(3, 4, 3), (3, 8, 8), "input"),
    "rnn": (layers.RNN(3, 4), (5, 3), "input"),
    "lstm": (layers.serial(lstm=layers.LSTM(3, 4)), (5, 3), "lstm.input"),
    "attention": (layers.MultiheadAttention(4, 2), (5, 4), "input"),
    "layer norm": (layers.LayerNorm(7), (7,), "input"),
    "rms norm": (layers.RMSNorm(7), (7,), "input"),
    "group norm": (layers.GroupNorm(7, groups=1), (7,), "input"),
    "batch norm": (layers.BatchNorm(7), (7,), "input"),
    "fixed conv": (layers.FixedConv(torch.full((2, 3, 2, 2), 0.3)), (3, 8, 8), "input"),
    "linear of torch": (from_module(nn.Linear(7, 3)), (7,), "Linear: input"),
    "conv of torch": (from_module(nn.Conv2d(3, 4, 3)), (3, 8, 8), "Conv2d: input"),
    "lstm of torch": (from_module(nn.LSTM(3, 4)), (5, 3), "LSTM: input"),
}
every_net = pytest.mark.parametrize("name", NETS)


def setting(name, dtype):
    model, shape, where = NETS[name]
    params, buffers = model.init(None if name.endswith("torch") else KEY)
    x = random.normal(KEY, (4, *shape)).to(dtype)
    return model, params, buffers, x, where


@every_net
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("train", [True, False])
def test_input_of_another_dtype_is_named(name, dtype, train):
    model, params, buffers, x, where = setting(name, dtype)
    found = str(dtype).removeprefix("torch.")
    with pytest.raises(UserError) as caught:
        model.apply(params, buffers, x, train=train)
    right = f"{where}: {found}, but the params are float32; x.float()"
    assert str(caught.value) == right
    model.apply(params, buffers, x.float(), train=train)


@every_net
def test_input_of_the_dtype_of_the_params_is_taken(name):
    model, params, buffers, x, _ = setting(name, torch.float64)
    wide = to_torch(params, dtype=torch.float64), to_torch(buffers, dtype=torch.float64)
    y = model.apply(*wide, x)[0]
    assert (y[0] if isinstance(y, tuple) else y).dtype == torch.float64


INITS = {
    "batch norm": layers.BatchNorm(3),
    "layer norm": layers.LayerNorm(3),
    "rms norm": layers.RMSNorm(3),
    "group norm": layers.GroupNorm(4, groups=2),
    "attention": layers.MultiheadAttention(4, 2),
    "linear": layers.Linear(3, 2),
    "conv": layers.Conv(2, 3, 3),
    "dirac": layers.Conv(2, 3, 3, dirac=True),
    "fixed conv": layers.FixedConv(torch.ones(2, 3, 2, 2, dtype=torch.float32)),
    "embedding": layers.Embedding(5, 2, padding=0),
    "lstm": layers.LSTM(3, 4),
    "rnn": VanillaRNN(5, 1, 4, 3),
    "orthogonal rnn": VanillaRNN(5, 1, 4, 3, init="orthogonal"),
    "identity rnn": VanillaRNN(5, 1, 4, 3, init="identity"),
    "cnn": CNN(3, 4, width=0.125),
}


@pytest.mark.parametrize("name", INITS)
def test_leaves_begin_in_float32_whatever_the_default_dtype(name):
    torch.set_default_dtype(torch.float64)
    try:
        params, buffers = INITS[name].init(KEY)
    finally:
        torch.set_default_dtype(torch.float32)
    floats = {n: x.dtype for n, x in {**params, **buffers}.items() if x.is_floating_point()}
    assert set(floats.values()) == {torch.float32}, floats


def test_batch_norm_evaluates_where_params_alone_are_wider():
    layer, x = layers.BatchNorm(3), torch.randn(4, 3, dtype=torch.float64)
    params, buffers = layer.init(KEY)
    _, buffers = layer.apply(params, buffers, x.float(), train=True)
    wide = to_torch(params, dtype=torch.float64)
    found, same = layer.apply(wide, buffers, x)
    right, _ = layer.apply(wide, to_torch(buffers, dtype=torch.float64), x)
    assert torch.equal(found, right)
    assert same is buffers


FIXED = torch.full((2, 3, 2, 2), 0.3)
WITHOUT_PARAMS = {
    "fixed linear": layers.FixedLinear(FIXED.flatten()[:16].view(2, 8), torch.tensor([0.3, 0.4])),
    "fixed conv": layers.FixedConv(FIXED, bias=False),
    "silu": layers.SiLU(),
    "gelu": layers.GELU(),
    "gelu by tanh": layers.GELU(approximate="tanh"),
    "mean": layers.GlobalAvgPool(),
}
EXACT = {
    "tanh": layers.Tanh(),
    "scale": layers.Scale(0.5),
    "dropout": layers.Dropout(0.2),
    "relu": layers.ReLU(),
    "max": layers.MaxPool(2, stride=2, padding=1),
}
INTEGERS = [torch.int64, torch.uint8, torch.int8, torch.bool]


def images(dtype):
    return (torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8) % 100).to(dtype)


@pytest.mark.parametrize("name", WITHOUT_PARAMS)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("compiled", [False, True])
def test_layers_without_params_refuse_integers(name, dtype, compiled):
    layer = WITHOUT_PARAMS[name]
    apply = jit(layer.apply) if compiled else layer.apply
    with pytest.raises(UserError) as caught:
        apply(*layer.init(KEY), images(dtype))
    found = str(dtype).removeprefix("torch.")
    assert str(caught.value) == f"input: {found}, needs floats; x.float()"


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("train", [True, False])
def test_other_layers_take_integers_as_numbers_or_refuse_them(name, dtype, train):
    def run(x):
        return EXACT[name].apply({}, {}, x, train=train, key=KEY)[0]

    if dtype == torch.bool and name in ("relu", "max"):
        with pytest.raises(UserError, match=r"input: bool, needs floats; x\.float\(\)"):
            run(images(dtype))
    else:
        torch.testing.assert_close(
            run(images(dtype)), run(images(dtype).float()), check_dtype=False
        )


def paths():
    """Each entry to a net, as a function of the batch."""
    model, optimizer = MLP(7, [16], 3), optim.sgd(0.1)
    state, grad = init_state(model, optimizer, KEY), grad_fn(model)
    step, of = make_step(grad, optimizer), (state.params, {})
    one = lambda x, y: (x[None], y[None])
    return {
        "apply": lambda x, y: model.apply(*of, x),
        "compiled apply": lambda x, y: jit(model.apply)(*of, x),
        "grad_fn": lambda x, y: grad(*of, (x, y), None),
        "vmapped": lambda x, y: torch.func.vmap(lambda x, y: grad(*of, one(x, y), None))(x, y),
        "metrics_fn": lambda x, y: evaluate(metrics_fn(model), state, (x, y)),
        "fit": lambda x, y: fit(step, state, data.batches((x, y), 2, KEY), steps=1),
        "per_example_grads": lambda x, y: per_example_grads(model)(*of, (x, y)),
        "step": lambda x, y: step(state, (x, y)),
        "compiled step": lambda x, y: jit(step)(state, (x, y)),
        "lowered step": lambda x, y: jit(step).lower(state, (x, y)).compile()(state, (x, y)),
    }


@pytest.mark.filterwarnings("ignore:jit.*runs eagerly")
@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("path", paths())
def test_every_path_refuses_what_the_others_do(path, dtype):
    x, y = random.normal(KEY, (4, 7)), torch.tensor([0, 1, 2, 0])
    with pytest.raises(UserError, match=r"fc1\.input: .*, but the params are float32"):
        paths()[path](x.to(dtype), y)


def test_autocast_and_cast_models_take_float32():
    model, params, buffers, x, _ = setting("mlp", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.apply(params, buffers, x)[0].dtype == torch.bfloat16
    cast = precision.cast(model, torch.bfloat16)
    assert cast.apply(params, buffers, x)[0].isfinite().all()


# --- arrays of NumPy and tensors --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [">f4", ">i2", ">c8", "<f8", "?"])
def test_arrays_in_any_order_become_tensors(dtype):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    for leaf in (array, array[::-1], array.T, array[:, ::2], array[0, 0, ...]):
        found = to_torch({"a": leaf})["a"]
        assert np.array_equal(found.numpy(), leaf)
        assert found.numpy().dtype == leaf.dtype.newbyteorder("=")


@pytest.mark.parametrize("leaf", [np.ones(2, np.longdouble), np.array(["a"]), 2**70])
def test_leaf_that_torch_does_not_hold_is_named(leaf):
    with pytest.raises(UserError, match=r"to_torch: a leaf is .*, which torch does not hold"):
        to_torch({"a": leaf})


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_conversion_that_would_drop_fractions_is_refused(dtype):
    with pytest.raises(UserError, match=f"to_torch: dtype: {dtype} would drop fractions"):
        to_torch({"a": np.array([1.7])}, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_negated_and_conjugated_views_become_arrays(dtype):
    x = torch.tensor([1.0, -2.0], dtype=dtype)
    assert np.array_equal(to_numpy({"a": torch._neg_view(x)})["a"], [-1, 2])
    both = torch.tensor([1 + 2j]).conj()
    assert to_numpy({"a": both})["a"] == 1 - 2j
    assert to_numpy({"a": both.imag})["a"] == -2
