import math

import numpy as np
import pytest
import torch
from scipy import stats

from core import random
from core.base import UserError
from torch_nets import layers


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
