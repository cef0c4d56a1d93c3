"""Hyper-parameters that no optimizer, transform, wrapper or schedule can mean: refused where it is
built, in one line that names the function and the argument."""

import inspect
import math
import re

import numpy as np
import pytest
import torch

from purenets import UserError, optim, random, schedules
from purenets.core.optim.internals.elementwise import advance_fn
from purenets.core.optim.internals.extra_args import takes_extra_args
from purenets.core.optim.state import RANGES
from purenets.core.sam import sam
from purenets.core.vector_dict import with_vector

SGD = optim.sgd(0.1)
NAN, INF = math.nan, math.inf
NO_NUMBERS = [None, "0.1", True, [0.1], {}, 1j, np.bool_(True)]
NOT_NEGATIVE = [-1, -1e-9, NAN, INF, -INF, np.float32(-1), np.int64(-1), np.float64("nan")]
DECAYS = [-0.1, 1, 1.0, 1.5, NAN, INF, np.float64(1)]
FRACTIONS = [-0.1, 1.5, NAN, INF]
INTEGERS = [0, -1, 1.0, 2.5, NAN, "2", None, True, [2]]
FLAGS = [None, 0, 1, "False", 0.5]
NUMBERS_OR_NONE = [value for value in NO_NUMBERS if value is not None]
NO_PAIRS = [*NO_NUMBERS, 0.9, (), (0.5,), (0.5, 1.2, 1.3)]
ABOVE_0_BELOW_1 = [0, 1, -0.1, 1.5, NAN]

WRONG = {
    "lr": [*NO_NUMBERS, *NOT_NEGATIVE],
    "eps": [*NO_NUMBERS, *NOT_NEGATIVE],
    "weight_decay": [*NO_NUMBERS, *NOT_NEGATIVE],
    "lr_decay": [*NO_NUMBERS, *NOT_NEGATIVE],
    "momentum_decay": [*NO_NUMBERS, *NOT_NEGATIVE],
    "initial_accumulator_value": [*NO_NUMBERS, *NOT_NEGATIVE],
    "trust_coefficient": [*NO_NUMBERS, *NOT_NEGATIVE],
    "betas": [
        *NO_NUMBERS,
        0.9,
        (),
        (0.9,),
        (0.9, 0.99, 0.999),
        *[(beta, 0.9) for beta in [*NO_NUMBERS, *DECAYS]],
        *[(0.9, beta) for beta in [*NO_NUMBERS, *DECAYS]],
    ],
    "alpha": [*NO_NUMBERS, *DECAYS, 2.0],
    "rho": [*NO_NUMBERS, *DECAYS],
    "momentum": [*NO_NUMBERS, *FRACTIONS],
    "dampening": [*NO_NUMBERS, *FRACTIONS],
    "warmup_steps": [-1, 1.5, NAN, None, "3", True],
    "ns_steps": INTEGERS,
    "ns_coefficients": [None, 3.0, (1.0, 2.0), (1.0, 2.0, NAN), (1.0, 2.0, "3"), "abc"],
    "adjust_lr_fn": [None, "none", 1, [1]],
    "method": [None, "none", 1, [1]],
    "precision": [0, 16, ["float32"]],
    "matrices": [None, True, "fc1.*"],
    "other": [0.1, "sgd", optim.sgd],
    "temperature": [*NO_NUMBERS, *NOT_NEGATIVE],
    "key": [None, 0, "key", np.zeros(2), np.zeros((2, 2), np.int64), np.zeros(5, np.int64)],
    "lambd": [*NO_NUMBERS, *NOT_NEGATIVE],
    "t0": [*NO_NUMBERS, *NOT_NEGATIVE],
    "beta2_decay": [*NO_NUMBERS, 0.1, NAN, -INF],
    "d": [*NO_NUMBERS, 0, 0.9, -1, NAN],
    "etas": [*NO_PAIRS, *[(v, 1.2) for v in ABOVE_0_BELOW_1], *[(0.5, v) for v in [None, 1, INF]]],
    "step_sizes": [*NO_PAIRS, (-1, 50.0), (NAN, 50.0), (0.1, 0.01), (0.1, NAN), (0.1, "1")],
    "gamma": [*NO_NUMBERS, 0, -1, NAN, INF],
    "every": INTEGERS,
    "seed": [-1, 1.5, NAN, None, "3", True],
    "diagonal": [0.1, "hutchinson", True],
    "d0": [*NO_NUMBERS, 0, -1, NAN, INF],
    "d_coef": [*NO_NUMBERS, 0, -1, NAN, INF],
    "reps_rel": [*NO_NUMBERS, 0, -1, NAN, INF],
    "growth_rate": [*NO_NUMBERS, 0.9, -1, NAN],
    "beta3": [*NUMBERS_OR_NONE, *DECAYS],
    "shampoo_beta": [*NUMBERS_OR_NONE, *DECAYS],
    "beta": [*NO_NUMBERS, *DECAYS],
    "max_dim": INTEGERS,
    "precondition_frequency": INTEGERS,
    "max_precond_dim": INTEGERS,
    "scaling": [*NO_NUMBERS, 0, -1, NAN, INF],
    "f_min": [*NO_NUMBERS, NAN, INF],
    "lb": [*NO_NUMBERS, NAN, -INF],
    "direction": [0.1, "sgd", optim.sgd],
    "c1": [*NO_NUMBERS, *ABOVE_0_BELOW_1],
    "c2": [*NO_NUMBERS, *ABOVE_0_BELOW_1, 1e-5],
    "shrink": [*NO_NUMBERS, *ABOVE_0_BELOW_1],
    "grow": [*NO_NUMBERS, 0.9, -1, NAN],
    "max_steps": INTEGERS,
    "max_iter": INTEGERS,
    "max_eval": INTEGERS,
    "history_size": INTEGERS,
    "tolerance_grad": [*NO_NUMBERS, *NOT_NEGATIVE],
    "tolerance_change": [*NO_NUMBERS, *NOT_NEGATIVE],
    "line_search_fn": ["armijo", 1, True, ["strong_wolfe"]],
    **dict.fromkeys(("nesterov", "amsgrad", "centered", "decoupled_weight_decay"), FLAGS),
    **dict.fromkeys(("proximal", "clip", "layerwise", "divide", "use_fstar"), FLAGS),
    **dict.fromkeys(("bias_correction", "use_bias_correction", "safeguard_warmup"), FLAGS),
}
THREE_BETAS = [
    *NO_NUMBERS,
    (0.9, 0.99),
    *[(beta, 0.9, 0.9) for beta in [*NO_NUMBERS, *DECAYS]],
    *[(0.9, beta, 0.9) for beta in [*NO_NUMBERS, *DECAYS]],
    *[(0.9, 0.9, beta) for beta in [*NO_NUMBERS, *DECAYS]],
]
WRONG_OF = {  # where an argument of the same name means something else
    ("adafactor", "eps"): [*NO_PAIRS, (-1, 1e-3), ("0.1", 1e-3), (None, -1), (None, None)],
    ("asgd", "alpha"): [*NO_NUMBERS, *NOT_NEGATIVE],
    ("adan", "betas"): THREE_BETAS,
    ("ademamix", "betas"): THREE_BETAS,
    ("ademamix", "alpha"): [*NO_NUMBERS, *NOT_NEGATIVE],
    ("ademamix", "warmup_steps"): [0, -1, 1.5, NAN, "3", True],
    ("shampoo", "beta"): [*NUMBERS_OR_NONE, *DECAYS],
    ("shampoo", "eps"): [*NO_NUMBERS, 0, -1, NAN, INF],
    ("dog", "eps"): [*NO_NUMBERS, 0, -1, NAN, INF],
    ("lbfgs", "max_eval"): [value for value in INTEGERS if value is not None],
}


KEY = {"key": random.key(0)}
CATALOGUE = optim.OPTIMIZERS | optim.SAMPLERS
ARGUMENTS = [
    pytest.param(make, name, id=f"{make.__name__}-{name}")
    for make in CATALOGUE.values()
    for name in inspect.signature(make).parameters
]


@pytest.mark.parametrize(("make", "name"), ARGUMENTS)
def test_hyper_parameter_that_means_nothing_is_refused(make, name):
    rest = {"momentum": 0.9} if make is optim.sgd and name == "nesterov" else {}
    rest |= KEY if make in optim.SAMPLERS.values() else {}
    for value in WRONG_OF.get((make.__name__, name), WRONG[name]):
        message = refusal(make, {**rest, name: value})
        assert message.startswith(f"{make.__name__}: ")
        assert name in message


def refusal(function, arguments: dict) -> str:
    """Return the one line by which a call is refused."""
    try:
        function(**arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return str(error)
    return pytest.fail(f"taken: {arguments}")


@pytest.mark.parametrize("make", CATALOGUE.values())
def test_no_argument_of_an_optimizer_goes_unchecked(make):
    assert set(inspect.signature(make).parameters) <= WRONG.keys()


OTHERS = {
    "scale_by_learning_rate": ("lr", [*NO_NUMBERS, *NOT_NEGATIVE], {}),
    "add_decayed_weights": ("weight_decay", [*NO_NUMBERS, *NOT_NEGATIVE], {}),
    "clip_by_value": ("limit", [*NO_NUMBERS, 0, -1, NAN], {}),
    "clip_by_global_norm": ("max_norm", [*NO_NUMBERS, 0, -1, NAN], {}),
    "scale_by_trust_ratio": ("coefficient", [*NO_NUMBERS, *NOT_NEGATIVE], {}),
    "scale_by_sum_of_squares": ("initial", [*NO_NUMBERS, *NOT_NEGATIVE], {}),
    "scale_by_adam": ("betas", WRONG["betas"], {}),
    "scale_by_lion": ("betas", WRONG["betas"], {}),
    "scale_by_adamax": ("betas", WRONG["betas"], {}),
    "scale_by_radam": ("eps", WRONG["eps"], {}),
    "scale_by_nadam": ("momentum_decay", WRONG["eps"], {}),
    "scale_by_rms": ("alpha", WRONG["alpha"], {}),
    "scale_by_adadelta": ("rho", WRONG["rho"], {}),
    "scale_by_muon": ("momentum", [*NO_NUMBERS, *DECAYS], {}),
    "trace": ("momentum", WRONG["momentum"], {}),
    "ema": ("decay", [*NO_NUMBERS, *DECAYS], {}),
    "stateless": ("f", [None, 0.1, "f"], {}),
    "accumulate": ("k", INTEGERS, {"optimizer": SGD}),
    "lookahead": ("k", INTEGERS, {"optimizer": SGD}),
    "schedule_free": ("lr", [*NO_NUMBERS, *NOT_NEGATIVE], {"optimizer": SGD}),
    "add_langevin_noise": ("lr", [*NO_NUMBERS, *NOT_NEGATIVE], KEY),
    "beta_lasso": ("lam", [*NO_NUMBERS, *NOT_NEGATIVE], {"optimizer": SGD}),
    "masked": ("where", [None, "fc1.*", 1], {"transform": SGD}),
    "partition": ("label_fn", [None, "a"], {"optimizers": {"a": SGD}}),
    "scale_by_adan": ("betas", THREE_BETAS, {}),
    "scale_by_ademamix": ("betas", THREE_BETAS, {}),
    "scale_by_adopt": ("betas", WRONG["betas"], {}),
    "scale_by_sophia": ("gamma", WRONG["gamma"], {}),
    "scale_by_shampoo": ("every", INTEGERS, {}),
    "scale_by_soap": ("precondition_frequency", INTEGERS, {}),
    "scale_by_factored_rms": ("beta2_decay", WRONG["beta2_decay"], {}),
    "scale_by_param_rms": ("eps", WRONG["eps"], {}),
    "clip_by_block_rms": ("limit", [*NO_NUMBERS, 0, -1, NAN], {}),
    "proximal_step": ("weight_decay", WRONG["weight_decay"], {"lr": 0.1}),
    "adaptive_grad_clip": ("clipping", [*NO_NUMBERS, 0, -1, NAN, INF], {}),
    "hutchinson_diagonal": ("step", [*NO_NUMBERS, 0, -1, NAN, INF], {}),
    "swa": ("start", [-1, 1.5, NAN, None, "3", True], {}),
    "reduce_on_plateau": ("factor", [*NO_NUMBERS, *ABOVE_0_BELOW_1], {}),
    "inject_hyperparams": ("lr", [True, "0.1", -0.1, NAN], {"make": optim.adam}),
}
MORE = {
    ("lookahead", "alpha"): ([*NO_NUMBERS, 0, -0.5, 1.5, NAN], {"optimizer": SGD}),
    ("schedule_free", "beta"): ([*NO_NUMBERS, *FRACTIONS], {"optimizer": SGD, "lr": 0.1}),
    ("schedule_free", "weight_lr_power"): ([None, -1, NAN, "2"], {"optimizer": SGD, "lr": 0.1}),
    ("beta_lasso", "beta"): ([*NO_NUMBERS, *NOT_NEGATIVE], {"optimizer": SGD, "lam": 0.1}),
    ("scale_by_trust_ratio", "eps"): ([*NO_NUMBERS, *NOT_NEGATIVE], {}),
    ("partition", "optimizers"): ([None, [SGD], {"a": optim.sgd}], {"label_fn": lambda *leaf: "a"}),
    ("inject_hyperparams", "betas"): ([(0.9, 1.0), (-0.1, 0.9)], {"make": optim.adam}),
    ("add_langevin_noise", "momentum"): (WRONG["momentum"], {"lr": 0.1, **KEY}),
    ("add_langevin_noise", "temperature"): (WRONG["temperature"], {"lr": 0.1, **KEY}),
    ("add_langevin_noise", "key"): (WRONG["key"], {"lr": 0.1}),
    ("inject_hyperparams", "make"): ([None, SGD, "adam"], {}),
    ("swa", "every"): (INTEGERS, {}),
    ("adaptive_grad_clip", "eps"): ([*NO_NUMBERS, 0, -1, NAN, INF], {}),
    ("reduce_on_plateau", "patience"): ([-1, 1.5, NAN, None, "3", True], {}),
    ("reduce_on_plateau", "cooldown"): ([-1, 1.5, NAN, None, "3", True], {}),
    ("reduce_on_plateau", "threshold"): ([*NO_NUMBERS, *NOT_NEGATIVE], {}),
    ("reduce_on_plateau", "threshold_mode"): ([None, "max", 1, ["rel"]], {}),
    ("reduce_on_plateau", "min_scale"): ([*NO_NUMBERS, *FRACTIONS], {}),
    ("reduce_on_plateau", "every"): (INTEGERS, {}),
}
CASES = {
    **{(function, name): (values, rest) for function, (name, values, rest) in OTHERS.items()},
    **MORE,
}


@pytest.mark.parametrize("name", RANGES)
def test_what_no_constructor_takes_cannot_be_set(name):
    """`set_hyperparams` refuses numbers that all optimizers of this argument refuse, no others."""
    makers = [make for make in CATALOGUE.values() if name in inspect.signature(make).parameters]
    makers += [getattr(optim, f) for f in dir(optim) if (f, name) in NAMED]
    for value in (-1.0, -1e-9, 0.0, 0.3, 0.999, 1.0, 1.5, 30.0):
        taken = any(takes(make, name, value) for make in makers)
        several = (value, value) if name == "betas" else value
        state = {"hyper": {name: np.full(np.shape(several), 0.5)}}
        if taken:
            optim.set_hyperparams(state, **{name: several})
        else:
            message = refusal(optim.set_hyperparams, {"opt_state": state, name: several})
            assert message.startswith(f"set_hyperparams: {name}: {value!r} is not ")


NAMED = {
    *{(function, name) for function, (name, _, _) in OTHERS.items()},
    *MORE,
}


def takes(make, name: str, value: float) -> bool:
    """Return True if a constructor takes a number, or some of it in the place of several."""
    rest = MORE.get((make.__name__, name), (None, {}))[1]
    rest = rest or OTHERS.get(make.__name__, (None, None, {}))[2]
    rest = rest | (KEY if make in optim.SAMPLERS.values() else {})
    for given in (value, (value,) * 2, (value,) * 3):
        try:
            make(**{**rest, name: given})
        except UserError:
            continue
        return True
    return False


@pytest.mark.parametrize(("function", "name"), CASES)
def test_argument_of_a_transform_or_wrapper_is_refused(function, name):
    values, rest = CASES[function, name]
    by = "adam" if function == "inject_hyperparams" and name != "make" else function
    for value in values:
        message = refusal(getattr(optim, function), {**rest, name: value})
        assert message.startswith(f"{by}: ")
        assert name in message or function == "partition"


WRAPPERS = [
    "accumulate",
    "lookahead",
    "apply_if_finite",
    "normalize_weights",
    "masked",
    "schedule_free",
    "beta_lasso",
    "elementwise",
    "skip_first",
    "chain",
]
MORE_ARGUMENTS = {
    "accumulate": (2,),
    "masked": (optim.is_matrix,),
    "schedule_free": (0.1,),
    "beta_lasso": (0.1,),
}


@pytest.mark.parametrize(
    "wrong",
    [None, 0.1, "adam", optim.adam, [SGD]],
    ids=["nothing", "number", "name", "uncalled", "list"],
)
@pytest.mark.parametrize("function", WRAPPERS)
def test_what_is_no_optimizer_cannot_be_wrapped(function, wrong):
    with pytest.raises(UserError, match=f"^{function}: .*, needs an Optimizer") as refused:
        getattr(optim, function)(wrong, *MORE_ARGUMENTS.get(function, ()))
    assert ("call it: adam(...)" in str(refused.value)) == (wrong is optim.adam)


@pytest.mark.parametrize("rho", [*NO_NUMBERS, *NOT_NEGATIVE])
def test_wrong_radius_of_sam_is_refused(rho):
    with pytest.raises(UserError, match=r"^sam: rho: "):
        sam(lambda *given: None, rho)


def test_wrong_gradient_function_of_sam_is_refused():
    with pytest.raises(UserError, match=r"^sam: grad_fn is None, needs a function"):
        sam(None)
    with pytest.raises(UserError, match=r"^sam: adaptive is 1, needs True or False"):
        sam(lambda *given: None, adaptive=1)


# --- gradients of other params --------------------------------------------------------------------


@pytest.mark.parametrize("array", [np.ones, torch.ones])
@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_gradient_that_would_be_repeated_to_fit_is_refused(array, name):
    """NumPy and torch would take a row, or a single number, for each of its kind."""
    params = {"w": array((2, 3)), "b": array(3)}
    optimizer = optim.OPTIMIZERS[name](lr=0.1)
    for wrong in (array(3), array((1, 3)), array(())):
        grads = {"w": wrong, "b": array(3)}
        with pytest.raises(UserError, match=r"w (has shape|: shape is) "):
            updates, _ = optimizer.update(grads, optimizer.init(params), params)
            optim.apply_updates(params, updates)
        for start in (params, with_vector(params)):
            with pytest.raises(UserError, match="w "):
                advance_fn(optimizer)(grads, optimizer.init(start), start)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_gradient_of_another_library_is_refused(name):
    params, optimizer = {"w": np.ones((2, 3))}, optim.OPTIMIZERS[name](lr=0.1)
    grads = {"w": torch.ones(2, 3)}
    loss = {"value": np.ones(()), "value_and_grad_fn": lambda params: (np.ones(()), grads)}
    loss = loss if takes_extra_args(optimizer.update) else {}
    with pytest.raises(UserError, match="w is a tensor, its param a NumPy array"):
        advance_fn(optimizer)(grads, optimizer.init(params), params, **loss)


# --- what is taken as it is -----------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_schedules_and_arrays_are_taken_unchecked(name):
    given = KEY if name in optim.SAMPLERS else {}
    for lr in (
        torch.tensor(-1.0),
        np.array(-1.0),
        np.array(math.nan),
        lambda count: -1.0 + 0 * count,
    ):
        CATALOGUE[name](lr=lr, **given)
    with pytest.raises(UserError):
        CATALOGUE[name](lr=-1.0, **given)


def test_vmapped_and_traced_hyper_parameters_are_taken():
    params = {"w": torch.ones(3)}

    def update(lr, beta):
        optimizer = optim.adam(lr, betas=(beta, 0.999))
        return optimizer.update(params, optimizer.init(params), params)[0]["w"]

    rates, betas = torch.tensor([0.1, -0.1]), torch.tensor([0.5, 0.9])
    together = torch.func.vmap(update)(rates, betas)
    assert torch.allclose(together[:, 0], -rates)
    compiled = torch.compile(update, fullgraph=True)(rates[0], betas[0])
    assert torch.allclose(compiled, together[0])


EDGES = {
    "sgd": {"lr": 0, "momentum": 1.0, "dampening": 1.0},
    "adam": {"betas": (0, 0.0), "eps": 0},
    "adamw": {"betas": [0.9, 0.99], "weight_decay": np.float32(0.1)},
    "rmsprop": {"alpha": 0, "lr": np.int64(1)},
    "lookahead": {"optimizer": SGD, "alpha": 1, "k": np.int64(3)},
    "clip_by_global_norm": {"max_norm": INF},
    "schedule_free": {"optimizer": SGD, "lr": 0.1, "beta": 1.0},
}


@pytest.mark.parametrize("name", EDGES)
def test_numbers_at_the_edge_of_what_is_meant_are_taken(name):
    optimizer = getattr(optim, name)(**EDGES[name])
    params = {"w": np.ones((2, 2), np.float32)}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert updates["w"].shape == (2, 2)


# --- schedules ------------------------------------------------------------------------------------

FINITE = [*NO_NUMBERS, NAN, INF]
POSITIVE = [*NO_NUMBERS, 0, -1, NAN, INF]
UPDATES = [*POSITIVE, 0.01, 0.9, np.float32(0.1)]
UPDATES_OR_0 = [*NO_NUMBERS, -1, NAN, INF, 0.01, 0.9]
NO_SCHEDULES = [0.1, None, "cosine", schedules.cosine, lambda: 0.1, schedules.constant]
NO_SCHEDULES += [lambda count: None, lambda count: (count, 0.1), lambda count: "0.1"]
SCHEDULES = {
    "constant": {"value": (0.1, FINITE)},
    "step": {"value": (0.1, FINITE), "every": (3, UPDATES), "gamma": (0.1, [*FINITE, -0.1])},
    "exponential": {"value": (0.1, FINITE), "gamma": (0.9, [*FINITE, -0.9])},
    "polynomial": {
        "begin": (0.1, FINITE),
        "end": (0.0, FINITE),
        "steps": (10, UPDATES),
        "power": (2.0, POSITIVE),
    },
    "linear": {"begin": (0.1, FINITE), "end": (0.0, FINITE), "steps": (10, UPDATES)},
    "cosine": {"begin": (0.1, FINITE), "steps": (10, UPDATES), "end": (0.0, FINITE)},
    "warmup": {
        "schedule": (schedules.constant(0.1), NO_SCHEDULES),
        "steps": (3, UPDATES_OR_0),
        "begin": (0.0, FINITE),
    },
    "one_cycle": {
        "peak": (0.1, FINITE),
        "steps": (30, [*UPDATES, 2]),
        "warmup_fraction": (0.3, [*NO_NUMBERS, 0, 1, -0.3, NAN]),
        "divide": (25.0, POSITIVE),
        "divide_final": (1e4, POSITIVE),
        "anneal": ("cosine", [None, "quadratic", 1]),
        "three_phase": (False, FLAGS),
    },
    "multi_step": {
        "value": (0.1, FINITE),
        "milestones": ([3, 5], [None, 3, "3", [-3], ["3"], [NAN], [5, 3], [0.3]]),
        "gamma": (0.1, [*FINITE, -0.1]),
    },
    "cosine_restarts": {
        "begin": (0.1, FINITE),
        "steps": (10, UPDATES),
        "multiply": (2, INTEGERS),
        "end": (0.0, FINITE),
    },
    "cyclic": {
        "low": (0.1, FINITE),
        "high": (0.4, FINITE),
        "steps_up": (10, UPDATES),
        "steps_down": (10, [value for value in UPDATES if value is not None]),
        "mode": ("triangular", [None, "sine", 1]),
        "gamma": (1.0, [*FINITE, -0.1]),
    },
    "swa": {
        "schedule": (0.1, FINITE),
        "start": (3, UPDATES_OR_0),
        "rate": (0.05, FINITE),
        "steps": (3, UPDATES_OR_0),
        "anneal": ("cosine", [None, "quadratic", 1]),
    },
    "piecewise": {
        "boundaries": ([3], [None, 3, "3", [-3], ["3"], [NAN], [1, 2], [0.3]]),
        "values": ([0.1, 0.2], [None, 0.1, [0.1], [0.1, NAN], [0.1, "0.2"]]),
    },
    "join": {
        "schedules": (
            [schedules.constant(0.1)] * 2,
            [None, 0.1, [], *[[s] * 2 for s in NO_SCHEDULES]],
        ),
        "boundaries": ([3], [None, 3, [-1], [NAN], [], [0.3]]),
    },
}
SCHEDULE_CASES = [(name, argument) for name, known in SCHEDULES.items() for argument in known]


@pytest.mark.parametrize(("name", "argument"), SCHEDULE_CASES)
def test_argument_of_a_schedule_is_refused(name, argument):
    right = {known: good for known, (good, _) in SCHEDULES[name].items()}
    getattr(schedules, name)(**right)
    for value in SCHEDULES[name][argument][1]:
        message = refusal(getattr(schedules, name), {**right, argument: value})
        assert message.startswith(f"{name}: ")
        assert argument.removesuffix("s") in message or name == "one_cycle"


SWAPPED = {
    "cosine(100, 1e-2)": "cosine(0.01, 100)",
    "cosine(1000, 1.5)": "cosine(1.5, 1000)",
    "step(10, 0.1)": "step(0.1, 10)",
    "linear(100, 0.1, 0.01)": "linear(0.01, 0.1, 100)",
    "polynomial(100, 0.0, 0.1)": "polynomial(0.1, 0.0, 100)",
    "cosine_restarts(50, 0.1)": "cosine_restarts(0.1, 50)",
    "one_cycle(np.int64(300), 0.1)": "one_cycle(0.1, 300)",
}


@pytest.mark.parametrize("call", SWAPPED)
def test_swapped_arguments_of_a_schedule_are_told(call):
    with pytest.raises(UserError, match=f"is it {re.escape(SWAPPED[call])}"):
        eval(f"schedules.{call}", {"schedules": schedules, "np": np})


def test_fractions_of_epochs_are_numbers_of_updates():
    """As 0.9 of 1234 updates; and there is a power of ten written as a float."""
    assert schedules.linear(0.1, 0.0, 0.9 * 1234)(0.45 * 1234) == pytest.approx(0.05)
    assert schedules.cosine(1, 1e3)(500) == pytest.approx(0.5)
    assert schedules.warmup(schedules.constant(0.1), 0.3 * 33)(33) == pytest.approx(0.1)
    assert schedules.one_cycle(0.1, 5)(0) == pytest.approx(0.004)  # a rise of half an update


def test_every_schedule_is_checked():
    public = {
        name
        for name, f in vars(schedules).items()
        if inspect.isfunction(f) and f.__module__ == schedules.__name__ and name[0] != "_"
    }
    assert public == SCHEDULES.keys()
    for name, arguments in SCHEDULES.items():
        assert arguments.keys() == inspect.signature(getattr(schedules, name)).parameters.keys()


def test_learned_values_of_a_schedule_are_taken():
    rate = torch.tensor(0.1, requires_grad=True)
    value = schedules.cosine(rate, 10)(torch.tensor(5.0))
    assert torch.autograd.grad(value, rate)[0] == pytest.approx(0.5)


def test_param_may_be_called_hyper():
    optimizer = optim.inject_hyperparams(optim.adam, lr=0.1)
    state = optim.set_hyperparams(optimizer.init({"hyper": np.ones(2)}), lr=0.3)
    assert float(state["hyper"]["lr"]) == pytest.approx(0.3)


@pytest.mark.parametrize("value", [np.array(0.1 + 1j), torch.tensor(0.1 + 1j), 0.1 + 1j])
def test_complex_rate_is_told(value):
    for make in (optim.sgd, optim.adam, optim.scale_by_learning_rate):
        with pytest.raises(UserError, match=r"lr: .* is not (a|one) number"):
            make(lr=value)
