"""Equation (1) through time, h(t) = tanh(W_hx x(t) + W_hh h(t-1) + b_h), in two ways with the same
numbers.

`loop` is the equation and nothing else; autograd differentiates it to any order. `fused` is the
same loop as one differentiable operation, for training: its backward pass is backpropagation
through time by hand (derived in docs/backprop_rnn.md), and only the h(t) are kept between the
passes. It can be differentiated once, in reverse mode; use `loop` for more.
"""

import torch
from torch import Tensor

from purenets.torch_nets.fast import enabled


def loop(x: Tensor, W_hx: Tensor, W_hh: Tensor, b_h: Tensor) -> Tensor:
    """x: (batch, steps, inputs) -> the last h: (batch, hidden), from h(0) = 0.

    W_hx: (hidden, inputs), W_hh: (hidden, hidden), b_h: (hidden,).
    """
    driven = torch.nn.functional.linear(x, W_hx, b_h).unbind(
        1
    )  # all W_hx x(t) + b_h in one product
    h = torch.tanh(driven[0])
    for a in driven[1:]:
        h = torch.tanh(torch.addmm(a, h, W_hh.T))
    return h


if enabled():
    from purenets.torch_nets.fast.fused_recurrence import fused
else:
    fused = loop

__all__ = ["fused", "loop"]
