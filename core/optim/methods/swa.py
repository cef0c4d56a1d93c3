"""Stochastic weight averaging: the mean of the params along a training (Izmailov et al. 2018)."""

from purenets.core import tree
from purenets.core.arguments import expect_integers
from purenets.core.base import Optimizer
from purenets.core.optim.internals.arithmetic import copies
from purenets.core.optim.internals.elementwise import elementwise
from purenets.core.optim.internals.hyper import count_to_dtype, zero_count
from purenets.core.optim.internals.order import average_of_params, with_order


def swa(start: int = 0, every: int = 1) -> Optimizer:
    """Return a transform that keeps the mean of the params, for stochastic weight averaging.

    It is the last part of a chain, after `reduce_on_plateau` and outside of `lookahead`: it
    returns the updates unchanged and averages the params that result from them. Evaluate the mean
    by `with_averaged_params`. `schedules.swa` is the learning rate that belongs to it;
    `torch_nets.update_batchnorm` computes running statistics for it.

    Args:
        start: updates before the first params that are averaged.
        every: updates from one set of averaged params to the next.

    Returns:
        A transform for `chain`; its state has the entries "count", "n_averaged" and "swa". Until
        the first params are averaged, "swa" are the params in training.

    Raises:
        UserError: start is not a non-negative integer, or every is not a positive integer.

    Example:
        >>> import numpy as np
        >>> from purenets import optim
        >>> optimizer, params = optim.chain(optim.sgd(1.0), optim.swa(start=1)), {"w": np.zeros(1)}
        >>> state = optimizer.init(params)
        >>> for _ in range(3):
        ...     updates, state = optimizer.update({"w": -np.ones(1)}, state, params)
        ...     params = optim.apply_updates(params, updates)
        >>> params["w"], optim.get_state(state, "swa")["w"]  # the mean of 2 and 3
        (array([3.]), array([2.5]))

    Source:
        torch.optim.swa_utils.AveragedModel; Izmailov et al. 2018, arXiv 1803.05407.
    """
    expect_integers("swa", 0, start=start)
    expect_integers("swa", 1, every=every)

    def init(params):
        zero = zero_count(params)
        return {"count": zero, "n_averaged": zero, "swa": copies(params)}

    def update(updates, state, params):
        count = state["count"] + 1
        due = (count > start) & ((count - start - 1) % every == 0)
        n = state["n_averaged"] + 1 * due
        counts = 1 * (due | (n == 0))  # before the first, "swa" follows the params with weight 1
        weight = count_to_dtype(counts, params) / count_to_dtype(n + (n == 0), params)
        mean = tree.map(lambda a, p, u: a + weight * (p + u - a), state["swa"], params, updates)
        return updates, {"count": count, "n_averaged": n, "swa": mean}

    return elementwise(with_order(average_of_params("swa"), Optimizer(init, update)))
