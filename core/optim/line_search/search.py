"""A step along a line that satisfies the strong Wolfe conditions, as in torch.optim.LBFGS.

The search is a state machine that takes one evaluation of the loss at a time, without a branch on a
value: many searches, each in a phase of its own, advance together under vmap. First it steps
outward until a minimum is bracketed, then it zooms into the bracket, both by cubic interpolation.

    search = begin_search(t, start)
    while not finished:
        new = the point at search["t"]
        search, finished, best = advance_search(search, new, start, ...)

A point is a dict of the step "t", the loss "f", its gradient "g" (n,) and "slope", the derivative
by t.

Source: Nocedal and Wright 2006, "Numerical optimization", algorithms 3.5 and 3.6; step for step
torch's, which goes back to M. Schmidt's minFunc.
"""

import numpy as np

from purenets.core.arrays import NUMPY, namespace, sqrt
from purenets.core.base import Array
from purenets.core.optim.internals.arithmetic import at_least, at_most, choose

Point = dict[str, Array]
C1, C2 = 1e-4, 0.9  # of the decrease and of the curvature condition, as in torch


def begin_search(t: Array, start: Point) -> dict:
    """Return the search whose first step is `t`, before its first evaluation."""
    count = namespace(t).zeros_like(t, dtype=namespace(t).int64)
    flags = dict.fromkeys(("zoom", "b_is_low", "insufficient"), count > 0)
    return {"t": t, "evaluations": count, "a": start, "b": start, **flags}


def advance_search(
    search: dict,
    new: Point,
    start: Point,
    size: Array,
    limit: Array,
    tolerance: float = 1e-9,
    c1: float = C1,
    c2: float = C2,
) -> tuple[dict, Array, Point]:
    """Return the search after an evaluation, whether it is finished, and the best point.

    Args:
        search: as `begin_search` or this function returned it.
        new: the point at search["t"].
        start: the point at 0.
        size: the largest element of the direction.
        limit: evaluations beyond the first one.
        tolerance: of the bracket's width, times `size`.
        c1: of the decrease condition.
        c2: of the curvature condition.
    """
    low_enough = new["f"] <= start["f"] + c1 * new["t"] * start["slope"]
    too_high = ~low_enough | (new["slope"] != new["slope"])  # also where either is NaN
    flat = abs(new["slope"]) <= -c2 * start["slope"]
    outward, outside = _bracket(search, new, start, too_high, flat, search["evaluations"] >= limit)
    inward = _zoom(search, new, too_high, flat)
    after = choose(search["zoom"], inward, outward)
    outside = outside & ~search["zoom"]
    t, insufficient = _trial(after["a"], after["b"], search["insufficient"])
    width = abs(after["b"]["t"] - after["a"]["t"]) * size
    finished = ~outside & (after["done"] | (search["evaluations"] >= limit) | (width < tolerance))
    where = namespace(t).where
    following = {
        "t": where(outside, _extrapolated(search["a"], new), t),
        "evaluations": search["evaluations"] + 1,
        "a": after["a"],
        "b": after["b"],
        "zoom": ~outside,
        "b_is_low": after["b_is_low"],
        "insufficient": insufficient & ~outside,
    }
    return following, finished, choose(after["b_is_low"], after["b"], after["a"])


def _bracket(
    search: dict, new: Point, start: Point, too_high: Array, flat: Array, exhausted: Array
) -> tuple[dict, Array]:
    """Return the bracket after a step outward, and whether there is none yet.

    While there is none, "a" is the point before.
    """
    before = search["a"]
    rose = too_high | ((search["evaluations"] > 1) & (new["f"] >= before["f"]))
    done = ~exhausted & ~rose & flat
    outside = ~exhausted & ~rose & ~flat & ~(new["slope"] >= 0)
    a = choose(exhausted, start, choose(done | outside, new, before))
    return {"a": a, "b": new, "b_is_low": _is_lower(new, a), "done": done}, outside


def _is_lower(b: Point, a: Point) -> Array:
    """Return whether the loss at b is below that at a; NaN is above all numbers."""
    return (b["f"] < a["f"]) | (a["f"] != a["f"])


def _zoom(search: dict, new: Point, too_high: Array, flat: Array) -> dict:
    """Return the bracket after an evaluation within it."""
    b_is_low = search["b_is_low"]
    low = choose(b_is_low, search["b"], search["a"])
    high = choose(b_is_low, search["a"], search["b"])
    worse = too_high | (new["f"] >= low["f"])
    turned = new["slope"] * (high["t"] - low["t"]) >= 0
    new_high = choose(worse, new, choose(~flat & turned, low, high))
    new_low = choose(worse, low, new)
    a, b = choose(b_is_low, new_high, new_low), choose(b_is_low, new_low, new_high)
    b_is_low = namespace(new["f"]).where(worse, _is_lower(b, a), b_is_low)
    return {"a": a, "b": b, "b_is_low": b_is_low, "done": ~worse & flat}


def _trial(a: Point, b: Point, insufficient: Array) -> tuple[Array, Array]:
    """Return the next step within a bracket, and whether it comes too close to its end.

    Twice in a row, or at the end itself, it is moved a tenth of the bracket inward.
    """
    where = namespace(a["t"]).where
    least, most = at_most(a["t"], b["t"]), at_least(a["t"], b["t"])
    t, margin = interpolate(a, b, least, most), 0.1 * (most - least)
    close = at_most(most - t, t - least) < margin
    moved = close & (insufficient | (t >= most) | (t <= least))
    inward = where(abs(t - most) < abs(t - least), most - margin, least + margin)
    return where(moved, inward, t), close & ~moved


def _extrapolated(before: Point, new: Point) -> Array:
    """Return the next step outward: at most ten times as long."""
    least = new["t"] + 0.01 * (new["t"] - before["t"])
    return interpolate(before, new, least, new["t"] * 10)


def interpolate(a: Point, b: Point, least: Array, most: Array) -> Array:
    """Return the minimum within [least, most] of the cubic through two points with their slopes, or
    the middle where it has none."""
    xp, left_is_a = namespace(a["t"]), a["t"] <= b["t"]
    left, right = (choose(flag, _scalars(a), _scalars(b)) for flag in (left_is_a, ~left_is_a))
    apart = a["t"] != b["t"]
    secant = 3 * (a["f"] - b["f"]) / xp.where(apart, a["t"] - b["t"], xp.ones_like(a["t"]))
    d1 = a["slope"] + b["slope"] - secant
    square = d1 * d1 - a["slope"] * b["slope"]
    exists = apart & (square >= 0)
    d2 = sqrt(xp.where(exists, square, xp.ones_like(square)))
    part = quotient(right["slope"] + d2 - d1, right["slope"] - left["slope"] + 2 * d2)
    t = right["t"] - (right["t"] - left["t"]) * part
    return xp.where(exists, at_most(at_least(t, least), most), (least + most) / 2)


def _scalars(point: Point) -> dict:
    return {name: point[name] for name in ("t", "slope")}


def quotient(a: Array, b: Array) -> Array:
    """Return a / b, without NumPy's warnings: infinities and NaN are what torch has there too."""
    if not isinstance(b, NUMPY):
        return a / b
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return a / b
