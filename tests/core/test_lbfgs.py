"""L-BFGS and its line search against torch's, iterate for iterate."""

import math

import numpy as np
import pytest
import torch
from torch.optim.lbfgs import _strong_wolfe

from purenets import optim, scan, tree
from purenets.core.optim.line_search.search import advance_search, begin_search

WOLFE = {"line_search_fn": "strong_wolfe"}
N = 17  # params of each problem; the smaller ones do not use the last


# --- three problems -------------------------------------------------------------------------------


def least_squares(x, data):
    """Mean of (A x - b)^2, with A (8, 4) and b (8,) of `data`."""
    matrix, target = data[:32].reshape(8, 4), data[32:]
    return ((matrix @ x[:4] - target) ** 2).mean()


def rosenbrock(x, data):
    return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def mlp(x, data):
    """The squared error of a net 3-3-1 with tanh, on 10 examples of `data`, with weight decay."""
    inputs, targets = data[:30].reshape(10, 3), data[30:40]
    hidden = torch.tanh(inputs @ x[:9].reshape(3, 3).T + x[9:12])
    return ((hidden @ x[12:15] + x[15] - targets) ** 2).mean() + 0.05 * (x**2).sum()


PROBLEMS = {"least squares": least_squares, "Rosenbrock": rosenbrock, "MLP": mlp}


def problems(name: str, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """First params (n, N) and data (n, 40) of n problems of a kind.

    Rosenbrock's begin right of the valley, and the net's weights decay: elsewhere an error of
    rounding may grow to 1e-7 on the way, in torch's own iterates from two neighboring points too.
    """
    draw = np.random.default_rng(len(name)).normal
    x, data = draw(size=(n, N)), draw(size=(n, 40))
    if name == "Rosenbrock":
        x = np.array([1.5, 1.0] + [0.0] * (N - 2)) + 0.1 * x
    return torch.tensor(x), torch.tensor(data)


def torch_path(f, x: torch.Tensor, data: torch.Tensor, updates: int, **hyper):
    """The params (updates, N) after each step of torch.optim.LBFGS, and its state."""
    p = torch.nn.Parameter(x.clone())
    optimizer, path = torch.optim.LBFGS([p], **hyper), []

    def closure():
        value = f(p, data)
        (p.grad,) = torch.autograd.grad(value, p)
        return value

    for _ in range(updates):
        optimizer.step(closure)
        path.append(p.detach().clone())
    return torch.stack(path), optimizer.state[p]


def our_path(f, x, data, updates: int, **hyper):
    """The same of ours, as one scan."""
    optimizer, both = optim.lbfgs(**hyper), torch.func.grad_and_value(f)

    def value_and_grad(params):
        slope, value = both(params["x"], data)
        return value, {"x": slope}

    def step(carry, _):
        params, state = carry
        value, grads = value_and_grad(params)
        moves, state = optimizer.update(
            grads, state, params, value=value, value_and_grad_fn=value_and_grad
        )
        params = optim.apply_updates(params, moves)
        return (params, state), params["x"]

    params = {"x": x}
    (_, state), path = scan(step, (params, optimizer.init(params)), length=updates)
    return path, state


# --- the optimizer --------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", PROBLEMS)
def test_100_runs_under_vmap_equal_100_of_torchs(problem):
    """Over the first 20 iterations; the searches take different numbers of evaluations."""
    hyper = {"max_iter": 1, "max_eval": 25, "history_size": 10, **WOLFE}
    f, (x, data) = PROBLEMS[problem], problems(problem, 100)
    found = torch.func.vmap(lambda x, data: our_path(f, x, data, 20, **hyper)[0])(x, data)
    for start, each, path in zip(x, data, found, strict=True):
        expected, _ = torch_path(f, start, each, 20, **hyper)
        assert (path - expected).abs().max() < 1e-10
        assert f(path[-1], each) < f(start, each)


SETTINGS = {
    "defaults": ({}, 2),
    "a step each": ({"max_iter": 1, "lr": 0.1}, 15),
    "few evaluations": ({"max_iter": 9, "max_eval": 4, "lr": 0.1}, 4),
    "search": (WOLFE, 2),
    "search, one evaluation": ({"max_iter": 1, **WOLFE}, 12),
    "search, short history": ({"max_iter": 6, "max_eval": 40, "history_size": 2, **WOLFE}, 3),
    "search, long first step": ({"max_iter": 8, "lr": 30.0, **WOLFE}, 2),
    "search, loose": (
        {"tolerance_grad": 1e-2, "tolerance_change": 1e-3, "history_size": 5, **WOLFE},
        3,
    ),
}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_every_update_equals_torchs(problem, setting):
    hyper, updates = SETTINGS[setting]
    f, (xs, datas) = PROBLEMS[problem], problems(problem, 4)
    for x, data in zip(xs, datas, strict=True):
        expected, theirs = torch_path(f, x, data, updates, **hyper)
        path, state = our_path(f, x, data, updates, **hyper)
        scale = max(1.0, float(expected.abs().max()))
        assert (path - expected).abs().max() < 1e-9 * scale
        assert int(state["n_iter"]) == theirs["n_iter"]
        if hyper.get("line_search_fn"):  # without, torch saves an evaluation in the last iteration
            assert int(state["func_evals"]) == theirs["func_evals"]


@pytest.mark.parametrize("setting", SETTINGS)
def test_numpy_equals_torch(setting):
    hyper, updates = SETTINGS[setting]
    (x, *_), (data, *_) = problems("least squares", 1)
    optimizer, both = optim.lbfgs(**hyper), torch.func.grad_and_value(least_squares)

    def value_and_grad(params):
        vector = torch.tensor(np.concatenate([params["a"].reshape(-1), params["b"]]))
        slope, value = both(vector, data)
        return value.numpy(), {"a": slope[:12].numpy().reshape(4, 3), "b": slope[12:].numpy()}

    params = {"a": x[:12].numpy().reshape(4, 3), "b": x[12:].numpy()}
    state = optimizer.init(params)
    for expected in our_path(least_squares, x, data, updates, **hyper)[0]:
        value, grads = value_and_grad(params)
        moves, state = optimizer.update(
            grads, state, params, value=value, value_and_grad_fn=value_and_grad
        )
        params = optim.apply_updates(params, moves)
        found = np.concatenate([params["a"].reshape(-1), params["b"]])
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-9)
    kept = {name: leaf for name, leaf in state.items() if name not in ("n_iter", "func_evals")}
    assert {leaf.dtype for leaf in kept.values()} == {np.dtype("float64")}


def test_at_a_minimum_nothing_changes():
    params = {"x": torch.tensor([1.0, 1.0], dtype=torch.float64)}
    optimizer = optim.lbfgs(**WOLFE)
    state = optimizer.init(params)
    grads, value = torch.func.grad_and_value(lambda p: rosenbrock(p["x"], None))(params)
    moves, after = optimizer.update(
        grads, state, params, value=value, value_and_grad_fn=lambda p: (value, grads)
    )
    assert (moves["x"] == 0).all()
    assert all(torch.equal(after[name], state[name]) for name in state if name != "func_evals")


def test_an_update_ends_with_its_last_evaluation_where_nothing_traces():
    (x, *_), (data, *_) = problems("least squares", 1)
    calls = []

    def counted(x, data):
        calls.append(1)
        return least_squares(x, data)

    _, theirs = torch_path(least_squares, x, data, 1, max_eval=500, max_iter=200, **WOLFE)
    our_path(counted, x, data, 1, max_eval=500, max_iter=200, **WOLFE)
    assert len(calls) == theirs["func_evals"] < 50


def test_history_of_half_precision_params_is_float32():
    params = {"x": torch.tensor([1.5, 1.0]).bfloat16(), "y": torch.ones(2).bfloat16()}
    optimizer = optim.lbfgs(history_size=3, **WOLFE)

    def value_and_grad(params):
        grads, value = torch.func.grad_and_value(
            lambda p: ((p["x"] - 3) ** 2).sum() + (p["y"] ** 2).sum()
        )(params)
        return value, grads

    state = optimizer.init(params)
    for _ in range(2):
        value, grads = value_and_grad(params)
        moves, state = optimizer.update(
            grads, state, params, value=value, value_and_grad_fn=value_and_grad
        )
        assert {leaf.dtype for leaf in moves.values()} == {torch.float32}
        params = optim.apply_updates(params, moves)
    assert {leaf.dtype for leaf in state.values()} == {torch.float32, torch.int64}
    assert torch.allclose(params["x"].float(), torch.tensor(3.0), atol=0.05)


# --- the line search ------------------------------------------------------------------------------


def lines(i: int):
    """The i-th function of a step t, with its slope: smooth, with several minima, or steep."""
    a, b, c, d = np.random.default_rng(i).uniform(0.2, 3.0, 4)
    kinds = (
        (
            lambda t: a * (t - b) ** 2 + c * math.sin(d * t),
            lambda t: 2 * a * (t - b) + c * d * math.cos(d * t),
        ),
        (
            lambda t: math.log1p((a * t - b) ** 2),
            lambda t: 2 * a * (a * t - b) / (1 + (a * t - b) ** 2),
        ),
        (
            lambda t: math.exp(min(c * t, 300)) - 5 * d * t,
            lambda t: c * math.exp(min(c * t, 300)) - 5 * d,
        ),
        (
            lambda t: abs(t - b) ** 1.5,
            lambda t: 1.5 * abs(t - b) ** 0.5 * math.copysign(1, t - b),
        ),
    )
    return kinds[i % len(kinds)]


def search_line(f, slope, t, limit, convert):
    """The step of the state machine, the loss there and the number of evaluations."""

    def point(t):
        number = {"t": t, "f": convert(f(float(t))), "slope": convert(slope(float(t)))}
        return {**number, "g": number["slope"][None]}

    start = point(convert(0.0))
    search, finished = begin_search(convert(t), start), False
    while not finished:
        search, finished, best = advance_search(
            search, point(search["t"]), start, convert(1.0), convert(limit)
        )
    return float(best["t"]), float(best["f"]), int(search["evaluations"])


CONVERT = {
    "numpy": lambda x: np.asarray(x, dtype=np.float64),
    "torch": lambda x: torch.tensor(x, dtype=torch.float64),
}


@pytest.mark.parametrize("backend", CONVERT)
@pytest.mark.parametrize("t", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("limit", [0, 1, 4, 25])
def test_line_search_equals_torchs(t, limit, backend):
    searched = 0
    for i in range(60):
        f, slope = lines(i)
        if slope(0.0) >= 0:
            continue
        searched += 1
        d = torch.ones(1, dtype=torch.float64)

        def objective(x, t, d, f=f, slope=slope):
            return f(float(t)), torch.tensor([slope(float(t))], dtype=torch.float64)

        grad = torch.tensor([slope(0.0)], dtype=torch.float64)
        value, _, step, calls = _strong_wolfe(
            objective, None, t, d, f(0.0), grad, grad.dot(d), max_ls=limit
        )
        found = search_line(f, slope, t, limit, CONVERT[backend])
        assert found == pytest.approx((float(step), value, calls), rel=1e-9, abs=1e-12), i
    assert searched > 30


@pytest.mark.parametrize("backend", CONVERT)
def test_steps_satisfy_the_strong_wolfe_conditions(backend):
    """Along the updates of another optimizer; the params end at a minimum."""
    convert = CONVERT[backend]
    matrix = np.random.default_rng(0).normal(size=(4, 4))

    def value_and_grad(params):
        x = np.asarray(params["x"])
        z = matrix @ x - 1
        return convert(np.log(np.cosh(z)).sum()), {"x": convert(matrix.T @ np.tanh(z))}

    rms = optim.chain(optim.scale_by_rms(0.9), optim.scale_by_learning_rate(1.0))
    for direction in (None, rms):
        optimizer = optim.strong_wolfe(5.0, direction, c1=1e-3, c2=0.5)
        params = {"x": convert([2.0, -1.0, 0.5, 3.0])}
        state, first = optimizer.init(params), float(value_and_grad(params)[0])
        for _ in range(25):
            value, grads = value_and_grad(params)
            moves, state = optimizer.update(
                grads, state, params, value=value, value_and_grad_fn=value_and_grad
            )
            new = optim.apply_updates(params, moves)
            after, slopes = value_and_grad(new)
            before, there = (float((g["x"] * moves["x"]).sum()) for g in (grads, slopes))
            assert before < 0
            assert float(after) <= float(value) + 1e-3 * before + 1e-12
            assert abs(there) <= 0.5 * abs(before) + 1e-9
            params = new
        assert float(value) < 0.1 * first


def test_uphill_the_params_stay():
    optimizer = optim.strong_wolfe(direction=optim.stateless(lambda grads, params: grads))
    params = {"x": np.array([1.0, 2.0])}
    moves, _ = optimizer.update(
        params,
        optimizer.init(params),
        params,
        value_and_grad_fn=lambda p: ((p["x"] ** 2).sum() / 2, p),
    )
    assert (moves["x"] == 0).all()


def test_states_hold_vectors_of_all_leaves(params):
    state = optim.lbfgs(history_size=7).init(params)
    n = tree.size(params)
    assert state["old_dirs"].shape == state["old_stps"].shape == (7, n)
    assert state["d"].shape == (n,)


def barrier(params):
    """A loss that is NaN for a negative w, and its gradient."""
    f = lambda p: (-p["w"].log() + p["w"] ** 2).sum()
    grads, value = torch.func.grad_and_value(f)(params)
    return value, grads


def test_strong_wolfe_never_ends_where_the_loss_is_nan():
    params = {"w": torch.tensor([0.05, 3.0], dtype=torch.float64)}
    value, grads = barrier(params)
    search = optim.strong_wolfe()
    updates, _ = search.update(
        grads, search.init(params), params, value=value, value_and_grad_fn=barrier
    )
    assert barrier(optim.apply_updates(params, updates))[0] < value


@pytest.mark.parametrize("name", ["backtracking", "strong_wolfe", "lbfgs"])
def test_params_stay_where_the_gradient_is_nan(name):
    value_and_grad = lambda p: (np.float32(2), {"w": np.array([np.nan, 1], np.float32)})
    params, search = {"w": np.ones(2, np.float32)}, getattr(optim, name)()
    value, grads = value_and_grad(params)
    updates, _ = search.update(
        grads, search.init(params), params, value=value, value_and_grad_fn=value_and_grad
    )
    assert updates["w"].tolist() == [0, 0]
