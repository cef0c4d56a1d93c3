"""Sharpness-aware minimization: the gradient at the worst point nearby (Foret et al. 2021)."""

from purenets.core import tree
from purenets.core.arguments import (
    GRAD_FN,
    NOT_NEGATIVE,
    expect_call,
    expect_flags,
    expect_numbers,
    whole_only_of,
)
from purenets.core.arrays import widened
from purenets.core.base import GradFn, Params, UserError
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
        UserError: `grad_fn` is not a function, or `rho` is negative or not a number. When called: a
            leaf of the params is in half precision, where rounding would lose the climb.

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
        _expect_fine(params)
        grads, aside = grad_fn(params, buffers, batch, key)
        grads = tree.map(widened, grads)
        scale = tree.map(abs, params) if adaptive else tree.map(lambda p: 1 + 0 * p, params)
        direction = tree.map(lambda g, s: g * s, grads, scale)
        length = tree.norm(direction) + 1e-12
        climb = scaled(tree.map(lambda d, s: d * s, direction, scale), rho / length)
        there, _ = grad_fn(apply_updates(params, climb), buffers, batch, key)
        return there, aside

    grad.whole_only = whole_only_of(grad_fn)
    return grad


def _expect_fine(params: Params) -> None:
    """Raise a UserError that names a leaf of half precision.

    The climb of an element is about rho / sqrt(n) for n of them, and half a unit in the last place
    of a bfloat16 0.002 of its value: p + climb would be p, and the gradient that of plain descent.
    """
    for name, leaf in params.items():
        if widened(leaf).dtype != leaf.dtype:
            raise UserError(
                f"sam: {name} is {str(leaf.dtype).removeprefix('torch.')}, in which rounding loses "
                "the climb; keep float32 params (torch_nets.precision.cast computes a net of such "
                "params in half precision)"
            )
