"""Recurrent layers as nn.RNN, nn.LSTM and nn.GRU, with the same names of params.

    layer = LSTM(8, 32)
    y, _ = layer.apply(params, {}, x)  # (batch, steps, 8) -> (batch, steps, 32)
    (y, state), _ = layer.apply(params, {}, (x, state))  # from a state to that of the last step

Under torch.func, where torch's own kernels have no rules, the loop over the steps is written out.
Elsewhere the kernel computes the same in one call.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import expect_flags
from purenets.core.arrays import is_tracing
from purenets.core.base import Model, UserError
from purenets.core.serial import expect, expect_sizes
from purenets.torch_nets.layers.basic import (
    Dropout,
    elementwise,
    expect_dtype,
    expect_tensor,
    uniform_init,
)

State = Tensor | tuple[Tensor, ...]  # (layers x directions, batch, hidden): h, of an LSTM (h, c)


# --- one step -------------------------------------------------------------------------------------


def rnn_step(a: Tensor, b: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the next state of an Elman RNN, h = tanh(a + b).

    Args:
        a: W_ih x + b_ih, (batch, hidden).
        b: W_hh h + b_hh, (batch, hidden).
        state: (h,), the state before; it enters by b only.

    Returns:
        (h,), the next state, (batch, hidden).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.recurrent import rnn_step
        >>> rnn_step(torch.tensor([[0.5]]), torch.tensor([[0.5]]), ())
        (tensor([[0.7616]]),)
    """
    return (torch.tanh(a + b),)


def lstm_step(a: Tensor, b: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the next state (h, c) of an LSTM.

    With the gates i, f, g, o of a + b:

        c = sigmoid(f) c + sigmoid(i) tanh(g)
        h = sigmoid(o) tanh(c)

    Args:
        a: W_ih x + b_ih, (batch, 4 hidden): input, forget, cell and output gates.
        b: W_hh h + b_hh, in the same order.
        state: (h, c), each (batch, hidden).

    Returns:
        The next (h, c), each (batch, hidden).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.recurrent import lstm_step
        >>> gates, state = torch.zeros(1, 4), (torch.zeros(1, 1), torch.ones(1, 1))
        >>> lstm_step(gates, gates, state)[1]  # half of c is forgotten
        tensor([[0.5000]])

    Source:
        Hochreiter and Schmidhuber 1997, "Long short-term memory"; forget gates: Gers et al. 2000.
    """
    i, f, g, o = (a + b).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(a: Tensor, b: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return the next state of a GRU in PyTorch's form, which resets after the product.

    With the gates r, z, n of a and of b:

        n = tanh(n_a + sigmoid(r_a + r_b) n_b)
        h = n + sigmoid(z_a + z_b) (h - n)

    Args:
        a: W_ih x + b_ih, (batch, 3 hidden): reset, update and new gates.
        b: W_hh h + b_hh, in the same order.
        state: (h,), (batch, hidden).

    Returns:
        (h,), the next state, (batch, hidden).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.recurrent import gru_step
        >>> gru_step(torch.zeros(1, 3), torch.zeros(1, 3), (torch.ones(1, 1),))
        (tensor([[0.5000]]),)

    Source:
        Cho et al. 2014, arXiv 1406.1078; torch.nn.GRU.
    """
    (r, z, n), (r_h, z_h, n_h) = a.chunk(3, -1), b.chunk(3, -1)
    n = torch.tanh(n + torch.sigmoid(r + r_h) * n_h)
    return (n + torch.sigmoid(z + z_h) * (state[0] - n),)


class Cell(NamedTuple):
    """A kind of recurrent layer: how many gates it has, its step, and torch's kernel of it."""

    kind: str
    gates: int
    n_states: int
    step: Callable
    kernel: Callable


CELLS = {
    "RNN": Cell("RNN", 1, 1, rnn_step, torch.rnn_tanh),
    "LSTM": Cell("LSTM", 4, 2, lstm_step, torch.lstm),
    "GRU": Cell("GRU", 3, 1, gru_step, torch.gru),
}


# --- layers ---------------------------------------------------------------------------------------


def RNN(n_in: int, n_hidden: int, **options) -> Model:
    """Return an Elman recurrent layer, h = tanh(W_ih x + b_ih + W_hh h + b_hh).

    Args:
        n_in: features of an input step.
        n_hidden: features of an output step.
        options: `num_layers`, `bias`, `bidirectional` and `dropout`, as in `LSTM`.

    Returns:
        A layer (batch, steps, n_in) -> (batch, steps, n_hidden) with the params of torch.nn.RNN,
        "weight_ih_l0" (n_hidden, n_in) and so on. With inputs (x, h) it begins at the state h and
        returns (y, h).

    Raises:
        UserError: a size is not a positive integer, or an option is wrong. When applied: params,
            inputs or states have other shapes, or another dtype.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import RNN, LastStep, Linear, serial
        >>> net = serial(rnn=RNN(3, 8), last=LastStep(), fc=Linear(8, 2))
        >>> params, buffers = net.init(random.key(0))
        >>> net.apply(params, buffers, torch.zeros(5, 10, 3))[0].shape
        torch.Size([5, 2])

    Source:
        Elman 1990, "Finding structure in time"; torch.nn.RNN(batch_first=True).
    """
    return _recurrent(CELLS["RNN"], n_in, n_hidden, **options)


def LSTM(n_in: int, n_hidden: int, **options) -> Model:
    """Return an LSTM layer: a recurrence with gates and a cell state, which remembers longer.

    Args:
        n_in: features of an input step.
        n_hidden: features of an output step.
        options: keyword arguments, any of the following.
        num_layers: layers, each on the outputs of the one before; 1 by default.
        bias: False for layers without biases.
        bidirectional: True for a second pass from the last step to the first, whose params end with
            "_reverse"; y is (batch, steps, 2 n_hidden) then.
        dropout: the probability to drop an output between the layers, in training; it needs a key.

    Returns:
        A layer (batch, steps, n_in) -> (batch, steps, n_hidden). With inputs (x, (h, c)) it begins
        at that state and returns (y, (h, c)); h and c are (num_layers, batch, n_hidden), or
        (2 num_layers, batch, n_hidden) if bidirectional. Params, drawn uniform within
        1 / sqrt(n_hidden): "weight_ih_l0" (4 n_hidden, n_in), "weight_hh_l0" (4 n_hidden,
        n_hidden), "bias_ih_l0", "bias_hh_l0", "weight_ih_l1" and so on.

    Raises:
        UserError: a size is not a positive integer, or an option is wrong. When applied: params,
            inputs or states have other shapes, or another dtype.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import LSTM
        >>> layer = LSTM(3, 8)
        >>> params, _ = layer.init(random.key(0))
        >>> params["weight_ih_l0"].shape
        torch.Size([32, 3])
        >>> state = torch.zeros(1, 5, 8), torch.zeros(1, 5, 8)
        >>> (y, (h, c)), _ = layer.apply(params, {}, (torch.ones(5, 10, 3), state))
        >>> torch.equal(y[:, -1], h[0])
        True

    Source:
        Hochreiter and Schmidhuber 1997, "Long short-term memory"; torch.nn.LSTM(batch_first=True).
    """
    return _recurrent(CELLS["LSTM"], n_in, n_hidden, **options)


def GRU(n_in: int, n_hidden: int, **options) -> Model:
    """Return a gated recurrent layer: like an LSTM, with fewer gates and one state.

    Args:
        n_in: features of an input step.
        n_hidden: features of an output step.
        options: `num_layers`, `bias`, `bidirectional` and `dropout`, as in `LSTM`.

    Returns:
        A layer (batch, steps, n_in) -> (batch, steps, n_hidden) with the params of torch.nn.GRU,
        "weight_ih_l0" (3 n_hidden, n_in) and so on. With inputs (x, h) it begins at the state h and
        returns (y, h).

    Raises:
        UserError: a size is not a positive integer, or an option is wrong. When applied: params,
            inputs or states have other shapes, or another dtype.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import GRU
        >>> module = torch.nn.GRU(3, 8, batch_first=True)  # its params fit, by name
        >>> params = {name: p.detach() for name, p in module.named_parameters()}
        >>> x = torch.ones(5, 10, 3)
        >>> torch.allclose(GRU(3, 8).apply(params, {}, x)[0], module(x)[0], atol=1e-6)
        True

    Source:
        Cho et al. 2014, arXiv 1406.1078; torch.nn.GRU(batch_first=True).
    """
    return _recurrent(CELLS["GRU"], n_in, n_hidden, **options)


def LastStep() -> Model:
    """Return the layer that keeps the last step of a sequence.

    Returns:
        A layer (batch, steps, ...) -> (batch, ...) without params.

    Raises:
        UserError: when applied: the input has fewer than two axes, or no step.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import LastStep
        >>> LastStep().apply({}, {}, torch.tensor([[1.0, 2.0, 3.0]]))[0]
        tensor([3.])
    """

    def last(x):
        if x.ndim < 2 or x.shape[1] < 1:
            raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, steps, ...)")
        return x[:, -1]

    return elementwise(last, "LastStep")


def _recurrent(
    cell: Cell,
    n_in: int,
    n_hidden: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> Model:
    expect_sizes(cell.kind, n_in=n_in, n_hidden=n_hidden, num_layers=num_layers)
    expect_flags(cell.kind, bias=bias, bidirectional=bidirectional)
    n_in, n_hidden, num_layers = int(n_in), int(n_hidden), int(num_layers)
    drop, passes = Dropout(dropout), 2 if bidirectional else 1
    shapes = _shapes(cell, n_in, n_hidden, num_layers, bias, passes)

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        x, given = x if isinstance(x, tuple) and len(x) == 2 else (x, None)
        expect_tensor(x)
        states = _states(cell, x, given, n_in, (num_layers * passes, x.shape[0], n_hidden))
        leaves = [params[name] for name in shapes]
        expect_dtype(x, leaves[0])
        if not (is_tracing() or (train and dropout)):
            flags = (bias, num_layers, 0.0, train, bidirectional, True)
            y, *states = cell.kernel(x, states if len(states) > 1 else states[0], leaves, *flags)
        else:
            layers = _by_layer(leaves, num_layers, passes, bias)
            y, states = _layers(
                cell, x, states, layers, lambda y, i: _dropped(drop, y, train, key, i)
            )
        last = tuple(states) if cell.n_states > 1 else states[0]
        return y if given is None else (y, last), buffers

    draw = uniform_init(shapes, 1 / math.sqrt(n_hidden))
    return Model(draw, apply, uses_key=dropout > 0, kind=cell.kind)


def _shapes(
    cell: Cell, n_in: int, n_hidden: int, num_layers: int, bias: bool, passes: int
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all params, in torch's order and by its names."""
    shapes, n = {}, cell.gates * n_hidden
    for i in range(num_layers):
        inputs = n_in if i == 0 else passes * n_hidden
        for end in ("", "_reverse")[:passes]:
            shapes |= {f"weight_ih_l{i}{end}": (n, inputs), f"weight_hh_l{i}{end}": (n, n_hidden)}
            shapes |= {f"bias_ih_l{i}{end}": (n,), f"bias_hh_l{i}{end}": (n,)} if bias else {}
    return shapes


def _states(
    cell: Cell, x: Tensor, given: State | None, n_in: int, shape: tuple[int, ...]
) -> tuple[Tensor, ...]:
    """Return the states to begin with, zeros by default; a UserError for inputs of other shapes."""
    if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != n_in:
        raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, steps, {n_in})")
    if given is None:
        return (x.new_zeros(shape),) * cell.n_states
    states = given if isinstance(given, tuple) else (given,)
    if not all(isinstance(state, Tensor) and state.dtype == x.dtype for state in states):
        found = [s.dtype if isinstance(s, Tensor) else type(s).__name__ for s in states]
        raise UserError(
            f"state: {', '.join(map(str, found))}, expected {cell.n_states} tensors of {x.dtype}"
        )
    if len(states) != cell.n_states or any(tuple(state.shape) != shape for state in states):
        found = ", ".join(str(tuple(state.shape)) for state in states)
        raise UserError(f"state: shapes are {found}, expected {cell.n_states} of {shape}")
    return states


def _by_layer(leaves: list[Tensor], num_layers: int, passes: int, bias: bool) -> list[list[list]]:
    """Return [W_ih, W_hh, b_ih, b_hh] for each layer and pass; the biases are None without any."""
    n = 4 if bias else 2
    parts = [leaves[i : i + n] + [None] * (4 - n) for i in range(0, len(leaves), n)]
    return [parts[i * passes : (i + 1) * passes] for i in range(num_layers)]


def _layers(
    cell: Cell, x: Tensor, states: tuple[Tensor, ...], layers: list, dropped: Callable
) -> tuple[Tensor, list[Tensor]]:
    """Return the outputs of the last layer and the states after the last step of all of them."""
    begin, ends = iter(zip(*states, strict=True)), []
    for i, passes in enumerate(layers):
        x = dropped(x, i) if i else x
        runs = [_run(cell, x, next(begin), part, bool(back)) for back, part in enumerate(passes)]
        x = torch.cat([y for y, _ in runs], -1) if len(runs) > 1 else runs[0][0]
        ends += [end for _, end in runs]
    return x, [torch.stack(parts) for parts in zip(*ends, strict=True)]


def _run(
    cell: Cell, x: Tensor, state: tuple[Tensor, ...], weights: list, backwards: bool
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the outputs (batch, steps, hidden) of one pass over the steps, and its last state."""
    W_ih, W_hh, b_ih, b_hh = weights
    driven = F.linear(x, W_ih, b_ih).unbind(1)  # of all steps in one product
    outputs = []
    for a in reversed(driven) if backwards else driven:
        state = cell.step(a, F.linear(state[0], W_hh, b_hh), state)
        outputs.append(state[0])
    return torch.stack(outputs[::-1] if backwards else outputs, 1), state


def _dropped(drop: Model, y: Tensor, train: bool, key, i: int) -> Tensor:
    """Return the outputs of a layer as the next one sees them."""
    layer_key = None if key is None else random.fold_in(key, i)
    return drop.apply({}, {}, y, train=train, key=layer_key)[0]
