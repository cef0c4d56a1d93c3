"""Sharpness-aware minimization: the gradient at the worst point nearby (Foret et al. 2021)."""

from purenets.core import tree
from purenets.core.arguments import NOT_NEGATIVE, expect_flags, expect_functions, expect_numbers
from purenets.core.arrays import widened
from purenets.core.base import GradFn
from purenets.core.optim.internals.arithmetic import scaled
from purenets.core.optim.internals.elementwise import apply_updates


def sam(grad_fn: GradFn, rho: float = 0.05, adaptive: bool = False) -> GradFn:
    """Return `grad_fn` at p + rho g / |g|, where g is the gradient at p. Two passes a step.

    adaptive: the neighborhood scales with the params, p + rho p^2 g / |p g| (Kwon et al. 2021; rho
    about 1). Buffers and metrics are those of the first pass, at p itself. Both passes draw from
    the same key.
    """
    expect_functions("sam", grad_fn=grad_fn)
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
