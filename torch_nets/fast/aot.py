"""A pure function compiled once, for arguments of the shapes it will always have.

step = compile_for(step, state, batch)      # JAX: jit(step).lower(state, batch).compile()
state, metrics = step(state, batch)

torch.compile asks at each call whether anything that it has seen has changed since. A pure function sees nothing
but its arguments: here only their shapes are compared, and a call costs less.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from purenets.core import tree
from purenets.core.arrays import is_tracing
from purenets.core.base import UserError
from purenets.torch_nets.fast.jit import can_compile


class Leaf(NamedTuple):
    """What a tensor must be like."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype
    device: int  # its number, -1 for the CPU


def compile_for(f: Callable, *arguments, options: dict | None = None) -> Callable:
    """`f` compiled for arguments like these: tensors in dicts, tuples and lists, whose shapes, dtypes and devices
    stay the same; all else is a constant. What `f` reads besides (what it closes over, autocast, the number of
    threads) is read now, once.

    Under a transform of torch.func, or where a gradient is to go to an argument, the result calls `f` itself;
    where no compiler is found it is `f`. A UserError names the leaf that differs. options: torch.compile's.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    if not can_compile("compile_for"):
        return f
    for path, part in iter_nodes(like(arguments)):
        if isinstance(part, np.ndarray):
            raise UserError(f"{named(path)}: is an array of NumPy, needs a tensor")
    # copies: a tensor that stands at two places now may not later, and one that is expanded may be whole later
    copies = [leaf.detach().clone() for leaf in flatten_checked(like(arguments), arguments)]
    expected, returned = like(unflatten_fn(like(arguments))(copies)), []

    def flat(*leaves: Tensor) -> list[Tensor]:
        result = f(*unflatten_fn(expected)(leaves))
        returned[:] = [like(result)]
        return flatten_checked(returned[0], result)

    with compiling():
        graph = make_fx(flat, tracing_mode="fake", _allow_non_fake_inputs=True)(*copies)
    compiled = torch._inductor.standalone_compile(
        graph, copies, dynamic_shapes="from_example_inputs", options={"config_patches": options or {}}
    )
    take, put = flatten_fn(expected), unflatten_fn(returned[0])

    def call(*arguments):
        if is_tracing() or forward_ad._current_level >= 0:
            return f(*arguments)
        leaves = take(arguments) or flatten_checked(expected, arguments)
        if torch.is_grad_enabled() and any(leaf.requires_grad for leaf in leaves):
            return f(*arguments)
        return put(compiled(*leaves))

    return call


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Within it `torch.compiler.is_compiling()` is true, as it is where torch.compile traces."""
    before, torch.compiler._is_compiling_flag = torch.compiler._is_compiling_flag, True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def like(value: Any) -> Any:
    """The same dicts, tuples and lists, with a `Leaf` for each tensor."""
    if isinstance(value, Tensor):
        return Leaf(tuple(value.shape), value.stride(), value.dtype, value.get_device())
    if isinstance(value, dict):
        return {name: like(part) for name, part in value.items()}
    if isinstance(value, (tuple, list)):
        return _same_kind(value, [like(part) for part in value])
    return value


def unflatten_fn(expected: Any) -> Callable[[Sequence[Tensor]], Any]:
    """The function that makes what `like` was given from its tensors; written out as one expression, since a walk
    would take longer than many a step."""
    names, leaves = {}, itertools.count()

    def written(part: Any) -> str:
        if type(part) is Leaf:
            return f"given[{next(leaves)}]"
        if isinstance(part, dict):
            return f"{{{', '.join(f'{name!r}: {written(inner)}' for name, inner in part.items())}}}"
        name = f"name{len(names)}"
        names[name] = part
        if not is_container(part):
            return name
        names[name] = type(part)
        inner = ", ".join(map(written, part))
        return f"{name}({inner})" if hasattr(part, "_fields") else f"{name}([{inner}])"

    return eval(f"lambda given: {written(expected)}", names)


def flatten_fn(expected: Any) -> Callable[[tuple], list[Tensor] | None]:
    """`flatten_checked` as one expression too, for what is exactly as expected; None for what is not."""
    parts = [
        ("given" + "".join(f"[{key!r}]" for key, _ in path), part) for path, part in iter_nodes(expected)
    ]
    leaves = [(source, part) for source, part in parts if type(part) is Leaf]
    others = [(f"len({s})" if is_container(part) else s, part) for s, part in parts if type(part) is not Leaf]
    both = eval(f"lambda given: ([{', '.join(s for s, _ in leaves)}], [{', '.join(s for s, _ in others)}])")
    wanted = [part for _, part in leaves]
    known = [len(part) if is_container(part) else part for _, part in others]
    kinds = list(map(type, known))  # True is 1, and 2.0 is 2

    def quickly(arguments: tuple) -> list[Tensor] | None:
        try:
            found, rest = both(arguments)
            same = (
                list(map(type, rest)) == kinds
                and rest == known
                and wanted == [(leaf.shape, leaf.stride(), leaf.dtype, leaf.get_device()) for leaf in found]
            )
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError):
            return None
        return found if same else None

    return quickly


def iter_nodes(expected: Any, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Each part of what `like` made, a container before what is in it, with the keys that lead to it and their
    names."""
    yield path, expected
    if isinstance(expected, dict):
        keys = zip(expected, expected, expected.values(), strict=True)
    elif is_container(expected):
        keys = zip(itertools.count(), getattr(expected, "_fields", itertools.count()), expected, strict=False)
    else:
        return
    for key, name, part in keys:
        yield from iter_nodes(part, (*path, (key, name)))


def named(path: tuple) -> str:
    return "/".join(["argument", *(str(name) for _, name in path)])


def is_container(part: Any) -> bool:
    return isinstance(part, (dict, list, tuple)) and type(part) is not Leaf


def flatten_checked(expected: Any, value: Any) -> list[Tensor]:
    """The tensors of `value`, in order, laid out in memory as expected; a UserError names what else differs."""
    leaves: list[Tensor] = []
    for path, part in iter_nodes(expected):
        given = functools.reduce(lambda inner, step: inner[step[0]], path, value)
        different = difference(part, given)
        if different:
            raise UserError(f"{named(path)}: {different}")
        if type(part) is Leaf:
            leaves.append(given if given.stride() == part.strides else with_strides(given, part.strides))
    return leaves


def with_strides(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x)


def difference(expected: Any, value: Any) -> str | None:
    """What differs from a part of what `like` made, but for strides and for what is in a container."""
    if type(expected) is Leaf:
        if not isinstance(value, Tensor):
            return f"is {value!r:.40}, expected a tensor"
        pairs = zip(Leaf._fields, like(value), expected, strict=True)
        different = [
            f"{what} is {a}, compiled for {b}" for what, a, b in pairs if a != b and what != "strides"
        ]
        return different[0] if different else None
    if isinstance(expected, dict):
        try:
            return tree.check_names(value, expected)
        except UserError as error:
            return str(error)
    if is_container(expected):
        same = isinstance(value, (tuple, list)) and len(value) == len(expected)
        return None if same else f"is {value!r:.40}, compiled for {len(expected)} parts"
    same = value is expected or (type(value) is type(expected) and value == expected)
    return None if same else f"is {value!r:.40}, compiled for {expected!r:.40}"


def _same_kind(value: tuple | list, parts: list) -> tuple | list:
    return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
