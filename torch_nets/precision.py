"""Wrappers for the precision and memory format of a model, and a choice by measurement."""

import re
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import expect_models, expect_texts
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.optim.internals.patterns import expect_matches, matches
from purenets.core.serial import own_or_drawn_leaves
from purenets.torch_nets.from_module import is_norm_kind, map_tensors
from purenets.torch_nets.grad import grad_fn

MIXED = "but the params are|dtype|scalar type|should be the same"  # in what torch and we complain


def cast(model: Model, dtype: torch.dtype, keep: str | None = None) -> Model:
    """Return a model computed in half precision; the params that are trained keep their dtype.

    Floating-point params, buffers and inputs are cast on the way in, outputs to float32 on the way
    out. Integers (token ids), masks and complex numbers stay as they are. So do the params and
    statistics of normalizations: layers whose `kind` ends with "Norm", modules of such a class in
    `from_module`, and in any net the leaves beside a "running_mean".

    What a model writes into a buffer that is cast is rounded to `dtype`: a count of floating point
    stands still at 256 in bfloat16 (2,048 in float16), and a mean soon. Name such buffers in
    `keep`, or let counts be integers. Params may be named there if their layer takes inputs in
    `dtype`, as a norm does. `Linear` and `Conv` do not: to leave a head in float32, cast the rest,
    `serial(body=cast(body, torch.bfloat16), head=head)`.

    Args:
        model: the network.
        dtype: torch.bfloat16 or torch.float16.
        keep: a pattern of further params and buffers that are not cast, such as "*.count".

    Returns:
        A model with the same params.

    Raises:
        UserError: `model` is not a model, `dtype` is not a floating-point dtype of torch, or `keep`
            is not a text. When applied: `keep` matches no leaf, or a param whose layer takes no
            inputs in `dtype`.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.precision import cast
        >>> model = cast(layers.Linear(1, 1, bias=False), torch.bfloat16)
        >>> y, _ = model.apply({"weight": torch.tensor([[1.001]])}, {}, torch.ones(1, 1))
        >>> y, y.dtype  # bfloat16 has 8 bits of precision
        (tensor([[1.]]), torch.float32)

    Source:
        Micikevicius et al. 2018, arXiv 1710.03740.
    """
    expect_models("cast", model=model)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise UserError(
            f"cast: dtype is {dtype!r}, needs a floating-point dtype, such as torch.bfloat16"
        )
    if keep is not None:
        expect_texts("cast", keep=keep)

    def narrow(leaf):
        return leaf.to(dtype) if leaf.is_floating_point() else leaf

    def single(leaf):  # norms mix half precision with float32, not with float64
        return leaf.float() if leaf.dtype == torch.float64 else leaf

    def apply(params, buffers, x, *, train=False, key=None):
        norms, kept = _norm_leaves(model, params, buffers), _kept(keep, params, buffers)
        inside = [
            {
                name: leaf if name in kept else single(leaf) if name in norms else narrow(leaf)
                for name, leaf in part.items()
            }
            for part in (params, buffers)
        ]
        try:
            y, new = model.apply(*inside, map_tensors(narrow, x), train=train, key=key)
        except (UserError, RuntimeError) as error:
            if kept & params.keys() and re.search(MIXED, str(error)):
                raise UserError(
                    f"cast: keep={keep!r}: a layer takes no inputs in {dtype} for the params that "
                    "are kept; cast the other layers alone, serial(body=cast(...), head=...)"
                ) from error
            raise
        new = {
            name: _cast_back(leaf, inside[1].get(name), buffers.get(name))
            for name, leaf in new.items()
        }
        return map_tensors(lambda t: t.float() if t.is_floating_point() else t, y), new

    return model._replace(apply=apply, layers={})


def _kept(keep: str | None, params: Params, buffers: Buffers) -> set[str]:
    """Return the names of the leaves that match `keep`; raise a UserError if there are none."""
    if keep is None:
        return set()
    names = (*params, *buffers)
    expect_matches("cast: keep", (keep,), names)
    return {name for name in names if matches(name, (keep,))}


def _norm_leaves(model: Model, params: Params, buffers: Buffers) -> set[str]:
    """Return the names of the leaves of normalizations, which compute in float32."""
    prefixes = {
        name.removesuffix("running_mean") for name in buffers if name.endswith("running_mean")
    }
    prefixes |= set(_norm_prefixes(model))
    own = {name for name in (*params, *buffers) if _prefix(name) in prefixes}
    return own | set(_declared(model))


def _prefix(name: str) -> str:
    """Return the name of the layer that holds a leaf, with its dot: "norm1." of "norm1.weight"."""
    return name[: name.rfind(".") + 1]


def _norm_prefixes(model: Model, prefix: str = "") -> Iterator[str]:
    """Yield the prefix of each normalization among the layers of a model."""
    if is_norm_kind(model.kind):
        yield prefix
    for name, layer in model.layers.items():
        yield from _norm_prefixes(layer, f"{prefix}{name}.")


def _declared(model: Model, prefix: str = "") -> Iterator[str]:
    """Yield the leaves that `from_module` found to belong to normalizations, in layers too."""
    yield from (prefix + name for name in getattr(model.init, "float32_leaves", ()))
    for name, layer in model.layers.items():
        yield from _declared(layer, f"{prefix}{name}.")


def _cast_back(new: Tensor, given: Tensor | None, before: Tensor | None) -> Tensor:
    """Return a buffer in its own dtype; an element that was not written keeps its bits."""
    if before is None or new.dtype == before.dtype:
        return new
    if new.shape != before.shape:
        return new.to(before.dtype)
    return torch.where(new == given, before, new.to(before.dtype))


def channels_last(model: Model) -> Model:
    """Return a model whose images and filters have their channels next to each other in memory.

    The numbers are the same; convolutions are faster on most hardware.

    Args:
        model: the network.

    Returns:
        A model with the same params.

    Raises:
        UserError: `model` is not a model.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.precision import channels_last
        >>> seen = layers.elementwise(lambda x: print(x.stride()) or x)
        >>> _ = channels_last(seen).apply({}, {}, torch.zeros(1, 3, 2, 2))
        (12, 1, 6, 3)

    Source:
        torch.channels_last.
    """
    expect_models("channels_last", model=model)

    def apply(params, buffers, x, *, train=False, key=None):
        params = {
            name: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p
            for name, p in params.items()
        }
        x = map_tensors(
            lambda t: t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t, x
        )
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply, layers={})


VARIANTS: dict[str, Callable[[Model], Model]] = {
    "float32": lambda model: model,
    "float32 channels_last": channels_last,
    "bfloat16": lambda model: cast(model, torch.bfloat16),
    "bfloat16 channels_last": lambda model: channels_last(cast(model, torch.bfloat16)),
}


def autotune(model: Model, batch: Batch, variants, repeats: int = 2) -> dict[str, float]:
    """Return the median seconds of a gradient in each of several variants of a model.

    They are timed in turn, after a warm-up. A single variant is not timed.

    Args:
        model: the network.
        batch: (inputs, targets) on the device to use; of more than 32 examples the first 32 are
            used.
        variants: names in `VARIANTS`.
        repeats: how often each is timed.

    Returns:
        The seconds by the name of the variant.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import MLP
        >>> from purenets.torch_nets.precision import autotune
        >>> batch = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
        >>> seconds = autotune(MLP(2, [8], 2), batch, ["float32", "bfloat16"])
        >>> list(seconds), min(seconds.values()) > 0
        (['float32', 'bfloat16'], True)
    """
    if len(variants) == 1:
        return {variants[0]: 0.0}
    x, y = (part[:32] for part in batch)
    device = x.device
    params, buffers = (
        {name: leaf.to(device) for name, leaf in part.items()}
        for part in own_or_drawn_leaves(model, random.key(0))
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
    """Return the variants that a `--precision` allows: all for "auto", else one.

    With one variant nothing is timed, and two runs compute the same bits.

    Args:
        precision: "auto", "float32" or "bfloat16".

    Returns:
        Names in `VARIANTS`.

    Example:
        >>> from purenets.torch_nets.precision import variants_for
        >>> variants_for("bfloat16")
        ['bfloat16 channels_last']
    """
    return {"float32": ["float32"], "bfloat16": ["bfloat16 channels_last"]}.get(
        precision, list(VARIANTS)
    )
