"""Convolution, pooling and BatchNorm by hand, against central differences and against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, random
from purenets.core.gradcheck import check_gradient
from purenets.numpy_nets import image_modules as m

F = torch.nn.functional
DRAW = np.random.default_rng(0)


def both_ways(out, grads, twin, inputs):
    """Forward and backward equal those of the torch function `twin` of the same inputs."""
    tensors = [torch.tensor(value, requires_grad=True) for value in inputs]
    expected = twin(*tensors)
    assert np.allclose(out, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    dout = np.random.default_rng(1).normal(size=out.shape)
    expected.backward(torch.tensor(dout))
    for grad, tensor in zip(grads(dout), tensors, strict=True):
        assert np.allclose(grad, tensor.grad.numpy(), rtol=1e-11, atol=1e-12)


geometry = st.tuples(
    st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.integers(3, 7), st.integers(3, 7)
)


@given(geometry, st.integers(1, 3), st.integers(1, 4), st.integers(1, 3))
def test_convolution_equals_torchs(shape, batch, channels, filters):
    size, stride, padding, height, width = shape
    inputs = [
        DRAW.normal(size=(batch, channels, height, width)),
        DRAW.normal(size=(filters, channels, size, size)),
        DRAW.normal(size=filters),
    ]
    out, cache = m.conv_forward(*inputs, stride, padding)
    twin = lambda x, w, b: F.conv2d(x, w, b, stride, padding)
    both_ways(out, lambda dout: m.conv_backward(dout, cache), twin, inputs)


@given(geometry, st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_max_pooling_equals_torchs_also_where_values_are_equal(shape, batch, channels, ties):
    size, stride, padding, height, width = shape
    if 2 * padding > size:
        padding = size // 2
    x = DRAW.normal(size=(batch, channels, height, width))
    x = np.round(x) if ties else x
    out, cache = m.max_pool_forward(x, size, stride, padding)
    twin = lambda x: F.max_pool2d(x, size, stride, padding)
    both_ways(out, lambda dout: (m.max_pool_backward(dout, cache),), twin, [x])


def test_batch_norm_equals_torchs():
    inputs = [DRAW.normal(size=(4, 3, 5, 2)), DRAW.normal(size=3), DRAW.normal(size=3)]
    out, mean, var, cache = m.batch_norm_forward(*inputs)
    assert np.allclose(mean, inputs[0].mean(axis=(0, 2, 3)))
    assert np.allclose(var, inputs[0].var(axis=(0, 2, 3)))
    both_ways(
        out,
        lambda dout: m.batch_norm_backward(dout, cache),
        lambda x, w, b: F.batch_norm(x, None, None, w, b, training=True),
        inputs,
    )


@pytest.mark.parametrize("momentum", [0.1, 0.7])
def test_running_statistics_equal_torchs(momentum):
    norm, twin = m.BatchNorm(3, momentum=momentum), torch.nn.BatchNorm2d(3, momentum=momentum)
    twin = twin.double()
    params, buffers = norm.init(random.key(0))
    buffers = {name: leaf.astype(float) for name, leaf in buffers.items()}
    for _ in range(3):
        x = DRAW.normal(2.0, 3.0, size=(4, 3, 5, 2))
        _, buffers, _ = norm.forward(params, buffers, x, train=True)
        twin(torch.from_numpy(x))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert np.allclose(buffers[name], dict(twin.named_buffers())[name].numpy()), name
    x = DRAW.normal(size=(4, 3, 5, 2))
    evaluated, _, _ = norm.forward(params, buffers, x)
    assert np.allclose(evaluated, twin.eval()(torch.from_numpy(x)).detach().numpy())


def test_mean_equals_torchs():
    x = DRAW.normal(size=(4, 3, 5, 2))
    out, cache = m.global_avg_pool_forward(x)
    both_ways(
        out,
        lambda dout: (m.global_avg_pool_backward(dout, cache),),
        lambda x: x.mean(dim=(2, 3)),
        [x],
    )


def test_backward_equals_central_differences():
    inputs = {
        "x": DRAW.normal(size=(2, 3, 5, 5)),
        "weight": DRAW.normal(size=(4, 3, 3, 3)),
        "bias": DRAW.normal(size=4),
    }
    out, cache = m.conv_forward(**inputs, stride=2, padding=1)
    dout = DRAW.normal(size=out.shape)
    grads = dict(zip(inputs, m.conv_backward(dout, cache), strict=True))

    def f(inputs):
        return (m.conv_forward(**inputs, stride=2, padding=1)[0] * dout).sum()

    assert check_gradient(f, inputs, grads, random.key(0)) < 1e-8


def test_an_empty_batch_gives_an_empty_output_and_no_gradient():
    weight, bias = DRAW.normal(size=(4, 3, 3, 3)), DRAW.normal(size=4)
    out, cache = m.conv_forward(np.zeros((0, 3, 6, 6)), weight, bias, 2, 1)
    assert out.shape == (0, 4, 3, 3)
    dx, dweight, dbias = m.conv_backward(np.zeros(out.shape), cache)
    assert dx.shape == (0, 3, 6, 6)
    assert dweight.shape == weight.shape and not dweight.any()
    assert dbias.shape == bias.shape and not dbias.any()


def test_a_wrong_image_is_named():
    params, _ = m.Conv(3, 4).init(random.key(0))
    with pytest.raises(
        UserError, match=r"input: shape is \(2, 1, 8, 8\), expected \(batch, 3, height, width\)"
    ):
        m.Conv(3, 4).forward(params, {}, np.zeros((2, 1, 8, 8)))
    params, buffers = m.BatchNorm(3).init(random.key(0))
    with pytest.raises(UserError, match="more than one value"):
        m.BatchNorm(3).forward(params, buffers, np.zeros((1, 3, 1, 1), np.float32), train=True)


MODULES = {
    "conv": m.Conv(3, 2),
    "max": m.MaxPool(2, stride=2),
    "padded max": m.MaxPool(2, stride=2, padding=1),
    "mean": m.GlobalAvgPool(),
    "batch norm": m.BatchNorm(3),
}


@pytest.mark.parametrize("dtype", ["int64", "uint64", "uint8", "int8", "bool"])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_integers_are_numbers_in_both_passes(name, train, dtype):
    """What comes out, and each gradient, is that of the same numbers in floating point."""
    module = MODULES[name]
    x = DRAW.integers(0, 120, (2, 3, 4, 4)).astype(dtype)
    params, buffers = module.init(random.key(0))
    found, expected = (
        module.forward(params, buffers, each, train=train) for each in (x, x.astype(np.float64))
    )
    assert np.allclose(found[0], expected[0], atol=1e-5)
    assert name == "max" or found[0].dtype.kind == "f"
    if train:
        dout = DRAW.normal(size=found[0].shape)
        grads = (module.backward(dout, each[2]) for each in (found, expected))
        (dx, grads), (other_dx, other) = grads
        assert np.allclose(dx, other_dx, atol=1e-5)
        assert all(np.allclose(grads[leaf], other[leaf], atol=1e-4) for leaf in other)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (m.Conv(2, 3, 5), (1, 2, 3, 3)),
        (m.MaxPool(2, stride=2), (1, 2, 1, 1)),
        (m.MaxPool(2, stride=2), (1, 2, 4)),
        (m.GlobalAvgPool(), (1, 2)),
    ],
)
def test_images_that_are_too_small_are_refused(module, shape):
    params, buffers = module.init(random.key(0))
    with pytest.raises(UserError, match=r"^input: shape is "):
        module.forward(params, buffers, np.ones(shape, np.float32))


@pytest.mark.parametrize("wrong", [{}, {"running_mean": np.ones(1)}])
def test_running_statistics_are_checked(wrong):
    norm = m.BatchNorm(3)
    params, buffers = norm.init(random.key(0))
    with pytest.raises(UserError, match=r"^running_mean: "):
        norm.forward(params, buffers | wrong if wrong else {}, np.ones((4, 3, 2, 2), np.float32))


def test_big_endian_images_are_those_of_this_machine():
    x = np.arange(96, dtype="float32").reshape(3, 2, 4, 4)
    for layer in (m.GlobalAvgPool(), m.BatchNorm(2)):
        params, buffers = layer.init(random.key(0))
        right, found = (layer.forward(params, buffers, a)[0] for a in (x, x.astype(">f4")))
        assert found.dtype == right.dtype
        assert (found == right).all()
