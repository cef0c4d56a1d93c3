"""One backward pass that yields the gradients of all examples of a batch, as factors.

How it works, for any model: the model is applied to one example inside of torch.func.vmap, as in
`per_example_grads`, so that examples cannot mix. A mode of torch watches its operations. One that
is known to multiply by a leaf (`ghost_rules`) is computed for all examples at once with the leaf as
a constant, and the factors of its gradient are recorded: the inputs x, and in the backward pass the
gradient dy of the outputs (`ghost_terms`). Every other use of a leaf sees a copy for each example
(a view, no memory), and autograd returns its gradients. The numbers are those of
`per_example_grads`.

The backward pass computes no gradient of a known leaf. When all norms are known, the clipped sum is
one product of its factors (Bu et al. 2023, "Differentially private optimization on large model at
small cost", call it book-keeping). The cost is that of a plain gradient plus the norms. Neither a
description of the layers would do (`Model.layers` has names, not residuals) nor hooks on
torch.nn.Modules (much here is a function). Under a transform of torch.func and under torch.compile
the gradients of all examples are computed after all.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from purenets.core import random
from purenets.core.arrays import widened
from purenets.core.base import Batch, Buffers, Model, Params, UserError
from purenets.core.batch import count_examples, map_arrays
from purenets.torch_nets.analysis.ghost_rules import RULES, SAME, TRANSPOSES, Leaf
from purenets.torch_nets.analysis.ghost_terms import Each, Term, combined
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.batched import outside_vmap, version_of
from purenets.torch_nets.fast.pytree import map_trees
from purenets.torch_nets.fast.tracing import (
    is_forward_mode,
    is_torch_compiling,
    is_transformed,
    transform_depth,
)
from purenets.torch_nets.foreign_losses import (
    expect_counted,
    expect_mean_of_examples,
    loss_of_one,
)
from purenets.torch_nets.from_module import map_tensors
from purenets.torch_nets.keys import expect_key_for, key_like


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

    def each(self, params: Params) -> Params:
        """Return the gradients of all examples, and use the terms up.

        Args:
            params: the params, for shapes and dtypes.

        Returns:
            Leaves (examples, ...) in the dtype of the params.
        """
        n = len(self.losses)
        return {
            name: self.terms.pop(name).each().view(n, *p.shape).to(p.dtype)
            if name in self.terms
            else p.new_zeros(n, *p.shape)
            for name, p in params.items()
        }

    def total(self, factors: Tensor, params: Params) -> Params:
        """Return the sum of all gradients, each times its factor, and use the terms up.

        A term is freed as soon as its leaf is done.

        Args:
            factors: (examples,).
            params: the params, for shapes.

        Returns:
            A dict like the params.
        """
        return {
            name: self.terms.pop(name).total(factors).view(p.shape)
            if name in self.terms
            else torch.zeros_like(widened(p))
            for name, p in params.items()
        }


class UnknownUse(Exception):
    """A matrix is used in a way that no rule knows."""


def can_trace(*arguments: Any) -> bool:
    """Return True where autograd may compute the gradients.

    That is under no transform of torch.func nor torch.compile, and if nothing else is to be
    differentiated by the arguments. Within `jit`, which follows every operation, it may.

    Args:
        arguments: params, buffers, a batch: containers of tensors.

    Returns:
        A bool.
    """
    if not enabled() or is_transformed() or is_forward_mode() or is_torch_compiling():
        return False
    return not (torch.is_grad_enabled() and any(map(_requires_grad, arguments)))


def _requires_grad(container: Any) -> bool:
    """Return True if autograd is to differentiate by a tensor within."""
    if isinstance(container, Tensor):
        return container.requires_grad
    if isinstance(container, dict):
        container = container.values()
    elif not isinstance(container, tuple | list):
        return False
    return any(map(_requires_grad, container))


def expect_used_key(function: str, train: bool, key: Tensor | None) -> None:
    """Raise a UserError for a key that nothing draws from, since the model is evaluated.

    Args:
        function: the name that the message begins with.
        train: whether the model runs in training mode.
        key: a key, or None.

    Raises:
        UserError: there is a key, and `train` is False.
    """
    if key is not None and not train:
        raise UserError(f"{function}: a key, but train=False draws nothing; pass train=True")


def example_keys(key: Tensor, n: int) -> Tensor:
    """Return a key for each of n examples.

    Args:
        key: a key.
        n: the number of examples.

    Returns:
        Keys (n, 2).
    """
    return random.split(key, n)


def chunks(
    model: Model,
    loss: Callable,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    key: Tensor | None,
    *,
    train: bool,
    chunk_size: int | None,
    only_known: bool = False,
) -> Iterator[Backward]:
    """Yield the result of the backward pass of each chunk of a batch.

    Args:
        model, loss, params, buffers, batch: as in `per_example_grads`.
        key: for models that draw, else None; each example gets a key of its own.
        train: True to apply the model in training mode.
        chunk_size: examples at a time; None for all.
        only_known: True to raise UnknownUse for a matrix that is used in a way that no rule knows.

    Yields:
        A `Backward` for each chunk.

    Raises:
        UnknownUse: see `only_known`.
        UserError: the loss is no mean over the examples, as for `per_example_grads`.
    """
    n = count_examples(batch, "per-example gradients")
    expect_counted(loss, batch[1])
    of_one, losses, outputs = loss_of_one(loss), [], []
    keys = None if key is None else example_keys(key_like(key, params), n)
    for i in range(0, n, chunk_size or n):
        at = slice(i, i + (chunk_size or n))
        part = map_arrays(lambda a, at=at: a[at], batch)
        part_keys = None if keys is None else keys[at]
        try:
            found = backward(model, of_one, params, buffers, part, part_keys, train, only_known)
        except UserError as error:
            expect_key_for("per-example gradients", key, error)
            raise
        losses.append(found.losses)
        outputs.append(found.outputs)
        yield found
    expect_mean_of_examples(loss, concatenated(outputs), batch[1], torch.cat(losses))


# --- one backward pass ----------------------------------------------------------------------------


def backward(
    model: Model,
    loss: Callable,
    params: Params,
    buffers: Buffers,
    batch: Batch,
    keys: Tensor | None,
    train: bool,
    only_known: bool = False,
) -> Backward:
    """Return the result of one backward pass of a batch: the gradients of all examples, as factors.

    Args:
        model, loss, params, buffers, batch: as in `per_example_grads`.
        keys: a key for each example, (examples, 2), or None.
        train: True to apply the model in training mode.
        only_known: as in `chunks`.

    Returns:
        A `Backward`.
    """
    ghost, n = Ghost(params, only_known), count_examples(batch, "per-example gradients")
    shared = {  # only operations that a rule knows may see them; autograd tells whether others did
        name: _differentiable(p.detach())
        for name, p in ghost.values.items()
        if only_known and p.ndim > 1
    }
    copies = {
        name: _differentiable(p.expand(n, *p.shape))
        for name, p in ghost.values.items()
        if name not in shared
    }

    def one(own, x, y, key):
        leaves = {**ghost.values, **shared, **own}
        ghost.begin(leaves)
        with _Watched(ghost):
            one_x = map_arrays(lambda a: a[None], x)
            outputs, _ = model.apply(leaves, buffers, one_x, train=train, key=key)
            value = loss(outputs, map_arrays(lambda a: a[None], y))
        return value, *known_outputs(outputs)

    with torch.enable_grad():
        in_dims = (0, 0, 0, None if keys is None else 0)
        losses, *outputs = torch.func.vmap(one, in_dims)(copies, *batch, keys)
        leaves = {name: p for name, p in {**copies, **shared}.items() if p.requires_grad}
        value = losses.sum() + ghost.anchor  # which is 0: there may be no other gradient
        inputs = [ghost.anchor, *leaves.values()]
        _, *grads = torch.autograd.grad(value, inputs, allow_unused=True)
    grads = dict(zip(leaves, grads, strict=True))
    if any(grads.get(name) is not None for name in shared):
        raise UnknownUse  # within a transform of the model's own, or a function that no mode sees
    for name, grad in grads.items():
        if grad is not None:
            ghost.terms[name].append(Each(widened(grad)))
    terms = {name: combined(terms) for name, terms in ghost.terms.items() if terms}
    return Backward(terms, losses.detach(), one_batch(outputs))


def _differentiable(p: Tensor) -> Tensor:
    return p.requires_grad_(p.is_floating_point() or p.is_complex())


class Ghost:
    """What is known of the leaves during one backward pass.

    Attributes:
        values: the leaves as constants, by name.
        terms: what is known of their gradients so far.
        anchor: a tensor whose gradient is asked for, so that autograd visits all that is noted.
        only_known: raise UnknownUse for a matrix in an operation that no rule knows. A copy of it
            for each example takes longer there than the one that torch.func.vmap keeps.
    """

    def __init__(self, params: Params, only_known: bool = False):
        self.only_known = only_known
        self.values = {name: p.detach() for name, p in params.items()}
        self.terms: dict[str, list[Term]] = {name: [] for name in params}
        device = next((p.device for p in params.values()), None)
        self.anchor = torch.zeros((), device=device, requires_grad=True)

    def begin(self, leaves: Params) -> None:
        """Take the leaves as the model sees them: with an axis for the examples that vmap hides."""
        self.depth, self.known = transform_depth(), {}
        for name, leaf in leaves.items():
            if leaf.is_floating_point():
                self.know(leaf, Leaf(name, self.values[name]))

    def know(self, x: Tensor, leaf: Leaf) -> None:
        # as long as x is held no other tensor has its id
        self.known[id(x)] = x, leaf, version_of(x)

    def leaf(self, x: Any) -> Leaf | None:
        """Return the leaf that an argument of an operation is; None if it is none.

        A copy of a leaf that was written into is none any more.

        Raises:
            UnknownUse: with `only_known`, such a copy of a matrix.
        """
        if isinstance(x, Leaf) or id(x) not in self.known:
            return x if isinstance(x, Leaf) else None
        _, leaf, version = self.known[id(x)]
        if version_of(x) == version:
            return leaf
        if self.only_known and leaf.value.ndim > 1:
            raise UnknownUse
        return None

    def call(self, f: Callable, terms: Callable, x: Tensor, after: Callable | None = None):
        """Return f(x) as vmap has it, computed for all examples at once.

        Args:
            f: the operation, (examples, ...) -> any shape.
            terms: `terms(x, dy) -> [(name of the leaf, Term), ...]`, dy of the shape that f
                returns. A leaf that is used twice stands there twice.
            after: `after(f(x), x)`, of shape (examples, ...); None if f(x) is.

        Raises:
            UnknownUse: with `only_known`, x is a matrix of the params, whose gradient is missing.
        """
        leaf = self.leaf(x)
        if self.only_known and leaf is not None and leaf.value.ndim > 1:
            raise UnknownUse

        def together(x):
            y = f(x)
            note = _note(terms, self, x.detach(), x._version)
            y = _Noted.apply(y.clone() if y._is_view() else y, self.anchor, note)
            return y if after is None else after(y, x)

        return outside_vmap(together, x)

    def note(self, terms: list[tuple[str, Term]]) -> None:
        for name, term in terms:
            self.terms[name].append(term.smallest())


class _Watched(TorchFunctionMode):
    """Give the operations that `ghost_rules` knows to their rules."""

    def __init__(self, ghost: Ghost):
        super().__init__()
        self.ghost = ghost

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in RULES and transform_depth() == self.ghost.depth:  # under none of the model's own
            y = RULES[func](self.ghost, *args, **kwargs)
            if y is not NotImplemented:
                return y
        leaf = self.ghost.leaf(args[0]) if args else None
        y = func(*args, **kwargs)
        if leaf is not None and func in SAME:
            self.ghost.know(y, leaf)
        elif leaf is not None and func in TRANSPOSES and leaf.value.ndim == 2:
            self.ghost.know(y, leaf._replace(transposed=not leaf.transposed))
        elif self.ghost.only_known and _holds_tensor(y) and self._any_matrix(args, kwargs):
            raise UnknownUse
        return y

    def _any_matrix(self, args: tuple, kwargs: dict) -> bool:
        """Return True if an argument is a leaf of two axes or more."""
        for x in (*args, *kwargs.values()):
            for part in x if isinstance(x, list | tuple) else (x,):
                leaf = self.ghost.leaf(part)
                if leaf is not None and leaf.value.ndim > 1:
                    return True
        return False


def _note(terms: Callable, ghost: Ghost, x: Tensor, version: int) -> Callable[[Tensor], None]:
    """Return the function of dy that notes the terms of a call; a UserError if x has changed."""

    def note(dy: Tensor) -> None:
        if x._version != version:
            raise UserError("the model writes into the input of a layer after its use; leave it")
        dy = widened(dy)  # half precision: a rounded gradient may be longer than `clip`
        ghost.note(terms(x.to(dy.dtype) if x.is_floating_point() else x, dy))

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


def known_outputs(outputs: Any) -> tuple:
    """Return (what a model returned for one example, detached,), or () if that is not tensors only.

    >>> known_outputs("text")
    ()
    """
    return (map_tensors(Tensor.detach, outputs),) if _is_of_tensors(outputs) else ()


def one_batch(outputs: Sequence[Any]) -> Any:
    """Return what torch.func.vmap made of `known_outputs` as those of one batch; None if unknown.

    >>> import torch
    >>> one_batch([torch.zeros(5, 1, 3)]).shape
    torch.Size([5, 3])
    """
    return map_tensors(lambda t: t.flatten(0, 1), outputs[0]) if outputs else None


def concatenated(parts: list) -> Any:
    """Return the results of all chunks as those of one batch; None if one of them is None.

    Args:
        parts: nested structures of tensors, one for each chunk.

    Returns:
        The same structure, with tensors that are concatenated along the first axis.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.analysis.ghost_pass import concatenated
        >>> concatenated([(torch.zeros(1), torch.ones(1)), (torch.ones(1), torch.ones(1))])
        (tensor([0., 1.]), tensor([1., 1.]))
    """
    if len(parts) == 1 or any(part is None for part in parts):
        return parts[0] if len(parts) == 1 else None
    return map_trees(lambda *tensors: torch.cat(tensors), *parts)


def _holds_tensor(y: Any) -> bool:
    """Return True for a tensor and for several; what is no tensor, such as a shape, is no use."""
    return isinstance(y, Tensor) or (isinstance(y, tuple | list) and any(map(_holds_tensor, y)))
