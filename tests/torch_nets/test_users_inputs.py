"""Inputs of users that once gave wrong numbers in silence, each beside what is right."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from purenets import UserError, init_state, make_step, optim, random, train_state, tree
from purenets.core.base import Model
from purenets.core.metrics import r2
from purenets.torch_nets import (
    MLP,
    ensemble,
    ensemble_metrics,
    grad_fn,
    layers,
    losses,
    metrics_fn,
    stack_states,
    update_batchnorm,
)
from purenets.torch_nets.analysis.ghost import ghost_norms
from purenets.torch_nets.analysis.per_example import per_example_grads
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.precision import cast

KEY = random.key(0)


def siamese(embed, shape):
    """The squared distance of the embeddings of two inputs."""

    def apply(params, buffers, x, *, train=False, key=None):
        a, b = (embed(x[:, i], params["w"]).flatten(1) for i in (0, 1))
        return (a - b).square().sum(1, keepdim=True), buffers

    return Model(lambda key: ({"w": random.normal(key, shape) * 0.05}, {}), apply)


@pytest.mark.parametrize(
    ("embed", "shape", "image"),
    [
        (F.linear, (64, 784), (784,)),
        (functools.partial(F.conv2d, padding=1), (8, 3, 3, 3), (3, 12, 12)),
    ],
    ids=["linear", "conv"],
)
def test_gradients_of_near_duplicates_are_clipped(embed, shape, image):
    """The terms of their squared norm cancel; float32 has no digit left of it."""
    net = siamese(embed, shape)
    params, _ = net.init(torch.as_tensor(KEY))
    a = random.randint(torch.as_tensor(random.key(9)), (1, *image), 0, 256).float()
    b = a.clone()
    b.view(-1)[:4] += 1
    batch = torch.stack([a, b], 1), torch.ones(1, 1)
    right = per_example_grads(net, losses.mse, reduce=tree.norm)(params, {}, batch)[0]
    assert torch.allclose(ghost_norms(net, losses.mse)(params, {}, batch)[0], right, rtol=1e-3)
    clip = float(right) / 3
    clipped = dp_grad_fn(net, clip, 0.0, losses.mse)(params, {}, batch, None)[0]
    assert float(tree.norm(clipped)) == pytest.approx(clip, rel=1e-3)


@pytest.mark.parametrize("tokens", [[[[3, 10]], [[3, 4]]], [[[3, 4]], [[3, -1]]]])
def test_a_token_of_an_ensemble_is_no_row_of_another_member(tokens):
    net = layers.serial(e=layers.Embedding(10, 4), l=layers.LastStep(), fc=layers.Linear(4, 2))
    optimizer = optim.sgd(1.0)
    states = stack_states([init_state(net, optimizer, random.key(i)) for i in range(2)])
    step = ensemble(make_step(grad_fn(net), optimizer))
    with pytest.raises(UserError, match="a token is not from 0 to 9"):
        step(states, (torch.tensor(tokens), torch.tensor([[0], [1]])))


NETS = {
    "batch norm": lambda: layers.serial(
        c=layers.Conv(3, 4, 3),
        n=layers.BatchNorm(4),
        p=layers.GlobalAvgPool(),
        fc=layers.Linear(4, 2),
    ),
    "layer norm": lambda: layers.serial(
        f=layers.Flatten(), a=layers.Linear(108, 8), n=layers.LayerNorm(8), fc=layers.Linear(8, 2)
    ),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NETS)
def test_norms_in_half_precision_work_under_transforms(name, dtype):
    torch.manual_seed(0)
    net, optimizer = cast(NETS[name](), dtype), optim.sgd(0.1)
    batch = torch.randn(5, 3, 6, 6), torch.tensor([0, 1, 0, 1, 0])
    states = [init_state(net, optimizer, random.key(i)) for i in range(2)]
    stacked, step = stack_states(states), make_step(grad_fn(net), optimizer)
    after, _ = ensemble(step, same_batch=True)(stacked, batch)
    found = ensemble_metrics(metrics_fn(net))(stacked.params, stacked.buffers, batch)["loss"]
    for i, state in enumerate(states):
        alone = metrics_fn(net)(state.params, state.buffers, batch)["loss"]
        assert torch.allclose(found[i], alone, rtol=2e-2)
        right, _ = step(state, batch)
        for leaf, value in right.params.items():
            assert torch.allclose(after.params[leaf][i], value, atol=2e-3), leaf
    grads, _ = per_example_grads(net)(states[0].params, states[0].buffers, batch)
    assert all(g.isfinite().all() for g in grads.values())


@pytest.mark.parametrize("size", [1.0, 1e3, 1e4])
def test_statistics_of_a_cast_net_are_those_of_the_data(size):
    torch.manual_seed(0)
    norm = layers.BatchNorm(3)
    params, buffers = norm.init(None)
    batches = [(size * torch.randn(64, 3), torch.zeros(64)) for _ in range(5)]
    right = torch.stack([x.var(0) for x, _ in batches]).mean(0)
    found = update_batchnorm(cast(norm, torch.bfloat16), params, buffers, batches)["running_var"]
    assert torch.allclose(found, right, rtol=5e-3)


def test_statistics_beyond_half_precision_are_averaged_first():
    half = lambda part: {n: v.half() if v.is_floating_point() else v for n, v in part.items()}
    norm = layers.BatchNorm(1)
    params, buffers = map(half, norm.init(None))
    x = torch.tensor([[0.0], [600.0]]).half()
    (theirs := nn.BatchNorm1d(1).half())(x)
    found = norm.apply(params, buffers, x, train=True)[1]["running_var"]
    assert found.dtype == torch.float16
    assert torch.equal(found, theirs.running_var)


@pytest.mark.parametrize("index", [0, 3, -100])
@pytest.mark.parametrize(
    "make", [nn.CrossEntropyLoss, lambda **k: functools.partial(F.cross_entropy, **k)]
)
def test_targets_that_the_loss_ignores_are_not_counted(index, make):
    z = torch.full((1, 4, 4), -5.0)
    for t, c in enumerate([1, 2, 1, 1]):
        z[0, c, t] = 5.0
    net, y = layers.elementwise(lambda x: x), torch.tensor([[1, 2, index, index]])
    for targets in (y, y.int()) if make is not nn.CrossEntropyLoss else (y,):
        found = metrics_fn(net, make(ignore_index=index))({}, {}, (z, targets.long()))
        assert (found["loss"] < 1e-3, float(found["accuracy"])) == (True, 1.0)


@pytest.mark.parametrize("width", [8, 4096])
def test_a_state_does_not_change_with_the_module_that_it_began_at(width):
    net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    state = train_state(dict(net.named_parameters()), {}, optim.adam(1e-3), KEY)
    first = {name: leaf.clone() for name, leaf in state.params.items()}
    with torch.no_grad():
        for leaf in net.parameters():
            leaf += 1
    assert all(torch.equal(state.params[name], first[name]) for name in first)


def test_weighted_examples_are_targets_of_two_parts():
    weighted = lambda z, t: (t[1] * F.cross_entropy(z, t[0], reduction="none")).mean()
    net, x = MLP(4, [8], 3), torch.as_tensor(random.normal(KEY, (6, 4)))
    y, w = torch.arange(6) % 3, torch.linspace(0.1, 1, 6)
    params, _ = net.init(KEY)
    right, (_, metrics) = grad_fn(net, weighted)(params, {}, (x, (y, w)), None)
    assert metrics.keys() == {"loss"}
    grads, _ = per_example_grads(net, weighted)(params, {}, (x, (y, w)))
    assert all(torch.allclose(grads[n].mean(0), right[n], atol=1e-6) for n in right)
    norms = ghost_norms(net, weighted)(params, {}, (x, (y, w)))[0]
    each = [tree.norm({n: g[i] for n, g in grads.items()}) for i in range(6)]
    assert torch.allclose(norms, torch.stack(each), rtol=1e-5)


@pytest.mark.parametrize("f", [losses.mse, losses.huber(1.0), losses.binary_cross_entropy, r2])
def test_complex_targets_are_refused(f):
    """The imaginary part would be dropped."""
    with pytest.raises(UserError, match="complex, needs real numbers"):
        f(torch.tensor([1.0, 2.0]), torch.tensor([1 + 9j, 2 - 3j]))
