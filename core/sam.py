"""Sharpness-aware minimization: the gradient at the worst point nearby (Foret et al. 2021)."""

from purenets.core import tree
from purenets.core.arguments import GRAD_FN, NOT_NEGATIVE, expect_call, expect_flags, expect_numbers
from purenets.core.arrays import widened
from purenets.core.base import GradFn
from purenets.core.optim.internals.arithmetic import scaled
from purenets.core.optim.internals.elementwise import apply_updates


def sam(grad_fn: GradFn, rho: float = 0.05, adaptive: bool = False) -> GradFn:
    """Return the gradient function at the worst point nearby: sharpness-aware minimization.

    The gradient is that at p + rho g / |g|, where g is the gradient at p; a step takes two passes.
    Both draw from the same key. Buffers and metrics are those of the first pass, at p itself.

    Args:
        grad_fn: as `grad_fn(model)` returns it.
        rho: the distance, in units of the params.
        adaptive: scale the neighborhood with the params, p + rho p^2 g / |p g|; rho is about 1
            then.

    Returns:
        A gradient function with the same arguments and results.

    Raises:
        UserError: `grad_fn` is not a function, or `rho` is negative or not a number.

    Example:
        >>> import numpy as np
        >>> from purenets.core.sam import sam
        >>> def grad_fn(params, buffers, batch, key):  # of the loss w^2
        ...     return {"w": 2 * params["w"]}, (buffers, {"loss": (params["w"] ** 2).sum()})
        >>> params = {"w": np.array([1.0])}
        >>> grads, (buffers, metrics) = sam(grad_fn, rho=0.5)(params, {}, None, None)
        >>> grads["w"], float(metrics["loss"])  # the slope at 1.5, the loss at 1
        (array([3.]), 1.0)

    Source:
        Foret et al. 2021, arXiv 2010.01412; adaptive: Kwon et al. 2021, arXiv 2102.11600.
    """
    expect_call("sam", GRAD_FN, grad_fn=grad_fn)
    expect_numbers("sam", NOT_NEGATIVE, rho=rho)
    expect_flags("sam", adaptive=adaptive)

    def grad(params, buffers, batch, key):
        grads, aside = grad_fn(params, buffers, batch, key)
        grads, wide = tree.map(widened, grads), tree.map(widened, params)
        scale = tree.map(abs, wide) if adaptive else tree.map(lambda p: 1 + 0 * p, wide)
        direction = tree.map(lambda g, s: g * s, grads, scale)
        length = tree.norm(direction) + 1e-12
        climb = scaled(tree.map(lambda d, s: d * s, direction, scale), rho / length)
        there, _ = grad_fn(apply_updates(params, climb), buffers, batch, key)
        return there, aside

    return grad
