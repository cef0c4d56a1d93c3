"""Langevin samplers against the distributions that their recursions have on quadratic losses, and
their draws on every path.
"""

import functools

import numpy as np
import pytest
import torch

from purenets import (
    UserError,
    init_state,
    make_step,
    optim,
    random,
    scan,
    schedules,
    train_state,
    tree,
)
from purenets.core.vector_dict import VectorDict, vector_of
from purenets.torch_nets import MLP, ensemble, grad_fn, jit, stack_states, unstack_states

KEY = random.key(0)
LR, T = 0.1, 0.5
CURVATURE = {"flat": 0.5, "steep": 4.0}  # of a quadratic loss, one for each leaf
CHAINS = 20_000  # elements of a leaf: each is a chain of its own
by_sampler = pytest.mark.parametrize("name", optim.SAMPLERS)
by_library = pytest.mark.parametrize(
    "convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"]
)


def zeros(convert, n: int = CHAINS) -> dict:
    return {name: convert(np.zeros(n)) for name in CURVATURE}


def quadratic(params, buffers, batch, key):
    grads = {name: CURVATURE[name] * p for name, p in params.items()}
    return grads, (buffers, {"loss": sum((g * g).sum() for g in grads.values())})


def run(optimizer, params, steps: int):
    state = train_state(params, {}, optimizer, KEY)
    step = make_step(quadratic, optimizer)
    for _ in range(steps):
        state, _ = step(state, None)
    return state


def stationary(name: str, a: float, momentum: float = 0.9) -> np.ndarray:
    """Return the covariance of (p, v) of the linear recursion, S = A S A^T + Q, solved exactly."""
    if name == "sgld":
        A, Q = np.array([[1 - LR * a]]), np.array([[2 * LR * T]])
    else:
        A = np.array([[1 - LR * a, momentum], [-LR * a, momentum]])
        Q = 2 * (1 - momentum) * LR * T * np.ones((2, 2))
    n = len(A)
    return np.linalg.solve(np.eye(n * n) - np.kron(A, A), Q.reshape(-1)).reshape(n, n)


@by_library
@by_sampler
def test_chains_settle_at_the_stationary_distribution(name, convert):
    state = run(optim.SAMPLERS[name](LR, key=KEY, temperature=T), zeros(convert), 250)
    for leaf, a in CURVATURE.items():
        p = np.asarray(state.params[leaf])
        variance = stationary(name, a)[0, 0]
        error = variance * (2 / CHAINS) ** 0.5
        assert abs(p.var() - variance) < 4 * error
        assert abs(p.mean()) < 4 * (variance / CHAINS) ** 0.5
        kurtosis = ((p - p.mean()) ** 4).mean() / p.var() ** 2
        assert abs(kurtosis - 3) < 4 * (24 / CHAINS) ** 0.5  # normal
        assert variance == pytest.approx(T / a, rel=0.3)  # and close to exp(-L / T)


def test_velocity_of_sghmc_has_its_temperature():
    state = run(optim.sghmc(LR, key=KEY, temperature=T), zeros(np.asarray), 250)
    velocity = optim.get_state(state.opt_state, "momentum_buffer")
    for leaf, a in CURVATURE.items():
        S = stationary("sghmc", a)
        found = np.cov(np.stack([state.params[leaf], velocity[leaf]]))
        scale = np.sqrt(np.outer(S.diagonal(), S.diagonal()))
        assert np.abs((found - S) / scale).max() < 4 * (2 / CHAINS) ** 0.5


@pytest.mark.parametrize("name", ["sgld", "sghmc"])
def test_smaller_rate_is_closer_to_the_distribution_of_the_loss(name):
    """The error of the variance is of the order of the rate."""
    small = optim.SAMPLERS[name](LR / 10, key=KEY, temperature=T)
    state = run(small, {"steep": np.zeros(CHAINS)}, 1000)
    error = abs(state.params["steep"].var() / (T / 4) - 1)
    assert error < 4 * (2 / CHAINS) ** 0.5 + LR / 10 * 4 / 2
    coarse = stationary(name, 4.0)[0, 0] / (T / 4) - 1
    assert error < abs(coarse) / 3


def test_updates_are_the_formulas_with_noise_of_the_key():
    """Welling and Teh's update, and Chen's equation 15, by hand with the draws of the state."""
    params = {"w": np.ones((2, 3)), "b": np.full(3, 2.0)}
    grads = {"w": np.full((2, 3), 0.5), "b": np.array([1.0, -1.0, 0.0])}
    xi = [random.normal(random.fold_in(KEY, i), (9,), "float64") for i in range(2)]
    noise = [{"w": z[:6].reshape(2, 3), "b": z[6:]} for z in xi]
    sgld = optim.sgld(0.2, key=KEY, temperature=3.0, weight_decay=0.1)
    sghmc = optim.sghmc(0.2, 0.75, key=KEY, temperature=3.0)
    a, b = sgld.init(params), sghmc.init(params)
    v = tree.zeros_like(params)
    for i in range(2):
        moved, a = sgld.update(grads, a, params)
        turned, b = sghmc.update(grads, b, params)
        for leaf in params:
            g = grads[leaf] + 0.1 * params[leaf]
            right = -0.2 * g + np.sqrt(2 * 0.2 * 3.0) * noise[i][leaf]
            np.testing.assert_allclose(moved[leaf], right, rtol=1e-14)
            v[leaf] = (
                0.75 * v[leaf] - 0.2 * grads[leaf] + np.sqrt(2 * 0.25 * 0.2 * 3.0) * noise[i][leaf]
            )
            np.testing.assert_allclose(turned[leaf], v[leaf], rtol=1e-14)
    assert a["2"]["count"] == b["1"]["count"] == 2


@by_sampler
def test_temperature_0_is_the_descent(name):
    plain = optim.sgd(LR) if name == "sgld" else optim.sgd(LR, momentum=0.9)
    ones = {leaf: np.ones(3) for leaf in CURVATURE}
    cold = run(optim.SAMPLERS[name](LR, key=KEY, temperature=0.0), ones, 20)
    right = run(plain, ones, 20)
    for leaf in CURVATURE:
        np.testing.assert_allclose(cold.params[leaf], right.params[leaf], rtol=1e-12)


def test_sghmc_without_momentum_is_sgld():
    a = run(optim.sghmc(LR, 0.0, key=KEY, temperature=T), zeros(np.asarray, 5), 10)
    b = run(optim.sgld(LR, key=KEY, temperature=T), zeros(np.asarray, 5), 10)
    assert all(np.array_equal(a.params[leaf], b.params[leaf]) for leaf in CURVATURE)


def test_posterior_of_a_linear_regression():
    """Temperature 1 / n and a weight decay: the mean and covariance of the exact posterior."""
    n, prior = 30, 2.0
    x = random.normal(random.key(1), (n, 2), "float64")
    y = x @ np.array([1.0, -2.0]) + random.normal(random.key(2), (n,), "float64")
    precision = x.T @ x + prior * np.eye(2)
    mean, covariance = np.linalg.solve(precision, x.T @ y), np.linalg.inv(precision)

    def grad(params, buffers, batch, key):
        w = params["w"]  # (2, chains): the mean of (x w - y)^2 / 2
        return {"w": x.T @ (x @ w - y[:, None]) / n}, (buffers, {"loss": (w * w).sum()})

    optimizer = optim.sghmc(0.05, key=KEY, temperature=1 / n, weight_decay=prior / n)
    state = train_state({"w": np.zeros((2, 4000))}, {}, optimizer, KEY)
    step = make_step(grad, optimizer)
    for _ in range(500):
        state, _ = step(state, None)
    draws = state.params["w"]
    scale = np.sqrt(covariance.diagonal())
    assert np.abs((draws.mean(1) - mean) / scale).max() < 4 / 4000**0.5
    assert np.abs((np.cov(draws) - covariance) / np.outer(scale, scale)).max() < 0.1


# --- draws ----------------------------------------------------------------------------------------


@by_sampler
def test_same_key_same_chain_and_another_key_another(name):
    first, again, other = (
        run(optim.SAMPLERS[name](LR, key=random.key(seed)), zeros(np.asarray, 5), 10).params
        for seed in (0, 0, 1)
    )
    for leaf in CURVATURE:
        assert np.array_equal(first[leaf], again[leaf])
        assert not np.array_equal(first[leaf], other[leaf])
    assert not np.array_equal(first["flat"], first["steep"])


def test_successive_draws_and_leaves_are_not_correlated():
    params, draws = zeros(np.asarray), []
    transform = optim.add_langevin_noise(LR, key=KEY)
    state = transform.init(params)
    for _ in range(3):
        noise, state = transform.update(params, state, params)
        draws += noise.values()
    correlation = np.corrcoef(np.stack(draws)) - np.eye(6)
    assert np.abs(correlation).max() < 4.5 / CHAINS**0.5


@by_sampler
def test_update_runs_on_the_vector_of_all_leaves(name):
    params = zeros(np.asarray, 5)
    optimizer = optim.SAMPLERS[name](LR, key=KEY)
    state = train_state(params, {}, optimizer, KEY)
    assert vector_of(state.params) is not None
    grads, _ = quadratic(state.params, {}, None, None)
    on_vector, _ = optimizer.update(grads, state.opt_state, state.params)
    plain, _ = optimizer.update(grads, optimizer.init(params), params)
    assert isinstance(on_vector, VectorDict) or name == "sghmc"
    assert all(np.array_equal(on_vector[leaf], plain[leaf]) for leaf in CURVATURE)
    after, _ = make_step(quadratic, optimizer)(state, None)
    assert vector_of(after.params) is not None


@by_sampler
def test_chains_under_vmap_have_keys_of_their_own(name):
    """An ensemble of states from different keys is a loop over them."""
    model, batch = MLP(2, [3], 2), (torch.ones(4, 2), torch.tensor([0, 1, 0, 1]))
    make = functools.partial(optim.SAMPLERS[name], LR)
    keys = [torch.as_tensor(random.key(seed)) for seed in (3, 4, 3)]
    states = [init_state(model, make(key=key), torch.as_tensor(KEY)) for key in keys]
    step = make_step(grad_fn(model), make(key=KEY))
    many = stack_states(states)
    for _ in range(3):
        many, _ = ensemble(step, same_batch=True)(many, batch)
        states = [step(state, batch)[0] for state in states]
    for one, two in zip(unstack_states(many), states, strict=True):
        for leaf in one.params:
            assert torch.allclose(one.params[leaf], two.params[leaf], atol=1e-6)
    assert torch.equal(many.params["fc1.weight"][0], many.params["fc1.weight"][2])
    assert not torch.allclose(many.params["fc1.weight"][0], many.params["fc1.weight"][1])


def test_chain_in_a_compiled_scan_is_the_loop():
    optimizer = optim.sghmc(LR, key=KEY, temperature=T)
    params = zeros(torch.as_tensor, 5)
    state = train_state(params, {}, optimizer, KEY)
    step = make_step(quadratic, optimizer)

    def sampled(state):
        return scan(lambda s, _: ((s := step(s, None)[0]), s.params), state, None, length=8)

    last, draws = jit(sampled)(state)
    right = run(optimizer, params, 8)
    for leaf in CURVATURE:
        assert torch.allclose(last.params[leaf], right.params[leaf], rtol=1e-12, atol=1e-14)
        assert draws[leaf].shape == (8, 5)
        assert torch.equal(draws[leaf][-1], last.params[leaf])


@by_sampler
def test_rate_and_temperature_may_be_schedules_arrays_and_injected(name):
    make = optim.SAMPLERS[name]
    given = {"key": KEY, "temperature": T}
    right = run(make(LR, **given), zeros(torch.as_tensor, 5), 6).params
    heat = torch.tensor(T, dtype=torch.float64)
    for optimizer in (
        make(schedules.constant(LR), key=KEY, temperature=schedules.constant(T)),
        make(torch.tensor(LR, dtype=torch.float64), key=KEY, temperature=heat),
        optim.inject_hyperparams(make, lr=LR, **given),
    ):
        found = run(optimizer, zeros(torch.as_tensor, 5), 6).params
        for leaf in CURVATURE:
            assert torch.allclose(found[leaf], right[leaf], rtol=1e-12)
    rates = torch.tensor([0.01, LR], dtype=torch.float64)
    params = zeros(torch.as_tensor, 5)

    def first(lr):
        optimizer = make(lr, **given)
        return optimizer.update(params, optimizer.init(params), params)[0]["flat"]

    for i, mapped in enumerate(torch.func.vmap(first)(rates)):
        assert torch.allclose(mapped, first(float(rates[i])), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, torch.bfloat16, np.float32])
@by_sampler
def test_half_precision_params_draw_in_float32(name, dtype):
    wide = {leaf: np.full(5, 0.5, np.float32) for leaf in CURVATURE}
    half = {
        leaf: torch.as_tensor(p).to(dtype) if isinstance(dtype, torch.dtype) else p.astype(dtype)
        for leaf, p in wide.items()
    }
    optimizer = optim.SAMPLERS[name](LR, key=KEY)
    found, _ = optimizer.update(half, optimizer.init(half), half)
    right, _ = optimizer.update(wide, optimizer.init(wide), wide)
    for leaf in CURVATURE:
        assert str(found[leaf].dtype).endswith("float32")
        np.testing.assert_allclose(np.asarray(found[leaf]), right[leaf], rtol=1e-6)


@by_sampler
def test_complex_params_and_wrong_keys_are_refused(name):
    optimizer = optim.SAMPLERS[name](LR, key=KEY)
    with pytest.raises(UserError, match=f"{name}: w is complex128, needs real numbers"):
        optimizer.init({"w": np.zeros(3, complex)})
    with pytest.raises(
        UserError, match=rf"^{name}: key: 0 is no key; random\.key\(seed\) makes one"
    ):
        optim.SAMPLERS[name](LR, key=0)
    with pytest.raises(TypeError, match="key"):
        optim.SAMPLERS[name](LR)
