"""The vanilla RNN of the assignment, as two pure functions and as a module.

    h(t) = tanh(W_hx x(t) + W_hh h(t-1) + b_h)     (1)     h(0) = 0
    o(t) = W_ph h(t) + b_o                         (2)
    y(t) = softmax(o(t))                           (3)

The loss (4) is the cross-entropy of the last step only, so `apply` returns the logits o of the last
step and `torch_nets.grad_fn` takes the loss of them. In code a row is an example:
h = tanh(x W_hx^T + h W_hh^T + b_h).
"""

import functools
import math

import torch
from torch import Tensor

from purenets.core import random
from purenets.core.architectures import RNN_INITS, RNN_RECURRENCES, rnn_shapes
from purenets.core.arguments import FINITE, expect_numbers, is_integer
from purenets.core.base import Model, Params, UserError
from purenets.core.memory import sized
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.layers.basic import torch_key, uniform_init
from purenets.torch_nets.to_module import Net, with_leaves


def loop(x: Tensor, W_hx: Tensor, W_hh: Tensor, b_h: Tensor) -> Tensor:
    """Return the last hidden state, by equation (1) at each step; autograd differentiates it.

    Args:
        x: (batch, steps, inputs).
        W_hx: (hidden, inputs).
        W_hh: (hidden, hidden).
        b_h: (hidden,).

    Returns:
        h (batch, hidden) after the last step.

    Example:
        >>> import torch
        >>> one = torch.ones(1, 1)
        >>> loop(torch.ones(1, 2, 1), one, one, torch.zeros(1))  # tanh(1 + tanh(1))
        tensor([[0.9427]])
    """
    from_inputs = torch.nn.functional.linear(x, W_hx, b_h).unbind(1)  # W_hx x(t) + b_h of all t
    h = torch.tanh(from_inputs[0])  # h(0) = 0 adds nothing
    for a in from_inputs[1:]:
        h = torch.tanh(torch.addmm(a, h, W_hh.T))
    return h


# the same within rounding (6e-8 of each state in float32), by one operation with a backward pass
# written by hand
if enabled():
    from purenets.torch_nets.fast.fused_recurrence import fused
else:
    fused = loop

RECURRENCES = dict(zip(RNN_RECURRENCES, (loop, fused), strict=True))


def VanillaRNN(
    input_length: int,
    input_dim: int,
    num_hidden: int,
    num_classes: int,
    *,
    init: str = "default",
    gain: float = 1.0,
    input_scale: float = 1.0,
    recurrence: str = "loop",
) -> Model:
    """Return the recurrent net of the assignment, which predicts the last digit of a palindrome.

    h(t) = tanh(W_hx x(t) + W_hh h(t-1) + b_h), and the logits are W_ph h + b_o of the last step.

    Args:
        input_length: T-1, the digits that are read of a palindrome of length T. Longer inputs can
            be read too.
        input_dim: 1 (a digit is a number) or num_classes (a digit is one-hot).
        num_hidden: units of the hidden state.
        num_classes: classes, one logit each.
        init: how W_hh begins, "default", "orthogonal" or "identity".
        gain: a factor for the initial W_hh. With "identity" and a gain over 1 each unit begins as a
            latch: h = 0 is unstable, and the first inputs push it to one of two stable states.
        input_scale: a factor for the inputs.
        recurrence: how the steps are computed in training: "loop", which autograd differentiates,
            or "fused", one operation with a backward pass by hand, which is faster and can be
            differentiated once.

    Returns:
        A model (batch, T-1, input_dim) -> logits (batch, num_classes). Params: "W_hx" (num_hidden,
        input_dim), "W_hh" (num_hidden, num_hidden), "b_h" (num_hidden,), "W_ph" (num_classes,
        num_hidden) and "b_o" (num_classes,).

    Raises:
        UserError: an argument is out of range. When applied: params or inputs have other shapes.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import VanillaRNN
        >>> model = VanillaRNN(input_length=4, input_dim=1, num_hidden=16, num_classes=10)
        >>> params, buffers = model.init(random.key(0))
        >>> list(params)
        ['W_hx', 'W_hh', 'b_h', 'W_ph', 'b_o']
        >>> model.apply(params, buffers, torch.zeros(5, 4, 1))[0].shape
        torch.Size([5, 10])

    Source:
        Equations (1) and (2) of the assignment, Part III.
    """
    _expect_options(input_length, input_dim, num_hidden, num_classes, init)
    expect_numbers("VanillaRNN", FINITE, gain=gain, input_scale=input_scale)
    if not isinstance(recurrence, str) or recurrence not in RECURRENCES:
        raise UserError(f"--recurrence {recurrence}: needs one of {', '.join(RECURRENCES)}")
    run_in_training = RECURRENCES[recurrence]
    shapes = rnn_shapes(input_dim, num_hidden, num_classes)

    def draw(key):
        params = INITS[init](torch_key(key), shapes)
        return params | {"W_hh": params["W_hh"] * gain}, {}

    def apply(params, buffers, x, *, train=False, key=None):
        _check_shapes(params, shapes, x)
        x = x.to(params["W_hx"].dtype) * input_scale
        run = run_in_training if train else loop
        h = run(x, params["W_hx"], params["W_hh"], params["b_h"])  # (1)
        return torch.nn.functional.linear(h, params["W_ph"], params["b_o"]), buffers  # (2)

    return Model(sized(draw, shapes), apply, uses_key=False, kind="VanillaRNN")


class VanillaRNNModule(Net):
    """The RNN as a torch.nn.Module, called as the assignment's skeleton calls it.

    It computes what `VanillaRNN` does, by `to_module`. Its params are drawn from torch's generator.
    Unlike `VanillaRNN` it also reads digits (batch, T-1) without the axis of an input_dim of 1.

    Args:
        seq_length: T-1, the digits that are read; longer inputs are read too.
        input_dim: 1 (a digit is a number) or 10 (one-hot).
        hidden_dim: units of the hidden layer.
        output_dim: classes.
        batch_size: taken for the skeleton's sake; batches of any size are read.

    Example:
        >>> model = VanillaRNNModule(4, 1, 128, 10)
        >>> model(torch.zeros(5, 4, 1)).shape, model(torch.zeros(5, 4)).shape
        (torch.Size([5, 10]), torch.Size([5, 10]))
    """

    def __init__(
        self,
        seq_length: int,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        batch_size: int | None = None,
    ):
        make = functools.partial(VanillaRNN, seq_length, input_dim, hidden_dim, output_dim)
        super().__init__(*with_leaves(make()), make)
        self.seq_length, self.input_dim = seq_length, input_dim

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (batch, output_dim) of the last step.

        Args:
            x: (batch, T-1, input_dim); for an input_dim of 1 also (batch, T-1), as the skeleton's
                `PalindromeDataset` has it.
        """
        if self.input_dim == 1 and getattr(x, "ndim", 0) == 2 and x.shape[1] >= self.seq_length:
            x = x.unsqueeze(-1)
        return super().forward(x)


def probabilities(logits: Tensor) -> Tensor:
    """Return the class probabilities of logits, equation (3).

    Args:
        logits: (..., classes).

    Returns:
        Probabilities (..., classes), which sum to 1.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.vanilla_rnn import probabilities
        >>> probabilities(torch.tensor([0.0, 0.0]))
        tensor([0.5000, 0.5000])

    Source:
        Equation (3) of the assignment, Part III.
    """
    return torch.softmax(logits, dim=-1)


def _expect_options(
    input_length: int, input_dim: int, num_hidden: int, num_classes: int, init: str
) -> None:
    """Raise a UserError that names the flag that is wrong.

    Args:
        input_length, input_dim, num_hidden, num_classes, init: as in `VanillaRNN`.

    Raises:
        UserError: a size is not a positive integer, or a name is unknown.
    """
    sizes = {"input_length": input_length, "num_hidden": num_hidden, "num_classes": num_classes}
    for name, value in sizes.items():
        if not is_integer(value) or value < 1:
            raise UserError(f"--{name} {value}: needs a positive integer")
    if not is_integer(input_dim) or input_dim not in (1, num_classes):
        raise UserError(
            f"--input_dim {input_dim}: needs 1 (digits) or {num_classes} (one-hot, --num_classes)"
        )
    if not isinstance(init, str) or init not in INITS:
        raise UserError(f"--init {init}: needs one of {', '.join(INITS)}")


def _check_shapes(params: Params, shapes: dict, x: Tensor) -> None:
    if not isinstance(params, dict):
        raise UserError(f"params: a {type(params).__name__}, needs a dict of tensors by name")
    for name, shape in shapes.items():
        if name not in params or getattr(params[name], "shape", None) != shape:
            have = "missing in params"
            if name in params:
                have = tuple(getattr(params[name], "shape", ())) or type(params[name]).__name__
            raise UserError(f"{name}: {have}, expected {shape}")
    if not isinstance(x, Tensor):
        raise UserError(f"x: a {type(x).__name__}, needs a tensor (batch, T-1, input_dim)")
    if x.is_complex():
        raise UserError(f"x: dtype is {x.dtype}, needs real numbers (batch, T-1, input_dim)")
    if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != shapes["W_hx"][1]:
        raise UserError(f"x: {tuple(x.shape)}, expected (batch, T-1, {shapes['W_hx'][1]})")


# --- initialization -------------------------------------------------------------------------------


def default_init(key: Tensor, shapes: dict) -> Params:
    """Return params that are all uniform within 1 / sqrt(hidden), as in nn.RNN and nn.Linear.

    Args:
        key: a torch key.
        shapes: the shape of each param by its name.

    Returns:
        The params.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.vanilla_rnn import default_init
        >>> key, shapes = torch.as_tensor(random.key(0)), {"W_hh": (4, 4), "b_h": (4,)}
        >>> params = default_init(key, shapes)
        >>> all(bool((leaf.abs() <= 0.5).all()) for leaf in params.values())
        True
    """
    return uniform_init(shapes, 1 / math.sqrt(shapes["b_h"][0]))(key)[0]


def orthogonal_init(key: Tensor, shapes: dict) -> Params:
    """Return the params of `default_init`, but with a random orthogonal W_hh and a b_h of 0.

    An orthogonal matrix keeps the norm of a vector, so while h is small (slopes of tanh near 1)
    states and gradients keep theirs.

    Args:
        key: a torch key.
        shapes: the shape of each param by its name.

    Returns:
        The params.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.vanilla_rnn import orthogonal_init
        >>> key, shapes = torch.as_tensor(random.key(0)), {"W_hh": (4, 4), "b_h": (4,)}
        >>> W = orthogonal_init(key, shapes)["W_hh"]
        >>> torch.allclose(W @ W.T, torch.eye(4), atol=1e-5)
        True

    Source:
        Saxe et al. 2013, arXiv 1312.6120; the signs: Mezzadri 2007, arXiv math-ph/0609050.
    """
    W_key, rest_key = random.split(key)
    q, r = torch.linalg.qr(random.normal(W_key, shapes["W_hh"], "float64"))
    # with these signs the matrix is uniform over the orthogonal group
    W_hh = (q * torch.sign(torch.diagonal(r))).float()
    return default_init(rest_key, shapes) | {"W_hh": W_hh, "b_h": torch.zeros_like(W_hh[0])}


def identity_init(key: Tensor, shapes: dict) -> Params:
    """Return the params of `default_init`, but with the identity for W_hh and a b_h of 0.

    Args:
        key: a torch key.
        shapes: the shape of each param by its name.

    Returns:
        The params.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.vanilla_rnn import identity_init
        >>> key, shapes = torch.as_tensor(random.key(0)), {"W_hh": (2, 2), "b_h": (2,)}
        >>> identity_init(key, shapes)["W_hh"]
        tensor([[1., 0.],
                [0., 1.]])

    Source:
        Le et al. 2015, arXiv 1504.00941, for ReLU.
    """
    n = shapes["b_h"][0]
    W_hh = torch.eye(n, dtype=torch.float32)
    return default_init(key, shapes) | {"W_hh": W_hh, "b_h": torch.zeros_like(W_hh[0])}


INITS = dict(zip(RNN_INITS, (default_init, orthogonal_init, identity_init), strict=True))
