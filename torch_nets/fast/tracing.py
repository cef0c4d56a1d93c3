"""Whether torch.compile or a transform of torch.func is running."""

import torch

from purenets.torch_nets.fast import enabled


def is_tracing() -> bool:
    """Return True under torch.compile or a torch.func transform; always True where fast operations are off."""
    if not enabled():
        return True
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
