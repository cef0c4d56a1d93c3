"""Noise against the normal distribution and itself, the budget against integrals, batches against
their rate."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import log_ndtr

from purenets import UserError, make_step, optim, random, train_state, tree
from purenets.torch_nets import MLP
from purenets.torch_nets.analysis import noise
from purenets.torch_nets.analysis.accounting import log_erfc, rdp_epsilon, renyi_divergence
from purenets.torch_nets.analysis.noise import add_noise, normals
from purenets.torch_nets.analysis.privacy import dp_grad_fn, epsilon, noise_for, poisson_batches

KEY = torch.as_tensor(random.key(7))
ZEROS = {"a": torch.zeros(30, 7), "b": torch.zeros(5), "c": torch.zeros(3, 3, 4)}


# --- noise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_are_normal_and_independent(dtype):
    z = normals(KEY, 0, 200_000, dtype).double()
    assert stats.kstest(z, stats.norm.cdf).pvalue > 1e-3
    assert stats.kstest(z.view(-1, 4).square().sum(1), stats.chi2(4).cdf).pvalue > 1e-3
    for lag in (1, 2, 3):
        assert abs(float((z[lag:] * z[:-lag]).mean())) < 4 / len(z) ** 0.5
    assert z.abs().max() < 6.7


def test_any_part_of_the_draws_can_be_made_alone():
    whole = normals(KEY, 0, 103, torch.float32)
    assert torch.equal(normals(KEY, 40, 63, torch.float32), whole[40:])
    words = torch.stack(random.words(KEY, 0, 9), 1).flatten()
    assert torch.equal(torch.stack(random.words(KEY, 4, 5), 1).flatten(), words[16:])


@pytest.mark.parametrize("size", [4, 64, 1 << 16])
def test_leaves_get_the_same_noise_in_blocks_of_any_size(size, monkeypatch):
    monkeypatch.setattr(noise, "BLOCK", size)
    noisy = add_noise(ZEROS, KEY, 0.5)
    expected = 0.5 * normals(KEY, 0, 251, torch.float32)
    assert torch.equal(torch.cat([leaf.flatten() for leaf in noisy.values()]), expected)
    assert not any(leaf.any() for leaf in ZEROS.values())


def test_compiled_noise_is_the_same_within_rounding(monkeypatch):
    eager = add_noise(ZEROS, KEY, 0.5)
    monkeypatch.setattr(noise, "BLOCK", 128)
    monkeypatch.setattr(noise, "MIN_COMPILED", 1)
    noise._compiled.cache_clear()
    compiled = add_noise(ZEROS, KEY, 0.5)
    noise._compiled.cache_clear()
    for leaf, expected in eager.items():
        torch.testing.assert_close(compiled[leaf], expected, rtol=1e-5, atol=1e-6)


def test_noise_differs_from_step_to_step_and_from_member_to_member():
    keys = [random.fold_in(KEY, step) for step in range(3)] + [random.fold_in(KEY + 1, 0)]
    drawn = [torch.cat([z.flatten() for z in add_noise(ZEROS, key, 1.0).values()]) for key in keys]
    for i, a in enumerate(drawn):
        assert len(a.unique()) == len(a)
        assert not any(np.intersect1d(a, b).size for b in drawn[:i])
    together = torch.func.vmap(lambda key: add_noise(ZEROS, key, 1.0))(torch.stack(keys))
    for i, key in enumerate(keys):
        for leaf, z in add_noise(ZEROS, key, 1.0).items():
            torch.testing.assert_close(together[leaf][i], z)


def test_the_memory_is_reused_only_where_that_is_asked_for():
    grads = {**tree.map(torch.clone, ZEROS), "d": torch.zeros(4, 6).T}
    assert not any(leaf.any() for leaf in grads.values() if add_noise(grads, KEY, 1.0))
    noisy = add_noise(grads, KEY, 1.0, reuse=True)
    assert all(noisy[leaf] is grads[leaf] for leaf in ZEROS) and not grads["d"].any()
    wide = add_noise(tree.cast(ZEROS, "float64"), KEY, 1.0)
    assert {leaf.dtype for leaf in wide.values()} == {torch.float64}


def test_steps_of_a_training_have_noise_of_their_own():
    model, batch = MLP(3, [4], 2), (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))
    grad = dp_grad_fn(model, 1e-9, 1e9)  # nothing but noise
    step, (params, _) = make_step(grad, optim.sgd(1.0)), model.init(KEY)
    state = train_state(params, {}, optim.sgd(1.0), KEY)
    moves = []
    for _ in range(3):
        new, _ = step(state, batch)
        moves.append(tree.map(torch.sub, new.params, state.params)["fc1.weight"])
        state = new
    assert not any(torch.allclose(a, b) for a, b in ((moves[0], moves[1]), (moves[1], moves[2])))


# --- budget ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.1, 1.5, 2, 2.75, 3, 7.3, 12])
@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.1), (0.2, 0.7), (0.5, 3.0)])
def test_the_divergence_is_its_integral(alpha, q, sigma):
    def integrand(x):
        log_ratio = np.logaddexp(math.log1p(-q), math.log(q) + (2 * x - 1) / (2 * sigma**2))
        return math.exp(alpha * log_ratio + stats.norm.logpdf(x, scale=sigma))

    moment, _ = integrate.quad(integrand, -30 * sigma, alpha + 30 * sigma, limit=400, epsabs=0)
    found = renyi_divergence(alpha, q, sigma)
    assert found == pytest.approx(math.log(moment) / (alpha - 1), rel=1e-6, abs=1e-9)


def test_without_sampling_it_is_that_of_two_normal_distributions():
    assert renyi_divergence(3.5, 1.0, 2.0) == 3.5 / 8
    assert renyi_divergence(4, 1 - 1e-9, 2.0) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("x", [-30.0, -1.0, 0.0, 5.0, 19.999, 20.001, 100.0])
def test_log_erfc(x):
    assert log_erfc(x) == pytest.approx(math.log(2) + log_ndtr(-x * math.sqrt(2)), rel=1e-12)


def test_steps_add_up_and_noise_and_sampling_protect():
    assert epsilon(0, 0.01, 1.0, 1e-5) == 0
    spent = [epsilon(steps, 0.01, 1.1, 1e-5) for steps in (10, 100, 1000)]
    assert spent == sorted(spent) and spent[0] > 0
    assert epsilon(100, 0.01, 2.0, 1e-5) < spent[1] < epsilon(100, 0.02, 1.1, 1e-5)
    assert spent[1] < epsilon(100, 0.01, 1.1, 1e-7)


@pytest.mark.parametrize("target", [0.05, 1.0, 8.0])
def test_the_noise_for_a_budget_is_the_least(target):
    sigma = noise_for(target, 1e-5, 0.01, 1000)
    assert epsilon(1000, 0.01, sigma, 1e-5) <= target < epsilon(1000, 0.01, sigma * 0.9998, 1e-5)


@pytest.mark.parametrize(
    ("steps", "q", "sigma"), [(500, 0.01, 1.1), (10, 1.0, 5.0), (10, 0.5, 0.4)]
)
def test_the_budget_is_that_of_opacus(steps, q, sigma):
    accountants = pytest.importorskip("opacus.accountants")
    theirs = accountants.RDPAccountant()
    theirs.history.append((sigma, q, steps))
    assert rdp_epsilon(steps, q, sigma, 1e-5) == pytest.approx(theirs.get_epsilon(1e-5), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda: noise_for(0.0, 1e-5, 0.01, 100),
            "noise_for: epsilon: 0.0 is not a finite number above 0",
        ),
        (lambda: noise_for(1.0, 1e-5, 0.01, 0), "noise_for: steps is 0, needs a positive integer"),
        (lambda: noise_for(1e-4, 1e-5, 0.01, 100), "no noise gives an epsilon of 0.0001"),
        (lambda: noise_for(1.0, 2.0, 0.01, 100), r"delta 2.0 in \(0, 1\)"),
        (lambda: noise_for(1.0, 1e-5, 0.0, 100), r"sample_rate 0.0 in \(0, 1\]"),
    ],
)
def test_wrong_budgets_are_named(call, text):
    with pytest.raises(UserError, match=text):
        call()


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.03, 0.5, 1.0])
def test_each_example_is_drawn_at_the_rate_and_alone(rate):
    x = torch.arange(60)
    batches = poisson_batches((x, x), rate, KEY + 1)
    chosen = torch.stack([(x[:, None] == batches(i)[0]).any(1) for i in range(1500)]).double()
    total = int(chosen.sum())
    assert stats.binomtest(total, chosen.numel(), rate).pvalue > 1e-3
    if rate < 1:
        deviation = (rate * (1 - rate)) ** 0.5
        z = (chosen - rate) / deviation
        per_example = z.sum(0) / 1500**0.5  # standard normal each, if all have the same rate
        assert stats.kstest(per_example, stats.norm.cdf).pvalue > 1e-3
        pairs = (z.T @ z / 1500**0.5)[torch.triu_indices(60, 60, 1).unbind()]
        assert abs(float(pairs.std()) - 1) < 0.06 and abs(float(pairs.mean())) < 0.1
        follow = (z[1:] * z[:-1]).mean()
        assert abs(float(follow)) < 4 / (59 * 1500) ** 0.5


def test_noise_whose_square_is_no_float_is_refused():
    with pytest.raises(UserError, match="noise_multiplier 1e-155 above 1e-100"):
        epsilon(1, 0.5, 1e-155, 1e-5)


@pytest.mark.parametrize("dtype", [torch.cfloat, torch.cdouble])
@pytest.mark.parametrize("traced", [False, True])
def test_complex_numbers_have_noise_on_both_parts(dtype, traced):
    f = lambda key: add_noise({"z": torch.zeros(20_000, dtype=dtype)}, key, 2.0)["z"]
    key = torch.as_tensor(random.key(0))
    z = torch.func.vmap(f)(key[None])[0] if traced else f(key)
    assert z.dtype == dtype
    for part in (z.real, z.imag):
        assert 1.95 < float(part.std()) < 2.05
    assert abs(float((z.real * z.imag).mean())) < 0.1
