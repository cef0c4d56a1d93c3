"""What a chain refuses because its numbers would be wrong, and the orders that it takes."""

import numpy as np
import pytest

from purenets import UserError, make_step, optim, random
from purenets.core.optim.internals.order import order_of

SGD, EMA = optim.sgd(0.1), optim.ema(0.0)
DECAY = optim.add_decayed_weights(0.1)
ADAM = optim.scale_by_adam()
DOWN = optim.scale_by_learning_rate(0.1)
UPHILL = optim.stateless(lambda grads, params: {name: -g for name, g in grads.items()})
MEANS = {"ema": EMA, "swa": optim.swa(), "asgd": optim.asgd(0.1, t0=0)}
MEANS["schedule_free"] = optim.schedule_free_adamw(0.1)


def averages(mean):
    """Return optimizers that average the params, as a part that hides in another one."""
    before = SGD if order_of(mean).sign == 1 else optim.clip_by_value(1.0)
    return [
        mean,
        optim.chain(before, mean),
        optim.accumulate(mean, 2),
        optim.apply_if_finite(mean),
        optim.inject_hyperparams(lambda lr: optim.chain(before, mean), lr=0.1),
        optim.masked(mean, optim.is_matrix),
        optim.partition({"a": SGD, "b": optim.chain(before, mean)}, lambda name, leaf: "a"),
        optim.muon(other=optim.chain(before, mean)),
    ]


@pytest.mark.parametrize("name", MEANS)
def test_nothing_changes_the_params_after_their_average(name):
    for average in averages(MEANS[name]):
        for after in (SGD, DOWN, optim.reduce_on_plateau(), optim.clip_by_value(1.0), DECAY):
            message = rf"^chain: transform_1 \({name}\) averages the params"
            with pytest.raises(UserError, match=message):
                optim.chain(ADAM, average, after)


@pytest.mark.parametrize("name", MEANS)
@pytest.mark.parametrize(
    "wrapper",
    [
        optim.lookahead,
        optim.normalize_weights,
        optim.skip_first,
        lambda inner: optim.schedule_free(inner, 0.1),
        lambda inner: optim.beta_lasso(inner, 0.1),
        optim.backtracking,
        optim.strong_wolfe,
    ],
    ids=["lookahead", "normalize", "skip_first", "schedule_free", "lasso", "backtracking", "wolfe"],
)
def test_wrapper_that_moves_the_params_takes_no_average(wrapper, name):
    for average in averages(MEANS[name]):
        with pytest.raises(UserError, match=rf" averages the params \({name}\), which "):
            if wrapper in (optim.backtracking, optim.strong_wolfe):
                wrapper(direction=average)
            else:
                wrapper(average)


ORDERS = {
    "optimizer, average": optim.chain(optim.adam(0.1), EMA),
    "two averages": optim.chain(SGD, optim.swa(), EMA),
    "average of a chain with one": optim.chain(optim.chain(SGD, optim.swa()), EMA),
    "average, nothing": optim.chain(SGD, EMA, optim.chain()),
    "average of a part": optim.chain(SGD, optim.masked(EMA, optim.is_matrix)),
    "plateau, average": optim.chain(SGD, optim.clip_by_global_norm(0.01), EMA),
    "wrapped, average": optim.chain(optim.lookahead(SGD, 2), EMA),
    "accumulated": optim.accumulate(optim.chain(SGD, EMA), 2),
    "finite": optim.apply_if_finite(optim.chain(SGD, EMA)),
}


@pytest.mark.parametrize("name", ORDERS)
def test_last_average_without_memory_is_the_params(name):
    """With a decay of 0 the average is the params themselves, whatever comes before it."""
    optimizer, params = ORDERS[name], {"w": np.ones((2, 2))}
    state = optimizer.init(params)
    for i in range(6):
        updates, state = optimizer.update({"w": params["w"] + i}, state, params)
        params = optim.apply_updates(params, updates)
    np.testing.assert_allclose(optim.get_state(state, "ema")["w"], params["w"], rtol=1e-14)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_decay_after_an_optimizer_is_refused(name):
    given = {"key": random.key(0)} if name in optim.SAMPLERS else {}
    optimizer = optim.OPTIMIZERS[name](lr=0.1, **given)
    assert order_of(optimizer).sign == -1
    if order_of(optimizer).average:
        return
    for decay in (DECAY, optim.masked(DECAY, optim.is_matrix), optim.chain(DECAY)):
        with pytest.raises(UserError, match=r"^chain: transform_2 adds weight decay to updates th"):
            optim.chain(optim.clip_by_value(1.0), optimizer, decay)


def test_decay_behind_what_keeps_the_sign_is_refused():
    optim.chain(SGD, optim.stateless(lambda grads, params: grads), DECAY)  # may turn them again
    for between in (optim.clip_by_value(1.0), optim.adaptive_grad_clip(), optim.trace(0.9)):
        with pytest.raises(UserError, match="turned downhill, so weights would grow"):
            optim.chain(optim.lookahead(SGD), between, DECAY)


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.chain(DECAY, SGD),
        optim.chain(ADAM, DECAY, DOWN),
        optim.chain(ADAM, optim.masked(DECAY, optim.is_matrix), DOWN),
        optim.chain(optim.chain(ADAM, DECAY), DOWN),
        optim.chain(UPHILL, DECAY, DOWN),  # for who maximizes
    ],
)
def test_decay_that_shrinks_is_taken(optimizer):
    params, zeros = {"w": np.ones((2, 2))}, {"w": np.zeros((2, 2))}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert (updates["w"] < 0).all()


# --- the direction and the rate -------------------------------------------------------------------

CLIP, PLATEAU = optim.clip_by_value(1.0), optim.reduce_on_plateau()
NORMALIZING = [
    optim.scale_by_adadelta,
    optim.scale_by_adam,
    optim.scale_by_adamax,
    optim.scale_by_adan,
    optim.scale_by_ademamix,
    optim.scale_by_adopt,
    optim.scale_by_factored_rms,
    optim.scale_by_lion,
    optim.scale_by_muon,
    optim.scale_by_nadam,
    optim.scale_by_radam,
    optim.scale_by_rms,
    optim.scale_by_shampoo,
    optim.scale_by_soap,
    optim.scale_by_sum_of_squares,
    optim.scale_by_trust_ratio,
]
TRANSFORMS = [
    *[make() for make in NORMALIZING],
    *(CLIP, PLATEAU, DECAY, EMA, optim.swa(), optim.clip_by_global_norm(1.0), optim.trace(0.9)),
    *(optim.adaptive_grad_clip(), optim.scale_by_param_rms(), optim.scale_by_sophia()),
    *(optim.clip_by_block_rms(1.0), optim.add_langevin_noise(0.1, key=random.key(0))),
    *(optim.chain(), optim.chain(ADAM, CLIP)),
]


def hidden(optimizer):
    """Return optimizers that turn as this one does, by all wrappers that keep the direction."""
    k = 1 if order_of(optimizer).searches else 2  # a line search does not accumulate
    return [
        optimizer,
        optim.chain(optimizer),
        optim.accumulate(optimizer, k),
        optim.apply_if_finite(optimizer),
        *([] if order_of(optimizer).average else [optim.skip_first(optimizer)]),
        optim.inject_hyperparams(lambda lr: optimizer, lr=0.1),
        optim.partition({"a": optimizer, "b": optimizer}, lambda name, leaf: "a"),
    ]


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_what_is_turned_downhill_is_not_turned_again(name):
    if order_of(optim.OPTIMIZERS[name](lr=0.1)).average:
        return
    for optimizer in hidden(optim.OPTIMIZERS[name](lr=0.1)):
        for after in (DOWN, optim.adam(0.1), optim.chain(CLIP, DOWN), *hidden(SGD)):
            with pytest.raises(UserError, match=r"^chain: transform_2 turns downhill updates"):
                optim.chain(CLIP, optimizer, after)


@pytest.mark.parametrize(
    "transforms",
    [
        (ADAM, DOWN, DOWN),
        (optim.adam(1.0), optim.scale_by_learning_rate(lambda count: 0.1)),
        (optim.masked(SGD, optim.is_matrix), DOWN),
        (SGD, optim.masked(DOWN, optim.is_matrix)),
        (SGD, CLIP, optim.partition({"a": DOWN, "b": optim.chain()}, lambda *leaf: "a")),
    ],
)
def test_two_rates_are_refused(transforms):
    with pytest.raises(UserError, match=r"^chain: transform_\d turns downhill updates uphill"):
        optim.chain(*transforms)


@pytest.mark.parametrize(
    "transforms",
    [
        (optim.masked(SGD, optim.is_matrix), optim.masked(SGD, lambda name, leaf: leaf.ndim < 2)),
        (SGD, optim.partition({"a": optim.freeze(), "b": optim.chain()}, lambda *leaf: "a")),
        (SGD, UPHILL, DOWN),
        (SGD, UPHILL),
        (UPHILL, ADAM, DOWN),
        (CLIP, optim.masked(optim.scale_by_muon(), optim.is_matrix), DOWN),
        (optim.adam(1.0), optim.scale_by_trust_ratio(1e-3)),  # a rate of its own
        (SGD, UPHILL, ADAM, DOWN),
        (optim.scale_by_trust_ratio(), DOWN, optim.trace(0.9), PLATEAU),
    ],
)
def test_chains_that_may_be_meant_are_taken(transforms):
    make_step(lambda *given: None, optim.chain(*transforms))


@pytest.mark.parametrize("make", NORMALIZING)
def test_rate_that_would_be_divided_out_is_refused(make):
    normalizing = make()
    for rated in (DOWN, *hidden(SGD), PLATEAU, optim.chain(DOWN, optim.trace(0.9))):
        for between in (optim.chain(), CLIP, DECAY if rated is PLATEAU else CLIP):
            message = "^chain: transform_2 normalizes the updates, which cancels the rate of tran"
            with pytest.raises(UserError, match=message):
                optim.chain(rated, between, normalizing)


@pytest.mark.parametrize("make", [make for make in NORMALIZING if make is not optim.scale_by_adopt])
def test_what_is_said_to_divide_a_rate_out_does(make):
    """The updates of gradients 1000 times as large are the same."""
    params = {"w": np.array([[3.0, 4.0], [-1.0, 2.0]])}
    found = []
    for size in (1.0, 1000.0):
        transform = make()
        state, updates = transform.init(params), None
        for i in range(12):  # RAdam begins with plain momentum
            grads = {"w": size * (params["w"] + i % 3)}
            updates, state = transform.update(grads, state, params)
        found.append(updates["w"])
    assert abs(found[1]).max() < 10 * abs(found[0]).max()


@pytest.mark.parametrize("i", range(len(TRANSFORMS)))
def test_step_of_a_transform_that_does_not_turn_is_refused(i):
    for transform in hidden(TRANSFORMS[i]):
        with pytest.raises(UserError, match=r"^make_step: optimizer has no learning rate: its upd"):
            make_step(lambda *given: None, transform)


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.partition({"a": ADAM, "b": SGD}, lambda name, leaf: "a"),
        optim.masked(SGD, optim.is_matrix),
        optim.muon(other=optim.scale_by_adam()),
        optim.chain(ADAM, optim.masked(DOWN, optim.is_matrix), CLIP),
    ],
)
def test_step_that_moves_some_leaves_uphill_is_refused(optimizer):
    with pytest.raises(UserError, match=r"^make_step: .*: updates of some leaves point uphill"):
        make_step(lambda *given: None, optimizer)


@pytest.mark.parametrize(
    ("name", "wrap"),
    {
        "lookahead": optim.lookahead,
        "normalize_weights": optim.normalize_weights,
        "schedule_free": lambda inner: optim.schedule_free(inner, 0.1),
        "beta_lasso": lambda inner: optim.beta_lasso(inner, 0.1),
        "backtracking": lambda inner: optim.backtracking(direction=inner),
        "strong_wolfe": lambda inner: optim.strong_wolfe(direction=inner),
    }.items(),
)
def test_wrapper_that_needs_a_descent_refuses_what_climbs(name, wrap):
    for transform in (ADAM, optim.chain(CLIP), optim.masked(SGD, optim.is_matrix)):
        with pytest.raises(UserError, match=f"^{name}: (optimizer|direction) has no learning rate"):
            wrap(transform)


@pytest.mark.parametrize("name", optim.OPTIMIZERS | optim.SAMPLERS)
def test_every_optimizer_of_the_catalogue_descends(name):
    make = (optim.OPTIMIZERS | optim.SAMPLERS)[name]
    given = {"key": random.key(0)} if name in optim.SAMPLERS else {}
    make_step(lambda *given: None, make(lr=0.1, **given))
    assert not order_of(make(lr=0.1, **given)).own


# --- line searches --------------------------------------------------------------------------------

SEARCHES = {
    "lbfgs": optim.lbfgs(),
    "strong_wolfe": optim.strong_wolfe(),
    "backtracking": optim.backtracking(),
}
CHANGES = {
    "decay": DECAY,
    "masked decay": optim.masked(DECAY, optim.is_matrix),
    "own and decay": optim.chain(UPHILL, DECAY),
    "clip": optim.clip_by_global_norm(1.0),
    "clip_by_value": optim.clip_by_value(1.0),
    "agc": optim.adaptive_grad_clip(),
    "trace": optim.trace(0.9),
    "freeze": optim.masked(optim.freeze(), optim.is_matrix),
}
by_search = pytest.mark.parametrize("name", SEARCHES)


@by_search
@pytest.mark.parametrize("change", CHANGES)
def test_no_line_search_after_what_changes_its_gradient(name, change):
    search = SEARCHES[name]
    message = rf"^chain: transform_1 changes the gradient before the line search of .*_2 \({name}\)"
    for inner in (search, optim.lookahead(search), optim.chain(search, EMA)):
        with pytest.raises(UserError, match=message):
            optim.chain(optim.chain(), CHANGES[change], inner)


@by_search
def test_line_search_after_what_changes_nothing_is_taken(name):
    optim.chain(optim.chain(), SEARCHES[name], optim.clip_by_global_norm(1.0), EMA)
    optim.chain(optim.stateless(lambda grads, params: grads), SEARCHES[name])


@by_search
def test_sparse_weights_take_no_line_search(name):
    message = rf"^beta_lasso: optimizer is a line search \({name}\), .* to the loss$"
    with pytest.raises(UserError, match=message):
        optim.beta_lasso(optim.lookahead(SEARCHES[name]), 0.1)
    optim.beta_lasso(SEARCHES[name], 0.0)


def decaying(weight_decay):
    """Directions with weight decay, each of which has an own way to it."""
    rate = optim.scale_by_learning_rate(1.0)
    return {
        "sgd": optim.sgd(1.0, weight_decay=weight_decay),
        "adamw": optim.adamw(1.0, weight_decay=weight_decay),
        "adafactor": optim.adafactor(1.0, weight_decay=weight_decay),
        "adan": optim.adan(1.0, weight_decay=weight_decay),
        "momo": optim.momo(1.0, weight_decay=weight_decay),
        "momo_adam": optim.momo_adam(1.0, weight_decay=weight_decay),
        "prodigy": optim.prodigy(weight_decay=weight_decay),
        "dadapt_adam": optim.dadapt_adam(weight_decay=weight_decay),
        "soap": optim.soap(1.0, weight_decay=weight_decay),
        "muon": optim.muon(1.0, weight_decay=weight_decay),
        "lasso": optim.beta_lasso(SGD, weight_decay),
        "lookahead": optim.lookahead(optim.sgd(1.0, weight_decay=weight_decay)),
        "injected": optim.inject_hyperparams(
            lambda lr: optim.sgd(lr, weight_decay=weight_decay), lr=1.0
        ),
        "masked": optim.chain(
            *([optim.masked(DECAY, optim.is_matrix)] if weight_decay else []), rate
        ),
    }


@pytest.mark.parametrize("search", [optim.backtracking, optim.strong_wolfe])
@pytest.mark.parametrize("direction", decaying(0.1))
def test_direction_of_a_search_has_no_weight_decay(search, direction):
    with pytest.raises(UserError, match=r": direction has weight decay, .* to the loss$"):
        search(direction=decaying(0.1)[direction])
    search(direction=decaying(0)[direction])
