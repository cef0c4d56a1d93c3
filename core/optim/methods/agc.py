"""Adaptive gradient clipping: the gradient of a unit is at most a fraction of its weights.

Source: Brock et al. 2021, "High-performance large-scale image recognition without normalization",
arXiv 2102.06171.
"""

from purenets.core import tree
from purenets.core.arguments import POSITIVE, expect_hypers, expect_numbers
from purenets.core.arrays import namespace, sqrt
from purenets.core.base import Array, Optimizer
from purenets.core.optim.internals.arithmetic import at_least
from purenets.core.optim.internals.hyper import Hyper, stateless_with_hyper
from purenets.core.optim.internals.order import KEEPS, with_order
from purenets.core.optim.internals.precision import any_dtype, refusing


def adaptive_grad_clip(clipping: Hyper = 0.01, eps: float = 1e-3) -> Optimizer:
    """Return a transform that clips the gradient of each unit to a fraction of its weights.

        g = g * min(1, clipping * max(|p|, eps) / |g|)

    The norms are those of each row, all axes but the first: the weights of one unit. A leaf of less
    than two axes is one row. The paper leaves the last layer out:
    `masked(adaptive_grad_clip(), not_named("fc3.*"))`.

    Args:
        clipping: the largest ratio of the norms of gradient and weights.
        eps: the smallest norm that weights count with, so that zeros can be trained.

    Returns:
        A transform for `chain`; its state is empty, or has a "count" if clipping is a schedule.

    Raises:
        UserError: clipping or eps is not a finite number above 0; from `init`: a leaf is complex.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> clip = optim.adaptive_grad_clip(0.1)
        >>> params = {"w": np.array([[3.0, 4.0], [6.0, 8.0]])}  # rows of norm 5 and 10
        >>> grads = {"w": np.array([[2.0, 0.0], [0.6, 0.0]])}
        >>> updates, _ = clip.update(grads, clip.init(params), params)
        >>> updates["w"]
        array([[0.5, 0. ],
               [0.6, 0. ]])

    Source:
        Brock et al. 2021, arXiv 2102.06171.
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

    clipped = with_order(KEEPS, stateless_with_hyper(clip, clipping=clipping))
    return any_dtype(clipped, refusing("adaptive_grad_clip", clipped))


def unit_norms(a: Array) -> Array:
    """Return the norm of each row, (rows, 1, ...), or of the whole of a vector or scalar."""
    if a.ndim < 2:
        return sqrt((a * a).sum())
    return sqrt((a * a).sum(tuple(range(1, a.ndim)), keepdims=True))
