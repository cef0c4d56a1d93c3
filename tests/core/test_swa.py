"""Stochastic weight averaging against torch.optim.swa_utils.AveragedModel, step for step."""

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from purenets import init_state, make_step, numpy_nets, optim, random, torch_nets, tree

STEPS = 30
RATE = 0.1


def gradient(params: dict, i: int) -> dict:
    noise = np.random.default_rng(i)
    return {name: np.sin(3 * p) + noise.normal(size=p.shape) for name, p in params.items()}


def torch_averages(start: int, every: int) -> list[dict]:
    """The params of torch's averaged model after each step of SGD."""
    module = torch.nn.Linear(3, 2).double()
    module.load_state_dict(first_params(torch.as_tensor))
    optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
    averaged, found = AveragedModel(module), []
    for i in range(STEPS):
        grads = gradient({n: p.detach().numpy() for n, p in module.named_parameters()}, i)
        for name, p in module.named_parameters():
            p.grad = torch.tensor(grads[name])
        optimizer.step()
        if i >= start and (i - start) % every == 0:
            averaged.update_parameters(module)
        source = averaged.module if averaged.n_averaged else module
        found.append({n: p.detach().numpy().copy() for n, p in source.named_parameters()})
    return found


def first_params(convert) -> dict:
    draw = np.random.default_rng(0).normal
    return {"weight": convert(draw(size=(2, 3))), "bias": convert(draw(size=2))}


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("start", "every"), [(0, 1), (4, 1), (7, 5)])
def test_every_average_equals_torchs(start, every, convert):
    optimizer = optim.chain(optim.sgd(RATE), optim.swa(start, every))
    params = first_params(convert)
    state = optimizer.init(params)
    for i, expected in enumerate(torch_averages(start, every)):
        grads = tree.map(convert, gradient(tree.map(np.asarray, params), i))
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
        for name, leaf in optim.get_state(state, "swa").items():
            np.testing.assert_allclose(np.asarray(leaf), expected[name], rtol=0, atol=1e-12)
    assert int(optim.get_state(state, "n_averaged")) == len(range(start, STEPS, every))


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_the_state_to_evaluate_has_the_average(nets):
    convert = np.asarray if nets is numpy_nets else torch.as_tensor
    net, optimizer = nets.MLP(2, [8], 2), optim.chain(optim.adam(0.1), optim.swa(3))
    x, y = convert(random.normal(random.key(1), (16, 2))), convert(np.arange(16) % 2)
    state, seen = init_state(net, optimizer, convert(random.key(0))), []
    step = make_step(nets.grad_fn(net), optimizer)
    for _ in range(8):
        state, _ = step(state, (x, y))
        seen.append(tree.map(np.asarray, state.params))
    found = optim.with_averaged_params(state).params
    for name, leaf in found.items():
        expected = np.mean([params[name] for params in seen[3:]], axis=0)
        np.testing.assert_allclose(np.asarray(leaf), expected, rtol=0, atol=1e-6)
        assert leaf.dtype == state.params[name].dtype
