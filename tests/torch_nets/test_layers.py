import math

import numpy as np
import pytest
import torch
from scipy import stats

from purenets import UserError, random
from purenets.torch_nets import layers


def test_linear_draws_as_nn_linear_does():
    params, _ = layers.Linear(400, 300).init(random.key(0))
    twin = torch.nn.Linear(400, 300)
    for name, tensor in params.items():
        assert tensor.shape == getattr(twin, name).shape
        assert tensor.dtype == torch.float32
        bound = 1 / math.sqrt(400)
        assert stats.kstest(tensor.flatten() / bound, stats.uniform(-1, 2).cdf).pvalue > 1e-3


def test_init_under_vmap_draws_each_member_as_alone():
    net = layers.serial(fc1=layers.Linear(3, 4), relu1=layers.ReLU(), fc2=layers.Linear(4, 2))
    keys = random.split(torch.as_tensor(random.key(0)), 3)
    together, _ = torch.func.vmap(net.init)(keys)
    for i, key in enumerate(keys):
        alone, _ = net.init(key)
        assert all(torch.equal(together[name][i], alone[name]) for name in alone)
    numpy_key, _ = net.init(np.asarray(keys[0]))
    assert all(torch.equal(together[name][0], numpy_key[name]) for name in numpy_key)


def test_dropout_is_a_function_of_its_key():
    x, key = torch.ones(200, 300), torch.as_tensor(random.key(0))
    drop = layers.Dropout(0.3).apply
    out, _ = drop({}, {}, x, train=True, key=key)
    assert torch.equal(out, drop({}, {}, x, train=True, key=key)[0])
    assert not torch.equal(out, drop({}, {}, x, train=True, key=random.fold_in(key, 1))[0])
    assert abs((out == 0).float().mean() - 0.3) < 0.01
    assert torch.allclose(out[out > 0], torch.tensor(1 / 0.7))
    assert torch.equal(drop({}, {}, x)[0], x)


def test_flatten_and_activations():
    x = torch.randn(2, 3, 4)
    assert layers.Flatten().apply({}, {}, x)[0].shape == (2, 12)
    assert torch.equal(layers.ReLU().apply({}, {}, x)[0], torch.relu(x))
    assert torch.equal(layers.Tanh().apply({}, {}, x)[0], torch.tanh(x))


def test_wrong_arguments_are_named():
    with pytest.raises(UserError, match=r"dropout: rate 1\.0"):
        layers.Dropout(1.0)
    with pytest.raises(UserError, match="needs a key"):
        layers.Dropout(0.5).apply({}, {}, torch.ones(2), train=True)
    with pytest.raises(UserError, match="scale: unknown in params; the layer has none"):
        layers.ReLU().apply({"scale": torch.ones(1)}, {}, torch.ones(2))


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 3, 2)])
@pytest.mark.parametrize("scale", [True, False])
def test_batch_norm_of_features_and_of_images_is_torchs(shape, scale):
    kind = torch.nn.BatchNorm1d if len(shape) == 2 else torch.nn.BatchNorm2d
    twin, layer = kind(4).double(), layers.BatchNorm(4, scale=scale)
    params, buffers = layer.init(random.key(0))
    assert ("weight" in params) == scale
    params = {name: torch.rand(4, dtype=torch.float64) for name in params}
    buffers = {name: b.double() if b.is_floating_point() else b for name, b in buffers.items()}
    twin.load_state_dict({"weight": torch.ones(4), **params, **buffers})
    for _ in range(3):
        x = torch.randn(*shape, dtype=torch.float64)
        y, buffers = layer.apply(params, buffers, x, train=True)
        torch.testing.assert_close(y, twin(x))
    twin.eval()
    torch.testing.assert_close(layer.apply(params, buffers, x)[0], twin(x))
    for name, b in buffers.items():
        torch.testing.assert_close(b, twin.state_dict()[name])


def test_layer_norm_gelu_scale_and_residual():
    x, params = torch.randn(5, 4), {"weight": torch.rand(4), "bias": torch.rand(4)}
    expected = torch.nn.functional.layer_norm(x, (4,), params["weight"], params["bias"])
    torch.testing.assert_close(layers.LayerNorm(4).apply(params, {}, x)[0], expected)
    tanh = layers.GELU(approximate="tanh").apply({}, {}, x)[0]
    assert torch.equal(tanh, torch.nn.functional.gelu(x, approximate="tanh"))
    gelu = torch.nn.functional.gelu(x)
    assert torch.equal(layers.GELU().apply({}, {}, x)[0], gelu)
    assert not torch.equal(tanh, gelu)
    branch = layers.residual(gelu=layers.GELU(), half=layers.Scale(0.5))
    torch.testing.assert_close(branch.apply({}, {}, x)[0], x + 0.5 * gelu)
    with pytest.raises(UserError, match=r"norm\.input: shape is \(5, 4\), expected \(batch, 3\)"):
        layers.serial(norm=layers.LayerNorm(3)).apply(
            {"norm.weight": torch.ones(3), "norm.bias": torch.ones(3)}, {}, x
        )


def test_fixed_filters_are_a_buffer_and_their_bias_is_trained():
    filters = torch.randn(6, 3, 2, 2)
    params, buffers = layers.FixedConv(filters).init(random.key(0))
    assert params.keys() == {"bias"} and torch.equal(buffers["weight"], filters)
    x = torch.randn(2, 3, 5, 5)
    y, _ = layers.FixedConv(filters).apply({"bias": torch.ones(6)}, buffers, x)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, filters) + 1)


@pytest.mark.parametrize("shape", [(0, 3, 3, 0), (2, 3, 0, 0), (2, 3, 4), (2, 4, 4, 4)])
def test_images_without_pixels_or_of_other_channels_are_named(shape):
    conv = layers.Conv(3, 2, padding=1)
    with pytest.raises(
        UserError, match=r"input: shape is .*, expected \(batch, 3, height, width\)"
    ):
        conv.apply(conv.init(random.key(0))[0], {}, torch.zeros(shape))


def test_buffers_of_no_layer_are_named():
    model = layers.serial(norm1=layers.BatchNorm(3), fc1=layers.Linear(3, 2))
    params, buffers = model.init(random.key(0))
    with pytest.raises(
        UserError, match=r"norm2\.mean: unknown in buffers; the layers are norm1, fc1"
    ):
        model.apply(params, {**buffers, "norm2.mean": torch.zeros(3)}, torch.zeros(4, 3))


@pytest.mark.parametrize("name", ["", "fc.1"])
def test_a_name_that_params_could_not_have_is_refused(name):
    with pytest.raises(UserError, match="a name must not be empty or hold a dot"):
        layers.serial(**{name: layers.ReLU()})


Q, K = torch.ones(3, 4, 8), torch.ones(3, 5, 8)
REFUSED_PARTS = {
    "a value for each key": (Q, K, torch.ones(3, 50, 8)),
    "one dtype": (Q, K, K.double()),
    "as many features": (Q, torch.ones(3, 5, 7), K),
    "do not broadcast": (Q, torch.ones(2, 5, 8), torch.ones(2, 5, 8)),
    r"a tensor \(..., steps, features\)": (Q, K, torch.ones(8)),
}


@pytest.mark.parametrize("message", REFUSED_PARTS)
def test_attention_refuses_parts_that_do_not_fit(message):
    with pytest.raises(UserError, match=message):
        layers.attention.attention(*REFUSED_PARTS[message])


def test_attention_layer_refuses_more_values_than_keys():
    layer = layers.MultiheadAttention(8, 2)
    with pytest.raises(UserError, match="a value for each key"):
        layer.apply(layer.init(random.key(0))[0], {}, (Q, K, torch.ones(3, 50, 8)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_written_out_attention_is_as_exact_as_the_kernel_in_half_precision(dtype):
    q, k, v = (random.normal(key, (1, 1, 6, 64)) for key in random.split(random.key(4), 3))
    q, k, v = (torch.as_tensor(x).to(dtype) for x in (40 * q, 40 * k, v))
    whole = layers.attention.attention(q.double(), k.double(), v.double())
    by_formula = torch.func.vmap(layers.attention.attention)(q, k, v)
    assert by_formula.dtype == dtype
    assert torch.allclose(by_formula.double(), whole, atol=0.02)


def test_mask_whose_first_axis_may_be_batch_or_heads_is_refused():
    layer = layers.MultiheadAttention(8, 4)
    params, x = layer.init(random.key(0))[0], torch.ones(4, 3, 8)
    mask = torch.ones(4, 3, 3, dtype=torch.bool)
    with pytest.raises(UserError, match=r"the batch and the heads; say mask\[:, None\]"):
        layer.apply(params, {}, (x, x, x, mask))
    layer.apply(params, {}, (x, x, x, mask[:, None]))
    layer.apply(params, {}, (x[:3], x[:3], x[:3], mask))


def test_residual_keeps_the_shape():
    block = layers.residual(fc=layers.Linear(4, 1))
    with pytest.raises(UserError, match=r"from \(3, 4\) to \(3, 1\), need to keep the shape"):
        block.apply(block.init(random.key(0))[0], {}, torch.ones(3, 4))


def test_fixed_linear_needs_a_bias_for_each_output():
    with pytest.raises(UserError, match="a bias for each output"):
        layers.FixedLinear(torch.ones(5, 4), torch.ones(1))


@pytest.mark.parametrize("train", [True, False])
def test_running_statistics_of_another_shape_are_refused(train):
    norm = layers.BatchNorm(3)
    params, buffers = norm.init(random.key(0))
    with pytest.raises(UserError, match=r"running_mean: shape is \(1,\), expected \(3,\)"):
        wrong = {**buffers, "running_mean": torch.ones(1)}
        norm.apply(params, wrong, torch.randn(4, 3, 2, 2), train=train)


TOO_SMALL = {
    "Conv": (layers.Conv(2, 3, 5), (1, 2, 4, 9)),
    "dilated": (layers.Conv(2, 3, 3, dilation=3), (1, 2, 6, 9)),
    "Conv1d": (layers.Conv1d(2, 3, 5), (1, 2, 4)),
    "MaxPool": (layers.MaxPool(2, stride=2), (1, 2, 1, 4)),
    "ConvTranspose": (layers.ConvTranspose(2, 3, 3, padding=3), (1, 2, 2, 2)),
    "LastStep": (layers.LastStep(), (3, 0, 2)),
}


@pytest.mark.parametrize("name", TOO_SMALL)
def test_inputs_that_are_too_small_are_refused(name):
    layer, shape = TOO_SMALL[name]
    params, buffers = layer.init(random.key(0))
    with pytest.raises(UserError, match=r"^input: "):
        layer.apply(params, buffers, torch.ones(shape))


@pytest.mark.parametrize("state", [np.zeros((1, 1, 3), "f4"), torch.zeros(1, 1, 3).double(), [1]])
def test_states_of_another_kind_are_refused(state):
    layer = layers.RNN(2, 3)
    with pytest.raises(UserError, match=r"^state: "):
        layer.apply(layer.init(random.key(0))[0], {}, (torch.ones(1, 2, 2), state))
