"""Traces and diagonals by few products against the whole matrix, and against their definitions
written out.
"""

import pytest
import torch
from torch.func import vmap

from purenets import UserError, random, tree
from purenets.torch_nets import MLP, jit
from purenets.torch_nets.analysis.curvature import eval_loss_fn, ggn_vp, hvp
from purenets.torch_nets.analysis.diagonal import ggn_diagonal, hutchinson_diag, xdiag
from purenets.torch_nets.analysis.operators import damped, draw_probes, matrix_product, to_dense
from purenets.torch_nets.analysis.trace import (
    hutchinson_trace,
    hutchpp_trace,
    sphere_columns,
    xtrace,
)
from purenets.torch_nets.losses import cross_entropy

KEY = torch.as_tensor(random.key(0))
N = 40
PARAMS = {
    "a": torch.zeros(6, 5, dtype=torch.float64),
    "b": torch.zeros(N - 30, dtype=torch.float64),
}
SPECTRA = {
    "exponential": 0.7 ** torch.arange(N, dtype=torch.float64),
    "quadratic": (1.0 + torch.arange(N, dtype=torch.float64)) ** -2,
}
TRACES = [hutchinson_trace, hutchpp_trace, xtrace]
DIAGONALS = [hutchinson_diag, xdiag]


def matrix_of(spectrum: torch.Tensor) -> torch.Tensor:
    """Return a symmetric matrix with these eigenvalues, turned by a random rotation."""
    Q, _ = torch.linalg.qr(random.normal(KEY, (N, N), "float64"))
    return Q @ torch.diag(spectrum) @ Q.T


def product_of(M: torch.Tensor):
    _, unravel = tree.ravel(PARAMS)
    return lambda v: unravel(M @ tree.ravel(v)[0])


def net():
    model = MLP(3, [4], 3, activation="tanh")
    params = tree.cast(model.init(KEY)[0], "float64")
    return model, params, (random.normal(KEY, (7, 3), "float64"), torch.arange(7) % 3)


# --- the operators themselves ---------------------------------------------------------------------


def test_dense_matrix_and_damping_are_those_of_the_product():
    M = matrix_of(SPECTRA["quadratic"])
    assert torch.equal(to_dense(product_of(M), PARAMS), M)
    assert torch.equal(to_dense(damped(product_of(M), 0.5), PARAMS), M + 0.5 * torch.eye(N))


@pytest.mark.parametrize("chunk_size", [1, 3, None])
def test_products_in_a_loop_and_under_vmap_are_the_same(chunk_size):
    model, params, batch = net()
    f = eval_loss_fn(model, {}, batch)
    A = matrix_product("test", lambda v: hvp(f, params, v), params, chunk_size)
    V = random.normal(KEY, (A.n, 5), "float64")
    H = to_dense(lambda v: hvp(f, params, v), params)
    assert torch.allclose(A.apply(V), H @ V, rtol=1e-12, atol=1e-13)


def test_product_in_another_order_of_the_names_is_put_right():
    M = matrix_of(SPECTRA["quadratic"])
    backwards = lambda v: dict(reversed(product_of(M)(v).items()))
    assert torch.equal(to_dense(backwards, PARAMS), M)
    with pytest.raises(UserError, match="missing b"):
        to_dense(lambda v: {"a": v["a"]}, PARAMS)


# --- estimates --------------------------------------------------------------------------------


def errors(estimate, spectrum: torch.Tensor, num_matvecs: int, n: int = 64) -> torch.Tensor:
    """Return the errors of n estimates, each with a key of its own."""
    M = matrix_of(spectrum)
    found = vmap(lambda key: estimate(product_of(M), PARAMS, key, num_matvecs))(
        random.split(KEY, n)
    )
    if isinstance(found, dict):
        return vmap(lambda leaves: tree.ravel(leaves)[0])(found) - M.diagonal()
    return found - M.trace()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("estimate", [*TRACES, *DIAGONALS])
def test_estimates_are_unbiased(estimate, spectrum):
    error = errors(estimate, SPECTRA[spectrum], 12, 2000).reshape(2000, -1)
    z = error.mean(0) / (error.std(0) / 2000**0.5)
    assert z.square().mean().sqrt() < 2.5  # of 1 or 40 about standard normal numbers


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_error_is_below_hutchinsons_with_as_many_products_on_a_decaying_spectrum(spectrum):
    plain, hutchpp, x = (errors(f, SPECTRA[spectrum], 24).square().mean().sqrt() for f in TRACES)
    assert x < hutchpp < plain / 4
    plain, x = (errors(f, SPECTRA[spectrum], 24).square().sum(1).mean().sqrt() for f in DIAGONALS)
    assert x < plain / 8


def test_error_of_hutchinson_is_the_one_that_theory_gives():
    """Var(v^T A v) = 2 (|A|^2 - |diag A|^2) for signs v."""
    M = matrix_of(SPECTRA["quadratic"])
    deviation = (2 * (M.square().sum() - M.diagonal().square().sum()) / 6).sqrt()
    found = errors(hutchinson_trace, SPECTRA["quadratic"], 6).square().mean().sqrt()
    assert found == pytest.approx(float(deviation), rel=0.25)


@pytest.mark.parametrize("estimate", TRACES)
def test_estimates_of_a_net_approach_its_trace(estimate):
    model, params, (x, y) = net()
    outputs, loss = (lambda p: model.apply(p, {}, x)[0]), (lambda z: cross_entropy(z, y))
    product = lambda v: ggn_vp(outputs, loss, params, v)
    exact = to_dense(product, params).trace()  # of rank 14 at most: the other two are exact
    rel = 0.1 if estimate is hutchinson_trace else 1e-12
    found = estimate(product, params, KEY, 48, chunk_size=None)
    assert found == pytest.approx(float(exact), rel=rel)


def test_hutchpp_is_its_definition():
    M = matrix_of(SPECTRA["quadratic"])
    A = matrix_product("test", product_of(M), PARAMS)
    S, G = (draw_probes("test", key, A, 4, "rademacher") for key in random.split(KEY, 2))
    Q = torch.linalg.svd(M @ S, full_matrices=False).U
    P = torch.eye(N) - Q @ Q.T
    expected = (Q.T @ M @ Q).trace() + (G.T @ P @ M @ P @ G).trace() / 4
    found = hutchpp_trace(product_of(M), PARAMS, KEY, 12)
    assert found == pytest.approx(float(expected), rel=1e-12)


def projections(M: torch.Tensor, W: torch.Tensor):
    """Yield each test vector, and the projection on the range of M times all others."""
    for i in range(W.shape[1]):
        others = torch.cat([W[:, :i], W[:, i + 1 :]], dim=1)
        Q = torch.linalg.svd(M @ others, full_matrices=False).U
        yield W[:, i], Q @ Q.T


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("m", [1, 2, 6, 15])
def test_xtrace_is_its_definition(spectrum, m):
    M = matrix_of(SPECTRA[spectrum])
    A = matrix_product("test", product_of(M), PARAMS)
    W = sphere_columns(draw_probes("test", KEY, A, m, "normal"))
    estimates = []
    for w, P in projections(M, W):
        rest = w - P @ w
        scale = (N - m + 1) / (rest @ rest)
        estimates.append((P @ M @ P).trace() + scale * rest @ M @ rest)
    found = xtrace(product_of(M), PARAMS, KEY, 2 * m)
    assert found == pytest.approx(float(sum(estimates)) / m, rel=1e-10)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("m", [1, 2, 6, 15])
def test_xdiag_is_its_definition(spectrum, m):
    M = matrix_of(SPECTRA[spectrum])
    A = matrix_product("test", product_of(M), PARAMS)
    W = draw_probes("test", KEY, A, m, "rademacher")
    estimates = [(P @ M).diagonal() + w * (M @ w - P @ M @ w) for w, P in projections(M, W)]
    found, _ = tree.ravel(xdiag(product_of(M), PARAMS, KEY, 2 * m))
    assert torch.allclose(found, sum(estimates) / m, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_matrix_of_low_rank_is_seen_exactly(rank):
    M = matrix_of(SPECTRA["quadratic"] * (torch.arange(N) < rank))
    product = product_of(M)
    for estimate in (hutchpp_trace, xtrace):
        assert estimate(product, PARAMS, KEY, 12) == pytest.approx(float(M.trace()), abs=1e-12)
    found, _ = tree.ravel(xdiag(product, PARAMS, KEY, 12))
    assert torch.allclose(found, M.diagonal(), atol=1e-12)


@pytest.mark.parametrize(("estimate", "num_matvecs"), [(hutchpp_trace, 3 * N), (xtrace, 2 * N)])
def test_trace_is_exact_where_the_basis_is_of_all_directions(estimate, num_matvecs):
    M = matrix_of(SPECTRA["quadratic"])
    found = estimate(product_of(M), PARAMS, KEY, num_matvecs)
    assert found == pytest.approx(float(M.trace()), rel=1e-10)


@pytest.mark.parametrize("estimate", [hutchinson_trace, hutchinson_diag])
def test_one_product_with_signs_sees_a_diagonal_matrix_exactly(estimate):
    M = torch.diag(SPECTRA["quadratic"])
    found = estimate(product_of(M), PARAMS, KEY, 1)
    if isinstance(found, dict):
        assert torch.allclose(tree.ravel(found)[0], M.diagonal(), rtol=1e-14, atol=1e-12)
    else:
        assert found == pytest.approx(float(M.trace()), rel=1e-14)


def of_net(estimate):
    """Return the function from params and a key to an estimate, as one tensor, and such params."""
    model, params, batch = net()

    def of(params, key):
        f = eval_loss_fn(model, {}, batch)
        found = estimate(lambda v: hvp(f, params, v), params, key, 6, chunk_size=None)
        return tree.ravel(found)[0] if isinstance(found, dict) else found

    return of, params


@pytest.mark.parametrize("estimate", [*TRACES, *DIAGONALS])
def test_estimates_under_jit_and_vmap_over_nets(estimate, traced_only):
    of, params = of_net(estimate)
    others = tree.map(lambda p: p + 0.1, params)
    keys = random.split(KEY, 2)
    expected = torch.stack([of(params, keys[0]), of(others, keys[1])])
    assert torch.allclose(
        vmap(of)(tree.stack([params, others]), keys), expected, rtol=1e-10, atol=1e-12
    )
    assert torch.allclose(jit(of)(params, keys[0]), expected[0], rtol=1e-10, atol=1e-12)


def test_an_estimate_by_generated_code():
    of, params = of_net(hutchinson_trace)
    assert torch.allclose(jit(of)(params, KEY), of(params, KEY), rtol=1e-10, atol=1e-12)


def test_estimates_of_half_precision_params_are_float32():
    params = tree.cast(PARAMS, "bfloat16")
    for estimate in TRACES:
        found = estimate(lambda v: tree.map(lambda leaf: 2 * leaf, v), params, KEY, 6)
        assert found.dtype == torch.float32
        assert found == pytest.approx(2 * N, rel=5e-2)


@pytest.mark.parametrize("estimate", [hutchinson_trace, hutchpp_trace, hutchinson_diag])
def test_normal_draws_are_others_than_signs(estimate):
    M = matrix_of(SPECTRA["quadratic"])
    run = lambda d: estimate(product_of(M), PARAMS, KEY, 6, distribution=d)
    signs, normal = (
        torch.cat([leaf.reshape(-1) for leaf in tree.leaves(run(d))])
        for d in ("rademacher", "normal")
    )
    assert not torch.allclose(signs, normal, rtol=1e-3, atol=1e-12)
    with pytest.raises(UserError, match=r"distribution 'uniform', choose from rademacher, normal"):
        run("uniform")


@pytest.mark.parametrize(("estimate", "parts"), [(hutchpp_trace, 3), (xtrace, 2), (xdiag, 2)])
def test_number_of_products_that_cannot_be_shared_out_is_refused(estimate, parts):
    product = product_of(matrix_of(SPECTRA["quadratic"]))
    with pytest.raises(UserError, match=rf"num_matvecs is {parts + 1}, needs a multiple of"):
        estimate(product, PARAMS, KEY, parts + 1)
    if parts == 2:
        with pytest.raises(UserError, match=r"needs at most 2 . 40 params"):
            estimate(product, PARAMS, KEY, 2 * N + 2)


# --- the diagonal of the Gauss-Newton matrix ------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_diagonal_of_gauss_newton_is_that_of_the_matrix(chunk_size):
    model, params, (x, y) = net()
    G = to_dense(
        lambda v: ggn_vp(
            lambda p: model.apply(p, {}, x)[0], lambda z: cross_entropy(z, y), params, v
        ),
        params,
    )
    found, _ = tree.ravel(ggn_diagonal(model, params, {}, (x, y), chunk_size=chunk_size))
    assert torch.allclose(found, G.diagonal(), rtol=1e-10, atol=1e-15)
