"""Check a gradient against central differences along one random direction (as HIPS autograd)."""

from collections.abc import Callable

from purenets.core import random, tree
from purenets.core.base import Array, Params, UserError
from purenets.core.optim.internals.elementwise import apply_updates


def check_gradient(
    f: Callable[[Params], Array],
    params: Params,
    grads: Params,
    key,
    eps: float = 1e-5,
    tolerance=1e-7,
) -> float:
    """The relative error of `grads` as the gradient of the scalar `f` at `params` (float64).

    Along a direction d of norm 1, (f(p + eps d) - f(p - eps d)) / (2 eps) must be grads . d. A
    UserError if it errs by more than `tolerance` of the gradient's norm (or of 1, if that is
    larger).
    """
    tree.check_names(grads, params)
    direction = random_direction(params, key)
    ahead, behind = (
        f(apply_updates(params, tree.map(lambda d, s=sign: s * eps * d, direction)))
        for sign in (1, -1)
    )
    numeric = float(ahead - behind) / (2 * eps)
    exact = float(
        sum((g * d).sum() for g, d in zip(tree.leaves(grads), tree.leaves(direction), strict=True))
    )
    error = abs(numeric - exact) / max(1.0, float(tree.norm(grads)))
    if not error <= tolerance:
        raise UserError(
            f"gradient along a random direction: {exact}, by central differences {numeric}"
        )
    return error


def random_direction(params: Params, key) -> Params:
    """A dict like `params` of norm 1, in a random direction."""
    draws = {
        name: random.normal(random.fold_in(key, i), leaf.shape, "float64")
        for i, (name, leaf) in enumerate(tree.flatten(params).items())
    }
    norm = tree.norm(draws)
    return tree.unflatten({name: d / norm for name, d in draws.items()}, params)
