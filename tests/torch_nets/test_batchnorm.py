"""Running statistics taken anew: those of torch's `update_bn`."""

import copy

import pytest
import torch
import torchvision
from torch import nn

from purenets import UserError, data, evaluate, fit, init_state, make_step, optim, random, tree
from purenets.torch_nets import CNN, from_module, grad_fn, layers, metrics_fn, update_batchnorm
from purenets.torch_nets.image_mlps import batch_norm_mlp
from purenets.torch_nets.precision import cast

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (64, 3, 6, 6))
Y = torch.zeros(64, dtype=torch.int64)
BATCHES = [(3 * X[:20], Y[:20]), (X[20:], Y[20:]), (X[:33] + 5, Y[:33])]  # of several sizes


def twins(momentum):
    """A net of ours and the module of the same params."""
    net = layers.serial(
        conv1=layers.Conv(3, 4),
        norm1=layers.BatchNorm(4, momentum=momentum),
        relu=layers.ReLU(),
        conv2=layers.Conv(4, 5),
        norm2=layers.BatchNorm(5, momentum=1 - momentum),
    )
    names = {"conv1": nn.Conv2d(3, 4, 3), "norm1": nn.BatchNorm2d(4), "relu": nn.ReLU()}
    names |= {"conv2": nn.Conv2d(4, 5, 3), "norm2": nn.BatchNorm2d(5)}
    module = nn.Sequential()
    for name, part in names.items():
        module.add_module(name, part)
    params, buffers = net.init(KEY)
    module.load_state_dict({**params, **buffers})
    return net, params, buffers, module


def torchs(module, batches=BATCHES):
    module = copy.deepcopy(module)
    torch.optim.swa_utils.update_bn(batches, module)
    return dict(module.named_buffers())


def assert_same(found, right, tolerance=1e-6):
    assert found.keys() == right.keys()
    for name, value in right.items():
        assert found[name].dtype == value.dtype
        assert torch.allclose(found[name], value, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("momentum", [0.001, 0.1, 0.6])
def test_fresh_statistics_are_those_of_torch(momentum):
    net, params, buffers, module = twins(momentum)
    assert_same(update_batchnorm(net, params, buffers, BATCHES), torchs(module))


@pytest.mark.parametrize("momentum", [0.001, 0.1, 1.0, None])
@pytest.mark.parametrize("affine", [True, False])
def test_fresh_statistics_of_a_module_are_those_of_torch(momentum, affine):
    norm = nn.BatchNorm2d(4, momentum=momentum, affine=affine)
    module = nn.Sequential(norm, nn.Conv2d(4, 5, 3), nn.ReLU(), nn.BatchNorm2d(5, momentum=0.01))
    module = nn.Sequential(nn.Conv2d(3, 4, 3), module)
    net = from_module(module)
    assert_same(update_batchnorm(net, *net.init(None), BATCHES), torchs(module))


def test_fresh_statistics_of_a_resnet_are_those_of_torch():
    module = torchvision.models.resnet18(num_classes=3)
    net = from_module(module)
    batches = [(random.normal(random.fold_in(KEY, i), (4, 3, 32, 32)), Y[:4]) for i in range(2)]
    assert_same(update_batchnorm(net, *net.init(None), batches), torchs(module, batches), 1e-5)


@pytest.mark.parametrize("value", [float("nan"), 1e30, -7.0])
def test_old_statistics_have_no_influence(value):
    net, params, buffers, module = twins(0.1)
    buffers = {name: torch.full_like(b, value) if b.ndim else b + 70 for name, b in buffers.items()}
    kept = tree.map(torch.clone, buffers)
    assert_same(update_batchnorm(net, params, buffers, BATCHES), torchs(module))
    assert all(torch.equal(buffers[k].nan_to_num(), kept[k].nan_to_num()) for k in buffers)  # pure


def test_training_on_from_there_moves_them_as_before():
    net, params, buffers, module = twins(0.1)
    module.load_state_dict({**params, **torchs(module)})
    module.norm2.momentum = 0.9
    module.train()(X)
    found = update_batchnorm(net, params, buffers, BATCHES)
    assert_same(net.apply(params, found, X, train=True)[1], dict(module.named_buffers()), 1e-5)


def test_frozen_layer_keeps_its_statistics():
    class Frozen(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(False)

    module = nn.Sequential(Frozen(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    module[0].running_mean.fill_(2.0)
    net = from_module(module)
    params, buffers = net.init(None)
    found = update_batchnorm(net, params, buffers, BATCHES)
    assert all(torch.equal(found[name], buffers[name]) for name in buffers if name.startswith("0."))
    x = [module[1](module[0].eval()(x)) for x, _ in BATCHES]
    right = torch.stack([part.mean((0, 2, 3)) for part in x]).mean(0)
    assert torch.allclose(found["2.running_mean"], right, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.1, 1.0, None])
def test_layer_that_is_used_twice_counts_both_calls(momentum):
    norm = nn.BatchNorm2d(3, momentum=momentum)
    module = nn.Sequential(norm, nn.Conv2d(3, 3, 1), norm, nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net = from_module(module)
    found = update_batchnorm(net, *net.init(None), BATCHES)
    assert_same(found, torchs(module))
    assert found["0.num_batches_tracked"] == 6


@pytest.mark.parametrize("momentum", [0.1, 1.0])
def test_own_layer_that_is_used_twice_is_refused(momentum):
    norm = layers.BatchNorm(3, momentum=momentum)

    def apply(params, buffers, x, *, train=False, key=None):
        y, buffers = norm.apply(params, buffers, x, train=train)
        return norm.apply(params, buffers, 2 * y + 1, train=train)

    net = norm._replace(apply=apply)
    with pytest.raises(
        UserError, match="update_batchnorm: running_mean: the layer is used several"
    ):
        update_batchnorm(net, *net.init(None), BATCHES)


def test_layer_that_does_not_count_has_fresh_statistics():
    class Quiet(nn.BatchNorm2d):
        def forward(self, x):
            given = (self.running_mean, self.running_var, self.weight, self.bias, self.training)
            return nn.functional.batch_norm(x, *given, self.momentum)

    module = nn.Sequential(Quiet(3), nn.Conv2d(3, 4, 3))
    net = from_module(module)
    found = update_batchnorm(net, *net.init(None), BATCHES, key=KEY)
    right = torch.stack([x.mean((0, 2, 3)) for x, _ in BATCHES]).mean(0)
    assert torch.allclose(found["0.running_mean"], right, atol=1e-6)


def test_statistics_that_a_module_sets_itself_are_tracked():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(3))

        def forward(self, x):
            if self.training:
                self.running_mean = 0.7 * self.running_mean + 0.3 * x.mean((0, 2, 3))
            return x - self.running_mean[:, None, None]

    net = from_module(Mean())
    found = update_batchnorm(net, *net.init(None), BATCHES, key=KEY)
    right = torch.stack([x.mean((0, 2, 3)) for x, _ in BATCHES]).mean(0)
    assert torch.allclose(found["running_mean"], right, atol=1e-6)


def test_net_that_is_cast_has_float32_statistics():
    net, params, buffers, module = twins(0.1)
    found = update_batchnorm(cast(net, torch.bfloat16), params, buffers, BATCHES)
    assert_same(found, torchs(module), 0.05)


def test_net_without_batchnorm_keeps_its_buffers():
    net = layers.serial(fc=layers.Linear(2, 3))
    assert update_batchnorm(net, *net.init(KEY), [(X[:, 0, 0, :2], Y)]) == {}


def test_net_that_draws_needs_a_key_and_is_a_function_of_it():
    net = batch_norm_mlp(108, [8], 2, dropout=0.5)
    params, buffers = net.init(KEY)
    with pytest.raises(
        UserError, match=r"update_batchnorm: the model draws \(\w+\.dropout\); pass"
    ):
        update_batchnorm(net, params, buffers, BATCHES)
    module = from_module(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(2)))
    with pytest.raises(
        UserError, match=r"update_batchnorm: the model draws .* pass key=random.key"
    ):
        update_batchnorm(module, *module.init(None), [(torch.ones(3, 2), Y[:3])])
    first, again = (update_batchnorm(net, params, buffers, BATCHES, key=KEY) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_no_batches_and_a_function_of_batches_are_refused():
    net, params, buffers, _ = twins(0.1)
    with pytest.raises(UserError, match="no batches"):
        update_batchnorm(net, params, buffers, [])
    with pytest.raises(UserError, match="batches: a function"):
        update_batchnorm(net, params, buffers, data.batches((X, Y), 8, KEY))


@pytest.mark.parametrize("part", ["layer", "module"])
def test_empty_batch_does_not_count_as_one_with_a_variance_of_0(part):
    model = layers.BatchNorm(3) if part == "layer" else from_module(nn.BatchNorm1d(3))
    params, buffers = model.init(None)
    batches = [(torch.randn(4, 3), None), (torch.zeros(0, 3), None)]
    with pytest.raises(UserError, match="update_batchnorm: an empty batch has no statistics"):
        update_batchnorm(model, params, buffers, batches)


@pytest.mark.parametrize(("shape", "text"), [((0, 3), "0 with no"), ((1, 3), "1 with one")])
def test_batch_without_a_variance_is_named(shape, text):
    norm = layers.BatchNorm(3)
    with pytest.raises(UserError, match=f"batch of {text} value a channel"):
        norm.apply(*norm.init(None), torch.zeros(shape), train=True)


def test_averaged_params_with_fresh_statistics_are_good():
    task = data.load("digits", KEY.numpy())
    train, test = (tuple(map(torch.tensor, part)) for part in (task.train, task.test))
    net = batch_norm_mlp(64, [64, 64], 10)
    optimizer = optim.chain(optim.adam(1e-2), optim.ema(0.999))
    batches = data.batches(train, 64, KEY)
    step, state = make_step(grad_fn(net), optimizer), init_state(net, optimizer, KEY)
    state, _ = fit(step, state, batches, steps=1000)
    state = optim.with_averaged_params(state)
    seen = [batches(i) for i in range(100)]
    fresh = state._replace(buffers=update_batchnorm(net, state.params, state.buffers, seen))
    stale, found = (evaluate(metrics_fn(net), each, test)["accuracy"] for each in (state, fresh))
    assert found > 0.95
    assert stale < found


def test_statistics_of_the_reduced_vgg_are_means_over_the_batches():
    net = CNN(3, 10, width=0.05)
    params, buffers = net.init(KEY)
    x = random.normal(KEY, (32, 3, 32, 32))
    found = update_batchnorm(net, params, buffers, [(x[:16], Y[:16]), (x[16:], Y[16:])])
    y = [
        layers.Conv(3, 3, 3, padding=1).apply(tree.select(params, "conv1."), {}, part)[0]
        for part in x.split(16)
    ]
    right = torch.stack([part.var((0, 2, 3)) for part in y]).mean(0)
    assert torch.allclose(found["norm1.running_var"], right, rtol=1e-4)


def test_the_statistics_of_the_first_batch_are_not_taken_for_frozen_ones():
    model = from_module(nn.BatchNorm2d(3))
    params, buffers = model.init(None)
    first = update_batchnorm(model, params, buffers, BATCHES[:1])
    again = update_batchnorm(model, params, first, BATCHES)
    for name, expected in update_batchnorm(model, params, buffers, BATCHES).items():
        assert torch.allclose(again[name].double(), expected.double())
