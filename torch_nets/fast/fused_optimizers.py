"""Steps of Adam, AdamW and SGD with momentum by torch's fused kernels, on copies: one pass over
memory.

The copies make the step pure. They cost two passes more than a step in place; the plain arithmetic
has about ten.
"""

import torch
from torch import Tensor

from purenets.core import vector_dict
from purenets.core.optim.internals.kernels import Leaves, Rule
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.tracing import is_tracing

MAX_VECTOR_SIZE = 1 << 17


def step(rule: Rule, lr, count: Tensor | None, leaves: Leaves):
    """Return the params and the moments after a step, or None where the kernel does not suit.

    It suits float32 and float64 leaves of one device, contiguous, that nothing differentiates, maps
    or traces: a vector of at most MAX_VECTOR_SIZE elements, where calls cost most, and leaves of
    more than MAX_MEAN_SIZE on average, where passes over memory do. In between it would be faster
    too, but the arithmetic on the vector gives the very bits of earlier versions.
    """
    if not enabled() or is_tracing() or not _fit(leaves):
        return None
    if isinstance(lr, Tensor) and (lr.ndim or lr.requires_grad):
        return None
    return KINDS[rule.kind](rule, lr, count, leaves)


def _fit(leaves: Leaves) -> bool:
    params = leaves.params
    dtype, device = params[0].dtype, params[0].device
    size = sum([p.numel() for p in params])
    large = vector_dict.MAX_MEAN_SIZE * len(params)
    if not (size <= MAX_VECTOR_SIZE if leaves.is_vector else size > large):
        return False
    if dtype not in (torch.float32, torch.float64):
        return False
    others = [leaves.grads, *leaves.moments.values()]
    for i, p in enumerate(params):
        shape = p.shape
        for leaf in [p, *[arrays[i] for arrays in others]]:
            if type(leaf) is not Tensor or leaf.dtype != dtype or leaf.shape != shape:
                return False
            if leaf.requires_grad or leaf.device != device or not leaf.is_contiguous():
                return False
    return True


def _copies(leaves: list[Tensor]) -> list[Tensor]:
    return [leaf.clone() for leaf in leaves]


def _adam(rule: Rule, lr, count: Tensor, leaves: Leaves):
    beta1, beta2, eps, weight_decay = rule.numbers
    new, moments = _copies(leaves.params), {n: _copies(m) for n, m in leaves.moments.items()}
    kernel = torch._fused_adam_ if rule.kind == "adam" else torch._fused_adamw_
    kernel(
        new,
        leaves.grads,
        moments["exp_avg"],
        moments["exp_avg_sq"],
        moments.get("max_exp_avg_sq", []),
        [count.float()] * len(new),
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad="max_exp_avg_sq" in moments,
        maximize=False,
    )
    return new, moments


def _sgd(rule: Rule, lr, count, leaves: Leaves):
    weight_decay, momentum, dampening = rule.numbers
    if dampening:  # torch's first step differs from the others then
        return None
    new, buffers = _copies(leaves.params), _copies(leaves.moments["momentum_buffer"])
    torch._fused_sgd_(
        new,
        leaves.grads,
        buffers,
        weight_decay=weight_decay,
        momentum=momentum,
        lr=lr,
        dampening=0.0,
        nesterov=rule.hypers["nesterov"],
        maximize=False,
        is_first_step=False,
    )
    return new, {"momentum_buffer": buffers}


KINDS = {"adam": _adam, "adamw": _adam, "sgd": _sgd}
