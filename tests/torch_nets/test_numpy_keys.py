"""A NumPy key stands for the same key of torch wherever a torch model or gradient draws."""

import numpy as np
import pytest
import torch
from torch import nn

from purenets import Model, UserError, random, tree
from purenets.torch_nets import MLP, augment, from_module, grad_fn, layers, update_batchnorm
from purenets.torch_nets.analysis import (
    curvature,
    diagonal,
    ghost,
    kfac,
    laplace,
    per_example,
    privacy,
    quadrature,
    trace,
)
from purenets.torch_nets.ensemble import deep_ensemble, per_member_grad_fn
from purenets.torch_nets.keys import key_like

KEY = random.key(3)


def same(f, key=KEY):
    """Assert that `f` returns the same tensors for a NumPy key and for that key in a tensor."""
    found, expected = f(key), f(torch.as_tensor(key))
    leaves = [*zip(_leaves(found), _leaves(expected), strict=True)]
    assert leaves
    for a, b in leaves:
        assert isinstance(a, torch.Tensor)
        assert torch.equal(a, b)


def _leaves(part):
    if isinstance(part, dict):
        part = part.values()
    if isinstance(part, torch.Tensor):
        return [part]
    return [leaf for inner in part for leaf in _leaves(inner)]


def Noisy():
    """A layer of one's own that draws from its key as it comes."""

    def apply(params, buffers, x, *, train=False, key=None):
        return x + random.normal(key, x.shape) if train else x, buffers

    return Model(lambda key: ({}, {}), apply, kind="Noisy")


MLP_WITH_DROPOUT = MLP(4, [8], 3, dropout=0.5)
MODELS = {
    "dropout": (layers.Dropout(0.5), (6, 4)),
    "mlp": (MLP_WITH_DROPOUT, (6, 4)),
    "attention": (layers.MultiheadAttention(4, 2, dropout=0.5), (6, 5, 4)),
    "transformer": (layers.TransformerBlock(4, 2, 8, dropout=0.5), (6, 5, 4)),
    "lstm": (layers.LSTM(4, 3, num_layers=2, dropout=0.5), (6, 5, 4)),
    "own layer": (layers.serial(noisy=Noisy(), fc=layers.Linear(4, 3)), (6, 4)),
    "residual": (layers.residual(noisy=Noisy()), (6, 4)),
    "deep ensemble": (deep_ensemble(layers.serial(n=Noisy(), fc=layers.Linear(4, 3)), 2), (6, 4)),
    "module": (from_module(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))), (6, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_every_model_that_draws_takes_a_numpy_key(name):
    model, shape = MODELS[name]
    params, buffers = model.init(random.key(0))
    x = random.normal(torch.as_tensor(random.key(1)), shape)
    same(lambda key: model.apply(params, buffers, x, train=True, key=key)[0])


model = MLP_WITH_DROPOUT
params, buffers = model.init(random.key(0))
x = random.normal(torch.as_tensor(random.key(1)), (6, 4))
batch = x, torch.arange(6) % 3
own = Noisy()

GRADIENTS = {
    "grad_fn": grad_fn(model),
    "mixup": augment.mixup(grad_fn(model), 3),
    "augmented": augment.augmented(grad_fn(model), lambda key, x: x + random.normal(key, x.shape)),
    "dp": privacy.dp_grad_fn(MLP(4, [8], 3), clip=1.0, noise_multiplier=1.0),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_every_gradient_takes_a_numpy_key(name):
    same(lambda key: GRADIENTS[name](params, buffers, batch, key)[0])


def test_the_gradients_of_members_take_a_numpy_key():
    members = per_member_grad_fn(grad_fn(model), 2)
    leaves, _ = deep_ensemble(model, 2).init(random.key(0))
    same(lambda key: members(leaves, {}, batch, key)[0])


@pytest.mark.parametrize(
    "make",
    [per_example.per_example_grads, per_example.per_example_grads_by_vmap, ghost.ghost_norms],
)
def test_gradients_of_examples_take_a_numpy_key(make):
    same(lambda key: make(model, train=True)(params, buffers, batch, key))


def test_check_per_example_takes_a_numpy_key():
    check = per_example.check_per_example
    error = check(model, params, buffers, batch, train=True, key=KEY)
    assert error == check(model, params, buffers, batch, train=True, key=torch.as_tensor(KEY))


IMAGES = random.normal(torch.as_tensor(random.key(1)), (6, 3, 8, 8))
AUGMENTATIONS = {
    "flip": augment.flip,
    "crop": augment.crop(2),
    "cutout": augment.cutout(3),
    "color_jitter": augment.color_jitter(0.3, 0.3),
    "chain": augment.chain(augment.flip, lambda key, x: x + random.normal(key, x.shape)),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_augmentation_takes_a_numpy_key(name):
    same(lambda key: AUGMENTATIONS[name](key, IMAGES))


def test_the_share_of_mixup_takes_a_numpy_key():
    same(augment.symmetric_beta(0.3))


P = {"w": torch.tensor([1.0, 2.0, 3.0]), "b": torch.ones(2, 2)}
product = lambda v: tree.map(lambda a: 3 * a, v)
halved = lambda v: tree.map(lambda a: 0.5 * a, v)
ANALYSES = {
    "hutchinson": lambda key: trace.hutchinson_trace(product, P, key, 4),
    "normal probes": lambda key: trace.hutchinson_trace(product, P, key, 4, distribution="normal"),
    "hutch++": lambda key: trace.hutchpp_trace(product, P, key, 6),
    "xtrace": lambda key: trace.xtrace(product, P, key, 6),
    "hutchinson_diag": lambda key: diagonal.hutchinson_diag(product, P, key, 4),
    "xdiag": lambda key: diagonal.xdiag(product, P, key, 6),
    "slq": lambda key: quadrature.slq_trace(torch.log, product, P, key, 1),
    "lanczos": lambda key: curvature.lanczos(product, P, key, 1),
    "direction": lambda key: curvature.filter_normalized_direction(P, key),
    "posterior": lambda key: laplace.sample_posterior(
        laplace.Posterior(P, halved, halved, torch.tensor(0.0)), key, 5
    ),
    "kfac": lambda key: kfac._combined(torch.ones(4, 3, 2), 2, key),
}


@pytest.mark.parametrize("name", ANALYSES)
def test_every_random_analysis_takes_a_numpy_key(name):
    same(ANALYSES[name])


def test_update_batchnorm_takes_a_numpy_key():
    net = layers.serial(drop=layers.Dropout(0.5), norm=layers.BatchNorm(4))
    leaves, state = net.init(random.key(0))
    same(lambda key: update_batchnorm(net, leaves, state, [batch], key=key))


def test_a_layer_of_ones_own_gets_a_tensor_from_grad_fn():
    keys = []

    def apply(params, buffers, x, *, train=False, key=None):
        keys.append(key)
        return x @ params["w"], buffers

    grad_fn(Model(lambda key: ({}, {}), apply))({"w": torch.ones(4, 3)}, {}, batch, KEY)
    assert all(isinstance(key, torch.Tensor) for key in keys)


def test_a_seed_is_still_no_key():
    with pytest.raises(UserError, match=r"key: 7 is no key; random.key\(seed\) makes one"):
        model.apply(params, buffers, x, train=True, key=7)


def test_a_key_is_put_on_the_device_of_the_first_tensor_within():
    meta = torch.zeros(2, device="meta")
    assert key_like(KEY, {"a": 3, "b": (meta,)}).device == meta.device
    assert key_like(KEY, {"a": np.zeros(2)}).device == torch.device("cpu")
    assert key_like(None, meta) is None
