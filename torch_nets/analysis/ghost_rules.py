"""A table of the operations of torch whose per-example gradients are held as factors.

`RULES[operation](ghost, *its arguments)` returns the output of the operation, or NotImplemented if
it uses no leaf in a known way; then the operation runs as it is. A rule hands two functions to
`ghost.call`: the operation on all examples at once, (examples, ...) -> (examples, ...), and the
function that makes the gradients, `terms(x, dy) -> [(name of the leaf, Term), ...]`.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from purenets.core.kernel_rules import product_rule
from purenets.torch_nets.analysis.ghost_terms import Each, Geometry, Outer, Rows, Windows
from purenets.torch_nets.fast import enabled, matmul
from purenets.torch_nets.fast.batched import outside_vmap
from purenets.torch_nets.layers.basic import linear
from purenets.torch_nets.layers.convolutions import conv2d
from purenets.torch_nets.losses import NOTHING_IGNORED


class Leaf(NamedTuple):
    """A leaf as an operation uses it: its name, its value, and whether it is transposed."""

    name: str
    value: Tensor
    transposed: bool = False


# --- matrices -------------------------------------------------------------------------------------


def _linear(ghost, input, weight, bias=None):
    """Return x W^T + b, with W a leaf or a transposed leaf."""
    leaf, offset = ghost.leaf(weight), ghost.leaf(bias)
    if leaf is None or leaf.value.ndim != 2 or (offset and offset.value.ndim != 1):
        return NotImplemented
    matrix = leaf.value.mT if leaf.transposed else leaf.value
    vector = offset.value if offset else None

    def terms(x, dy):
        x, dy = (part.reshape(len(x), -1, part.shape[-1]) for part in (x, dy))
        found = [(leaf.name, Outer(dy, x) if leaf.transposed else Outer(x, dy))]
        return found + ([(offset.name, Each(dy.sum(1)))] if offset else [])

    y = ghost.call(
        lambda x: _product(x.flatten(0, -2), matrix, vector),
        terms,
        input,
        after=lambda y, x: y.unflatten(0, x.shape[:-1]),
    )
    return y if offset or bias is None else y + bias


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x W^T + b of rows, by oneDNN where that is faster."""
    if not matmul.use_onednn(x, weight.mT, product_rule().min_multiplies_operation):
        return F.linear(x, weight, bias)
    y = matmul.product(x, weight.mT)
    return y if bias is None else y + bias


def _matmul(ghost, input, other, *, out=None):
    """Return x M, with M a leaf or a transposed leaf."""
    leaf = ghost.leaf(other)
    if leaf is None or leaf.value.ndim != 2 or out is not None:
        return NotImplemented
    return _linear(ghost, input, leaf._replace(transposed=not leaf.transposed))


def _addmm(ghost, input, mat1, mat2, *, beta=1, alpha=1, out=None):
    """Return c + a M, with M a leaf or a transposed leaf."""
    leaf = ghost.leaf(mat2)
    if leaf is None or (beta, alpha) != (1, 1) or out is not None:
        return NotImplemented
    return _linear(ghost, mat1, leaf._replace(transposed=not leaf.transposed), input)


def _embedding(
    ghost,
    input,
    weight,
    padding_idx=None,
    max_norm=None,
    norm_type=2.0,
    scale_grad_by_freq=False,
    sparse=False,
):
    """Return rows of a table that is a leaf."""
    leaf = ghost.leaf(weight)
    if leaf is None or leaf.transposed or max_norm is not None or scale_grad_by_freq:
        return NotImplemented

    def terms(x, dy):
        index, dy = x.reshape(len(x), -1), dy.reshape(len(x), -1, dy.shape[-1])
        if padding_idx is not None:
            dy = dy * (index != padding_idx % len(leaf.value))[:, :, None]
        return [(leaf.name, Rows(index, dy, len(leaf.value)))]

    return ghost.call(lambda x: F.embedding(x, leaf.value), terms, input)


# --- convolutions ---------------------------------------------------------------------------------


def _conv2d(ghost, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    leaf, offset = ghost.leaf(weight), ghost.leaf(bias)
    if not _are_leaves((weight, bias), (leaf, offset)) or isinstance(padding, str):
        return NotImplemented
    geometry = Geometry(*map(_pair, (stride, padding, dilation)), groups)
    term = lambda x, dy: Windows(x, dy, leaf.value.shape, geometry)
    call = lambda x, w, b: conv2d(x, w, b, stride, padding, dilation, groups)
    return _over_images(ghost, call, term, input, leaf, offset)


def _conv1d(ghost, input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
    """Return a 1-D convolution; its gradient is that of images of one row."""
    leaf, offset = ghost.leaf(weight), ghost.leaf(bias)
    if not _are_leaves((weight, bias), (leaf, offset)) or isinstance(padding, str):
        return NotImplemented
    (s, p, d), (n_out, n_in, k) = map(_one, (stride, padding, dilation)), leaf.value.shape
    geometry = Geometry((1, s), (0, p), (1, d), groups)
    term = lambda x, dy: Windows(x[..., None, :], dy[..., None, :], (n_out, n_in, 1, k), geometry)
    call = lambda x, w, b: F.conv1d(x, w, b, stride, padding, dilation, groups)
    return _over_images(ghost, call, term, input, leaf, offset)


def _conv_transpose2d(
    ghost, input, weight, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
):
    """Return the transpose of a convolution, whose inputs are the outputs here."""
    leaf, offset = ghost.leaf(weight), ghost.leaf(bias)
    if not _are_leaves((weight, bias), (leaf, offset)):
        return NotImplemented
    geometry = Geometry(*map(_pair, (stride, padding, dilation)), groups)
    term = lambda x, dy: Windows(dy, x, leaf.value.shape, geometry)
    options = stride, padding, output_padding, groups, dilation
    call = lambda x, w, b: F.conv_transpose2d(x, w, b, *options)
    return _over_images(ghost, call, term, input, leaf, offset)


def _over_images(ghost, f, term, x: Tensor, leaf: Leaf, offset: Leaf | None) -> Tensor:
    """Call f(images, weight, bias); an example is one image (c, ...) or several (n, c, ...)."""
    several = x.ndim == leaf.value.ndim
    vector = offset.value if offset else None

    def terms(x, dy):
        dy = dy.unflatten(0, x.shape[:2])
        found = [(leaf.name, term(x, dy))]
        return found + ([(offset.name, Each(dy.flatten(3).sum((1, 3))))] if offset else [])

    y = ghost.call(
        lambda x: f(x.flatten(0, 1), leaf.value, vector),
        terms,
        x if several else x[None],
        after=lambda y, x: y.unflatten(0, x.shape[:2]),
    )
    return y if several else y[0]


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value) * (2 // len(value))


def _one(value: int | tuple[int]) -> int:
    return value if isinstance(value, int) else value[0]


# --- normalizations -------------------------------------------------------------------------------


def _layer_norm(ghost, input, normalized_shape, weight=None, bias=None, eps=1e-5):
    shape, leaves = tuple(normalized_shape), (ghost.leaf(weight), ghost.leaf(bias))
    if not _are_leaves((weight, bias), leaves):
        return NotImplemented
    call = lambda x, w, b: F.layer_norm(x, shape, w, b, eps)
    rows = lambda x: x.reshape(len(x), -1, *shape)
    return _affine(ghost, call, rows, input, leaves)


def _rms_norm(ghost, input, normalized_shape, weight=None, eps=None):
    shape, leaves = tuple(normalized_shape), (ghost.leaf(weight), None)
    if not _are_leaves((weight, None), leaves):
        return NotImplemented
    call = lambda x, w, b: F.rms_norm(x, shape, w, eps)
    rows = lambda x: x.reshape(len(x), -1, *shape)
    return _affine(ghost, call, rows, input, leaves)


def _group_norm(ghost, input, num_groups, weight=None, bias=None, eps=1e-5):
    leaves = ghost.leaf(weight), ghost.leaf(bias)
    if not _are_leaves((weight, bias), leaves):
        return NotImplemented
    call = lambda x, w, b: F.group_norm(x.flatten(0, 1), num_groups, w, b, eps)

    def rows(x):  # (b, n, c, ...) -> (b, positions, c)
        x = x if x.ndim > 3 else x[..., None]
        return x.flatten(3).movedim(2, -1).flatten(1, -2)

    return _affine(ghost, call, rows, input, leaves)


def _are_leaves(given: tuple, leaves: tuple) -> bool:
    """Return True if each argument is a leaf as it is or None, and one is a leaf."""
    known = all((a is None) == (leaf is None) for a, leaf in zip(given, leaves, strict=True))
    return known and any(leaves) and not any(leaf and leaf.transposed for leaf in leaves)


def _affine(ghost, f, rows, x: Tensor, leaves: tuple) -> Tensor:
    """Return y = n(x) w + b = f(x, w, b), with leaves or None for w and b.

    Args:
        f: the normalization, (examples, ...) -> as many elements in the same order.
        rows: (examples, ...) -> (examples, positions, ...), each position of the shape of w and b.
    """
    weight, bias = leaves
    values = [leaf.value if leaf else None for leaf in leaves]

    def terms(x, dy):
        dy = rows(dy.reshape(x.shape))
        found = [(bias.name, Each(dy.sum(1)))] if bias else []
        if weight:
            normalized = rows(f(x, None, None).view(x.shape))
            found.append((weight.name, Each((normalized * dy).sum(1))))
        return found

    return ghost.call(lambda x: f(x, *values), terms, x, after=lambda y, x: y.view(x.shape))


# --- recurrence -----------------------------------------------------------------------------------


def _recurrence(ghost, x, W_hx, W_hh, b_h):
    """Return the last h of the fused recurrence of `VanillaRNN`: (steps, batch, inputs) -> h.

    Its other output, all states, is for its backward pass only and None here.
    """
    leaves, kept = [ghost.leaf(weight) for weight in (W_hx, W_hh, b_h)], {}
    if None in leaves or any(leaf.transposed for leaf in leaves):
        return NotImplemented
    by_x, by_h, offset = leaves

    def run(x):
        rows = rearrange(x, "n t b i -> t (n b) i")
        last, kept["states"] = torch.ops.purenets.recurrence(rows, *(leaf.value for leaf in leaves))
        return last

    def terms(x, dy):
        states, by_example = kept["states"].to(dy.dtype), "t (n b) h -> n (t b) h"
        da = fused_recurrence.all_da(dy, states, by_h.value.to(dy.dtype))
        da_of, states = (rearrange(part, by_example, n=len(x)) for part in (da, states))
        b = x.shape[2]
        return [
            (by_x.name, Outer(x.flatten(1, 2), da_of)),
            (by_h.name, Outer(states[:, :-b], da_of[:, b:])),
            (offset.name, Each(da_of.sum(1))),
        ]

    return ghost.call(run, terms, x, after=lambda y, x: y.unflatten(0, (len(x), x.shape[2]))), None


# --- losses ---------------------------------------------------------------------------------------


def _cross_entropy(
    ghost,
    input,
    target,
    weight=None,
    size_average=None,
    ignore_index=-100,
    reduce=None,
    reduction="mean",
    label_smoothing=0.0,
):
    """Return the mean over one example, computed for all examples in one call; no leaf is used."""
    plain = (weight, size_average, reduce, reduction) == (None, None, None, "mean")
    if not plain or input.ndim != 2 or len(input) != 1 or ignore_index != NOTHING_IGNORED:
        return NotImplemented
    if ghost.leaf(input) or ghost.leaf(target):
        return NotImplemented
    options = {"reduction": "none", "label_smoothing": label_smoothing}
    return outside_vmap(
        lambda x, t: F.cross_entropy(x[:, 0], t[:, 0], ignore_index=ignore_index, **options),
        input,
        target,
    )


# --- the table ------------------------------------------------------------------------------------

RULES = {
    F.linear: _linear,
    linear: _linear,
    F.conv1d: _conv1d,
    F.conv2d: _conv2d,
    conv2d: _conv2d,
    F.conv_transpose2d: _conv_transpose2d,
    F.embedding: _embedding,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.cross_entropy: _cross_entropy,
    torch.addmm: _addmm,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), _matmul),
}
if matmul.ONEDNN:
    RULES[torch.ops.purenets.product] = _matmul
if enabled():
    from purenets.torch_nets.fast import fused_recurrence

    RULES[torch.ops.purenets.recurrence] = _recurrence

TRANSPOSES = (Tensor.T.__get__, Tensor.mT.__get__, Tensor.t, torch.t)
SAME = (Tensor.clone, torch.clone, Tensor.contiguous)  # return the same values
