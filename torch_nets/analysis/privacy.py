"""Differentially private training: clipped per-example gradients, noise, and its budget."""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import random, tree
from purenets.core.arguments import (
    ANY,
    expect_functions,
    expect_integers,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, GradFn, Metrics, Model, Params, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.core.optim.internals.hyper import first_leaf, is_zero
from purenets.torch_nets.analysis.per_example import per_example_grads
from purenets.torch_nets.grad import compute_metrics, expect_tensors, metrics_or_default
from purenets.torch_nets.losses import cross_entropy


def dp_grad_fn(
    model: Model,
    clip: float,
    noise_multiplier: float,
    loss: Callable = cross_entropy,
    *,
    metrics: dict[str, Callable] | None = None,
    batch_size: float | None = None,
    chunk_size: int | None = None,
) -> GradFn:
    """Return DP-SGD's gradient (Abadi et al. 2016), for `make_step` with any optimizer.

    Each example's gradient is clipped to the norm `clip`; they are summed, noise of deviation
    noise_multiplier * clip is added to every element, and the sum is divided by `batch_size`.
    Buffers stay as they are and the model runs in evaluation mode, since both would leak. The
    metrics are not private.

    Args:
        clip: the largest norm of an example's gradient, over all leaves.
        noise_multiplier: deviation of the noise in units of `clip`.
        loss: `loss(logits, targets) -> a scalar`, of a batch of one.
        metrics: as those of `grad_fn`. An empty batch has the loss 0 and metrics of 0.
        batch_size: what the sum is divided by: the expected size of a batch, for Poisson samples;
            None for the size of each batch.
        chunk_size: examples at a time, None for all.

    Raises:
        UserError: for an empty batch without a `batch_size`, and for noise without a key.
    """
    expect_numbers("dp", ANY, clip=clip, noise_multiplier=noise_multiplier)
    expect_models("dp", ("apply",), model=model)
    expect_functions("dp", loss=loss)
    if batch_size is not None:
        expect_numbers("dp", ANY, batch_size=batch_size)
    if not clip > 0 or not noise_multiplier >= 0:
        raise UserError(
            f"dp: clip {clip} must be positive, noise_multiplier {noise_multiplier} not negative"
        )
    if clip == float("inf") and noise_multiplier:
        raise UserError("dp: noise of an infinite clip has no deviation; give a finite clip")
    if noise_multiplier == float("inf"):
        raise UserError("dp: noise_multiplier is infinite, needs a number")
    if batch_size is not None and not 0 < batch_size < float("inf"):
        raise UserError(f"dp: batch_size {batch_size} must be positive, or None")
    metrics = metrics_or_default(metrics, loss)

    def clipped(grads):
        grads = tree.map(widened, grads)  # a rounded gradient may be longer than `clip`
        factor = torch.clamp(clip / tree.norm(grads), max=1.0)
        return tree.map(lambda g: torch.where(factor < 1, g * factor, g), grads)

    per_example = per_example_grads(model, loss, chunk_size=chunk_size, reduce=clipped)

    def grad(params: Params, buffers: Buffers, batch: Batch, key: Tensor):
        expect_tensors(params, batch)
        x, y = batch
        n = y.shape[0]
        if not n and batch_size is None:
            raise UserError("dp: an empty batch; give batch_size, the expected one (rate * n)")
        if n:
            grads, losses = per_example(params, buffers, batch)
            total, value = tree.map(lambda g: g.sum(0), grads), losses.mean()
        else:  # a Poisson sample may be empty
            total = tree.zeros_like(tree.map(widened, params))
            value = widened(first_leaf(params)).new_zeros(())
        if not is_zero(noise_multiplier):
            if key is None:
                raise UserError("dp: noise needs a key")
            total = add_noise(total, key, noise_multiplier * clip)
        with torch.no_grad():
            logits, _ = model.apply(params, buffers, x)
            found = (
                compute_metrics(value, logits, y, metrics)
                if n
                else _zeros(value, logits, y, metrics)
            )
        return tree.map(lambda g: g / (batch_size or n), total), (buffers, found)

    return grad


def _zeros(loss: Tensor, logits: Tensor, targets: Tensor, metrics: dict[str, Callable]) -> Metrics:
    """Return 0 for each metric that a batch of one would have: all steps have the same."""
    one = (part.new_zeros((1, *part.shape[1:])) for part in (logits, targets))
    return tree.map(torch.zeros_like, compute_metrics(loss, *one, metrics))


def add_noise(grads: Params, key: Tensor, deviation: float) -> Params:
    """Normal noise on every element, another draw for each leaf; a pure function of the key."""
    return {
        name: g
        + deviation * random.normal(random.fold_in(key, i), g.shape, str(g.dtype).split(".")[-1])
        for i, (name, g) in enumerate(grads.items())
    }


def poisson_batches(data: Batch, rate: float, key: Tensor) -> Callable[[int], Batch]:
    """`batches(step)`: each example is in a batch with probability `rate`, as the accountants
    suppose. Batches differ in size and may be empty; tell `dp_grad_fn` the expected size, rate *
    n."""
    expect_numbers("poisson_batches", ANY, rate=rate)
    if not 0 < rate <= 1:
        raise UserError(f"poisson_batches: rate {rate} is not a probability over 0")
    n = count_examples(data, "poisson_batches")
    random.check_key(key)

    def batch(step: int) -> Batch:
        chosen = random.bernoulli(random.fold_in(key, step), rate, (n,))
        return tuple(map_arrays(lambda a: a[chosen], part) for part in data)

    return batch


def epsilon(
    steps: int, sample_rate: float, noise_multiplier: float, delta: float, accountant: str = "rdp"
) -> float:
    """The epsilon of (epsilon, delta)-differential privacy after `steps` Poisson-sampled steps, by
    Opacus's accountant "rdp", "gdp" or "prv"; a UserError where Opacus (the extra `dp`) is not
    installed."""
    expect_integers("epsilon", 0, steps=steps)
    numbers = {"sample_rate": sample_rate, "noise_multiplier": noise_multiplier, "delta": delta}
    expect_numbers("epsilon", ANY, **numbers)
    if steps < 0 or not 0 < sample_rate <= 1 or not noise_multiplier > 0 or not 0 < delta < 1:
        raise UserError(
            f"epsilon: steps {steps} must not be negative, sample_rate {sample_rate} in (0, 1], "
            f"noise_multiplier {noise_multiplier} positive, delta {delta} in (0, 1)"
        )
    try:
        from opacus.accountants import create_accountant
    except ImportError as error:
        raise UserError("epsilon: needs opacus; pip install 'purenets[dp]'") from error
    ledger = create_accountant(accountant)
    ledger.history.append((noise_multiplier, sample_rate, steps))
    return float(ledger.get_epsilon(delta=delta))
