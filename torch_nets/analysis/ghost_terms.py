"""The gradients of all examples by one leaf, held as their factors.

A term answers three questions about the gradients g_i of the examples i, without holding them
where their factors take less memory:

    term.squared_norms()   |g_i|^2: (examples,)
    term.total(factors)    sum_i factors_i g_i: the shape of the leaf
    term.each()            g_i: (examples, ...)

A norm that is computed from factors is called a ghost norm (Goodfellow 2015, "Efficient per-example
gradient computations"; Li et al. 2022, "Large language models can be strong differentially private
learners"): |sum_t dy_t x_t^T|^2 = sum_ts (x_t . x_s)(dy_t . dy_s). Its cost grows with the square
of the number of positions t instead of the size of the matrix.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from purenets.torch_nets.fast import matmul

CHUNK = 1 << 18  # elements that are computed at a time: about a megabyte, which a cache holds
SLOW = 48  # multiplications within a product in the time of what else is done with an element
ROOM = 1.5  # how much more room the gradients of filters may take than their factors


def rows_of(x: Tensor) -> Tensor:
    """Return (examples, ...) as a row for each example; those of a scalar have one element."""
    return x.flatten(1) if x.ndim > 1 else x[:, None]


class Each(NamedTuple):
    """The gradients themselves: (examples, ...)."""

    grads: Tensor

    def squared_norms(self) -> Tensor:
        return torch.linalg.vector_norm(rows_of(self.grads), dim=1).square()

    def total(self, factors: Tensor) -> Tensor:
        flat = rows_of(self.grads)
        return (factors.to(flat.dtype) @ flat).view(self.grads.shape[1:])

    def each(self) -> Tensor:
        return self.grads

    def smallest(self) -> "Each":
        return self


class Outer(NamedTuple):
    """The gradient of a matrix (out, in): sum_t dy_t x_t^T over positions t.

    x: (examples, positions, in), dy: (examples, positions, out).
    """

    x: Tensor
    dy: Tensor

    def squared_norms(self) -> Tensor:
        if self.x.shape[1] == 1:
            return Each(self.x).squared_norms() * Each(self.dy).squared_norms()
        by_gram = lambda x, dy: (_products(x) * _products(dy)).sum((1, 2)).to(self.dy.dtype)
        return in_chunks(by_gram, self.x.shape[1] ** 2, self.x, self.dy)

    def total(self, factors: Tensor) -> Tensor:
        x, dy = self.x, self.dy
        column = factors.to(dy.dtype)[:, None, None]
        x, dy = (x * column, dy) if x.shape[2] < dy.shape[2] else (x, dy * column)
        return matmul.product(dy.flatten(0, 1).mT, x.flatten(0, 1))

    def each(self) -> Tensor:
        if self.x.shape[1] == 1:  # a library would be called for each example
            return self.dy.mT * self.x
        return self.dy.mT @ self.x

    def smallest(self) -> "Each | Outer":
        """Return the gradients where they take no more room than their factors.

        Then the product that makes them takes no longer than those of the ghost norm either.
        """
        _, t, n_in = self.x.shape
        n_out = self.dy.shape[2]
        return Each(self.each()) if n_in * n_out <= t * (n_in + n_out) else self


class Rows(NamedTuple):
    """The gradient of a table (n, features): dy_t is added to the row index_t.

    index: (examples, positions), dy: (examples, positions, features).
    """

    index: Tensor
    dy: Tensor
    n: int

    def squared_norms(self) -> Tensor:
        same = self.index[:, :, None] == self.index[:, None, :]
        first = same.to(torch.uint8).argmax(2)  # where a token occurs first: its rows are added
        place = first[:, :, None].expand_as(self.dy)
        return torch.zeros_like(self.dy).scatter_add_(1, place, self.dy).square().sum((1, 2))

    def total(self, factors: Tensor) -> Tensor:
        rows = (self.dy * factors.to(self.dy.dtype)[:, None, None]).flatten(0, 1)
        return rows.new_zeros(self.n, rows.shape[1]).index_add_(0, self.index.flatten(), rows)

    def each(self) -> Tensor:
        place = self.index[:, :, None].expand_as(self.dy)
        zeros = self.dy.new_zeros(len(self.dy), self.n, self.dy.shape[2])
        return zeros.scatter_add_(1, place, self.dy)

    def smallest(self) -> "Each | Rows":
        return Each(self.each()) if self.n <= self.index.shape[1] else self


class Geometry(NamedTuple):
    """How the windows of a convolution lie: two numbers each, and the groups of channels."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


class Windows(NamedTuple):
    """The gradient of the filters of a convolution: for each of their places, sum_t dy_t x_t^T over
    the pixels t of the output, x_t the pixel of the input that is seen from t at that place.

    x: (examples, n, in, H, W), dy: (examples, n, out, H', W'); shape: that of the filters, (out,
    in / groups, kh, kw).
    """

    x: Tensor
    dy: Tensor
    shape: Sequence[int]
    geometry: Geometry

    def squared_norms(self) -> Tensor:
        """Return the squared norms, by the way that takes fewer operations.

        Either by the factors, or by gradients that are made for some examples at a time.
        """
        x, dy, groups = self.x, self.dy, self.geometry.groups
        seen, pixels = self._pixels()
        by_gram = pixels * dy.shape[2] + seen / pixels * seen * (x.shape[2] + SLOW * groups)
        if by_gram < math.prod(self.shape):
            return in_chunks(self._norms_by_gram, groups * seen**2, x, dy)
        of_each = lambda x, dy: Each(self._each(x, dy)).squared_norms()
        return in_chunks(of_each, math.prod(self.shape), x, dy)

    def total(self, factors: Tensor) -> Tensor:
        scaled = self.dy * factors.to(self.dy.dtype).view(-1, *[1] * (self.dy.ndim - 1))
        x, dy = self.x.flatten(0, 1), scaled.flatten(0, 1)
        return torch.nn.grad.conv2d_weight(x, self.shape, dy, *self.geometry)

    def each(self) -> Tensor:
        return self._each(self.x, self.dy)

    def smallest(self) -> "Each | Windows":
        """Return the gradients where they take hardly more memory than their factors.

        To make them takes no longer than the clipped sum, which is a pass over them then.
        """
        factors = (self.x.numel() + self.dy.numel()) / len(self.dy)
        return Each(self.each()) if math.prod(self.shape) <= ROOM * factors else self

    def _pixels(self) -> tuple[int, int]:
        """Return how many pixels of the padded input and of the output an example has."""
        padding = self.geometry.padding
        sides = (side + 2 * p for side, p in zip(self.x.shape[3:], padding, strict=True))
        return self.x.shape[1] * math.prod(sides), math.prod(self.dy.shape[3:]) * self.dy.shape[1]

    def _each(self, x: Tensor, dy: Tensor) -> Tensor:
        """Return the gradients of some examples: of a convolution that has them as its groups."""
        *options, groups = self.geometry
        b, (n_out, *rest) = len(x), self.shape
        x, dy = (part.movedim(0, 1).flatten(1, 2) for part in (x, dy))  # (n, b * channels, ...)
        grads = torch.nn.grad.conv2d_weight(x, (b * n_out, *rest), dy, *options, b * groups)
        return grads.view(b, n_out, *rest)

    def _norms_by_gram(self, x: Tensor, dy: Tensor) -> Tensor:
        """Return sum_ts of (dy_t . dy_s) times the sum over places of x_t . x_s.

        Two pixels are multiplied once, for all places of the filter that see both.
        """
        (rows, columns), (kh, kw) = dy.shape[3:], self.shape[2:]
        (sh, sw), (ph, pw), (dh, dw), groups = self.geometry
        of_x = _gram(F.pad(x, (pw, pw, ph, ph)), groups)
        across = [slice(j * dw, j * dw + (columns - 1) * sw + 1, sw) for j in range(kw)]
        of_x = sum(of_x[..., at, :, :, at] for at in across)
        down = [slice(i * dh, i * dh + (rows - 1) * sh + 1, sh) for i in range(kh)]
        of_x = sum(of_x[..., at, :, :, at, :] for at in down)
        return (of_x * _gram(dy, groups)).flatten(1).sum(1).to(dy.dtype)


def _products(x: Tensor) -> Tensor:
    """Return the products of all positions, (b, t, t), in float64.

    Terms of a squared norm may cancel, where positions are nearly equal: in float32 a norm could
    come out too small, and a gradient would be clipped too little.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float64))
    return wide @ wide.mT


def _gram(x: Tensor, groups: int) -> Tensor:
    """Return the products of all pixels of a group of channels, in float64 as `_products`.

    Args:
        x: (b, n, groups * c, h, w).
        groups: the number of groups.

    Returns:
        A tensor (b, groups, n, h, w, n, h, w).
    """
    b, n, _, h, w = x.shape
    pixels = x.reshape(b, n, groups, -1, h * w).movedim(1, 3).reshape(b, groups, -1, n * h * w)
    return _products(pixels.mT).view(b, groups, n, h, w, n, h, w)


Term = Each | Outer | Rows | Windows


def combined(terms: Sequence[Term]) -> Term:
    """Return the sum of the terms of one leaf, which is the gradient of a leaf with several uses.

    Args:
        terms: one for each use.

    Returns:
        A term.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.ghost_terms import Each, combined
        >>> combined([Each(torch.ones(2, 3)), Each(torch.ones(2, 3))]).squared_norms()
        tensor([12., 12.])
    """
    if len(terms) == 1:
        return terms[0]
    if all(isinstance(term, Outer) for term in terms):  # such as the steps of a recurrence
        return Outer(*(torch.cat(parts, 1) for parts in zip(*terms, strict=True))).smallest()
    if all(isinstance(term, Rows) for term in terms):
        index, dy = (torch.cat(parts, 1) for parts in list(zip(*terms, strict=True))[:2])
        return Rows(index, dy, terms[0].n).smallest()
    return Each(sum(term.each() for term in terms))


def in_chunks(f: Callable[..., Tensor], elements: int, *parts: Tensor) -> Tensor:
    """Return f(*parts), computed for some examples at a time, so that a cache holds them.

    Args:
        f: from tensors (examples, ...) to a tensor (examples, ...).
        elements: how many numbers f holds for each example; CHUNK of them are held at a time.
        parts: the arguments of f.

    Returns:
        A tensor (examples, ...).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.ghost_terms import in_chunks
        >>> in_chunks(torch.add, 1, torch.ones(3), torch.ones(3))
        tensor([2., 2., 2.])
    """
    traced = torch.compiler.is_compiling()  # which is in no need of a loop
    n = len(parts[0]) if traced else max(1, CHUNK // max(1, int(elements)))
    pieces = zip(*(part.split(n) for part in parts), strict=True)
    return torch.cat([f(*piece) for piece in pieces])
