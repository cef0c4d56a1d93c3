"""Recompute in the backward pass instead of storing: `jax.checkpoint`, composable with torch.func.

torch.utils.checkpoint works by hooks on saved tensors, which torch.func.grad refuses.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from purenets.core.arguments import expect_functions
from purenets.core.base import UserError
from purenets.core.nested import iter_leaves, map_leaves
from purenets.torch_nets.fast.tracing import (
    RaiseOnWrapped,
    is_forward_mode,
    is_torch_compiling,
    is_transformed,
)

DEVICES = ("cpu", "cuda")  # kinds of devices that have an autocast of their own


def checkpoint(f: Callable) -> Callable:
    """Return `f` so that its backward pass computes it again instead of storing its activations.

    Only the arguments are stored. Values and gradients are those of `f`, for about a third more
    time. It composes with torch.func, autograd and `jit` (where the compiler decides in the end
    what is stored). Under a transform of torch.func, an `f` that itself differentiates with respect
    to a tensor that it closes over is not checkpointed: its activations are stored.

    Args:
        f: a pure function of nested dicts, tuples and lists of tensors, and other values. Gradients
            go to its arguments; a tensor that it closes over must not need one.

    Returns:
        The function of the same arguments, differentiable to any order, backward and forward.

    Raises:
        UserError: `f` is not a function. When called: `f` closes over a tensor that needs a
            gradient, or draws from torch's generator, which would draw others in the backward pass.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import checkpoint
        >>> block = checkpoint(lambda w, x: torch.tanh(x @ w))
        >>> w, x = torch.zeros(2, 2), torch.ones(3, 2)
        >>> torch.func.grad(lambda w: block(w, x).sum())(w)
        tensor([[3., 3.],
                [3., 3.]])

    Source:
        Chen et al. 2016, arXiv 1604.06174; jax.checkpoint.
    """

    expect_functions("checkpoint", f=f)

    @functools.wraps(f)
    def call(*args, **kwargs):
        if not is_torch_compiling() and (reason := REFUSED.get()):
            raise UserError(reason)
        if is_forward_mode():  # nothing is stored for it
            return f(*args, **kwargs)
        flat, tensors = _on_tensors(f, (args, kwargs))
        try:
            outputs = iter(_Recomputed.apply(flat, *tensors))
        except (_MayCapture, RuntimeError) as error:
            if isinstance(error, RuntimeError) and WRAPPED_TWICE not in str(error):
                raise
            return f(*args, **kwargs)
        return map_leaves(lambda leaf: next(outputs) if leaf is TENSOR else leaf, flat.result[0])

    return call


CAPTURED = (
    "checkpoint: the function closes over a tensor that needs a gradient; make it an argument"
)
DRAWS = "checkpoint: the function draws from torch's generator; draw from a key"
REFUSED = contextvars.ContextVar("why `checkpoint` is refused", default=None)
WRAPPED_TWICE = "wrapped->level() < level"  # torch's error: a transform within f takes a captured x
TENSOR = object()  # stands for a tensor among the leaves of a nested value


@contextlib.contextmanager
def without_checkpoints(reason: str) -> Iterator[None]:
    """Refuse `checkpoint` within the block, with this reason."""
    before = REFUSED.set(reason)
    try:
        yield
    finally:
        REFUSED.reset(before)


def _on_tensors(
    f: Callable, given: tuple
) -> tuple[Callable[..., tuple[Tensor, ...]], list[Tensor]]:
    """Return `f` as a function from tensors to tensors, and the tensors among its arguments.

    Its attribute `result` gets the structure of what `f` returned; `transformed` says that
    torch.func is at work.
    """
    tensors = [leaf for leaf in iter_leaves(given) if isinstance(leaf, Tensor)]
    skeleton, autocast = map_leaves(_without_tensor, given), _autocast_state()

    def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
        places = iter(tensors)
        args, kwargs = map_leaves(lambda leaf: next(places) if leaf is TENSOR else leaf, skeleton)
        with _autocast(autocast):
            value = f(*args, **kwargs)
        flat.result = [map_leaves(_without_tensor, value)]
        return tuple(leaf for leaf in iter_leaves(value) if isinstance(leaf, Tensor))

    flat.transformed = is_transformed()
    return flat, tensors


def _without_tensor(leaf: Any) -> Any:
    return TENSOR if isinstance(leaf, Tensor) else leaf


def _autocast_state() -> list[tuple]:
    return [
        (name, torch.get_autocast_dtype(name), torch.is_autocast_enabled(name)) for name in DEVICES
    ]


@contextlib.contextmanager
def _autocast(state: list[tuple]) -> Iterator[None]:
    """Restore the autocast of the forward pass: the backward pass runs outside of it."""
    if state == _autocast_state():
        yield
        return
    with contextlib.ExitStack() as stack:
        for device, dtype, enabled in state:
            stack.enter_context(torch.autocast(device, dtype, enabled))
        yield


@contextlib.contextmanager
def _without_draws(tensors: tuple) -> Iterator[None]:
    """Raise a UserError if torch's generators have moved: those of the CPU and of the tensors."""
    if torch.compiler.is_compiling():  # `jit` refuses draws itself
        yield
        return
    devices = {x.device.index for x in tensors if x.is_cuda}
    if devices and torch.cuda.is_current_stream_capturing():  # no state can be read there
        devices = set()
    offsets = lambda: [torch.cuda.default_generators[i].get_offset() for i in devices]
    before = torch.default_generator.get_state(), offsets()
    yield
    after = torch.default_generator.get_state(), offsets()
    if before[1] != after[1] or not torch.equal(before[0], after[0]):
        raise UserError(DRAWS)


class _MayCapture(Exception):
    """A transform within the function takes a tensor that it may close over."""


class _Recomputed(torch.autograd.Function):
    """A function of tensors that stores these and nothing else."""

    generate_vmap_rule = True

    @staticmethod
    def forward(flat, *tensors):
        # Look for captured tensors that a gradient is to go to: it would be lost in silence.
        watched = contextlib.nullcontext()
        if flat.transformed:
            watched = RaiseOnWrapped(UserError(CAPTURED), _MayCapture())
        with torch.enable_grad(), watched, _without_draws(tensors):
            outputs = flat(*(x.detach() for x in tensors))
        if any(x.requires_grad for x in outputs):
            raise UserError(CAPTURED)
        return outputs

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.flat, *tensors = inputs
        ctx.kinds = [is_differentiable(x) for x in output]
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *grads):
        tensors, needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        moving = [i for i, x in enumerate(tensors) if needed[i] and is_differentiable(x)]
        _, pullback = torch.func.vjp(
            _of_some(ctx.flat, tensors, moving), *(tensors[i] for i in moving)
        )
        kept = tuple(grad for grad, x in zip(grads, ctx.kinds, strict=True) if x)
        found = dict(zip(moving, pullback(kept), strict=True))
        return None, *(found.get(i) for i in range(len(tensors)))


def is_differentiable(x: Tensor) -> bool:
    """Return True for a tensor of a kind that has gradients: floating point or complex.

    Args:
        x: a tensor.

    Returns:
        A bool.
    """
    return x.is_floating_point() or x.is_complex()


def _of_some(flat: Callable, tensors: tuple, moving: list[int]) -> Callable:
    """Return the differentiable outputs of `flat` as a function of the tensors at `moving`."""

    def partial(*some: Tensor) -> tuple[Tensor, ...]:
        filled = list(tensors)
        for i, x in zip(moving, some, strict=True):
            filled[i] = x
        return tuple(x for x in flat(*filled) if is_differentiable(x))

    return partial
