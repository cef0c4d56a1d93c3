"""Laplace's approximation against dense matrices and their inverses, on a small net."""

import math

import pytest
import torch
from torch.func import jacrev, vmap

from purenets import UserError, fit, init_state, make_step, optim, random, tree
from purenets.core.metrics import expected_calibration_error
from purenets.data import batches
from purenets.torch_nets import MLP, grad_fn, jit, layers
from purenets.torch_nets.analysis.curvature import ggn_vp, linearize
from purenets.torch_nets.analysis.kfac import kfac, kfac_vp
from purenets.torch_nets.analysis.laplace import (
    diagonal_laplace,
    kfac_laplace,
    last_layer_laplace,
    linearized_predictive,
    probit_predictive,
    sample_posterior,
)
from purenets.torch_nets.analysis.operators import to_dense
from purenets.torch_nets.losses import cross_entropy

KEY = torch.as_tensor(random.key(0))
MODEL = MLP(3, [5], 3, activation="tanh")
PARAMS = tree.cast(MODEL.init(KEY)[0], "float64")
X, Y = random.normal(KEY, (9, 3), "float64"), torch.arange(9) % 3
TAU = 2.5
LAPLACES = [diagonal_laplace, kfac_laplace, last_layer_laplace]
by_laplace = pytest.mark.parametrize("laplace", LAPLACES)


def gauss_newton(of: dict) -> torch.Tensor:
    """Return the matrix of the mean loss by some of the leaves."""
    outputs = lambda p: MODEL.apply({**PARAMS, **p}, {}, X)[0]
    return to_dense(lambda v: ggn_vp(outputs, lambda z: cross_entropy(z, Y), of, v), of)


def last_layer() -> dict:
    return {name: PARAMS[name] for name in ("fc2.weight", "fc2.bias")}


def dense_precision(laplace, n: int = 9) -> torch.Tensor:
    """Return n G + tau I, with what the definition keeps of G."""
    if laplace is diagonal_laplace:
        G = torch.diag(gauss_newton(PARAMS).diagonal())
    elif laplace is kfac_laplace:
        G = to_dense(lambda v: kfac_vp(kfac(MODEL, PARAMS, {}, (X, Y)), v), PARAMS)
    else:
        G = gauss_newton(last_layer())
    return n * G + TAU * torch.eye(len(G))


def dense_covariance(laplace, n: int = 9) -> torch.Tensor:
    """Return the inverse, with 0 for the leaves that stay as they are."""
    inverse = torch.linalg.inv(dense_precision(laplace, n))
    whole = torch.zeros(tree.size(PARAMS), tree.size(PARAMS), dtype=torch.float64)
    whole[-len(inverse) :, -len(inverse) :] = inverse  # the last layer comes last
    return whole


def posterior_of(laplace, **options):
    return laplace(MODEL, PARAMS, {}, (X, Y), prior_precision=TAU, **options)


@by_laplace
def test_covariance_is_the_dense_inverse_and_its_root_the_root(laplace):
    posterior = posterior_of(laplace)
    S, L = (to_dense(f, PARAMS) for f in (posterior.covariance_vp, posterior.sqrt_vp))
    assert torch.allclose(S, dense_covariance(laplace), rtol=1e-9, atol=1e-12)
    assert torch.allclose(L @ L.T, S, rtol=1e-9, atol=1e-12)
    assert posterior.mean is PARAMS


def test_marginals_of_the_diagonal_are_1_over_its_precision():
    ones = tree.map(torch.ones_like, PARAMS)
    variance = tree.ravel(posterior_of(diagonal_laplace).covariance_vp(ones))[0]
    diagonal = gauss_newton(PARAMS).diagonal()
    assert torch.allclose(variance, 1 / (9 * diagonal + TAU), rtol=1e-10, atol=1e-12)


@by_laplace
def test_larger_training_set_narrows_the_posterior(laplace):
    S = to_dense(posterior_of(laplace, n_data=90).covariance_vp, PARAMS)
    assert torch.allclose(S, dense_covariance(laplace, 90), rtol=1e-8, atol=1e-12)
    with pytest.raises(UserError, match=r"n_data is 3, needs an integer from 9 on"):
        posterior_of(laplace, n_data=3)


@by_laplace
def test_linearized_predictive_is_that_of_the_jacobian(laplace):
    model = lambda vector: MODEL.apply(unravel(vector), {}, X)[0]
    vector, unravel = tree.ravel(PARAMS)
    J = jacrev(model)(vector)  # (examples, classes, params)
    expected = J @ dense_covariance(laplace) @ J.mT
    for chunk_size in (None, 4):
        mean, found = linearized_predictive(
            MODEL, posterior_of(laplace), {}, X, chunk_size=chunk_size
        )
        assert torch.allclose(mean, MODEL.apply(PARAMS, {}, X)[0], rtol=1e-12, atol=1e-12)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-12)


@by_laplace
def test_draws_have_the_covariance_and_the_linearized_net_its_predictive(laplace):
    posterior = posterior_of(laplace)
    draws = sample_posterior(posterior, KEY, 20_000)
    vectors = vmap(lambda p: tree.ravel(p)[0])(draws) - tree.ravel(PARAMS)[0]
    S = dense_covariance(laplace)
    assert vectors.mean(0).abs().max() < 4 * (S.diagonal().max() / 20_000).sqrt()
    assert torch.allclose(vectors.T @ vectors / 20_000, S, atol=5 / 20_000**0.5 * float(S.max()))
    linear = linearize(MODEL, PARAMS)
    logits = vmap(lambda p: linear.apply(p, {}, X)[0])(tree.map(lambda d: d[:4000], draws))
    mean, covariance = linearized_predictive(MODEL, posterior, {}, X)
    spread = covariance.diagonal(dim1=1, dim2=2)
    assert torch.allclose(logits.mean(0), mean, atol=4 * float(spread.max() / 4000) ** 0.5)
    assert torch.allclose(logits.var(0), spread, rtol=0.15)


@by_laplace
def test_draws_are_a_function_of_the_key(laplace):
    posterior = posterior_of(laplace)
    first, again = (sample_posterior(posterior, KEY, 3) for _ in range(2))
    other = sample_posterior(posterior, random.fold_in(KEY, 1), 3)
    for name in last_layer():
        assert torch.equal(first[name], again[name])
        assert not torch.allclose(first[name], other[name])
        assert first[name].shape == (3, *PARAMS[name].shape)


@by_laplace
def test_marginal_likelihood_is_that_of_the_dense_gaussian(laplace):
    precision = dense_precision(laplace)
    of = last_layer() if laplace is last_layer_laplace else PARAMS
    value = cross_entropy(MODEL.apply(PARAMS, {}, X)[0], Y)
    prior = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), TAU**-0.5)
    log_joint = -9 * value + sum(prior.log_prob(p).sum() for p in of.values())
    volume = len(precision) * math.log(2 * math.pi) - torch.linalg.slogdet(precision).logabsdet
    found = posterior_of(laplace).log_marginal_likelihood
    assert found == pytest.approx(float(log_joint + volume / 2), rel=1e-10)


def test_evidence_of_a_linear_regression_is_exact():
    """Where the posterior is normal, Laplace's approximation of log p(y) is no approximation."""
    model = layers.Linear(3, 1)
    x, y = random.normal(KEY, (9, 3), "float64"), random.normal(KEY, (9, 1), "float64")
    negative_log_likelihood = lambda z, y: ((z - y) ** 2 / 2 + math.log(2 * math.pi) / 2).mean()
    design = torch.cat([x, torch.ones(9, 1)], dim=1)
    best = torch.linalg.solve(design.T @ design + TAU * torch.eye(4), design.T @ y)[:, 0]
    params = {"weight": best[None, :3], "bias": best[3:]}
    exact = torch.distributions.MultivariateNormal(
        torch.zeros(9, dtype=torch.float64), torch.eye(9) + design @ design.T / TAU
    ).log_prob(y[:, 0])
    for laplace in (kfac_laplace, last_layer_laplace):
        given = {"layer": ""} if laplace is last_layer_laplace else {}
        posterior = laplace(
            model, params, {}, (x, y), negative_log_likelihood, prior_precision=TAU, **given
        )
        assert posterior.log_marginal_likelihood == pytest.approx(float(exact), rel=1e-10)
        S = to_dense(posterior.covariance_vp, params)
        assert torch.allclose(S, torch.linalg.inv(design.T @ design + TAU * torch.eye(4)))


@by_laplace
def test_many_priors_in_one_call(laplace):
    def of(prior_precision):
        posterior = laplace(MODEL, PARAMS, {}, (X, Y), prior_precision=prior_precision)
        mean, covariance = linearized_predictive(MODEL, posterior, {}, X)
        return posterior.log_marginal_likelihood, probit_predictive(mean, covariance)

    priors = torch.tensor([0.1, TAU, 30.0], dtype=torch.float64)
    evidence, probabilities = vmap(of)(priors)
    for i, prior in enumerate(priors):
        one, two = of(float(prior))
        assert torch.allclose(evidence[i], one, rtol=1e-9, atol=1e-12)
        assert torch.allclose(probabilities[i], two, rtol=1e-9, atol=1e-12)


def test_all_of_it_under_jit(traced_only):
    model = layers.serial(fc=layers.Linear(3, 3))
    params = tree.cast(model.init(KEY)[0], "float64")

    def of(params, prior_precision):
        found = []
        for laplace in (diagonal_laplace, last_layer_laplace):  # kfac: tests of its own
            posterior = laplace(model, params, {}, (X, Y), prior_precision=prior_precision)
            mean, covariance = linearized_predictive(model, posterior, {}, X[:2])
            found += [posterior.log_marginal_likelihood, probit_predictive(mean, covariance)]
        return found

    prior = torch.tensor(TAU, dtype=torch.float64)
    for compiled, eager in zip(jit(of)(params, prior), of(params, prior), strict=True):
        assert torch.allclose(compiled, eager, rtol=1e-9, atol=1e-12)


def test_probit_is_close_to_the_mean_of_sampled_softmaxes():
    mean, covariance = linearized_predictive(MODEL, posterior_of(kfac_laplace), {}, X)
    root = torch.linalg.cholesky(covariance)
    noise = random.normal(KEY, (20_000, *mean.shape), "float64")
    sampled = torch.softmax(mean + (root @ noise[..., None])[..., 0], dim=-1).mean(0)
    found = probit_predictive(mean, covariance)
    assert (found - sampled).abs().max() < 0.02
    plain = torch.softmax(mean, dim=-1)
    assert (plain - sampled).abs().max() > (found - sampled).abs().max()
    assert torch.allclose(probit_predictive(mean, 0 * covariance), plain)


@by_laplace
def test_overconfident_net_is_calibrated_better(laplace):
    """Few noisy labels; the prior is the one of the largest evidence, of nine in one call."""
    keys = random.split(KEY, 4)
    x = random.normal(keys[0], (1000, 2))
    y = ((x[:, 0] + x[:, 1] + random.normal(keys[1], (1000,))) > 0).long()
    train, (x, y) = (x[:40], y[:40]), (x[40:], y[40:])
    model, optimizer = MLP(2, [30], 2, activation="tanh"), optim.adam(1e-2)
    state, _ = fit(
        make_step(grad_fn(model), optimizer),
        init_state(model, optimizer, keys[2]),
        batches(train, 40, keys[3]),
        steps=200,
    )
    fitted = lambda prior: laplace(model, state.params, {}, train, prior_precision=prior)
    priors = torch.logspace(-2, 2, 9)
    evidence = vmap(lambda prior: fitted(prior).log_marginal_likelihood)(priors)
    best = priors[evidence.argmax()]
    assert priors[0] < best < priors[-1]
    mean, covariance = linearized_predictive(model, fitted(best), {}, x)
    after = probit_predictive(mean, covariance).log()
    for score in (cross_entropy, expected_calibration_error):
        assert score(after, y) < 0.7 * score(mean, y)


def test_layer_that_is_not_there_is_refused():
    with pytest.raises(UserError, match=r"last_layer_laplace: layer is 'fc9', needs one of fc1"):
        posterior_of(last_layer_laplace, layer="fc9")


@by_laplace
@pytest.mark.parametrize("prior", [0, -1, math.nan, None, "1"])
def test_prior_that_is_none_is_refused(laplace, prior):
    with pytest.raises(UserError, match=f"{laplace.__name__}: prior_precision: "):
        laplace(MODEL, PARAMS, {}, (X, Y), prior_precision=prior)


def test_inputs_that_are_no_batch_are_refused():
    posterior = posterior_of(diagonal_laplace)
    for x, message in (
        ({"a": 1}, r"x: a int, needs a tensor \(batch, ...\)"),
        (torch.tensor(1.0), r"x: a tensor of no axis, needs a tensor \(batch, ...\)"),
        ((X, X[:2]), r"x: its tensors differ in their number of examples"),
    ):
        with pytest.raises(UserError, match=f"linearized_predictive: {message}"):
            linearized_predictive(MODEL, posterior, {}, x)


def test_moments_of_logits_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="probit_predictive: mean: a NoneType"):
        probit_predictive(None, torch.eye(3))
    with pytest.raises(UserError, match=r"probit_predictive: covariance: a torch.int64"):
        probit_predictive(torch.zeros(3), torch.ones(3, 3, dtype=torch.int64))
    with pytest.raises(UserError, match=r"covariance is of shape \(3,\), needs \(2, 3, 3\)"):
        probit_predictive(torch.zeros(2, 3), torch.zeros(3))


def test_layer_is_matched_by_its_whole_name():
    """Names that begin alike, fc1 and fc10, out and out_norm, are of different layers."""
    model = layers.serial(
        fc1=layers.Linear(3, 4),
        t=layers.Tanh(),
        fc10=layers.Linear(4, 4),
        out_norm=layers.LayerNorm(4),
        out=layers.Linear(4, 3),
    )
    params = tree.cast(model.init(KEY)[0], "float64")

    def moved_by(layer):
        posterior = last_layer_laplace(model, params, {}, (X, Y), layer=layer)
        moved = posterior.covariance_vp(tree.map(torch.ones_like, params))
        return {name.rpartition(".")[0] for name, leaf in moved.items() if leaf.any()}

    assert moved_by(None) == moved_by("out") == moved_by("out.") == {"out"}
    assert moved_by("fc1") == {"fc1"}
    assert moved_by("") == {"fc1", "fc10", "out_norm", "out"}
    with pytest.raises(UserError, match=r"last_layer_laplace: layer is 'fc'"):
        moved_by("fc")


def test_last_leaf_that_no_layer_holds_is_a_layer_of_its_own():
    def apply(params, buffers, x, *, train=False, key=None):
        return x @ params["fc.weight"].T * params["scale"], buffers

    model = MODEL._replace(apply=apply, layers={})
    params = {"fc.weight": PARAMS["fc2.weight"][:, :3], "scale": PARAMS["fc2.bias"] + 1}
    posterior = last_layer_laplace(model, params, {}, (X, Y))
    moved = posterior.covariance_vp(tree.map(torch.ones_like, params))
    assert not moved["fc.weight"].any()
    assert moved["scale"].all()
