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
from purenets.core.optim.internals.arithmetic import in_order_of
from purenets.core.optim.internals.hyper import (
    Hyper,
    first_count,
    first_leaf,
    resolve_hyper,
    unless_zero,
)
from purenets.core.optim.internals.order import KEEPS, with_order
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
    """Return stochastic gradient Langevin dynamics: gradient descent with noise, a sampler.

        p = p - lr * g + sqrt(2 * lr * temperature) * xi,  xi standard normal

    For a loss L the params settle to draws from exp(-L / temperature), up to an error of the order
    of lr: the variance for L = a * p^2 / 2 is temperature / (a * (1 - lr * a / 2)).

    Args:
        lr: the learning rate. Welling and Teh's step size epsilon is 2 * lr.
        key: the key of the draws, as `random.key(seed)` makes it.
        temperature: 1 / n for the mean loss of n examples; 0 gives `sgd`.
        weight_decay: a normal prior, as an L2 penalty; weight_decay * p is added to the
            gradient.

    Returns:
        An optimizer for real params; its state has the entries "key" and "count", which decide the
        draws.

    Raises:
        UserError: lr, temperature or weight_decay is negative or not finite, or key is not a key;
            from `init`: a leaf is complex.

    Example:
        10,000 chains side by side, for the loss w^2 / 2 of each: their variance is 1 / 0.9.

        >>> import numpy as np
        >>> from purenets import optim, random
        >>> optimizer = optim.sgld(lr=0.2, key=random.key(0))
        >>> params = {"w": np.zeros(10000)}
        >>> state = optimizer.init(params)
        >>> for _ in range(30):
        ...     updates, state = optimizer.update({"w": params["w"]}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> print(params["w"].var().round(1))
        1.1

    Source:
        Welling and Teh 2011, "Bayesian learning via stochastic gradient Langevin dynamics".
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
    """Return stochastic gradient Hamiltonian Monte Carlo: `sgld` with momentum.

        v = momentum * v - lr * g + sqrt(2 * (1 - momentum) * lr * temperature) * xi;  p = p + v

    For a loss L the params settle to draws from exp(-L / temperature), for small rates.

    Args:
        lr: the learning rate, the square of the step in time.
        momentum: 1 - friction, from 0 to 1; 0 gives `sgld`.
        key: the key of the draws, as `random.key(seed)` makes it.
        temperature: 1 / n for the mean loss of n examples; 0 gives `sgd` with momentum.
        weight_decay: a normal prior, as an L2 penalty; weight_decay * p is added to the
            gradient.

    Returns:
        An optimizer for real params; its state has the entries "key", "count" and
        "momentum_buffer" (v).

    Raises:
        UserError: lr, temperature or weight_decay is negative or not finite, momentum is not in
            [0, 1], or key is not a key; from `init`: a leaf is complex.

    Example:
        10,000 chains side by side, for the loss w^2 / 2 of each: their variance is about 1.

        >>> import numpy as np
        >>> from purenets import optim, random
        >>> optimizer = optim.sghmc(lr=0.1, momentum=0.5, key=random.key(0))
        >>> params = {"w": np.zeros(10000)}
        >>> state = optimizer.init(params)
        >>> for _ in range(40):
        ...     updates, state = optimizer.update({"w": params["w"]}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> print(params["w"].var().round(1))
        1.0

    Source:
        Chen et al. 2014, arXiv 1402.4102, equation 15.
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
    """Return a transform that adds the noise at which a descent samples at a given temperature.

        updates + sqrt(2 * (1 - momentum) * lr * temperature) * xi,  xi standard normal

    It comes after `scale_by_learning_rate`, and before `trace` where there is momentum. The noise
    of all leaves is one draw, cut in the order of the params.

    Args:
        lr: the learning rate of the chain.
        momentum: the momentum of the chain, from 0 to 1.
        key: the key of the draws, as `random.key(seed)` makes it.
        temperature: 1 / n for the mean loss of n examples.

    Returns:
        A transform for `chain`; its state has the entries "key" and "count", which decide the
        draws.

    Raises:
        UserError: lr or temperature is negative or not finite, momentum is not in [0, 1], or key is
            not a key; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim, random
        >>> noise = optim.add_langevin_noise(lr=0.02, key=random.key(0))
        >>> grads = {"w": np.zeros(10000)}
        >>> updates, _ = noise.update(grads, noise.init(grads), grads)
        >>> print(updates["w"].std().round(2))  # sqrt(2 * 0.02)
        0.2

    Source:
        Welling and Teh 2011, "Bayesian learning via stochastic gradient Langevin dynamics"; Chen et
        al. 2014, arXiv 1402.4102.
    """
    _expect("add_langevin_noise", lr, key, temperature, 0)
    expect_hypers("add_langevin_noise", FRACTION, momentum=momentum)

    def init(params):
        leaf = first_leaf(params)
        counts = first_count(params, lr=lr, momentum=momentum, temperature=temperature)
        return {**counts, "key": like(key, leaf, namespace(leaf).int64)}

    def update(grads, state, params):
        rate, decay, heat = (resolve_hyper(h, state, grads) for h in (lr, momentum, temperature))
        scale = _sqrt(2 * (1 - decay) * rate * heat)
        grads = grads if params is None else in_order_of(params, grads)
        noise = normal_like(random.fold_in(state["key"], state["count"]), grads)
        return _add_scaled(grads, noise, scale), {"count": state["count"] + 1, "key": state["key"]}

    return real_only("add_langevin_noise", any_dtype(with_order(KEEPS, Optimizer(init, update))))


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
