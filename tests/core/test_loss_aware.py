"""Optimizers that know the loss: against torch's scheduler, by hand, and against transcriptions of
the published updates that share no code with them."""

import math

import numpy as np
import pytest
import torch

from purenets import (
    UserError,
    make_step,
    numpy_nets,
    optim,
    random,
    schedules,
    torch_nets,
    train_state,
    tree,
)

both_backends = pytest.mark.parametrize(
    "convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"]
)
START = {"w": np.array([[1.0, -2.0, 0.5], [0.3, 1.5, -1.0]]), "b": np.array([0.7, -0.2])}


def flat(leaves: dict) -> np.ndarray:
    return np.concatenate([np.asarray(leaf).reshape(-1) for leaf in leaves.values()])


def loss_fn(convert, i=0):
    """f = log sum cosh(A p - c_i): smooth, convex, positive; c_i is another one at each step."""
    matrix = np.random.default_rng(0).normal(size=(8, 8))
    shift = 0.1 * np.random.default_rng(i).normal(size=8)

    def value_and_grad(params):
        z = matrix @ flat(params) - shift
        slope = matrix.T @ np.tanh(z)
        grads = {"w": convert(slope[:6].reshape(2, 3)), "b": convert(slope[6:])}
        return convert(np.log(np.cosh(z)).sum()), grads

    return value_and_grad


def run(optimizer, convert, steps, losses=loss_fn):
    """The params, as one array, before and after each update."""
    params = tree.map(convert, START)
    state, path = optimizer.init(params), [flat(params)]
    for i in range(steps):
        f = losses(convert, i)
        value, grads = f(params)
        updates, state = optimizer.update(grads, state, params, value=value, value_and_grad_fn=f)
        params = optim.apply_updates(params, updates)
        path.append(flat(params))
    return np.array(path), state


# --- reduce_on_plateau ----------------------------------------------------------------------------


def scales(losses, convert=np.asarray, **hyper) -> list[float]:
    """The factors of updates of 1, at the given losses."""
    optimizer, params = optim.reduce_on_plateau(**hyper), {"w": convert(np.ones(1))}
    state, found = optimizer.init(params), []
    for loss in losses:
        updates, state = optimizer.update(params, state, params, value=convert(np.asarray(loss)))
        found.append(float(updates["w"][0]))
    return found


def torch_scales(losses, **hyper) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **hyper)
    found = []
    for loss in losses:
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(loss)
    return found


PLATEAUS = {
    "defaults": {},
    "impatient": {"patience": 0, "factor": 0.7},
    "absolute": {"patience": 2, "factor": 0.5, "threshold": 0.05, "threshold_mode": "abs"},
    "cooldown": {"patience": 1, "factor": 0.9, "cooldown": 3, "threshold": 0.02},
}


@both_backends
@pytest.mark.parametrize("case", PLATEAUS)
def test_every_scale_equals_torchs_for_positive_losses(case, convert):
    draw = np.random.default_rng(0).normal
    losses = np.exp(-np.arange(60) / 5) + 0.1 * draw(size=60) ** 2
    found = scales(losses, convert, **PLATEAUS[case])
    assert np.allclose(found, torch_scales(losses, **PLATEAUS[case]), rtol=1e-14)
    assert min(found) < 1


@both_backends
def test_a_negative_loss_that_falls_is_no_plateau(convert):
    """From -1 to -40: by torch's threshold, best (1 - threshold), each is too small an advance."""
    falling = -np.arange(1.0, 41.0)
    assert scales(falling, convert, patience=1) == [1.0] * 40
    slowly = -100 - 1e-3 * np.arange(40.0)  # by less than 1e-4 of 100
    assert scales(slowly, convert, patience=1)[-1] < 1
    assert scales(slowly, convert, patience=1, threshold=1e-6) == [1.0] * 40


def test_a_negative_loss_that_rises_is_a_plateau_where_torch_sees_an_advance():
    rising = -1 + 0.5e-4 * np.arange(8)  # above -1, below -1 (1 - 1e-4)
    assert torch_scales(rising[:2], patience=0)[-1] == 1
    assert torch_scales([-1.0, -1 + 0.5e-4, -1 + 1.4e-4], patience=0)[-1] == 1
    assert scales(rising, patience=3)[-1] < 1


@both_backends
def test_the_mean_of_several_losses_is_one_observation(convert):
    means = np.array([3.0, 2.0, 2.5, 2.4, 2.3, 1.0, 1.1])
    noise = np.array([-1.0, 0.5, 0.5])
    losses = (means[:, None] + noise).reshape(-1)
    found = scales(losses, convert, every=3, patience=1, factor=0.5)
    assert found == list(np.repeat(scales(means, convert, patience=1, factor=0.5), 3))
    assert found[-1] < 1


def test_the_scale_has_a_lower_bound():
    assert scales(np.ones(30), patience=0, factor=0.1, min_scale=0.02)[-1] == 0.02


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_losses_that_are_not_finite_are_no_best_ones(bad):
    found = scales([bad, 1.0, 0.5, bad, 0.4], patience=0, factor=0.5)
    assert found == [1.0, 0.5, 0.5, 0.5, 0.25]


# --- Polyak's step --------------------------------------------------------------------------------


@both_backends
def test_polyak_by_hand(convert):
    hyper = {"lr": 0.12, "f_min": 0.1, "scaling": 0.8, "eps": 1e-3}
    path, _ = run(optim.polyak(**hyper), convert, 30)
    p, clipped = path[0], []
    for i in range(30):
        unravel = tree.ravel(START)[1]
        value, grads = loss_fn(np.asarray, i)(unravel(p))
        g = flat(grads)
        rate = 0.8 * max(value - 0.1, 0) / (g @ g + 1e-3)
        clipped.append(rate > 0.12)
        p = p - min(rate, 0.12) * g
        np.testing.assert_allclose(path[i + 1], p, rtol=0, atol=1e-13)
    assert 0 < np.mean(clipped) < 1


@both_backends
def test_polyak_stays_at_the_minimum(convert):
    params = {"w": convert(np.ones(3))}
    optimizer = optim.polyak()
    for value, slope in ((0.0, 0.0), (1.0, 0.0), (-1.0, 1.0)):
        grads = tree.map(lambda p, s=slope: s * p, params)
        updates, _ = optimizer.update(grads, {}, params, value=convert(np.asarray(value)))
        assert (np.asarray(updates["w"]) == 0).all()


# --- backtracking ---------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("adaptive", [False, True])
def test_backtracking_by_hand(convert, adaptive):
    direction = optim.chain(optim.scale_by_rms(0.5), optim.scale_by_learning_rate(1.0))
    optimizer = optim.backtracking(4.0, direction if adaptive else None, 0.3, 0.6, 1.5)
    path, state = run(optimizer, convert, 25)
    p, t, v, trials, unravel = path[0], 4.0, 0.0, [], tree.ravel(START)[1]
    for i in range(25):
        f = loss_fn(np.asarray, i)
        value, grads = f(unravel(p))
        g = flat(grads)
        v = 0.5 * v + 0.5 * g * g
        u = -g / (np.sqrt(v) + 1e-8) if adaptive else -g
        t, n = min(1.5 * t, 4.0), 1
        while f(unravel(p + t * u))[0] > value + 0.3 * t * (g @ u):
            t, n = 0.6 * t, n + 1
        trials.append(n)
        p = p + t * u
        np.testing.assert_allclose(path[i + 1], p, rtol=0, atol=1e-11)
    assert float(state["step"]) == pytest.approx(t, rel=1e-12)
    assert max(trials) > 2
    assert min(trials) == 1


@both_backends
def test_where_no_step_is_short_enough_the_params_stay(convert):
    def rising(convert, i):
        f = loss_fn(convert, i)
        return lambda p: (f(p)[0] + convert(np.abs(flat(p) - flat(START)).sum() * 1e9), f(p)[1])

    path, state = run(optim.backtracking(max_steps=5), convert, 1, rising)
    assert np.array_equal(path[0], path[1])
    assert float(state["step"]) == 0.5**5


@both_backends
def test_a_direction_uphill_is_not_followed(convert):
    uphill = optim.stateless(lambda grads, params: grads)
    path, _ = run(optim.backtracking(1.0, uphill), convert, 3)
    assert np.array_equal(path[0], path[-1])


def test_each_trial_is_one_evaluation_where_nothing_traces():
    """The loop ends with the first step that is short enough."""
    calls = []

    def counted(convert, i):
        f = loss_fn(convert, 0)
        return lambda params: (calls.append(1), f(params))[1]

    run(optim.backtracking(1e-3), np.asarray, 1, counted)
    assert len(calls) == 2  # the gradient, and the first trial


@both_backends
@pytest.mark.parametrize("search", [optim.backtracking, optim.strong_wolfe, optim.lbfgs])
@pytest.mark.parametrize(
    "rate", [schedules.warmup(schedules.constant(1.0), 3), schedules.cyclic(0.0, 1.0, 3)]
)
def test_a_search_goes_on_after_a_rate_of_0(search, rate, convert):
    """Both schedules begin at 0, and the second one comes back to it."""
    once = lambda convert, i: loss_fn(convert, 0)
    path, _ = run(search(rate), convert, 15, once)
    losses = [float(once(np.asarray, 0)(tree.ravel(START)[1](p))[0]) for p in path]
    least = min(losses)
    assert np.array_equal(path[0], path[1])
    assert losses[-1] == least < 0.5 * losses[0]


# --- MoMo -----------------------------------------------------------------------------------------


def momo(lr, beta=0.9, weight_decay=0.0, lb=0.0, bias_correction=False, use_fstar=False):
    """Algorithm 1 of the paper, with the options of the authors' package."""
    state = {"lb": lb, "f": 0.0, "d": 0.0, "pg": 0.0}

    def step(p, value, g, t):
        b = 0.0 if t == 1 and not bias_correction else beta
        rho = 1 - beta**t if bias_correction else 1.0
        state["f"] = b * state["f"] + (1 - b) * value
        state["d"] = d = b * state["d"] + (1 - b) * g
        state["pg"] = b * state["pg"] + (1 - b) * (p @ g)
        shrink = 1 + lr * weight_decay
        model = shrink * state["f"] + p @ d - shrink * state["pg"]
        if use_fstar and model < shrink * rho * state["lb"]:
            state["lb"] = max(model / (2 * shrink * rho), lb)
        tau = min(lr / rho, max(model - shrink * rho * state["lb"], 0) / (d @ d))
        if use_fstar:
            h = state["f"] + p @ d - state["pg"]
            state["lb"] = max((h - tau * (d @ d) / 2) / rho, lb)
        return (p - tau * d) / shrink, tau < lr / rho

    return step


def momo_adam(
    lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, lb=0.0, divide=True, use_fstar=False
):
    b1, b2 = betas
    state = {"lb": lb, "f": 0.0, "d": 0.0, "v": 0.0, "pg": 0.0}

    def step(p, value, g, t):
        c1, c2 = 1 - b1**t, 1 - b2**t
        state["f"] = b1 * state["f"] + (1 - b1) * value
        state["d"] = d = b1 * state["d"] + (1 - b1) * g
        state["v"] = b2 * state["v"] + (1 - b2) * g * g
        state["pg"] = b1 * state["pg"] + (1 - b1) * (p @ g)
        root = np.sqrt(state["v"] / c2) + eps
        shrink, length = 1 + lr * weight_decay, d @ (d / root)
        model = shrink * state["f"] + p @ d - shrink * state["pg"]
        if use_fstar and model < shrink * c1 * state["lb"]:
            state["lb"] = max(model / (2 * shrink * c1), lb)
        tau = min(lr / c1, max(model - shrink * c1 * state["lb"], 0) / length)
        if use_fstar:
            h = state["f"] + p @ d - state["pg"]
            state["lb"] = max((h - tau * length / 2) / c1, lb)
        if not divide:
            return p - lr * weight_decay * p - tau * d / root, tau < lr / c1
        return (p - tau * d / root) / shrink, tau < lr / c1

    return step


MOMO = {
    "momo": (momo, {"lr": 0.2}),
    "momo decay": (momo, {"lr": 0.2, "weight_decay": 0.1, "beta": 0.5, "lb": 0.2}),
    "momo corrected": (momo, {"lr": 0.2, "bias_correction": True}),
    "momo estimated bound": (momo, {"lr": 0.2, "lb": -1.0, "use_fstar": True}),
    "momo_adam": (momo_adam, {"lr": 0.1, "betas": (0.8, 0.95)}),
    "momo_adam decay": (momo_adam, {"lr": 0.2, "weight_decay": 0.1, "eps": 1e-2, "lb": 0.2}),
    "momo_adam AdamW": (momo_adam, {"lr": 0.2, "weight_decay": 0.1, "divide": False}),
    "momo_adam estimated bound": (momo_adam, {"lr": 0.3, "lb": -1.0, "use_fstar": True}),
}


@both_backends
@pytest.mark.parametrize("case", MOMO)
def test_momo_equals_the_transcription(case, convert):
    make, hyper = MOMO[case]
    path, _ = run(optim.OPTIMIZERS[make.__name__](**hyper), convert, 60)
    step, p, unravel, adapted = make(**hyper), path[0], tree.ravel(START)[1], []
    for i in range(60):
        value, grads = loss_fn(np.asarray, i)(unravel(p))
        p, less = step(p, value, flat(grads), i + 1)
        adapted.append(less)
        np.testing.assert_allclose(path[i + 1], p, rtol=0, atol=1e-12)
    assert 0 < np.mean(adapted) < 1


# --- in a training --------------------------------------------------------------------------------

IN_TRAINING = {
    "plateau": lambda: optim.chain(
        optim.adam(0.05), optim.reduce_on_plateau(0.5, patience=1, every=5)
    ),
    "backtracking Adam": lambda: optim.backtracking(
        0.1, optim.chain(optim.scale_by_adam(), optim.scale_by_learning_rate(1.0))
    ),
    "partitioned": lambda: optim.partition(
        {"1": optim.polyak(0.1), "2": optim.backtracking()}, lambda name, leaf: str(leaf.ndim)
    ),
    "momo in the state": lambda: optim.inject_hyperparams(optim.momo, lr=0.5),
}
COMPILED = ("plateau", "partitioned")  # the others are, in the test of every path


@pytest.mark.parametrize("name", IN_TRAINING)
def test_numpy_and_torch_train_alike(name, traced_only):
    ends = []
    for nets, convert in ((numpy_nets, np.asarray), (torch_nets, torch.as_tensor)):
        net, optimizer = nets.MLP(2, [6], 2), IN_TRAINING[name]()
        params = tree.map(
            convert, tree.cast(numpy_nets.MLP(2, [6], 2).init(random.key(0))[0], "float64")
        )
        x = convert(random.normal(random.key(1), (32, 2), "float64"))
        y = convert(np.asarray(np.asarray(x)[:, 0] * np.asarray(x)[:, 1] > 0).astype(np.int64))
        step = make_step(nets.grad_fn(net), optimizer)
        compiled = (torch_nets.jit(step),) if nets is torch_nets and name in COMPILED else ()
        for run_step in (step, *compiled):
            state, losses = train_state(params, {}, optimizer, convert(random.key(2))), []
            for _ in range(25):
                state, metrics = run_step(state, (x, y))
                losses.append(float(metrics["loss"]))
            ends.append(losses)
    for other in ends[1:]:
        assert np.allclose(ends[0], other, rtol=1e-9)
    assert ends[0][-1] < 0.9 * ends[0][0]


# --- accumulated gradients ------------------------------------------------------------------------

NEED_THE_LOSS = {
    "polyak": lambda: optim.polyak(lr=9.0),
    "momo": lambda: optim.momo(lr=9.0),
    "momo_adam": lambda: optim.momo_adam(lr=9.0),
    "plateau": lambda: optim.chain(optim.sgd(0.1), optim.reduce_on_plateau(patience=0)),
    "of a part": lambda: optim.partition({"all": optim.polyak(9.0)}, lambda name, leaf: "all"),
    "injected": lambda: optim.inject_hyperparams(optim.polyak, lr=9.0),
}


def mean_loss_fn(convert, i):
    """The mean of three functions of `loss_fn`, which differ in scale too."""

    def value_and_grad(params):
        found = [part_of_loss_fn(convert, 3 * i + j)(params) for j in range(3)]
        grads = tree.map(lambda *each: sum(each) / 3, *[grads for _, grads in found])
        return sum(value for value, _ in found) / 3, grads

    return value_and_grad


def part_of_loss_fn(convert, i):
    def value_and_grad(params):
        value, grads = loss_fn(convert, i)(params)
        return (1 + i % 3) * value, tree.map(lambda g: (1 + i % 3) * g, grads)

    return value_and_grad


@both_backends
@pytest.mark.parametrize("name", NEED_THE_LOSS)
def test_accumulated_losses_equal_their_mean(name, convert):
    """As one batch, whose loss and gradient are the means of those of its three parts."""
    whole, _ = run(NEED_THE_LOSS[name](), convert, 6, mean_loss_fn)
    parts, state = run(optim.accumulate(NEED_THE_LOSS[name](), 3), convert, 18, part_of_loss_fn)
    np.testing.assert_allclose(parts[::3], whole, rtol=0, atol=1e-12)
    assert float(state["loss_sum"]) == 0


def test_a_loss_that_is_not_finite_ends_with_its_update():
    optimizer, params = optim.accumulate(optim.polyak(), 2), {"w": np.ones(1)}
    state = optimizer.init(params)
    for loss in (math.nan, 1.0, 2.0, 2.0):
        updates, state = optimizer.update(params, state, params, value=loss)
    assert updates["w"] == -1.0


@pytest.mark.parametrize(
    ("search", "name"),
    [
        (optim.lbfgs(), "lbfgs"),
        (optim.backtracking(), "backtracking"),
        (optim.chain(optim.strong_wolfe(), optim.ema()), "strong_wolfe"),
        (optim.schedule_free(optim.backtracking(), 0.1), "backtracking"),
        (optim.inject_hyperparams(optim.lbfgs, lr=0.5), "lbfgs"),
        (optim.masked(optim.lbfgs(), optim.named("w")), "lbfgs"),
    ],
)
def test_a_line_search_does_not_accumulate(search, name):
    """It would go along the mean gradient by the loss of the last part alone."""
    with pytest.raises(UserError, match=rf"accumulate: optimizer is a line search \({name}\)"):
        optim.accumulate(search, 2)
    optim.accumulate(search, 1)
