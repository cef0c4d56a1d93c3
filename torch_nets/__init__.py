"""The same contracts on torch: pure functions over dicts, torch.func, torch.compile."""

from torch_nets.ahead import compile_for
from torch_nets.convert import to_numpy, to_torch
from torch_nets.fast import fast_step
from torch_nets.from_module import from_module
from torch_nets.grad import grad_fn, metrics_fn
from torch_nets.jit import jit

__all__ = ["compile_for", "fast_step", "from_module", "grad_fn", "jit", "metrics_fn", "to_numpy", "to_torch"]
