"""Samplers: optimizers whose params, once they have settled, are draws from a distribution.

    optimizer = optim.sgld(lr=1e-3, key=random.key(0), temperature=1 / len(y))

For a mean loss L over n examples, a temperature of 1 / n and a small rate they draw from the
posterior exp(-n L(p)); `weight_decay` is a normal prior of precision n weight_decay. The key is a
part of the state, and each update draws by the count of updates: the same key, the same chain, on
NumPy and torch, step by step, in `scan` and under `jit`. Chains side by side under vmap or
`ensemble` are states from different keys.
"""

from purenets.core import random, tree
from purenets.core.arguments import FRACTION, NOT_NEGATIVE, expect_hypers
from purenets.core.arrays import like, namespace, sqrt
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.hyper import (
    Hyper,
    first_leaf,
    resolve_hyper,
    unless_zero,
    zero_count,
)
from purenets.core.optim.internals.precision import any_dtype, real_only
from purenets.core.optim.transforms import (
    add_decayed_weights,
    chain,
    scale_by_learning_rate,
    trace,
)
from purenets.core.vector_dict import from_vector, vector_of


def sgld(
    lr: Hyper = 1e-3, *, key: Array, temperature: Hyper = 1.0, weight_decay: Hyper = 0
) -> Optimizer:
    """Stochastic gradient Langevin dynamics (Welling and Teh 2011): p = p - lr g + sqrt(2 lr
    temperature) xi, xi standard normal.

    Draws from exp(-L / temperature) for a loss L, up to an error of the order of lr: the variance
    of L = a p^2 / 2 is temperature / (a (1 - lr a / 2)).

    Args:
        lr: the rate; Welling and Teh's is twice as large.
        key: of the draws; it becomes the "key" of the state.
        temperature: 1 / n for the mean loss of n examples; 0 is `sgd`.
        weight_decay: added to the gradient times the params.
    """
    _expect("sgld", lr, key, temperature, weight_decay)
    optimizer = chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_learning_rate(lr),
        add_langevin_noise(lr, key=key, temperature=temperature),
    )
    return real_only("sgld", optimizer)


def sghmc(
    lr: Hyper = 1e-3,
    momentum: Hyper = 0.9,
    *,
    key: Array,
    temperature: Hyper = 1.0,
    weight_decay: Hyper = 0,
) -> Optimizer:
    """Stochastic gradient Hamiltonian Monte Carlo (Chen et al. 2014, equation 15): v = momentum v -
    lr g + sqrt(2 (1 - momentum) lr temperature) xi; p = p + v.

    Args:
        lr: the rate, the square of the step in time.
        momentum: 1 - friction; 0 is `sgld`.
        key: of the draws; it becomes the "key" of the state.
        temperature: 1 / n for the mean loss of n examples; 0 is `sgd` with momentum.
        weight_decay: added to the gradient times the params.
    """
    _expect("sghmc", lr, key, temperature, weight_decay)
    expect_hypers("sghmc", FRACTION, momentum=momentum)
    optimizer = chain(
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_learning_rate(lr),
        add_langevin_noise(lr, momentum, key=key, temperature=temperature),
        trace(momentum),
    )
    return real_only("sghmc", optimizer)


def add_langevin_noise(
    lr: Hyper, momentum: Hyper = 0, *, key: Array, temperature: Hyper = 1.0
) -> Optimizer:
    """g + sqrt(2 (1 - momentum) lr temperature) xi, xi standard normal: the noise at which a
    descent with that rate and momentum has this temperature.

    One draw for all leaves, cut in their order: on one vector it is the same.
    """
    _expect("add_langevin_noise", lr, key, temperature, 0)
    expect_hypers("add_langevin_noise", FRACTION, momentum=momentum)

    def init(params):
        leaf = first_leaf(params)
        return {"count": zero_count(params), "key": like(key, leaf, namespace(leaf).int64)}

    def update(grads, state, params):
        rate, decay, heat = (resolve_hyper(h, state, grads) for h in (lr, momentum, temperature))
        scale = _sqrt(2 * (1 - decay) * rate * heat)
        noise = normal_like(random.fold_in(state["key"], state["count"]), grads)
        return _add_scaled(grads, noise, scale), {**state, "count": state["count"] + 1}

    return real_only("add_langevin_noise", any_dtype(Optimizer(init, update)))


def normal_like(key: Array, leaves: Params) -> Params:
    """Return standard normal draws for each leaf, of one draw for all; on one vector if `leaves`
    is.
    """
    first, size = first_leaf(leaves), tree.size(leaves)
    draws = random.normal(key, (size,), str(first.dtype).removeprefix("torch."))
    if vector_of(leaves) is not None:
        return from_vector(leaves.layout, draws)
    return tree.views_at(tree.flat_layout(leaves))(draws)


def _add_scaled(leaves: Params, noise: Params, scale) -> Params:
    """Return leaves + scale noise, on one vector if both are."""
    a, b = vector_of(leaves), vector_of(noise)
    if a is not None and b is not None:
        return from_vector(leaves.layout, a + scale * b)
    return tree.map(lambda leaf, z: leaf + scale * z, leaves, noise)


def _sqrt(value):
    """Return the root of a number or an array; a number stays one of Python."""
    return value**0.5 if type(value) in (int, float) else sqrt(value)


def _expect(name: str, lr, key, temperature, weight_decay) -> None:
    """Raise a UserError for an argument that a sampler cannot have."""
    expect_hypers(name, NOT_NEGATIVE, lr=lr, temperature=temperature, weight_decay=weight_decay)
    try:
        random.check_key(key)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


SAMPLERS = {f.__name__: f for f in (sgld, sghmc)}
