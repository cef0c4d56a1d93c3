"""What a chain refuses because its numbers would be wrong, and the orders that it takes."""

import numpy as np
import pytest

from purenets import UserError, optim, random
from purenets.core.optim.internals.order import order_of

SGD, EMA = optim.sgd(0.1), optim.ema(0.0)
DECAY = optim.add_decayed_weights(0.1)
ADAM = optim.scale_by_adam()
DOWN = optim.scale_by_learning_rate(0.1)
MEANS = {"ema": EMA, "swa": optim.swa(), "asgd": optim.asgd(0.1, t0=0)}
MEANS["schedule_free"] = optim.schedule_free_adamw(0.1)


def averages(mean):
    """Return optimizers that average the params, as a part that hides in another one."""
    return [
        mean,
        optim.chain(SGD, mean),
        optim.accumulate(mean, 2),
        optim.apply_if_finite(mean),
        optim.inject_hyperparams(lambda lr: optim.chain(optim.sgd(lr), mean), lr=0.1),
        optim.masked(mean, optim.is_matrix),
        optim.partition({"a": SGD, "b": optim.chain(SGD, mean)}, lambda name, leaf: "a"),
        optim.muon(other=optim.chain(SGD, mean)),
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
        optim.chain(DOWN, DECAY, DOWN),  # uphill, for who maximizes
    ],
)
def test_decay_that_shrinks_is_taken(optimizer):
    params, zeros = {"w": np.ones((2, 2))}, {"w": np.zeros((2, 2))}
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    assert (updates["w"] < 0).all()
