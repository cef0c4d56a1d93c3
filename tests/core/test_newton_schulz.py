"""Newton-Schulz by the Gram matrix: the result of the direct order, in fewer multiplications."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from purenets import UserError, optim
from purenets.core.optim.methods.muon import COEFFICIENTS, newton_schulz

DRAW = np.random.default_rng(0).normal
MATRICES = {
    "wide": DRAW(size=(24, 200)),
    "tall": DRAW(size=(90, 12)),
    "filters": DRAW(size=(16, 8, 3, 3)),
    "of rank 3": DRAW(size=(24, 3)) @ DRAW(size=(3, 200)),
    "nearly square": DRAW(size=(24, 30)),
    "one row": DRAW(size=(1, 40)),
}


def by_svd(g: np.ndarray, steps: int) -> np.ndarray:
    """The iteration's polynomial on each singular value, without any iteration of matrices."""
    u, s, v = np.linalg.svd(g.reshape(len(g), -1), full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / np.sqrt((s**2).sum())
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (u * s @ v).reshape(g.shape)


@pytest.mark.parametrize("steps", [1, 3, 5, 7])
@pytest.mark.parametrize("name", MATRICES)
def test_both_orders_equal_the_polynomial_of_the_singular_values(name, steps):
    g = MATRICES[name]
    for method in ("direct", "gram"):
        found = newton_schulz(g, steps=steps, method=method)
        np.testing.assert_allclose(found, by_svd(g, steps), rtol=0, atol=1e-10)
        tensor = newton_schulz(torch.tensor(g), steps=steps, method=method)
        np.testing.assert_allclose(tensor.numpy(), found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", [3, 5])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MATRICES)
def test_the_gram_order_rounds_as_little_as_the_direct_one(name, precision, steps):
    g = torch.tensor(MATRICES[name], dtype=torch.float32)
    expected = torch.tensor(by_svd(MATRICES[name], steps), dtype=torch.float32)
    errors = {
        method: float(
            (newton_schulz(g, COEFFICIENTS, steps, 1e-7, precision, method) - expected).norm()
        )
        for method in ("direct", "gram")
    }
    unit = torch.finfo(getattr(torch, precision)).eps * float(expected.norm())
    assert errors["gram"] < 2 * errors["direct"] + 10 * unit


def flops(shape: tuple, method: str) -> int:
    with FlopCounterMode(display=False) as counter:
        newton_schulz(torch.randn(shape), steps=3, method=method)
    return counter.get_total_flops()


def test_the_gram_order_takes_less_than_half_of_the_multiplications_of_a_convolution():
    assert flops((32, 32, 3, 3), "gram") < 0.5 * flops((32, 32, 3, 3), "direct")
    assert flops((40, 32), "gram") == flops((40, 32), "direct")  # nearly square: it is the same


def test_muon_takes_the_method_in_compiled_and_vmapped_updates():
    optimizer = optim.muon(0.02, method="gram")
    params = {"w": torch.randn(6, 40)}
    grads = {"w": torch.randn(3, 6, 40)}
    state = optimizer.init(params)

    def update(g):
        return optimizer.update({"w": g}, state, params)[0]["w"]

    together = torch.func.vmap(update)(grads["w"])
    for one, g in zip(together, grads["w"], strict=True):
        torch.testing.assert_close(one, update(g))
        direct = optim.muon(0.02).update({"w": g}, state, params)[0]["w"]
        torch.testing.assert_close(one, direct, rtol=1e-3, atol=1e-5)
    compiled = torch.compile(update, fullgraph=True)(grads["w"][0])
    torch.testing.assert_close(compiled, together[0], rtol=1e-3, atol=1e-5)


def test_an_unknown_method_is_named():
    with pytest.raises(UserError, match="unknown method 'svd', choose from direct, gram"):
        optim.muon(method="svd")
