"""Norms and clipped sums of per-example gradients, without per-example gradients.

    norms, losses = ghost_norms(model)(params, buffers, (x, y))  # (batch,), (batch,)

How it works, and why for any model: the model is applied to one example inside of torch.func.vmap,
as in `per_example_grads`, so that examples cannot mix, whatever it does. A mode of torch watches
its operations. Where one of them is known to multiply by a leaf (`ghost_rules`), it is computed for
all examples at once with the leaf as a constant, and what its gradient is a product of is noted:
the inputs x, and in the backward pass the gradient dy of the outputs (`ghost_terms`). Every other
use of a leaf sees a copy for each example (a view, no memory), and autograd returns its gradients.
So each leaf takes the way that is known for it, and the numbers are those of `per_example_grads`.

One backward pass computes no gradient of a known leaf; the clipped sum is one product of its
factors when all norms are known (Bu et al. 2023, "Differentially private optimization on large
model at small cost", who call it book-keeping). That is the arithmetic of a plain gradient plus the
norms. A description of the layers (`Model.layers`) would not do: it tells names, not residuals;
hooks on torch.nn.Modules would leave out all that is a function here. Under a transform of
torch.func and under torch.compile the gradients of all examples are made after all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from purenets.core import tree
from purenets.core.arguments import (
    ABOVE_0,
    expect_flags,
    expect_functions,
    expect_models,
    expect_numbers,
)
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.torch_nets.analysis.ghost_rules import RULES, SAME, TRANSPOSES, Leaf
from purenets.torch_nets.analysis.ghost_terms import Each, Term, combined
from purenets.torch_nets.analysis.per_example import check_chunk, example_keys, per_example_grads
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.tracing import is_forward_mode, is_torch_compiling, is_transformed
from purenets.torch_nets.from_module import map_tensors
from purenets.torch_nets.grad import expect_tensors
from purenets.torch_nets.losses import cross_entropy


class Backward(NamedTuple):
    """What one backward pass tells of the gradients of all examples.

    Args:
        terms: the gradients by the name of the leaf; a leaf that is not used is left out.
        losses: (examples,).
        outputs: what the model returned, (examples, ...); None if that is not tensors only.
    """

    terms: dict[str, Term]
    losses: Tensor
    outputs: Any

    def squared_norms(self) -> Tensor:
        """Return the squared norm of each example's gradient, over all leaves: (examples,)."""
        parts = (term.squared_norms() for term in self.terms.values())
        return sum(parts, torch.zeros_like(self.losses)).clamp_min(0)  # a rounded 0 may be below

    def total(self, factors: Tensor, params: Params) -> Params:
        """Return the sum of all gradients, each times its factor, and use the terms up.

        factors: (examples,). A term goes as soon as its leaf is done, and its memory with it.
        """
        return {
            name: self.terms.pop(name).total(factors).view(p.shape)
            if name in self.terms
            else torch.zeros_like(widened(p))
            for name, p in params.items()
        }


# --- the functions that users call ----------------------------------------------------------------


def ghost_norms(
    model: Model,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
) -> Callable:
    """Return `f(params, buffers, batch, key=None) -> (norms, losses)`, both (batch,).

    The norm of each example's gradient over all leaves, as `per_example_grads(reduce=tree.norm)`
    tells it, in little more than the time of one gradient of the batch.

    Args:
        loss: `loss(outputs, targets) -> a scalar`, of a batch of one.
        train: apply the model in training mode.
        chunk_size: examples at a time, None for all; it limits the memory.
        key: with `train`, for models that draw; each example gets a key of its own.
    """
    _check("ghost_norms", model, loss, train, chunk_size)
    by_vmap = per_example_grads(model, loss, train=train, chunk_size=chunk_size, reduce=tree.norm)

    def norms(params: Params, buffers: Buffers, batch: Batch, key: Tensor | None = None):
        if not can_trace():
            return by_vmap(params, buffers, batch, key)
        chunks = [
            (part.squared_norms().sqrt(), part.losses)
            for part in _chunks(model, loss, params, buffers, batch, key, train, chunk_size)
        ]
        return tuple(torch.cat(parts) for parts in zip(*chunks, strict=True))

    return norms


def clipped_sum(
    model: Model,
    clip: float,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
) -> Callable:
    """Return `f(params, buffers, batch, key=None, *, scale=1.0) -> (grads, (losses, outputs))`.

    grads: the sum of the gradients of all examples, each clipped to the norm `clip`, times `scale`.
    outputs: of the model, (batch, ...); None if they are not tensors only. The other arguments are
    those of `ghost_norms`.
    """
    _check("clipped_sum", model, loss, train, chunk_size)
    expect_numbers("clipped_sum", ABOVE_0, clip=clip)
    by_vmap = clipped_sum_by_vmap(model, clip, loss, train=train, chunk_size=chunk_size)

    def clipped(
        params: Params,
        buffers: Buffers,
        batch: Batch,
        key: Tensor | None = None,
        *,
        scale: float = 1.0,
    ):
        if not can_trace():
            return by_vmap(params, buffers, batch, key, scale=scale)
        total, losses, outputs = None, [], []
        for part in _chunks(model, loss, params, buffers, batch, key, train, chunk_size):
            factors = clip_factors(part.squared_norms().sqrt(), clip)
            sums = part.total(factors * scale, params)
            total = sums if total is None else tree.map(torch.add, total, sums)
            losses.append(part.losses)
            outputs.append(part.outputs)
        return total, (torch.cat(losses), _concatenated(outputs))

    return clipped


def clipped_sum_by_vmap(
    model: Model,
    clip: float,
    loss: Callable = cross_entropy,
    *,
    train: bool = False,
    chunk_size: int | None = None,
) -> Callable:
    """Return what `clipped_sum` returns, by a gradient for each example, and without outputs.

    It is taken under transforms of torch.func, and tells whether `clipped_sum` is right.
    """

    def clipped(grads):
        grads = tree.map(widened, grads)  # a rounded gradient may be longer than `clip`
        factor = clip_factors(tree.norm(grads), clip)
        return tree.map(lambda g: torch.where(factor < 1, g * factor, g), grads)

    options = {"train": train, "chunk_size": chunk_size, "reduce": clipped}
    per_example = per_example_grads(model, loss, **options)

    def sums(params: Params, buffers: Buffers, batch: Batch, key=None, *, scale: float = 1.0):
        grads, losses = per_example(params, buffers, batch, key)
        return tree.map(lambda g: g.sum(0) * scale, grads), (losses, None)

    return sums


def _check(
    function: str, model: Model, loss: Callable, train: bool, chunk_size: int | None
) -> None:
    """Raise a UserError that names the argument that is wrong."""
    expect_models(function, ("apply",), model=model)
    expect_functions(function, loss=loss)
    expect_flags(function, train=train)
    check_chunk(chunk_size)


def can_trace() -> bool:
    """Return True where autograd may be asked: under no transform of torch.func nor torch.compile.

    Within `jit`, which follows every operation, it may.
    """
    return enabled() and not (is_transformed() or is_forward_mode() or is_torch_compiling())


def clip_factors(norms: Tensor, clip: float) -> Tensor:
    """Return what each gradient is multiplied with so that no norm is larger than `clip`."""
    factors = clip / norms
    return torch.where(factors < 1, factors, torch.ones_like(factors))


def _chunks(
    model: Model,
    loss: Callable,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    key: Tensor | None,
    train: bool,
    chunk_size: int | None,
) -> Iterator[Backward]:
    """Yield what the backward pass of each chunk of the batch tells."""
    expect_tensors(params, batch)
    n = count_examples(batch, "per-example gradients")
    keys = None if key is None else example_keys(key, n)
    for i in range(0, n, chunk_size or n):
        at = slice(i, i + (chunk_size or n))
        part = map_arrays(lambda a, at=at: a[at], batch)
        yield backward(
            model, loss, params, buffers, part, None if keys is None else keys[at], train
        )


# --- one backward pass ----------------------------------------------------------------------------


def backward(
    model: Model,
    loss: Callable,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    keys: Tensor | None,
    train: bool,
) -> Backward:
    """Return what one backward pass tells of the gradients of all examples of a batch."""
    ghost, n = Ghost(params), count_examples(batch, "per-example gradients")
    copies = {
        name: p.expand(n, *p.shape).requires_grad_(p.is_floating_point() or p.is_complex())
        for name, p in ghost.values.items()
    }

    def one(leaves, x, y, key, marker):
        ghost.begin(leaves, marker)
        with _Watched(ghost):
            one_x = map_arrays(lambda a: a[None], x)
            outputs, _ = model.apply(leaves, buffers, one_x, train=train, key=key)
        value = loss(outputs, y[None])
        return (value, _detached(outputs)) if _is_of_tensors(outputs) else (value,)

    with torch.enable_grad():
        in_dims = (0, 0, 0, None if keys is None else 0, 0)
        marker = torch.zeros(n, device=ghost.anchor.device)
        losses, *outputs = torch.func.vmap(one, in_dims)(copies, *batch, keys, marker)
        inputs = [ghost.anchor, *copies.values()]
        value = losses.sum() + ghost.anchor  # which is 0: there may be no other gradient
        _, *grads = torch.autograd.grad(value, inputs, allow_unused=True)
    for name, grad in zip(copies, grads, strict=True):
        if grad is not None:
            ghost.terms[name].append(Each(widened(grad)))
    terms = {name: combined(terms) for name, terms in ghost.terms.items() if terms}
    outputs = map_tensors(lambda t: t.flatten(0, 1), outputs[0]) if outputs else None
    return Backward(terms, losses.detach(), outputs)


class Ghost:
    """What is known of the leaves during one backward pass.

    Attributes:
        values: the leaves as constants, by name.
        terms: what is known of their gradients so far.
        anchor: a tensor whose gradient is asked for, so that autograd visits all that is noted.
    """

    def __init__(self, params: Params):
        self.values = {name: p.detach() for name, p in params.items()}
        self.terms: dict[str, list[Term]] = {name: [] for name in params}
        device = next((p.device for p in params.values()), None)
        self.anchor = torch.zeros((), device=device, requires_grad=True)

    def begin(self, leaves: Params, marker: Tensor) -> None:
        """Take the leaves as the model sees them: with an axis for the examples that vmap hides."""
        self.marker, self.known = marker, {}
        for name, leaf in leaves.items():
            if leaf.is_floating_point():
                self.know(leaf, Leaf(name, self.values[name]))

    def know(self, x: Tensor, leaf: Leaf) -> None:
        self.known[id(x)] = x, leaf  # as long as x is held no other tensor has its id

    def leaf(self, x: Any) -> Leaf | None:
        """Return the leaf that an argument of an operation is; None if it is none."""
        return x if isinstance(x, Leaf) else self.known.get(id(x), (None, None))[1]

    def call(self, f: Callable, terms: Callable, x: Tensor, after: Callable | None = None):
        """Return f(x) as vmap has it, computed for all examples at once.

        Args:
            f: the operation, (examples, ...) -> any shape.
            terms: `terms(x, dy) -> {leaf: Term}`, dy of the shape that f returns.
            after: `after(f(x), x)`, of shape (examples, ...); None if f(x) is.
        """
        return _Together.apply(x, self.marker, _Call(f, terms, after, self))

    def note(self, terms: dict[str, Term]) -> None:
        for name, term in terms.items():
            self.terms[name].append(term.smallest())


class _Watched(TorchFunctionMode):
    """Give the operations that `ghost_rules` knows to their rules."""

    def __init__(self, ghost: Ghost):
        super().__init__()
        self.ghost = ghost

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in RULES:
            y = RULES[func](self.ghost, *args, **kwargs)
            if y is not NotImplemented:
                return y
        leaf = self.ghost.leaf(args[0]) if args else None
        if leaf is not None and func in SAME:
            return args[0]
        y = func(*args, **kwargs)
        if leaf is not None and func in TRANSPOSES:
            self.ghost.know(y, leaf._replace(transposed=not leaf.transposed))
        return y


@dataclass
class _Call:
    """The arguments of `Ghost.call`; no tuple, which vmap would look into."""

    f: Callable
    terms: Callable
    after: Callable | None
    ghost: Ghost


class _Together(torch.autograd.Function):
    """An operation under vmap that is told all examples, outside of vmap."""

    @staticmethod
    def forward(x, marker, call):
        raise NotImplementedError("needs torch.func.vmap")

    @staticmethod
    def setup_context(ctx, inputs, output):
        raise NotImplementedError("needs torch.func.vmap")

    @staticmethod
    def vmap(info, in_dims, x, marker, call):
        dim, _, _ = in_dims
        x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        y = call.f(x)
        note = _note(call, x.detach(), x._version)
        y = _Noted.apply(y.clone() if y._is_view() else y, call.ghost.anchor, note)
        return (y if call.after is None else call.after(y, x)), 0


def _note(call: _Call, x: Tensor, version: int) -> Callable[[Tensor], None]:
    """Return the function of dy that notes the terms of a call; a UserError if x has changed."""

    def note(dy: Tensor) -> None:
        if x._version != version:
            raise UserError("the model writes into the input of a layer after its use; leave it")
        dy = widened(dy)  # half precision: a rounded gradient may be longer than `clip`
        call.ghost.note(call.terms(x.to(dy.dtype) if x.is_floating_point() else x, dy))

    return note


class _Noted(torch.autograd.Function):
    """The identity; its backward pass hands dy to `note`."""

    @staticmethod
    def forward(ctx, y, anchor, note):
        ctx.note = note
        ctx.mark_dirty(y)  # y itself comes back, no view of it, which could not be written into
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx, dy):
        if dy is not None:
            ctx.note(dy)
            ctx.note = None  # what it holds may go
        return dy, None, None


# --- outputs --------------------------------------------------------------------------------------


def _is_of_tensors(outputs: Any) -> bool:
    """Return True for a tensor, and for tuples, lists and dicts of nothing else."""
    if isinstance(outputs, dict | tuple | list):
        parts = outputs.values() if isinstance(outputs, dict) else outputs
        return type(outputs) in (dict, tuple, list) and all(map(_is_of_tensors, parts))
    return isinstance(outputs, Tensor) and outputs.ndim > 0 and outputs.shape[0] == 1


def _detached(outputs: Any) -> Any:
    return map_tensors(Tensor.detach, outputs)


def _concatenated(outputs: list) -> Any:
    """Return the outputs of all chunks as those of one batch; None if any is."""
    if len(outputs) == 1 or any(part is None for part in outputs):
        return outputs[0] if len(outputs) == 1 else None
    if isinstance(outputs[0], dict):
        return {name: _concatenated([part[name] for part in outputs]) for name in outputs[0]}
    if isinstance(outputs[0], tuple | list):
        return type(outputs[0])(_concatenated(list(parts)) for parts in zip(*outputs, strict=True))
    return torch.cat(outputs)
