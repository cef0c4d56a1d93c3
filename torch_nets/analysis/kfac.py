"""KFAC: the Gauss-Newton matrix as one Kronecker product for each layer (Martens and Grosse 2015).

    blocks = kfac(model, params, buffers, (x, y))
    kfac_vp(blocks, v)                        # a product, as hvp and ggn_vp are
    kfac_solve(blocks, grads, damping=1e-3)   # the preconditioned gradient

A block is A (x) B: A the mean of a a^T over the inputs a of the layer (with a 1 for its bias), B
that of g g^T over the gradients g by its output. It is exact for one example, and for a net that is
linear with a loss whose Hessian is the same for all examples.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import einsum
from torch import Tensor
from torch.func import vjp, vmap

from purenets.core import random
from purenets.core.arguments import (
    NOT_NEGATIVE,
    expect_choice,
    expect_dicts,
    expect_functions,
    expect_integers,
    expect_lists,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import map_arrays
from purenets.torch_nets.analysis.diagonal import expect_mean_loss, loss_hessian_sqrt
from purenets.torch_nets.analysis.operators import expect_net
from purenets.torch_nets.analysis.per_example import check_chunk
from purenets.torch_nets.keys import key_like
from purenets.torch_nets.layer_calls import LayerCall, eval_layers, expect_all_watched
from purenets.torch_nets.losses import cross_entropy

SHARING = ("expand", "reduce")


class Block(NamedTuple):
    """The Kronecker factors of one layer.

    Args:
        weight: the name of its weight (out, in, ...).
        bias: that of its bias, None without one.
        A: (in, in), or (in + 1, in + 1) with a bias, which comes last.
        B: (out, out).
    """

    weight: str
    bias: str | None
    A: Tensor
    B: Tensor


def kfac(
    model: Model,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    loss: Callable = cross_entropy,
    *,
    sharing: str = "expand",
    num_samples: int | None = None,
    key: Tensor | None = None,
    chunk_size: int | None = None,
) -> list[Block]:
    """Return the Kronecker factors of the Gauss-Newton matrix of the mean loss, in evaluation mode.

    Args:
        model: the network, whose params are weights and biases of linear layers and convolutions.
        params: tensors by name.
        buffers: tensors by name.
        batch: (inputs, targets).
        loss: `loss(logits, targets) -> scalar`, a mean over examples, convex in the logits.
        sharing: what to do where a weight meets several positions of an example, as in a
            convolution. "expand" treats each position as an example, "reduce" sums over them first.
        num_samples: None for one backward pass for each output; a number for so many random
            combinations of the outputs, which have the same mean and need a key.
        key: of the combinations.
        chunk_size: backward passes at a time under torch.func.vmap; None for all.

    Returns:
        A list of blocks, one for each layer, for `kfac_vp`, `kfac_solve` and `kfac_function`.

    Raises:
        UserError: an argument is wrong; a leaf is read by no linear layer or convolution, by two,
            or by something else too; or the inputs of a layer have no axis of examples, which for
            "reduce" comes first.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers, losses
        >>> from purenets.torch_nets.analysis.kfac import kfac
        >>> model, params = layers.Linear(2, 1, bias=False), {"weight": torch.zeros(1, 2)}
        >>> batch = torch.tensor([[1.0, 2.0]]), torch.zeros(1, 1)
        >>> (block,) = kfac(model, params, {}, batch, losses.mse)
        >>> block.A, block.B.round(decimals=3)  # x x^T, and the second derivative of the loss
        (tensor([[1., 2.],
                [2., 4.]]), tensor([[2.]]))

    Source:
        Martens and Grosse 2015, arXiv 1503.05671; "expand": Grosse and Martens 2016, arXiv
        1602.01407; "reduce": Eschenhagen et al. 2023, arXiv 2311.00636; names as in curvlinops.
    """
    n = expect_net("kfac", model, params, buffers, batch, loss)
    expect_choice("kfac", SHARING, sharing=sharing)
    check_chunk(chunk_size)
    x, y = batch
    with torch.no_grad():
        logits, calls = eval_layers(model, params, buffers, x)
        _expect_all_read(params, calls)
        few = min(n, 2)
        part = map_arrays(lambda array: array[:few], x)
        fewer = calls if few == n else eval_layers(model, params, buffers, part)[1]
    expect_all_watched(model, params, buffers, part)
    _expect_examples(calls, n, fewer, few, sharing)
    expect_mean_loss(loss, lambda: logits, y)
    rows = vmap(lambda z, t: loss_hessian_sqrt(loss, z, t))(logits, y)  # (n, C, *output)
    rows = rows if num_samples is None else _combined(rows, num_samples, key)
    pull = _pull_fn(model, params, buffers, x, calls)

    def products(cotangent: Tensor) -> Params:
        grads = pull(cotangent.to(logits.dtype))
        return {name: _outer(calls[name], grads[name], sharing) / n for name in calls}

    B = vmap(products, in_dims=1, chunk_size=chunk_size)(rows)
    return [
        Block(name, call.bias, _input_factor(call, sharing), B[name].sum(0))
        for name, call in calls.items()
    ]


def _expect_all_read(params: Params, calls: dict[str, LayerCall]) -> None:
    read = {name for call in calls.values() for name in (call.weight, call.bias)}
    if unread := [name for name in params if name not in read]:
        raise UserError(f"kfac: {', '.join(unread)}: no leaf of a Linear or Conv layer")


def _expect_examples(calls: dict, n: int, fewer: dict, few: int, sharing: str) -> None:
    """Raise a UserError unless the inputs of each layer have as many rows for each of n examples.

    The calls of a few examples show what shapes alone do not: which axis is that of the examples.

    Args:
        calls: the `LayerCall` of each layer, of n examples.
        n: how many.
        fewer: those of `few` of the examples.
        few: how many.
        sharing: as in `kfac`.
    """
    for name, call in calls.items():
        all_, some = call.inputs, fewer[name].inputs if name in fewer else call.inputs
        if len(all_) == n and len(some) == few:
            continue
        if sharing == "reduce":
            raise UserError(
                f"kfac: {name}: the first axis of its layer's inputs is not that of the examples, "
                "as sharing='reduce' needs it"
            )
        rows, some_rows = (part.shape[0] * part.shape[1] for part in (all_, some))
        if rows % n or rows * few != some_rows * n:
            raise UserError(
                f"kfac: {name}: its layer's inputs have {rows} rows for {n} examples and "
                f"{some_rows} for {few}; needs as many for each example"
            )


def _pull_fn(model, params, buffers, x, calls) -> Callable[[Tensor], Params]:
    """Return the function from a gradient by the logits to those by the outputs of each layer."""
    zeros = {name: torch.zeros_like(call.output) for name, call in calls.items()}
    outputs = lambda offsets: eval_layers(model, params, buffers, x, offsets)[0]
    pull = vjp(outputs, zeros)[1]
    return lambda cotangent: pull(cotangent)[0]


def _combined(rows: Tensor, num_samples: int, key: Tensor | None) -> Tensor:
    """Return random combinations of rows, with the same sum of squares on average.

    Args:
        rows: (n, C, ...).
        num_samples: how many combinations.
        key: the source of the signs.

    Returns:
        A tensor (n, num_samples, ...).
    """
    expect_integers("kfac", 1, num_samples=num_samples)
    if key is None:
        raise UserError("kfac: num_samples needs a key")
    n, C = rows.shape[:2]
    key = random.check_key(key_like(key, rows))
    signs = 2 * random.bernoulli(key, 0.5, (n, num_samples, C)).to(rows.dtype) - 1
    return einsum(signs, rows, "n s c, n c ... -> n s ...") / num_samples**0.5


def _outer(call: LayerCall, grad: Tensor, sharing: str) -> Tensor:
    """Return the sum of g g^T (out, out) over examples, and the mean or the sum over positions."""
    g = widened(call.by_position(grad))
    if sharing == "reduce":
        g = g.sum(1)
        return g.T @ g
    return einsum(g, g, "n t i, n t j -> i j") / g.shape[1]


def _input_factor(call: LayerCall, sharing: str) -> Tensor:
    """Return the mean of a a^T over examples, summed over positions or of their mean."""
    a = widened(call.inputs)
    if call.bias is not None:
        a = torch.cat([a, torch.ones_like(a[..., :1])], dim=-1)
    if sharing == "reduce":
        a = a.mean(1, keepdim=True)
    return einsum(a, a, "n t i, n t j -> i j") / a.shape[0]


# --- products -------------------------------------------------------------------------------------


def kfac_vp(blocks: list[Block], v: Params) -> Params:
    """Return K v, the product of the Kronecker-factored matrix with a vector.

    Args:
        blocks: what `kfac` returned.
        v: a dict like the params.

    Returns:
        A dict like the params.

    Raises:
        UserError: `blocks` are of something else, or names or shapes of v differ.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.kfac import Block, kfac_vp
        >>> A, B = torch.tensor([[1.0, 2.0], [2.0, 4.0]]), torch.tensor([[2.0]])
        >>> kfac_vp([Block("weight", None, A, B)], {"weight": torch.tensor([[1.0, 0.0]])})
        {'weight': tensor([[2., 4.]])}

    Source:
        Martens and Grosse 2015, arXiv 1503.05671.
    """
    return _by_block(blocks, v, "kfac_vp", lambda block, V: block.B @ V @ block.A)


def kfac_solve(blocks: list[Block], v: Params, damping: float | Tensor) -> Params:
    """Return (K + damping I)^-1 v, exactly, by the eigenvectors of the factors.

    With the gradient for v it is the preconditioned gradient.

    Args:
        blocks: what `kfac` returned.
        v: a dict like the params.
        damping: added to the diagonal.

    Returns:
        A dict like the params.

    Raises:
        UserError: an argument is wrong, or names or shapes of v differ.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.kfac import Block, kfac_solve
        >>> A, B = torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([[2.0]])  # K = diag(2, 8)
        >>> v = {"weight": torch.tensor([[4.0, 10.0]])}
        >>> kfac_solve([Block("weight", None, A, B)], v, damping=2.0)["weight"].round(decimals=3)
        tensor([[1., 1.]])

    Source:
        Martens and Grosse 2015, arXiv 1503.05671.
    """
    expect_numbers("kfac_solve", NOT_NEGATIVE, damping=damping)
    _expect_blocks("kfac_solve", blocks, v)
    return kfac_function(blocks, v, lambda values: 1 / (values + damping))


def kfac_function(blocks: list[Block], v: Params, f: Callable[[Tensor], Tensor]) -> Params:
    """Return f(K) v, for a function f of the eigenvalues, element by element.

    Args:
        blocks: what `kfac` returned.
        v: a dict like the params.
        f: from a tensor of eigenvalues to a tensor of the same shape, such as `torch.sqrt`.

    Returns:
        A dict like the params.

    Raises:
        UserError: an argument is wrong, or names or shapes of v differ.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.kfac import Block, kfac_function
        >>> A, B = torch.diag(torch.tensor([2.0, 8.0])), torch.tensor([[2.0]])  # K = diag(4, 16)
        >>> v = {"weight": torch.tensor([[1.0, 1.0]])}
        >>> kfac_function([Block("weight", None, A, B)], v, torch.sqrt)["weight"].round(decimals=3)
        tensor([[2., 4.]])
    """
    expect_functions("kfac_function", f=f)
    return kfac_eigenvectors_vp([eigen_block(block) for block in blocks], v, f)


class EigenBlock(NamedTuple):
    """A block by the eigenvectors of its factors, in columns; values: (out, in) eigenvalues."""

    weight: str
    bias: str | None
    A: Tensor
    B: Tensor
    values: Tensor


def eigen_block(block: Block) -> EigenBlock:
    """Return the eigendecomposition of a block, to apply several functions of it.

    Args:
        block: one of those that `kfac` returned.

    Returns:
        An `EigenBlock`.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.kfac import Block, eigen_block
        >>> A, B = torch.diag(torch.tensor([1.0, 4.0])), torch.tensor([[2.0]])
        >>> eigen_block(Block("weight", None, A, B)).values
        tensor([[2., 8.]])
    """
    (a, UA), (b, UB) = torch.linalg.eigh(block.A), torch.linalg.eigh(block.B)
    values = b.clamp_min(0)[:, None] * a.clamp_min(0)
    return EigenBlock(block.weight, block.bias, UA, UB, values)


def kfac_eigenvectors_vp(
    blocks: list[EigenBlock], v: Params, f: Callable[[Tensor], Tensor]
) -> Params:
    """Return f(K) v as `kfac_function` does, by blocks that are decomposed already.

    Args:
        blocks: what `eigen_block` returned, for each layer.
        v: a dict like the params.
        f: a function of the eigenvalues, element by element.

    Returns:
        A dict like the params.

    Raises:
        UserError: names or shapes of v differ.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.kfac import Block, eigen_block, kfac_eigenvectors_vp
        >>> A, B = torch.diag(torch.tensor([2.0, 8.0])), torch.tensor([[2.0]])  # K = diag(4, 16)
        >>> blocks, v = [eigen_block(Block("w", None, A, B))], {"w": torch.tensor([[1.0, 1.0]])}
        >>> kfac_eigenvectors_vp(blocks, v, torch.sqrt)["w"].round(decimals=3)
        tensor([[2., 4.]])
    """

    def one(block, V):
        return block.B @ (f(block.values) * (block.B.T @ V @ block.A)) @ block.A.T

    return _by_block(blocks, v, "kfac", one)


def _by_block(blocks: list, v: Params, function: str, f: Callable) -> Params:
    """Return f(block, V) for each block, with V (out, in [+ 1]) the weight and bias of v."""
    _expect_blocks(function, blocks, v)
    new = {}
    for block in blocks:
        weight = v[block.weight]
        V = weight.flatten(1)
        if block.bias is not None:
            V = torch.cat([V, v[block.bias][:, None]], dim=1)
        moved = f(block, widened(V))
        if block.bias is not None:
            new[block.bias], moved = moved[:, -1], moved[:, :-1]
        new[block.weight] = moved.reshape(weight.shape)
    return {name: new[name] for name in v}


def _expect_blocks(function: str, blocks: list, v: Params) -> None:
    """Raise a UserError unless `blocks` are those of kfac, and v has just their leaves."""
    expect_lists(function, "the blocks that kfac(...) returns", blocks=blocks)
    for i, block in enumerate(blocks):
        if not isinstance(block, Block | EigenBlock):
            kind = type(block).__name__
            raise UserError(f"{function}: blocks[{i}]: a {kind}, needs what kfac(...) returns")
    expect_dicts(function, v=v)
    names = [name for block in blocks for name in (block.weight, block.bias) if name is not None]
    if v.keys() != set(names):
        raise UserError(
            f"{function}: v has the leaves {', '.join(map(str, v))}, needs those of blocks: "
            f"{', '.join(names)}"
        )
    for name in names:
        if not isinstance(v[name], Tensor):
            kind = type(v[name]).__name__
            raise UserError(f"{function}: v[{name!r}]: a {kind}, needs a tensor; see to_torch")
        if not v[name].is_floating_point():
            dtype = str(v[name].dtype).removeprefix("torch.")
            raise UserError(f"{function}: v[{name!r}]: dtype is {dtype}, needs a floating one")
    for block in blocks:
        _expect_shapes(function, block, v)


def _expect_shapes(function: str, block: Block | EigenBlock, v: Params) -> None:
    """Raise a UserError for a leaf of v that is not of the shape of the block's."""
    n_out, n_in = len(block.B), len(block.A) - (block.bias is not None)
    weight = v[block.weight].shape
    if weight[:1] != (n_out,) or weight.numel() != n_out * n_in:
        raise UserError(
            f"{function}: v[{block.weight!r}] is of shape {tuple(weight)}, needs {n_out} rows of "
            f"{n_in} elements"
        )
    if block.bias is not None and v[block.bias].shape != (n_out,):
        raise UserError(
            f"{function}: v[{block.bias!r}] is of shape {tuple(v[block.bias].shape)}, "
            f"needs {(n_out,)}"
        )
