"""Steps of Adam, AdamW and SGD with momentum by torch's fused kernels, on copies: one pass over
memory.

The copies make the step pure. They cost two passes more than a step in place; the plain arithmetic
has about ten.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from purenets.core.base import Params
from purenets.core.optim.hyper import as_numbers, next_count, resolve_hyper
from purenets.core.optim.kernels import Rule
from purenets.core.vector_dict import ALL, are_large
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.tracing import is_tracing


def advance(rule: Rule, grads: Params, state: dict, params: Params) -> tuple[Params, dict] | None:
    """Return the params and the state after a step, or None where the kernel does not suit.

    It suits float32 and float64 leaves of one device, contiguous, that nothing differentiates, maps
    or traces: a vector of at most MAX_VECTOR_SIZE elements, where calls cost most, and leaves of
    more than MAX_MEAN_SIZE on average, where passes over memory do. In between it would be faster
    too, but the arithmetic on the vector gives the very bits of earlier versions.
    """
    if type(next(iter(params.values()))) is not Tensor:  # of NumPy, or a Parameter
        return None
    if not enabled() or is_tracing() or grads.keys() != params.keys():
        return None
    moments = state[rule.places["moments"]]
    kept = [moments[name] for name in MOMENTS if name in moments]
    if not _suits(params, [grads, *kept]):
        return None
    lr = resolve_hyper(rule.hypers["lr"], state[rule.places["lr"]], grads)
    if isinstance(lr, Tensor) and (lr.ndim or lr.requires_grad):
        return None
    return KERNELS[rule.kind](rule, lr, grads, state, params)


MAX_VECTOR_SIZE = 1 << 16
MOMENTS = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer")


def _suits(params: Params, others: list[Params]) -> bool:
    first = next(iter(params.values()))
    dtype, device = first.dtype, first.device
    if not (first.numel() <= MAX_VECTOR_SIZE if ALL in params else are_large(params)):
        return False
    if dtype not in (torch.float32, torch.float64):
        return False
    for name, p in params.items():
        shape = p.shape
        for leaf in [p, *[other[name] for other in others]]:
            if type(leaf) is not Tensor or leaf.dtype != dtype or leaf.device != device:
                return False
            if leaf.shape != shape or leaf.requires_grad or not leaf.is_contiguous():
                return False
    return True


def _copies(leaves: Params) -> dict[str, Tensor]:
    return {name: leaf.clone() for name, leaf in leaves.items()}


def _adam(rule: Rule, lr, grads: Params, state: dict, params: Params) -> tuple[Params, dict] | None:
    hypers, at = rule.hypers, rule.places["moments"]
    numbers = as_numbers(*hypers["betas"], hypers["eps"], hypers["weight_decay"])
    if numbers is None:
        return None
    beta1, beta2, eps, weight_decay = numbers
    count = state[at]["count"] + 1
    new, kept = (
        _copies(params),
        {name: _copies(part) for name, part in state[at].items() if name in MOMENTS},
    )
    lists = [_in_order(kept[name], new) if name in kept else [] for name in MOMENTS[:3]]
    kernel = torch._fused_adam_ if rule.kind == "adam" else torch._fused_adamw_
    kernel(
        list(new.values()),
        _in_order(grads, new),
        *lists,
        [count.float()] * len(new),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=len(kept) == 3,
        maximize=False,
    )
    return new, _next_state(rule, state, {"count": count, **kept})


def _sgd(rule: Rule, lr, grads: Params, state: dict, params: Params) -> tuple[Params, dict] | None:
    hypers = rule.hypers
    numbers = as_numbers(hypers["momentum"], hypers["dampening"], hypers["weight_decay"])
    if numbers is None or numbers[1] != 0:  # dampened, torch's first step differs from the others
        return None
    momentum, _, weight_decay = numbers
    new, buffers = _copies(params), _copies(state[rule.places["moments"]]["momentum_buffer"])
    torch._fused_sgd_(
        list(new.values()),
        _in_order(grads, new),
        _in_order(buffers, new),
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=hypers["nesterov"],
        maximize=False,
        is_first_step=False,
    )
    return new, _next_state(rule, state, {"momentum_buffer": buffers})


KERNELS = {"adam": _adam, "adamw": _adam, "sgd": _sgd}


def _in_order(leaves: Params, names: Iterable[str]) -> list[Tensor]:
    return [leaves[name] for name in names]


def _next_state(rule: Rule, state: dict, moments: dict) -> dict:
    lr_at = rule.places["lr"]
    return {**state, rule.places["moments"]: moments, lr_at: next_count(state[lr_at])}
