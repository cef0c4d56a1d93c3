"""Optimizers that torch.optim does not have: by hand, against the packages of peers, and as
functions that go downhill."""

import math

import numpy as np
import pytest
import torch

from purenets import UserError, numpy_nets, optim, random, schedules, torch_nets, tree
from purenets.core.optim.internals.extra_args import with_extra_args
from purenets.core.optim.methods.muon import newton_schulz
from purenets.core.sam import sam
from purenets.numpy_nets import mlp_numpy
from purenets.optim import apply_updates
from purenets.torch_nets import pytorch_mlp


def run(optimizer, params, gradient, steps, f=None):
    """The params and the state after some updates; f: the loss, for those that ask for it."""
    state, extra = optimizer.init(params), {}
    for i in range(steps):
        if f:
            extra = {"value": f(params), "value_and_grad_fn": lambda p, i=i: (f(p), gradient(p, i))}
        updates, state = with_extra_args(optimizer.update)(
            gradient(params, i), state, params, **extra
        )
        params = apply_updates(params, updates)
    return params, state


def noisy(params, i):
    draw = np.random.default_rng(i)
    return {
        name: np.sin(3 * params[name]) + draw.normal(size=params[name].shape)
        for name in sorted(params)
    }


def difference(a, b):
    return max(np.abs(np.asarray(a[name]) - np.asarray(b[name])).max() for name in a)


# --- by hand --------------------------------------------------------------------------------------

ONE = {"w": np.array([1.0, -2.0])}


def steps_of(optimizer, gradients):
    values = iter(gradients)
    return run(optimizer, ONE, lambda p, i: {"w": np.array(next(values))}, len(gradients))[0]["w"]


def test_lion_by_hand():
    # m = 0: sign(g) = (1, -1); then m = .01 (2, -4) = (.02, -.04), .9 m + .1 g = (-.082, .064)
    got = steps_of(optim.lion(0.1, (0.9, 0.99), weight_decay=0.5), [[2.0, -4.0], [-1.0, 1.0]])
    first = np.array([1 - 0.1 * (1 + 0.5), -2 - 0.1 * (-1 - 1)])
    second = first - 0.1 * (np.array([-1, 1]) + 0.5 * first)
    assert np.allclose(got, second, rtol=1e-15)


def test_lamb_by_hand():
    # the first step of Adam is sign(g) = (1, 1); with decay r = (1, 1) + .5 (1, -2) = (1.5, 0)
    got = steps_of(optim.lamb(0.1, eps=0.0, weight_decay=0.5), [[3.0, 4.0]])
    assert np.allclose(got, [1 - 0.1 * math.sqrt(5) / 1.5 * 1.5, -2.0], rtol=1e-14)


def test_lars_by_hand():
    # |p| = sqrt 5, |g| = 5: the step is lr .01 sqrt 5 / 5 g; the second adds .9 of the first
    got = steps_of(optim.lars(2.0, 0.9, trust_coefficient=0.01), [[3.0, 4.0], [0.0, 0.0]])
    first = -2.0 * 0.01 * math.sqrt(5) / 5 * np.array([3.0, 4.0])
    assert np.allclose(got, ONE["w"] + 1.9 * first, rtol=1e-14)


def test_a_leaf_of_zeros_is_not_lost_to_its_trust_ratio():
    optimizer, zeros = optim.lamb(0.1), {"w": np.zeros(2)}
    updates, _ = optimizer.update({"w": np.array([1.0, -1.0])}, optimizer.init(zeros), zeros)
    assert np.allclose(updates["w"], [-0.1, 0.1], rtol=1e-5)


def test_schedule_free_by_hand():
    # base SGD of rate .5, beta .9: z1 = p - .5 g1, c = 1, x1 = z1 = y1; z2 = z1 - .5 g2, c = 1/2
    optimizer = optim.schedule_free(optim.sgd(0.5), 0.5, 0.9)
    g1, g2 = np.array([1.0, 2.0]), np.array([-3.0, 1.0])
    grads = iter([g1, g2])
    params, state = run(optimizer, ONE, lambda p, i: {"w": next(grads)}, 2)
    z1 = ONE["w"] - 0.5 * g1
    z2 = z1 - 0.5 * g2
    x2 = (z1 + z2) / 2
    assert np.allclose(optim.get_state(state, "x")["w"], x2, rtol=1e-15)
    assert np.allclose(params["w"], 0.9 * x2 + 0.1 * z2, rtol=1e-15)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sam_by_hand(adaptive):
    # f = p1^2 / 2 + p2^2, so g = (p1, 2 p2) = (1, -4) at (1, -2)
    def grad_fn(params, buffers, batch, key):
        return {"w": params["w"] * np.array([1.0, 2.0])}, (buffers, {"loss": params["w"][0]})

    grads, (_, metrics) = sam(grad_fn, 0.1, adaptive)(ONE, {}, None, None)
    g = np.array([1.0, -4.0])
    scale = np.abs(ONE["w"]) if adaptive else 1.0
    there = ONE["w"] + 0.1 * scale**2 * g / np.linalg.norm(scale * g)
    assert np.allclose(grads["w"], there * np.array([1.0, 2.0]), rtol=1e-12)
    assert metrics["loss"] == 1.0


# --- muon -----------------------------------------------------------------------------------------

DRAW = np.random.default_rng(5).normal
MATRICES = {"wide": DRAW(size=(3, 7)), "tall": DRAW(size=(6, 2))}


def torch_muon(steps, **hyper):
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in MATRICES.items()}
    optimizer = torch.optim.Muon(tensors.values(), **hyper)
    for i in range(steps):
        for name, grad in noisy({n: t.detach().numpy() for n, t in tensors.items()}, i).items():
            tensors[name].grad = torch.tensor(grad)
        optimizer.step()
    return {name: t.detach().numpy() for name, t in tensors.items()}


HYPERS = [
    {},
    {
        "lr": 0.02,
        "weight_decay": 0.3,
        "momentum": 0.8,
        "nesterov": False,
        "adjust_lr_fn": "match_rms_adamw",
    },
    {"lr": 0.02, "weight_decay": 0.0, "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5)},
]


@pytest.mark.parametrize("hyper", HYPERS)
def test_muon_in_float64_equals_torchs_with_its_rounding_removed(hyper, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    expected = torch_muon(200, **hyper)
    got, _ = run(optim.muon(**hyper), MATRICES, noisy, 200)
    assert difference(got, expected) < 1e-12
    assert difference(got, MATRICES) > 0.01


def test_muon_in_bfloat16_equals_torchs_within_its_rounding():
    tensors = tree.map(torch.tensor, MATRICES)
    optimizer = optim.muon(0.02, precision="bfloat16")
    state, params = optimizer.init(tensors), tensors
    for i in range(10):
        grads = tree.map(torch.tensor, noisy(tree.map(lambda t: t.numpy(), params), i))
        updates, state = optimizer.update(grads, state, params)
        params = apply_updates(params, updates)
    moved = difference(torch_muon(10, lr=0.02), MATRICES)
    assert difference(params, torch_muon(10, lr=0.02)) < 0.05 * moved


def test_muon_makes_singular_values_about_one():
    draw = np.random.default_rng(0).normal(size=(8, 3, 2, 2))
    values = np.linalg.svd(newton_schulz(draw).reshape(8, -1), compute_uv=False)
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_muon_leaves_vectors_to_the_other_optimizer(params):
    got, state = run(optim.muon(0.02, other=optim.sgd(0.5)), params, noisy, 1)
    grads = noisy(params, 0)
    assert np.allclose(got["fc1.bias"], params["fc1.bias"] - 0.5 * grads["fc1.bias"], rtol=1e-14)
    assert state["muon"]["0"]["momentum_buffer"].keys() == {"fc1.weight", "fc2.weight"}
    state = optim.muon(matrices=optim.not_named("fc2.*")).init(params)
    assert state["muon"]["0"]["momentum_buffer"].keys() == {"fc1.weight"}
    with pytest.raises(UserError, match="unknown adjust_lr_fn 'none', choose from original"):
        optim.muon(adjust_lr_fn="none")


# --- peers ----------------------------------------------------------------------------------------


def run_optax(theirs, params, steps):
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    jax.config.update("jax_enable_x64", True)
    params = {name: jax.numpy.asarray(p) for name, p in params.items()}
    optimizer = theirs(optax)
    state = optimizer.init(params)
    for i in range(steps):
        grads = noisy({name: np.asarray(p) for name, p in params.items()}, i)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


PEERS = {
    "lion": (optim.lion(0.01, weight_decay=0.1), lambda optax: optax.lion(0.01, weight_decay=0.1)),
    "lamb": (optim.lamb(0.01, weight_decay=0.1), lambda optax: optax.lamb(0.01, weight_decay=0.1)),
    "lars": (
        optim.lars(0.5, weight_decay=0.1, trust_coefficient=0.01),
        lambda optax: optax.lars(0.5, weight_decay=0.1, trust_coefficient=0.01),
    ),
    "adamax": (optim.adamax(0.01), lambda optax: optax.adamax(0.01)),
    "adadelta": (optim.adadelta(0.5), lambda optax: optax.adadelta(0.5, rho=0.9, eps=1e-6)),
    "schedule-free": (
        optim.schedule_free_adamw(0.05, weight_decay=0.1),
        lambda optax: optax.contrib.schedule_free_adamw(0.05, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_optax_gives_the_same(name, params):
    pytest.importorskip("optax.contrib")
    ours, theirs = PEERS[name]
    expected, _ = run_optax(theirs, params, 60)
    assert difference(run(ours, params, noisy, 60)[0], expected) < 1e-10


@pytest.mark.parametrize(
    "hyper", [{}, {"lr": 0.03, "betas": (0.8, 0.95), "weight_decay": 0.1, "warmup_steps": 7}]
)
def test_the_authors_schedule_free_gives_the_same(hyper, params):
    package = pytest.importorskip("schedulefree")
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    theirs = package.AdamWScheduleFreeReference(tensors.values(), **hyper)
    theirs.train()
    for i in range(60):
        for name, grad in noisy({n: t.detach().numpy() for n, t in tensors.items()}, i).items():
            tensors[name].grad = torch.tensor(grad)
        theirs.step()
    got, state = run(optim.schedule_free_adamw(**hyper), params, noisy, 60)
    assert difference(got, {n: t.detach().numpy() for n, t in tensors.items()}) < 1e-11
    theirs.eval()
    assert (
        difference(optim.get_state(state, "x"), {n: t.detach().numpy() for n, t in tensors.items()})
        < 1e-11
    )


# --- downhill -------------------------------------------------------------------------------------


def parabola(p):
    """f = |A (w - 1)|^2 / 2, a matrix of params with curvatures 1 and 4."""
    return 0.5 * (np.array([1.0, 2.0]) ** 2 * (p["w"] - 1) ** 2).sum()


def parabola_gradient(p, i):
    return {"w": np.array([1.0, 4.0]) * (p["w"] - 1)}


def rosenbrock(p):
    x, y = p["x"][0, 0], p["x"][0, 1]
    return (1 - x) ** 2 + 100 * (y - x * x) ** 2


def rosenbrock_gradient(p, i):
    x, y = p["x"][0]
    return {"x": np.array([[-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]])}


# rates for the parabola and for Rosenbrock's function, decayed by a cosine to 0 (where it is not
# free of one)
RATES = {
    "sgd": (0.2, 1e-3),
    "momentum": (0.05, 5e-4),
    "nesterov": (0.05, 5e-4),
    "rmsprop": (0.05, 0.01),
    "adagrad": (0.5, 0.5),
    "adadelta": (20.0, 0.1),
    "adam": (0.1, 0.05),
    "adamw": (0.1, 0.05),
    "adamax": (0.1, 0.05),
    "nadam": (0.1, 0.05),
    "radam": (0.1, 0.05),
    "lion": (0.2, 0.02),
    "lamb": (0.1, 0.02),
    "lars": (10.0, 1.0),
    "muon": (0.05, 0.01),
    "schedule_free_adamw": (20.0, 0.1),
    "adafactor": (0.1, 0.01),
    "asgd": (0.2, 1e-3),
    "rprop": (0.1, 0.01),
    "adan": (0.5, 0.05),
    "adopt": (0.5, 0.5),
    "ademamix": (0.5, 0.1),
    "sophia": (0.1, 0.02),
    "dadapt_adam": (1.0, 1.0),
    "prodigy": (1.0, 0.5),
    "dog": (1.0, 1.0),
    "shampoo": (1.0, 0.5),
    "soap": (0.1, 0.05),
    "polyak": (1.0, 1.0),
    "backtracking": (1.0, 1.0),
    "momo": (0.5, 0.5),
    "momo_adam": (0.5, 0.5),
    "strong_wolfe": (1.0, 1.0),
    "lbfgs": (0.1, 0.001),
}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_every_optimizer_goes_downhill(name):
    make, extra = optim.OPTIMIZERS[name], {}
    if name in ("adamw", "muon", "sophia", "soap"):
        extra = {"weight_decay": 0}
    hills = (
        (parabola, parabola_gradient, {"w": np.array([[3.0, -2.0], [0.5, 2.0]])}, 300, 1e-4),
        (rosenbrock, rosenbrock_gradient, {"x": np.array([[-1.2, 1.0]])}, 3000, 0.05),
    )
    for (f, gradient, start, steps, bound), rate in zip(hills, RATES[name], strict=True):
        free = name in ("schedule_free_adamw", "adadelta", "sgd", "adagrad", "dog")
        optimizer = make(lr=rate if free else schedules.cosine(rate, steps), **extra)
        if (
            name == "radam"
        ):  # its first steps are those of a momentum, too long where the hill is steep
            optimizer = optim.chain(optim.clip_by_global_norm(1.0), optimizer)
        end, state = run(optimizer, start, gradient, steps, f)
        end = optim.get_state(state, "x") if name.startswith("schedule_free") else end
        assert f(end) < bound * f(start), (f.__name__, f(end), f(start))


WRAPPED = {
    "lookahead": lambda rate: optim.lookahead(optim.adam(rate)),
    "accumulate": lambda rate: optim.accumulate(optim.adam(rate), 2),
    "schedule-free SGD": lambda rate: optim.schedule_free(optim.sgd(rate / 50), rate / 50),
    "nadam": optim.nadam,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_what_wraps_an_optimizer_goes_downhill(name):
    for f, gradient, start in (
        (parabola, parabola_gradient, {"w": np.array([[3.0, -2.0], [0.5, 2.0]])}),
        (rosenbrock, rosenbrock_gradient, {"x": np.array([[-1.2, 1.0]])}),
    ):
        end, _ = run(WRAPPED[name](0.05), start, gradient, 3000)
        assert f(end) < 0.05 * f(start), (f.__name__, f(end))


def test_sam_goes_downhill_to_its_neighborhood():
    for f, gradient, start in (
        (parabola, parabola_gradient, {"w": np.array([[3.0, -2.0], [0.5, 2.0]])}),
        (rosenbrock, rosenbrock_gradient, {"x": np.array([[-1.2, 1.0]])}),
    ):
        sharp = sam(lambda p, b, batch, key, g=gradient: (g(p, 0), (b, {})), rho=0.01)
        end, _ = run(optim.adam(0.02), start, lambda p, i, g=sharp: g(p, {}, None, None)[0], 3000)
        assert f(end) < 0.01 * f(start), (f.__name__, f(end))


def test_sam_is_the_same_on_both_backends():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(16, 3)), draw.integers(0, 2, 16)
    nets = mlp_numpy.MLP(3, [5], 2), pytorch_mlp.MLP(3, [5], 2)
    params = tree.cast(nets[0].init(random.key(0))[0], "float64")
    by_hand, _ = sam(numpy_nets.grad_fn(nets[0]), 0.1)(params, {}, (x, y), None)
    batch = torch.tensor(x), torch.tensor(y)
    tensors = tree.map(torch.tensor, params)
    by_func, _ = sam(torch_nets.grad_fn(nets[1]), 0.1)(tensors, {}, batch, None)
    assert difference(by_hand, by_func) < 1e-14
