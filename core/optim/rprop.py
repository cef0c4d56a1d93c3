"""Resilient backpropagation (Riedmiller and Braun 1993), as in torch.optim.Rprop."""

from purenets.core import tree
from purenets.core.arrays import namespace
from purenets.core.base import Optimizer, UserError
from purenets.core.optim.arithmetic import sign
from purenets.core.optim.checks import check_hyper
from purenets.core.optim.elementwise import elementwise
from purenets.core.optim.hyper import Hyper, resolve_hyper, zero_count


def rprop(
    lr: Hyper = 1e-2,
    etas: tuple[float, float] = (0.5, 1.2),
    step_sizes: tuple[float, float] = (1e-6, 50.0),
) -> Optimizer:
    """Return Rprop: steps along the signs of the gradient, each element with a size of its own.

    A step grows while the gradient keeps its sign and shrinks where that changes. For gradients of
    the whole data set, not of mini-batches.

    Args:
        lr: the first step size; of a schedule only the first value counts, as in torch.
        etas: the factors by which a step shrinks and grows.
        step_sizes: the smallest and the largest step.
    """
    (shrink, grow), (least, most) = etas, step_sizes
    if not 0 < shrink < 1 < grow:
        raise UserError(f"rprop: etas are {etas}, need one between 0 and 1 and one over 1")
    check_hyper("rprop: step_sizes", least, least=0)

    def init(params):
        first = resolve_hyper(lr, {"count": zero_count(params)}, params)
        sizes = tree.map(lambda p: namespace(p).zeros_like(p) + first, params)
        return {"prev": tree.zeros_like(params), "step_size": sizes}

    def update(grads, state, params):
        def leaf(g, before, size):
            xp, agreement = namespace(g), g * before
            one = xp.ones_like(g)
            grown = xp.where(agreement > 0, grow * one, one)
            factor = xp.where(agreement < 0, shrink * one, grown)
            size = xp.clip(size * factor, least, most)
            g = xp.where(agreement < 0, namespace(g).zeros_like(g), g)
            return -sign(g) * size, g, size

        parts = tree.map_to_several(leaf, 3, grads, state["prev"], state["step_size"])
        return parts[0], {"prev": parts[1], "step_size": parts[2]}

    return elementwise(Optimizer(init, update))
