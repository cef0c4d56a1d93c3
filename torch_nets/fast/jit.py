"""`jit` as in JAX: a pure function compiled once for each signature of its arguments.

    step = jit(step)                                     # compiles at the first call
    state, metrics = step(state, batch)
    step = jit(step).lower(state, batch).compile()       # compiles now, for exactly these shapes

A function that cannot be compiled runs as it is, after one warning.
"""

import functools
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch._C._functorch
from torch import Tensor
from torch.autograd import forward_ad

from purenets.core.arguments import expect_functions
from purenets.core.base import UserError
from purenets.torch_nets.fast import enabled
from purenets.torch_nets.fast.aot import Compiled, compile_for
from purenets.torch_nets.fast.structure import (
    Unsupported,
    check_arguments,
    flatten_fn,
    like,
    signature,
    tensors,
)

try:  # compares many tensors in one call
    from torch._C._dynamo.guards import TensorGuards
except ImportError:
    TensorGuards = None

MAX_STRUCTURES = 64  # of the arguments of one function; further ones run eagerly
MAX_VALUES = 8  # of the static arguments, for each structure


def jit(f: Callable) -> Callable:
    """Return the pure function `f`, compiled once for each signature of its arguments, as in JAX.

    The signature is all that compiled code relies on: the structure of the arguments (dicts,
    tuples, lists), the shapes, dtypes and devices of tensors, grad mode, autocast, the default
    dtype, the number of threads, and the values of everything else. Numbers, strings and None are
    such static values, so pass as a tensor what changes from call to call. What `f` closes over is
    read once, when it is traced; a tensor among it that is changed in place makes it compile again,
    with a warning. Changes that torch does not count, by `.data`, by an array of NumPy that shares
    the memory, or by an optimizer of torch with fused=True, are not seen.

    `f` itself is called under torch.compile, a transform of torch.func or forward AD, and where an
    argument requires grad. It is also called, after one warning that says why, where it cannot be
    compiled: its control flow depends on values of tensors, it makes numbers of tensors that it
    closes over (`.item()`), its arguments are NumPy arrays, it draws from torch's generator, it
    changes its arguments, or one of these is an object whose attributes may change. The results are
    the same.

    Args:
        f: a pure function of nested dicts, tuples and lists of tensors, and static values.

    Returns:
        The compiled function. `jit(f).lower(*args, **kwargs).compile()` compiles at once, and
        returns a function for exactly such arguments. Compiled code lives as long as the function.

    Raises:
        UserError: `f` is not a function.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import jit
        >>> step = jit(lambda state, x: {"sum": state["sum"] + x})
        >>> step({"sum": torch.tensor(1.0)}, torch.tensor(2.0))  # compiles
        {'sum': tensor(3.)}
        >>> step({"sum": torch.tensor(5.0)}, torch.tensor(2.0))  # runs the compiled code
        {'sum': tensor(7.)}

    Source:
        jax.jit; torch.compile.
    """
    expect_functions("jit", f=f)
    compiles = enabled() and can_compile("jit", stacklevel=3)
    call = _call_fn(f, _Signatures(f)) if compiles else _forward_fn(f)
    call.lower = lambda *args, **kwargs: Lowered(f, args, kwargs)
    return call


class Lowered:
    """A function and the arguments to compile it for; returned by `jit(f).lower(...)`."""

    def __init__(self, f: Callable, args: tuple, kwargs: dict):
        self._f, self._given = f, (args, kwargs)

    def compile(self) -> Callable:
        """Return the function compiled for exactly these shapes, dtypes, devices and static values.

        Calls with others raise a UserError that names what differs. Under a transform of
        torch.func, or where an argument requires grad, the function itself is called. Where it
        cannot be compiled, it is returned as it is, with a warning that says why.
        """
        f = self._f
        if not (enabled() and can_compile("jit", stacklevel=3)):
            return f
        try:
            signature(self._given)
            return _call_fn(f, _OneSignature(f, compile_for(f, *self._given)))
        except Unsupported as error:
            warn_eager(f, str(error), stacklevel=3)
            return f


def _forward_fn(f: Callable) -> Callable:
    @functools.wraps(f)
    def call(*args, **kwargs):
        return f(*args, **kwargs)

    return call


# --- a call: cheap as long as the arguments are like those of the call before ---------------------


class FastPath(NamedTuple):
    """Code for arguments like those of the last call.

    Attributes:
        take: (args, kwargs) -> tensors, or None for another structure or other static values.
        guard: True of tensors of the same shapes, strides, dtypes and devices.
        context: the `call_context` that it is valid in.
        run: tensors -> result; None where the function runs eagerly.
    """

    take: Callable[[tuple], list[Tensor] | None]
    guard: Callable[..., bool]
    context: tuple
    run: Callable[[list[Tensor]], Any] | None


NOTHING = FastPath(lambda given: None, lambda *leaves: False, (), None)


def _call_fn(f: Callable, signatures: "_Signatures | _OneSignature") -> Callable:
    """Return the function that is called in place of `f`."""

    @functools.wraps(f)
    def call(*args, **kwargs):
        if is_traced_or_transformed():
            return f(*args, **kwargs)
        take, guard, context, run = signatures.latest
        leaves = take((args, kwargs))
        if leaves is None or not guard(*leaves) or context != call_context():
            return signatures.call(args, kwargs)
        if run is None:
            return f(*args, **kwargs)
        try:
            return run(leaves)
        except RuntimeError as error:
            raise_clearly(f, (args, kwargs), error)
            raise

    return call


def raise_clearly(f: Callable, given: tuple, error: RuntimeError) -> None:
    """Raise what `f` itself raises, where compiled code has found an index out of bounds.

    Such as a class that does not exist: compiled code names its own lines, `f` the class. Where a
    loop of the compiled code is shared by several threads, C++ ends the process instead.
    """
    if "out of bounds" in str(error):
        f(*given[0], **given[1])


def is_traced_or_transformed() -> bool:
    """Return True under torch.compile, a transform of torch.func, forward AD or a dispatch mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


def call_context() -> tuple:
    """Return the settings of torch that compiled code depends on."""
    return (
        torch.is_grad_enabled(),
        torch.get_num_threads(),
        torch.get_default_dtype(),
        _autocast() if torch._C._is_any_autocast_enabled() else None,
    )


def _autocast() -> tuple:
    devices = ("cpu", "cuda")
    return tuple(
        (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices
    )


class _Signatures:
    """All that `f` was compiled for so far, and the code of the last call."""

    def __init__(self, f: Callable):
        self.f, self.latest, self.warned = f, NOTHING, False
        self.known: dict[Any, dict[tuple, Compiled]] = {}  # by structure and context, by values

    def call(self, args: tuple, kwargs: dict) -> Any:
        """Return f(*args, **kwargs) of arguments that are not like those of the last call."""
        given = args, kwargs
        try:
            structure, values = signature(given)
        except Unsupported as error:
            return self.call_eagerly(given, str(error))
        if needs_grad(given):
            return self.f(*args, **kwargs)
        key = structure, call_context()
        compiled = self.known.get(key, {}).get(values)
        if compiled is None:
            compiled, why = self.compiled_for(given, key)
            result = self.call_eagerly(given, why) if why else None  # raises what `f` itself raises
            if compiled is not None:
                self.known.setdefault(key, {})[values] = compiled
            if why:
                return result
        self.latest = fast_path_for(compiled, given)
        run = self.latest.run
        if run is None:
            return self.f(*args, **kwargs)
        try:
            return run(self.latest.take(given))
        except RuntimeError as error:
            raise_clearly(self.f, given, error)
            raise

    def compiled_for(self, given: tuple, key: Any) -> tuple[Compiled | None, str]:
        """Return the code for a new signature, and why it runs eagerly; None is not to be kept."""
        if len(self.known.get(key, ())) == MAX_VALUES:
            return None, (
                f"it is compiled for {MAX_VALUES} values of its static arguments already; pass "
                "as a "
                "tensor what changes from call to call"
            )
        if key not in self.known and len(self.known) == MAX_STRUCTURES:
            return None, f"it is compiled for {MAX_STRUCTURES} structures and shapes already"
        try:
            return compile_for(self.f, *given), ""
        except Unsupported as error:
            return Compiled(like(given), (), flatten_fn(like(given)), None), str(error)

    def call_eagerly(self, given: tuple, why: str) -> Any:
        """Return f(*args, **kwargs), and warn at the first time that it is not compiled."""
        result = self.f(*given[0], **given[1])
        if not self.warned:
            self.warned = True
            warn_eager(self.f, why, stacklevel=5)
        return result


class _OneSignature:
    """What `f` was compiled for ahead of time."""

    def __init__(self, f: Callable, compiled: Compiled):
        self.f, self.compiled, self.latest = f, compiled, NOTHING
        self.autocast = call_context()[-1]

    def call(self, args: tuple, kwargs: dict) -> Any:
        """Return f(*args, **kwargs); a UserError names what it was not compiled for."""
        given = args, kwargs
        check_arguments(self.compiled.expected, given)
        if self.compiled.take(given) is None:  # equal to itself, with another hash
            raise UserError("jit: an argument has changed since the function was compiled for it")
        if needs_grad(given) or call_context()[-1] != self.autocast:
            return self.f(*args, **kwargs)
        self.latest = fast_path_for(self.compiled, given)
        try:
            return self.latest.run(self.latest.take(given))
        except RuntimeError as error:
            raise_clearly(self.f, given, error)
            raise


def needs_grad(given: tuple) -> bool:
    """Return True if a gradient is to go to one of the arguments."""
    return torch.is_grad_enabled() and any(leaf.requires_grad for leaf in tensors(given))


def fast_path_for(compiled: Compiled, given: tuple) -> FastPath:
    """Return the code for arguments whose tensors are laid out in memory as these are."""
    leaves, run, strides = compiled.take(given), compiled.run, compiled.strides
    if run is not None and not all(map(has_strides, leaves, strides)):
        run = lambda leaves: compiled.run([*map(with_strides, leaves, strides)])
    return FastPath(compiled.take, guard_fn(leaves), call_context(), run)


def has_strides(x: Tensor, strides: tuple[int, ...]) -> bool:
    """Return True if a tensor lies in memory as compiled code expects it."""
    return x.stride() == strides and not x.is_conj() and not x.is_neg()


def with_strides(x: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Return a tensor laid out in memory by `strides`: itself or a copy."""
    if has_strides(x, strides):
        return x
    return torch.empty_strided(x.shape, strides, dtype=x.dtype, device=x.device).copy_(x.detach())


def guard_fn(leaves: Sequence[Tensor]) -> Callable[..., bool]:
    """Return the function that is True of tensors like `leaves`.

    It compares type, shape, strides, dtype, device and requires_grad: by the guards of
    torch.compile in C++, where all tensors are different, as these want.
    """
    if not leaves:
        return lambda *given: True
    if TensorGuards is None or len(set(map(id, leaves))) < len(leaves):
        wanted, repeats = (
            [_described(leaf) for leaf in leaves],
            len(set(map(id, leaves))) < len(leaves),
        )
        return lambda *given: (
            wanted == [_described(leaf) for leaf in given]
            and repeats
            == (len(set(map(id, given))) < len(given))  # or the fast guards are never tried
        )
    shapes, strides = ([list(sizes) for sizes in parts] for parts in (
        (leaf.shape for leaf in leaves), (leaf.stride() for leaf in leaves)
    ))  # fmt: skip
    return TensorGuards(*leaves, dynamic_dims_sizes=shapes, dynamic_dims_strides=strides).check


def _described(x: Tensor) -> tuple:
    return type(x), x.shape, x.stride(), x.dtype, x.device, x.requires_grad, x.is_conj(), x.is_neg()


def can_compile(caller: str, stacklevel: int) -> bool:
    """Return True if inductor finds a C++ compiler; a warning says what is missing."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) or shutil.which("clang++"):
        # torch warns at each start, where there is no GPU, that there is none
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        return True
    warnings.warn(
        f"{caller}: no C++ compiler found ({compiler}), install g++ or set CXX; it runs "
        "eagerly, with the same results",
        stacklevel=stacklevel,
    )
    return False


def warn_eager(f: Callable, why: str, stacklevel: int) -> None:
    """Warn that `f` is not compiled, and why."""
    name = getattr(f, "__qualname__", type(f).__name__)
    warnings.warn(f"jit: {name} runs eagerly, uncompiled: {why}", stacklevel=stacklevel)
