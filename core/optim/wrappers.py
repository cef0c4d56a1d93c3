"""Wrappers: each function takes optimizers and returns an optimizer.

    partition, masked, freeze   a part of the params each (named, not_named, is_matrix pick it)
    accumulate                  one update for every k gradients
    apply_if_finite             no update by a gradient that is not finite
    skip_first                  no update by the first gradient
    ema, lookahead              averages of the params
    normalize_weights           every update starts from weights of a fixed norm

`optim.state` reads and changes what they keep. Nothing branches on a value: an update that is not
due is computed and not used.
"""

from collections.abc import Callable, Hashable

from purenets.core import tree
from purenets.core.arguments import (
    DECAY,
    PART,
    expect_call,
    expect_hypers,
    expect_integers,
    expect_optimizers,
)
from purenets.core.arrays import as_array, namespace
from purenets.core.base import Array, Optimizer, Params, UserError
from purenets.core.optim.internals.arithmetic import at_least, choose, copies, running_mean
from purenets.core.optim.internals.elementwise import elementwise, elementwise_as
from purenets.core.optim.internals.extra_args import (
    MISSING,
    expect_given,
    like_inner,
    loss_value,
    takes_extra_args,
    with_extra_args,
)
from purenets.core.optim.internals.hyper import (
    Hyper,
    count_to_dtype,
    first_count,
    first_leaf,
    has_schedule,
    init_count,
    is_concrete,
    next_count,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.internals.order import (
    FREEZES,
    average_of_params,
    expect_descent,
    expect_no_average,
    expect_no_search,
    order_of,
    order_of_parts,
    with_order,
)
from purenets.core.optim.internals.patterns import (
    checking_patterns,
    matches,
    names_of,
    picks,
    with_patterns,
)
from purenets.core.optim.internals.precision import (
    any_dtype,
    are_full_pairs,
    checking,
    expect_grads,
    own_in_any_dtype,
    own_leaves,
    part_of,
)
from purenets.core.optim.transforms import chain

Predicate = Callable[[str, Array], bool]  # of the name of a leaf and the leaf


# --- parts of the params --------------------------------------------------------------------------


def partition(optimizers: dict[str, Optimizer], label_fn: Callable[[str, Array], str]) -> Optimizer:
    """Return an optimizer that updates each leaf by the optimizer that its label chooses.

    `label_fn` is called at every update. An optimizer whose label no leaf has is not used, but a
    `freeze()` that would hold no leaf is an error.

    Args:
        optimizers: an optimizer for each label.
        label_fn: `label_fn(name, leaf) -> label`.

    Returns:
        An optimizer whose state has an entry for each label in use, the state of its optimizer. To
        each, `value_and_grad_fn` is a function of its own leaves; the others stay fixed.

    Raises:
        UserError: optimizers is not a dict of Optimizers, or label_fn is not a function; from
            `init` and `update`: a label is not one of optimizers; from `init`: no leaf has the
            label of a `freeze()`.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.partition(
        ...     {"slow": optim.sgd(0.01), "fast": optim.sgd(0.1)},
        ...     lambda name, leaf: "fast" if name.endswith("bias") else "slow",
        ... )
        >>> params = {"fc.weight": np.ones((1, 2)), "fc.bias": np.ones(1)}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> updates["fc.weight"], updates["fc.bias"]
        (array([[-0.01, -0.01]]), array([-0.1]))

    Source:
        optax.partition, for flat dicts.
    """
    if not isinstance(optimizers, dict):
        raise UserError(f"partition: optimizers is a {type(optimizers).__name__}, needs a dict")
    expect_optimizers("partition", **{str(name): o for name, o in optimizers.items()})
    expect_call("partition", ("name", "leaf"), label_fn=label_fn)
    frozen = [label for label, inner in optimizers.items() if order_of(inner) == FREEZES]
    optimizers = {label: own_in_any_dtype(inner) for label, inner in optimizers.items()}

    def labels(params):
        own = own_leaves(params)
        found = {name: label_fn(name, own[name]) for name in params}
        for name, label in found.items():
            if not isinstance(label, Hashable) or label not in optimizers:
                raise UserError(f"{name}: label {label!r}, needs one of {', '.join(optimizers)}")
        return found

    def split(found, leaves):
        used = [label for label in optimizers if label in found.values()]
        return {label: part_of(leaves, [n for n in found if found[n] == label]) for label in used}

    def init(params):
        parts = split(labels(params), params)
        if not is_concrete(first_leaf(params)):
            return {label: optimizers[label].init(part) for label, part in parts.items()}
        for label in frozen:
            if label not in parts:
                raise UserError(
                    f"partition: no leaf has the label {label!r}, which freezes; the leaves are "
                    f"{', '.join(params)}"
                )
        with names_of(params):
            return {label: optimizers[label].init(part) for label, part in parts.items()}

    def update(grads, state, params, **extra):
        tree.check_names(grads, params)
        found, updates, new_state = labels(params), {}, {}
        grads, parts = split(found, grads), split(found, params)
        for label, part in grads.items():
            known = _of_part(params, parts[label], **extra) if extra else {}
            inner = inner_updates[label]
            moves, new_state[label] = inner(part, state[label], parts[label], **known)
            updates |= moves
        return {name: updates[name] for name in found}, new_state

    inner_updates = {label: with_extra_args(inner.update) for label, inner in optimizers.items()}
    inner = tuple(optimizers.values())
    return with_order(
        order_of_parts(inner), Optimizer(init, like_inner(checking(init, update), inner))
    )


def _of_part(params: Params, part: Params, value=None, value_and_grad_fn=None) -> dict:
    """Return the extra arguments for an optimizer of `part`: the other params stay as they are."""

    def of_part(changed: Params):
        loss, grads = value_and_grad_fn({**params, **changed})
        return loss, {name: grads[name] for name in part}

    return {"value": value, "value_and_grad_fn": value_and_grad_fn and of_part}


def masked(transform: Optimizer, where: Predicate) -> Optimizer:
    """Return a transform that acts on the leaves that `where` picks and passes the others on.

    Args:
        transform: the optimizer or transform to restrict.
        where: `where(name, leaf) -> bool`, such as `is_matrix` or `not_named("*bias")`.

    Returns:
        A transform whose state is that of `partition` with the labels "masked" and "other".

    Raises:
        UserError: transform is not an Optimizer, or where is not a function of two arguments; from
            `init`: where returns no bool, or a pattern of `named` or `not_named` matches no leaf.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> decay = optim.masked(optim.add_decayed_weights(0.1), optim.not_named("*bias"))
        >>> params = {"fc.weight": np.ones((1, 2)), "fc.bias": np.ones(1)}
        >>> grads = {name: 0 * leaf for name, leaf in params.items()}
        >>> updates, _ = decay.update(grads, decay.init(params), params)
        >>> updates["fc.weight"], updates["fc.bias"]
        (array([[0.1, 0.1]]), array([0.]))

    Source:
        optax.masked, whose mask is a pytree of bools.
    """
    expect_optimizers("masked", transform=transform)
    expect_call("masked", ("name", "leaf"), where=where)

    def label(name: str, leaf: Array) -> str:
        return "masked" if picks("masked", where, name, leaf) else "other"

    restricted = partition({"masked": transform, "other": chain()}, label)
    return checking_patterns("masked", where, restricted)


def named(*patterns: str) -> Predicate:
    """Return a predicate that is True for leaves whose name matches one of the patterns.

    Args:
        patterns: names in which * stands for any text, ? for any character and [ab] for a or b. The
            whole name must match: "bias" does not match "fc1.bias", "*.bias" does.

    Returns:
        A function `(name, leaf) -> bool`, for `masked`, `muon` or `beta_lasso`.

    Raises:
        UserError: a pattern is not a string; from `init` of the optimizer: a pattern matches no
            leaf (a pattern with a wildcard may, if another pattern matches one).

    Example:
        >>> from purenets import optim
        >>> picks = optim.named("fc1.*", "*.bias")
        >>> picks("fc2.bias", None), picks("fc2.weight", None)
        (True, False)
    """
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise UserError(f'named: {pattern!r} is no pattern, such as "*.bias"')
    return with_patterns(patterns, lambda name, leaf: matches(name, patterns))


def not_named(*patterns: str) -> Predicate:
    """Return a predicate that is True for leaves whose name matches none of the patterns.

    Args:
        patterns: names in which * stands for any text, ? for any character and [ab] for a or b. The
            whole name must match: "*.bias" matches "fc1.bias", but not "attn.in_proj_bias", and
            "norm*" not "block1.norm1.weight"; "*bias" and "*norm*" match these too.

    Returns:
        A function `(name, leaf) -> bool`, for `masked`, `muon` or `beta_lasso`.

    Raises:
        UserError: a pattern is not a string; from `init` of the optimizer: a pattern matches no
            leaf (a pattern with a wildcard may, if another pattern matches one).

    Example:
        >>> from purenets import optim
        >>> picks = optim.not_named("*bias", "*norm*")
        >>> picks("fc1.weight", None), picks("block1.norm1.weight", None)
        (True, False)
    """
    wanted = named(*patterns)
    return with_patterns(patterns, lambda name, leaf: not wanted(name, leaf))


def is_matrix(name: str, leaf: Array) -> bool:
    """Return True for a leaf of two or more axes: weights, but neither biases nor scales of norms.

    Args:
        name: the name of the leaf; not looked at.
        leaf: an array.

    Returns:
        A bool. Pass the function itself, as the predicate of `masked`, `muon` or `beta_lasso`.

    Raises:
        UserError: leaf is not an array.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optim.is_matrix("weight", np.ones((20, 2))), optim.is_matrix("bias", np.ones(20))
        (True, False)
    """
    if not hasattr(leaf, "ndim"):
        raise UserError(f"is_matrix: leaf is a {type(leaf).__name__}, needs an array")
    return leaf.ndim > 1


def freeze() -> Optimizer:
    """Return an optimizer whose updates are zero, for the leaves of a `partition` that should stay.

    The leaves may have any dtype, integers too.

    Returns:
        An optimizer with an empty state.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.partition(
        ...     {"frozen": optim.freeze(), "trained": optim.sgd(0.1)},
        ...     lambda name, leaf: "frozen" if name.startswith("base.") else "trained",
        ... )
        >>> params = {"base.weight": np.ones(2), "head.weight": np.ones(2)}
        >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
        >>> updates["base.weight"], updates["head.weight"]
        (array([0., 0.]), array([-0.1, -0.1]))

    Source:
        optax.set_to_zero.
    """

    def update(grads, state, params=MISSING):
        expect_given(params)
        if params is not None and not are_full_pairs(grads, params):
            expect_grads(grads, params)
        return tree.zeros_like(grads), {}

    return with_order(FREEZES, Optimizer(lambda params: {}, update))


def normalize_weights(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer whose every update starts from weights rescaled to a fixed norm.

    The norm of each leaf is first set to the square root of its number of rows, then the update of
    `optimizer` is added. So a learning rate means the same for every matrix, at all times. Only for
    weights whose scale does not change the output, as before a normalization: see `masked`, or
    `muon(other=...)`.

    Args:
        optimizer: the optimizer to wrap.

    Returns:
        An optimizer with the state of the one it wraps. Leaves of zeros stay as they are.

    Raises:
        UserError: optimizer is not an Optimizer, averages the params (`ema`, `swa`), or has no
            learning rate, so that its updates point uphill.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer = optim.normalize_weights(optim.sgd(0.1))
        >>> params, grads = {"w": np.full((4, 4), 3.0)}, {"w": np.zeros((4, 4))}
        >>> updates, _ = optimizer.update(grads, optimizer.init(params), params)
        >>> print(np.linalg.norm(params["w"] + updates["w"]).round(3))  # sqrt(4)
        2.0

    Source:
        K. Jordan 2024, airbench94_muon.py.
    """
    expect_optimizers("normalize_weights", optimizer=optimizer)
    expect_no_average("normalize_weights", optimizer)
    expect_descent("normalize_weights", optimizer=optimizer)

    def update(grads, state, params, **extra):
        updates, state = optimizer.update(grads, state, params, **extra)

        def back(p, u):
            xp, length = namespace(p), tree.norm({"": p})
            length = xp.where(length > 0, length, xp.ones_like(length))  # a leaf of zeros stays
            rows = p.shape[0] if p.ndim else 1
            return u + p * (rows**0.5 / length - 1)

        return tree.map(back, params, updates), state

    return any_dtype(Optimizer(optimizer.init, like_inner(update, [optimizer])))


# --- when to update -------------------------------------------------------------------------------


def accumulate(optimizer: Optimizer, k: int) -> Optimizer:
    """Return an optimizer that updates once for every k gradients, by their mean.

    The other updates are zero. For batches that do not fit into memory as a whole. Put averages of
    the params inside, `accumulate(chain(o, ema(d)), k)`: outside they average at every gradient.

    Args:
        optimizer: the optimizer to wrap. Its `value`, if it takes one, is the mean loss of the k
            batches; its `value_and_grad_fn` is that of the last batch alone, of which `sophia`
            makes its estimate.
        k: how many gradients make an update.

    Returns:
        An optimizer whose state has the entries "count" (gradients since the last update), "sum"
        (of these), "inner" and, if the optimizer takes the loss, "loss_sum".

    Raises:
        UserError: optimizer is not an Optimizer, k is not a positive integer, or optimizer is a
            line search and k is above 1.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.accumulate(optim.sgd(1.0), k=2), {"w": np.zeros(1)}
        >>> first, state = optimizer.update({"w": np.array([1.0])}, optimizer.init(params), params)
        >>> second, state = optimizer.update({"w": np.array([3.0])}, state, params)
        >>> first["w"], second["w"]
        (array([0.]), array([-2.]))

    Source:
        optax.MultiSteps.
    """
    expect_optimizers("accumulate", optimizer=optimizer)
    expect_integers("accumulate", 1, k=k)
    if k > 1:
        expect_no_search("accumulate", optimizer)
    takes_loss = takes_extra_args(optimizer.update)

    def init(params):
        zero = zero_count(params)
        losses = {"loss_sum": count_to_dtype(zero, params)} if takes_loss else {}
        inner = optimizer.init(params)
        return {"count": zero, "sum": tree.zeros_like(params), **losses, "inner": inner}

    def update(grads, state, params, **extra):
        count, total = state["count"] + 1, tree.map(lambda s, g: s + g, state["sum"], grads)
        losses, extra = (
            _with_mean_loss(state, params, count, k, **extra) if takes_loss else ({}, extra)
        )
        due = count >= k  # above it in a state of a larger k
        updates, inner = optimizer.update(_mean(total, count, k), state["inner"], params, **extra)
        nothing = tree.zeros_like(total)
        new = {"sum": nothing, **tree.zeros_like(losses), "inner": inner}
        old = {"sum": total, **losses, "inner": state["inner"]}
        return choose(due, updates, nothing), {"count": count * ~due, **choose(due, new, old)}

    return elementwise_as(optimizer, Optimizer(init, like_inner(update, [optimizer])))


def _with_mean_loss(
    state: dict, params: Params, count: Array, k: int, value=None, value_and_grad_fn=None
) -> tuple[dict, dict]:
    """Return the entry of the sum of losses, and the extra arguments with the mean loss."""
    if value is None and value_and_grad_fn is None:  # the inner optimizer will say what is missing
        return {"loss_sum": state["loss_sum"]}, {}
    total = state["loss_sum"] + loss_value("accumulate", value, value_and_grad_fn, params)
    mean = _mean({"loss": total}, count, k)["loss"]
    return {"loss_sum": total}, {"value": mean, "value_and_grad_fn": value_and_grad_fn}


def _mean(total: Params, count: Array, k: int) -> Params:
    """Return the mean of summed gradients: of k, or of `count` in a state of a larger k."""
    correction = k / at_least(count, k)  # 1, but for such states
    return tree.map(lambda t: t * (1 / k) * as_array(correction, namespace(t), t.dtype), total)


def apply_if_finite(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer that skips every gradient with an infinity or a NaN.

    Such an update is zero and leaves the inner state unchanged.

    Args:
        optimizer: the optimizer to wrap.

    Returns:
        An optimizer whose state has the entries "skipped" (how many so far) and "inner".

    Raises:
        UserError: optimizer is not an Optimizer.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.apply_if_finite(optim.sgd(0.1)), {"w": np.zeros(2)}
        >>> grads = {"w": np.array([1.0, np.nan])}
        >>> updates, state = optimizer.update(grads, optimizer.init(params), params)
        >>> updates["w"], int(state["skipped"])
        (array([0., 0.]), 1)

    Source:
        optax.apply_if_finite, which gives up after a number of errors in a row.
    """
    expect_optimizers("apply_if_finite", optimizer=optimizer)

    def init(params):
        return {"skipped": zero_count(params), "inner": optimizer.init(params)}

    def update(grads, state, params, **extra):
        finite = all_finite(grads)
        nothing = tree.zeros_like(grads)
        updates, inner = optimizer.update(
            choose(finite, grads, nothing), state["inner"], params, **extra
        )
        skipped = namespace(finite).where(finite, state["skipped"], state["skipped"] + 1)
        return choose(finite, updates, nothing), {
            "skipped": skipped,
            "inner": choose(finite, inner, state["inner"]),
        }

    return any_dtype(Optimizer(init, like_inner(update, [optimizer])))


def skip_first(optimizer: Optimizer) -> Optimizer:
    """Return an optimizer whose first update is zero; the inner state advances all the same.

    For optimizers that must see a gradient before they can scale one, such as `soap`.

    Args:
        optimizer: the optimizer to wrap.

    Returns:
        An optimizer whose state has the entries "count" and "inner".

    Raises:
        UserError: optimizer is not an Optimizer, or averages the params (`ema`, `swa`).

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, grads = optim.skip_first(optim.sgd(0.1)), {"w": np.ones(1)}
        >>> first, state = optimizer.update(grads, optimizer.init(grads), grads)
        >>> second, state = optimizer.update(grads, state, grads)
        >>> first["w"], second["w"]
        (array([0.]), array([-0.1]))
    """
    expect_optimizers("skip_first", optimizer=optimizer)
    expect_no_average("skip_first", optimizer)

    def init(params):
        return {"count": zero_count(params), "inner": optimizer.init(params)}

    def update(grads, state, params, **extra):
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        updates = choose(state["count"] > 0, updates, tree.zeros_like(updates))
        return updates, {"count": state["count"] + 1, "inner": inner}

    return elementwise_as(optimizer, Optimizer(init, like_inner(update, [optimizer])))


def all_finite(grads: Params) -> Array:
    """Return whether every element of every leaf is finite, as a scalar array."""
    each = [namespace(g).all(namespace(g).isfinite(g)) for g in tree.leaves(grads)]
    return namespace(first_leaf(grads)).all(namespace(first_leaf(grads)).stack(each))


# --- averages of the params -----------------------------------------------------------------------


def ema(decay: Hyper = 0.999) -> Optimizer:
    """Return a transform that keeps an exponential moving average of the params.

    It is the last part of a chain, after `reduce_on_plateau` and outside of `lookahead`: it
    returns the updates unchanged and averages the params that result from them. The average begins
    at the first params, without bias correction. Evaluate it by `with_averaged_params`. With
    `accumulate` it stands inside, `accumulate(chain(o, ema(d)), k)`, to average once for each
    update. optax.ema is different: it averages the updates.

    Args:
        decay: the decay rate of the average, in [0, 1). An array or a schedule's value is rounded
            to the dtype of the params (1 - 0.999999 becomes 1.013e-6 in float32); a Python number
            is not.

    Returns:
        A transform for `chain`; its state has the entry "ema", shaped as the params.

    Raises:
        UserError: decay is not in [0, 1).

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.chain(optim.sgd(1.0), optim.ema(0.5)), {"w": np.zeros(1)}
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update({"w": -np.ones(1)}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"], optim.get_state(state, "ema")["w"]
        (array([2.]), array([1.25]))

    Source:
        torch.optim.swa_utils.get_ema_avg_fn.
    """
    expect_hypers("ema", DECAY, decay=decay)
    counts = has_schedule(decay)

    def init(params):
        return {**init_count(params, decay=decay), "ema": copies(params)}

    def update(updates, state, params):
        moved = tree.map(lambda p, u: p + u, params, updates)
        mean = running_mean(resolve_hyper(decay, state, updates), state["ema"], moved)
        return updates, {**next_count(state, counts), "ema": mean}

    return elementwise(with_order(average_of_params("ema"), Optimizer(init, update)))


def lookahead(optimizer: Optimizer, k: int = 5, alpha: Hyper = 0.5) -> Optimizer:
    """Return an optimizer that pulls the params back toward a slow copy after every k updates.

        slow = slow + alpha * (p - slow);  p = slow

    Args:
        optimizer: the optimizer of the fast params, which are those in training.
        k: updates from one pull to the next.
        alpha: the fraction of the way that the slow params go, above 0 and at most 1.

    Returns:
        An optimizer whose state has the entries "count", "slow" (shaped as the params) and "inner".

    Raises:
        UserError: optimizer is not an Optimizer, averages the params (`ema`, `swa`), or has no
            learning rate, so that its updates point uphill; k is not a positive integer, or alpha
            is not in (0, 1].

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.lookahead(optim.sgd(1.0), k=2), {"w": np.zeros(1)}
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update({"w": -np.ones(1)}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"]  # two steps to 2, then half of the way back to 0
        array([1.])

    Source:
        Zhang et al. 2019, arXiv 1907.08610.
    """
    expect_optimizers("lookahead", optimizer=optimizer)
    expect_integers("lookahead", 1, k=k)
    expect_hypers("lookahead", PART, alpha=alpha)
    expect_no_average("lookahead", optimizer)
    expect_descent("lookahead", optimizer=optimizer)

    def init(params):
        counts = first_count(params, alpha=alpha)
        return {**counts, "slow": copies(params), "inner": optimizer.init(params)}

    def update(grads, state, params, **extra):
        a, count = resolve_hyper(alpha, state, grads), state["count"] + 1
        updates, inner = optimizer.update(grads, state["inner"], params, **extra)
        fast = tree.map(lambda p, u: p + u, params, updates)
        slow = tree.map(lambda s, f: s + a * (f - s), state["slow"], fast)
        due = count % k == 0
        back = tree.map(lambda s, p: s - p, slow, params)
        return choose(due, back, updates), {
            "count": count,
            "slow": choose(due, slow, state["slow"]),
            "inner": inner,
        }

    return elementwise_as(optimizer, Optimizer(init, like_inner(update, [optimizer])))
