"""Gradients that are differentiated again, and what they hold on to."""

import pytest
import torch
import torch.nn.functional as F

from purenets import apply_updates, make_step, optim, random, train_state, tree
from purenets.core.sam import sam
from purenets.torch_nets import MLP, from_module, grad_fn, jit, metrics_fn

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
Y = torch.tensor([0, 1, 2] * 2)
NET = MLP(4, [8], 3)
PARAMS, _ = NET.init(KEY)


# --- through steps ------------------------------------------------------------------------


def after_two_steps(temperature, rate):
    """The loss after two steps, whose own loss has a temperature."""

    def loss(logits, y):
        return F.cross_entropy(logits * temperature, y)

    step = make_step(grad_fn(NET, loss), optim.sgd(rate))
    state = train_state(PARAMS, {}, optim.sgd(rate), KEY)
    for _ in range(2):
        state, _ = step(state, (X, Y))
    return F.cross_entropy(NET.apply(state.params, {}, X)[0], Y)


def last_metric(rate, name: str, n: int = 3):
    """A metric of the last of `n` steps with a learning rate."""
    metrics = {"nll": F.cross_entropy}
    step = make_step(grad_fn(NET, metrics=metrics), optim.adam(rate))
    state = train_state(tree.cast(PARAMS, "float64"), {}, optim.adam(rate), KEY)
    for _ in range(n):
        state, found = step(state, (X.double(), Y))
    return found[name]


@pytest.mark.parametrize("name", ["loss", "nll"])
def test_the_metrics_of_a_step_have_derivatives(name):
    at, d = torch.tensor(0.05, dtype=torch.float64), 1e-5
    expected = (last_metric(at + d, name) - last_metric(at - d, name)) / (2 * d)
    expected = pytest.approx(float(expected), rel=1e-5)
    assert float(torch.func.grad(last_metric)(at, name)) == expected
    _, tangent = torch.func.jvp(lambda rate: last_metric(rate, name), (at,), (at * 0 + 1,))
    assert float(tangent) == expected
    rate = at.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(last_metric(rate, name), rate)
    assert float(by_autograd) == expected


def test_an_evaluation_has_a_derivative_under_a_transform_alone():
    measure = metrics_fn(NET)
    found = torch.func.grad(lambda params: measure(params, {}, (X, Y))["loss"])(PARAMS)
    expected, (_, metrics) = grad_fn(NET)(PARAMS, {}, (X, Y), None)
    for leaf in PARAMS:
        assert torch.allclose(found[leaf], expected[leaf])
    assert not any(value.requires_grad for value in metrics.values())
    params = {leaf: value.clone().requires_grad_() for leaf, value in PARAMS.items()}
    assert not measure(params, {}, (X, Y))["loss"].requires_grad


def gradient_and_difference(f, at: float) -> tuple:
    value = torch.tensor(at, requires_grad=True)
    (gradient,) = torch.autograd.grad(f(value), value)
    above, below = (float(f(torch.tensor(at + d)).detach()) for d in (0.01, -0.01))
    return float(gradient), pytest.approx((above - below) / 0.02, rel=1e-2)


def test_gradient_by_a_learned_temperature_agrees_with_differences():
    def by_temperature(temperature):
        rate = torch.tensor(0.5, requires_grad=True)
        return after_two_steps(temperature, rate)

    gradient, difference = gradient_and_difference(by_temperature, 1.5)
    assert gradient == difference


def test_gradient_by_the_temperature_alone_agrees_with_differences():
    gradient, difference = gradient_and_difference(lambda t: after_two_steps(t, 0.5), 1.5)
    assert gradient == difference


def test_gradient_by_the_rate_agrees_with_differences():
    gradient, difference = gradient_and_difference(lambda rate: after_two_steps(1.5, rate), 0.5)
    assert gradient == difference


def test_gradient_of_the_gradient_by_the_inputs_is_there():
    x = X.clone().requires_grad_()
    grads, _ = grad_fn(NET)(PARAMS, {}, (x, Y), None)
    assert grads["fc1.weight"].requires_grad
    assert torch.autograd.grad(grads["fc1.weight"].square().sum(), x)[0].any()


def test_gradient_by_the_inputs_of_a_module_agrees_with_ours():
    net = from_module(
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    )
    params, _ = net.init(None)
    x = X.clone().requires_grad_()
    grads, _ = grad_fn(net)(params, {}, (x, Y), None)
    by_autograd = torch.autograd.grad(grads["0.weight"].square().sum(), x)[0]
    by_func = torch.func.grad(
        lambda x: grad_fn(net)(params, {}, (x, Y), None)[0]["0.weight"].square().sum()
    )
    assert torch.allclose(by_autograd, by_func(X), atol=1e-6)


def test_gradient_by_a_parameter_of_the_loss_and_by_buffers():
    temperature = torch.nn.Parameter(torch.tensor(1.5))
    loss = lambda logits, y: F.cross_entropy(logits * temperature, y)
    grads, _ = grad_fn(NET, loss)(PARAMS, {}, (X, Y), None)
    assert torch.autograd.grad(grads["fc1.weight"].square().sum(), temperature)[0] != 0
    scaled = NET._replace(apply=lambda p, b, x, **_: (NET.apply(p, {}, x)[0] * b["scale"], b))
    buffers = {"scale": torch.tensor(1.5, requires_grad=True)}
    again, (new, _) = grad_fn(scaled)(PARAMS, buffers, (X, Y), None)
    assert torch.equal(again["fc1.weight"], grads["fc1.weight"])
    assert torch.autograd.grad(again["fc1.weight"].square().sum(), buffers["scale"])[0] != 0
    assert new["scale"].requires_grad


def test_gradient_by_the_first_params_of_a_training_agrees_with_differences():
    def after(scale):
        params = {name: p * scale for name, p in PARAMS.items()}
        step = make_step(grad_fn(NET), optim.sgd(0.5))
        state = train_state(params, {}, optim.sgd(0.5), KEY)
        for _ in range(2):
            state, _ = step(state, (X, Y))
        return F.cross_entropy(NET.apply(state.params, {}, X)[0], Y)

    gradient, difference = gradient_and_difference(after, 1.5)
    assert gradient == difference
    leaves = {name: p.clone().requires_grad_() for name, p in PARAMS.items()}
    state, _ = make_step(grad_fn(NET), optim.sgd(0.5))(
        train_state(leaves, {}, optim.sgd(0.5), KEY), (X, Y)
    )
    assert all(
        g.any()
        for g in torch.autograd.grad(state.params["fc1.weight"].sum(), [*leaves.values()][:1])
    )


def test_nothing_is_held_where_nothing_else_requires_grad():
    grads, (_, metrics) = grad_fn(NET)(PARAMS, {}, (X, Y), None)
    assert not any(g.requires_grad for g in grads.values())
    assert not metrics["loss"].requires_grad
    with torch.no_grad():
        grads, _ = grad_fn(NET)(PARAMS, {}, (X.clone().requires_grad_(), Y), None)
    assert not any(g.requires_grad for g in grads.values())


@pytest.mark.parametrize("under", [torch.enable_grad, torch.no_grad])
def test_parameters_of_a_module_count_as_values(under):
    leaves = {name: torch.nn.Parameter(p.clone()) for name, p in PARAMS.items()}
    with under():
        grads, _ = grad_fn(NET)(leaves, {}, (X, Y), None)
        state = train_state(leaves, {}, optim.adam(0.1), KEY)
        state, _ = make_step(grad_fn(NET), optim.adam(0.1))(state, (X, Y))
    right, _ = grad_fn(NET)(PARAMS, {}, (X, Y), None)
    assert all(torch.equal(grads[name], right[name]) for name in right)
    assert not any(leaf.requires_grad for leaf in (*grads.values(), *state.params.values()))


# --- through an update at a dead unit -------------------------------------------------------------

EPS = 1e-2  # large, so that central differences see the slope of g / (|g| + eps) at 0
UPDATES = {
    "adam": lambda: optim.adam(0.1, eps=EPS, weight_decay=0.1),
    "adam amsgrad": lambda: optim.adam(0.1, eps=EPS, amsgrad=True),
    "adamw": lambda: optim.adamw(0.1, eps=EPS),
    "adamax": lambda: optim.adamax(0.1, eps=EPS),
    "nadam": lambda: optim.nadam(0.1, eps=EPS),
    "radam": lambda: optim.radam(0.1, eps=EPS),
    "rmsprop": lambda: optim.rmsprop(0.1, eps=EPS, momentum=0.5),
    "rmsprop centered": lambda: optim.rmsprop(0.1, eps=EPS, centered=True),
    "adagrad": lambda: optim.adagrad(0.1, eps=EPS),
    "adadelta": lambda: optim.adadelta(0.1, eps=EPS),
    "lamb": lambda: optim.lamb(0.1, eps=EPS, weight_decay=0.1),
    "lars": lambda: optim.lars(0.1, weight_decay=0.1),
    "muon": lambda: optim.muon(0.1, other=optim.sgd(0.1), eps=0.5),
    "schedule_free_adamw": lambda: optim.schedule_free_adamw(0.1, eps=EPS),
    "clipped, over the norm": lambda: optim.clip_by_global_norm(0.1),
    "clipped, under it": lambda: optim.clip_by_global_norm(100.0),
    "clipped and adam": lambda: optim.chain(optim.clip_by_global_norm(1.0), optim.adam(eps=EPS)),
    "trust ratio": lambda: optim.scale_by_trust_ratio(),
    "normalized": lambda: optim.normalize_weights(optim.adam(0.1, eps=EPS)),
    "accumulated": lambda: optim.accumulate(optim.adam(0.1, eps=EPS), 2),
    "if finite": lambda: optim.apply_if_finite(optim.adam(0.1, eps=EPS)),
    "lookahead": lambda: optim.lookahead(optim.rmsprop(0.1, eps=EPS), 2),
    "injected": lambda: optim.inject_hyperparams(optim.adam, lr=0.1, eps=EPS),
}
POINT = {"w": (3, 2), "b": (3,), "dead": (2, 2)}


def dead_point() -> tuple[dict, dict, dict]:
    """Return params, gradients and weights: a dead unit has the first row of each leaf, and all of
    one leaf."""
    keys = random.split(KEY, 3)
    params, grads, weights = (
        {
            name: random.normal(random.fold_in(key, i), shape, "float64")
            for i, (name, shape) in enumerate(POINT.items())
        }
        for key in keys
    )
    for name in grads:
        grads[name][0] = 0
    return params, grads | {"dead": torch.zeros(2, 2, dtype=torch.float64)}, weights


def after_updates(name: str, steps: int, weights: dict):
    """Return a scalar function of the params and of the gradient of each of the first steps."""

    def f(grads, params):
        optimizer = UPDATES[name]()
        state = optimizer.init(params)
        for _ in range(steps):
            updates, state = optimizer.update(grads, state, params)
            params = apply_updates(params, updates)
        return sum((weights[name] * leaf).sum() for name, leaf in params.items())

    return f


def differences(f, leaves: dict, h: float) -> dict:
    """Return the gradient of `f` by central differences of each element."""

    def at(name, i, step):
        moved = {n: leaf.clone() for n, leaf in leaves.items()}
        moved[name].view(-1)[i] += step
        return float(f(moved))

    return {
        name: torch.tensor(
            [(at(name, i, h) - at(name, i, -h)) / (2 * h) for i in range(leaf.numel())],
            dtype=leaf.dtype,
        ).view(leaf.shape)
        for name, leaf in leaves.items()
    }


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", UPDATES)
def test_gradient_through_updates_of_a_dead_unit_agrees_with_differences(name, steps):
    params, grads, weights = dead_point()
    f = after_updates(name, steps, weights)
    # a leaf of zeros has no direction: its trust ratio is 1, and that of all others is not
    smooth = [n for n in POINT if not (n == "dead" and name in ("lars", "lamb", "trust ratio"))]
    for i, at in ((0, grads), (1, params)):
        by_func = torch.func.grad(f, argnums=i)(grads, params)
        assert all(leaf.isfinite().all() for leaf in by_func.values())
        fixed = (lambda g: f(g, params)) if i == 0 else (lambda p: f(grads, p))
        right = differences(fixed, at, 1e-6)
        for leaf in smooth if i == 0 else POINT:
            assert torch.allclose(by_func[leaf], right[leaf], rtol=1e-3, atol=1e-6), leaf
        inputs = {n: leaf.clone().requires_grad_() for n, leaf in at.items()}
        by_autograd = torch.autograd.grad(fixed(inputs), list(inputs.values()), allow_unused=True)
        mapped = torch.func.vmap(torch.func.grad(f, argnums=i), in_dims=(0, None))(
            {n: torch.stack([g, g + 1]) for n, g in grads.items()}, params
        )
        for (leaf, g), again in zip(by_func.items(), by_autograd, strict=True):
            assert torch.equal(g, torch.zeros_like(g) if again is None else again)
            assert torch.allclose(mapped[leaf][0], g)


@pytest.mark.parametrize("name", ["adam", "rmsprop", "lamb", "clipped, under it", "muon"])
def test_derivatives_of_second_order_and_forward_ones_are_finite_at_a_dead_unit(name):
    params, grads, weights = dead_point()
    f = after_updates(name, 2, weights)
    slope = torch.func.grad(f)
    ones = {n: torch.ones_like(g) for n, g in grads.items()}
    _, forward = torch.func.jvp(lambda g: f(g, params), (grads,), (ones,))
    backward = sum(leaf.sum() for leaf in slope(grads, params).values())
    assert torch.allclose(forward, backward, rtol=1e-9)
    _, bent = torch.func.jvp(lambda g: slope(g, params), (grads,), (ones,))
    assert all(leaf.isfinite().all() for leaf in bent.values())
    with torch.autograd.forward_ad.dual_level():
        dual = {n: torch.autograd.forward_ad.make_dual(g, ones[n]) for n, g in grads.items()}
        tangent = torch.autograd.forward_ad.unpack_dual(f(dual, params)).tangent
    assert torch.allclose(tangent, backward, rtol=1e-9)


def test_compiled_gradient_through_updates_of_a_dead_unit_is_the_eager_one(traced_only):
    params, grads, weights = dead_point()
    names = ["adam", "adagrad", "nadam", "radam", "lamb", "muon", "clipped and adam", "normalized"]

    def all_of_them(grads, params):
        return sum(after_updates(name, 2, weights)(grads, params) for name in names)

    gradient = torch.func.grad(all_of_them, argnums=(0, 1))
    found, right = jit(gradient)(grads, params), gradient(grads, params)
    for part, expected in zip(found, right, strict=True):
        for leaf in expected:
            assert torch.allclose(part[leaf], expected[leaf], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_gradient_through_a_training_step_is_finite_where_a_unit_is_dead(name):
    dead = PARAMS | {"fc1.bias": torch.cat([torch.tensor([-100.0]), PARAMS["fc1.bias"][1:]])}

    def outer(params):
        optimizer = optim.OPTIMIZERS[name](lr=1e-2)
        state = train_state(params, {}, optimizer, KEY)
        for _ in range(2):
            state, _ = make_step(grad_fn(NET), optimizer)(state, (X, Y))
        return F.cross_entropy(NET.apply(state.params, {}, X)[0], Y)

    assert all(leaf.isfinite().all() for leaf in torch.func.grad(outer)(dead).values())


@pytest.mark.parametrize("adaptive", [False, True])
def test_gradient_through_sharpness_aware_steps_is_finite_at_a_zero_gradient(adaptive):
    def outer(params):
        flat = lambda params, buffers, batch, key: (tree.map(lambda p: 0 * p, params), ({}, {}))
        grads, _ = sam(flat, 0.05, adaptive)(params, {}, None, None)
        return sum(leaf.sum() for leaf in grads.values())

    assert all(leaf.isfinite().all() for leaf in torch.func.grad(outer)(PARAMS).values())


@pytest.mark.parametrize("norm", [1.0, 1e-3])
def test_gradient_through_clipping_a_zero_gradient_is_that_of_the_identity(norm):
    clip = optim.clip_by_global_norm(norm)

    def clipped(g):
        return clip.update({"w": g}, {}, {"w": g})[0]["w"].sum()

    assert torch.equal(torch.func.grad(clipped)(torch.zeros(3)), torch.ones(3))


def test_norm_of_zeros_has_the_slope_0():
    zeros = {"w": torch.zeros(3), "c": torch.zeros(2, dtype=torch.complex64)}
    slope = torch.func.grad(tree.norm)(zeros)
    assert not any(leaf.any() for leaf in slope.values())


# --- hyper-parameters that require grad --------------------------------------------------


def after_a_step_with(rate):
    """A sum of the params after a step with a rate that `set_hyperparams` put into the state."""
    optimizer = optim.inject_hyperparams(optim.adamw, lr=0.1)
    state = optim.set_hyperparams(optimizer.init(PARAMS), lr=rate)
    updates, _ = optimizer.update(tree.map(torch.sin, PARAMS), state, PARAMS)
    return tree.norm(apply_updates(PARAMS, updates))


WIDE = torch.tensor(0.3, dtype=torch.float64)
OF_TENSORS = {
    "set_hyperparams": after_a_step_with,
    "another dtype": lambda rate: tree.norm(
        optim.adamw(rate + WIDE).update(PARAMS, optim.adamw(0.1).init(PARAMS), PARAMS)[0]
    ),
    "bernoulli": lambda p: (p * random.bernoulli(KEY, p, (9,))).sum(),
}


@pytest.fixture
def warn_always():
    """Let torch give a warning each time, which it gives once in a process."""
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", OF_TENSORS)
def test_numbers_that_require_grad_give_no_warning(name, warn_always):
    f, at = OF_TENSORS[name], torch.tensor(0.25)
    expected = (f(at + 1e-2) - f(at - 1e-2)) / 2e-2
    leaf = at.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(f(leaf), leaf)
    for found in (torch.func.grad(f)(at), by_autograd):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-3)
