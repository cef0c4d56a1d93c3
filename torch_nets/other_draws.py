"""Draws of a torch.nn.Module that no key reaches: from Python's, NumPy's and its own generators.

Which of them a module may use is found once, in its code: that of its methods and of the functions
they call. A call then compares the states of these generators, which costs a fraction of comparing
all of them each time.
"""

import contextlib
import dis
import random as python_random
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from purenets.core.base import UserError

KNOWN = ("torch.", "torchvision.")  # whose code draws by torch alone
GLOBAL = {  # the function that reads the state of the generator that all of a process share
    "Python": python_random.getstate,
    "NumPy": np.random.get_state,
}
OWN = (np.random.Generator, np.random.RandomState, python_random.Random, torch.Generator)

Reader = tuple[str, Callable[[], Any]]  # what a generator is called, and its state


def other_generators(module: nn.Module) -> tuple[Reader, ...]:
    """Return the generators, beside torch's common one, that the code of a module reaches."""
    found: dict[Any, Reader] = {}
    seen: set[int] = set()
    for part in module.modules():
        for value in [*_methods(part), *vars(part).values()]:
            _search(value, seen, found)
    return tuple(found.values())


def _methods(part: nn.Module) -> Iterator[types.FunctionType]:
    """Yield the functions of a module's class and of those it extends, up to those of torch."""
    for base in type(part).__mro__:
        if not base.__module__.startswith(KNOWN):
            yield from (f for f in vars(base).values() if isinstance(f, types.FunctionType))


def _search(value: Any, seen: set[int], found: dict[Any, Reader]) -> None:
    """Add to `found` what generator a value is or, if it is a function, those that it reaches."""
    if id(value) in seen:
        return
    seen.add(id(value))
    module = getattr(value, "__module__", None) or ""
    owner = getattr(value, "__self__", None)  # of `from random import random`
    if value is python_random or owner is python_random._inst:
        found["Python"] = ("Python's generator", python_random.getstate)
    elif value is np.random or owner is np.random.mtrand._rand:
        found["NumPy"] = ("NumPy's generator", np.random.get_state)
    elif isinstance(value, OWN):
        found[id(value)] = (f"a {type(value).__name__} of its own", _state_of(value))
    elif isinstance(owner, OWN):
        _search(owner, seen, found)
    elif isinstance(value, types.FunctionType) and not module.startswith(KNOWN):
        for other in _reached_by(value):
            _search(other, seen, found)


def _reached_by(function: types.FunctionType) -> Iterator[Any]:
    """Yield the values of the global names, attributes of NumPy, closure and defaults of a
    function."""
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty one
            yield cell.cell_contents
    yield from function.__defaults__ or ()
    for code in codes(function.__code__):
        if {"np", "numpy"} & set(code.co_names) and "random" in code.co_names:
            yield np.random
        for name in code.co_names:
            if name in function.__globals__:
                yield function.__globals__[name]
        yield from _imported(code)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """Yield the code of a function and of the functions written within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def _imported(code: types.CodeType) -> Iterator[types.ModuleType]:
    """Yield the modules of random numbers that a function imports in its body."""
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            if instruction.argval == "random":
                yield python_random
            elif instruction.argval.startswith("numpy") and "random" in " ".join(code.co_names):
                yield np.random


def _state_of(generator: Any) -> Callable[[], Any]:
    """Return the function that reads the state of a generator that somebody made."""
    if isinstance(generator, torch.Generator):
        return generator.get_state
    if isinstance(generator, np.random.Generator):
        return lambda: str(generator.bit_generator.state)
    return generator.get_state if hasattr(generator, "get_state") else generator.getstate


@contextlib.contextmanager
def without_other_draws(name: str, others: tuple[Reader, ...]) -> Iterator[None]:
    """Raise a UserError if a generator moves within the block: what drew from it did not ask the
    key.
    """
    before = _states(others)
    yield
    for (kind, old), (_, new) in zip(before, _states(others), strict=True):
        if not _equal(old, new):
            raise UserError(
                f"{name}: draws from {kind} in a way that no key reaches; draw by torch"
            )


def _states(others: tuple[Reader, ...]) -> list[tuple[str, Any]]:
    """Return the states of torch's generators and of `others`."""
    states = [("torch's generator", torch.random.get_rng_state())]
    if torch.cuda.is_initialized():
        states += [("CUDA's generator", state) for state in torch.cuda.get_rng_state_all()]
    return states + [(kind, read()) for kind, read in others]


def _equal(old: Any, new: Any) -> bool:
    if isinstance(old, Tensor):
        return torch.equal(old, new)
    if isinstance(old, tuple):
        return all(map(_equal, old, new))
    return np.array_equal(old, new) if isinstance(old, np.ndarray) else old == new
