"""Adaptive gradient clipping: the gradient of a unit is at most a part of its weights.

Source: Brock et al. 2021, "High-performance large-scale image recognition without normalization",
arXiv 2102.06171.
"""

from purenets.core import tree
from purenets.core.arguments import POSITIVE, expect_hypers, expect_numbers
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer
from purenets.core.optim.internals.arithmetic import at_least
from purenets.core.optim.internals.hyper import Hyper, stateless_with_hyper
from purenets.core.optim.internals.precision import any_dtype, refusing


def adaptive_grad_clip(clipping: Hyper = 0.01, eps: float = 1e-3) -> Optimizer:
    """Return g with the rows of each leaf scaled so that |g| <= clipping max(|p|, eps).

    A row is what belongs to one unit: all but the first axis, or a leaf of less than two axes as a
    whole. The paper leaves the last layer out: `masked(adaptive_grad_clip(), not_named("fc3.*"))`.

    Args:
        clipping: the largest ratio of the norms.
        eps: the least norm that weights count with, so that zeros can be trained.
    """
    expect_hypers("adaptive_grad_clip", POSITIVE, clipping=clipping)
    expect_numbers("adaptive_grad_clip", POSITIVE, eps=eps)

    def clip(clipping, grads, params):
        def one(g, p):
            g_norm, p_norm = unit_norms(g), unit_norms(p)
            limit = clipping * at_least(p_norm, eps)
            too_long = g_norm > limit
            ratio = limit / namespace(g).where(too_long, g_norm, limit)
            return g * ratio

        return tree.map(one, grads, params)

    clipped = stateless_with_hyper(clipping, clip)
    return any_dtype(clipped, refusing("adaptive_grad_clip", clipped))


def unit_norms(a: Array) -> Array:
    """Return the norm of each row, (rows, 1, ...), or of the whole of a vector or scalar."""
    if a.ndim < 2:
        return sqrt((a * a).sum())
    return sqrt((a * a).sum(tuple(range(1, a.ndim)), keepdims=True))
