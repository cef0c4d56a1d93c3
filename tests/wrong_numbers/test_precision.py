"""Half-precision and complex numbers."""

import pytest
import torch
from torch import nn

from purenets import optim, random, schedules, tree
from purenets.core.runs import checkpoint
from purenets.torch_nets import MLP
from tests.wrong_numbers.choice import or_refused

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))


def first_update(optimizer, grads, params):
    return optimizer.update(grads, optimizer.init(params), params)[0]["w"]


# --- bfloat16 -----------------------------------------------------------------------------

ONE, ZERO = {"w": torch.ones(1).bfloat16()}, {"w": torch.zeros(1).bfloat16()}


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the sum stands still at 256")
def test_mean_of_512_bfloat16_gradients_of_1_is_1():
    optimizer = optim.accumulate(optim.sgd(1.0), 512)
    state = optimizer.init(ZERO)
    for _ in range(512):
        updates, state = optimizer.update(ONE, state, ZERO)
    assert float(updates["w"]) == -1


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the average stands still at 0.25")
def test_average_of_bfloat16_params_comes_to_where_they_are():
    optimizer = optim.ema(0.999)
    state = optimizer.init(ZERO)
    for _ in range(3000):
        _, state = optimizer.update(ZERO, state, ONE)
    assert float(optim.get_state(state, "ema")["w"]) == pytest.approx(1 - 0.999**3000, rel=1e-2)


rounded = pytest.mark.xfail(strict=True, raises=AssertionError, reason="0.999 is rounded to 1: NaN")


ADAMS = {
    "number": lambda: optim.adam(0.1),
    "injected": lambda: optim.inject_hyperparams(optim.adam, lr=0.1, betas=(0.9, 0.999)),
    "schedule": lambda: optim.adam(0.1, betas=(0.9, schedules.constant(0.999))),
    "array": lambda: optim.adam(0.1, betas=(0.9, torch.tensor(0.999))),
}


@pytest.mark.parametrize(
    "name",
    ["number", *(pytest.param(name, marks=rounded) for name in ("injected", "schedule", "array"))],
)
def test_first_step_of_adam_in_bfloat16_is_as_long_as_its_rate(name):
    grads, params = {"w": torch.full((3,), 0.1).bfloat16()}, {"w": torch.ones(3).bfloat16()}
    found = first_update(ADAMS[name](), grads, params)
    assert found.tolist() == pytest.approx([-0.1] * 3, rel=1e-2)


@pytest.mark.xfail(strict=True, raises=TypeError, reason="NumPy has no bfloat16")
def test_checkpoint_of_bfloat16_params_comes_back(tmp_path):
    params = tree.cast(MLP(2, [8], 2).init(KEY)[0], "bfloat16")
    checkpoint.save(tmp_path, {"params": params}, {})
    found, _ = checkpoint.load(tmp_path, {"params": tree.zeros_like(params)})
    for name, leaf in params.items():
        assert found["params"][name].dtype == torch.bfloat16
        assert torch.equal(found["params"][name], leaf)


# --- float16 ------------------------------------------------------------------------------


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the square of 400 is infinite: 0")
def test_float16_gradient_is_clipped_to_its_norm():
    grads = {"w": torch.tensor([300.0, 400.0]).half()}
    found = first_update(optim.clip_by_global_norm(1.0), grads, grads)
    assert found.tolist() == pytest.approx([0.6, 0.8], rel=1e-2)


@pytest.mark.parametrize("scale", [100, 1e-4])
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="all 0, or NaN")
def test_step_of_muon_in_float16_is_as_long_as_in_float32(scale):
    grads = {"w": random.normal(KEY, (300, 400)) * scale}
    wide = first_update(optim.muon(0.02), grads, tree.zeros_like(grads))
    grads = tree.cast(grads, "float16")
    half = first_update(optim.muon(0.02), grads, tree.zeros_like(grads))
    assert float(half.float().norm()) == pytest.approx(float(wide.norm()), rel=5e-2)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="100 times too short")
def test_step_of_lars_in_float16_is_as_long_as_in_float32():
    grads, params = {"w": torch.full((4,), 1e-5)}, {"w": torch.ones(4)}
    right = first_update(optim.lars(0.1), grads, params)
    half = [tree.cast(part, "float16") for part in (grads, params)]
    found = first_update(optim.lars(0.1), *half)
    assert found.tolist() == pytest.approx(right.tolist(), rel=1e-2)


# --- draws --------------------------------------------------------------------------------


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="words of 24 bits are infinite")
def test_uniform_draws_in_float16_are_finite():
    assert random.uniform(KEY, (4096,), "float16").isfinite().all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="rounded up")
def test_uniform_draws_in_half_precision_are_below_1(dtype):
    draws = random.uniform(KEY, (4096,), dtype)
    assert (draws >= 0).all()
    assert (draws < 1).all()


# --- complex numbers ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adagrad", "Adadelta", "NAdam"])
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the imaginary part is lost")
def test_complex_params_move_as_in_torch_or_are_refused(name):
    leaf, grad = torch.tensor([1 + 0j]), torch.tensor([1 + 1j])
    theirs = nn.Parameter(leaf.clone())
    theirs.grad = grad.clone()
    getattr(torch.optim, name)([theirs], lr=0.1).step()

    def ours():
        return first_update(optim.OPTIMIZERS[name.lower()](lr=0.1), {"w": grad}, {"w": leaf})

    found = or_refused(ours)
    assert found is None or torch.allclose(found, theirs.detach() - leaf, rtol=1e-3, atol=1e-6)
