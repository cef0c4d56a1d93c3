"""Stochastic Lanczos quadrature against the moments and functions of the whole matrix."""

import math

import pytest
import torch
from torch.func import vmap

from purenets import UserError, random, tree
from purenets.torch_nets import jit
from purenets.torch_nets.analysis.curvature import eval_loss_fn, hvp
from purenets.torch_nets.analysis.operators import damped, draw_probes, matrix_product, to_dense
from purenets.torch_nets.analysis.quadrature import (
    lanczos_tridiagonal,
    slq_trace,
    spectral_density,
    spectral_measure,
)
from tests.torch_nets.test_trace import KEY, PARAMS, SPECTRA, N, matrix_of, net, product_of

M = matrix_of(SPECTRA["quadratic"])
FLAT = matrix_of(torch.linspace(0.5, 1, N, dtype=torch.float64))  # all of it counts in a moment
A = matrix_product("test", product_of(M), PARAMS)


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_quadrature_of_each_probe_has_the_moments_of_the_matrix(k, distribution):
    """Exact up to degree 2 k - 1, and no further."""
    measure = spectral_measure(
        product_of(FLAT), PARAMS, KEY, k, num_probes=3, distribution=distribution
    )
    V = draw_probes("test", KEY, A, 3, distribution)
    for degree in range(2 * k + 1):
        moment = (V * (torch.linalg.matrix_power(FLAT, degree) @ V)).sum(0) / (V * V).sum(0)
        found = (measure.weights * measure.nodes**degree).sum(1)
        assert torch.allclose(found, moment, rtol=1e-12, atol=1e-12) == (degree < 2 * k)


def test_all_directions_as_probes_give_the_dense_moments():
    """Over an orthogonal basis of probes the mean is the trace, with no error of sampling."""
    values, weights = [], []
    for e in torch.eye(N, dtype=torch.float64):
        nodes, vectors = torch.linalg.eigh(lanczos_tridiagonal(A, e, 6))
        values.append(nodes)
        weights.append(vectors[0] ** 2)
    nodes, weights = torch.stack(values), torch.stack(weights)
    for degree in range(12):
        dense = SPECTRA["quadratic"].pow(degree).mean()
        assert (weights * nodes**degree).sum(1).mean() == pytest.approx(float(dense), rel=1e-10)


def test_as_many_iterations_as_params_give_the_functions_of_the_matrix():
    measure = spectral_measure(product_of(M), PARAMS, KEY, N + 5, num_probes=2)
    assert measure.nodes.shape == (2, N)
    assert torch.allclose(
        measure.nodes.sort(1).values[0].flip(0), SPECTRA["quadratic"], rtol=1e-9, atol=1e-12
    )
    log = torch.linalg.eigh(M)
    log = log.eigenvectors @ torch.diag(log.eigenvalues.log()) @ log.eigenvectors.T
    V = draw_probes("test", KEY, A, 2, "rademacher")
    assert measure.mean(torch.log) == pytest.approx(
        float((V * (log @ V)).sum() / (2 * N)), rel=1e-9
    )


def test_log_determinant_of_a_damped_net_is_the_dense_one():
    model, params, batch = net()
    f = eval_loss_fn(model, {}, batch)
    product = damped(lambda v: hvp(f, params, v), 2.0)
    exact = torch.linalg.slogdet(to_dense(product, params)).logabsdet
    found = slq_trace(torch.log, product, params, KEY, 10, num_probes=30)
    assert found == pytest.approx(float(exact), rel=5e-3)
    # and the error is that of the probes alone, as Hutchinson's with the dense logarithm
    values, vectors = torch.linalg.eigh(to_dense(product, params))
    log = vectors @ torch.diag(values.log()) @ vectors.T
    V = draw_probes("test", KEY, matrix_product("test", product, params), 30, "rademacher")
    assert found == pytest.approx(float((V * (log @ V)).sum() / 30), rel=1e-8)


def test_density_has_the_mass_mean_and_variance_of_the_eigenvalues():
    measure = spectral_measure(product_of(M), PARAMS, KEY, 8, num_probes=4)
    grid, sigma = torch.linspace(-1, 2, 3001, dtype=torch.float64), 0.05
    density = spectral_density(measure, grid, sigma)
    moments = [float(torch.trapezoid(density * grid**degree, grid)) for degree in range(3)]
    exact = [float(measure.mean(lambda x, d=d: x**d)) for d in range(3)]
    assert moments[:2] == pytest.approx(exact[:2], abs=1e-6)
    assert moments[2] == pytest.approx(exact[2] + sigma**2, abs=1e-6)
    assert exact[0] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("distinct", [0, 1, 3])
def test_exhausted_directions_add_nothing(distinct):
    """A matrix of few distinct eigenvalues: the Krylov space ends, and the measure is exact."""
    spectrum = (torch.arange(N) % (distinct + 1)).to(torch.float64)
    matrix = matrix_of(spectrum)
    measure = spectral_measure(product_of(matrix), PARAMS, KEY, 12)
    V = draw_probes("test", KEY, A, 1, "rademacher")
    for f in (torch.exp, torch.cos):
        values, vectors = torch.linalg.eigh(matrix)
        dense = vectors @ torch.diag(f(values)) @ vectors.T
        expected = float((V * (dense @ V)).sum() / N)
        assert measure.mean(f) == pytest.approx(expected, rel=1e-10)


def test_measure_under_jit_and_vmap():
    of = lambda key: slq_trace(torch.exp, product_of(M), PARAMS, key, 4, num_probes=2)
    keys = random.split(KEY, 3)
    expected = torch.stack([of(key) for key in keys])
    assert torch.allclose(vmap(of)(keys), expected, rtol=1e-12, atol=1e-12)
    short = lambda key: slq_trace(torch.exp, product_of(M), PARAMS, key, 2)
    assert torch.allclose(jit(short)(keys[0]), short(keys[0]), rtol=1e-12, atol=1e-12)


def test_density_of_what_is_no_measure_is_refused():
    with pytest.raises(UserError, match="needs a spectral_measure"):
        spectral_density((torch.zeros(2, 2), torch.ones(2, 2)), torch.zeros(3), 0.1)
    with pytest.raises(UserError, match="sigma: 0 is not"):
        spectral_density(spectral_measure(product_of(M), PARAMS, KEY, 2), torch.zeros(3), 0)


def test_half_precision_is_float32():
    params = tree.cast(PARAMS, "bfloat16")
    measure = spectral_measure(lambda v: tree.map(lambda p: 2 * p, v), params, KEY, 3)
    assert measure.nodes.dtype == torch.float32
    assert measure.mean(lambda x: x) == pytest.approx(2, rel=1e-2)


def test_logarithm_of_a_matrix_with_few_different_eigenvalues():
    d = torch.tensor([5.0, 1, 1, 1, 1, 1], dtype=torch.float64)
    product = lambda v: {"w": d * v["w"]}
    trace = slq_trace(torch.log, product, {"w": torch.zeros_like(d)}, KEY, 6)
    assert float(trace) == pytest.approx(math.log(5))
