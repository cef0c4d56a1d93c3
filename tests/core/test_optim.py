"""Every optimizer against torch.optim, on NumPy arrays and on tensors; and what torch.optim cannot
do.
"""

import numpy as np
import pytest
import torch

from purenets import UserError, optim, schedules, tree
from purenets.core.optim.internals.extra_args import takes_extra_args, with_extra_args

# ours, torch's, hyper-parameters other than the defaults
CASES = {
    "sgd": (optim.sgd, torch.optim.SGD, {"lr": 0.03}),
    "sgd decay": (optim.sgd, torch.optim.SGD, {"lr": 0.03, "weight_decay": 0.02}),
    "sgd dampening": (
        optim.sgd,
        torch.optim.SGD,
        {"lr": 0.03, "momentum": 0.8, "dampening": 0.3, "weight_decay": 0.02},
    ),
    "momentum": (optim.momentum, torch.optim.SGD, {"lr": 0.03, "momentum": 0.7}),
    "nesterov": (
        lambda nesterov, **kw: optim.nesterov(**kw),
        torch.optim.SGD,
        {"lr": 0.03, "momentum": 0.7, "nesterov": True, "weight_decay": 0.02},
    ),
    "rmsprop": (
        optim.rmsprop,
        torch.optim.RMSprop,
        {"lr": 0.004, "alpha": 0.93, "eps": 1e-5, "weight_decay": 0.02, "momentum": 0.6},
    ),
    "rmsprop centered": (
        optim.rmsprop,
        torch.optim.RMSprop,
        {"lr": 0.004, "alpha": 0.9, "eps": 1e-3, "centered": True},
    ),
    "adagrad": (
        optim.adagrad,
        torch.optim.Adagrad,
        {
            "lr": 0.05,
            "lr_decay": 0.03,
            "weight_decay": 0.02,
            "initial_accumulator_value": 0.2,
            "eps": 1e-6,
        },
    ),
    "adam": (
        optim.adam,
        torch.optim.Adam,
        {"lr": 0.02, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.05},
    ),
    "adam without momentum": (optim.adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.0, 0.97)}),
    "adamw": (
        optim.adamw,
        torch.optim.AdamW,
        {"lr": 0.02, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.05},
    ),
    "adam amsgrad": (
        optim.adam,
        torch.optim.Adam,
        {"lr": 0.02, "betas": (0.8, 0.9), "amsgrad": True},
    ),
    "adamw amsgrad": (
        optim.adamw,
        torch.optim.AdamW,
        {"lr": 0.02, "amsgrad": True, "weight_decay": 0.1},
    ),
    "adadelta": (
        optim.adadelta,
        torch.optim.Adadelta,
        {"lr": 0.7, "rho": 0.8, "eps": 1e-4, "weight_decay": 0.05},
    ),
    "adamax": (
        optim.adamax,
        torch.optim.Adamax,
        {"lr": 0.02, "betas": (0.8, 0.97), "eps": 1e-4, "weight_decay": 0.05},
    ),
    "nadam": (
        optim.nadam,
        torch.optim.NAdam,
        {
            "lr": 0.02,
            "betas": (0.8, 0.97),
            "eps": 1e-6,
            "weight_decay": 0.05,
            "momentum_decay": 0.01,
        },
    ),
    "nadam decoupled": (
        optim.nadam,
        torch.optim.NAdam,
        {"lr": 0.02, "weight_decay": 0.05, "decoupled_weight_decay": True},
    ),
    "radam": (
        optim.radam,
        torch.optim.RAdam,
        {"lr": 0.02, "betas": (0.8, 0.97), "eps": 1e-6, "weight_decay": 0.05},
    ),
    "radam decoupled": (
        optim.radam,
        torch.optim.RAdam,
        {"lr": 0.02, "weight_decay": 0.05, "decoupled_weight_decay": True},
    ),
    "adafactor": (
        optim.adafactor,
        torch.optim.Adafactor,
        {"lr": 0.02, "beta2_decay": -0.7, "d": 1.3, "weight_decay": 0.05},
    ),
    "adafactor eps": (
        optim.adafactor,
        torch.optim.Adafactor,
        {"lr": 0.3, "eps": (0.1, 0.6)},
    ),
    "asgd": (
        optim.asgd,
        torch.optim.ASGD,
        {"lr": 0.02, "lambd": 0.1, "alpha": 0.6, "weight_decay": 0.05},
    ),
    "rprop": (
        optim.rprop,
        torch.optim.Rprop,
        {"lr": 0.02, "etas": (0.4, 1.3), "step_sizes": (1e-4, 0.1)},
    ),
}
SCHEDULES = {
    "constant": (None, None),
    "cosine": (
        lambda lr: schedules.cosine(lr, 200),
        lambda opt: torch.optim.lr_scheduler.CosineAnnealingLR(opt, 200),
    ),
    "exponential": (
        lambda lr: schedules.exponential(lr, 0.99),
        lambda opt: torch.optim.lr_scheduler.ExponentialLR(opt, 0.99),
    ),
}


def gradient(params: dict, i: int) -> dict:
    """A gradient that depends on the params and on the step, so that any difference grows."""
    noise = np.random.default_rng(i)
    return {name: np.sin(3 * p) + noise.normal(size=p.shape) for name, p in params.items()}


def run_ours(optimizer, params, steps, convert=np.asarray):
    params = tree.map(convert, params)
    state = optimizer.init(params)
    for i in range(steps):
        host = tree.map(lambda p: np.asarray(p), params)
        updates, state = optimizer.update(tree.map(convert, gradient(host, i)), state, params)
        params = optim.apply_updates(params, updates)
    return tree.map(lambda p: np.asarray(p), params)


def run_torch(make, hyper, scheduler, params, steps):
    torch.set_default_dtype(torch.float64)  # that of NAdam's product of momenta
    try:
        return _run_torch(make, hyper, scheduler, params, steps)
    finally:
        torch.set_default_dtype(torch.float32)


def _run_torch(make, hyper, scheduler, params, steps):
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    optimizer = make(tensors.values(), **hyper)
    schedule_ = scheduler(optimizer) if scheduler else None
    for i in range(steps):
        grads = gradient({name: t.detach().numpy() for name, t in tensors.items()}, i)
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        optimizer.step()
        if schedule_:
            schedule_.step()
    return {name: t.detach().numpy() for name, t in tensors.items()}


def with_loss(value_and_grad):
    """The function from params to what an update that asks for the loss is passed."""
    return lambda params: {
        "value": value_and_grad(params)[0],
        "value_and_grad_fn": value_and_grad,
    }


def half_square(params):
    return sum((p * p).sum() for p in params.values()) / 2, params


def sum_of_sines(params):
    return sum(p.sin().sum() for p in params.values()), tree.map(torch.cos, params)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("scheduled", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_200_steps_equal_torch_optim(case, scheduled, convert, params):
    ours, theirs, hyper = CASES[case]
    make_schedule, scheduler = SCHEDULES[scheduled]
    rate = {"lr": make_schedule(hyper["lr"])} if make_schedule else {}
    got = run_ours(ours(**{**hyper, **rate}), params, 200, convert)
    expected = run_torch(theirs, hyper, scheduler, params, 200)
    assert max(np.abs(got[name] - expected[name]).max() for name in params) < 1e-12
    assert max(np.abs(got[name] - params[name]).max() for name in params) > 0.01


DEFAULTS = ("SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam")
DEFAULTS += ("Adafactor", "ASGD", "Rprop")


@pytest.mark.parametrize("name", ["momentum", "nesterov", *(kind.lower() for kind in DEFAULTS)])
def test_defaults_equal_those_of_torch(name, params):
    theirs = {kind.lower(): kind for kind in DEFAULTS} | {"momentum": "SGD", "nesterov": "SGD"}
    extra = {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.9, "nesterov": True}}
    got = run_ours(optim.OPTIMIZERS[name](), params, 200)
    expected = run_torch(getattr(torch.optim, theirs[name]), extra.get(name, {}), None, params, 200)
    assert max(np.abs(got[leaf] - expected[leaf]).max() for leaf in params) < 1e-12


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_averaged_params_of_asgd_equal_torchs(params, convert):
    hyper = {"lr": 0.05, "lambd": 0.1, "t0": 5}
    optimizer, ours = optim.asgd(**hyper), tree.map(convert, params)
    state = optimizer.init(ours)
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    theirs = torch.optim.ASGD(tensors.values(), **hyper)
    torch.set_default_dtype(torch.float64)  # that of torch's rate and weight
    try:
        for i in range(40):
            grads = gradient(tree.map(np.asarray, ours), i)
            updates, state = optimizer.update(tree.map(convert, grads), state, ours)
            ours = optim.apply_updates(ours, updates)
            for name, tensor in tensors.items():
                tensor.grad = torch.tensor(grads[name])
            theirs.step()
    finally:
        torch.set_default_dtype(torch.float32)
    found = optim.get_state(state, "ax")
    for name, tensor in tensors.items():
        assert np.abs(np.asarray(found[name]) - theirs.state[tensor]["ax"].numpy()).max() < 1e-12
        assert np.abs(np.asarray(found[name]) - np.asarray(ours[name])).max() > 0.01


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_float32_nets_stay_float32_whatever_the_hyper_parameters(name, params):
    single = tree.cast(params, "float32")
    for rate in (1e-2, np.float64(1e-2), np.array(1e-2), schedules.cosine(1e-2, 10)):
        optimizer = optim.OPTIMIZERS[name](lr=rate)
        update, loss = with_extra_args(optimizer.update), with_loss(half_square)
        updates, state = update(single, optimizer.init(single), single, **loss(single))
        updates, state = update(single, state, single, **loss(single))
        floats = [leaf for leaf in tree.leaves(state) if leaf.dtype.kind == "f"]
        assert {leaf.dtype for leaf in [*floats, *updates.values()]} == {np.dtype("float32")}


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_vmap_over_rates_equals_one_run_for_each(name, params):
    tensors, rates = (
        tree.map(torch.tensor, params),
        torch.tensor([0.1, 0.01, 0.003], dtype=torch.float64),
    )

    def two_steps(lr):
        optimizer = optim.OPTIMIZERS[name](lr=lr)
        p, state = tensors, optimizer.init(tensors)
        update, loss = with_extra_args(optimizer.update), with_loss(sum_of_sines)
        for _ in range(2):
            updates, state = update(tree.map(torch.cos, p), state, p, **loss(p))
            p = optim.apply_updates(p, updates)
        return p

    # soap divides rounding errors, where the gradient has no part, by its eps of 1e-8
    atol = 1e-8 if name == "soap" else 1e-15
    together = torch.func.vmap(two_steps)(rates)
    for i, rate in enumerate(rates):
        alone = two_steps(rate)
        for leaf in params:
            assert torch.allclose(together[leaf][i], alone[leaf], rtol=1e-13, atol=atol)


def test_wrapped_optimizers_compile_whole(params):
    """The others do in tests/test_optimizers_on_every_path.py."""
    tensors = {name: torch.tensor(params[name]) for name in ("fc1.weight", "fc1.bias")}
    optimizers = {"scheduled": optim.adam(lr=schedules.warmup(schedules.cosine(0.1, 10), 2))}
    optimizers["wrapped"] = optim.chain(
        optim.apply_if_finite(
            optim.accumulate(optim.lookahead(optim.inject_hyperparams(optim.adam, lr=0.1), 2), 2)
        ),
        optim.masked(optim.trace(0.9), optim.is_matrix),
        optim.ema(0.9),
    )
    states = {name: o.init(tensors) for name, o in optimizers.items()}

    def update(grads, states, params):
        loss = with_loss(half_square)(params)
        return {
            name: with_extra_args(o.update)(grads, states[name], params, **loss)
            for name, o in optimizers.items()
        }

    eager = update(tensors, states, tensors)
    compiled = torch.compile(update, fullgraph=True)(tensors, states, tensors)
    for name in optimizers:
        for a, b in zip(tree.leaves(eager[name][1]), tree.leaves(compiled[name][1]), strict=True):
            assert torch.allclose(a.double(), b.double(), rtol=1e-13)
        assert all(
            torch.allclose(eager[name][0][k], compiled[name][0][k], rtol=1e-12) for k in tensors
        ), name


def test_clipping_by_global_norm_is_exact_and_close_to_torchs(params):
    clip = optim.clip_by_global_norm(0.5)
    clipped, _ = clip.update(params, clip.init(params), params)
    assert np.isclose(tree.norm(clipped), 0.5, rtol=1e-14)
    tensors = [
        torch.nn.Parameter(torch.zeros(p.shape, dtype=torch.float64)) for p in params.values()
    ]
    for tensor, grad in zip(tensors, params.values(), strict=True):
        tensor.grad = torch.tensor(grad)
    torch.nn.utils.clip_grad_norm_(tensors, 0.5)
    for tensor, grad in zip(tensors, clipped.values(), strict=True):
        assert np.allclose(tensor.grad.numpy(), grad, rtol=1e-6)
    loose = optim.clip_by_global_norm(100.0)
    kept, _ = loose.update(params, loose.init(params), params)
    assert all(np.array_equal(kept[name], params[name]) for name in params)


def test_clipping_zero_gradients_gives_zeros(params):
    zeros = tree.zeros_like(params)
    clip = optim.clip_by_global_norm(1.0)
    with np.errstate(all="ignore"):
        clipped, _ = clip.update(zeros, {}, params)
    assert all((leaf == 0).all() for leaf in clipped.values())


def test_clipping_by_value(params):
    clip = optim.clip_by_value(0.3)
    clipped, _ = clip.update(params, clip.init(params), params)
    assert all(np.array_equal(clipped[name], params[name].clip(-0.3, 0.3)) for name in params)


def test_every_hyper_parameter_takes_a_schedule(params):
    number = {"momentum": 0.7, "weight_decay": 0.02, "dampening": 0.2, "lr": 0.1}
    scheduled = {name: schedules.constant(value) for name, value in number.items()}
    a, b = (run_ours(optim.sgd(**hyper), params, 20) for hyper in (number, scheduled))
    assert max(np.abs(a[name] - b[name]).max() for name in params) < 1e-14
    adam = [{"betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.1}]
    adam.append(
        {"betas": tuple(map(schedules.constant, (0.8, 0.9)))}
        | {name: schedules.constant(adam[0][name]) for name in ("eps", "weight_decay")}
    )
    a, b = (run_ours(optim.adamw(**hyper), params, 20) for hyper in adam)
    assert max(np.abs(a[name] - b[name]).max() for name in params) < 1e-13


def test_states_are_nested_dicts_of_arrays(params):
    for name, make in optim.OPTIMIZERS.items():
        state = make(lr=schedules.constant(0.1)).init(params)
        assert all(hasattr(leaf, "dtype") for leaf in tree.flatten(state).values()), name


def test_wrong_arguments_are_named(params):
    with pytest.raises(UserError, match="nesterov needs a momentum"):
        optim.sgd(nesterov=True)
    with pytest.raises(UserError, match="at least one leaf"):
        optim.adam().init({})
    optimizer = optim.adam()
    wrong = {name: leaf for name, leaf in params.items() if name != "fc1.bias"}
    with pytest.raises(UserError, match=r"missing fc1\.bias"):
        optimizer.update(wrong, optimizer.init(params), params)


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "radam", "adamax", "lamb"])
@pytest.mark.parametrize("betas", [(1.0, 0.999), (0.9, 1), (-0.1, 0.999)])
def test_a_mean_that_never_moves_is_refused(name, betas):
    with pytest.raises(UserError, match=r"betas: .* is not from 0 to below 1"):
        optim.OPTIMIZERS[name](betas=betas)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("convert", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_leaf_without_elements_changes_nothing(name, shape, convert):
    optimizer = optim.OPTIMIZERS[name](lr=0.1)
    rest = {"w": convert(np.array([[1.0, 2.0], [3.0, 4.0]]))}
    params = {**rest, "empty": convert(np.zeros(shape))}
    extra = {}
    if takes_extra_args(optimizer.update):
        extra = {"value": rest["w"].sum(), "value_and_grad_fn": lambda p: (p["w"].sum(), p)}
    found, state = optimizer.update(params, optimizer.init(params), params, **extra)
    right, _ = optimizer.update(rest, optimizer.init(rest), rest, **extra)
    assert np.allclose(found["w"], right["w"])
    assert found["empty"].shape == shape
    assert all(np.isfinite(np.asarray(leaf)).all() for leaf in tree.flatten(state).values())


@pytest.mark.parametrize("betas", [(0.0, 0.999, 0.9999), (0.9, 0.999, 0.0)])
def test_ademamix_warms_up_from_and_to_a_beta_of_0(betas):
    optimizer, params = optim.ademamix(betas=betas, warmup_steps=3), {"w": np.ones(2)}
    state = optimizer.init(params)
    with np.errstate(divide="ignore"):
        updates, _ = optimizer.update({"w": np.ones(2)}, state, params)
    assert np.isfinite(updates["w"]).all()
    assert (updates["w"] < 0).all()


@pytest.mark.parametrize("size", [1e-3, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_variance_of_equal_gradients_is_not_negative(convert, size):
    """The mean of g^2 less the square of that of g is below 0 by rounding, where both are g^2."""
    grads = {"w": convert(np.full(3, size, np.float32))}
    optimizer = optim.rmsprop(1e-3, centered=True)
    state = optimizer.init(grads)
    for _ in range(3000):
        updates, state = optimizer.update(grads, state, grads)
        assert all(np.isfinite(np.asarray(updates["w"])))


@pytest.mark.parametrize("eps", [0.0, 1e-30])
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_adafactor_leaves_elements_without_a_gradient(convert, eps):
    """The square of such an eps is 0 in float32; one NaN would reach the whole leaf."""
    grads = {"w": [1.0, 0.0, 2.0], "m": [[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]}
    grads = {name: convert(np.float32(g)) for name, g in grads.items()}
    optimizer = optim.adafactor(eps=(eps, 1e-3))
    updates, _ = optimizer.update(grads, optimizer.init(grads), grads)
    for name, g in grads.items():
        found = np.asarray(updates[name])
        assert np.array_equal(np.sign(found), -np.sign(np.asarray(g)))
