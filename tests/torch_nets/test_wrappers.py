import pytest
import torch
import torchvision
from torch import nn

from purenets import UserError, random, tree
from purenets.torch_nets import CNN, from_module, grad_fn, layers, precision, tta
from purenets.torch_nets.precision import VARIANTS, autotune, variants_for

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
MODEL = CNN(3, 10, width=1 / 16)
PARAMS, BUFFERS = MODEL.init(random.key(0))
BATCH = torch.randn(8, 3, 16, 16), torch.arange(8) % 10


def test_channels_last_gives_the_same_numbers():
    a, b = (
        grad_fn(model)(PARAMS, BUFFERS, BATCH, None)[0]
        for model in (MODEL, precision.channels_last(MODEL))
    )
    assert all(torch.allclose(a[name], b[name], atol=1e-4) for name in a)


def test_cast_computes_in_bfloat16_and_keeps_float32_params():
    grads, (new, metrics) = grad_fn(precision.cast(MODEL, torch.bfloat16))(
        PARAMS, BUFFERS, BATCH, None
    )
    exact, (_, exact_metrics) = grad_fn(MODEL)(PARAMS, BUFFERS, BATCH, None)
    assert {g.dtype for g in grads.values()} == {torch.float32}
    assert new["norm1.running_mean"].dtype == torch.float32
    assert 0 < abs(float(metrics["loss"] - exact_metrics["loss"])) < 0.1
    cosine = torch.nn.functional.cosine_similarity(
        grads["fc.weight"].flatten(), exact["fc.weight"].flatten(), 0
    )
    assert cosine > 0.98
    logits, _ = precision.cast(MODEL, torch.bfloat16).apply(PARAMS, BUFFERS, BATCH[0])
    assert logits.dtype == torch.float32


def test_mirror_averaging_is_blind_to_mirrors_in_evaluation_only():
    model, x = tta.flip_averaged(MODEL), BATCH[0]
    assert torch.allclose(
        model.apply(PARAMS, BUFFERS, x)[0], model.apply(PARAMS, BUFFERS, x.flip(3))[0], atol=1e-5
    )
    one, two = (m.apply(PARAMS, BUFFERS, x, train=True)[0] for m in (model, MODEL))
    assert torch.equal(one, two)


def test_the_probe_measures_every_way():
    seconds = autotune(MODEL, BATCH, list(VARIANTS), repeats=1)
    assert seconds.keys() == VARIANTS.keys()
    assert all(value > 0 for value in seconds.values())
    assert variants_for("auto") == list(VARIANTS)
    assert variants_for("float32") == ["float32"]
    assert autotune(MODEL, BATCH, variants_for("bfloat16")) == {
        "bfloat16 channels_last": 0.0
    }  # nothing to measure


def test_shift_averaging_is_half_the_image_and_two_moved_by_a_pixel():
    x = BATCH[0]
    wide = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="reflect")
    up_left, down_right = wide[:, :, :16, :16], wide[:, :, 2:, 2:]
    logits = [MODEL.apply(PARAMS, BUFFERS, view)[0] for view in (x, up_left, down_right)]
    expected = logits[0] / 2 + (logits[1] + logits[2]) / 4
    found, _ = tta.shift_averaged(MODEL).apply(PARAMS, BUFFERS, x)
    assert torch.allclose(found, expected, atol=1e-5)
    as_uint8 = (x * 50 + 100).clamp(0, 255).byte()
    seen = []
    model = MODEL._replace(
        apply=lambda p, b, x, **_: (seen.append(x) or torch.zeros(len(x), 10), b)
    )
    tta.shift_averaged(model).apply(PARAMS, BUFFERS, as_uint8)
    assert [view.dtype for view in seen] == [torch.uint8] * 3
    assert torch.equal(seen[2][:, :, :-1, :-1], as_uint8[:, :, 1:, 1:])
    seen.clear()
    tta.shift_averaged(model).apply(PARAMS, BUFFERS, x.double() / 3)
    assert torch.equal(seen[2][:, :, :-1, :-1], (x.double() / 3)[:, :, 1:, 1:])  # all 53 bits
    trained, plain = (
        m.apply(PARAMS, BUFFERS, x, train=True)[0] for m in (tta.shift_averaged(MODEL), MODEL)
    )
    assert torch.equal(trained, plain)


def test_only_unsure_images_are_seen_in_several_views():
    x = BATCH[0]
    averaged = tta.flip_averaged(MODEL)
    plain, mean = (m.apply(PARAMS, BUFFERS, x)[0] for m in (MODEL, averaged))
    largest = torch.softmax(plain.double(), 1).max(1).values
    below = float(largest.median())  # so that some are sure and some are not
    found, _ = tta.where_unsure(MODEL, averaged, below).apply(PARAMS, BUFFERS, x)
    for i in range(len(x)):
        expected = mean[i] if largest[i] < below else plain[i]
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-4)
    assert 0 < int((largest < below).sum()) < len(x)
    every, _ = tta.where_unsure(MODEL, averaged, 1.1).apply(PARAMS, BUFFERS, x)
    torch.testing.assert_close(every, mean, rtol=1e-4, atol=1e-5)
    none, _ = tta.where_unsure(MODEL, averaged, 0.0).apply(PARAMS, BUFFERS, x)
    assert torch.equal(none, plain)
    trained, _ = tta.where_unsure(MODEL, averaged, 0.5).apply(PARAMS, BUFFERS, x, train=True)
    assert torch.equal(trained, MODEL.apply(PARAMS, BUFFERS, x, train=True)[0])


def test_the_views_of_sure_images_are_not_computed():
    seen = []

    def counted(params, buffers, x, **_):
        seen.append(len(x))
        return torch.zeros(len(x), 10), buffers

    sure = MODEL._replace(apply=lambda p, b, x, **_: (20.0 * torch.eye(10)[BATCH[1] * 0], b))
    tta.where_unsure(sure, MODEL._replace(apply=counted), 0.9).apply({}, {}, BATCH[0])
    assert seen == []


# --- cast by kind and dtype ---------------------------------------------------------------


def test_cast_net_evaluates_whatever_its_batchnorm_is_called():
    net = layers.serial(fc=layers.Linear(4, 8), bn1=layers.BatchNorm(8), out=layers.Linear(8, 3))
    params, buffers = net.init(KEY)
    found, _ = precision.cast(net, torch.bfloat16).apply(params, buffers, X)
    assert torch.allclose(found, net.apply(params, buffers, X)[0], atol=2e-2)


def test_cast_net_takes_token_ids():
    net = from_module(nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 3)))
    params, buffers = net.init(None)
    ids = random.randint(KEY, (6, 3), 0, 10)
    found, _ = precision.cast(net, torch.bfloat16).apply(params, buffers, ids)
    assert torch.allclose(found, net.apply(params, buffers, ids)[0], atol=5e-2)


class OwnRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 1.003, 8))

    def forward(self, x):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.weight


class Positions(nn.Module):
    """Adds a buffer, and hides some features by another that holds infinities."""

    def __init__(self):
        super().__init__()
        self.register_buffer("positions", torch.linspace(0, 1.003, 8))
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf] * 4))

    def forward(self, x):
        return torch.where(self.mask == 0, x + self.positions, x)


def between(layer):
    return nn.Sequential(nn.Linear(4, 8), layer, nn.ReLU(), nn.Linear(8, 3))


class Tokens(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.embedding, self.part, self.out = nn.Embedding(10, 8), part, nn.Linear(8, 3)

    def forward(self, ids):
        z = self.part(self.embedding(ids))
        return self.out((z[0] if isinstance(z, tuple) else z)[:, -1])


NORMS = {
    "BatchNorm1d": lambda: nn.BatchNorm1d(8),
    "BatchNorm1d without params": lambda: nn.BatchNorm1d(8, affine=False),
    "BatchNorm1d without statistics": lambda: nn.BatchNorm1d(8, track_running_stats=False),
    "LayerNorm": lambda: nn.LayerNorm(8),
    "GroupNorm": lambda: nn.GroupNorm(2, 8),
    "RMSNorm": lambda: nn.RMSNorm(8),
    "OwnRMSNorm": OwnRMSNorm,
}
OTHERS = {"PReLU": lambda: nn.PReLU(8), "Positions": Positions, "none": nn.Identity}
IDS = random.randint(KEY, (6, 3), 0, 10)
WHOLE = {
    "lstm": (lambda: Tokens(nn.LSTM(8, 8, batch_first=True)), IDS),
    "encoder": (lambda: Tokens(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)), IDS),
    "two inputs": (lambda: nn.Bilinear(4, 4, 3), (X, X)),
    "keyword inputs": (lambda: nn.Bilinear(4, 4, 3), {"input1": X, "input2": X}),
    "frozen": (lambda: between(nn.LayerNorm(8)).requires_grad_(False), X),
    "FrozenBatchNorm2d": (
        lambda: nn.Sequential(
            torchvision.ops.FrozenBatchNorm2d(3), nn.Conv2d(3, 3, 16), nn.Flatten()
        ),
        BATCH[0],
    ),
    "InstanceNorm2d": (
        lambda: nn.Sequential(nn.InstanceNorm2d(3, affine=True), nn.Conv2d(3, 3, 16), nn.Flatten()),
        BATCH[0],
    ),
}
CAST = {
    name: (lambda make=make: between(make()), X) for name, make in {**NORMS, **OTHERS}.items()
} | WHOLE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CAST)
def test_cast_module_is_near_the_module(name, dtype):
    torch.manual_seed(0)
    make, x = CAST[name]
    net = from_module(make())
    params, buffers = net.init(None)
    for train in (False, True):
        right, moved = net.apply(params, buffers, x, train=train)
        found, new = precision.cast(net, dtype).apply(params, buffers, x, train=train)
        assert found.dtype == torch.float32
        assert torch.allclose(found, right, atol=5e-2)
        for leaf, value in moved.items():
            assert new[leaf].dtype == value.dtype
            assert torch.equal(new[leaf], value) or torch.allclose(new[leaf], value, atol=1e-2)
            assert not torch.equal(buffers[leaf], value) or torch.equal(new[leaf], value)


def dtypes_inside(model, params, buffers, x) -> dict:
    """What the model itself is given."""
    seen = {}

    def apply(params, buffers, x, **options):
        seen.update({name: leaf.dtype for name, leaf in {**params, **buffers}.items()})
        return model.apply(params, buffers, x, **options)

    precision.cast(model._replace(apply=apply), torch.bfloat16).apply(params, buffers, x)
    return seen


@pytest.mark.parametrize("name", NORMS)
def test_cast_keeps_params_and_statistics_of_norms(name):
    net = from_module(between(NORMS[name]()))
    seen = dtypes_inside(net, *net.init(None), X)
    assert {leaf for leaf, dtype in seen.items() if dtype == torch.bfloat16} == {
        "0.weight",
        "0.bias",
        "3.weight",
        "3.bias",
    }


def test_cast_keeps_norms_of_modules_among_our_layers_and_of_layers_by_any_name():
    net = layers.serial(
        fc=layers.Linear(4, 8),
        body=from_module(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8))),
        skip=layers.residual(a=layers.LayerNorm(8), norm=layers.Linear(8, 8)),
    )
    params, buffers = net.init(KEY)
    seen = dtypes_inside(net, params, buffers, X)
    wide = {leaf for leaf, dtype in seen.items() if dtype == torch.float32}
    assert wide == {"body.0.weight", "body.0.bias", "skip.a.weight", "skip.a.bias"}


def test_cast_keeps_what_the_caller_names_and_what_is_no_real_number():
    net = from_module(between(nn.Identity()))
    params, buffers = net.init(None)
    seen = {}
    apply = lambda params, buffers, x, **options: (seen.update(params) or torch.zeros(1), buffers)
    more = params | {"count": torch.arange(3), "phase": torch.ones(2) * 1j}
    precision.cast(net._replace(apply=apply), torch.bfloat16, keep="3.*").apply(more, buffers, X)
    assert seen["0.weight"].dtype == torch.bfloat16
    assert all(seen[leaf] is more[leaf] for leaf in ("3.weight", "3.bias", "count", "phase"))


def test_count_of_floating_point_goes_on_where_it_is_kept():
    class Count(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)
            self.register_buffer("n", torch.full((1,), 256.0))

        def forward(self, x):
            self.n += 1
            return self.fc(x)

    net = from_module(Count())
    for keep, right in ((None, 256), ("n", 257)):
        model = precision.cast(net, torch.bfloat16, keep=keep)
        assert model.apply(*net.init(None), X, train=True, key=KEY)[1]["n"] == right


def test_cast_names_a_pattern_that_matches_no_leaf_or_is_none():
    net = layers.serial(body=layers.Linear(4, 8), head=layers.Linear(8, 3))
    with pytest.raises(UserError, match=r"cast: keep: pattern 'head' matches no leaf as a whole"):
        precision.cast(net, torch.bfloat16, keep="head").apply(*net.init(KEY), X)
    for keep in (("head.*",), 3):
        with pytest.raises(UserError, match=r"^cast: keep is"):
            precision.cast(net, torch.bfloat16, keep=keep)


def test_head_in_float32_is_one_outside_of_cast():
    body, head = layers.Linear(4, 8), layers.Linear(8, 3)
    ours = layers.serial(body=body, head=head)
    module = from_module(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)))
    for net, keep, key in ((ours, "head.*", KEY), (module, "1.*", None)):
        with pytest.raises(UserError, match=r"cast: keep=.*: a layer takes no inputs in .*bfloat"):
            precision.cast(net, torch.bfloat16, keep=keep).apply(*net.init(key), X)
    net = layers.serial(body=precision.cast(body, torch.bfloat16), head=head)
    params, _ = ours.init(KEY)
    inside = precision.cast(body, torch.bfloat16).apply(tree.select(params, "body."), {}, X)[0]
    right = head.apply(tree.select(params, "head."), {}, inside)[0]
    assert torch.equal(net.apply(params, {}, X)[0], right)


@pytest.mark.parametrize("norm", ["BatchNorm", "LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("train", [False, True])
def test_cast_takes_norms_in_float64(norm, train):
    net = layers.serial(fc=layers.Linear(4, 8), norm=getattr(layers, norm)(8))
    leaves = net.init(KEY)
    cast = precision.cast(net, torch.bfloat16)
    right, _ = cast.apply(*leaves, X, train=train)
    found, buffers = cast.apply(*(tree.cast(part, "float64") for part in leaves), X, train=train)
    assert torch.equal(found, right)
    assert {b.dtype for b in buffers.values() if b.is_floating_point()} <= {torch.float64}


def test_cast_returns_a_buffer_of_another_shape():
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(2, 4))

        def forward(self, x):
            self.seen = torch.cat([self.seen, x])
            return x

    net = from_module(Seen())
    _, new = precision.cast(net, torch.bfloat16).apply(*net.init(None), X, key=KEY)
    assert torch.equal(new["seen"][2:], X.bfloat16().float())
