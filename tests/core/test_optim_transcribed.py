"""Optimizers against a transcription of their published updates: NumPy, leaf by leaf, in place.

A transcription is a function `step(p, g, s, t)` that changes the array p; s is an empty dict at
first, t counts from 1. It shares no code with what it tests.
"""

import math

import numpy as np
import pytest
import torch

from purenets import UserError, numpy_nets, optim, random, torch_nets, tree
from purenets.core.optim.internals.extra_args import with_extra_args
from purenets.core.optim.methods.shampoo import inverse_root
from purenets.core.optim.methods.soap import eigenbasis
from purenets.core.optim.methods.sophia import random_signs

STEPS = 60
both_backends = pytest.mark.parametrize(
    "convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"]
)


def gradient(params: dict, i: int) -> dict:
    """A gradient that depends on the params and on the step, so that any difference grows."""
    noise = np.random.default_rng(i)
    return {name: np.sin(3 * p) + noise.normal(size=p.shape) for name, p in params.items()}


def run(optimizer, params: dict, convert, steps: int = STEPS) -> dict:
    params = tree.map(convert, params)
    state = optimizer.init(params)
    for i in range(steps):
        grads = tree.map(convert, gradient(tree.map(np.asarray, params), i))
        updates, state = optimizer.update(grads, state, params)
        params = optim.apply_updates(params, updates)
    return tree.map(np.asarray, params)


def transcribed(step, params: dict, steps: int = STEPS) -> dict:
    params, states = tree.map(np.copy, params), {name: {} for name in params}
    for t in range(1, steps + 1):
        grads = gradient(params, t - 1)
        for name, p in params.items():
            step(p, grads[name].copy(), states[name], t)
    return params


def difference(a: dict, b: dict) -> float:
    return max(np.abs(a[name] - b[name]).max() for name in a)


# --- the updates of the papers --------------------------------------------------------------------


def adan(lr, betas, eps, weight_decay, proximal=True):
    b1, b2, b3 = betas

    def step(p, g, s, t):
        old = s.get("g", g)
        for name, beta, new in (
            ("m", b1, g),
            ("v", b2, g - old),
            ("n", b3, (g + b2 * (g - old)) ** 2),
        ):
            s[name] = beta * s.get(name, 0) + (1 - beta) * new
        s["g"] = g
        eta = lr / (np.sqrt(s["n"] / (1 - b3**t)) + eps)
        if not proximal:
            p -= lr * weight_decay * p
        p -= eta * (s["m"] / (1 - b1**t) + b2 * s["v"] / (1 - b2**t))
        if proximal:
            p /= 1 + lr * weight_decay

    return step


def adopt(lr, betas, eps, weight_decay=0, decoupled_weight_decay=False, clip=True):
    b1, b2 = betas

    def step(p, g, s, t):
        if not decoupled_weight_decay:
            g = g + weight_decay * p
        if t == 1:
            s.update(v=g * g, m=0 * g)
            return
        if decoupled_weight_decay:
            p -= lr * weight_decay * p
        scaled = g / np.maximum(np.sqrt(s["v"]), eps)
        if clip:
            scaled = np.clip(scaled, -((t - 1) ** 0.25), (t - 1) ** 0.25)
        s["m"] = b1 * s["m"] + (1 - b1) * scaled
        p -= lr * s["m"]
        s["v"] = b2 * s["v"] + (1 - b2) * g * g

    return step


def ademamix(lr, betas, alpha, eps, weight_decay=0, warmup_steps=None):
    b1, b2, b3 = betas

    def step(p, g, s, t):
        a, slow = alpha, b3
        if warmup_steps is not None:
            part = t / warmup_steps
            a = min(part * alpha, alpha)
            log1, log3 = math.log(b1), math.log(b3)
            slow = min(math.exp(log1 * log3 / ((1 - part) * log3 + part * log1)), b3)
            slow = b3 if t > warmup_steps else slow
        for name, beta, new in (("m1", b1, g), ("m2", slow, g), ("v", b2, g * g)):
            s[name] = beta * s.get(name, 0) + (1 - beta) * new
        root = np.sqrt(s["v"] / (1 - b2**t)) + eps
        p -= lr * ((s["m1"] / (1 - b1**t) + a * s["m2"]) / root + weight_decay * p)

    return step


BETAS = (0.8, 0.9, 0.95)
CASES = {
    "adan": (adan, {"lr": 0.02, "betas": BETAS, "eps": 1e-3, "weight_decay": 0.3}),
    "adan decoupled": (
        adan,
        {"lr": 0.02, "betas": BETAS, "eps": 1e-8, "weight_decay": 0.3, "proximal": False},
    ),
    "adan without decay": (adan, {"lr": 0.02, "betas": BETAS, "eps": 1e-8, "weight_decay": 0}),
    "adopt": (adopt, {"lr": 0.02, "betas": BETAS[:2], "eps": 1e-6, "weight_decay": 0.1}),
    "adopt decoupled": (
        adopt,
        {
            "lr": 0.02,
            "betas": BETAS[:2],
            "eps": 1e-6,
            "weight_decay": 0.1,
            "decoupled_weight_decay": True,
        },
    ),
    "adopt unclipped": (adopt, {"lr": 0.02, "betas": BETAS[:2], "eps": 0.4, "clip": False}),
    "ademamix": (
        ademamix,
        {"lr": 0.01, "betas": (0.8, 0.95, 0.99), "alpha": 4.0, "eps": 1e-6, "weight_decay": 0.1},
    ),
    "ademamix warm-up": (
        ademamix,
        {"lr": 0.01, "betas": (0.8, 0.95, 0.99), "alpha": 4.0, "eps": 1e-8, "warmup_steps": 25},
    ),
}


@both_backends
@pytest.mark.parametrize("case", CASES)
def test_equals_the_transcription(case, convert, params):
    make, hyper = CASES[case]
    got = run(optim.OPTIMIZERS[make.__name__](**hyper), params, convert)
    assert difference(got, transcribed(make(**hyper), params)) < 1e-12
    assert difference(got, params) > 0.1


DEFAULTS = {
    "adan": {"lr": 1e-3, "betas": (0.98, 0.92, 0.99), "eps": 1e-8, "weight_decay": 0},
    "adopt": {"lr": 1e-3, "betas": (0.9, 0.9999), "eps": 1e-6},
    "ademamix": {"lr": 1e-3, "betas": (0.9, 0.999, 0.9999), "alpha": 5.0, "eps": 1e-8},
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults_are_the_published_ones(name, params):
    got = run(optim.OPTIMIZERS[name](), params, np.asarray)
    assert difference(got, transcribed(globals()[name](**DEFAULTS[name]), params)) < 1e-12


# --- updates that look at all leaves together -----------------------------------------------------


def flat(leaves: dict) -> np.ndarray:
    return np.concatenate([leaf.reshape(-1) for leaf in leaves.values()])


def dadapt_adam(
    lr=1.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0,
    decoupled_weight_decay=False,
    use_bias_correction=False,
    d0=1e-6,
    growth_rate=math.inf,
):
    b1, b2 = betas

    def step(p, g, state, t):
        if t == 1:
            state.update(d=d0, r=0.0, s=0 * p, m=0 * p, v=0 * p)
        if not decoupled_weight_decay:
            g = g + weight_decay * p
        dlr = state["d"] * lr
        if use_bias_correction:
            dlr *= math.sqrt(1 - b2**t) / (1 - b1**t)
        root = math.sqrt(b2)
        inner = g @ (state["s"] / (np.sqrt(state["v"]) + eps))
        state["r"] = root * state["r"] + (1 - root) * dlr * inner
        state["s"] = root * state["s"] + (1 - root) * dlr * g
        state["m"] = b1 * state["m"] + (1 - b1) * dlr * g
        state["v"] = b2 * state["v"] + (1 - b2) * g * g
        found = state["r"] / ((1 - root) * np.abs(state["s"]).sum())
        state["d"] = max(state["d"], min(found, growth_rate * state["d"]))
        if decoupled_weight_decay:
            p -= dlr * weight_decay * p
        p -= state["m"] / (np.sqrt(state["v"]) + eps)

    return step


def prodigy(
    lr=1.0,
    betas=(0.9, 0.999),
    beta3=None,
    eps=1e-8,
    weight_decay=0,
    decoupled_weight_decay=True,
    use_bias_correction=False,
    safeguard_warmup=False,
    d0=1e-6,
    d_coef=1.0,
    growth_rate=math.inf,
):
    b1, b2 = betas
    b3 = math.sqrt(b2) if beta3 is None else beta3

    def step(p, g, state, t):
        if t == 1:
            state.update(d=d0, most=d0, r=0.0, s=0 * p, m=0 * p, v=0 * p, first=p.copy())
        if not decoupled_weight_decay:
            g = g + weight_decay * p
        d = state["d"]
        dlr = d * lr
        if use_bias_correction:
            dlr *= math.sqrt(1 - b2**t) / (1 - b1**t)
        state["r"] = b3 * state["r"] + d / d0 * dlr * (g @ (state["first"] - p))
        state["s"] = b3 * state["s"] + d / d0 * (d if safeguard_warmup else dlr) * g
        state["m"] = b1 * state["m"] + (1 - b1) * d * g
        state["v"] = b2 * state["v"] + (1 - b2) * d * d * g * g
        found = d_coef * state["r"] / np.abs(state["s"]).sum()
        if d == d0:
            d = max(d, found)
        state["most"] = max(state["most"], found)
        state["d"] = min(state["most"], d * growth_rate)
        if decoupled_weight_decay:
            p -= dlr * weight_decay * p
        p -= dlr * state["m"] / (np.sqrt(state["v"]) + state["d"] * eps)

    return step


def dog(lr=1.0, reps_rel=1e-6, eps=1e-8, weight_decay=0):
    def step(p, g, state, t):
        if t == 1:
            state.update(first=p.copy(), rbar=reps_rel * (1 + np.linalg.norm(p)), total=eps)
        g = g + weight_decay * p
        state["rbar"] = max(state["rbar"], np.linalg.norm(p - state["first"]))
        state["total"] += g @ g
        p -= lr * state["rbar"] / math.sqrt(state["total"]) * g

    return step


def transcribed_together(step, params: dict, steps: int = STEPS) -> dict:
    """As `transcribed`, with one array p of all elements."""
    vector, state = flat(params), {}
    unravel = tree.ravel(params)[1]
    for t in range(1, steps + 1):
        step(vector, flat(gradient(unravel(vector), t - 1)), state, t)
    return unravel(vector)


TOGETHER = {
    "dadapt_adam": (dadapt_adam, {}),
    "dadapt_adam decay": (dadapt_adam, {"lr": 0.7, "weight_decay": 0.1, "d0": 1e-2}),
    "dadapt_adam decoupled": (
        dadapt_adam,
        {
            "betas": (0.8, 0.95),
            "eps": 1e-3,
            "weight_decay": 0.1,
            "decoupled_weight_decay": True,
            "use_bias_correction": True,
            "d0": 1e-2,
            "growth_rate": 1.3,
        },
    ),
    "prodigy": (prodigy, {}),
    "prodigy decay": (
        prodigy,
        {"weight_decay": 0.1, "decoupled_weight_decay": False, "d0": 1e-2, "growth_rate": 1.2},
    ),
    "prodigy decoupled": (
        prodigy,
        {
            "lr": 0.8,
            "betas": (0.8, 0.95),
            "beta3": 0.9,
            "eps": 1e-3,
            "weight_decay": 0.1,
            "use_bias_correction": True,
            "safeguard_warmup": True,
            "d0": 1e-2,
            "d_coef": 1.5,
        },
    ),
    "dog": (dog, {}),
    "dog decay": (dog, {"lr": 0.9, "reps_rel": 1e-3, "eps": 0.5, "weight_decay": 0.2}),
}


@both_backends
@pytest.mark.parametrize("case", TOGETHER)
def test_of_all_leaves_equals_the_transcription(case, convert, params):
    make, hyper = TOGETHER[case]
    got = run(optim.OPTIMIZERS[make.__name__](**hyper), params, convert, 40)
    assert difference(got, transcribed_together(make(**hyper), params, 40)) < 1e-12
    assert difference(got, params) > 1e-4


@both_backends
def test_layerwise_dog_is_dog_on_each_leaf(convert, params):
    def step(p, g, state, t):
        dog(reps_rel=1e-2)(p.reshape(-1), g.reshape(-1), state, t)

    got = run(optim.dog(reps_rel=1e-2, layerwise=True), params, convert)
    assert difference(got, transcribed(step, params)) < 1e-12
    together = run(optim.dog(reps_rel=1e-2), params, convert)
    assert difference(got, together) > 1e-3


@both_backends
@pytest.mark.parametrize("name", ["dadapt_adam", "prodigy", "dog"])
def test_a_gradient_of_zeros_moves_nothing(name, convert, params):
    optimizer, params = optim.OPTIMIZERS[name](), tree.map(convert, params)
    updates, state = optimizer.update(tree.zeros_like(params), optimizer.init(params), params)
    assert all((np.asarray(leaf) == 0).all() for leaf in updates.values())
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in tree.leaves(state))


# --- Shampoo and SOAP -----------------------------------------------------------------------------


def unfolded(g, axis):
    return np.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)


def folded(rows, shape, axis):
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.moveaxis(rows.reshape(moved), 0, axis)


def shampoo(lr, eps, momentum=0, weight_decay=0, beta=None, every=1):
    def step(p, g, s, t):
        g = g + weight_decay * p
        if t == 1:
            s["L"] = [0 if beta else eps * np.eye(n) for n in g.shape]
        for axis in range(g.ndim):
            product = unfolded(g, axis) @ unfolded(g, axis).T
            old = s["L"][axis]
            s["L"][axis] = old + product if beta is None else beta * old + (1 - beta) * product
        if (t - 1) % every == 0:
            s["roots"] = []
            for matrix in s["L"]:
                full = matrix if beta is None else matrix + eps * np.eye(len(matrix))
                u, values, _ = np.linalg.svd(full)
                s["roots"].append(u @ np.diag(values ** (-1 / (2 * g.ndim))) @ u.T)
        for axis, root in enumerate(s["roots"]):
            g = folded(root @ unfolded(g, axis), g.shape, axis)
        s["m"] = momentum * s.get("m", 0) + g
        p -= lr * s["m"]

    return step


def soap(lr, betas, eps, weight_decay=0, shampoo_beta=None, precondition_frequency=10):
    b1, b2 = betas
    b3 = b2 if shampoo_beta is None else shampoo_beta

    def rotate(g, bases, back=False):
        for axis, q in enumerate(bases):
            g = folded((q if back else q.T) @ unfolded(g, axis), g.shape, axis)
        return g

    def step(p, g, s, t):
        axes = range(g.ndim if g.ndim > 1 else 0)
        if t == 1:
            s.update(m=0 * g, v=0 * g, L=[np.zeros((n, n)) for n in g.shape])
        else:
            k = t - 1
            s["m"] = b1 * s["m"] + (1 - b1) * g
            s["v"] = b2 * s["v"] + (1 - b2) * rotate(g, s["Q"]) ** 2
            u = rotate(s["m"], s["Q"]) / (np.sqrt(s["v"]) + eps)
            rate = lr * math.sqrt(1 - b2**k) / (1 - b1**k)
            p -= rate * rotate(u, s["Q"], back=True)
            p -= lr * weight_decay * p
        for axis in axes:
            product = unfolded(g, axis) @ unfolded(g, axis).T
            s["L"][axis] = b3 * s["L"][axis] + (1 - b3) * product
        if t == 1:
            s["Q"] = [np.linalg.eigh(s["L"][axis])[1][:, ::-1] for axis in axes]
        elif (t - 1) % precondition_frequency == 0:
            for axis in axes:
                q, matrix = s["Q"][axis], s["L"][axis]
                order = np.argsort(-np.diag(q.T @ matrix @ q))
                s["v"] = np.take(s["v"], order, axis)
                s["Q"][axis] = np.linalg.qr(matrix @ q[:, order])[0]

    return step


def leaves_of_full_rank() -> dict:
    draw = np.random.default_rng(2).normal
    return {"w": draw(size=(4, 4)), "conv": draw(size=(3, 2, 2)), "b": draw(size=3)}


MATRIX_CASES = {
    "shampoo": (shampoo, {"lr": 0.1, "eps": 1e-2}),
    "shampoo momentum": (
        shampoo,
        {"lr": 0.05, "eps": 1e-2, "momentum": 0.8, "weight_decay": 0.1, "every": 4},
    ),
    "shampoo running mean": (shampoo, {"lr": 0.05, "eps": 1e-1, "beta": 0.9}),
    "soap": (soap, {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-8}),
    "soap decay": (
        soap,
        {
            "lr": 0.02,
            "betas": (0.8, 0.9),
            "eps": 1e-3,
            "weight_decay": 0.3,
            "shampoo_beta": 0.7,
            "precondition_frequency": 3,
        },
    ),
}


@both_backends
@pytest.mark.parametrize("case", MATRIX_CASES)
def test_matrix_optimizer_equals_the_transcription(case, convert):
    make, hyper = MATRIX_CASES[case]
    params, extra = leaves_of_full_rank(), {}
    if make is soap and "weight_decay" not in hyper:
        extra = {"weight_decay": 0}
    got = run(optim.OPTIMIZERS[make.__name__](**hyper, **extra), params, convert, 40)
    assert difference(got, transcribed(make(**hyper), params, 40)) < 1e-12
    assert difference(got, params) > 0.1


@both_backends
def test_eigenbasis_of_a_matrix_of_low_rank_is_the_same_after_rounding(convert):
    draw = np.random.default_rng(0).normal
    low = draw(size=(6, 2))
    matrix = low @ low.T
    noise = 1e-15 * draw(size=(6, 6))
    found = [np.asarray(eigenbasis(convert(m))) for m in (matrix, matrix + noise + noise.T)]
    for q in found:
        np.testing.assert_allclose(q.T @ q, np.eye(6), atol=1e-12)
        diagonal = np.diag(np.diag(q.T @ matrix @ q))
        np.testing.assert_allclose(q.T @ matrix @ q, diagonal, atol=1e-12)
        assert (np.diff(np.diag(diagonal)) < 1e-12).all()
    np.testing.assert_allclose(np.abs((found[0] * found[1]).sum(0)), 1, atol=1e-9)
    plain = [np.linalg.eigh(m)[1][:, ::-1] for m in (matrix, matrix + noise + noise.T)]
    assert np.abs(plain[0] * plain[1]).sum(0)[2:].min() < 0.99  # without the rule: another basis


@both_backends
@pytest.mark.parametrize("make", [optim.shampoo, optim.soap])
def test_long_axes_are_left_alone(make, convert):
    """With no axis short enough, SOAP is Adam after an idle update, and Shampoo is SGD."""
    params = leaves_of_full_rank()
    limit = {"max_dim": 1} if make is optim.shampoo else {"max_precond_dim": 1, "weight_decay": 0}
    optimizer = make(0.1, **limit)
    state = optimizer.init(tree.map(convert, params))
    kept = optim.get_state(state, "statistics" if make is optim.shampoo else "GG")
    assert kept == {name: {} for name in params}
    got = run(optimizer, params, convert, 2)
    grads = [gradient(params, i) for i in range(2)]
    if make is optim.shampoo:
        after = tree.map(lambda p, g: p - 0.1 * g, params, grads[0])
        expected = tree.map(lambda p, g: p - 0.1 * g, after, gradient(after, 1))
    else:
        expected = tree.map(lambda p, g: p - 0.1 * np.sign(g), params, grads[1])
    assert difference(got, expected) < 1e-6


def test_inverse_root_of_a_matrix_without_full_rank():
    draw = np.random.default_rng(0).normal(size=(5, 2))
    matrix = draw @ draw.T
    root = inverse_root(matrix, 4, 1e-3)
    fourth = np.linalg.matrix_power(root, 4)
    np.testing.assert_allclose(fourth @ (matrix + 1e-3 * np.eye(5)), np.eye(5), atol=1e-9)


# --- adaptive gradient clipping -------------------------------------------------------------------


@both_backends
def test_adaptive_clipping_of_each_row(convert):
    draw = np.random.default_rng(0).normal
    params = {"w": draw(size=(4, 3)), "conv": draw(size=(3, 2, 2, 2)), "b": draw(size=5)}
    params["w"][1] = 0  # counts as eps
    grads = {name: 0.05 * draw(size=p.shape) for name, p in params.items()}
    grads["w"][2] *= 1e-3  # short enough
    expected = tree.map(np.copy, grads)
    for name, g in expected.items():
        pair = ([g], [params[name]]) if g.ndim == 1 else (g, params[name])
        for row, weights in zip(*pair, strict=True):
            limit = 0.02 * max(np.linalg.norm(weights), 1e-2)
            if np.linalg.norm(row) > limit:
                row *= limit / np.linalg.norm(row)
    clip = optim.adaptive_grad_clip(0.02, 1e-2)
    got, _ = clip.update(tree.map(convert, grads), {}, tree.map(convert, params))
    assert difference(tree.map(np.asarray, got), expected) < 1e-15
    assert np.array_equal(np.asarray(got["w"])[2], grads["w"][2])
    assert difference(tree.map(np.asarray, got), grads) > 0.01


# --- Sophia ---------------------------------------------------------------------------------------


def quadratic(convert):
    """f = p A p / 2 on two leaves, so that differences of gradients are exact."""
    draw = np.random.default_rng(3).normal(size=(8, 8))
    matrix = draw @ draw.T
    shapes = {"a": (2, 3), "b": (2,)}

    def value_and_grad(params):
        vector = np.concatenate([np.asarray(params[name]).reshape(-1) for name in shapes])
        slope = matrix @ vector
        grads = {"a": convert(slope[:6].reshape(2, 3)), "b": convert(slope[6:])}
        return convert(vector @ slope / 2), grads

    return matrix, value_and_grad


@both_backends
def test_sophia_equals_the_transcription(convert):
    matrix, f = quadratic(convert)
    lr, (b1, b2), gamma, eps, decay = 0.05, (0.9, 0.8), 2.0, 1e-12, 0.1
    optimizer = optim.sophia(lr, (b1, b2), gamma, eps, decay, every=3, seed=4)
    params = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1.0, -2.0])}
    ours = tree.map(convert, params)
    state = optimizer.init(ours)
    p = np.concatenate([params["a"].reshape(-1), params["b"]])
    m, h, clipped = np.zeros(8), np.zeros(8), []
    for t in range(20):
        value, grads = f(ours)
        updates, state = optimizer.update(grads, state, ours, value=value, value_and_grad_fn=f)
        ours = optim.apply_updates(ours, updates)
        m = b1 * m + (1 - b1) * (matrix @ p)
        if t % 3 == 0:
            key = random.fold_in(random.key(4), t)
            u = np.concatenate([leaf.reshape(-1) for leaf in random_signs(key, params).values()])
            assert set(np.unique(u)) == {-1.0, 1.0}
            h = b2 * h + (1 - b2) * u * (matrix @ u)
        ratio = m / np.maximum(gamma * h, eps)
        clipped += [*(np.abs(ratio) > 1)]
        p = p - lr * decay * p - lr * np.clip(ratio, -1, 1)
        found = np.concatenate([np.asarray(leaf).reshape(-1) for leaf in ours.values()])
        np.testing.assert_allclose(found, p, rtol=0, atol=1e-9)
    assert 0.05 < np.mean(clipped) < 0.95


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_hutchinson_diagonal_of_a_net_on_average(nets):
    """The mean over many draws is the diagonal of the Hessian, by second differences."""
    net, convert = nets.MLP(2, [3], 2), np.asarray if nets is numpy_nets else torch.as_tensor
    params = tree.cast(net.init(convert(random.key(0)))[0], "float64")
    batch = convert(random.normal(random.key(1), (9, 2), "float64")), convert(np.arange(9) % 2)
    grad = nets.grad_fn(net)

    def f(params):
        grads, (_, metrics) = grad(params, {}, batch, None)
        return metrics["loss"], grads

    estimate = optim.hutchinson_diagonal(1e-4)
    keys = (random.fold_in(convert(random.key(2)), i) for i in range(300))
    draws = [tree.map(np.asarray, estimate(f, params, key)) for key in keys]
    for name, p in params.items():
        mean = np.mean([draw[name] for draw in draws], axis=0)
        spread = np.std([draw[name] for draw in draws], axis=0) / math.sqrt(len(draws))
        for place in np.ndindex(p.shape):
            one = np.zeros(p.shape)
            one[place] = 1e-4
            sides = [f({**params, name: p + convert(s * one)})[1][name][place] for s in (1, -1)]
            exact = float(sides[0] - sides[1]) / 2e-4
            assert abs(mean[place] - exact) < 6 * spread[place] + 1e-6


def test_sophia_without_a_function_says_what_it_needs(params):
    optimizer = optim.sophia()
    with pytest.raises(UserError, match="sophia: update needs value_and_grad_fn"):
        optimizer.update(params, optimizer.init(params), params)
    assert with_extra_args(optimizer.update) is optimizer.update


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hutchinson_diagonal_is_exact_for_params_whose_rounding_is_above_the_step(dtype):
    params = {"w": np.array([1e5, 2e4, 3e7, 1.0, 0.0], dtype)}
    f = lambda params: ((params["w"] ** 2).sum() / 2, params)
    found = optim.hutchinson_diagonal()(f, params, random.key(0))["w"]
    np.testing.assert_allclose(found, np.ones(5), rtol=1e-3)
