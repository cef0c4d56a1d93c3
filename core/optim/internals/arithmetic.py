"""Arithmetic on dicts of arrays that the transforms share, for NumPy and torch."""

import math

from purenets.core import tree
from purenets.core.arrays import NUMPY, namespace, sqrt
from purenets.core.base import Array, Params
from purenets.core.vector_dict import from_vector, vector_of


def scaled(grads: Params, factor: float | Array) -> Params:
    """Return every leaf times `factor`."""
    return tree.map(lambda g: g * factor, grads)


SMALL_WEIGHT = 2.0**-10  # of a new value in a running mean; that of a decay of 0.999 is larger


def divided_by_root(grads: Params, squares: Params, eps: float | Array) -> Params:
    """Return g / (sqrt(s) + eps)."""
    return tree.map(lambda g, s: g / (sqrt(s) + eps), grads, squares)


def running_mean(beta: float | Array, mean: Params, new: Params) -> Params:
    """Return beta * mean + (1 - beta) * new."""
    weight = 1 - beta
    return tree.map(lambda m, n: lerp(m, n, weight), mean, new)


def running_mean_of_squares(beta: float | Array, mean: Params, new: Params) -> Params:
    """Return beta * mean + (1 - beta) * new^2."""
    weight = 1 - beta
    return tree.map(lambda m, n: add_square(beta * m, n, weight), mean, new)


def lerp(a: Array, b: Array, weight: float | Array) -> Array:
    """Return a + weight * (b - a), in one pass over tensors.

    Of NumPy's arrays it is (1 - weight) * a + weight * b where the weight is not small. Rounded to
    float32 these two factors do not add up to 1, so a mean with a weight of 1e-6 would fade by 1%.
    """
    if isinstance(a, NUMPY) and type(weight) is float and weight < SMALL_WEIGHT:
        return a + weight * (b - a)
    if isinstance(a, NUMPY) or type(weight) is not float or a.dtype != b.dtype:
        return (1 - weight) * a + weight * b
    return a.lerp(b, weight)


def add_square(a: Array, b: Array, weight: float | Array) -> Array:
    """Return a + weight * b^2, in one pass over tensors."""
    if isinstance(a, NUMPY) or type(weight) is not float or a.dtype != b.dtype:
        return a + weight * (b * b)
    return a.addcmul(b, b, value=weight)


def bias_correction(beta: float | Array, count: float | Array) -> float | Array:
    """Return 1 - beta^count, by expm1: the difference would lose half the digits of a float32."""
    if type(beta) in (int, float):
        exponent = count * (math.log(beta) if beta > 0 else -math.inf)
    else:
        exponent = count * namespace(beta).log(beta)
    return (
        -math.expm1(exponent) if type(exponent) is float else -namespace(exponent).expm1(exponent)
    )


def moments(b1: float | Array, b2: float | Array, grads: Params, state: dict) -> dict:
    """Return the next running means of g and of g^2."""
    return {
        "exp_avg": running_mean(b1, state["exp_avg"], grads),
        "exp_avg_sq": running_mean_of_squares(b2, state["exp_avg_sq"], grads),
    }


def sign(a: Array) -> Array:
    """Return 1, -1, or the element itself where that is 0 or NaN.

    The sign of array-api-compat does not run under vmap.
    """
    xp = namespace(a)
    return xp.where(a > 0, xp.ones_like(a), xp.where(a < 0, -xp.ones_like(a), a))


def maximum(a: Array, b: Array) -> Array:
    """Return the larger of each pair of elements."""
    return namespace(a).maximum(a, b)


def full_like(a: Array, value: float | Array) -> Array:
    """Return `value`, a number or a scalar array, in the shape and dtype of `a`."""
    return value + namespace(a).zeros_like(a)


def at_least(a: Array, bound: float | Array) -> Array:
    """Return the larger of each element and a bound, a number or an array."""
    return namespace(a).where(a < bound, full_like(a, bound), a)


def at_most(a: Array, bound: float | Array) -> Array:
    """Return the smaller of each element and a bound, a number or an array."""
    return namespace(a).where(a > bound, full_like(a, bound), a)


def nonzero(a: Array) -> Array:
    """Return `a` with 1 in the place of 0, to divide by."""
    xp = namespace(a)
    return xp.where(a == 0, xp.ones_like(a), a)


def choose(condition: Array, new: dict, old: dict) -> dict:
    """Return `new` where the scalar condition holds, else `old`: nested dicts of the same names."""
    return tree.map(lambda a, b: namespace(a).where(condition, a, b), new, old)


def copies(leaves: Params) -> Params:
    """Return the dict with a copy of each leaf, on one vector if `leaves` is.

    For states that keep params or a gradient: whoever owns these may write into them later.
    """
    vector = vector_of(leaves)
    if vector is not None:
        return from_vector(leaves.layout, _copy(vector))
    return tree.map(_copy, leaves)


def _copy(leaf: Array) -> Array:
    return leaf.copy() if isinstance(leaf, NUMPY) else leaf.clone()


def in_order_of(params: Params, leaves: Params) -> Params:
    """Return leaves in the order of params: a backward may collect the last layer first.

    For whoever joins leaves to a vector, or cuts one draw into leaves.
    """
    if list(leaves) == list(params):
        return leaves  # with its vector, where it has one
    tree.check_names(leaves, params)
    return {name: leaves[name] for name in params}


def dot(a: Params, b: Params) -> Array:
    """Return the inner product of two dicts of the same names."""
    return sum(tree.leaves(tree.map(lambda x, y: (x * y).sum(), a, b)))
