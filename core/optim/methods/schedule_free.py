"""Schedule-free optimization: an average of the iterates in the place of a decaying rate (Defazio
et al. 2024, "The road less scheduled").

The base optimizer moves z; x is the weighted mean of all z; gradients are taken at y, between the
two:

    z = z + base(g at y)        x = (1 - c) x + c z        y = beta x + (1 - beta) z

with c the share of this step's weight, lr^2, in all weights so far. `state.params` are y: train
with them, evaluate with x, which is `get_state(opt_state, "x")`.
"""

from purenets.core import tree
from purenets.core.arguments import (
    FRACTION,
    NOT_NEGATIVE,
    expect_betas,
    expect_hypers,
    expect_integers,
    expect_numbers,
    expect_optimizers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import copies, maximum
from purenets.core.optim.internals.elementwise import elementwise_as
from purenets.core.optim.internals.extra_args import like_inner
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
    unless_zero,
    zero_count,
)
from purenets.core.optim.internals.order import (
    TURNS,
    expect_descent,
    expect_no_average,
    order_of,
    with_order,
)
from purenets.core.optim.internals.precision import real_only
from purenets.core.optim.transforms import (
    add_decayed_weights,
    chain,
    scale_by_adam,
    scale_by_learning_rate,
)


def schedule_free(
    optimizer: Optimizer, lr: Hyper, beta: Hyper = 0.9, weight_lr_power: float = 2.0
) -> Optimizer:
    """Return an optimizer with averages of the params in place of momentum and of a decaying rate.

    The params in training are y; evaluate x, by `with_averaged_params`:

        z = z + base(g at y);  x = (1 - c) * x + c * z;  y = beta * x + (1 - beta) * z

    Here base is the update of `optimizer`. The weight of a step is the largest lr so far to the
    power weight_lr_power; c is this weight over the sum of all so far.

    Args:
        optimizer: the base optimizer that moves z, without momentum of its own.
        lr: its learning rate, for the weights; a warm-up as a schedule, but no decay.
        beta: the weight of x in y, from 0 to 1; it plays the role of momentum.
        weight_lr_power: the power of lr in the weights.

    Returns:
        An optimizer whose state has the entries "x" and "z" (shaped as the params), "lr_max",
        "weight_sum" and "inner".

    Raises:
        UserError: optimizer is not an Optimizer, averages the params itself or has no learning
            rate, so that its updates point uphill; lr or weight_lr_power is negative or not finite,
            or beta is not in [0, 1].

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.schedule_free(optim.sgd(1.0), lr=1.0, beta=0.5)
        >>> params = {"w": np.zeros(1)}
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update({"w": -np.ones(1)}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> state["z"]["w"], state["x"]["w"], params["w"]
        (array([2.]), array([1.5]), array([1.75]))

    Source:
        Defazio et al. 2024, arXiv 2405.15682.
    """
    expect_optimizers("schedule_free", optimizer=optimizer)
    expect_hypers("schedule_free", NOT_NEGATIVE, lr=lr)
    expect_hypers("schedule_free", FRACTION, beta=beta)
    expect_numbers("schedule_free", NOT_NEGATIVE, weight_lr_power=weight_lr_power)
    expect_no_average("schedule_free", optimizer)
    expect_descent("schedule_free", optimizer=optimizer)
    counts = has_schedule(lr, beta)

    def init(params):
        nothing = count_to_dtype(zero_count(params), params)
        return {
            **init_count(params, lr=lr, beta=beta),
            "lr_max": nothing,
            "weight_sum": nothing,
            "x": copies(params),
            "z": copies(params),
            "inner": optimizer.init(params),
        }

    def update(grads, state, params, **extra):
        b = resolve_hyper(beta, state, grads)
        lr_max = maximum(state["lr_max"], resolve_hyper(lr, state, grads) + 0 * state["lr_max"])
        weight = lr_max**weight_lr_power
        weight_sum = state["weight_sum"] + weight
        c = weight / namespace(weight_sum).where(weight_sum > 0, weight_sum, 1 + 0 * weight_sum)
        moves, inner = optimizer.update(grads, state["inner"], params, **extra)
        z = tree.map(lambda z, u: z + u, state["z"], moves)
        x = tree.map(lambda x, z: x + c * (z - x), state["x"], z)
        updates = tree.map(lambda x, z, y: b * x + (1 - b) * z - y, x, z, params)
        averages = {"lr_max": lr_max, "weight_sum": weight_sum, "x": x, "z": z}
        return updates, {**next_count(state, counts), **averages, "inner": inner}

    inner = order_of(optimizer)
    order = TURNS._replace(average="schedule_free", own=inner.own, searches=inner.searches)
    averaged = Optimizer(init, like_inner(update, [optimizer]))
    return elementwise_as(optimizer, with_order(order, averaged))


def schedule_free_adamw(
    lr: Hyper = 2.5e-3,
    betas=(0.9, 0.999),
    eps: Hyper = 1e-8,
    weight_decay: Hyper = 0,
    warmup_steps: int = 0,
) -> Optimizer:
    """Return AdamW with `schedule_free` averages in place of momentum; it needs no schedule.

    The params in training are not those to evaluate: use `with_averaged_params`.

    Args:
        lr: the learning rate, a number or a schedule without decay.
        betas: (b1, b2): b1 is the weight of the average x in the params in training, b2 the decay
            rate of the running mean of g^2.
        eps: added to the root, so that nothing is divided by 0.
        weight_decay: decoupled weight decay; each step also subtracts lr * weight_decay * y, of the
            params y in training.
        warmup_steps: updates in which lr rises linearly to its value; 0 for none.

    Returns:
        An optimizer for real params; its state has the entries of `schedule_free`.

    Raises:
        UserError: lr, eps or weight_decay is negative or not finite, betas is not a pair of numbers
            in [0, 1), or warmup_steps is not a non-negative integer; from `init`: a leaf is
            complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.schedule_free_adamw(lr=0.1), {"w": np.zeros(1)}
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update({"w": np.ones(1)}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"].round(3), optim.get_state(state, "x")["w"].round(3)
        (array([-0.155]), array([-0.15]))

    Source:
        Defazio et al. 2024, arXiv 2405.15682; numbers and defaults of the authors' package.
    """
    name = "schedule_free_adamw"
    expect_hypers(name, NOT_NEGATIVE, lr=lr, eps=eps, weight_decay=weight_decay)
    expect_betas(name, betas)
    expect_integers(name, 0, warmup_steps=warmup_steps)
    rate = _warmed_up(lr, warmup_steps) if warmup_steps else lr
    base = chain(
        scale_by_adam((0.0, betas[1]), eps),
        *unless_zero(weight_decay, add_decayed_weights),
        scale_by_learning_rate(rate),
    )
    return real_only(name, schedule_free(base, rate, betas[0]))


def _warmed_up(lr: Hyper, steps: int) -> Hyper:
    """Return the schedule lr * min(1, (count + 1) / steps)."""

    def rate(count):
        share = namespace(count).clip((count + 1) / steps, None, 1.0)
        return (lr(count) if callable(lr) else lr) * share

    return rate
