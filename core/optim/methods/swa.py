"""Stochastic weight averaging: the mean of the params along a training (Izmailov et al. 2018)."""

from purenets.core import tree
from purenets.core.arguments import expect_integers
from purenets.core.base import Optimizer
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import count_to_dtype, zero_count


def swa(start: int = 0, every: int = 1) -> Optimizer:
    """Return the end of a chain that passes the updates and keeps, as "swa", the mean of the params
    after them (torch.optim.swa_utils.AveragedModel).

    Until the first params are averaged, "swa" are the params themselves. Evaluate with
    `with_averaged_params(state)`; `schedules.swa` is the learning rate that belongs to it, and
    `torch_nets.update_batchnorm` takes the running statistics anew.

    Args:
        start: updates before the first params that count.
        every: the params after each so many further updates count.

    Returns:
        A transform whose state has the entries "count", "n_averaged" and "swa".

    Raises:
        UserError: for a `start` below 0 or an `every` below 1.

    Source: arXiv 1803.05407.
    """
    expect_integers("swa", 0, start=start)
    expect_integers("swa", 1, every=every)

    def init(params):
        zero = zero_count(params)
        return {"count": zero, "n_averaged": zero, "swa": params.copy()}

    def update(updates, state, params):
        count = state["count"] + 1
        due = (count > start) & ((count - start - 1) % every == 0)
        n = state["n_averaged"] + 1 * due
        counts = 1 * (due | (n == 0))  # before the first, "swa" follows the params with weight 1
        weight = count_to_dtype(counts, params) / count_to_dtype(n + (n == 0), params)
        mean = tree.map(lambda a, p, u: a + weight * (p + u - a), state["swa"], params, updates)
        return updates, {"count": count, "n_averaged": n, "swa": mean}

    return elementwise(Optimizer(init, update))
