"""Modules that `from_module` cannot convert, each refused in one line."""

from typing import Any

import torch
from torch import nn

from purenets.core.base import UserError

WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)  # call the module on a device


def expect_plain_parts(name: str, module: nn.Module) -> None:
    """Raise a UserError for a part that would compute with params of its own, whatever is given."""
    for place, part in module.named_modules():
        kind, where = type(part).__name__, place or name
        if isinstance(part, WRAPPERS):
            raise UserError(f"{where}: a {kind} has its own devices; pass the module that it wraps")
        if isinstance(part, torch.jit.ScriptModule):
            raise UserError(
                f"{where}: a scripted or traced module takes no other params; pass the module "
                "that it was made of"
            )


def expect_known_leaves(name: str, module: nn.Module) -> None:
    """Raise a UserError for leaves without a shape, for two that lie in the same memory, and for
    hooks of a gradient.
    """
    for leaf, value in [*module.named_parameters(), *module.named_buffers()]:
        if nn.parameter.is_lazy(value):
            raise UserError(
                f"{leaf}: {name} is lazy, call it on an example once, so that shapes are known"
            )
    places: dict[Any, str] = {}
    for leaf, p in module.named_parameters():
        place = (p.device, p.data_ptr()) if p.numel() and not p.is_meta else leaf
        if place in places:
            first = places[place]
            raise UserError(
                f"{leaf}: shares its memory with {first}; tie them by the same nn.Parameter"
            )
        places[place] = leaf
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            raise UserError(
                f"{leaf}: has a hook of its gradient, which would never run; remove it and change "
                "the gradients that grad_fn returns"
            )
    trained = {id(p): leaf for leaf, p in module.named_parameters()}
    for leaf, value in module.named_buffers():
        if id(value) in trained:
            raise UserError(f"{leaf}: is the param {trained[id(value)]} and a buffer too")
