"""What a module reaches beside its parts and leaves, by its attributes and by its code.

`torch.func.functional_call` gives a module other leaves by their names. A leaf that a function
holds in its closure, or a view of one, stays what it was. Such modules are refused; for lists and
dicts that hold leaves, the entries are returned, so that a call can set them.
"""

import collections
import contextlib
import dis
import functools
import inspect
import sys
import types
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.utils.hooks
from torch import Tensor, nn

from purenets.core.base import UserError
from purenets.torch_nets.other_draws import KNOWN, codes

REGISTERED = ("_parameters", "_buffers", "_modules")
OWN = frozenset(vars(nn.Module()))  # the attributes that every module has, as hooks
UNUSED = {  # in a call, and the lists of recurrent layers, which follow their leaves
    *REGISTERED,
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
    *("_flat_weights", "_flat_weight_refs"),
}
CONTAINERS = (dict, list, set, collections.deque)
LEFT = (  # not looked into
    *(type, types.ModuleType, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler),
    torch.utils.hooks.RemovableHandle,
)
ATOMS = (str, bytes, int, float, complex, types.NoneType)
LIBRARIES = {*sys.stdlib_module_names, "torch", "torchvision", "numpy", "purenets"} - {"__main__"}
DEEPEST = 2  # levels of containers whose changes are undone
REMEDY = (
    "where the params given to apply do not arrive; use self in a method, or what a hook is given"
)

KEPT = "would keep its first values; compute it in forward"


class Found(NamedTuple):
    """A value that a module reaches.

    Args:
        value: the value.
        where: the attribute or method by which it is reached.
        slot: the container of the module's own and the index where it stands, if it does.
        level: how many containers it is in, below the attribute.
        origin: "own" for what a deep copy copies, else "closure" or "global".
    """

    value: Any
    where: str
    slot: tuple[Any, Any] | None = None
    level: int = 0
    origin: str = "own"


class Held(NamedTuple):
    """What the plain attributes of a module hold.

    Args:
        slots: each container and index where a leaf stands, and the name of that leaf.
        containers: the lists, dicts, sets and deques.
        tensors: the tensors within these, and the attributes where they are.
    """

    slots: list[tuple[Any, Any, str]]
    containers: list[Any]
    tensors: list[tuple[str, Tensor]]


def held(net: nn.Module, original: nn.Module) -> Held:
    """Return what a copy of a module, with the very same leaves, holds in plain attributes.

    Raises:
        UserError: the copy reaches a part of the original, or a leaf where it cannot be replaced.
    """
    parts = {id(part): place for place, part in original.named_modules()}
    leaves = {id(leaf): n for n, leaf in [*net.named_parameters(), *net.named_buffers()]}
    slots, containers, tensors = [], [], []
    for value, where, slot, level, origin in _reached(net, parts):
        if id(value) in parts:
            what = f"the part {parts[id(value)]}" if parts[id(value)] else "the module itself"
            raise UserError(f"{where}: reaches {what} by a closure, global or weakref, {REMEDY}")
        if id(value) in leaves:
            leaf = leaves[id(value)]
            if slot is None:
                raise UserError(
                    f"{where}: holds {leaf} in a closure, global, tuple or set, {REMEDY}"
                )
            slots.append((*slot, leaf))
        elif origin == "own" and isinstance(value, CONTAINERS) and level <= DEEPEST:
            containers.append(value)
        elif origin == "own" and isinstance(value, Tensor) and 0 < level <= DEEPEST + 1:
            tensors.append((where, value))
    return Held(slots, containers, tensors)


def expect_no_views(module: nn.Module) -> None:
    """Raise a UserError for a buffer or another tensor in the memory of a trained param."""
    places: dict[Any, list] = {}
    for leaf, p in module.named_parameters():
        if p.requires_grad and (span := _span(p)):
            places.setdefault(span[0], []).append((*span[1:], leaf))
    own = {id(leaf) for leaf in module.parameters()}
    renewed = {id(value) for part in module.modules() for value in _renewed(part)}
    buffers = [Found(b, name, origin="buffer") for name, b in module.named_buffers()]
    for value, where, _, _, origin in [*buffers, *_reached(module, {})]:
        if not isinstance(value, Tensor) or id(value) in own or id(value) in renewed:
            continue
        storage, start, end = _span(value) or (None, 0, 0)
        for first, last, leaf in places.get(storage, ()):
            if start < last and first < end:
                raise UserError(f"{where}: is a view of {leaf} and {KEPT}")
        if origin == "own" and value.grad_fn is not None:
            raise UserError(f"{where}: was computed from tensors with gradients and {KEPT}")


def _span(tensor: Tensor) -> tuple[Any, int, int] | None:
    """Return the storage of a tensor, and its first and last byte; None without memory."""
    if tensor.layout != torch.strided or tensor.is_meta or not tensor.numel():
        return None
    try:
        storage, start = tensor.untyped_storage().data_ptr(), tensor.data_ptr()
    except (RuntimeError, NotImplementedError):  # a subclass, or under a transform
        return None
    steps = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    return (tensor.device, storage), start, start + (steps + 1) * tensor.element_size()


def _renewed(part: nn.Module) -> list[Tensor]:
    """Return the tensors that the forward pass of a module, or a hook of it, sets anew."""
    return [
        value
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
        and (part._forward_pre_hooks or part._forward_hooks or name in _names_set(type(part)))
    ]


@functools.lru_cache(1024)
def _names_set(kind: type) -> frozenset[str]:
    """Return the names of attributes that the forward pass of a class sets."""
    return frozenset(
        instruction.argval
        for method in _methods(kind)
        for code in codes(_unwrapped(method))
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_ATTR"
    )


@functools.lru_cache(1024)
def _methods(kind: type) -> tuple[types.FunctionType, ...]:
    """Return the functions of a class, but torch's, that its forward may call by name."""
    table: dict[str, list] = {}
    for base in kind.__mro__:
        if not base.__module__.startswith(KNOWN):
            for name, value in vars(base).items():
                value = value.fget if isinstance(value, property) else value
                value = getattr(value, "__func__", value)  # of a static or class method
                if isinstance(value, types.FunctionType):
                    table.setdefault(name, []).append(value)
    names, seen, found = ["forward", "__call__"], {"__init__"}, []
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            found += table.get(name, ())
            for method in table.get(name, ()):
                for code in codes(_unwrapped(method)):
                    names += code.co_names
    return tuple(found)


def _unwrapped(method: types.FunctionType) -> types.CodeType:
    """Return the code of a function without its decorators."""
    return getattr(inspect.unwrap(method), "__code__", method.__code__)


def _reached(module: nn.Module, others: dict[int, str]) -> Iterator[Found]:
    """Yield all that a module reaches; parts of its own, and modules of `others`, are not looked
    into.
    """
    known = {id(part) for part in module.modules()} | others.keys()
    todo, seen = [], {}
    for place, part in module.named_modules():
        prefix = f"{place}." if place else ""
        depth = DEEPEST + 1 if type(part).__module__.startswith(KNOWN) else 0
        for name, value in vars(part).items():
            if name not in UNUSED and (name not in OWN or value):  # most have no hooks
                level = DEEPEST + 1 if name in OWN else depth
                todo.append(Found(value, prefix + name, (vars(part), name), level))
        todo += [Found(f, prefix + f.__name__, origin="closure") for f in _methods(type(part))]
    while todo:
        found = todo.pop()
        value = found.value
        if isinstance(value, Tensor):
            yield found
        elif not isinstance(value, ATOMS) and id(value) not in seen:
            yield found
            seen[id(value)] = value  # held, so that no other gets its id
            if id(value) not in known and not isinstance(value, LEFT):
                todo += _within(found._replace(slot=None))


def _within(found: Found) -> Iterator[Found]:
    """Yield what a value holds: the entries of a container, the closure of a function, ..."""
    value, deeper = found.value, found._replace(level=found.level + 1)
    if isinstance(value, types.FunctionType):
        yield from (found._replace(value=v, origin=origin) for v, origin in _of_function(value))
    elif isinstance(value, types.MethodType):
        yield found._replace(value=value.__func__, origin="closure")
        yield found._replace(value=value.__self__)
    elif isinstance(value, functools.partial):
        yield from (found._replace(value=v) for v in (value.func, value.args, value.keywords))
    elif isinstance(value, weakref.ref):
        yield found._replace(value=value(), origin="closure")
    elif isinstance(value, dict | list | collections.deque):
        for at, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
            slot = (value, at) if found.origin == "own" else None
            yield deeper._replace(value=inner, slot=slot)
    elif isinstance(value, tuple | set | frozenset):
        yield from (deeper._replace(value=inner) for inner in value)
    elif hasattr(value, "__dict__") and found.origin != "global":
        yield found._replace(value=vars(value))
        if callable(value):
            yield found._replace(value=type(value).__call__, origin="closure")


def _of_function(function: types.FunctionType) -> Iterator[tuple[Any, str]]:
    """Yield the closure, the defaults and, but for libraries, the globals of a function."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            yield cell.cell_contents, "closure"
    defaults = (function.__defaults__ or (), (function.__kwdefaults__ or {}).values())
    yield from ((value, "closure") for part in defaults for value in part)
    if (function.__module__ or "").split(".")[0] not in LIBRARIES:
        for name in _global_names(function.__code__) & function.__globals__.keys():
            yield function.__globals__[name], "global"


@functools.lru_cache(4096)
def _global_names(code: types.CodeType) -> frozenset[str]:
    """Return the global names that a function reads, and those written within it."""
    reads = ("LOAD_GLOBAL", "LOAD_NAME")
    return frozenset(
        instruction.argval
        for inner in codes(code)
        for instruction in dis.get_instructions(inner)
        if instruction.opname in reads
    )
