"""Normalizations: of a batch, of an example's features, of groups of channels."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from purenets.core.arguments import (
    FRACTION,
    NOT_NEGATIVE,
    expect_flags,
    expect_functions,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Model, Params, UserError
from purenets.core.memory import sized
from purenets.core.serial import (
    expect,
    expect_channels,
    expect_features,
    expect_running,
    expect_sizes,
)
from purenets.torch_nets.fast.tracing import is_differentiated
from purenets.torch_nets.layers.basic import expect_known_dtype, expect_tensor


def LayerNorm(n: int, *, eps: float = 1e-5, bias: bool = True) -> Model:
    """Return the layer that normalizes each example over its features.

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and variance over the last axis.

    Args:
        n: the length of the last axis.
        eps: added to the variance.
        bias: False for a layer without a bias.

    Returns:
        A layer (..., n) -> (..., n) with the params "weight" (n,), which begins at 1, and "bias"
        (n,), which begins at 0.

    Raises:
        UserError: `n` is not a positive integer, or `eps` is negative. When applied: params or
            inputs have other shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import LayerNorm
        >>> layer = LayerNorm(4)
        >>> params, buffers = layer.init(None)
        >>> layer.apply(params, buffers, torch.tensor([[1.0, 2.0, 3.0, 4.0]]))[0]
        tensor([[-1.3416, -0.4472,  0.4472,  1.3416]])

    Source:
        Ba et al. 2016, arXiv 1607.06450; torch.nn.LayerNorm.
    """
    expect_sizes("LayerNorm", n=n)
    expect_numbers("LayerNorm", NOT_NEGATIVE, eps=eps)
    expect_flags("LayerNorm", bias=bias)
    shapes = {"weight": (n,)} | ({"bias": (n,)} if bias else {})

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_features(x, n)
        expect_known_dtype(x, params["weight"])
        mixed = x.is_cpu and not is_differentiated()  # the CPU's kernel takes both dtypes
        wide = x if mixed else _as_weight(x, params)
        y = F.layer_norm(wide, (n,), params["weight"], params.get("bias"), eps)
        return y.to(x.dtype), buffers

    return Model(_affine_init(shapes), apply, uses_key=False, kind="LayerNorm")


def RMSNorm(n: int, *, eps: float | None = None) -> Model:
    """Return the layer that divides each example by the root mean square of its features.

    y = x / sqrt(mean(x^2) + eps) * weight, with the mean over the last axis.

    Args:
        n: the length of the last axis.
        eps: added to the mean square. None means the machine epsilon of the dtype of the mean, as
            in nn.RMSNorm: that of x, or of float32 if x is in half precision.

    Returns:
        A layer (..., n) -> (..., n) with the param "weight" (n,), which begins at 1.

    Raises:
        UserError: `n` is not a positive integer, or `eps` is negative. When applied: params or
            inputs have other shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import RMSNorm
        >>> layer = RMSNorm(2)
        >>> params, buffers = layer.init(None)
        >>> layer.apply(params, buffers, torch.tensor([[3.0, 4.0]]))[0]
        tensor([[0.8485, 1.1314]])

    Source:
        Zhang and Sennrich 2019, arXiv 1910.07467; torch.nn.RMSNorm.
    """
    expect_sizes("RMSNorm", n=n)
    if eps is not None:
        expect_numbers("RMSNorm", NOT_NEGATIVE, eps=eps)

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, {"weight": (n,)})
        expect_tensor(x)
        expect_features(x, n)
        expect_known_dtype(x, params["weight"])
        return F.rms_norm(_as_weight(x, params), (n,), params["weight"], eps).to(x.dtype), buffers

    return Model(_affine_init({"weight": (n,)}), apply, uses_key=False, kind="RMSNorm")


def GroupNorm(n: int, *, groups: int, eps: float = 1e-5) -> Model:
    """Return the layer that normalizes each example over groups of its channels.

    y = (x - mean) / sqrt(var + eps) * weight + bias, with mean and variance over the n / groups
    channels of a group and all their positions.

    Args:
        n: the number of channels.
        groups: the number of groups; it divides n.
        eps: added to the variance.

    Returns:
        A layer (batch, n, ...) -> (batch, n, ...) with the params "weight" (n,), which begins at 1,
        and "bias" (n,), which begins at 0.

    Raises:
        UserError: a size is not a positive integer, `groups` does not divide n, or `eps` is
            negative. When applied: params or inputs have other shapes, or the inputs another dtype.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import GroupNorm
        >>> layer = GroupNorm(4, groups=2)
        >>> params, buffers = layer.init(None)
        >>> layer.apply(params, buffers, torch.tensor([[1.0, 3.0, 10.0, 20.0]]))[0]
        tensor([[-1.0000,  1.0000, -1.0000,  1.0000]])

    Source:
        Wu and He 2018, arXiv 1803.08494; torch.nn.GroupNorm.
    """
    expect_sizes("GroupNorm", n=n, groups=groups)
    expect_numbers("GroupNorm", NOT_NEGATIVE, eps=eps)
    if n % groups:
        raise UserError(f"GroupNorm: {n} channels do not divide into {groups} groups")
    shapes = {"weight": (n,), "bias": (n,)}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        if x.ndim < 2 or x.shape[1] != n:
            raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, {n}, ...)")
        expect_known_dtype(x, params["weight"])
        wide = _as_weight(x, params)
        y = F.group_norm(wide, groups, params["weight"], params["bias"], eps)
        return y.to(x.dtype), buffers

    return Model(_affine_init(shapes), apply, uses_key=False, kind="GroupNorm")


def _affine_init(shapes: dict[str, tuple[int, ...]]) -> Callable:
    """Return `init(key)` of a weight of ones and a bias of zeros."""

    def init(key):
        ones = {name: torch.ones(shape, dtype=torch.float32) for name, shape in shapes.items()}
        return {name: leaf if name == "weight" else leaf * 0 for name, leaf in ones.items()}, {}

    return sized(init, shapes)


def _as_weight(x: Tensor, params: Params) -> Tensor:
    """Return x in the dtype of the weight where that is wider, as under `precision.cast`."""
    return x.to(torch.promote_types(x.dtype, params["weight"].dtype))


def BatchNorm(
    n: int,
    *,
    momentum: float = 0.1,
    eps: float = 1e-5,
    scale: bool = True,
    total: Callable[[Tensor], Tensor] | None = None,
) -> Model:
    """Return the layer that normalizes each channel or feature over the batch.

    y = (x - mean) / sqrt(var + eps) * weight + bias. In training mean and variance are those of the
    batch, and the running ones, moved towards them, come back in the buffers. In evaluation they
    are the running ones.

    Args:
        n: the number of channels or features.
        momentum: how far the running statistics move towards those of the batch.
        eps: added to the variance.
        scale: False for a layer without a weight, which is 1 then.
        total: a function that sums a tensor over all processes that share a batch
            (`torch_nets.distributed.total`); mean and variance are those of the whole batch then.

    Returns:
        A layer (batch, n), (batch, n, length) or (batch, n, H, W) -> the same shape. Params:
        "weight" (n,), which begins at 1, and "bias" (n,), which begins at 0. Buffers:
        "running_mean" and "running_var" (n,), and "num_batches_tracked".

    Raises:
        UserError: an argument is out of range. When applied: params or inputs have other shapes, or
            the inputs another dtype, buffers are missing, or a training batch has no or one value
            for each channel.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers import BatchNorm
        >>> layer = BatchNorm(1)
        >>> params, buffers = layer.init(None)
        >>> y, buffers = layer.apply(params, buffers, torch.tensor([[0.0], [2.0]]), train=True)
        >>> y.squeeze(1)
        tensor([-1.0000,  1.0000])
        >>> buffers["running_mean"], buffers["running_var"]  # 0.9 of the old, 0.1 of the batch's
        (tensor([0.1000]), tensor([1.1000]))

    Source:
        Ioffe and Szegedy 2015, arXiv 1502.03167; torch.nn.BatchNorm1d and BatchNorm2d.
    """
    expect_sizes("BatchNorm", n=n)
    expect_numbers("BatchNorm", FRACTION, momentum=momentum)
    expect_numbers("BatchNorm", NOT_NEGATIVE, eps=eps)
    expect_flags("BatchNorm", scale=scale)
    expect_functions("BatchNorm", **({} if total is None else {"total": total}))
    shapes = {"weight": (n,), "bias": (n,)} if scale else {"bias": (n,)}

    def init(key):
        zeros, ones = torch.zeros(n, dtype=torch.float32), torch.ones(n, dtype=torch.float32)
        params = {name: ones if name == "weight" else zeros for name in shapes}
        buffers = {"running_mean": zeros.clone(), "running_var": ones.clone()}
        return params, buffers | {"num_batches_tracked": torch.zeros((), dtype=torch.int64)}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        expect_tensor(x)
        expect_running(buffers, n)
        if x.ndim == 2:
            expect_features(x, n)
        else:
            expect_channels(x, n, ("length",) if x.ndim == 3 else ("height", "width"))
        bias = params["bias"]
        expect_known_dtype(x, bias)
        weight = params["weight"] if scale else torch.ones_like(bias)
        weight, bias = widened(weight), widened(bias)  # statistics have their dtype
        if not train:
            mean, var = (buffers[name].to(weight.dtype) for name in ("running_mean", "running_var"))
            y = F.batch_norm(_mixed(x, weight), mean, var, weight, bias, False, 0.0, eps)
            return y.to(x.dtype), buffers
        y, count, mean, var = _batch_normalized(x, weight, bias, eps, total)
        return y, _running_statistics(buffers, count, mean, var, momentum)

    return Model(sized(init, shapes), apply, uses_key=False, kind="BatchNorm")


def _mixed(x: Tensor, weight: Tensor) -> Tensor:
    """Return x as the kernel takes it, in lower precision too, but not under a transform."""
    return x.to(weight.dtype) if is_differentiated() else x


def _batch_normalized(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Callable | None
) -> tuple:
    """Return the normalized batch, the count of values of a channel, their mean and variance."""
    if total:
        return _batch_normalized_by_total(x, weight, bias, eps, total)
    if x.numel() <= x.shape[1]:
        raise UserError(
            f"batch of {x.shape[0]} with {'one' if x.numel() else 'no'} value a channel: "
            "BatchNorm trains on two or more"
        )
    y, mean, inverse_deviation = torch.native_batch_norm(
        _mixed(x, weight), weight, bias, None, None, True, 0.0, eps
    )
    return y.to(x.dtype), x.numel() / x.shape[1], mean, inverse_deviation.detach() ** -2 - eps


def _batch_normalized_by_total(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, total: Callable[[Tensor], Tensor]
) -> tuple:
    """Return what `_batch_normalized` returns, of a batch that several processes share."""

    def channels(v):
        return v.view(-1, *[1] * (x.ndim - 2))

    wide = widened(x.to(weight.dtype))
    count = total(wide.new_full((), x.numel() / x.shape[1]))
    others = [axis for axis in range(x.ndim) if axis != 1]
    mean = total(wide.sum(dim=others)) / count
    var = total(((wide - channels(mean)) ** 2).sum(dim=others)) / count
    scale = weight / torch.sqrt(var + eps)
    y = wide * channels(scale) + channels(bias - mean * scale)
    return y.to(x.dtype), count, mean, var.detach()


def _moved(old: Tensor, value: Tensor, momentum: float) -> Tensor:
    """Return old statistics moved towards those of a batch, which may be beyond half precision."""
    wide = widened(old)
    return torch.lerp(wide, value.to(wide.dtype), momentum).to(old.dtype)


def _running_statistics(buffers, count, mean: Tensor, var: Tensor, momentum: float) -> dict:
    """Return the buffers with the running statistics moved towards those of a batch."""
    var = var * (count / (count - 1))  # unbiased, as in PyTorch
    moved = {
        name: _moved(buffers[name], value, momentum)
        for name, value in (("running_mean", mean.detach()), ("running_var", var))
    }
    return moved | {"num_batches_tracked": buffers["num_batches_tracked"] + 1}
