"""Whether torch.compile, a transform of torch.func or forward AD is running."""

import contextlib

import torch
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from purenets.torch_nets.fast import enabled


def is_tracing() -> bool:
    """Return True under torch.compile, a torch.func transform or forward AD; always True where fast
    operations are off.
    """
    if not enabled():
        return True
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
    )


def is_forward_mode() -> bool:
    """Return True where forward derivatives are taken, by torch.func.jvp or by dual numbers."""
    return forward_ad._current_level >= 0


def is_transformed() -> bool:
    """Return True under a transform of torch.func."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def is_differentiated() -> bool:
    """Return True where a transform of torch.func, or forward AD, may ask for a derivative."""
    return is_transformed() or is_forward_mode()


def outside_transforms() -> contextlib.AbstractContextManager:
    """Return the context in which no transform of torch.func sees what is computed."""
    if torch.compiler.is_compiling() or not is_transformed():
        return contextlib.nullcontext()
    return temporarily_clear_interpreter_stack()


def is_torch_compiling() -> bool:
    """Return True where torch.compile reads the Python code; `jit` runs it instead."""
    return torch.compiler.is_dynamo_compiling()


class RaiseOnWrapped(TorchFunctionMode):
    """Raise an error where an operation takes a tensor that a transform of torch.func has wrapped.

    Within the forward pass of an autograd.Function all its arguments are plain tensors: what is
    wrapped was captured by a closure, and its derivative would be lost in silence.
    """

    def __init__(self, error: Exception):
        super().__init__()
        self.error = error

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for x in pytree.tree_leaves((args, kwargs)):
            if isinstance(x, torch.Tensor) and torch._C._functorch.is_gradtrackingtensor(x):
                raise self.error
        return function(*args, **kwargs)
