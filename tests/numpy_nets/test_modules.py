"""Each backward pass: against central differences along random directions, and against torch's
autograd.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, random
from purenets.core.gradcheck import check_gradient
from purenets.core.optim.internals import numpy_kernels
from purenets.numpy_nets import modules as m

DRAW = np.random.default_rng(0)
TARGETS = DRAW.integers(0, 5, 7)
KEY = random.key(3)

# name -> (forward of a dict of inputs, backward in the same order, inputs)
PAIRS = {
    "linear": (
        m.linear_forward,
        m.linear_backward,
        {
            "x": DRAW.normal(size=(7, 3)),
            "weight": DRAW.normal(size=(5, 3)),
            "bias": DRAW.normal(size=5),
        },
    ),
    "relu": (m.relu_forward, m.relu_backward, {"x": DRAW.normal(size=(7, 5))}),
    "tanh": (m.tanh_forward, m.tanh_backward, {"x": DRAW.normal(size=(7, 5))}),
    "silu": (m.silu_forward, m.silu_backward, {"x": DRAW.normal(size=(7, 5)) * 3}),
    "softmax": (m.softmax_forward, m.softmax_backward, {"x": DRAW.normal(size=(7, 5))}),
    "dropout": (
        lambda x: m.dropout_forward(x, KEY, 0.4),
        m.dropout_backward,
        {"x": DRAW.normal(size=(7, 5))},
    ),
    "cross_entropy": (
        lambda p: m.cross_entropy_forward(p, TARGETS),
        m.cross_entropy_backward,
        {"p": DRAW.dirichlet(np.ones(5), 7)},
    ),
    "softmax_cross_entropy": (
        lambda x: m.softmax_cross_entropy_forward(x, TARGETS),
        m.softmax_cross_entropy_backward,
        {"x": DRAW.normal(size=(7, 5))},
    ),
}


WIDTHS = {
    "int64": "float64",
    "uint64": "float64",
    "uint8": "float32",
    "int8": "float32",
    "bool": "float32",
}


@pytest.mark.parametrize("dtype", WIDTHS)
@pytest.mark.parametrize(
    "module", [m.Linear(3, 2), m.Tanh(), m.SiLU(), m.SoftMax(), m.Dropout(0.4)]
)
def test_integers_are_numbers_in_both_passes(module, dtype):
    """What comes out, and each gradient, is that of the same numbers in floating point."""
    x = np.array([[120, 0, 1], [3, 100, 2]]).astype(dtype)
    params, buffers = module.init(KEY)
    found, expected = (
        module.forward(params, buffers, each, train=True, key=KEY)
        for each in (x, x.astype(WIDTHS[dtype]))
    )
    dout = np.linspace(-1, 1, found[0].size).reshape(found[0].shape)
    for one, other in (
        (found[0], expected[0]),
        (module.backward(dout, found[2])[0], module.backward(dout, expected[2])[0]),
    ):
        assert np.array_equal(one, other)
        assert one.dtype == other.dtype


def test_activations_of_integers_are_those_of_torch():
    x = np.uint8([[200, 100, 1], [0, 3, 7]])
    floats = torch.tensor(x).float()
    for module, expected in (
        (m.SiLU(), torch.nn.functional.silu(floats)),
        (m.SoftMax(), floats.softmax(1)),
        (m.Tanh(), floats.tanh()),
    ):
        assert np.allclose(module.forward({}, {}, x)[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_backward_equals_central_differences(name):
    forward, backward, inputs = PAIRS[name]
    out, cache = forward(**inputs)
    dout = np.random.default_rng(1).normal(size=np.shape(out))
    grads = backward(dout, cache)
    grads = grads if isinstance(grads, tuple) else (grads,)
    for seed in range(5):
        error = check_gradient(
            lambda inputs: (forward(**inputs)[0] * dout).sum(),
            inputs,
            dict(zip(inputs, grads, strict=True)),
            random.key(seed),
        )
        assert error < 1e-8


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("linear", torch.nn.functional.linear),
        ("relu", torch.relu),
        ("tanh", torch.tanh),
        ("silu", torch.nn.functional.silu),
        ("softmax", lambda x: torch.softmax(x, dim=-1)),
        ("cross_entropy", lambda p: torch.nn.functional.nll_loss(p.log(), torch.tensor(TARGETS))),
        (
            "softmax_cross_entropy",
            lambda x: torch.nn.functional.cross_entropy(x, torch.tensor(TARGETS)),
        ),
    ],
)
def test_equals_autograd(name, twin):
    forward, backward, inputs = PAIRS[name]
    tensors = [torch.tensor(value, requires_grad=True) for value in inputs.values()]
    expected = twin(*tensors)
    out, cache = forward(**inputs)
    assert np.allclose(out, expected.detach().numpy(), rtol=1e-13, atol=1e-15)
    dout = np.random.default_rng(1).normal(size=np.shape(out))
    expected.backward(torch.tensor(dout))
    grads = backward(dout, cache)
    for grad, tensor in zip(grads if isinstance(grads, tuple) else (grads,), tensors, strict=True):
        assert np.allclose(grad, tensor.grad.numpy(), rtol=1e-12, atol=1e-15)


def test_the_fused_gradient_is_the_chain_of_both():
    x = DRAW.normal(size=(7, 5))
    p, softmax_cache = m.softmax_forward(x)
    loss, loss_cache = m.cross_entropy_forward(p, TARGETS)
    apart = m.softmax_backward(m.cross_entropy_backward(1.0, loss_cache), softmax_cache)
    fused_loss, fused_cache = m.softmax_cross_entropy_forward(x, TARGETS)
    assert np.isclose(loss, fused_loss, rtol=1e-14)
    assert np.allclose(
        apart, m.softmax_cross_entropy_backward(1.0, fused_cache), rtol=1e-12, atol=1e-16
    )


@given(st.floats(-1e3, 1e3), st.floats(0, 1e4))
def test_softmax_is_a_distribution_and_ignores_a_shift(shift, scale):
    x = np.random.default_rng(0).normal(size=(4, 6)) * scale
    p, _ = m.softmax_forward(x)
    assert np.allclose(p.sum(axis=1), 1)
    assert (p >= 0).all()
    assert np.allclose(p, m.softmax_forward(x + shift)[0], atol=1e-8)
    loss, _ = m.softmax_cross_entropy_forward(x, np.zeros(4, int))
    assert np.isfinite(loss)


def test_dropout_keeps_the_expectation_and_drops_the_rate():
    x = np.ones((400, 500), np.float32)
    out, _ = m.dropout_forward(x, KEY, 0.3)
    assert out.dtype == np.float32
    assert abs((out == 0).mean() - 0.3) < 0.005
    assert abs(out.mean() - 1) < 0.01
    assert np.array_equal(out, m.dropout_forward(x, KEY, 0.3)[0])
    assert not np.array_equal(out, m.dropout_forward(x, random.key(4), 0.3)[0])


def test_dropout_does_nothing_in_evaluation():
    x = DRAW.normal(size=(4, 5))
    out, _, cache = m.Dropout(0.5).forward({}, {}, x)
    assert out is x
    assert m.Dropout(0.5).backward(x, cache)[0] is x


def test_serial_names_params_and_goes_backwards():
    net = m.serial(fc1=m.Linear(3, 4), tanh1=m.Tanh(), fc2=m.Linear(4, 2), softmax=m.SoftMax())
    params, _ = net.init(random.key(0))
    assert list(params) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    assert (params["fc1.bias"] == 0).all()
    x = DRAW.normal(size=(6, 3))
    out, _, caches = net.forward(params, {}, x)
    assert np.allclose(out.sum(axis=1), 1)
    _, grads = net.backward(np.ones_like(out), caches)
    assert list(grads) == list(params)


def test_weights_are_small_and_normal():
    params, _ = m.Linear(400, 500).init(random.key(0))
    assert params["weight"].dtype == np.float32
    assert abs(params["weight"].std() * 20 - 1) < 0.01


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_wrong_rate_is_named(rate):
    with pytest.raises(UserError, match="dropout: rate"):
        m.Dropout(rate)


def test_training_with_dropout_needs_a_key():
    with pytest.raises(UserError, match="needs a key"):
        m.Dropout(0.5).forward({}, {}, np.ones((2, 2)), train=True)


@pytest.mark.parametrize("shape", [(5, 5, 3), (3,)])
def test_linear_takes_a_batch_of_features_only(shape):
    layer = m.Linear(3, 4)
    with pytest.raises(UserError, match=r"expected \(batch, 3\)"):
        layer.forward(*layer.init(KEY), np.ones(shape, np.float32))


@pytest.mark.parametrize("columns", [1, 3])
def test_the_gradient_of_a_bias_is_a_sum_without_loss_of_digits(columns):
    n = 1_000_000
    dout = np.full((n, columns), 0.3, np.float32)
    _, bias = m.linear_backward_params(dout, (np.ones((n, 1), np.float32), None))
    assert bias.dtype == np.float32
    assert np.allclose(bias, n * float(np.float32(0.3)), rtol=1e-6)


@pytest.mark.parametrize("rows", [4096, 20_000])
def test_bias_gradients_of_many_rows_in_half_precision_do_not_stand_still(rows):
    dout = np.full((rows, 2), 0.5, np.float16)
    assert m.sum_of_rows(dout).tolist() == [rows / 2] * 2


def test_constants_of_a_schedule_do_not_fill_the_memory():
    assert numpy_kernels._constants.cache_info().maxsize is not None
