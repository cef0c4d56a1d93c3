"""Differentially private training: clipped per-example gradients, noise, and its budget."""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import random, tree
from purenets.core.base import Batch, Buffers, GradFn, Model, Params, UserError
from purenets.core.metrics import accuracy
from purenets.core.optim.hyper import is_zero
from purenets.torch_nets.analysis.per_example import per_example_grads
from purenets.torch_nets.losses import cross_entropy


def dp_grad_fn(
    model: Model,
    clip: float,
    noise_multiplier: float,
    loss: Callable = cross_entropy,
    *,
    batch_size: float | None = None,
    chunk_size: int | None = None,
) -> GradFn:
    """DP-SGD's gradient (Abadi et al. 2016): each example's clipped to the norm `clip`, summed, noise of
    deviation noise_multiplier * clip added to every element, divided by `batch_size` (the expected one; the
    batch's own if None). For `make_step`, with any optimizer.

    Buffers stay as they are and the model runs in evaluation mode, since both would leak. The loss in the
    metrics is not private.
    """
    if not clip > 0 or noise_multiplier < 0:
        raise UserError(f"dp: clip {clip} must be positive, noise_multiplier {noise_multiplier} not negative")
    if clip == float("inf") and noise_multiplier:
        raise UserError("dp: noise of an infinite clip has no deviation; give a finite clip")

    def clipped(grads):
        factor = torch.clamp(clip / tree.norm(grads), max=1.0)
        return tree.map(lambda g: torch.where(factor < 1, g * factor, g), grads)

    per_example = per_example_grads(model, loss, chunk_size=chunk_size, reduce=clipped)

    def grad(params: Params, buffers: Buffers, batch: Batch, key: Tensor):
        x, y = batch
        n = y.shape[0]
        if n:
            grads, losses = per_example(params, buffers, batch)
            total = tree.map(lambda g: g.sum(0), grads)
        else:  # a Poisson sample may be empty
            losses, total = y.new_zeros(0, dtype=torch.float32), tree.zeros_like(params)
        if not is_zero(noise_multiplier):
            total = add_noise(total, key, noise_multiplier * clip)
        with torch.no_grad():
            hits = accuracy(model.apply(params, buffers, x)[0], y) if n else losses.sum()
        metrics = {"loss": losses.sum() / max(n, 1), "accuracy": hits}
        return tree.map(lambda g: g / (batch_size or n), total), (buffers, metrics)

    return grad


def add_noise(grads: Params, key: Tensor, deviation: float) -> Params:
    """Normal noise on every element, another draw for each leaf; a pure function of the key."""
    return {
        name: g + deviation * random.normal(random.fold_in(key, i), g.shape, str(g.dtype).split(".")[-1])
        for i, (name, g) in enumerate(grads.items())
    }


def poisson_batches(data: Batch, rate: float, key: Tensor) -> Callable[[int], Batch]:
    """`batches(step)`: each example is in a batch with probability `rate`, as the accountants suppose.
    Batches differ in size and may be empty; tell `dp_grad_fn` the expected size, rate * n."""
    x, y = data

    def batch(step: int) -> Batch:
        chosen = random.bernoulli(random.fold_in(key, step), rate, (y.shape[0],))
        return x[chosen], y[chosen]

    return batch


def epsilon(
    steps: int, sample_rate: float, noise_multiplier: float, delta: float, accountant: str = "rdp"
) -> float:
    """The epsilon of (epsilon, delta)-differential privacy after `steps` Poisson-sampled steps, by Opacus's
    accountant "rdp", "gdp" or "prv"; a UserError where Opacus (the extra `dp`) is not installed."""
    try:
        from opacus.accountants import create_accountant
    except ImportError as error:
        raise UserError("epsilon: needs opacus; pip install 'purenets[dp]'") from error
    ledger = create_accountant(accountant)
    ledger.history.append((noise_multiplier, sample_rate, steps))
    return float(ledger.get_epsilon(delta=delta))
