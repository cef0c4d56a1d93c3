"""Operations of our own that torch knows under the name `torch.ops.purenets`, and how they are
differentiated: under plain autograd, torch.func and torch.compile alike
(torch.library.register_autograd knows no torch.func)."""

from collections.abc import Callable

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

Function = _SingleLevelFunction  # as torch.autograd.Function, for one level of torch.func at a time


def register_derivative(name: str, function: type[Function]) -> None:
    """`function` as the derivative of the operation "purenets::..."."""

    @torch.library.impl(name, "Autograd")
    def _(*arguments):
        with enable_single_level_autograd_function():
            return function.apply(*arguments)


def call_below_autograd(operation: Callable, *arguments):
    """The operation itself, called from `forward` of its function; levels below may differentiate
    it too, backward and forward."""
    with torch.enable_grad(), _set_fwd_grad_enabled(True), torch._C._AutoDispatchBelowAutograd():
        return operation(*arguments)
