"""Wrappers for the precision and the memory format of a model, and the choice of the fastest by measurement."""

import fnmatch
import statistics
import time
from collections.abc import Callable

import torch

from purenets.core import random
from purenets.core.base import Batch, Model
from purenets.torch_nets.grad import grad_fn


def cast(model: Model, dtype: torch.dtype, keep: str = "*norm*") -> Model:
    """The model computed in `dtype`: params and inputs are cast on the way in, logits back to float32, so the
    params that are trained stay float32. Leaves whose names match `keep` are not cast."""

    def apply(params, buffers, x, *, train=False, key=None):
        params = {name: p if fnmatch.fnmatchcase(name, keep) else p.to(dtype) for name, p in params.items()}
        logits, buffers = model.apply(params, buffers, x.to(dtype), train=train, key=key)
        return logits.float(), buffers

    return model._replace(apply=apply, layers={})


def channels_last(model: Model) -> Model:
    """The model on images and weights whose channels lie next to each other in memory: the same numbers,
    faster convolutions on most hardware."""

    def apply(params, buffers, x, *, train=False, key=None):
        params = {
            name: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p
            for name, p in params.items()
        }
        x = x.contiguous(memory_format=torch.channels_last)
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply, layers={})


VARIANTS: dict[str, Callable[[Model], Model]] = {
    "float32": lambda model: model,
    "float32 channels_last": channels_last,
    "bfloat16": lambda model: cast(model, torch.bfloat16),
    "bfloat16 channels_last": lambda model: channels_last(cast(model, torch.bfloat16)),
}


def autotune(model: Model, batch: Batch, variants, repeats: int = 2) -> dict[str, float]:
    """The median seconds of a gradient of `batch` in each of `variants`, taken in turn after a warm-up.

    batch: inputs as the model takes them; 32 of its examples are enough to tell the ways apart. One way alone is
    not measured.
    """
    if len(variants) == 1:
        return {variants[0]: 0.0}
    x, y = (part[:32] for part in batch)
    device = x.device
    params, buffers = (
        {name: leaf.to(device) for name, leaf in part.items()} for part in model.init(random.key(0))
    )
    key = torch.as_tensor(random.key(0), device=device)
    grads = {variant: grad_fn(VARIANTS[variant](model)) for variant in variants}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(repeats + 1):
        for variant, grad in grads.items():
            begin = time.perf_counter()
            _, (_, metrics) = grad(params, buffers, (x, y), key)
            metrics["loss"].item()  # waits for the device
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[variant].append(time.perf_counter() - begin)
    return {variant: statistics.median(times[1:]) for variant, times in seconds.items()}


def variants_for(precision: str) -> list[str]:
    """The ways that a `--precision` leaves: auto any; float32 and bfloat16 one each, so that nothing is measured
    and two runs compute the same bits."""
    return {"float32": ["float32"], "bfloat16": ["bfloat16 channels_last"]}.get(precision, list(VARIANTS))
