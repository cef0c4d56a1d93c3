"""What combines optimizers, against what it says by hand; on NumPy and, where it may differ, on
torch.
"""

import inspect

import numpy as np
import pytest
import torch

from purenets import TrainState, UserError, optim, random, torch_nets, tree
from purenets.core.optim import wrappers
from purenets.core.optim.internals.extra_args import takes_extra_args
from purenets.core.optim.internals.hyper import Hyper
from purenets.core.vector_dict import vector_of, with_vector
from purenets.optim import apply_updates


def run(optimizer, params, gradients):
    """The params after each gradient, and the last state."""
    state, path = optimizer.init(params), []
    for grads in gradients:
        updates, state = optimizer.update(grads, state, params)
        params = apply_updates(params, updates)
        path.append(params)
    return path, state


@pytest.fixture
def gradients(params):
    draws = [np.random.default_rng(i).normal for i in range(12)]
    return [{name: draw(size=p.shape) for name, p in params.items()} for draw in draws]


def close(a, b, rtol=1e-13):
    return all(
        np.allclose(x, y, rtol=rtol, atol=1e-14)
        for x, y in zip(tree.leaves(a), tree.leaves(b), strict=True)
    )


def test_each_part_goes_to_its_optimizer(params, gradients):
    both = {"w": optim.adam(0.1), "b": optim.sgd(0.2, 0.9)}
    path, state = run(
        optim.partition(both, lambda name, leaf: "w" if leaf.ndim == 2 else "b"), params, gradients
    )
    assert list(path[-1]) == list(params)
    for label, ending in (("w", ".weight"), ("b", ".bias")):
        pick = lambda leaves, end=ending: {n: leaf for n, leaf in leaves.items() if n.endswith(end)}
        alone, own = run(both[label], pick(params), [pick(g) for g in gradients])
        assert close(pick(path[-1]), alone[-1])
        assert close(state[label], own)


def test_parts_may_be_empty_but_not_unknown(params):
    both = {"w": optim.adam(0.1), "b": optim.sgd(0.2)}
    assert optim.partition(both, lambda name, leaf: "w").init(params).keys() == {"w"}
    with pytest.raises(UserError, match=r"fc1\.weight: label 'x', needs one of w, b"):
        optim.partition(both, lambda name, leaf: "x").init(params)


def test_decay_spares_biases_and_norms():
    params = {name: np.ones(3) for name in ("fc.weight", "fc.bias", "norm1.weight", "norm1.bias")}
    zeros = tree.zeros_like(params)
    transform = optim.masked(optim.add_decayed_weights(0.5), optim.not_named("*.bias", "norm*"))
    updates, _ = transform.update(zeros, transform.init(params), params)
    assert {name: leaf[0] for name, leaf in updates.items()} == {
        "fc.weight": 0.5,
        "fc.bias": 0,
        "norm1.weight": 0,
        "norm1.bias": 0,
    }


@pytest.mark.parametrize("where", [optim.is_matrix, optim.not_named("*bias", "*norm*")])
def test_the_recommended_masks_decay_the_weights_of_a_transformer_only(where):
    layers = torch_nets.layers
    net = layers.serial(
        embed=layers.Embedding(7, 8),
        block1=layers.TransformerBlock(8, 2, 16),
        block2=layers.residual(norm=layers.RMSNorm(8), attn=layers.MultiheadAttention(8, 2)),
        norm=layers.LayerNorm(8),
        head=layers.Linear(8, 3),
    )
    params, _ = net.init(random.key(0))
    params = tree.map(torch.ones_like, params)
    transform = optim.masked(optim.add_decayed_weights(0.5), where)
    updates, _ = transform.update(tree.zeros_like(params), transform.init(params), params)
    decayed = {name for name, leaf in updates.items() if leaf.any()}
    assert decayed == {
        "embed.weight",
        *(f"block1.{name}.weight" for name in ("linear1", "linear2", "self_attn.out_proj")),
        *(f"{name}.in_proj_weight" for name in ("block1.self_attn", "block2.attn")),
        "block2.attn.out_proj.weight",
        "head.weight",
    }


def test_masked_adamw_equals_torchs_groups(params, gradients):
    ours = optim.chain(
        optim.scale_by_adam(),
        optim.masked(optim.add_decayed_weights(0.3), optim.is_matrix),
        optim.scale_by_learning_rate(0.05),
    )
    tensors = {name: torch.nn.Parameter(torch.tensor(p)) for name, p in params.items()}
    groups = [
        {"params": [p for p in tensors.values() if p.ndim == 2], "weight_decay": 0.3},
        {"params": [p for p in tensors.values() if p.ndim == 1], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=0.05)
    for grads in gradients:
        for name, tensor in tensors.items():
            tensor.grad = torch.tensor(grads[name])
        theirs.step()
    path, _ = run(ours, params, gradients)
    assert all(np.allclose(path[-1][n], t.detach(), rtol=0, atol=1e-13) for n, t in tensors.items())


def test_what_is_frozen_stays(params, gradients):
    optimizer = optim.partition(
        {"on": optim.adam(), "off": optim.freeze()},
        lambda name, _: "off" if "fc1" in name else "on",
    )
    last = run(optimizer, params, gradients)[0][-1]
    assert all(np.array_equal(last[n], params[n]) == ("fc1" in n) for n in params)


def test_a_freeze_that_holds_no_leaf_is_refused(params):
    """As by a typo in a name. Other optimizers may be for leaves that some nets lack."""
    label = lambda name, leaf: "off" if "fc_1" in name else "on"
    frozen = optim.partition({"on": optim.adam(), "off": optim.freeze()}, label)
    with pytest.raises(UserError, match="partition: no leaf has the label 'off', which freezes"):
        frozen.init(params)
    optim.partition({"on": optim.adam(), "off": optim.sgd(0.1)}, label).init(params)


def test_accumulated_gradients_equal_their_mean(params, gradients):
    path, state = run(optim.accumulate(optim.adam(0.1), 3), params, gradients)
    means = [
        tree.map(lambda *each: sum(each) / 3, *gradients[begin : begin + 3])
        for begin in range(0, 12, 3)
    ]
    expected, inner = run(optim.adam(0.1), params, means)
    assert all(map(close, path[2::3], expected))
    assert close(path[0], params)
    assert close(path[4], path[2])
    assert close(state["inner"], inner)
    with pytest.raises(UserError, match="k is 0, needs a positive integer"):
        optim.accumulate(optim.adam(), 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_is_skipped(bad, params, gradients):
    spoiled = {**gradients[0], "fc1.bias": np.full_like(params["fc1.bias"], bad)}
    path, state = run(
        optim.apply_if_finite(optim.adam(0.1)), params, [*gradients[:2], spoiled, gradients[2]]
    )
    expected, inner = run(optim.adam(0.1), params, gradients[:3])
    assert close(path[-1], expected[-1])
    assert close(state["inner"], inner)
    assert int(optim.get_state(state, "skipped")) == 1


def test_ema_is_the_running_mean_of_the_params(params, gradients):
    path, state = run(optim.chain(optim.sgd(0.1), optim.ema(0.8)), params, gradients)
    mean = params
    for point in path:
        mean = tree.map(lambda m, p: 0.8 * m + 0.2 * p, mean, point)
    assert close(optim.get_state(state, "ema"), mean)
    assert close(path[-1], run(optim.sgd(0.1), params, gradients)[0][-1])


@pytest.mark.parametrize(
    ("make", "entry"),
    [
        (lambda: optim.chain(optim.sgd(0.1), optim.ema(0.8)), "ema"),
        (lambda: optim.schedule_free_adamw(0.1), "x"),
        (lambda: optim.adam(0.1), None),
    ],
)
def test_averaged_is_the_state_to_evaluate(params, gradients, make, entry):
    path, opt_state = run(make(), params, gradients)
    state = TrainState(path[-1], {}, opt_state, None, None)
    expected = optim.get_state(opt_state, entry) if entry else path[-1]
    assert all(
        np.array_equal(optim.with_averaged_params(state).params[k], expected[k]) for k in params
    )
    assert (entry is None) == (optim.with_averaged_params(state) is state)


def test_lookahead_goes_back_half_way(params, gradients):
    path, _ = run(optim.lookahead(optim.sgd(0.1), k=3, alpha=0.5), params, gradients)
    slow = params
    for i in range(0, 12, 3):
        fast = run(optim.sgd(0.1), slow, gradients[i : i + 3])[0]
        assert close(path[i + 1], fast[1])
        slow = tree.map(lambda s, f: s + 0.5 * (f - s), slow, fast[-1])
        assert close(path[i + 2], slow)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_injected_hyper_parameters_are_read_and_replaced(convert, params, gradients):
    params, gradients = tree.map(convert, params), [tree.map(convert, g) for g in gradients]
    optimizer = optim.inject_hyperparams(
        optim.adamw, lr=0.1, betas=(0.8, 0.95), weight_decay=0.0, amsgrad=True
    )
    path, state = run(optimizer, params, gradients[:6])
    plain = optim.adamw(0.1, (0.8, 0.95), weight_decay=0, amsgrad=True)
    expected, inner = run(plain, params, gradients[:6])
    assert close(path[-1], expected[-1], 1e-12)
    assert float(optim.get_state(state, "hyper")["lr"]) == 0.1
    changed = optim.set_hyperparams(state, lr=0.01, weight_decay=0.1)
    assert float(optim.get_state(state, "hyper")["lr"]) == 0.1
    assert float(optim.get_state(changed, "hyper")["lr"]) == 0.01
    updates, _ = optimizer.update(gradients[6], changed, path[-1])
    other = optim.adamw(0.01, (0.8, 0.95), weight_decay=0.1, amsgrad=True)
    state_of_other = {"0": inner["0"], "1": {}, "2": {}}
    assert close(updates, other.update(gradients[6], state_of_other, path[-1])[0], 1e-12)
    with pytest.raises(
        UserError, match="learning_rate: not an injected hyper-parameter, the state holds lr"
    ):
        optim.set_hyperparams(state, learning_rate=1.0)
    with pytest.raises(UserError, match="hyper: no such entry"):
        optim.set_hyperparams(optim.adam().init(params), lr=1.0)


def test_integers_of_hyper_parameters_are_injected(params):
    def own(lr=0.1, every=2, scale: Hyper = 0):
        return optim.chain(optim.accumulate(optim.sgd(lr), every), optim.clip_by_value(scale + 1))

    for make, given, held in (
        (optim.adam, {"lr": 1, "betas": (0.5, 0.9), "eps": 0}, {"lr", "betas"}),
        (optim.sgd, {"lr": 1, "momentum": 1, "weight_decay": 0, "nesterov": True}, None),
        (optim.clip_by_value, {"limit": 2}, {"limit"}),
        (own, {"lr": 1, "every": 3, "scale": 2}, {"lr", "scale"}),
        (optim.lookahead, {"optimizer": optim.sgd(1), "k": 2, "alpha": 1}, {"alpha"}),
        (lambda **hypers: optim.sgd(**hypers), {"lr": 1}, set()),
    ):
        injected = optim.inject_hyperparams(make, **given)
        state = injected.init(params)
        assert state["hyper"].keys() == ({"lr", "momentum"} if held is None else held)
        plain = make(**given)
        expected, _ = plain.update(params, plain.init(params), params)
        assert close(injected.update(params, state, params)[0], expected)
    for make, lr in ((optim.adam, 0), (optim.adam, lambda count: 0.1 + 0 * count)):
        state = optim.inject_hyperparams(make, lr=lr).init(params)
        with pytest.raises(UserError, match=r"^lr: not an .* holds none; schedules, flags and the"):
            optim.set_hyperparams(state, lr=0.1)


def test_each_of_several_injected_optimizers_is_changed(params):
    optimizer = optim.chain(
        optim.inject_hyperparams(optim.clip_by_value, limit=1.0),
        optim.inject_hyperparams(optim.sgd, lr=0.1),
    )
    state = optim.set_hyperparams(optimizer.init(params), lr=0.5, limit=2.0)
    assert (float(state["0"]["hyper"]["limit"]), float(state["1"]["hyper"]["lr"])) == (2.0, 0.5)
    with pytest.raises(UserError, match=r"momentum: not an .* the state holds limit, lr;"):
        optim.set_hyperparams(state, momentum=0.5)


def test_as_many_numbers_are_set_as_the_state_holds(params):
    state = optim.inject_hyperparams(optim.adam, lr=0.1, betas=(0.9, 0.99)).init(params)
    for given, text in (
        ({"betas": 0.9}, r"betas is one number, the state holds shape \(2,\)"),
        ({"betas": (0.9,)}, r"betas is 1 numbers, the state holds shape \(2,\)"),
        ({"lr": (0.1, 0.2)}, "lr is 2 numbers, the state holds one number"),
    ):
        with pytest.raises(UserError, match=f"^set_hyperparams: {text}"):
            optim.set_hyperparams(state, **given)
    assert optim.set_hyperparams(state, betas=[0.5, 0.6], lr=np.ones(()))["hyper"]["lr"] == 1


def test_members_of_a_vmapped_state_have_their_own_rate(params, gradients):
    tensors, grads = tree.map(torch.tensor, params), tree.map(torch.tensor, gradients[0])
    optimizer = optim.inject_hyperparams(optim.adam, lr=0.1)
    rates = torch.tensor([0.1, 0.02, 0.005], dtype=torch.float64)
    states = tree.stack([optim.set_hyperparams(optimizer.init(tensors), lr=rate) for rate in rates])
    updates, _ = torch.func.vmap(optimizer.update, in_dims=(None, 0, None))(grads, states, tensors)
    for i, rate in enumerate(rates):
        alone, _ = optim.adam(float(rate)).update(grads, optim.adam().init(tensors), tensors)
        assert close(tree.map(lambda leaf, i=i: leaf[i], updates), alone)


ELEMENTWISE = {
    **{
        name: optim.OPTIMIZERS[name](lr=0.05)
        for name in (
            "sgd",
            "nesterov",
            "rmsprop",
            "adam",
            "adamw",
            "nadam",
            "radam",
            "lion",
            "adadelta",
        )
    },
    "ema": optim.chain(optim.adam(0.05), optim.ema(0.9)),
    "accumulate": optim.accumulate(optim.adam(0.05), 2),
    "lookahead": optim.lookahead(optim.adam(0.05), 2),
    "schedule_free": optim.schedule_free(optim.sgd(0.05), 0.05),
    "clipped": optim.chain(optim.clip_by_value(0.1), optim.sgd(0.05)),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_one_vector_equals_many_leaves(name, params, gradients):
    optimizer = ELEMENTWISE[name]
    path, state = run(optimizer, with_vector(params), gradients)
    assert close(path[-1], run(optimizer, params, gradients)[0][-1])
    assert vector_of(path[-1]) is not None
    kept = [part for part in nested(state) if part.keys() == params.keys()]
    assert all(vector_of(part) is not None for part in kept)


def nested(state: dict):
    """Each dict in a nested one."""
    yield state
    for part in state.values():
        if isinstance(part, dict):
            yield from nested(part)


LOOKING = {
    "lamb": optim.lamb(0.05),
    "lars": optim.lars(0.05),
    "muon": optim.muon(0.05),
    "clipped by norm": optim.chain(optim.clip_by_global_norm(0.1), optim.adam(0.05)),
    "masked": optim.chain(
        optim.masked(optim.add_decayed_weights(0.1), optim.is_matrix), optim.adam(0.05)
    ),
    "normalized": optim.normalize_weights(optim.sgd(0.05)),
    "if finite": optim.apply_if_finite(optim.adam(0.05)),
    "injected": optim.inject_hyperparams(optim.adam, lr=0.05),
    "beta_lasso": optim.beta_lasso(optim.adam(0.05), 0.01),
    "average inside": optim.partition(
        {"a": optim.chain(optim.adam(0.05), optim.ema(0.9))}, lambda *_: "a"
    ),
}


@pytest.mark.parametrize("name", LOOKING)
def test_what_looks_at_leaves_sees_leaves(name, params, gradients):
    """Their norms, shapes or names: the same from params that carry a vector."""
    path, _ = run(LOOKING[name], with_vector(params), gradients)
    assert close(path[-1], run(LOOKING[name], params, gradients)[0][-1])


def test_find_reads_the_outermost_entry_first(params):
    state = optim.chain(optim.adam(), optim.ema()).init(params)
    assert optim.get_state(state, "ema").keys() == params.keys()
    with pytest.raises(UserError, match="slow: no such entry in the state of the optimizer"):
        optim.get_state(state, "slow")


def test_finite_is_told_for_all_leaves(params):
    assert bool(wrappers.all_finite(params))
    assert not bool(wrappers.all_finite({**params, "fc2.bias": np.array([1.0, np.nan])}))


def test_an_average_within_accumulation_moves_once_for_each_update(params, gradients):
    inside = optim.accumulate(optim.chain(optim.sgd(0.1), optim.ema(0.5)), 2)
    outside = optim.chain(optim.accumulate(optim.sgd(0.1), 2), optim.ema(0.5))
    doubled = [g for g in gradients for _ in range(2)]
    _, once = run(optim.chain(optim.sgd(0.1), optim.ema(0.5)), params, gradients)
    _, found = run(inside, params, doubled)
    _, other = run(outside, params, doubled)
    assert close(optim.get_state(found, "ema"), optim.get_state(once, "ema"))
    assert not close(optim.get_state(other, "ema"), optim.get_state(once, "ema"))


@pytest.mark.parametrize("precision", [None, "float16"])
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("method", ["direct", "gram"])
def test_coefficients_of_muon_are_injected(convert, method, precision):
    params = {"w": convert(np.float32([[1.0, 2.0, 0.5], [3.0, -1.0, 2.0]]))}
    given = {"ns_coefficients": (3.0, -4.0, 2.0), "method": method, "precision": precision}
    injected = optim.inject_hyperparams(optim.muon, lr=0.1, **given)
    plain = optim.muon(0.1, **given)
    found, _ = injected.update(params, injected.init(params), params)
    right, _ = plain.update(params, plain.init(params), params)
    assert found["w"].dtype == params["w"].dtype
    assert np.allclose(found["w"], right["w"], atol=1e-3 if precision else 1e-6)


STATES = {  # an optimizer, an entry of its state that a leaf is called like, and its value
    "scale": (lambda: optim.chain(optim.adam(), optim.reduce_on_plateau()), 1.0),
    "lr_max": (lambda: optim.schedule_free(optim.adam(), 0.1), 0.0),
    "skipped": (lambda: optim.chain(optim.trace(0.9), optim.apply_if_finite(optim.sgd(1.0))), 0),
    "lr": (lambda: optim.chain(optim.trace(0.9), optim.inject_hyperparams(optim.sgd, lr=0.5)), 0.5),
}


@pytest.mark.parametrize("entry", STATES)
def test_entry_is_found_beside_leaves_of_its_name(entry):
    make, value = STATES[entry]
    for params in ({entry: np.ones(3)}, {"b": np.ones(()), entry: np.ones((2, 2))}):
        assert float(optim.get_state(make().init(params), entry)) == value
    assert optim.get_state(optim.adam().init({"w": np.ones(3)}), "w").shape == (3,)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_another_k_in_the_middle_of_an_accumulation(array):
    """Each update is the mean of all gradients since the one before."""
    params, taken = {"w": array([0.0])}, []
    before, after = (optim.accumulate(optim.sgd(1.0), k) for k in (4, 2))
    state = before.init(params)
    for gradient in (1.0, 2.0, 3.0):
        _, state = before.update({"w": array([gradient])}, state, params)
    for gradient in (6.0, 1.0, 2.0):
        updates, state = after.update({"w": array([gradient])}, state, params)
        taken.append(float(updates["w"][0]))
    assert taken == [-3.0, 0.0, -1.5] and int(state["count"]) == 0


def test_another_number_of_losses_in_the_middle_of_an_observation():
    params = {"w": np.zeros(1)}
    before, after = (optim.reduce_on_plateau(every=every) for every in (4, 2))
    state = before.init(params)
    for _ in range(3):
        _, state = before.update(params, state, params, value=1.0)
    _, state = after.update(params, state, params, value=5.0)
    assert state["best"] == 2.0 and state["count"] == 0


@pytest.mark.parametrize(
    ("make", "hypers"),
    [
        (optim.rprop, {"lr": 0.1}),
        (optim.adagrad, {"initial_accumulator_value": 0.1}),
        (optim.dog, {"reps_rel": 0.1}),
        (optim.dog, {"eps": 0.1}),
        (optim.prodigy, {"d0": 0.1}),
        (optim.dadapt_adam, {"d0": 0.1}),
    ],
)
def test_what_only_the_first_state_is_made_of_stays_fixed(make, hypers):
    state = optim.inject_hyperparams(make, **hypers).init({"w": np.ones(2)})
    with pytest.raises(UserError, match="not an injected hyper-parameter"):
        optim.set_hyperparams(state, **hypers)


def floats_of(make) -> dict[str, float]:
    """Return the hyper-parameters of a function of `optim` whose default is a number of floats."""
    try:
        given = inspect.signature(make).parameters
    except (TypeError, ValueError):
        return {}
    if any(p.default is p.empty and p.kind != p.VAR_KEYWORD for p in given.values()):
        return {}
    return {name: p.default for name, p in given.items() if type(p.default) is float}


NUMBERS = [
    (name, hyper)
    for name in sorted(dir(optim))
    if callable(getattr(optim, name)) and not isinstance(getattr(optim, name), type)
    for hyper in floats_of(getattr(optim, name))
    if (name, hyper)
    != ("asgd", "lr")  # its state holds the next rate: one update later, as in torch
]


@pytest.mark.parametrize(("name", "hyper"), NUMBERS)
def test_a_number_that_is_set_before_the_first_update_is_as_if_given(name, hyper):
    """What can be set has the effect of its new value; what would have none cannot be set."""
    make, params = getattr(optim, name), {"w": np.array([[2.0, 0.5], [-1.0, 3.0]])}
    old = floats_of(make)[hyper]
    new = 0.5 * old + 0.1 if old < 1 or hyper == "lr" else 0.75 * old
    try:
        injected, plain = optim.inject_hyperparams(make, **{hyper: old}), make(**{hyper: new})
        state = optim.set_hyperparams(injected.init(params), **{hyper: new})
    except (UserError, TypeError):
        return  # no optimizer, or it says that the number cannot be set
    found, expected, other = params, params, plain.init(params)

    def loss(params):
        return float((params["w"] ** 2).sum()), {"w": 2 * params["w"]}

    for _ in range(4):
        moved = []
        for optimizer, at, own in ((injected, found, state), (plain, expected, other)):
            value, grads = loss(at)
            extra = {"value": value, "value_and_grad_fn": loss}
            extra = extra if takes_extra_args(optimizer.update) else {}
            updates, own = optimizer.update(grads, own, at, **extra)
            moved += [optim.apply_updates(at, updates), own]
        found, state, expected, other = moved
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-9)


@pytest.mark.parametrize("array", [np.array, torch.tensor])
@pytest.mark.parametrize("inject", [False, True])
def test_a_small_eps_of_adafactor_of_any_kind(array, inject):
    gradient = array(
        [[0.0, 0, 0], [1, 2, 3]], dtype={np.array: "float32"}.get(array, torch.float32)
    )
    params, eps = {"w": array(np.ones((2, 3), np.float32))}, (1e-30, 1e-3)
    plain = optim.adafactor(0.1, eps=eps)
    other = optim.adafactor(0.1, eps=(np.float64(1e-30), 1e-3))
    if inject:
        other = optim.inject_hyperparams(optim.adafactor, lr=0.1, eps=eps)
    one, another = (
        optimizer.update({"w": gradient}, optimizer.init(params), params)[0]["w"]
        for optimizer in (plain, other)
    )
    assert np.allclose(one, another) and np.isfinite(np.asarray(one)).all()
