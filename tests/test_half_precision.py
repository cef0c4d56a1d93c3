"""Nets, losses, data and checkpoints in half precision: stored in 16 bits, summed in 32 or more."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from purenets import (
    TrainState,
    UserError,
    accuracy,
    data,
    evaluate,
    fit,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    torch_nets,
    tree,
)
from purenets.core.metrics import expected_calibration_error, top_k_accuracy
from purenets.core.runs import checkpoint
from purenets.numpy_nets import image_modules, modules
from purenets.torch_nets.analysis.curvature import eval_loss_fn, fisher_diagonal, hvp, lanczos, ntk
from purenets.torch_nets.analysis.per_example import (
    example_grad_norms,
    influence,
    noise_scale,
    per_example_grads,
)
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.ensemble import deep_ensemble
from purenets.torch_nets.layers import (
    BatchNorm,
    GroupNorm,
    LayerNorm,
    Linear,
    RMSNorm,
    elementwise,
)
from purenets.torch_nets.losses import cross_entropy, label_smoothed
from purenets.torch_nets.tta import flip_averaged, shift_averaged

KEY = random.key(0)
TORCH_KEY = torch.as_tensor(KEY)
HALF = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)


def relative_error(found: dict, right: dict) -> float:
    """Return the norm of the difference over that of `right`."""
    found, right = (
        tree.map(lambda x: torch.as_tensor(x).double(), part) for part in (found, right)
    )
    return float(tree.norm(tree.map(lambda a, b: a - b, found, right)) / tree.norm(right))


# --- losses and metrics ---------------------------------------------------------------------------


@HALF
@pytest.mark.parametrize("loss", [cross_entropy, label_smoothed(0.1)])
def test_mean_of_many_large_losses_is_finite_and_right(loss, dtype):
    """Their sum, 2,600,000, is infinite in float16, and 65,000 examples are no number of it."""
    logits = torch.tensor([[40.0, 0.0]], dtype=dtype).expand(65_000, 2).clone().requires_grad_()
    value = loss(logits, torch.ones(65_000, dtype=torch.int64))
    right = loss(logits.detach().double(), torch.ones(65_000, dtype=torch.int64))
    assert float(value.detach()) == pytest.approx(float(right), rel=1e-5)
    (slope,) = torch.autograd.grad(value, logits)
    assert slope.dtype == dtype
    assert slope[0].tolist() == pytest.approx(slope[-1].tolist())
    assert float(slope[0, 0]) > 0


@pytest.mark.parametrize("targets", [np.ones(65_000, int), np.eye(2)[np.ones(65_000, int)]])
def test_mean_of_many_large_losses_by_hand_is_finite_and_right(targets):
    logits = np.tile(np.array([[40.0, 0.0]], np.float16), (65_000, 1))
    value, cache = modules.softmax_cross_entropy_forward(logits, targets)
    assert float(value) == pytest.approx(40, rel=1e-5)
    slope = modules.softmax_cross_entropy_backward(1.0, cache)
    assert slope.sum(axis=0, dtype=float) == pytest.approx([1, -1], rel=1e-5)
    p = np.full((65_000, 2), 2.0**-14, np.float16)
    assert modules.cross_entropy_forward(p, targets)[0] == pytest.approx(14 * np.log(2), rel=1e-5)


def test_softmax_of_many_classes_sums_to_1_in_float16():
    p, _ = modules.softmax_forward(np.zeros((1, 100_000), np.float16))
    assert p.dtype == np.float16
    assert p.astype(float).sum() == pytest.approx(1, rel=0.05)  # 1e-5 is a subnormal number


@pytest.mark.parametrize("dtype", [np.float16, torch.float16, torch.bfloat16], ids=str)
def test_metrics_of_half_precision_scores_are_those_of_float32(dtype):
    scores = torch.as_tensor(random.normal(KEY, (4096, 5)))
    targets = torch.as_tensor(random.randint(random.key(1), (4096,), 0, 5))
    if dtype is np.float16:
        scores, targets = scores.numpy().astype(dtype), targets.numpy()
        wide = scores.astype(np.float32)
    else:
        scores = scores.to(dtype)
        wide = scores.float()
    for metric in (accuracy, top_k_accuracy(2), expected_calibration_error):
        assert float(metric(scores, targets)) == float(metric(wide, targets))


def test_mean_of_the_loss_of_a_bfloat16_net_is_that_of_its_steps():
    net = torch_nets.MLP(4, [8], 3)
    x = torch.as_tensor(random.normal(KEY, (6, 4))).bfloat16()
    y = torch.tensor([0, 1, 2] * 2)
    state = init_state(net, optim.sgd(0.0), TORCH_KEY)
    state = state._replace(params=tree.cast(state.params, "bfloat16"))
    step = make_step(torch_nets.grad_fn(net), optim.sgd(0.0))
    once = float(step(state, (x, y))[1]["loss"])
    _, history = fit(step, state, lambda i: (x, y), steps=2000)
    assert history[-1]["loss"] == pytest.approx(once, rel=1e-6)
    assert evaluate(torch_nets.metrics_fn(net), state, (x, y), 4)["loss"] == pytest.approx(
        once, rel=1e-6
    )


# --- nets by hand ---------------------------------------------------------------------------------

NETS = {
    "mlp": (numpy_nets.MLP(6, [16, 8], 3), (64, 6)),
    "tanh": (numpy_nets.MLP(6, [16], 3, activation="tanh"), (64, 6)),
    "cnn": (numpy_nets.CNN(2, 3, width=0.05), (8, 2, 8, 8)),
    "rnn": (numpy_nets.VanillaRNN(12, 2, 8, 3), (64, 12, 2)),
}


@pytest.mark.parametrize("name", NETS)
def test_gradient_by_hand_in_float16_is_that_of_float32(name):
    net, shape = NETS[name]
    params, buffers = net.init(KEY)
    narrow = tree.cast(params, "float16"), tree.cast(buffers, "float16") if buffers else buffers
    x = random.normal(random.key(1), shape).astype(np.float16)
    y = random.randint(random.key(2), shape[:1], 0, 3)
    found, (_, metrics) = numpy_nets.grad_fn(net)(*narrow, (x, y), None)
    wide = tree.cast(narrow[0], "float32"), tree.cast(buffers, "float32") if buffers else buffers
    right, (_, known) = numpy_nets.grad_fn(net)(*wide, (x.astype(np.float32), y), None)
    assert metrics["loss"] == pytest.approx(known["loss"], rel=5e-3)
    assert relative_error(found, right) < 0.02
    optimizer = optim.adam(1e-2)
    new, _ = make_step(numpy_nets.grad_fn(net), optimizer)(
        TrainState(*narrow, optimizer.init(narrow[0]), KEY, np.array(0)), (x, y)
    )
    assert {leaf.dtype for leaf in new.params.values()} == {np.dtype("float16")}


def test_bias_gradient_of_a_large_float16_batch_does_not_stand_still():
    """The sum of 4,096 ones is 2,048 in float16."""
    net = numpy_nets.MLP(1, [], 2)
    params = tree.cast(net.init(KEY)[0], "float16")
    x, y = np.zeros((8192, 1), np.float16), np.zeros(8192, int)
    grads, _ = numpy_nets.grad_fn(net)(params, {}, (x, y), None)
    assert grads["fc1.bias"] == pytest.approx([-0.5, 0.5], rel=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_batchnorm_by_hand_takes_float16_numbers_whose_squares_are_infinite(train):
    norm = image_modules.BatchNorm(2)
    params, buffers = norm.init(KEY)
    x = 300 * random.normal(KEY, (8, 2, 4, 4)).astype(np.float16)
    right, wide, _ = norm.forward(params, buffers, x.astype(np.float32), train=train)
    half = tree.cast(params, "float16")
    found, new, _ = norm.forward(half, buffers, x, train=train)
    assert found.dtype == np.float16
    assert np.allclose(found, right, rtol=5e-3, atol=5e-3)
    assert np.allclose(new["running_var"], wide["running_var"], rtol=1e-2)


# --- data and checkpoints -------------------------------------------------------------------------


@HALF
@pytest.mark.parametrize("leaves", ["float32", "half"])
@pytest.mark.parametrize("total", [None, lambda part: part], ids=["alone", "shared"])
@pytest.mark.parametrize("scale", [True, False])
def test_statistics_of_half_precision_batches_are_float32(dtype, leaves, total, scale):
    """The variance 1e6 is infinite in float16, and 1/1000 squared has no digits of it."""
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    x = (1000 * x + torch.tensor([0.0, 3000.0, -5000.0])).to(dtype)
    layer = BatchNorm(3, momentum=1.0, total=total, scale=scale)
    params, buffers = layer.init(None)
    params = tree.cast(params, dtype) if leaves == "half" else params
    y, buffers = layer.apply(params, buffers, x, train=True)
    assert buffers["running_mean"].dtype == buffers["running_var"].dtype == torch.float32
    assert torch.allclose(buffers["running_mean"], x.double().mean(0).float(), atol=1e-3)
    assert torch.allclose(buffers["running_var"], x.double().var(0).float(), rtol=1e-5)
    again, _ = layer.apply(params, buffers, x)  # 64 / 63 apart in the variance
    right = torch.nn.functional.batch_norm(x.double(), None, None, training=True)
    for found in (y, again * (64 / 63) ** 0.5):
        assert found.dtype == dtype
        assert torch.allclose(found.double(), right, atol=4 * torch.finfo(dtype).eps)


@HALF
def test_layers_over_features_take_half_precision_numbers_whose_squares_are_infinite(dtype):
    """RMSNorm's eps is that of float32 then: 1e-3 of bfloat16 is more than these squares."""
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    for layer in (LayerNorm(8), RMSNorm(8), GroupNorm(8, groups=2)):
        params, _ = layer.init(None)
        for size in (1000.0, 0.01):
            near = (size * x).to(dtype)
            right = layer.apply(params, {}, near.float())[0]
            found = layer.apply(tree.cast(params, dtype), {}, near)[0]
            assert found.dtype == dtype
            assert torch.allclose(found.float(), right, atol=4 * torch.finfo(dtype).eps)


@HALF
def test_mean_of_large_half_precision_logits_is_that_of_float32(dtype):
    """40,000 + 40,000 is infinite in float16, and 300 + 1 is 300 or 302 in bfloat16."""
    first = torch.tensor([[40_000.0, 300.0]], dtype=dtype)
    image = torch.tensor([[[[40_000.0, 40_000.0], [300.0, 301.0]]]], dtype=dtype)
    model = elementwise(lambda x: x[:, 0, :, 0] if x.ndim == 4 else x)
    both, _ = deep_ensemble(Linear(2, 2), 2).apply(
        {f"{i}.weight": torch.eye(2, dtype=dtype) for i in range(2)}
        | {f"{i}.bias": torch.tensor([0.0, float(i)], dtype=dtype) for i in range(2)},
        {},
        first,
    )
    assert torch.equal(both, torch.tensor([[40_000.0, 300.5]]).to(dtype))
    for views in (flip_averaged(model), shift_averaged(model)):
        found, _ = views.apply({}, {}, image)
        assert torch.equal(found, views.apply({}, {}, image.float())[0].to(dtype))
        assert found.isfinite().all()


@HALF
@pytest.mark.parametrize("targets", [torch.arange(8) % 2, torch.linspace(0, 1, 8)])
def test_batches_of_half_precision_examples(targets, dtype):
    x = torch.as_tensor(random.normal(KEY, (8, 2))).to(dtype)
    y = targets if targets.dtype == torch.int64 else targets.to(dtype)
    batch = data.batches((x, y), 4, KEY)
    rows = torch.cat([batch(i)[0] for i in (0, 1)])
    assert rows.dtype == dtype
    assert sorted(rows[:, 0].tolist()) == sorted(x[:, 0].tolist())
    with pytest.raises(UserError, match="input 3 has a value that is not finite"):
        x[3] = torch.inf
        data.batches((x, y), 4, KEY)


@HALF
def test_half_precision_data_are_split_and_standardized(dtype):
    x = torch.as_tensor(random.normal(KEY, (40, 2))).to(dtype)
    y = torch.arange(40) % 2
    train, test = data.split((x, y), TORCH_KEY, 0.25)
    first, second = data.standardize(train[0], test[0])
    assert first.dtype == second.dtype == dtype
    assert float(first.float().std(unbiased=False)) == pytest.approx(1, abs=0.02)
    prepared = data.prepare((x, y), KEY, 0.25)
    assert prepared.train[0].dtype == np.float32


DTYPES = ["bfloat16", "float16", "float32", "float64", "complex64", "complex128"]
DTYPES += ["float8_e4m3fn", "float8_e5m2", "bool", "uint8"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2), (), (0,), (1,)])
def test_checkpoint_of_every_dtype_comes_back_bit_by_bit(dtype, shape, tmp_path):
    dtype = getattr(torch, dtype)
    values = torch.as_tensor(random.normal(KEY, shape))
    values = torch.complex(values, -values) if dtype.is_complex else values
    arrays = {"params": {"w": values.to(dtype)}, "other": np.arange(3.0)}
    checkpoint.save(tmp_path, arrays, {"step": 3})
    template = {"params": {"w": torch.zeros(shape).to(dtype)}, "other": np.zeros(3)}
    found, meta = checkpoint.load(tmp_path, template)
    assert meta == {"step": 3}
    assert found["params"]["w"].dtype == dtype
    narrow = dtype.is_floating_point and dtype.itemsize < 4
    as_list = lambda leaf: (leaf.float() if narrow else leaf).tolist()
    assert as_list(found["params"]["w"]) == as_list(values.to(dtype))
    assert found["params"]["w"].shape == shape
    assert np.array_equal(found["other"], arrays["other"])


@HALF
def test_checkpoint_in_half_precision_is_read_by_safetensors(dtype, tmp_path):
    w = torch.as_tensor(random.normal(KEY, (3,))).to(dtype)
    path = checkpoint.save(tmp_path, {"w": w, "b": w.float()}, {})
    found = load_file(path)
    assert torch.equal(found["w"], w)
    assert found["b"].dtype == torch.float32


def test_checkpoint_of_another_precision_is_refused(tmp_path):
    checkpoint.save(tmp_path, {"w": torch.zeros(3).bfloat16()}, {})
    with pytest.raises(UserError, match="w: dtype is bfloat16, expected float32"):
        checkpoint.load(tmp_path, {"w": torch.zeros(3)})
    checkpoint.save(tmp_path, {"w": torch.zeros(3, dtype=torch.complex64)}, {})
    with pytest.raises(UserError, match="w: dtype is complex64, expected complex128"):
        checkpoint.load(tmp_path, {"w": torch.zeros(3, dtype=torch.complex128)})


@HALF
def test_run_in_half_precision_goes_on_from_its_checkpoint_bit_by_bit(dtype, tmp_path):
    net = torch_nets.MLP(4, [8], 3)
    x = torch.as_tensor(random.normal(KEY, (6, 4))).to(dtype)
    y = torch.tensor([0, 1, 2] * 2)
    optimizer = optim.chain(optim.adam(1e-2), optim.ema(0.9))
    step = make_step(torch_nets.grad_fn(net), optimizer)
    params = {name: p.to(dtype) for name, p in net.init(TORCH_KEY)[0].items()}
    state = TrainState(params, {}, optimizer.init(params), TORCH_KEY, torch.tensor(0))
    for _ in range(3):
        state, _ = step(state, (x, y))
    checkpoint.save(tmp_path, {"params": dict(state.params), "opt_state": state.opt_state}, {})
    again, _ = checkpoint.load(tmp_path, {"params": params, "opt_state": optimizer.init(params)})
    again = state._replace(**again)
    for _ in range(3):
        state, _ = step(state, (x, y))
        again, _ = step(again, (x, y))
    assert all(map(torch.equal, state.params.values(), again.params.values()))
    averaged = optim.with_averaged_params(state)
    assert averaged.params["fc1.weight"].dtype == dtype


def test_bfloat16_tensors_go_to_numpy_by_value():
    values = torch.tensor([1.5, -0.25]).bfloat16()
    assert torch_nets.to_numpy({"w": values})["w"].tolist() == [1.5, -0.25]


# --- what is told of a net ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, torch.float16, torch.bfloat16, np.int8], ids=str)
def test_norm_of_narrow_numbers_is_that_of_float32(dtype):
    values = [100, 100, 100, 100] * 250
    leaf = (
        np.array(values, dtype)
        if not isinstance(dtype, torch.dtype)
        else torch.tensor(values, dtype=dtype)
    )
    assert float(tree.norm({"w": leaf})) == pytest.approx(np.sqrt(1000) * 100, rel=1e-4)


@HALF
def test_analysis_of_a_half_precision_net_is_that_of_float32(dtype):
    net = torch_nets.MLP(4, [8], 3)
    wide = tree.cast(net.init(TORCH_KEY)[0], str(dtype).removeprefix("torch."))
    narrow, wide = wide, tree.cast(wide, "float32")
    x = torch.as_tensor(random.normal(KEY, (6, 4))).to(dtype)
    batches = {dtype: (x, torch.tensor([0, 1, 2] * 2))}
    batches[torch.float32] = (x.float(), batches[dtype][1])

    def told(params):
        batch = batches[params["fc1.weight"].dtype]
        grads, _ = per_example_grads(net)(params, {}, batch)
        f = eval_loss_fn(net, {}, batch)
        return {
            "norms": example_grad_norms(tree.map(lambda g: g * 1000, grads)),
            "noise": noise_scale(tree.map(lambda g: g + 1, grads)),  # a gradient that shows
            "influence": influence(grads, params),
            "fisher": fisher_diagonal(net, params, {}, batch)["fc2.bias"],
            "ritz": lanczos(lambda v: hvp(f, params, v), params, TORCH_KEY, 3)[0][-1:],
            "ntk": ntk(net, params, {}, batch[0][:2], batch[0][:2]),
        }

    found, right = told(narrow), told(wide)
    for name in right:
        assert found[name].dtype == torch.float32, name
        assert relative_error({name: found[name]}, {name: right[name]}) < 0.08, name


@HALF
def test_private_gradient_of_a_half_precision_net_keeps_to_its_norm(dtype):
    """A gradient that is rounded after clipping may be longer than `clip`."""
    net = torch_nets.MLP(4, [8], 3)
    params = {name: p.to(dtype) for name, p in net.init(TORCH_KEY)[0].items()}
    x = torch.as_tensor(random.normal(KEY, (32, 4))).to(dtype)
    y = torch.arange(32) % 3
    for i in range(32):
        one = x[i : i + 1], y[i : i + 1]
        grads, _ = dp_grad_fn(net, 1e-2, 0.0)(params, {}, one, None)
        assert float(tree.norm(grads)) <= 1e-2 * (1 + 1e-6)
    empty = dp_grad_fn(net, 1.0, 1.0, batch_size=4)(params, {}, (x[:0], y[:0]), TORCH_KEY)[0]
    assert all(leaf.isfinite().all() for leaf in empty.values())
