"""Attention as nn.MultiheadAttention, and a transformer block as nn.TransformerEncoderLayer.

Axes: (batch, steps, features); within an attention (batch, heads, steps, features of a head).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from purenets.core import random, tree
from purenets.core.arguments import expect_choice, expect_flags, shown
from purenets.core.arrays import widened
from purenets.core.base import Model, Params, UserError
from purenets.core.memory import sized
from purenets.core.serial import by_layer, expect, expect_sizes, serial_init
from purenets.torch_nets.fast.tracing import is_forward_mode, is_transformed
from purenets.torch_nets.keys import key_like
from purenets.torch_nets.layers.basic import (
    GELU,
    Dropout,
    Linear,
    ReLU,
    SiLU,
    expect_dtype,
    expect_tensor,
    torch_key,
)
from purenets.torch_nets.layers.norms import LayerNorm

IDIOMS = "say mask[:, None, None, :] for (batch, keys), mask[None, None] for (queries, keys)"

# --- attention ------------------------------------------------------------------------------------


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Return softmax(q k^T / sqrt(features)) v.

    It runs torch's fused kernel. That kernel has no rules for batching, second and forward
    derivatives, so under torch.func the formula is written out.

    Args:
        q: queries, (..., queries, features).
        k: keys, (..., keys, features).
        v: values, (..., keys, features).
        mask: booleans that broadcast to (..., queries, keys), True where a query may see a key. The
            output of a query that sees nothing is 0.
        causal: each step sees only itself and the steps before it. With a mask, it sees those that
            both allow.

    Returns:
        A tensor (..., queries, features).

    Raises:
        UserError: q, k and v do not fit, or the mask is not boolean or does not broadcast to (...,
            queries, keys).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.attention import attention
        >>> q = k = torch.zeros(2, 1)  # equal scores: the mean of the values that are seen
        >>> attention(q, k, torch.tensor([[1.0], [3.0]]), causal=True)
        tensor([[1.],
                [2.]])

    Source:
        Vaswani et al. 2017, arXiv 1706.03762; torch.nn.functional.scaled_dot_product_attention.
    """
    _expect_parts(q, k, v)
    if not (is_transformed() or is_forward_mode()):
        seen = mask if mask is None else _seen(q, k, mask, causal)
        return F.scaled_dot_product_attention(q, k, v, seen, is_causal=causal and mask is None)
    return attention_weights(q, k, mask, causal=causal) @ v


def attention_weights(
    q: Tensor, k: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Return the weights of `attention`: how much of each value a query takes.

    Args:
        q: queries, (..., queries, features).
        k: keys, (..., keys, features).
        mask, causal: as in `attention`.

    Returns:
        A tensor (..., queries, keys). The weights of a query sum to 1, or to 0 if it sees nothing.

    Raises:
        UserError: as for `attention`.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.layers.attention import attention_weights
        >>> attention_weights(torch.zeros(2, 1), torch.zeros(2, 1), causal=True)
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000]])
    """
    _expect_parts(q, k)
    scores = widened(q) @ widened(k).mT / math.sqrt(q.shape[-1])  # as the fused kernel has them
    if mask is None and not causal:
        return scores.softmax(-1).to(q.dtype)
    mask = _seen(q, k, mask, causal)
    blind = ~mask.any(-1, keepdim=True)  # softmax of nothing would be NaN
    weights = scores.masked_fill(~(mask | blind), -math.inf).softmax(-1)
    return weights.masked_fill(blind, 0.0).to(q.dtype)


def _expect_parts(q: Tensor, k: Tensor, v: Tensor | None = None) -> None:
    """Raise a UserError unless queries, keys and values fit; torch's kernel does not look."""
    parts = {"q": q, "k": k} | ({} if v is None else {"v": v})
    for name, x in parts.items():
        if not isinstance(x, Tensor) or x.ndim < 2:
            right = "a tensor (..., steps, features)"
            raise UserError(f"attention: {name} is {shown(x)}, needs {right}")
        if x.dtype != q.dtype:
            raise UserError(f"attention: {name} is of {x.dtype}, q of {q.dtype}; needs one dtype")
    shapes = ", ".join(f"{name} {tuple(x.shape)}" for name, x in parts.items())
    if q.shape[-1] != k.shape[-1]:
        raise UserError(f"attention: {shapes}: queries and keys need as many features")
    if v is not None and k.shape[-2] != v.shape[-2]:
        raise UserError(f"attention: {shapes}: needs a value for each key")
    try:
        torch.broadcast_shapes(*(x.shape[:-2] for x in parts.values()))
    except RuntimeError as error:
        raise UserError(f"attention: {shapes}: the axes in front do not broadcast") from error


def _seen(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """Return which keys each query sees, by the mask, by being causal, or by both."""
    if mask is not None:
        around = torch.broadcast_shapes(q.shape[:-2], k.shape[:-2])
        _expect_mask(mask, (*around, q.shape[-2], k.shape[-2]))
    if not causal:
        return mask
    before = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    return before if mask is None else mask & before


def _expect_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a UserError unless a mask holds booleans that broadcast to (..., queries, keys)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim == 0:
        raise UserError(
            f"mask: {shown(mask)}, needs booleans, True where a query may see a key; masks of "
            "torch.nn say the opposite: ~mask"
        )
    pairs = zip(mask.shape[::-1], shape[::-1], strict=False)
    if any(n not in (1, size) for n, size in pairs) or mask.ndim > len(shape):
        hint = f"; {IDIOMS}" if len(shape) == 4 else ""
        raise UserError(
            f"mask: shape is {tuple(mask.shape)}, does not broadcast to (..., queries, keys), here "
            f"{shape}{hint}"
        )


def MultiheadAttention(
    n: int, heads: int, *, bias: bool = True, causal: bool = False, dropout: float = 0.0
) -> Model:
    """Return a layer of several attentions side by side, with projections before and after.

    Args:
        n: features of inputs and outputs.
        heads: the number of attentions; each has n / heads features.
        bias: False for projections without biases.
        causal: each step sees only itself and the steps before it. With a mask, it sees those that
            both allow.
        dropout: the probability of dropping an attention weight, in training; it needs a key.

    Returns:
        A layer (batch, steps, n) -> (batch, steps, n). Its input is x for self-attention, or a
        tuple (query, key, value) or (query, key, value, mask), each (batch, steps, n). The mask
        holds booleans that broadcast to (batch, heads, queries, keys), True where a query may see a
        key; masks of nn.MultiheadAttention say the opposite. For padding, where `real` is (batch,
        keys) with True at the keys that are no padding, the mask is real[:, None, None, :]. Params
        have the names of torch.nn.MultiheadAttention.

    Raises:
        UserError: a size is not a positive integer, or heads do not divide n. When applied: inputs
            have other shapes or another dtype, or a mask is not boolean, does not broadcast, or is
            ambiguous: its first axis may be the batch, or the queries (two axes) or heads (three).

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import MultiheadAttention
        >>> layer = MultiheadAttention(8, heads=2, causal=True)
        >>> params, _ = layer.init(random.key(0))
        >>> x = torch.ones(1, 3, 8)
        >>> later = torch.cat([x[:, :2], -x[:, 2:]], dim=1)  # another last step
        >>> y, z = (layer.apply(params, {}, inputs)[0] for inputs in (x, later))
        >>> torch.allclose(y[:, :2], z[:, :2]), torch.allclose(y[:, 2], z[:, 2])
        (True, False)

    Source:
        Vaswani et al. 2017, arXiv 1706.03762; torch.nn.MultiheadAttention(batch_first=True).
    """
    expect_sizes("MultiheadAttention", n=n, heads=heads)
    n, heads = int(n), int(heads)
    expect_flags("MultiheadAttention", bias=bias, causal=causal)
    if n % heads:
        raise UserError(f"MultiheadAttention: {n} features do not divide into {heads} heads")
    drop, out = Dropout(dropout), Linear(n, n, bias=bias)
    shapes = {"in_proj_weight": (3 * n, n)} | ({"in_proj_bias": (3 * n,)} if bias else {})
    shapes |= {"out_proj.weight": (n, n)} | ({"out_proj.bias": (n,)} if bias else {})

    def init(key):
        in_key, out_key = random.split(torch_key(key))
        bound = math.sqrt(6 / (4 * n))  # Glorot and Bengio 2010, of (3 n, n)
        weight = random.uniform(in_key, (3 * n, n), low=-bound, high=bound)
        params = {"in_proj_weight": weight} | tree.prefixed(out.init(out_key)[0], "out_proj.")
        zeros = {name: shapes[name] for name in ("in_proj_bias", "out_proj.bias") if bias}
        params |= {name: torch.zeros(shape, dtype=torch.float32) for name, shape in zeros.items()}
        return {name: params[name] for name in shapes}, {}

    def apply(params, buffers, x, *, train=False, key=None):
        expect(params, shapes)
        parts, mask = _inputs(x, n, heads)
        for part in parts:
            expect_dtype(part, params["in_proj_weight"])
        q, k, v = (_split_heads(y, heads) for y in _projected(params, parts))
        if train and dropout:
            weights = attention_weights(q, k, mask, causal=causal)
            y = drop.apply({}, {}, weights, train=True, key=key)[0] @ v
        else:
            y = attention(q, k, v, mask, causal=causal)
        y = rearrange(y, "b heads t d -> b t (heads d)")
        return out.apply(tree.select(params, "out_proj."), {}, y)[0], buffers

    return Model(sized(init, shapes), apply, uses_key=dropout > 0, kind="MultiheadAttention")


def _inputs(x, n: int, heads: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return (x,) or (query, key, value), and the mask; a UserError for other shapes."""
    parts = x if isinstance(x, tuple) else (x,)
    if len(parts) not in (1, 3, 4):
        raise UserError(f"input: {len(parts)} arrays, needs x, or query, key, value and a mask")
    parts, mask = parts[:3], parts[3] if len(parts) == 4 else None
    for part in parts:
        expect_tensor(part)
        if part.ndim != 3 or part.shape[-1] != n:
            raise UserError(f"input: shape is {tuple(part.shape)}, expected (batch, steps, {n})")
    if isinstance(mask, Tensor) and mask.ndim in (2, 3) and not torch.compiler.is_exporting():
        _expect_one_meaning(mask, parts[0], heads)
    return parts, mask


def _expect_one_meaning(mask: Tensor, x: Tensor, heads: int) -> None:
    """Raise a UserError for a mask whose first axis may be that of the batch and another one.

    That of (n, keys) is the queries' as well, that of (n, queries, keys) the heads'.
    """
    other, size = ("queries", x.shape[1]) if mask.ndim == 2 else ("heads", heads)
    if 1 < mask.shape[0] == x.shape[0] == size:
        of_3 = "say mask[:, None] for the batch, mask[None] for the heads"
        raise UserError(
            f"mask: shape is {tuple(mask.shape)}, and {len(x)} are the batch and the {other}; "
            f"{IDIOMS if mask.ndim == 2 else of_3}"
        )


def _projected(params: Params, parts: tuple[Tensor, ...]) -> list[Tensor]:
    """Return the queries, keys and values: one product where all come of the same x."""
    weight, bias = params["in_proj_weight"], params.get("in_proj_bias")
    if len(parts) == 1 or all(part is parts[0] for part in parts):
        return list(F.linear(parts[0], weight, bias).chunk(3, -1))
    biases = (None,) * 3 if bias is None else bias.chunk(3)
    return [F.linear(*each) for each in zip(parts, weight.chunk(3), biases, strict=True)]


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b t (heads d) -> b heads t d", heads=heads)


# --- transformer ----------------------------------------------------------------------------------

ACTIVATIONS: dict[str, Callable[[], Model]] = {
    "relu": ReLU,
    "gelu": lambda: GELU(approximate="none"),  # as nn.TransformerEncoderLayer's
    "silu": SiLU,
}


def TransformerBlock(
    n: int,
    heads: int,
    n_feedforward: int = 2048,
    *,
    activation: str = "relu",
    norm_first: bool = False,
    bias: bool = True,
    causal: bool = False,
    dropout: float = 0.0,
) -> Model:
    """Return a block of a transformer: self-attention and two linear layers, with residuals.

        x = norm1(x + self_attn(x))
        x = norm2(x + linear2(activation(linear1(x))))

    Args:
        n: features of inputs and outputs.
        heads: the number of attentions; each has n / heads features.
        n_feedforward: units between the two linear layers.
        activation: "relu", "gelu" (exact) or "silu".
        norm_first: True to normalize the input of each part instead: x = x + self_attn(norm1(x))
            and x = x + linear2(activation(linear1(norm2(x)))).
        bias: False for layers without biases.
        causal: each step sees only itself and the steps before it. With a mask, it sees those that
            both allow.
        dropout: the probability of dropping attention weights, activations and what is added to x,
            in training; it needs a key. PyTorch's default is 0.1.

    Returns:
        A layer (batch, steps, n) -> (batch, steps, n). With inputs (x, mask) it returns (y, mask),
        so that the next block gets the mask too; the mask is that of `MultiheadAttention`:
        real[:, None, None, :] for `real` (batch, steps), True where a step is no padding.

    Raises:
        UserError: a size is not a positive integer, heads do not divide n, or `activation` is
            another name. When applied: inputs have other shapes.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import TransformerBlock, serial
        >>> net = serial(block1=TransformerBlock(8, 2, 16), block2=TransformerBlock(8, 2, 16))
        >>> params, buffers = net.init(random.key(0))
        >>> net.apply(params, buffers, torch.zeros(5, 10, 8))[0].shape
        torch.Size([5, 10, 8])

    Source:
        Vaswani et al. 2017, arXiv 1706.03762; torch.nn.TransformerEncoderLayer(batch_first=True).
    """
    expect_sizes("TransformerBlock", n=n, heads=heads, n_feedforward=n_feedforward)
    n, heads, n_feedforward = int(n), int(heads), int(n_feedforward)
    expect_choice("TransformerBlock", ACTIVATIONS, activation=activation)
    expect_flags("TransformerBlock", norm_first=norm_first)
    layers = _block_layers(n, heads, n_feedforward, activation, norm_first, bias, causal, dropout)
    drop = Dropout(dropout)

    def apply(params, buffers, x, *, train=False, key=None):
        x, *mask = x if isinstance(x, tuple) else (x,)
        own, key = by_layer(layers, params, "params"), key_like(key, x)
        keys = [None if key is None else random.fold_in(key, i) for i in range(4)]

        def call(name, x, key=None):
            return layers[name].apply(own.get(name, {}), {}, x, train=train, key=key)[0]

        def dropped(x, i):
            return drop.apply({}, {}, x, train=train, key=keys[i])[0]

        def attend(x):
            inputs = (x, x, x, *mask) if mask else x
            return dropped(call("self_attn", inputs, keys[0]), 1)

        def feed_forward(x):
            hidden = call(activation, call("linear1", x))
            return dropped(call("linear2", dropped(hidden, 2)), 3)

        if norm_first:
            x = x + attend(call("norm1", x))
            x = x + feed_forward(call("norm2", x))
        else:
            x = call("norm1", x + attend(x))
            x = call("norm2", x + feed_forward(x))
        return ((x, *mask) if mask else x), buffers

    init, uses_key = serial_init(layers), dropout > 0
    return Model(init, apply, uses_key, "TransformerBlock", layers)


def _block_layers(
    n: int,
    heads: int,
    n_feedforward: int,
    activation: str,
    norm_first: bool,
    bias: bool,
    causal: bool,
    dropout: float,
) -> dict[str, Model]:
    """Return the layers of a block by torch's names, in their order."""
    attend = MultiheadAttention(n, heads, bias=bias, causal=causal, dropout=dropout)
    norms = {name: LayerNorm(n, bias=bias) for name in ("norm1", "norm2")}
    feed_forward = {
        "linear1": Linear(n, n_feedforward, bias=bias),
        activation: ACTIVATIONS[activation](),
        "linear2": Linear(n_feedforward, n, bias=bias),
    }
    if norm_first:
        return {
            "norm1": norms["norm1"],
            "self_attn": attend,
            "norm2": norms["norm2"],
        } | feed_forward
    return {"self_attn": attend, "norm1": norms["norm1"]} | feed_forward | {"norm2": norms["norm2"]}
