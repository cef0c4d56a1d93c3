"""Laplace's approximation: a Gaussian over the params of a trained net, and what it predicts.

    posterior = kfac_laplace(model, params, buffers, (x, y), prior_precision=1.0)
    mean, covariance = linearized_predictive(model, posterior, buffers, x_test)
    probabilities = probit_predictive(mean, covariance)

The precision of the posterior is n G + prior_precision I: G is the Gauss-Newton matrix of the mean
loss, which has to be a mean negative log-likelihood (a cross-entropy; |z - y|^2 / (2 sigma^2)), n
the number of examples. The variants differ in what they keep of G: its diagonal, a Kronecker
product for each layer, or all of it for the last layer alone. Nothing branches on a value:
`torch.func.vmap` over `prior_precision` compares many priors in one call.

Source: MacKay 1992; Daxberger et al. 2021, "Laplace redux".
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor
from torch.func import vjp, vmap

from purenets.core import random, tree
from purenets.core.arguments import (
    POSITIVE,
    expect_dicts,
    expect_integers,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.data.checks import input_leaves
from purenets.torch_nets.analysis.curvature import eval_loss_fn, ggn_vp
from purenets.torch_nets.analysis.diagonal import ggn_diagonal
from purenets.torch_nets.analysis.ghost_terms import rows_of
from purenets.torch_nets.analysis.kfac import eigen_block, kfac, kfac_eigenvectors_vp
from purenets.torch_nets.analysis.operators import damped, expect_net, to_dense
from purenets.torch_nets.analysis.per_example import check_chunk
from purenets.torch_nets.analysis.single_output import single_output
from purenets.torch_nets.grad import expect_tensors
from purenets.torch_nets.keys import key_like
from purenets.torch_nets.losses import cross_entropy


class Posterior(NamedTuple):
    """A Gaussian over params.

    Args:
        mean: the params of the trained net.
        covariance_vp: v -> S v, over dicts like the params.
        sqrt_vp: e -> L e with L L^T = S; of standard normal e it is a draw around 0.
        log_marginal_likelihood: log p(data) by Laplace's approximation, to choose a prior by.
    """

    mean: Params
    covariance_vp: Callable[[Params], Params]
    sqrt_vp: Callable[[Params], Params]
    log_marginal_likelihood: Tensor


def diagonal_laplace(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    *,
    prior_precision: float | Tensor = 1.0,
    n_data: int | None = None,
    chunk_size: int | None = None,
) -> Posterior:
    """Return Laplace's posterior with independent params.

    The precision is the diagonal of the Gauss-Newton matrix and that of the prior.

    Args:
        model: the network.
        params: its trained params.
        buffers: tensors by name.
        batch: the training set, or a part of it.
        loss: `loss(logits, targets) -> scalar`, the mean negative log-likelihood.
        prior_precision: 1 / variance of the prior, which is centered at 0; it is a weight decay of
            prior_precision / n in the mean loss.
        n_data: the size of the training set, where `batch` is a part of it.
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        A `Posterior`, for `linearized_predictive` and `sample_posterior`.

    Raises:
        UserError: an argument is wrong, or `n_data` is less than the examples of the batch.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.laplace import diagonal_laplace
        >>> nll = lambda z, y: ((z - y) ** 2).mean() / 2  # normal noise of variance 1
        >>> model, params = layers.Linear(1, 1, bias=False), {"weight": torch.tensor([[2.0]])}
        >>> batch = torch.ones(3, 1), torch.full((3, 1), 2.0)
        >>> posterior = diagonal_laplace(model, params, {}, batch, nll, prior_precision=1.0)
        >>> posterior.covariance_vp({"weight": torch.ones(1, 1)})["weight"]  # 1 / (3 + 1)
        tensor([[0.2500]])

    Source:
        MacKay 1992, "A practical Bayesian framework for backpropagation networks"; laplace-torch:
        Daxberger et al. 2021, arXiv 2106.14806.
    """
    n = _examples("diagonal_laplace", model, params, buffers, batch, loss, prior_precision, n_data)
    diagonal = ggn_diagonal(model, params, buffers, batch, loss, chunk_size=chunk_size)
    precision = tree.map(lambda d: n * d + prior_precision, diagonal)
    log_det = sum(p.log().sum() for p in precision.values())
    evidence = _evidence(model, params, buffers, batch, loss, n, prior_precision, log_det, params)
    return Posterior(
        params,
        lambda v: tree.map(lambda leaf, p: leaf / p, v, precision),
        lambda e: tree.map(lambda leaf, p: leaf / p.sqrt(), e, precision),
        evidence,
    )


def kfac_laplace(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    *,
    prior_precision: float | Tensor = 1.0,
    n_data: int | None = None,
    sharing: str = "expand",
    chunk_size: int | None = None,
) -> Posterior:
    """Return Laplace's posterior with a Kronecker-factored precision for each layer.

    The prior is added exactly, by the eigenvectors of the factors. A weight and its bias are one
    block; laplace-torch has one for each.

    Args:
        model, params, buffers, batch, loss, prior_precision, n_data: as in `diagonal_laplace`.
        sharing: "expand" or "reduce", as in `kfac`.
        chunk_size: backward passes at a time, as in `kfac`.

    Returns:
        A `Posterior`, for `linearized_predictive` and `sample_posterior`.

    Raises:
        UserError: an argument is wrong, or a leaf belongs to no linear layer or convolution.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.laplace import kfac_laplace
        >>> nll = lambda z, y: ((z - y) ** 2).mean() / 2  # normal noise of variance 1
        >>> model, params = layers.Linear(1, 1, bias=False), {"weight": torch.tensor([[2.0]])}
        >>> batch = torch.ones(3, 1), torch.full((3, 1), 2.0)
        >>> posterior = kfac_laplace(model, params, {}, batch, nll, prior_precision=1.0)
        >>> posterior.covariance_vp({"weight": torch.ones(1, 1)})["weight"]  # 1 / (3 + 1)
        tensor([[0.2500]])

    Source:
        Ritter et al. 2018, "A scalable Laplace approximation for neural networks"; Daxberger et al.
        2021, arXiv 2106.14806.
    """
    n = _examples("kfac_laplace", model, params, buffers, batch, loss, prior_precision, n_data)
    factors = kfac(model, params, buffers, batch, loss, sharing=sharing, chunk_size=chunk_size)
    blocks = [eigen_block(block) for block in factors]
    precision = lambda values: n * values + prior_precision
    log_det = sum(precision(block.values).log().sum() for block in blocks)
    evidence = _evidence(model, params, buffers, batch, loss, n, prior_precision, log_det, params)
    return Posterior(
        params,
        lambda v: kfac_eigenvectors_vp(blocks, v, lambda values: 1 / precision(values)),
        lambda e: kfac_eigenvectors_vp(blocks, e, lambda values: precision(values) ** -0.5),
        evidence,
    )


def last_layer_laplace(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    *,
    prior_precision: float | Tensor = 1.0,
    n_data: int | None = None,
    layer: str | None = None,
) -> Posterior:
    """Return Laplace's posterior of the last layer, with its whole covariance.

    All other params are taken as known.

    Args:
        model, params, buffers, batch, loss, prior_precision, n_data: as in `diagonal_laplace`.
        layer: the name of the layer, such as "fc2" or "blocks.1", with or without a last dot; ""
            for all params; None for the layer of the last of the params.

    Returns:
        A `Posterior`, for `linearized_predictive` and `sample_posterior`.

    Raises:
        UserError: an argument is wrong, or no leaf is of that layer.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.laplace import last_layer_laplace
        >>> nll = lambda z, y: ((z - y) ** 2).mean() / 2  # normal noise of variance 1
        >>> model, params = layers.Linear(1, 1, bias=False), {"weight": torch.tensor([[2.0]])}
        >>> batch = torch.ones(3, 1), torch.full((3, 1), 2.0)
        >>> posterior = last_layer_laplace(model, params, {}, batch, nll, prior_precision=1.0)
        >>> posterior.covariance_vp({"weight": torch.ones(1, 1)})["weight"]  # 1 / (3 + 1)
        tensor([[0.2500]])

    Source:
        Daxberger et al. 2021, arXiv 2106.14806.
    """
    n = _examples(
        "last_layer_laplace", model, params, buffers, batch, loss, prior_precision, n_data
    )
    last = _leaves_of(params, layer)
    x, y = batch
    outputs = lambda p: model.apply({**params, **p}, buffers, x)[0]
    product = lambda v: tree.map(lambda Gv: n * Gv, ggn_vp(outputs, lambda z: loss(z, y), last, v))
    precision = to_dense(damped(product, prior_precision), last)
    root = torch.linalg.cholesky(precision)  # P = R R^T
    log_det = 2 * root.diagonal().log().sum()
    evidence = _evidence(model, params, buffers, batch, loss, n, prior_precision, log_det, last)

    def within(f: Callable[[Tensor], Tensor]) -> Callable[[Params], Params]:
        def product(v: Params) -> Params:
            vector, unravel = tree.ravel({name: v[name] for name in last})
            moved = unravel(f(widened(vector)[:, None])[:, 0])
            return {name: moved.get(name, torch.zeros_like(leaf)) for name, leaf in v.items()}

        return product

    return Posterior(
        params,
        within(lambda v: torch.cholesky_solve(v, root)),
        within(lambda e: torch.linalg.solve_triangular(root.mT, e, upper=True)),
        evidence,
    )


def _leaves_of(params: Params, layer: str | None) -> Params:
    """Return the leaves of the layer, the last one by default."""
    if layer is None:
        own = _layer_of(next(reversed(params), ""))
        last = {name: p for name, p in params.items() if _layer_of(name) == own}
    elif isinstance(layer, str):
        begin = layer and layer.removesuffix(".") + "."  # "fc1" is not the beginning of "fc10"
        last = {name: p for name, p in params.items() if name.startswith(begin)}
    else:
        last = {}
    if not last:
        known = ", ".join(dict.fromkeys(map(_layer_of, params)))
        raise UserError(f"last_layer_laplace: layer is {layer!r}, needs one of {known}")
    return last


def _layer_of(name: str) -> str:
    """Return "fc2" of "fc2.weight", and "" of a leaf that no layer holds."""
    return name.rpartition(".")[0]


def _examples(
    function, model, params, buffers, batch, loss, prior_precision, n_data: int | None
) -> int:
    """Check the arguments, and return the number of examples that the posterior is of."""
    n = expect_net(function, model, params, buffers, batch, loss)
    expect_numbers(function, POSITIVE, prior_precision=prior_precision)
    if n_data is not None:
        expect_integers(function, n, n_data=n_data)
    return n if n_data is None else n_data


def _evidence(model, params, buffers, batch, loss, n, prior_precision, log_det, of) -> Tensor:
    """Return log p(data): the log-likelihood, the log-prior of the leaves `of`, and the volume."""
    value = eval_loss_fn(model, buffers, batch, loss)(params)
    square = sum(widened(p).square().sum() for p in of.values())
    size = tree.size(of)
    log = math.log if isinstance(prior_precision, int | float) else torch.log
    volume = size * log(prior_precision) - log_det
    return -n * value + (volume - prior_precision * square) / 2


# --- what it predicts -----------------------------------------------------------------------------


def sample_posterior(posterior: Posterior, key: Tensor, num_samples: int) -> Params:
    """Return params drawn from a posterior.

    Args:
        posterior: what `kfac_laplace` or another of these functions returned.
        key: the source of the draws.
        num_samples: how many.

    Returns:
        A dict with leaves (num_samples, ...), for torch.func.vmap.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.laplace import Posterior, sample_posterior
        >>> halved = lambda v: {"w": 0.5 * v["w"]}  # a standard deviation of 0.5
        >>> posterior = Posterior({"w": torch.ones(1)}, halved, halved, torch.tensor(0.0))
        >>> samples = sample_posterior(posterior, torch.as_tensor(random.key(0)), 1000)["w"]
        >>> samples.shape, bool(0.4 < samples.std() < 0.6)
        (torch.Size([1000, 1]), True)
    """
    _expect_posterior("sample_posterior", posterior)
    expect_integers("sample_posterior", 1, num_samples=num_samples)
    key = random.check_key(key_like(key, posterior.mean))

    def one(key):
        noise = {}
        for i, (name, p) in enumerate(posterior.mean.items()):
            wide = widened(p).dtype
            draw = random.normal(random.fold_in(key, i), p.shape, str(wide).split(".")[-1])
            noise[name] = draw
        moved = posterior.sqrt_vp(noise)
        return {name: (p + moved[name]).to(p.dtype) for name, p in posterior.mean.items()}

    return vmap(one)(random.split(key, num_samples))


def linearized_predictive(
    model: Model,
    posterior: Posterior,
    buffers: Buffers,
    x: Tensor,
    *,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the mean and covariance of the logits of a net that is linearized in its params.

    The logits are f(x) + J (p - mean), so a normal posterior of p gives normal logits. The
    posterior is that of this linear net, which therefore is the one to predict with.

    Args:
        model: the network.
        posterior: what `kfac_laplace` or another of these functions returned.
        buffers: tensors by name.
        x: inputs (batch, ...).
        chunk_size: examples at a time, which limits the memory; None for all.

    Returns:
        The mean (batch, C) and the covariance (batch, C, C); of outputs (batch, *shape) it is
        (batch, *shape, *shape), such as (batch,) where an example has one number.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.analysis.laplace import Posterior, linearized_predictive
        >>> quarter = lambda v: {"weight": 0.25 * v["weight"]}  # a variance of 1 / 4
        >>> half = lambda v: {"weight": 0.5 * v["weight"]}
        >>> posterior = Posterior({"weight": torch.ones(1, 1)}, quarter, half, torch.tensor(0.0))
        >>> model, x = layers.Linear(1, 1, bias=False), torch.tensor([[4.0]])
        >>> linearized_predictive(model, posterior, {}, x)  # 16 times that variance
        (tensor([[4.]]), tensor([[[4.]]]))

    Source:
        Immer, Korzepa and Bauer 2021, arXiv 2008.08400.
    """
    expect_models("linearized_predictive", ("apply",), model=model)
    _expect_posterior("linearized_predictive", posterior)
    expect_dicts("linearized_predictive", buffers=buffers)
    expect_tensors(posterior.mean, (x, x))
    _expect_inputs("linearized_predictive", x)
    check_chunk(chunk_size)

    def one(x):
        logits, pull = vjp(lambda p: single_output(model, p, buffers, x), posterior.mean)
        n, shape = logits.numel(), logits.shape
        eye = torch.eye(n, dtype=logits.dtype, device=logits.device)
        (J,) = vmap(pull)(eye.reshape(n, *shape))
        spread = vmap(posterior.covariance_vp)(J)
        parts = [
            einsum(*(rows_of(widened(part[name])) for part in (J, spread)), "a p, b p -> a b")
            for name in J
        ]
        return logits, sum(parts).reshape((*shape, *shape))

    return vmap(one, chunk_size=chunk_size)(x)


def _expect_inputs(function: str, x) -> None:
    """Raise a UserError unless x is a tensor (batch, ...), or a container of several."""
    leaves = [*input_leaves(x)]
    if not leaves:
        raise UserError(f"{function}: x: no inputs, needs a tensor (batch, ...)")
    for leaf in leaves:
        if not isinstance(leaf, Tensor) or not leaf.ndim:
            kind = "tensor of no axis" if isinstance(leaf, Tensor) else type(leaf).__name__
            raise UserError(f"{function}: x: a {kind}, needs a tensor (batch, ...)")
    if len({leaf.shape[0] for leaf in leaves}) > 1:
        raise UserError(f"{function}: x: its tensors differ in their number of examples")


def _expect_posterior(function: str, posterior: Posterior) -> None:
    if not isinstance(posterior, Posterior):
        kind = type(posterior).__name__
        raise UserError(f"{function}: posterior: a {kind}, needs what kfac_laplace(...) returns")


def probit_predictive(mean: Tensor, covariance: Tensor) -> Tensor:
    """Return the class probabilities of normal logits, softmax(mean / sqrt(1 + pi/8 variance)).

    Uncertain logits give probabilities closer to even.

    Args:
        mean: (batch, C), as `linearized_predictive` returns it.
        covariance: (batch, C, C), as `linearized_predictive` returns it.

    Returns:
        Probabilities (batch, C).

    Raises:
        UserError: an argument is not a tensor of floats, or the shapes do not fit.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.laplace import probit_predictive
        >>> mean = torch.tensor([[2.0, 0.0]])
        >>> probit_predictive(mean, torch.zeros(1, 2, 2))
        tensor([[0.8808, 0.1192]])
        >>> probit_predictive(mean, 10 * torch.eye(2)[None])
        tensor([[0.7112, 0.2888]])

    Source:
        MacKay 1992, "The evidence framework applied to classification networks".
    """
    _expect_moments(mean, covariance)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    return torch.softmax(mean / torch.sqrt(1 + math.pi / 8 * variance), dim=-1)


def _expect_moments(mean: Tensor, covariance: Tensor) -> None:
    """Raise a UserError unless these are a mean (..., C) and a covariance (..., C, C)."""
    for name, value in (("mean", mean), ("covariance", covariance)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or not value.ndim:
            kind = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise UserError(f"probit_predictive: {name}: a {kind}, needs a tensor of floats")
    if covariance.shape != (*mean.shape, mean.shape[-1]):
        raise UserError(
            f"probit_predictive: covariance is of shape {tuple(covariance.shape)}, "
            f"needs {(*mean.shape, mean.shape[-1])} for a mean of shape {tuple(mean.shape)}"
        )
