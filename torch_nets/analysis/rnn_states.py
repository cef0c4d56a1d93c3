"""What a vanilla RNN does over time: hidden states, gradients by them, Jacobians. All by
torch.func.

T is the length of a palindrome; N = T-1 digits are read, so time goes from 1 to N.
"""

import torch
from einops import rearrange
from torch import Tensor

from purenets.core.base import Params
from purenets.torch_nets.losses import cross_entropy


def states(
    params: Params, x: Tensor, h: Tensor | None = None, perturbations: Tensor | None = None
) -> Tensor:
    """Return all h(t) of equation (1): x (batch, N, input) -> (batch, N, hidden).

    Args:
        h: h(0), (batch, hidden), zeros by default.
        perturbations: (batch, N, hidden), added to the h(t) as they arise.
    """
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

    def loss(perturbations):
        last = states(params, x, perturbations=perturbations)[:, -1]
        return cross_entropy(last @ params["W_ph"].T + params["b_o"], y) * len(y)

    return torch.func.grad(loss)(x.new_zeros(*x.shape[:2], len(params["b_h"])))


def jacobians(params: Params, x: Tensor) -> Tensor:
    """J(t) = dh(t)/dh(t-1) = diag(1 - h(t)^2) W_hh along the way of one example: x (N, input) ->
    (N, hidden, hidden)."""
    h = states(params, x[None])[0]
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])

    def step(h, x_t):
        return states(params, x_t[None, None], h[None])[0, 0]

    return torch.func.vmap(torch.func.jacrev(step))(before, x)


def jacobian_products(params: Params, x: Tensor) -> list[Tensor]:
    """dh(N)/dh(N-k) for k = 1, ..., N-1: the products of the last k Jacobians."""
    product, found = torch.eye(len(params["b_h"]), dtype=x.dtype), []
    for J in reversed(jacobians(params, x)[1:].unbind(0)):
        product = product @ J
        found.append(product)
    return found


def principal_plane(points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (features,) and two principal axes (2, features) of points (n, features)."""
    mean = points.mean(0)
    return mean, torch.linalg.svd(points - mean, full_matrices=False)[2][:2]
