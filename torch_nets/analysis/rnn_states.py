"""Hidden states of a vanilla RNN over time, gradients by them, and Jacobians, by torch.func.

T is the length of a palindrome; N = T-1 digits are read, so time runs from 1 to N.
"""

import torch
from einops import rearrange
from torch import Tensor

from purenets.core.arguments import expect_arrays, expect_dicts
from purenets.core.arrays import widened
from purenets.core.base import Params, UserError
from purenets.torch_nets.losses import cross_entropy

NAMES = ("W_hx", "W_hh", "b_h")


def states(
    params: Params, x: Tensor, h: Tensor | None = None, perturbations: Tensor | None = None
) -> Tensor:
    """Return all hidden states h(t) of a vanilla RNN, equation (1).

    Args:
        params: those of a `VanillaRNN`.
        x: inputs (batch, N, input).
        h: h(0), (batch, hidden); 0 by default.
        perturbations: (batch, N, hidden), added to the h(t) as they arise; their gradient is that
            by the states.

    Returns:
        h(1), ..., h(N): (batch, N, hidden).

    Raises:
        UserError: `params` are not those of an RNN, or a tensor has other axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.rnn_states import states
        >>> params = {"W_hx": torch.ones(1, 1), "W_hh": torch.zeros(1, 1), "b_h": torch.zeros(1)}
        >>> states(params, torch.tensor([[[0.0], [1.0]]]))
        tensor([[[0.0000],
                 [0.7616]]])
    """
    _expect_rnn("states", params, 3, x=x)
    _expect_rnn("states", params, 2, **({} if h is None else {"h": h}))
    _expect_rnn(
        "states", params, 3, **({} if perturbations is None else {"perturbations": perturbations})
    )
    h = x.new_zeros(len(x), len(params["b_h"])) if h is None else h
    found = []
    for t, x_t in enumerate(rearrange(x, "b t i -> t b i")):
        h = torch.tanh(x_t @ params["W_hx"].T + h @ params["W_hh"].T + params["b_h"])
        h = h if perturbations is None else h + perturbations[:, t]
        found.append(h)
    return torch.stack(found, dim=1)


def hidden_state_grads(params: Params, x: Tensor, y: Tensor) -> Tensor:
    """Return dL_i/dh_i(t), the gradient of each example's own loss by its hidden states.

    Args:
        params: those of a `VanillaRNN`.
        x: inputs (batch, N, input).
        y: class numbers (batch,).

    Returns:
        A tensor (batch, N, hidden).

    Raises:
        UserError: `params` are not those of an RNN, or a tensor has other axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.rnn_states import hidden_state_grads
        >>> zero, W_hh = torch.zeros(1, 1), torch.tensor([[0.5]])
        >>> params = {"W_hx": zero, "W_hh": W_hh, "b_h": torch.zeros(1)}
        >>> params |= {"W_ph": torch.tensor([[1.0], [-1.0]]), "b_o": torch.zeros(2)}
        >>> hidden_state_grads(params, torch.zeros(1, 3, 1), torch.tensor([0])).flatten()
        tensor([-0.2500, -0.5000, -1.0000])
    """
    _expect_rnn("hidden_state_grads", params, 3, x=x)
    expect_arrays("hidden_state_grads", 1, y=y)

    def loss(perturbations):
        last = states(params, x, perturbations=perturbations)[:, -1]
        return cross_entropy(last @ params["W_ph"].T + params["b_o"], y) * len(y)

    return torch.func.grad(loss)(x.new_zeros(*x.shape[:2], len(params["b_h"])))


def jacobians(params: Params, x: Tensor) -> Tensor:
    """Return J(t) = dh(t)/dh(t-1) = diag(1 - h(t)^2) W_hh along the states of one example.

    Args:
        params: those of a `VanillaRNN`.
        x: the inputs of one example, (N, input).

    Returns:
        J(1), ..., J(N): (N, hidden, hidden).

    Raises:
        UserError: `params` are not those of an RNN, or `x` has other axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.rnn_states import jacobians
        >>> zero, W_hh = torch.zeros(1, 1), torch.tensor([[0.5]])
        >>> params = {"W_hx": zero, "W_hh": W_hh, "b_h": torch.zeros(1)}
        >>> jacobians(params, torch.zeros(3, 1)).flatten()
        tensor([0.5000, 0.5000, 0.5000])
    """
    _expect_rnn("jacobians", params, 2, x=x)
    h = states(params, x[None])[0]
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])

    def step(h, x_t):
        return states(params, x_t[None, None], h[None])[0, 0]

    return torch.func.vmap(torch.func.jacrev(step))(before, x)


def jacobian_products(params: Params, x: Tensor) -> list[Tensor]:
    """Return dh(N)/dh(N-k) for k = 1, ..., N-1: the products of the last k Jacobians.

    Their norms say how far back a gradient reaches.

    Args:
        params: those of a `VanillaRNN`.
        x: the inputs of one example, (N, input).

    Returns:
        A list of N-1 tensors (hidden, hidden).

    Raises:
        UserError: `params` are not those of an RNN, or `x` has other axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.rnn_states import jacobian_products
        >>> zero, W_hh = torch.zeros(1, 1), torch.tensor([[0.5]])
        >>> params = {"W_hx": zero, "W_hh": W_hh, "b_h": torch.zeros(1)}
        >>> jacobian_products(params, torch.zeros(4, 1))
        [tensor([[0.5000]]), tensor([[0.2500]]), tensor([[0.1250]])]
    """
    _expect_rnn("jacobian_products", params, 2, x=x)
    product, found = torch.eye(len(params["b_h"]), dtype=x.dtype), []
    for J in reversed(jacobians(params, x)[1:].unbind(0)):
        product = product @ J
        found.append(product)
    return found


def principal_plane(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plane that the most variance of some points lies in.

    Args:
        points: (n, features), two of each or more.

    Returns:
        The mean (features,), and two orthonormal axes (2, features), that of the larger variance
        first. The sign of an axis is arbitrary.

    Raises:
        UserError: `points` is not such a tensor.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.rnn_states import principal_plane
        >>> points = torch.tensor([[5.0, 1.0], [-5.0, 1.0], [0.0, 2.0], [0.0, 0.0]])
        >>> mean, axes = principal_plane(points)
        >>> mean, axes.abs().round(decimals=3)
        (tensor([0., 1.]), tensor([[1., 0.],
                [0., 1.]]))
    """
    if not isinstance(points, Tensor) or points.ndim != 2 or min(points.shape) < 2:
        raise UserError(
            "principal_plane: points: needs a tensor (n, features), two of each or more"
        )
    points = points.double() if not points.is_floating_point() else widened(points)
    mean = points.mean(0)
    return mean, torch.linalg.svd(points - mean, full_matrices=False)[2][:2]


def _expect_rnn(function: str, params: Params, ndim: int, **arrays: Tensor) -> None:
    """Raise a UserError for params that are none of a `VanillaRNN`, or arrays of other axes."""
    expect_dicts(function, params=params)
    missing = [name for name in NAMES if not isinstance(params.get(name), Tensor)]
    if missing:
        raise UserError(f"{function}: params: needs the tensors {', '.join(missing)} of an RNN")
    for name, array in arrays.items():
        if not isinstance(array, Tensor) or array.ndim != ndim:
            raise UserError(f"{function}: {name}: needs a tensor of {ndim} axes")
