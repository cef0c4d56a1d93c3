"""The vanilla RNN of the assignment with backpropagation through time by hand.

    h(t) = tanh(W_hx x(t) + W_hh h(t-1) + b_h)     (1)     h(0) = 0
    o    = W_ph h(T-1) + b_o                       (2)     after the last digit that is read

The same network, params and names as `torch_nets.vanilla_rnn`; T is the palindrome's length. The
derivation, with the dimensions of every matrix, is in docs/backprop_rnn.md.
"""

import math

import numpy as np

from purenets.core import random
from purenets.core.architectures import rnn_shapes
from purenets.core.arguments import expect_integers
from purenets.core.arrays import expect_plain, widened
from purenets.core.base import UserError
from purenets.core.memory import sized
from purenets.numpy_nets.grad import NumpyModel, expect_given
from purenets.numpy_nets.modules import linear_backward, linear_forward, sum_of_rows, tanh_backward


def rnn_forward(x, W_hx, W_hh, b_h):
    """Return the last hidden state of (1), and the cache of all states.

    x: (batch, steps, inputs) -> h: (batch, hidden). The cache holds h(0), ..., h(steps).
    """
    h = np.zeros((x.shape[0], W_hh.shape[0]), dtype=W_hh.dtype)
    states = [h]
    for t in range(x.shape[1]):
        h = np.tanh(x[:, t] @ W_hx.T + h @ W_hh.T + b_h)  # (1)
        states.append(h)
    return h, (x, states, W_hx, W_hh)


def rnn_backward(dh, cache):
    """Return dx like x, and dW_hx, dW_hh and db_h like the params, by backpropagation through time.

    dh: (batch, hidden) is dL/dh of the last step; `da` is dL/da(t) with
    a(t) = W_hx x(t) + W_hh h(t-1) + b_h.
    """
    x, states, W_hx, W_hh = cache
    dx, dW_hx, dW_hh = np.empty_like(x), np.zeros_like(widened(W_hx)), np.zeros_like(widened(W_hh))
    db_h = np.zeros(len(W_hh), dtype=dW_hh.dtype)
    for t in reversed(range(x.shape[1])):
        da = tanh_backward(dh, states[t + 1])
        dW_hx += da.T @ x[:, t]
        dW_hh += da.T @ states[t]
        db_h += sum_of_rows(da)
        dx[:, t] = da @ W_hx
        dh = da @ W_hh
    return dx, dW_hx, dW_hh, db_h


def VanillaRNN(input_length: int, input_dim: int, num_hidden: int, num_classes: int) -> NumpyModel:
    """Return the vanilla RNN of the assignment, with backpropagation through time by hand.

    The params are W_hx (hidden, input), W_hh (hidden, hidden), b_h (hidden,), W_ph (classes,
    hidden) and b_o (classes,), drawn uniformly within 1 / sqrt(hidden) as those of torch.nn.RNN.

    Args:
        input_length: T-1 digits of palindromes of length T; the params do not depend on it.
        input_dim: 1 for digits as numbers, 10 for one-hot digits.
        num_hidden: units of the hidden state.
        num_classes: outputs.

    Returns:
        A model from x: (batch, T-1, input_dim) to logits: (batch, num_classes).

    Raises:
        UserError: a size is not a positive integer; from its passes, the params or the input do not
            fit.

    Example:
        >>> from purenets import random
        >>> from purenets.core.data.palindromes import palindromes
        >>> from purenets.numpy_nets import VanillaRNN
        >>> x, y = palindromes(random.key(0), batch=4, T=6)
        >>> model = VanillaRNN(5, 1, 16, 10)
        >>> params, buffers = model.init(random.key(1))
        >>> model.apply(params, buffers, x)[0].shape
        (4, 10)

    Source:
        Equations (1) and (2) of the assignment, Part III.
    """
    sizes = {"input_length": input_length, "input_dim": input_dim}
    expect_integers("VanillaRNN", 1, **sizes, num_hidden=num_hidden, num_classes=num_classes)
    shapes = rnn_shapes(input_dim, num_hidden, num_classes)

    def init(key):
        bound, keys = 1 / math.sqrt(num_hidden), random.split(key, len(shapes))
        draws = zip(shapes.items(), keys, strict=True)
        return {n: random.uniform(k, s, low=-bound, high=bound) for (n, s), k in draws}, {}

    def forward(params, buffers, x, *, train=False, key=None):
        _check(params, shapes, x)
        x = x.astype(params["W_hx"].dtype, copy=False)
        h, rnn_cache = rnn_forward(x, params["W_hx"], params["W_hh"], params["b_h"])
        logits, linear_cache = linear_forward(h, params["W_ph"], params["b_o"])  # (2)
        return logits, buffers, (rnn_cache, linear_cache)

    def backward(dlogits, cache):
        rnn_cache, linear_cache = cache
        dh, dW_ph, db_o = linear_backward(dlogits, linear_cache)
        dx, dW_hx, dW_hh, db_h = rnn_backward(dh, rnn_cache)
        return dx, {"W_hx": dW_hx, "W_hh": dW_hh, "b_h": db_h, "W_ph": dW_ph, "b_o": db_o}

    def apply(params, buffers, x=None, *, train=False, key=None):
        expect_given(buffers, x)
        logits, buffers, _ = forward(params, buffers, x)
        return logits, buffers

    init = sized(init, shapes)
    return NumpyModel(init, apply, forward, backward, uses_key=False, kind="VanillaRNN")


def _check(params, shapes, x):
    for name, shape in shapes.items():
        if name not in params or params[name].shape != shape:
            have = params[name].shape if name in params else "missing in params"
            raise UserError(f"{name}: {have}, expected {shape}")
    if not isinstance(x, np.ndarray):
        raise UserError(f"x: a {type(x).__name__}, needs a NumPy array (batch, T-1, input_dim)")
    expect_plain("x", x)
    if x.dtype.kind not in "biuf":
        raise UserError(f"x: dtype is {x.dtype}, needs real numbers (batch, T-1, input_dim)")
    if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != shapes["W_hx"][1]:
        raise UserError(f"x: {x.shape}, expected (batch, T-1, {shapes['W_hx'][1]})")
