"""An update block by block is that of the whole leaves, and changes no argument."""

import numpy as np
import pytest
import torch

from purenets import optim, torch_nets, tree  # noqa: F401 (registers the kernels of torch)
from purenets.core.optim.internals import blocks
from purenets.core.optim.internals.elementwise import advance_fn
from purenets.core.optim.internals.kernels import KERNELS

ELEMENTWISE = {
    "rmsprop": optim.rmsprop(1e-2, momentum=0.9, centered=True),
    "nadam": optim.nadam(1e-2),
    "lion": optim.lion(1e-2, weight_decay=0.1),
    "adagrad": optim.adagrad(1e-2),
    "ema": optim.chain(optim.adam(1e-2), optim.ema(0.9)),
    "accumulate": optim.accumulate(optim.adam(1e-2), 2),
}
SHAPES = {"w": (130, 300), "b": (130,)}


def leaves(seed: int, convert) -> dict:
    draw = np.random.default_rng(seed)
    return {n: convert(draw.normal(size=s).astype(np.float32)) for n, s in SHAPES.items()}


def run(optimizer, convert, steps: int = 5):
    """Return the params and the state after some steps."""
    advance, params = advance_fn(optimizer), leaves(0, convert)
    state = optimizer.init(params)
    for i in range(steps):
        params, state = advance(leaves(1 + i, convert), state, params)
    return {"params": params, "state": state}


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_blocks_are_the_whole_leaves(name, convert, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1 << 20)
    whole = run(ELEMENTWISE[name], convert)
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    found = run(ELEMENTWISE[name], convert)
    tree.check_like(found, whole)
    for a, b in zip(tree.leaves(found), tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


@pytest.fixture
def calls(monkeypatch) -> list:
    """The sizes of the arrays that an update was computed on."""
    found, update = [], optim.transforms.tree.map

    def counted(f, tree, *rest):
        found.extend(leaf.size for leaf in tree.values() if isinstance(leaf, np.ndarray))
        return update(f, tree, *rest)

    monkeypatch.setattr(optim.transforms.tree, "map", counted)
    return found


def test_large_leaves_are_cut_and_strided_ones_are_not(calls):
    def sizes(params):
        optimizer = optim.rmsprop(1e-2)
        state = optimizer.init(params)
        calls.clear()
        advance_fn(optimizer)(params, state, params)
        return set(calls)

    small = {"w": np.ones((100, 300), np.float32)}
    assert sizes(small) == {small["w"].size}
    large = {"w": np.ones((300, 300), np.float32)}
    assert sizes(large) == {blocks.BLOCK, large["w"].size % blocks.BLOCK}
    strided = {"w": large["w"][:, ::2]}
    assert sizes(strided) == {strided["w"].size}


def test_no_argument_changes(monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 1000)
    optimizer, params, grads = optim.rmsprop(1e-2), leaves(0, np.asarray), leaves(1, np.asarray)
    state = optimizer.init(params)
    for leaf in tree.leaves({"params": params, "grads": grads, "state": state}):
        leaf.flags.writeable = False  # or writing raises
    new, _ = advance_fn(optimizer)(grads, state, params)
    assert all(np.abs(new[name] - p).max() > 0 for name, p in params.items())


def test_without_kernels_adam_of_large_leaves_is_the_same(monkeypatch):
    fused = run(optim.adam(1e-2), torch.as_tensor)
    monkeypatch.delitem(KERNELS, torch.Tensor)
    for a, b in zip(
        tree.leaves(run(optim.adam(1e-2), torch.as_tensor)), tree.leaves(fused), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
