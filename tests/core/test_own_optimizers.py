"""What users write themselves: updates, predicates, labels and schedules. What is wrong with them
is told in one line, before the first step."""

import math

import numpy as np
import pytest
import torch

from purenets import (
    Optimizer,
    UserError,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    schedules,
    torch_nets,
    train_state,
    tree,
)
from purenets.core.arrays import namespace
from purenets.core.optim.internals.order import order_of

ARRAYS = pytest.mark.parametrize("array", [np.ones, torch.ones], ids=["numpy", "torch"])
DOWN = optim.scale_by_learning_rate(0.1)


def zeros(params):
    return {"m": tree.zeros_like(params)}


def kept_in_place(grads, state, params):
    return tree.map(lambda m, g: m.__iadd__(g), state["m"], grads), state


def dict_in_place(grads, state, params):
    state["m"] = tree.map(lambda m, g: m + g, state["m"], grads)
    return state["m"], state


def params_in_place(grads, state, params):
    for p in params.values():
        p *= 0.5
    return grads, state


def grads_in_place(grads, state, params):
    return tree.map(lambda g: g.__imul__(0.5), grads), state


IN_PLACE = {
    "opt_state": [kept_in_place, dict_in_place],
    "params": [params_in_place],
    "grads": [grads_in_place],
}
WRITING = [(what, update) for what, updates in IN_PLACE.items() for update in updates]
WRAPPED = {
    "alone": lambda own: own,
    "in a chain": lambda own: optim.chain(optim.clip_by_global_norm(1.0), own, DOWN),
    "first": lambda own: optim.chain(own, DOWN),
    "accumulated": lambda own: optim.accumulate(own, 2),
    "in a part": lambda own: optim.partition({"a": own, "b": DOWN}, lambda *leaf: "a"),
    "elementwise": optim.elementwise,
    "averaged": lambda own: optim.chain(own, optim.ema()),
    "injected": lambda own: optim.inject_hyperparams(lambda lr: own, lr=0.1),
    "schedule-free": lambda own: optim.schedule_free(own, 0.1),
}


def state_of(optimizer, array=np.ones):
    return train_state({"w": array((4, 5)), "b": array(4)}, {}, optimizer, random.key(0))


@ARRAYS
@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize(("what", "update"), WRITING)
def test_update_that_writes_into_its_arguments_is_refused(what, update, wrap, array):
    optimizer = WRAPPED[wrap](Optimizer(zeros, update))
    with pytest.raises(UserError, match=r"in place|do not declare") as refused:
        state_of(optimizer, array)
    assert f"update changes its argument {what} in place" in str(refused.value) or (
        wrap == "elementwise"
    )


WRONG = {
    "updates alone": lambda grads, state, params: grads,
    "three values": lambda grads, state, params: (grads, state, params),
    "nothing": lambda grads, state, params: None,
    "a number for each": lambda grads, state, params: (dict.fromkeys(grads, 0.1), state),
    "one mean": lambda grads, state, params: (tree.map(lambda g: g.mean(), grads), state),
    "other names": lambda grads, state, params: ({"v": next(iter(grads.values()))}, state),
    "no state": lambda grads, state, params: (grads, None),
    "a list": lambda grads, state, params: (list(grads.values()), state),
}


@ARRAYS
@pytest.mark.parametrize("wrong", WRONG)
def test_what_an_update_must_not_return_is_told(wrong, array):
    for wrap in WRAPPED.values():
        with pytest.raises(UserError, match=r"^optimizer: update returns "):
            state_of(wrap(Optimizer(zeros, WRONG[wrong])), array)


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_step_tells_it_too(wrong, nets):
    """For a state that was made by a right optimizer, or by hand."""
    model, own = nets.MLP(3, [4], 2), Optimizer(zeros, WRONG[wrong])
    right = Optimizer(zeros, lambda grads, state, params: (tree.map(lambda g: -g, grads), state))
    state = train_state(model.init(random.key(0))[0], {}, right, random.key(0))
    batch = np.ones((5, 3), np.float32), np.zeros(5, np.int64)
    batch = tuple(map(torch.as_tensor, batch)) if nets is torch_nets else batch
    with pytest.raises(UserError, match=r"^(optimizer: update returns |updates: )"):
        make_step(nets.grad_fn(model), own)(state, batch)


@ARRAYS
@pytest.mark.parametrize("lr", [1e-6, 1e-3, 1e-2, 0.3, 1.0, 100.0])
@pytest.mark.parametrize("wrap", WRAPPED)
def test_new_params_in_place_of_updates_are_told_at_every_rate(wrap, lr, array):
    if wrap in ("in a chain", "first", "accumulated"):
        return  # a rate follows, or the first update is zero
    for new in (
        lambda p, g: p - lr * g,
        lambda p, g: p - lr * g / abs(g),
        lambda p, g: p - lr * (g + 0.1 / (1 + lr) * p),
    ):
        own = Optimizer(
            zeros,
            lambda grads, state, params, new=new: (
                {name: new(params[name], g) for name, g in grads.items()},
                state,
            ),
        )
        with pytest.raises(UserError, match=r"update returns new params for '[wb]', needs what is"):
            state_of(WRAPPED[wrap](own), array)


@ARRAYS
@pytest.mark.parametrize("decay", [0.0, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("lr", [1e-3, 0.1, 0.9])
def test_decay_trust_ratios_and_averages_are_no_new_params(lr, decay, array):
    norm = lambda x: (x * x).sum() ** 0.5
    right = (
        lambda p, g: -lr * (g + decay * p),
        lambda p, g: -lr * norm(p) / norm(g) * g,
        lambda p, g: (1 - lr) * (p - lr * g) - p,
        lambda p, g: g * 0 - lr * abs(p) * g,
    )
    for new in right:
        own = optim.stateless(
            lambda grads, params, new=new: {n: new(params[n], g) for n, g in grads.items()}
        )
        state_of(own, array)
        state_of(optim.chain(optim.add_decayed_weights(decay), own), array)


@pytest.mark.parametrize("wrong", ["updates alone", "three values", "nothing", "a list"])
def test_a_chain_names_the_transform_that_returns_no_pair(wrong):
    params = {"w": np.ones(2)}
    optimizer = optim.chain(DOWN, Optimizer(zeros, WRONG[wrong]))
    with pytest.raises(UserError, match=r"^chain: transform_1: update returns "):
        optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize("wrong", [lambda grads, params: grads["w"], lambda *both: both])
def test_stateless_function_that_returns_no_dict_is_told(wrong):
    params, transform = {"w": np.ones(2)}, optim.stateless(wrong)
    for optimizer in (transform, optim.chain(transform, DOWN)):
        with pytest.raises(UserError, match=r"^stateless: f returns .*, needs a dict of updates"):
            optimizer.update(params, optimizer.init(params), params)


def test_a_function_of_torch_with_numpy_arrays_is_told():
    signs = optim.stateless(lambda grads, params: tree.map(torch.sign, grads))
    with pytest.raises(UserError, match=r"calls a function of torch with NumPy .*namespace\(g\)"):
        state_of(optim.chain(signs, DOWN), np.ones)
    state_of(optim.chain(signs, DOWN), torch.ones)


def test_an_optimizer_of_torch_is_answered_by_ours():
    for wrong in (torch.optim.Adam, torch.optim.Adam([torch.zeros(1, requires_grad=True)])):
        with pytest.raises(UserError, match=r"optim.adam\(...\) makes one$"):
            state_of(wrong)


RIGHT = {
    "pure": lambda grads, state, params: (grads, state),
    "new state": lambda grads, state, params: (grads, {"m": grads}),
    "of the loss": lambda grads, state, params, *, value, value_and_grad_fn: (grads, state),
    "of real shapes": lambda grads, state, params: (
        {name: g.reshape(params[name].shape) for name, g in grads.items()},
        {"m": tree.map(lambda m, g: m.reshape(20, 1)[:4, 0] + g, state["m"], grads)},
    ),
}


@ARRAYS
@pytest.mark.parametrize("name", RIGHT)
def test_right_updates_are_taken(name, array):
    own = Optimizer(zeros, RIGHT[name])
    for wrap in ("first", "in a chain"):
        state_of(WRAPPED[wrap](own), array)
    for wrap in ("alone", "in a part"):
        state_of(WRAPPED[wrap](optim.chain(own, DOWN)), array)
        state_of(WRAPPED[wrap](downhill(own)), array)


def downhill(own):
    """Return an optimizer with the updates of `own`, which point uphill, times -0.1."""

    def update(grads, state, params, **extra):
        updates, state = own.update(grads, state, params, **extra)
        return tree.map(lambda u: -0.1 * u, updates), state

    if "value" not in own.update.__code__.co_varnames:
        return Optimizer(own.init, lambda grads, state, params: update(grads, state, params))
    return Optimizer(
        own.init,
        lambda grads, state, params, *, value, value_and_grad_fn: update(
            grads, state, params, value=value, value_and_grad_fn=value_and_grad_fn
        ),
    )


def mean_sign():
    """Return a transform: the sign of a running mean."""

    def update(grads, state, params):
        mean = tree.map(lambda m, g: 0.9 * m + 0.1 * g, state["m"], grads)
        return tree.map(lambda m: m / abs(m), mean), {"m": mean}

    return Optimizer(zeros, update)


CLIP, MAXIMIZE = (
    optim.clip_by_global_norm(1.0),
    optim.stateless(lambda grads, params: tree.map(lambda g: -g, grads)),
)
WITHOUT_RATE = {
    "alone": mean_sign(),
    "after clipping": optim.chain(CLIP, mean_sign()),
    "before an average": optim.chain(mean_sign(), optim.ema()),
    "elementwise": optim.chain(CLIP, optim.elementwise(mean_sign())),
    "with decay": optim.chain(mean_sign(), optim.add_decayed_weights(0.1)),
    "beside what is frozen": optim.partition(
        {"own": mean_sign(), "kept": optim.freeze()},
        lambda name, leaf: ["own", "kept"][name == "b"],
    ),
    "in a wrapper": optim.lookahead(optim.chain(CLIP, mean_sign())),
}
TURNED_TWICE = {
    "a rate": optim.chain(downhill(mean_sign()), DOWN),
    "an optimizer": optim.chain(CLIP, downhill(mean_sign()), optim.adam(0.1)),
    "a schedule": optim.chain(
        downhill(mean_sign()), optim.scale_by_learning_rate(schedules.cosine(0.1, steps=9))
    ),
}
DOWNHILL = {
    "a rate": optim.chain(CLIP, mean_sign(), DOWN),
    "its own rate": optim.chain(CLIP, downhill(mean_sign())),
    "large decay": optim.chain(mean_sign(), optim.add_decayed_weights(1.0), DOWN),
    "no update at first": optim.chain(mean_sign(), optim.scale_by_learning_rate(0.0)),
    "part of the leaves": optim.partition(
        {"own": optim.chain(mean_sign(), DOWN), "sgd": optim.sgd(0.1)},
        lambda name, leaf: ["own", "sgd"][name == "b"],
    ),
    "to maximize": optim.chain(MAXIMIZE, optim.adam(0.1)),
    "to maximize, by a transform": optim.chain(MAXIMIZE, mean_sign(), DOWN),
}


@ARRAYS
def test_own_updates_that_climb_are_refused_where_the_state_is_made(array):
    for optimizer in WITHOUT_RATE.values():
        with pytest.raises(UserError, match=r"uphill: nothing in it .* scale_by_learning_rate"):
            state_of(optimizer, array)
    for optimizer in TURNED_TWICE.values():
        with pytest.raises(UserError, match=r"uphill: an update of your own points downhill alr"):
            state_of(optimizer, array)
    for optimizer in DOWNHILL.values():
        state_of(optimizer, array)
        negative = {"w": -9 * array((4, 5)), "b": -9 * array(4)}
        train_state(negative, {}, optimizer, random.key(0))


@pytest.mark.parametrize("name", WITHOUT_RATE | TURNED_TWICE | DOWNHILL)
def test_what_is_said_to_climb_does(name):
    """A second way to the same: the loss of a bowl far from its bottom rises or falls."""
    for optimizers, sign in ((WITHOUT_RATE | TURNED_TWICE, 1), (DOWNHILL, -1)):
        optimizer = optimizers.get(name)
        if optimizer is None:
            continue
        params = {"w": np.full((4, 5), 3.0), "b": np.full(4, 3.0)}
        state, loss = optimizer.init(params), lambda p: sum((x**2).sum() for x in p.values()) / 2
        updates, _ = optimizer.update(params, state, params)
        change = loss(optim.apply_updates(params, updates)) - loss(params)
        sign = 0 if "no update" in name else -sign if "maximize" in name else sign
        assert np.sign(change) == sign


def test_the_package_is_not_tried():
    """Its own parts are known; a user's is found in whatever it is wrapped."""
    own = optim.stateless(lambda grads, params: grads)
    for wrap in WRAPPED.values():
        assert len(order_of(wrap(own)).own) == 1


def sign_of(size):
    return optim.stateless(
        lambda grads, params: tree.map(lambda g: size * g / (abs(g) + 1e-30), grads)
    )


@ARRAYS
def test_own_sign_after_a_rate_is_refused(array):
    params = {"w": array((4, 5)), "b": array(4)}
    for rated in (DOWN, optim.sgd(0.1, momentum=0.9), optim.chain(DOWN, optim.trace(0.9))):
        optimizer = optim.chain(rated, optim.clip_by_value(1.0), sign_of(1))
        with pytest.raises(UserError, match=r"^chain: transform_2 .* the rate of transform_0"):
            optimizer.init(params)
        for right in (
            optim.chain(sign_of(1), rated),
            optim.chain(rated, sign_of(0.01)),  # with a rate of its own
            optim.chain(rated, optim.stateless(lambda grads, params: grads)),
            optim.chain(rated, optim.stateless(lambda grads, params: tree.zeros_like(grads))),
            optim.chain(optim.clip_by_value(1.0), sign_of(1), rated, optim.ema()),
        ):
            right.init(params)


@pytest.mark.parametrize(
    "call",
    [
        lambda: optim.stateless(lambda grads: grads),
        lambda: optim.chain(Optimizer(zeros, lambda grads, state: (grads, state))),
        lambda: optim.chain(Optimizer(lambda params, key: {}, RIGHT["pure"])),
        lambda: optim.accumulate(Optimizer(zeros, lambda grads, *, lr: grads), 2),
        lambda: make_step(lambda *given: None, Optimizer(zeros, lambda grads, state: grads)),
        lambda: optim.masked(DOWN, lambda leaf: True),
        lambda: optim.partition({"a": DOWN}, lambda name: "a"),
        lambda: optim.muon(matrices=lambda leaf: True),
        lambda: optim.beta_lasso(DOWN, 0.1, where=lambda leaf: True),
        lambda: optim.sophia(diagonal=lambda params: params),
        lambda: optim.adam(schedules.cosine),
        lambda: optim.adam(lambda: 0.1),
        lambda: optim.ema(lambda count, params: 0.1),
        lambda: schedules.warmup(schedules.cosine, 10),
    ],
)
def test_function_that_cannot_be_called_so_is_refused_where_it_is_given(call):
    with pytest.raises(UserError, match=" cannot be called as "):
        call()


def test_rule_of_leaves_as_a_schedule_is_told_where_it_belongs():
    with pytest.raises(UserError, match=r"weight_decay\(count\); .* masked\(optimizer, where\)"):
        optim.adamw(1e-3, weight_decay=optim.is_matrix)
    with pytest.raises(UserError, match="call cosine to make a schedule"):
        optim.adamw(1e-3, weight_decay=schedules.cosine)


def test_functions_of_every_make_are_taken():
    class Rule:
        def rate(self, count):
            return 0.1 + 0 * count

        def __call__(self, name, leaf):
            return np.bool_(leaf.ndim > 1)

    optim.adam(Rule().rate).init({"w": np.ones(2)})
    optim.masked(DOWN, Rule()).init({"w": np.ones(2)})
    optim.masked(DOWN, lambda name, leaf, depth=1: torch.tensor(True)).init({"w": torch.ones(2)})
    optim.partition({"a": DOWN}, lambda *leaf: "a").init({"w": np.ones(2)})
    optim.adam(np.cos).init({"w": np.ones(2)})


# --- predicates and labels ------------------------------------------------------------------------

NO_TRUTH = [lambda name, leaf: name, lambda name, leaf: None, lambda name, leaf: 1]
NO_TRUTH += [lambda name, leaf: leaf, lambda name, leaf: [True], lambda name, leaf: leaf.mean()]


@ARRAYS
@pytest.mark.parametrize("where", NO_TRUTH)
def test_predicate_that_returns_no_bool_is_refused(where, array):
    params = {"w": array((2, 3)), "b": array(3)}
    for function, optimizer in {
        "masked: where": optim.masked(DOWN, where),
        "muon: matrices": optim.muon(matrices=where),
        "beta_lasso: where": optim.beta_lasso(DOWN, 0.1, where=where),
    }.items():
        with pytest.raises(UserError, match=f"^{function} returned .*, needs a bool"):
            optimizer.init(params)


def test_a_text_is_no_bool():
    with pytest.raises(UserError, match=r"^masked: where returned a str, needs a bool"):
        optim.masked(DOWN, lambda name, leaf: name).init({"w": np.ones(2)})


@pytest.mark.parametrize("label", [None, ["a"], {"a": 1}, 0, True])
def test_label_that_no_optimizer_has_is_refused(label):
    optimizer = optim.partition({"a": DOWN}, lambda name, leaf: label)
    with pytest.raises(UserError, match=r"w: label .*, needs one of a"):
        optimizer.init({"w": np.ones(2)})


# --- schedules ------------------------------------------------------------------------------------

NO_RATES = {
    "negative": lambda count: -0.01 + 0 * count,
    "negative number": lambda count: -0.01,
    "negative soon": lambda count: 0.1 - count,
    "nan": lambda count: math.nan,
    "infinite": lambda count: count + math.inf,
    "nothing": lambda count: None,
    "text": lambda count: "0.1",
    "two": lambda count: (0.1, 0.1),
    "a flag": lambda count: True,
    "a schedule": lambda count: schedules.constant(0.1),
    "uncalled": schedules.constant,
}
KEY = {"key": random.key(0)}


@ARRAYS
@pytest.mark.parametrize("name", optim.OPTIMIZERS | optim.SAMPLERS)
def test_schedule_that_begins_with_no_rate_is_refused(name, array):
    make = (optim.OPTIMIZERS | optim.SAMPLERS)[name]
    params = {"w": array((2, 3)), "b": array(3)}
    for case, schedule in NO_RATES.items():
        optimizer = make(lr=schedule, **(KEY if name in optim.SAMPLERS else {}))
        with pytest.raises(UserError, match=r"^lr: its schedule returns .* at count [01], needs a"):
            optimizer.init(params)
        assert case


@pytest.mark.parametrize(
    ("name", "optimizer"),
    {
        "betas": optim.adam(betas=(0.9, lambda count: 1.0)),
        "momentum": optim.sgd(0.1, momentum=lambda count: 1.5),
        "weight_decay": optim.adamw(weight_decay=lambda count: -1.0),
        "eps": optim.adam(eps=lambda count: math.nan),
        "decay": optim.ema(lambda count: 1.0),
        "max_norm": optim.clip_by_global_norm(lambda count: 0.0),
        "limit": optim.clip_by_value(lambda count: -1.0),
        "alpha": optim.lookahead(optim.sgd(0.1), alpha=lambda count: math.nan),
        "gamma": optim.sophia(gamma=lambda count: 0.0),
        "temperature": optim.sgld(0.1, key=random.key(0), temperature=lambda count: -1.0),
    }.items(),
)
def test_schedule_of_another_hyper_parameter_is_looked_at_too(name, optimizer):
    with pytest.raises(UserError, match=f"^{name}: its schedule returns .* at count 0, needs "):
        optimizer.init({"w": np.ones((2, 2))})


@ARRAYS
def test_schedules_that_may_be_meant_are_taken(array):
    params, table = {"w": array((2, 3))}, [0.1, 0.2, 0.3]
    for schedule in (
        lambda count: 0 * count,
        lambda count: 0.1 * (1 - count / 100),  # below 0 after 100 updates, which may never come
        lambda count: array(1) * 0.1,
        lambda count: table[int(count)],
        schedules.join([schedules.constant(0.1), lambda count: 0.2], [3]),
        schedules.one_cycle(0.1, 20),
    ):
        optimizer = optim.adam(schedule)
        optimizer.update(params, optimizer.init(params), params)


def test_learned_and_mapped_schedules_are_taken():
    params = {"w": torch.ones(3)}

    def update(rate):
        optimizer = optim.sgd(lambda count: rate * (1 + count))
        return optimizer.update(params, optimizer.init(params), params)[0]["w"]

    rate = torch.tensor(0.1, requires_grad=True)
    assert torch.autograd.grad(update(rate).sum(), rate)[0] == -3
    mapped = torch.func.vmap(update)(torch.tensor([0.1, -0.1]))
    assert torch.allclose(mapped[:, 0], torch.tensor([-0.1, 0.1]))


@pytest.mark.parametrize(
    ("given", "hypers", "text"),
    [
        ((optim.adam,), {"lrr": 0.1}, "adam cannot be called so: .*'lrr'"),
        ((1e-2, optim.adam), {}, r"make is 0\.01, needs a function"),
        ((optim.adam, 1e-2), {}, r"0\.01 has no name; give the arguments of adam by keyword"),
    ],
)
def test_arguments_that_cannot_be_injected_are_told(given, hypers, text):
    with pytest.raises(UserError, match=f"^inject_hyperparams: {text}"):
        optim.inject_hyperparams(*given, **hypers)


OTHER_STATES = {
    "another dtype": lambda state: {"decay": state["decay"] * 0.5},
    "an entry more": lambda state: {**state, "other": state["decay"]},
    "an entry less": lambda state: {},
    "another shape": lambda state: {"decay": state["decay"][None]},
    "a number": lambda state: {"decay": 1.0},
}


@ARRAYS
@pytest.mark.parametrize("other", OTHER_STATES)
def test_a_state_that_could_be_saved_but_not_restored_is_told(other, array):
    def init(params):
        first = next(iter(params.values()))
        return {"decay": namespace(first).ones((), dtype=namespace(first).int64)}

    change = OTHER_STATES[other]
    wrong = Optimizer(init, lambda g, s, p: (tree.map(lambda g: -0.1 * g, g), change(s)))
    for optimizer in (wrong, optim.chain(wrong), optim.partition({"a": wrong}, lambda *leaf: "a")):
        with pytest.raises(UserError, match=r"as opt_state/.*keeps its names, shapes and dtypes"):
            state_of(optimizer, array)


@ARRAYS
def test_updates_that_do_not_depend_on_the_gradient_are_told(array):
    swapped = Optimizer(zeros, lambda p, state, g: (tree.map(lambda g: -0.1 * g, g), state))
    for optimizer in (swapped, optim.chain(optim.clip_by_global_norm(1.0), swapped)):
        with pytest.raises(UserError, match=r"updates do not depend on the gradient"):
            state_of(optimizer, array)


@ARRAYS
def test_an_update_of_another_optimizers_state_is_refused(array):
    params = {"w": array(2), "b": array(3)}
    states = {
        name: optimizer.update(params, optimizer.init(params), params)[1]
        for name, optimizer in KINDS.items()
    }
    for name, optimizer in KINDS.items():
        for other, state in states.items():
            if other == name:
                optimizer.update(params, state, params)
                continue
            with pytest.raises(UserError, match=r"^opt_state: of another optimizer"):
                optimizer.update(params, state, params)


KINDS = {
    "sgd": optim.sgd(0.1),
    "momentum": optim.sgd(0.1, momentum=0.9),
    "adam": optim.adam(0.1),
    "amsgrad": optim.adam(0.1, amsgrad=True),
    "adamw": optim.adamw(0.1),
    "nadam": optim.nadam(0.1),
    "radam": optim.radam(0.1),
    "lion": optim.lion(0.1),
    "adamax": optim.adamax(0.1),
    "averaged": optim.chain(optim.adam(0.1), optim.ema(0.9)),
    "lookahead": optim.lookahead(optim.adam(0.1)),
    "two parts": optim.partition(
        {"a": optim.adam(0.1), "b": optim.sgd(0.1)}, lambda name, leaf: "a" if name == "w" else "b"
    ),
}


def mean_of_gradients():
    """The bias-corrected mean of gradients, which stands still in half precision."""

    def init(params):
        leaf = next(iter(params.values()))
        count = namespace(leaf).zeros((), dtype=leaf.dtype, device=leaf.device)
        return {"count": count, "mean": tree.zeros_like(params)}

    def update(grads, state, params):
        count = state["count"] + 1
        mean = tree.map(lambda m, g: 0.999 * m + 0.001 * g, state["mean"], grads)
        moves = tree.map(lambda m: -1e-2 * m / (1 - 0.999**count), mean)
        return moves, {"count": count, "mean": mean}

    return Optimizer(init, update)


IN_HALF = {
    "alone": lambda own: own,
    "in a chain": optim.chain,
    "in a part": lambda own: optim.partition({"a": own}, lambda *leaf: "a"),
    "injected": lambda own: optim.inject_hyperparams(lambda lr: own, lr=0.1),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wrap", IN_HALF)
def test_own_optimizers_compute_in_float32_for_half_precision(wrap, dtype):
    optimizer = IN_HALF[wrap](mean_of_gradients())
    ones = {"w": torch.ones(2, 2, dtype=dtype)}
    state = train_state(ones, {}, optimizer, random.key(0))
    assert all(leaf.dtype == torch.float32 for leaf in tree.leaves(state.opt_state))
    step = make_step(lambda p, b, batch, key: (ones, (b, {"loss": p["w"].sum()})), optimizer)
    for _ in range(300):
        state, _ = step(state, None)
    assert state.params["w"].dtype == dtype
    mean = optim.get_state(state.opt_state, "mean")["w"]
    assert abs(float(mean[0, 0]) - (1 - 0.999**300)) < 1e-4
    optim.check_opt_state(optimizer, state.params, state.opt_state)


BRANCHING = [
    lambda count: 1e-3 if count < 100 else 1e-4,
    lambda count: 1e-3 * math.cos(count),
]


@pytest.mark.parametrize("schedule", BRANCHING)
def test_a_schedule_that_vmap_cannot_take_is_told(schedule):
    net, optimizer = torch_nets.MLP(2, [3], 2), optim.adam(schedule)
    step = make_step(torch_nets.grad_fn(net), optimizer)
    states = [init_state(net, optimizer, random.key(seed)) for seed in range(2)]
    batch = torch.ones(4, 2), torch.tensor([0, 1, 0, 1])
    step(states[0], batch)
    with pytest.raises(UserError, match=r"a schedule branches on its count.* schedules\.piecewise"):
        torch_nets.ensemble(step, same_batch=True)(torch_nets.stack_states(states), batch)


@ARRAYS
def test_a_rate_of_one_element_is_a_number(array):
    params = {"w": array(()), "v": array((2, 3))}
    for rate in (array(1) / 2, lambda count: 0 * array(1) + 0.5):
        optimizer = optim.sgd(rate)
        updates, _ = optimizer.update(params, optimizer.init(params), params)
        new = optim.apply_updates(params, updates)
        assert {name: leaf.shape for name, leaf in new.items()} == {"w": (), "v": (2, 3)}
        assert (new["v"] == 0.5).all() and new["w"] == 0.5
