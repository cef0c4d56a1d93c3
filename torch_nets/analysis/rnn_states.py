"""What a vanilla RNN does over time: hidden states, gradients by them, Jacobians. All by
torch.func.

T is the length of a palindrome; N = T-1 digits are read, so time goes from 1 to N.
"""

import torch
from einops import rearrange
from torch import Tensor

from purenets.core.arguments import expect_arrays, expect_dicts
from purenets.core.base import Params, UserError
from purenets.torch_nets.losses import cross_entropy

NAMES = ("W_hx", "W_hh", "b_h")


def states(
    params: Params, x: Tensor, h: Tensor | None = None, perturbations: Tensor | None = None
) -> Tensor:
    """Return all h(t) of equation (1): x (batch, N, input) -> (batch, N, hidden).

    Args:
        h: h(0), (batch, hidden), zeros by default.
        perturbations: (batch, N, hidden), added to the h(t) as they arise.
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
    """dL_i/dh_i(t) of each example's own loss: (batch, N, hidden).

    It is the gradient by a nudge of h(t).
    """
    _expect_rnn("hidden_state_grads", params, 3, x=x)
    expect_arrays("hidden_state_grads", 1, y=y)

    def loss(perturbations):
        last = states(params, x, perturbations=perturbations)[:, -1]
        return cross_entropy(last @ params["W_ph"].T + params["b_o"], y) * len(y)

    return torch.func.grad(loss)(x.new_zeros(*x.shape[:2], len(params["b_h"])))


def jacobians(params: Params, x: Tensor) -> Tensor:
    """J(t) = dh(t)/dh(t-1) = diag(1 - h(t)^2) W_hh along the way of one example: x (N, input) ->
    (N, hidden, hidden)."""
    _expect_rnn("jacobians", params, 2, x=x)
    h = states(params, x[None])[0]
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])

    def step(h, x_t):
        return states(params, x_t[None, None], h[None])[0, 0]

    return torch.func.vmap(torch.func.jacrev(step))(before, x)


def jacobian_products(params: Params, x: Tensor) -> list[Tensor]:
    """dh(N)/dh(N-k) for k = 1, ..., N-1: the products of the last k Jacobians."""
    _expect_rnn("jacobian_products", params, 2, x=x)
    product, found = torch.eye(len(params["b_h"]), dtype=x.dtype), []
    for J in reversed(jacobians(params, x)[1:].unbind(0)):
        product = product @ J
        found.append(product)
    return found


def principal_plane(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (features,) and two principal axes (2, features) of points (n, features)."""
    if not isinstance(points, Tensor) or points.ndim != 2 or min(points.shape) < 2:
        raise UserError(
            "principal_plane: points: needs a tensor (n, features), two of each or more"
        )
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
