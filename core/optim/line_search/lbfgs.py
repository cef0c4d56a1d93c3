"""L-BFGS, step for step as torch.optim.LBFGS, without a branch on a value.

An update is up to `max_iter` iterations on one batch. Under vmap they are a loop of evaluations in
which every member is in a phase of its own: where one begins a new iteration another is still in
its line search, and no evaluation is wasted on waiting. So many
fits together take as long as the longest one.

The two loops over the history of torch's are two triangular systems here, of the products of the
kept differences, whose inverse is kept too: the same recursion, in products of matrices.

Source: Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4; Byrd et al. 1994,
"Representations of quasi-Newton matrices", for the triangular systems.
"""

from collections.abc import Callable
from typing import NamedTuple

from purenets.core import tree
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_choice,
    expect_hypers,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Optimizer, Params
from purenets.core.optim.internals.arithmetic import at_most, choose, full_like, nonzero
from purenets.core.optim.internals.extra_args import loss_value, need_value_and_grad_fn
from purenets.core.optim.internals.hyper import (
    Hyper,
    has_schedule,
    init_count,
    next_count,
    resolve_hyper,
    zero_count,
)
from purenets.core.optim.internals.order import searching, with_order
from purenets.core.optim.internals.precision import in_pairs
from purenets.core.optim.line_search.masked_loop import masked_loop
from purenets.core.optim.line_search.search import advance_search, begin_search
from purenets.core.optim.line_search.vectors import dot, flattened, largest

LEAST_CURVATURE = 1e-10  # of differences that are kept, as in torch
LINE_SEARCHES = ("strong_wolfe",)


def lbfgs(
    lr: Hyper = 1.0,
    max_iter: int = 20,
    max_eval: int | None = None,
    tolerance_grad: float = 1e-7,
    tolerance_change: float = 1e-9,
    history_size: int = 100,
    line_search_fn: str | None = None,
) -> Optimizer:
    """Return L-BFGS: quasi-Newton steps from the last differences of params and gradients.

    An update is up to max_iter iterations on one batch. For full batches and small networks, for
    which it is far faster than first-order methods.

    Args:
        lr: the length of a step, or the first one that a line search tries.
        max_iter: iterations in an update at most.
        max_eval: evaluations of the loss and its gradient in an update; 5/4 of max_iter by default.
            A line search may take one more.
        tolerance_grad: an update ends when no element of the gradient is larger.
        tolerance_change: it also ends when no element of the params, nor the loss, changes by more.
        history_size: differences that are kept. The state has 2 * history_size vectors of all
            params.
        line_search_fn: "strong_wolfe", or None for steps of length lr.

    Returns:
        An optimizer. Its `update` needs `value_and_grad_fn` (`make_step` passes it). Its state
        holds vectors of all leaves, in float32 at least, under the names of torch ("old_dirs",
        "old_stps", "H_diag", ...).

    Raises:
        UserError: lr or a tolerance is negative or not finite, max_iter, max_eval or history_size
            is not a positive integer, or line_search_fn is unknown; from `update`:
            value_and_grad_fn is missing.

    Example:
        One update solves a quadratic loss whose curvatures are 1 and 100.

        >>> import numpy as np
        >>> from purenets import optim
        >>> def value_and_grad(params):
        ...     grad = np.array([1.0, 100.0]) * params["w"]
        ...     return (grad * params["w"]).sum() / 2, {"w": grad}
        >>> optimizer, params = optim.lbfgs(line_search_fn="strong_wolfe"), {"w": np.ones(2)}
        >>> value, grads = value_and_grad(params)
        >>> updates, _ = optimizer.update(
        ...     grads, optimizer.init(params), params, value=value, value_and_grad_fn=value_and_grad
        ... )
        >>> updates["w"].round(3)
        array([-1., -1.])

    Source:
        torch.optim.LBFGS; Nocedal and Wright 2006, "Numerical optimization", algorithm 7.4.
    """
    expect_hypers("lbfgs", NOT_NEGATIVE, lr=lr)
    expect_integers("lbfgs", 1, max_iter=max_iter, history_size=history_size)
    max_eval = int(max_iter) * 5 // 4 if max_eval is None else max_eval
    expect_integers("lbfgs", 1, max_eval=max_eval)
    tolerances = {"tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change}
    expect_numbers("lbfgs", NOT_NEGATIVE, **tolerances)
    if line_search_fn is not None:
        expect_choice("lbfgs", LINE_SEARCHES, line_search_fn=line_search_fn)
    limits = Limits(max_iter, max_eval, tolerance_grad, tolerance_change)
    make = _minimize_by_search if line_search_fn else _minimize_by_steps

    count_it = has_schedule(lr)

    def init(params):
        return {**init_count(params, lr=lr), **_init_history(params, history_size)}

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        f = need_value_and_grad_fn("lbfgs", value_and_grad_fn)
        x, unravel = flattened(params, params)

        def evaluate(x: Array) -> tuple[Array, Array]:
            there = unravel(x)
            loss, slope = f(there)
            return loss_value("lbfgs", loss, f, there), flattened(slope, params)[0]

        loss, g = loss_value("lbfgs", value, f, params), flattened(grads, params)[0]
        rate = full_like(loss, resolve_hyper(lr, state, grads))
        end = make(evaluate, first_carry(x, loss, g, state), rate, limits)
        counts = {"n_iter": end["n_iter"], "func_evals": state["func_evals"] + end["evals"]}
        kept = {name: end[name] for name in KEPT}
        return unravel(end["x"] - x), {**next_count(state, count_it), **counts, **kept}

    return in_pairs(with_order(searching("lbfgs"), Optimizer(init, update)))


KEPT = ("d", "t", "prev_flat_grad", "H_diag", "old_dirs", "old_stps")
KEPT += ("curvatures", "inverse")


class Limits(NamedTuple):
    """When an update ends."""

    max_iter: int
    max_eval: int
    tolerance_grad: float
    tolerance_change: float


def _init_history(params: Params, history_size: int) -> dict:
    """Return the state before the first update, which has neither steps nor differences."""
    zero = zero_count(params)
    vector = flattened(tree.zeros_like(params), params)[0]
    number, xp = vector.sum(), namespace(vector)
    m, n, kind = history_size, vector.shape[0], {"dtype": vector.dtype, "device": vector.device}
    history = {name: xp.zeros((m, n), **kind) for name in ("old_dirs", "old_stps")}
    history |= {"curvatures": xp.zeros(m, **kind), "inverse": xp.zeros((m, m), **kind)}
    last = {"d": vector, "t": number, "prev_flat_grad": vector, "H_diag": number + 1}
    return {"n_iter": zero, "func_evals": zero, **last, **history}


def first_carry(x: Array, f: Array, g: Array, state: dict) -> dict:
    """Return what an update carries from evaluation to evaluation, before the first iteration.

    It holds the point "x" with loss "f" and gradient "g", the direction "d" and step "t" that lead
    on from it, the history, and the numbers of iterations "k" and evaluations "evals".
    """
    zero = namespace(state["n_iter"]).zeros_like(state["n_iter"])
    kept = {name: state[name] for name in (*KEPT, "n_iter")}
    return {"x": x, "f": f, "g": g, "slope": g.sum(), "k": zero, "evals": zero + 1, **kept}


def _minimize_by_search(evaluate: Callable, carry: dict, rate: Array, limits: Limits) -> dict:
    """Return the carry after an update with line searches."""

    def begin(carry: dict, go: Array) -> dict:
        carry = begin_iteration(carry, go, rate, limits)
        search = begin_search(carry["t"], start_of(carry))
        return {**carry, "search": choose(go, search, carry.get("search", search))}

    def tick(carry: dict) -> dict:
        d, search, start = carry["d"], carry["search"], start_of(carry)
        loss, g = evaluate(carry["x"] + search["t"] * d)
        new = {"t": search["t"], "f": loss, "g": g, "slope": dot(g, d)}
        left = limits.max_eval - carry["evals"]
        search, found, best = advance_search(
            search, new, start, largest(d), left, limits.tolerance_change
        )
        carry, go = end_iteration(
            {**carry, "search": search}, best, search["evaluations"], found, limits
        )
        return begin(carry, go)

    running = largest(carry["g"]) > limits.tolerance_grad
    return masked_loop(
        tick, begin({**carry, "running": running}, running), limits.max_eval, masks_itself=True
    )


def _minimize_by_steps(evaluate: Callable, carry: dict, rate: Array, limits: Limits) -> dict:
    """Return the carry after an update with steps of length `rate`."""

    def tick(carry: dict) -> dict:
        loss, g = evaluate(carry["x"] + carry["t"] * carry["d"])
        new, found = {"t": carry["t"], "f": loss, "g": g}, carry["running"]
        carry, go = end_iteration(carry, new, full_like(carry["evals"], 1), found, limits)
        return begin_iteration(carry, go, rate, limits)

    running = largest(carry["g"]) > limits.tolerance_grad
    carry = begin_iteration({**carry, "running": running}, running, rate, limits)
    evaluations = min(limits.max_iter, limits.max_eval) - 1
    carry = masked_loop(tick, carry, evaluations, masks_itself=True)
    # the last step needs no look at the loss
    last = carry["x"] + carry["t"] * carry["d"]
    return {**carry, "x": namespace(last).where(carry["running"], last, carry["x"])}


def start_of(carry: dict) -> dict:
    """Return the point that an iteration began at."""
    zero = namespace(carry["f"]).zeros_like(carry["f"])
    return {"t": zero, **{name: carry[name] for name in ("f", "g", "slope")}}


def begin_iteration(carry: dict, go: Array, rate: Array, limits: Limits) -> dict:
    """Return the carry with a new direction, where `go` holds."""
    g, where = carry["g"], namespace(carry["g"]).where
    history, scale = remember(carry, go)
    d = direction(history, scale, g)
    first = at_most(1 / nonzero(abs(g).sum()), 1.0) * rate
    slope = dot(g, d)
    new = {
        "d": d,
        "t": where(carry["n_iter"] == 0, first, rate),
        "slope": slope,
        "prev_flat_grad": g,
        "n_iter": carry["n_iter"] + 1,
        "k": carry["k"] + 1,
    }
    new = choose(go, new, {name: carry[name] for name in new})
    stuck = go & (slope > -limits.tolerance_change)
    return {**carry, **history, "H_diag": scale, **new, "running": carry["running"] & ~stuck}


def end_iteration(
    carry: dict, best: dict, evaluations: Array, found: Array, limits: Limits
) -> tuple[dict, Array]:
    """Return the carry at the end of an iteration, and whether another one begins.

    Args:
        carry: during the iteration.
        best: the step "t" to take, with loss "f" and gradient "g" there.
        evaluations: that the step has cost.
        found: whether the step is final.
        limits: of the update.
    """
    done = found & carry["running"]
    move, change = best["t"] * carry["d"], abs(best["f"] - carry["f"])
    evals = carry["evals"] + evaluations
    last = (carry["k"] == limits.max_iter) | (evals >= limits.max_eval)
    last = last | (largest(best["g"]) <= limits.tolerance_grad)
    last = last | (largest(move) <= limits.tolerance_change) | (change < limits.tolerance_change)
    new = {name: best[name] for name in ("t", "f", "g")}
    new |= {"x": carry["x"] + move, "evals": evals, "running": ~last}
    carry = {**carry, **choose(done, new, {name: carry[name] for name in new})}
    return carry, done & ~last


# --- the history ----------------------------------------------------------------------------------


def remember(carry: dict, go: Array) -> tuple[dict, Array]:
    """Return the history with the last step, and the scale of the Hessian's inverse.

    The newest differences are the last rows; rows of zeros are not filled yet.
    """
    xp = namespace(carry["g"])
    y, s = carry["g"] - carry["prev_flat_grad"], carry["d"] * carry["t"]
    curvature = dot(y, s)
    keep = go & (curvature > LEAST_CURVATURE)
    others = carry["old_stps"][1:]
    new = {
        "old_dirs": xp.concat([carry["old_dirs"][1:], y[None]]),
        "old_stps": xp.concat([others, s[None]]),
        "curvatures": xp.concat([carry["curvatures"][1:], curvature[None]]),
        "inverse": _bordered(carry["inverse"][1:, 1:], others @ y, nonzero(curvature)),
    }
    scale = xp.where(keep, curvature / nonzero(dot(y, y)), carry["H_diag"])
    return choose(keep, new, {name: carry[name] for name in new}), scale


def _bordered(inverse: Array, column: Array, corner: Array) -> Array:
    """Return the inverse of an upper triangle that has got another column and its corner."""
    xp = namespace(inverse)
    right = xp.concat([-(inverse @ column), xp.ones_like(column[:1])]) / corner
    below = xp.concat([inverse, xp.zeros_like(inverse[:1])])
    return xp.concat([below, right[:, None]], axis=1)


def direction(history: dict, scale: Array, g: Array) -> Array:
    """Return -H g (n,), H the estimate of the inverse Hessian: the two-loop recursion.

    The loop from the newest to the oldest difference solves R a = -S g, where R is the upper
    triangle of the products s_i y_j; the loop back solves R^T c = D a - scale Y q, with D the
    diagonal of R. The inverse of R is kept.
    """
    steps, changes, inverse = (history[name] for name in ("old_stps", "old_dirs", "inverse"))
    a = -(inverse @ (steps @ g))
    q = -g - a @ changes
    c = (history["curvatures"] * a - scale * (changes @ q)) @ inverse
    return scale * q + c @ steps
