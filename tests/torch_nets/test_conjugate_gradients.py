"""Conjugate gradients against dense solutions, with the Gauss-Newton matrix of small nets."""

import pytest
import torch
from torch.func import vmap

from purenets import UserError, make_step, optim, random, train_state, tree
from purenets.torch_nets import jit, layers
from purenets.torch_nets.analysis.conjugate_gradients import cg, gauss_newton_grad_fn
from purenets.torch_nets.analysis.curvature import ggn_vp
from purenets.torch_nets.analysis.operators import damped, to_dense
from purenets.torch_nets.grad import grad_fn
from purenets.torch_nets.losses import cross_entropy
from tests.torch_nets.test_trace import KEY, PARAMS, SPECTRA, N, matrix_of, net, product_of

M = matrix_of(SPECTRA["quadratic"])
B, UNRAVEL = random.normal(KEY, (N,), "float64"), tree.ravel(PARAMS)[1]
SOLUTION = torch.linalg.solve(M, B)


def vector_of(leaves):
    return tree.ravel(leaves)[0]


def gauss_newton(damping=1e-2):
    model, params, (x, y) = net()
    outputs, loss = (lambda p: model.apply(p, {}, x)[0]), (lambda z: cross_entropy(z, y))
    return damped(lambda v: ggn_vp(outputs, loss, params, v), damping), params


def test_solution_is_the_dense_one():
    x, info = cg(product_of(M), UNRAVEL(B), tol=1e-12)
    assert list(x) == list(PARAMS)
    assert torch.allclose(vector_of(x), SOLUTION, rtol=1e-8, atol=1e-12)
    assert info["residual"] <= 1e-12 * B.norm()
    assert info["iterations"] < 3 * N


def test_solution_of_a_damped_gauss_newton_matrix_is_the_dense_one():
    product, params = gauss_newton()
    grads = tree.map(lambda p: random.normal(KEY, p.shape, "float64"), params)
    x, _ = cg(product, grads, tol=1e-12)
    expected = torch.linalg.solve(to_dense(product, params), vector_of(grads))
    assert torch.allclose(vector_of(x), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_k_iterations_are_the_best_point_of_the_krylov_space(k):
    """The k-th iterate minimizes x A x / 2 - b x over span(b, A b, ...): a property of CG alone."""
    x, info = cg(product_of(M), UNRAVEL(B), tol=0.0, maxiter=k)
    K, _ = torch.linalg.qr(
        torch.stack([torch.linalg.matrix_power(M, i) @ B for i in range(k)], dim=1)
    )
    best = K @ torch.linalg.solve(K.T @ M @ K, K.T @ B)
    assert torch.allclose(vector_of(x), best, rtol=1e-6, atol=1e-12)
    assert info["iterations"] == k
    assert info["residual"] == pytest.approx(float((B - M @ vector_of(x)).norm()), rel=1e-8)


def test_first_guess_is_gone_on_from():
    right = UNRAVEL(SOLUTION)
    x, info = cg(product_of(M), UNRAVEL(B), right, tol=1e-8)
    assert info["iterations"] == 0
    assert all(torch.equal(x[name], right[name]) for name in x)
    near = UNRAVEL(SOLUTION + 1e-6 * B)
    x, info = cg(product_of(M), UNRAVEL(B), near, tol=1e-10)
    assert 0 < info["iterations"] < cg(product_of(M), UNRAVEL(B), tol=1e-10)[1]["iterations"]
    assert torch.allclose(vector_of(x), SOLUTION, rtol=1e-6, atol=1e-12)


def test_preconditioner_saves_iterations_and_the_inverse_all_of_them():
    scale = torch.logspace(0, 4, N, dtype=torch.float64)
    stretched = product_of(scale.sqrt() * M * scale.sqrt()[:, None])
    inverse = torch.linalg.inv(scale.sqrt() * M * scale.sqrt()[:, None])
    b = UNRAVEL(B)
    _, plain = cg(stretched, b, tol=1e-8)
    _, diagonal = cg(stretched, b, tol=1e-8, M=lambda v: UNRAVEL(vector_of(v) / scale))
    _, whole = cg(stretched, b, tol=1e-8, M=product_of(inverse))
    assert whole["iterations"] <= 2 < diagonal["iterations"] < plain["iterations"] / 2


def test_absolute_tolerance_and_a_right_side_of_0():
    x, info = cg(product_of(M), UNRAVEL(B), tol=0.0, atol=1e-3)
    assert 1e-4 < info["residual"] <= 1e-3
    x, info = cg(product_of(M), UNRAVEL(0 * B))
    assert info["iterations"] == 0
    assert not vector_of(x).any()


def test_solutions_under_jit_and_vmap_are_the_same():
    solve = lambda b: cg(product_of(M), b, tol=1e-10, maxiter=150)
    x, info = solve(UNRAVEL(B))
    compiled, compiled_info = jit(solve)(UNRAVEL(B))
    assert torch.allclose(vector_of(compiled), vector_of(x), rtol=1e-7, atol=1e-12)
    assert abs(compiled_info["iterations"] - info["iterations"]) <= 5  # they differ by rounding
    many = tree.stack([UNRAVEL(B), UNRAVEL(0 * B), UNRAVEL(B**2)])
    together, _ = vmap(solve)(many)
    for b, one in zip(tree.unstack(many), tree.unstack(together), strict=True):
        assert torch.allclose(
            vector_of(one), torch.linalg.solve(M, vector_of(b)), rtol=1e-6, atol=1e-12
        )


def test_order_and_names_of_what_a_product_returns():
    backwards = lambda v: dict(reversed(product_of(M)(v).items()))
    x, _ = cg(backwards, UNRAVEL(B), tol=1e-12)
    assert torch.allclose(vector_of(x), SOLUTION, rtol=1e-8, atol=1e-12)
    with pytest.raises(UserError, match="missing b"):
        cg(lambda v: {"a": v["a"]}, UNRAVEL(B))


# --- Gauss-Newton steps ---------------------------------------------------------------------------


def test_one_step_solves_a_linear_regression():
    model = layers.Linear(3, 2)
    params = tree.cast(model.init(KEY)[0], "float64")
    x, y = random.normal(KEY, (20, 3), "float64"), random.normal(KEY, (20, 2), "float64")
    loss = lambda z, y: ((z - y) ** 2).sum(1).mean()
    grad = gauss_newton_grad_fn(model, loss, damping=0.0, tol=1e-14, maxiter=50)
    optimizer = optim.sgd(1.0)
    state = train_state(params, {}, optimizer, KEY)
    state, metrics = make_step(grad, optimizer)(state, (x, y))
    best = torch.linalg.lstsq(torch.cat([x, torch.ones(20, 1)], dim=1), y).solution
    found = torch.cat([state.params["weight"].T, state.params["bias"][None]])
    assert torch.allclose(found, best, rtol=1e-9, atol=1e-10)
    assert metrics["loss"] == pytest.approx(float(loss(model.apply(params, {}, x)[0], y)))


def test_gradient_is_the_dense_solution_and_lowers_the_loss_more_than_one_as_long():
    model, params, batch = net()
    grad = gauss_newton_grad_fn(model, damping=0.1, tol=1e-12, maxiter=200)
    found, (_, metrics) = grad(params, {}, batch, None)
    plain, (_, plain_metrics) = grad_fn(model)(params, {}, batch, None)
    product, _ = gauss_newton(0.1)
    expected = torch.linalg.solve(to_dense(product, params), vector_of(plain))
    assert torch.allclose(vector_of(found), expected, rtol=1e-8, atol=1e-10)
    assert metrics == plain_metrics
    loss = lambda step: float(
        cross_entropy(model.apply(tree.map(torch.sub, params, step), {}, batch[0])[0], batch[1])
    )
    as_long = tree.map(lambda g: g / tree.norm(plain) * tree.norm(found), plain)
    assert loss(found) < loss(as_long) < float(metrics["loss"])


def test_step_runs_under_jit(traced_only):
    model, batch = layers.serial(fc=layers.Linear(3, 3)), net()[2]
    params, optimizer = tree.cast(model.init(KEY)[0], "float64"), optim.sgd(1.0)
    step = make_step(gauss_newton_grad_fn(model, maxiter=5), optimizer)
    state = train_state(params, {}, optimizer, KEY)
    eager, compiled = step(state, batch)[0], jit(step)(state, batch)[0]
    for name in params:
        assert torch.allclose(eager.params[name], compiled.params[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_solution_for_what_is_not_finite_is_no_number(bad):
    x, _ = cg(lambda v: {"w": 2 * v["w"]}, {"w": torch.tensor([bad, 1.0])})
    assert x["w"].isnan().all()
