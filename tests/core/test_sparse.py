import numpy as np
import pytest

from purenets import apply_updates, optim, random
from purenets.optim import beta_lasso


def test_beta_lasso_is_the_algorithm_of_the_paper():
    rng, lr, lam, beta = np.random.default_rng(0), 0.1, 0.02, 5.0
    w, b, target = rng.normal(size=(6, 4)), rng.normal(size=4), 0.1 * rng.normal(size=(6, 4))
    params, expected = {"weight": w, "bias": b}, w.copy()
    optimizer = beta_lasso(optim.sgd(lr), lam, beta)
    state = optimizer.init(params)
    for _ in range(50):
        grads = {"weight": params["weight"] - target, "bias": params["bias"]}
        updates, state = optimizer.update(grads, state, params)
        params = apply_updates(params, updates)
        expected = expected - lr * (expected - target + lam * np.sign(expected))
        expected[np.abs(expected) < beta * lam] = 0
    np.testing.assert_allclose(params["weight"], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(params["bias"], b * 0.9**50)
    assert 0 < (params["weight"] == 0).mean() < 1


def test_on_sphere_begins_each_update_from_rows_of_length_one():
    w = random.normal(random.key(0), (5, 3, 2), dtype="float64")
    optimizer = optim.normalize_weights(optim.sgd(0.0))
    updates, _ = optimizer.update({"w": w}, optimizer.init({"w": w}), {"w": w})
    moved = w + updates["w"]
    assert np.linalg.norm(moved) == pytest.approx(np.sqrt(5))
    np.testing.assert_allclose(moved / np.linalg.norm(moved), w / np.linalg.norm(w))
    updates, _ = optim.normalize_weights(optim.sgd(0.5)).update(
        {"w": w}, optimizer.init({"w": w}), {"w": moved}
    )
    np.testing.assert_allclose(moved + updates["w"], moved - 0.5 * w)
