"""Networks whose backward pass is written out by hand; never imports torch."""

from numpy_nets.fast import fast_step
from numpy_nets.grad import grad_fn, metrics_fn

__all__ = ["fast_step", "grad_fn", "metrics_fn"]
