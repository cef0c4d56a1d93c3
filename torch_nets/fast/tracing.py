"""Whether torch.compile, a transform of torch.func or forward AD is running."""

import contextlib
from collections.abc import Iterator

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


@torch.compiler.assume_constant_result
def transform_depth() -> int:
    """Return how many transforms of torch.func are running."""
    current = torch._C._functorch.peek_interpreter_stack()
    return 0 if current is None else current.level()


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
    wrapped was captured by a closure, and its derivative would be lost in silence. A transform that
    the function itself runs wraps tensors too: those that came from an operation seen here.

    Args:
        captured: the error.
        unknown: the error within a transform of the function's own, for a tensor that did not come
            from such an operation: it may be captured.
    """

    def __init__(self, captured: Exception, unknown: Exception):
        super().__init__()
        self.captured, self.unknown = captured, unknown
        self.depth, self.seen = transform_depth(), set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for x in _tensors((args, kwargs)):
            chain = list(_unwrapped(x))
            if any(map(torch._C._functorch.is_gradtrackingtensor, chain)):
                if transform_depth() == self.depth:
                    raise self.captured
                if not any(id(part) in self.seen for part in chain):
                    raise self.unknown
        y = function(*args, **kwargs)
        self.seen.update(map(id, _tensors(y)))
        return y


def _tensors(tree) -> Iterator[torch.Tensor]:
    return (x for x in pytree.tree_leaves(tree) if isinstance(x, torch.Tensor))


def _unwrapped(x: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield a tensor and what it wraps, down to the plain one."""
    yield x
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
        yield x
