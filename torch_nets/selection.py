"""Training on the hardest images of each batch, as a small net finds them.

The small net is trained first, on the same batches, and finds the images with the largest loss.
The large net then sees only these, at half the cost of its forward and backward passes or less.
This follows K. Jordan's airbench96_faster (github.com/KellerJordan/cifar10-airbench).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import tqdm

from purenets.core import random
from purenets.core.arguments import (
    expect_arrays,
    expect_functions,
    expect_integers,
    expect_models,
    expect_states,
)
from purenets.core.base import Batch, Model, Step, TrainState, UserError

Batches = Callable[[int], Batch]
TRAINED = 4  # the small net takes a step at each 4th batch; it looks at all


def hardest_rows(
    model: Model, step: Step, state: TrainState, batches: Batches, steps: int, keep: int
) -> Tensor:
    """Return the rows of each batch that a model finds hardest while it is trained.

    Args:
        model: the small net.
        step: its training step.
        state: its state at the start.
        batches: the function from a step of the large net to its batch; targets are class numbers.
        steps: steps of the large net. The small one takes `proxy_steps(steps)`.
        keep: how many rows of a batch.

    Returns:
        (steps, keep) int64 on the CPU, in ascending order within a batch.

    Raises:
        UserError: an argument is wrong, or `keep` exceeds a batch.

    Example:
        >>> import torch
        >>> from purenets import init_state, make_step, optim, random
        >>> from purenets.torch_nets import MLP, grad_fn
        >>> from purenets.torch_nets.selection import hardest_rows, selected
        >>> model, optimizer = MLP(2, [8], 2), optim.sgd(0.1)
        >>> step = make_step(grad_fn(model), optimizer)
        >>> state = init_state(model, optimizer, random.key(0))
        >>> batches = lambda step: (torch.eye(2).repeat(4, 1), torch.arange(8) // 4)
        >>> rows = hardest_rows(model, step, state, batches, steps=3, keep=2)
        >>> rows.shape, selected(batches, rows)(0)[1].shape
        (torch.Size([3, 2]), torch.Size([2]))

    Source:
        airbench96_faster of github.com/KellerJordan/cifar10-airbench.
    """
    expect_models("hardest_rows", model=model)
    expect_states("hardest_rows", state=state)
    expect_functions("hardest_rows", step=step, batches=batches)
    expect_integers("hardest_rows", 1, steps=steps, keep=keep)
    kept = []
    for i in tqdm(range(steps), "hardest images", unit="batch", disable=None):
        x, y = batches(i)
        if keep > len(y):
            raise UserError(f"hardest_rows: keep is {keep}, a batch has {len(y)} examples")
        rows = losses(model, state, (x, y)).topk(keep).indices.sort().values
        if i % TRAINED == 0:
            state, _ = step(state, (x[rows], y[rows]))
        kept.append(rows)
    return torch.stack(kept).cpu()


def proxy_steps(steps: int) -> int:
    """Return how many steps the small net takes for a number of steps of the large one.

    Args:
        steps: steps of the large net.

    Returns:
        A fourth of them, rounded up.

    Raises:
        UserError: `steps` is negative or not an integer.

    Example:
        >>> from purenets.torch_nets.selection import proxy_steps
        >>> proxy_steps(9)
        3
    """
    expect_integers("proxy_steps", 0, steps=steps)
    return -(-steps // TRAINED)


@torch.no_grad()
def losses(model: Model, state: TrainState, batch: Batch) -> Tensor:
    """Return the cross-entropy of each image in training mode, by the statistics of the batch.

    Args:
        model: the network.
        state: its training state.
        batch: images (batch, C, H, W) and class numbers (batch,).

    Returns:
        A tensor (batch,).

    Example:
        >>> import torch
        >>> from purenets import init_state, optim, random
        >>> from purenets.torch_nets import MLP
        >>> from purenets.torch_nets.selection import losses
        >>> model = MLP(2, [8], 2)
        >>> state = init_state(model, optim.sgd(0.1), random.key(0))
        >>> losses(model, state, (torch.eye(2), torch.tensor([0, 1]))).shape
        torch.Size([2])
    """
    x, y = batch
    key = random.fold_in(state.key, state.step)
    logits, _ = model.apply(state.params, state.buffers, x, train=True, key=key)
    return torch.nn.functional.cross_entropy(logits, y, reduction="none")


def selected(batches: Batches, rows: Tensor) -> Batches:
    """Return `batches` of chosen rows only.

    Args:
        batches: the function from a step to its batch.
        rows: (steps, keep), as `hardest_rows` returns it.

    Returns:
        `batches(step)`, with `keep` examples each.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.selection import selected
        >>> batches = selected(lambda step: (torch.eye(3), torch.arange(3)), torch.tensor([[0, 2]]))
        >>> batches(0)[1]
        tensor([0, 2])
    """
    expect_functions("selected", batches=batches)
    expect_arrays("selected", rows=rows)

    def batch_at(step: int) -> Batch:
        x, y = batches(step)
        mine = rows[step].to(y.device)
        return x[mine], y[mine]

    return batch_at
