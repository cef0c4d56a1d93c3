"""The loop of `purenets.scan` under a trace: its body is traced once.

The body becomes a graph of plain operations under torch's scan operator, which inductor compiles to
a loop in C++. Small leaves of the carry are packed into one vector for each dtype, since each
tensor that is carried costs an allocation and several handles in every iteration.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch._C._functorch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _disable_current_modes

from purenets.core import scan as core
from purenets.core.base import UserError
from purenets.core.nested import iter_leaves, iter_named, map_leaves, with_leaves
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.aot import trace_flat
from purenets.torch_nets.fast.vmapped_scan import is_only_vmapped, vmapped_loop

PACKED = 1 << 14  # elements of a leaf; a larger one costs more to copy than to allocate


def traced_loop(f, init, xs, n: int, reverse: bool, unroll: int) -> tuple[Any, Any] | None:
    """Return `purenets.scan` as one operation of the graph that is being traced, if there is one.

    Under vmap it is the loop of the mapped body. None under another transform of torch.func, or
    where autograd looks on: the plain loop is written out in the graph then.
    """
    if n < 2 or not enabled():
        return None
    if torch.compiler.is_dynamo_compiling():
        return _dynamo_loop(f, init, xs, n, reverse)
    if is_only_vmapped() and is_tracing_graph():
        return vmapped_loop(f, init, xs, n, reverse, unroll)
    if not is_traced(init, xs):
        return None
    if not all(isinstance(leaf, Tensor) for leaf in iter_leaves(init)):
        return _after_first(f, init, xs, n, reverse, unroll)
    if reverse:
        xs = map_leaves(lambda leaf: leaf.flip(0), xs)
    carry, ys = _with_remainder(f, init, xs, n, min(unroll, n // 2))
    return carry, map_leaves(lambda leaf: leaf.flip(0), ys) if reverse else ys


def is_traced(*values: Any) -> bool:
    """Return True under the trace of `jit`, where nothing differentiates or maps."""
    leaves = [leaf for leaf in iter_leaves(values) if isinstance(leaf, Tensor)]
    return (
        is_tracing_graph()
        and torch._C._functorch.peek_interpreter_stack() is None
        and forward_ad._current_level < 0
        and not (torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves))
    )


def is_tracing_graph() -> bool:
    """Return True under the trace of `jit`."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return torch.compiler.is_compiling() and get_proxy_mode() is not None


def _after_first(f, init, xs, n: int, reverse: bool, unroll: int) -> tuple[Any, Any]:
    """Return the loop from a carry with numbers, which the first iteration makes tensors."""
    first, rest = (
        (slice(-1, None), slice(None, -1)) if reverse else (slice(None, 1), slice(1, None))
    )
    carry, y = core.plain_loop(f, init, map_leaves(lambda leaf: leaf[first], xs), 1)
    for name, leaf in iter_named(carry, "carry"):
        if not isinstance(leaf, Tensor):
            raise UserError(f"scan: {name} is {leaf!r:.40}, needs a tensor under jit")
    carry, ys = core.scan(
        f, carry, map_leaves(lambda leaf: leaf[rest], xs), n - 1, reverse=reverse, unroll=unroll
    )
    parts = (ys, y) if reverse else (y, ys)
    return carry, _concatenated(*parts)


def _concatenated(a: Any, b: Any) -> Any:
    others = iter_leaves(b)
    return map_leaves(lambda leaf: torch.cat([leaf, next(others)]), a)


def _dynamo_loop(f, init, xs, n: int, reverse: bool) -> tuple[Any, Any] | None:
    """Return the loop under torch.compile, by torch's own tracing of the scan operator.

    The first iteration is written out: it shows the structure of y, and numbers in the carry become
    tensors.
    """
    from torch._higher_order_ops.scan import scan as operator

    if n < 3:
        return None
    first, rest = (
        (slice(-1, None), slice(None, -1)) if reverse else (slice(None, 1), slice(1, None))
    )
    carry, y = core.plain_loop(f, init, map_leaves(lambda leaf: leaf[first], xs), 1)

    def body(leaves: list[Tensor], slices: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        new, y = f(with_leaves(carry, leaves), with_leaves(xs, slices))
        return [x.clone() for x in iter_leaves(new)], [x.clone() for x in iter_leaves(y)]

    slices = [leaf[rest] for leaf in iter_leaves(xs)] or [torch.zeros(n - 1, dtype=torch.int8)]
    leaves, ys = operator(body, list(iter_leaves(carry)), slices, reverse=reverse)
    ys = with_leaves(y, ys)
    return with_leaves(carry, leaves), _concatenated(*((ys, y) if reverse else (y, ys)))


def _with_remainder(f, init, xs, n: int, unroll: int) -> tuple[Any, Any]:
    """Return the loop of `unroll` iterations at a time, and what is left of them written out."""
    whole = n - n % unroll
    if unroll == 1:
        return _loop(f, init, xs, n)
    rows = map_leaves(lambda leaf: leaf[:whole].unflatten(0, (-1, unroll)), xs)
    carry, ys = _loop(lambda c, x: core.plain_loop(f, c, x, unroll), init, rows, whole // unroll)
    ys = map_leaves(lambda leaf: leaf.flatten(0, 1), ys)
    if whole == n:
        return carry, ys
    carry, rest = core.plain_loop(f, carry, map_leaves(lambda leaf: leaf[whole:], xs), n - whole)
    return carry, _concatenated(ys, rest)


# --- the operator -----------------------------------------------------------------------------


def _loop(f, init, xs, n: int) -> tuple[Any, Any]:
    """Return (carry, ys) of `n` iterations of `f` by torch's scan operator."""
    from torch._higher_order_ops.scan import scan_op

    carry = [*map(_on_graph, iter_leaves(init))]
    slices = [*map(_on_graph, iter_leaves(xs))] or [torch.zeros(n, dtype=torch.int8)]
    step = _traced_step(f, init, xs, carry, slices)
    moving = [i for i, node in enumerate(step.outputs[: len(carry)]) if node is not step.inputs[i]]
    fixed = [i for i in range(len(carry)) if i not in moving]
    pack, pack_y = (Packing.of(leaves) for leaves in ([carry[i] for i in moving], step.y_leaves))
    # the operator wants a carry, and inductor more than one result
    idle = [] if moving and pack_y.groups else [torch.zeros(())]

    def body(*given: Tensor) -> list[Tensor]:
        vectors, same, x, captured = _split(given, len(pack.groups), len(idle), len(slices))
        leaves = dict(zip(moving, pack.unpack(vectors), strict=True))
        leaves |= dict(zip(fixed, captured, strict=False))
        new = step.graph(*[leaves[i] for i in range(len(carry))], *x, *captured[len(fixed) :])
        after = pack.pack([new[i] for i in moving])
        return [*after, *(x + 1 for x in same), *pack_y.pack(new[len(carry) :])]

    first = pack.pack([carry[i] for i in moving])
    captured = [*(carry[i] for i in fixed), *map(_on_graph, step.captured)]
    graph = _trace(body, [*first, *idle, *map(_slice, slices), *captured])
    vectors, _, ys = _split(
        scan_op(graph, first + idle, slices, tuple(captured)), len(first), len(idle)
    )
    new = dict(enumerate(carry)) | dict(zip(moving, pack.unpack(vectors), strict=True))
    ys = iter(pack_y.unpack(ys))
    return (
        with_leaves(init, [new[i] for i in range(len(carry))]),
        map_leaves(
            lambda leaf: next(ys) if isinstance(leaf, Tensor) else core.stack((leaf,) * n, carry),
            step.y,
        ),
    )


class Step(NamedTuple):
    """One iteration as a graph from (*carry, *x, *captured) to (*carry, *y)."""

    graph: torch.fx.GraphModule
    inputs: list[torch.fx.Node]
    outputs: list[torch.fx.Node]
    captured: list[Tensor]
    y: Any

    @property
    def y_leaves(self) -> list[Tensor]:
        return [leaf for leaf in iter_leaves(self.y) if isinstance(leaf, Tensor)]


def _traced_step(f, init, xs, carry: Sequence[Tensor], slices: Sequence[Tensor]) -> Step:
    ys = []

    def flat(*given: Tensor) -> list[Tensor]:
        leaves = iter(given)
        before, x = (with_leaves(value, leaves) for value in (init, xs))
        after, y = core.result_pair(f(before, x))
        core.check_carry(after, before)
        ys.append(y)
        named = dict(iter_named(after, ""))  # in the order of `init`
        new = [named[name] for name, _ in iter_named(before, "")]
        return [*new, *(leaf for leaf in iter_leaves(y) if isinstance(leaf, Tensor))]

    graph = _trace(flat, [*carry, *map(_slice, slices)])
    captured = _lift_captured(graph)
    *nodes, output = graph.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    return Step(graph, inputs, list(output.args[0]), captured, ys[-1])


def _trace(f: Callable, examples: Sequence[Tensor]) -> torch.fx.GraphModule:
    """Return the graph of a function of tensors like `examples`, as a graph of its own."""
    with _disable_current_modes(), torch._guards.detect_fake_mode(examples):
        empty = [
            torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)
            for x in examples
        ]
    with _disable_current_modes():
        return trace_flat(f, empty)


def _slice(x: Tensor) -> Tensor:
    """Return one slice along the leading axis, outside of the graph that is being traced."""
    with _disable_current_modes():
        return x[0]


def _on_graph(x: Tensor) -> Tensor:
    """Return a tensor that the trace knows: a captured one becomes one by a copy."""
    return x if isinstance(x, FakeTensor) else x.clone()


def _lift_captured(graph: torch.fx.GraphModule) -> list[Tensor]:
    """Make the tensors that a traced function captured further inputs of its graph; return them."""
    captured = {}
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in list(graph.graph.nodes):
        value = getattr(graph, node.target, None) if node.op == "get_attr" else None
        if not isinstance(value, Tensor):
            continue
        if node.target not in captured:
            with graph.graph.inserting_after(last):
                last = graph.graph.placeholder(f"captured_{len(captured)}")
            captured[node.target] = last, value
        node.replace_all_uses_with(captured[node.target][0])
        graph.graph.erase_node(node)
    graph.recompile()
    return [value for _, value in captured.values()]


def _split(values: Sequence, *sizes: int) -> list[Sequence]:
    """Return consecutive parts of these sizes, and the rest."""
    parts, begin = [], 0
    for size in sizes:
        parts.append(values[begin : begin + size])
        begin += size
    return [*parts, values[begin:]]


class Packing(NamedTuple):
    """How leaves are packed: small ones of one dtype and device in one vector, others alone."""

    groups: list[list[int]]
    shapes: list[torch.Size]

    @classmethod
    def of(cls, leaves: Sequence[Tensor]) -> "Packing":
        groups: dict[Any, list[int]] = {}
        for i, leaf in enumerate(leaves):
            small = leaf.numel() <= PACKED
            groups.setdefault((leaf.dtype, leaf.device) if small else i, []).append(i)
        return cls(list(groups.values()), [leaf.shape for leaf in leaves])

    def pack(self, leaves: Sequence[Tensor]) -> list[Tensor]:
        """Return a fresh tensor for each group: what goes around the loop must not alias."""
        parts = [[leaves[i] for i in group] for group in self.groups]
        return [
            torch.cat([leaf.reshape(-1) for leaf in part])
            if len(part) > 1
            else part[0].clone(memory_format=torch.contiguous_format)
            for part in parts
        ]

    def unpack(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Return the leaves of packed tensors, which may have a leading axis."""
        leaves = {}
        for group, vector in zip(self.groups, vectors, strict=True):
            if len(group) == 1:
                leaves[group[0]] = vector
                continue
            parts = vector.split([math.prod(self.shapes[i]) for i in group], dim=-1)
            for i, part in zip(group, parts, strict=True):
                leaves[i] = part.reshape((*part.shape[:-1], *self.shapes[i]))
        return [leaves[i] for i in range(len(self.shapes))]
