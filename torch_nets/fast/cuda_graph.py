"""Functions recorded on a GPU and replayed: all kernels of a call are started at once.

A small network spends more time on starting kernels, one after the other, than on computing. A
recorded call (a CUDA graph) starts them all by one command, with the same numbers.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from purenets.core.arguments import expect_functions
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.jit import call_context, is_traced_or_transformed, needs_grad
from purenets.torch_nets.fast.structure import (
    Unsupported,
    is_container,
    map_parts,
    signature,
    tensors,
)

WARM_UP = 2  # calls before one is recorded: libraries choose and load their kernels then
MAX_RECORDINGS = 16  # of one function; for further signatures it is called as it is


def cuda_graph(f: Callable) -> Callable:
    """Return the pure function `f`, recorded once for each signature of its arguments and replayed.

    The signature is as in `jit`, which makes fewer kernels of `f`; this one starts them faster, and
    both can be had: `cuda_graph(jit(f))`. `f` itself is called where a tensor among the arguments
    is not on a GPU, an argument requires grad, or under a transform. It is also called, after one
    warning, where it cannot be recorded: it waits for the GPU, or draws from torch's generator.

    Args:
        f: a pure function of nested dicts, tuples and lists of tensors, and static values. Numbers
            that it closes over are fixed when it is recorded; the memory of tensors is read at each
            call.

    Returns:
        The recorded function. Recordings, and the memory of their intermediate results, live as
        long as it does.

    Raises:
        UserError: `f` is not a function.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.fast.cuda_graph import cuda_graph
        >>> device = "cuda" if torch.cuda.is_available() else "cpu"
        >>> double = cuda_graph(lambda x: {"twice": 2 * x})
        >>> double(torch.ones(2, device=device))["twice"].tolist()
        [2.0, 2.0]

    Source:
        torch.cuda.CUDAGraph; Gray 2019, "Getting started with CUDA graphs" (developer.nvidia.com).
    """
    expect_functions("cuda_graph", f=f)
    recordings: dict[Any, Callable] = {}
    memory: list = []  # one pool for all recordings, of which only one runs at a time

    @functools.wraps(f)
    def call(*args):
        leaves = tensors(args)
        if not is_recordable(args, leaves):
            return f(*args)
        try:
            key = signature(args), tuple(leaf.stride() for leaf in leaves), call_context()
        except Unsupported:
            return f(*args)
        if key not in recordings:
            full = len(recordings) >= MAX_RECORDINGS
            recordings[key] = f if full else recorded(f, args, memory)
        found = recordings[key]
        return f(*args) if found is f else found(leaves)

    return call


def is_recordable(args: tuple, leaves: list[Tensor]) -> bool:
    """Return True if all tensors are on a GPU and nothing but their values is asked for."""
    on_gpu = bool(leaves) and all(leaf.is_cuda for leaf in leaves)
    return on_gpu and enabled() and not (is_traced_or_transformed() or needs_grad((args, {})))


def recorded(f: Callable, args: tuple, memory: list) -> Callable:
    """Return `f` recorded for arguments like these; `f` itself, with a warning, where it fails."""
    try:
        return Recording(f, args, memory)
    except RuntimeError as error:
        torch.cuda.synchronize()
        free_generator()
        name, why = getattr(f, "__name__", "f"), str(error).splitlines()[0]
        warnings.warn(f"cuda_graph: {name} is not recorded: {why}", stacklevel=3)
        return f


def free_generator() -> None:
    """Let torch's generator draw again, which a recording that failed holds: record nothing."""
    place = torch.zeros(1, device="cuda")
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        place + 1


class Recording:
    """A call of `f` as a CUDA graph.

    It reads its inputs from, and leaves its outputs in, memory of its own, so that each call copies
    both.

    Args:
        f: the pure function.
        args: its arguments.
        memory: a list with the pool of earlier recordings of `f`, to which this one's is added.
    """

    def __init__(self, f: Callable, args: tuple, memory: list):
        with torch.no_grad():
            self.inputs = [leaf.clone() for leaf in tensors(args)]
        given = rebuilt(args, iter(self.inputs))
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                f(*given)
        torch.cuda.current_stream().wait_stream(aside)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=memory[0] if memory else None):
            self.result = f(*given)
        memory[:] = [self.graph.pool()]
        self.outputs = tensors(self.result)

    @torch.no_grad()
    def __call__(self, leaves: list[Tensor]) -> Any:
        """Return what `f` returns of arguments with these tensors."""
        copy_all(self.inputs, leaves)
        self.graph.replay()
        copies = [torch.empty_like(leaf) for leaf in self.outputs]
        copy_all(copies, self.outputs)
        return rebuilt(self.result, iter(copies))


def copy_all(into: list[Tensor], out_of: list[Tensor]) -> None:
    """Copy tensors, those of one dtype by one command."""
    by_dtype: dict[torch.dtype, tuple[list, list]] = {}
    for to, of in zip(into, out_of, strict=True):
        found = by_dtype.setdefault(of.dtype, ([], []))
        found[0].append(to)
        found[1].append(of)
    for to, of in by_dtype.values():
        torch._foreach_copy_(to, of)


def rebuilt(value: Any, leaves: Iterator[Tensor]) -> Any:
    """Return the same dicts, tuples and lists with other tensors, in the order of `tensors`."""
    if isinstance(value, Tensor):
        return next(leaves)
    return map_parts(lambda part: rebuilt(part, leaves), value) if is_container(value) else value
