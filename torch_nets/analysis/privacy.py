"""Differentially private training: clipped per-example gradients, noise, and its budget.

    noise = noise_for(epsilon=3.0, delta=1e-5, sample_rate=0.01, steps=1000)
    step  = make_step(dp_grad_fn(model, 1.0, noise, batch_size=0.01 * n), optim.sgd(0.1))
    batches = poisson_batches(train, 0.01, key)

Clipping and noise are those of `ghost` and `noise`: little more than a plain gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from purenets.core import random, tree
from purenets.core.arguments import (
    ANY,
    POSITIVE,
    expect_choice,
    expect_functions,
    expect_integers,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, GradFn, Metrics, Model, Params, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.core.optim.internals.hyper import first_leaf, is_zero
from purenets.torch_nets.analysis.accounting import rdp_epsilon, smallest_noise
from purenets.torch_nets.analysis.ghost import clipped_sum
from purenets.torch_nets.analysis.noise import add_noise
from purenets.torch_nets.grad import compute_metrics, expect_tensors, metrics_or_default
from purenets.torch_nets.keys import key_like
from purenets.torch_nets.losses import cross_entropy

LEAST_NOISE = 1e-100  # the square of less is below the smallest float


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
    """Return the gradient of DP-SGD, for `make_step` with any optimizer.

    Each example's gradient is clipped to the norm `clip`. They are summed, noise of standard
    deviation noise_multiplier * clip is added to every element, and the sum is divided by
    `batch_size`. Buffers stay as they are and the model runs in evaluation mode, since both would
    leak. The metrics are not private.

    Leaves whose operations are known (`ghost_rules`: products, convolutions, embeddings,
    normalizations) are clipped without a gradient for each example, all others with one. Under a
    transform of torch.func and torch.compile all take the second way. The numbers are the same
    within rounding.

    Args:
        model: the network.
        clip: the largest norm of an example's gradient, over all leaves.
        noise_multiplier: standard deviation of the noise in units of `clip`; see `noise_for`.
        loss: `loss(logits, targets) -> scalar`, a mean over the examples, called with batches of
            one.
        metrics: as in `grad_fn`. For an empty batch all are 0.
        batch_size: what the sum is divided by: for Poisson samples the expected size of a batch.
            None means the size of each batch.
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        A gradient function, `f(params, buffers, batch, key) -> (grads, (buffers, metrics))`.

    Raises:
        UserError: an argument is out of range. When called: an empty batch without `batch_size`,
            noise without a key, or a loss that is not a mean over the examples (see
            `per_example_grads`).

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.privacy import dp_grad_fn
        >>> grad = dp_grad_fn(layers.Linear(1, 1, bias=False), 4.0, 0.0, losses.mse)
        >>> batch = torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)  # the gradients are 2 and 8
        >>> grad({"weight": torch.tensor([[1.0]])}, {}, batch, None)[0]
        {'weight': tensor([[3.]])}

    Source:
        Abadi et al. 2016, arXiv 1607.00133.
    """
    _check(clip, noise_multiplier, batch_size)
    expect_functions("dp", loss=loss)
    metrics = metrics_or_default(metrics, loss)
    clipped = clipped_sum(model, clip, loss, chunk_size=chunk_size)

    def grad(params: Params, buffers: Buffers, batch: Batch, key: Tensor):
        expect_tensors(params, batch)
        x, y = batch
        n = y.shape[0]
        if not n and batch_size is None:
            raise UserError("dp: an empty batch; give batch_size, the expected one (rate * n)")
        scale = 1 / (batch_size or n)
        if n:
            total, (losses, logits) = clipped(params, buffers, batch, scale=scale)
            value = losses.mean()
        else:  # a Poisson sample may be empty
            total, logits = tree.zeros_like(tree.map(widened, params)), None
            value = widened(first_leaf(params)).new_zeros(())
        if not is_zero(noise_multiplier):
            if key is None:
                raise UserError("dp: noise needs a key")
            key = key_like(key, params)
            total = add_noise(total, key, noise_multiplier * clip * scale, reuse=True)
        with torch.no_grad():
            logits = model.apply(params, buffers, x)[0] if logits is None else logits
            measure = compute_metrics if n else _zeros
            return total, (buffers, measure(value, logits, y, metrics))

    # the parts of a batch would each be divided by all of batch_size, or get noise of their own
    has = {"noise": not is_zero(noise_multiplier), "batch_size": batch_size is not None}
    own = [name for name in has if has[name]]
    grad.whole_only = lambda targets: tuple(f"a private gradient with {name}" for name in own)
    return grad


def _check(clip: float, noise_multiplier: float, batch_size: float | None) -> None:
    """Raise a UserError that names the argument of `dp_grad_fn` that is wrong."""
    expect_numbers("dp", ANY, clip=clip, noise_multiplier=noise_multiplier)
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


def _zeros(loss: Tensor, logits: Tensor, targets: Tensor, metrics: dict[str, Callable]) -> Metrics:
    """Return 0 for each metric that a batch of one would have: all steps have the same."""
    one = (part.new_zeros((1, *part.shape[1:])) for part in (logits, targets))
    return tree.map(torch.zeros_like, compute_metrics(loss, *one, metrics))


def poisson_batches(data: Batch, rate: float, key: Tensor) -> Callable[[int], Batch]:
    """Return the function from a step to a Poisson sample, as the privacy accountants assume.

    Each example is in a batch with probability `rate`, independently. So batches differ in size and
    may be empty; give `dp_grad_fn` the expected size, rate * n.

    Args:
        data: inputs and targets, arrays (n, ...).
        rate: the probability, above 0 to 1.
        key: the source of the draws.

    Returns:
        `batches(step)`, with steps counted from 0.

    Raises:
        UserError: `rate` is out of range, or `data` or `key` is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.privacy import poisson_batches
        >>> key = torch.as_tensor(random.key(0))
        >>> batches = poisson_batches((torch.zeros(1000, 2), torch.arange(1000)), 0.1, key)
        >>> sizes = [len(batches(step)[1]) for step in range(100)]
        >>> min(sizes) < 100 < max(sizes), 95 < sum(sizes) / 100 < 105
        (True, True)
    """
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
    """Return the epsilon of (epsilon, delta)-differential privacy that a training has spent.

    Args:
        steps: how many steps of Poisson samples.
        sample_rate: the probability that an example is in a batch (`poisson_batches`).
        noise_multiplier: that of `dp_grad_fn`.
        delta: the probability with which the guarantee may fail, below 1 / (number of examples).
        accountant: "rdp" (Renyi, `accounting`), or "gdp" or "prv" of Opacus.

    Returns:
        epsilon, a float; smaller is more private.

    Raises:
        UserError: an argument is out of range, or Opacus (the extra `dp`) is needed and not
            installed.

    Example:
        >>> from purenets.torch_nets.analysis.privacy import epsilon
        >>> round(epsilon(steps=1000, sample_rate=0.01, noise_multiplier=1.0, delta=1e-5), 2)
        2.1

    Source:
        Mironov et al. 2019, arXiv 1908.10530; opacus.accountants.
    """
    expect_integers("epsilon", 0, steps=steps)
    numbers = {"sample_rate": sample_rate, "noise_multiplier": noise_multiplier, "delta": delta}
    expect_numbers("epsilon", ANY, **numbers)
    if (
        steps < 0
        or not 0 < sample_rate <= 1
        or not noise_multiplier > LEAST_NOISE
        or not 0 < delta < 1
    ):
        raise UserError(
            f"epsilon: steps {steps} must not be negative, sample_rate {sample_rate} in (0, 1], "
            f"noise_multiplier {noise_multiplier} above {LEAST_NOISE}, delta {delta} in (0, 1)"
        )
    expect_choice("epsilon", ("rdp", "gdp", "prv"), accountant=accountant)
    if accountant == "rdp":
        return rdp_epsilon(steps, sample_rate, noise_multiplier, delta)
    try:
        from opacus.accountants import create_accountant
    except ImportError as error:
        advice = 'pip install -e ".[dp]" in the folder of purenets'
        raise UserError(f"epsilon: needs opacus: {advice}") from error
    ledger = create_accountant(accountant)
    ledger.history.append((noise_multiplier, sample_rate, steps))
    return float(ledger.get_epsilon(delta=delta))


def noise_for(
    epsilon: float, delta: float, sample_rate: float, steps: int, accountant: str = "rdp"
) -> float:
    """Return the smallest noise_multiplier that keeps a training (epsilon, delta)-private.

    Args:
        epsilon: the budget of all steps together.
        delta, sample_rate, steps, accountant: as in `epsilon`.

    Returns:
        The noise_multiplier for `dp_grad_fn`, to 4 digits.

    Raises:
        UserError: an argument is out of range, or no noise is enough.

    Example:
        >>> from purenets.torch_nets.analysis.privacy import noise_for
        >>> noise = noise_for(epsilon=3.0, delta=1e-5, sample_rate=0.01, steps=1000)
        >>> round(noise, 2)
        0.86
    """
    expect_numbers("noise_for", POSITIVE, epsilon=epsilon)
    expect_integers("noise_for", 1, steps=steps)
    spent = lambda noise: epsilon_of(steps, sample_rate, noise, delta, accountant)
    return smallest_noise(spent, epsilon)


epsilon_of = epsilon  # `noise_for` has an argument of that name
