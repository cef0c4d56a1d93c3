"""The reduced VGG: as a torch function, as its nn.Module twin, and in NumPy by hand."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits

from benchmarks.twins import reduced_vgg
from purenets import (
    data,
    evaluate,
    fit,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    schedules,
    torch_nets,
    tree,
)
from purenets.numpy_nets import cnn_numpy
from purenets.torch_nets import cnn_model

SHAPES = {
    "conv1": (64, 3), "conv2": (128, 64), "conv3": (256, 128), "conv4": (256, 256),
    "conv5": (512, 256), "conv6": (512, 512), "conv7": (512, 512), "conv8": (512, 512),
}  # fmt: skip


def small(seed=0, size=32, batch=6):
    """A narrow CNN in both backends with the same float64 params, its twin, and a batch."""
    ours, by_hand = cnn_model.CNN(3, 10, width=1 / 16), cnn_numpy.CNN(3, 10, width=1 / 16)
    params, buffers = ours.init(random.key(seed))
    params, buffers = tree.cast(params, "float64"), tree.cast(buffers, "float64")
    module = reduced_vgg(1 / 16).double()
    module.load_state_dict({**params, **buffers})
    draw = np.random.default_rng(seed)
    batch = draw.normal(size=(batch, 3, size, size)), draw.integers(0, 10, batch)
    return ours, by_hand, module, params, buffers, batch


def close(a: dict, b: dict, tolerance: float) -> bool:
    scale = max(float(abs(leaf).max()) for leaf in b.values())
    return all(
        float(abs(np.asarray(a[k]) - np.asarray(b[k])).max()) <= tolerance * scale for k in b
    )


@pytest.mark.parametrize("backend", [cnn_model, cnn_numpy], ids=["torch", "numpy"])
def test_the_full_net_has_the_shapes_and_the_count_of_the_assignment(backend):
    params, buffers = backend.CNN(3, 10).init(random.key(0))
    assert tree.size(params) == 9_231_114
    assert {k.split(".")[0]: tuple(p.shape[:2]) for k, p in params.items() if p.ndim == 4} == SHAPES
    assert params["fc.weight"].shape == (10, 512)
    assert all(p.shape[2:] == (3, 3) for p in params.values() if p.ndim == 4)
    assert len(buffers) == 8 * 3


def test_draws_are_those_of_pytorch_in_distribution():
    params, _ = cnn_model.CNN(3, 10).init(random.key(0))
    for name in ("conv3.weight", "conv3.bias"):
        bound = 1 / math.sqrt(128 * 9)
        assert stats.kstest(params[name].flatten() / bound, stats.uniform(-1, 2).cdf).pvalue > 1e-3
    assert (params["norm3.weight"] == 1).all()
    assert (params["norm3.bias"] == 0).all()


def test_state_dict_goes_both_ways():
    ours, _, module, params, buffers, _ = small()
    assert module.state_dict().keys() == params.keys() | buffers.keys()
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    module = reduced_vgg(1 / 16).double().eval()
    state = dict(module.state_dict())
    new_params = {k: state[k] for k in params}
    assert torch.allclose(
        ours.apply(new_params, {k: state[k] for k in buffers}, x)[0], module(x), rtol=1e-12
    )


@pytest.mark.parametrize("size", [8, 32, 40])
def test_logits_gradients_and_buffers_equal_the_reduced_vgg(size):
    ours, _, module, params, buffers, (x, y) = small(size=size)
    x, y = torch.tensor(x), torch.tensor(y)
    grads, (new, metrics) = torch_nets.grad_fn(ours)(params, buffers, (x, y), None)
    loss = torch.nn.functional.cross_entropy(module.train()(x), y)
    loss.backward()
    assert abs(float(metrics["loss"] - loss.detach())) < 1e-12
    assert close(
        {k: g.numpy() for k, g in grads.items()},
        {k: p.grad.numpy() for k, p in module.named_parameters()},
        1e-10,
    )
    assert close(new, dict(module.named_buffers()), 1e-12)
    logits = ours.apply(params, new, x)[0]
    assert torch.allclose(logits, module.eval()(x), rtol=1e-10, atol=1e-12)


def test_buffers_and_params_equal_the_twin_after_50_steps():
    ours, _, module, params, buffers, _ = small()
    optimizer = optim.sgd(0.05, 0.9)
    state = init_state(ours, optimizer, random.key(0))
    state = state._replace(params=params, buffers=buffers, opt_state=optimizer.init(params))
    theirs = torch.optim.SGD(module.train().parameters(), 0.05, 0.9)
    step, draw = make_step(torch_nets.grad_fn(ours), optimizer), np.random.default_rng(5)
    for _ in range(50):
        x, y = torch.tensor(draw.normal(size=(8, 3, 32, 32))), torch.tensor(draw.integers(0, 10, 8))
        state, _ = step(state, (x, y))
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        theirs.step()
    assert close(state.buffers, dict(module.named_buffers()), 1e-10)
    assert close(state.params, {k: p.detach() for k, p in module.named_parameters()}, 1e-8)


def test_numpy_by_hand_equals_torch_func():
    ours, by_hand, _, params, buffers, (x, y) = small()
    host = torch_nets.to_numpy(params), torch_nets.to_numpy(buffers)
    a, (new_a, metrics_a) = numpy_nets.grad_fn(by_hand)(*host, (x, y), None)
    b, (new_b, metrics_b) = torch_nets.grad_fn(ours)(
        params, buffers, (torch.tensor(x), torch.tensor(y)), None
    )
    assert abs(float(metrics_a["loss"]) - float(metrics_b["loss"])) < 1e-12
    assert close(a, torch_nets.to_numpy(b), 1e-9)
    assert close(new_a, torch_nets.to_numpy(new_b), 1e-12)
    logits = by_hand.apply(host[0], new_a, x)[0]
    assert np.allclose(
        logits, ours.apply(params, new_b, torch.tensor(x))[0].numpy(), rtol=1e-10, atol=1e-12
    )


def test_numpy_and_torch_draw_the_same_convolutions():
    a, b = cnn_numpy.CNN(3, 10, width=1 / 16), cnn_model.CNN(3, 10, width=1 / 16)
    params, twins = a.init(random.key(4))[0], torch_nets.to_numpy(b.init(random.key(4))[0])
    assert all(
        np.array_equal(params[k], twins[k]) for k in params if k.startswith(("conv", "norm"))
    )


def test_numpy_cnn_learns_digits():
    images, targets = load_digits(return_X_y=True)
    images = ((images - images.mean()) / images.std()).astype(np.float32).reshape(-1, 1, 8, 8)
    train, test = data.split((images, targets), random.key(5), 0.2)
    model, optimizer = cnn_numpy.CNN(1, 10, width=1 / 4), optim.adam(schedules.one_cycle(1e-2, 300))
    state = init_state(model, optimizer, random.key(1))
    step = make_step(numpy_nets.grad_fn(model), optimizer)
    state, _ = fit(step, state, data.batches(train, 64, random.key(2)), steps=300)
    assert evaluate(numpy_nets.metrics_fn(model), state, test)["accuracy"] >= 0.97


def test_vmap_over_members_equals_a_loop():
    ours, _, _, params, buffers, (x, y) = small(batch=4, size=8)
    x, y = torch.tensor(x), torch.tensor(y)
    grad = torch_nets.grad_fn(ours)
    members = [tree.map(lambda p, s=s: p * s, params) for s in (1.0, 0.9)]
    mapped = torch.func.vmap(grad, in_dims=(0, None, None, None))
    together, (new, _) = mapped(tree.stack(members), buffers, (x, y), None)
    for i, member in enumerate(members):
        alone, (new_alone, _) = grad(member, buffers, (x, y), None)
        assert close({k: g[i] for k, g in together.items()}, alone, 1e-9)
        assert close({k: b[i] for k, b in new.items()}, new_alone, 1e-10)
