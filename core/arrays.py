"""One vocabulary for NumPy arrays and torch tensors: the array API standard, by
array-api-compat.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import array_api_compat.numpy as numpy_namespace
import numpy as np

from purenets.core.base import Array, UserError

NUMPY = (np.ndarray, np.generic, int, float)  # the types of NumPy's arrays, and of numbers


def namespace(x: Array):
    """Return the array API namespace of `x`. torch is imported only when `x` is one of its tensors.

    (`array_api_compat.array_namespace` does the same, but torch.compile warns about its caches.)
    """
    if isinstance(x, NUMPY):
        return numpy_namespace
    import array_api_compat.torch as torch_namespace

    return torch_namespace


def to_host(x: Array) -> np.ndarray:
    """Return `x` as a NumPy array; a tensor is copied from its device.

    Numbers that NumPy has no dtype for (bfloat16) come as float32, which holds each of them.
    """
    if not hasattr(x, "detach"):
        return np.asarray(x)
    x = x.detach().cpu().resolve_neg()
    if x.is_complex():
        x = x.resolve_conj()
    elif x.is_floating_point() and not hasattr(np, _name(x.dtype)):
        x = x.float()
    return np.asarray(x)


def plain(x: Array) -> Array:
    """Return a torch.nn.Parameter as a plain tensor with a copy of its values, else `x` as it is.

    A Parameter requires grad: each step of a training that began at it would hold on to the step
    before. An optimizer of torch would change it in place.
    """
    if isinstance(x, NUMPY):
        return x
    import torch

    return x.detach().clone() if isinstance(x, torch.nn.Parameter) else x


def stop_gradient(x: Array) -> Array:
    """Return `x` as a constant for derivatives, to any order (jax.lax.stop_gradient)."""
    return x if isinstance(x, NUMPY) else x.detach()


def like(value, reference: Array, dtype=None) -> Array:
    """Return `value` as an array of the library, device and (if none is given) dtype of
    `reference`.
    """
    xp, dtype = namespace(reference), dtype or reference.dtype
    if xp is numpy_namespace:
        return np.asarray(to_host(value), dtype=dtype)
    return as_array(value, xp, dtype, reference.device)


def as_array(value, xp, dtype, device=None) -> Array:
    """Return `value` as an array of the library `xp`; a tensor keeps the graph of its derivatives.

    `torch.asarray` warns of a tensor that requires grad, and older ones cut it off.
    (torch.compile answers for NumPy's arrays as for tensors: they are asked for by type.)
    """
    if isinstance(value, NUMPY) or not hasattr(value, "detach"):
        return xp.asarray(value, dtype=dtype, device=device)
    return value.to(device=device, dtype=dtype)


def own_copy(x: Array) -> Array:
    """Return an array with memory of its own, which nobody changes by writing into `x`.

    A tensor that requires a gradient is returned itself: its graph goes on.
    """
    if isinstance(x, NUMPY):
        return x.copy()
    return x if x.requires_grad else x.clone()


# --- precision ------------------------------------------------------------------------------------

# The dtypes that most params have, of which nothing is to be asked. NumPy's are here by their types
# (torch.compile of torch 2.11 knows no hash of the dtypes themselves); torch_nets adds torch's.
FULL = {type(np.dtype("float32")), type(np.dtype("float64"))}


def is_full(dtype) -> bool:
    """Return True for the float32 and float64 of NumPy and torch."""
    return dtype in FULL or type(dtype) in FULL


def register_full(*dtypes) -> None:
    """Add the float32 and float64 of another library; called where `purenets.torch_nets` is
    imported.
    """
    FULL.update(dtypes)


def widened(x: Array) -> Array:
    """Return `x` in float32 (complex64) if its dtype has less than 32 bits a number, else itself.

    Half precision is for what is stored. With 8 (bfloat16) or 11 (float16) significant bits, long
    sums stop growing; 0.999 rounds to 1 in bfloat16, and the square of 300 overflows in float16,
    whose largest number is 65,504. Hence all that sums, squares or averages takes its numbers by
    this function.
    """
    if is_full(x.dtype):
        return x
    kind = kind_of(x)
    if kind not in "fc" or x.dtype.itemsize >= (4 if kind == "f" else 8):
        return x
    xp = namespace(x)
    return xp.astype(x, xp.float32 if kind == "f" else xp.complex64)


def in_floats(x: np.ndarray) -> np.ndarray:
    """Return `x` in floating point: integers and truth values as NumPy adds them to a float32.

    That is float32, or float64 where an integer has 32 bits or more. Layers that return numbers in
    the dtype of their input would cut off the fractions of integers.

    >>> in_floats(np.uint8([200])), in_floats(np.float16([0.5]))
    (array([200.], dtype=float32), array([0.5], dtype=float16))
    """
    if x.dtype.kind in "fc":
        return x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
    return x.astype(np.result_type(x.dtype, np.float32))


def real_dtype(x: Array):
    """Return the dtype of real numbers that is as precise as that of `x`, float32 at least."""
    xp = namespace(x)
    return xp.float64 if x.dtype in (xp.float64, xp.complex128) else xp.float32


def kind_of(x: Array) -> str:
    """Return "b" for booleans, "i" integers, "f" real, "c" complex numbers, else another letter.

    >>> kind_of(np.zeros(2)), kind_of(np.zeros(2, np.uint8)), kind_of(np.array(["a"]))
    ('f', 'i', 'U')
    """
    if isinstance(x.dtype, np.dtype):
        return "i" if x.dtype.kind == "u" else x.dtype.kind
    if x.is_floating_point() or x.is_complex():
        return "f" if x.is_floating_point() else "c"
    return "b" if _name(x.dtype) == "bool" else "i"


def expect_plain(name: str, x: Any) -> None:
    """Raise a UserError for what means something else than an array: an array with a mask, which
    nothing here would look at; np.matrix, whose `*` is a matrix product; a table of pandas, whose
    x[i] goes by its index; a sparse matrix.

    Args:
        name: how the message calls it.
        x: what may be an array.
    """
    if type(x) is np.ndarray:
        return
    for convert in ("to_numpy", "toarray"):
        if hasattr(x, "shape") and hasattr(x, convert):
            kind = type(x).__name__
            raise UserError(f"{name}: a {kind}, needs an array, as its {convert}() returns")
    if not isinstance(x, np.ndarray):
        return
    if isinstance(x, np.ma.MaskedArray):
        raise UserError(
            f"{name}: a masked array, whose mask would be ignored; leave the masked examples out, "
            "or fill them: x.filled(0.0)"
        )
    if isinstance(x, np.matrix):
        raise UserError(f"{name}: an np.matrix, needs an array: np.asarray(x)")


def int64(x: Array) -> Array:
    """Return integers or truth values in int64: a sum or product overflows in no smaller dtype, and
    torch compares and sorts no uint16, uint32 or uint64.
    """
    xp = namespace(x)
    return x if x.dtype == xp.int64 else xp.astype(x, xp.int64)


def dtype_called(name: Any, reference: Array, function: str):
    """Return the floating-point dtype called `name` in the library of `reference`.

    name: such as "float32", or that dtype of NumPy or torch itself.

    Raises:
        UserError: if it has none, as NumPy has no bfloat16.
    """
    library = "NumPy" if isinstance(reference, NUMPY) else "torch"
    xp = namespace(reference)
    known = isinstance(name, str | np.dtype) or type(name).__name__ == "dtype"
    known = known or (isinstance(name, type) and issubclass(name, np.floating))
    called = name.__name__ if isinstance(name, type) else _name(name)
    found = getattr(xp, called, None) if known else None
    try:
        if found is not None and xp.isdtype(found, "real floating"):
            return np.dtype(found) if library == "NumPy" else found
    except (TypeError, AttributeError):  # of what is no dtype, such as "sum"
        pass
    raise UserError(
        f'{function}: dtype: {name!r} is no floating-point dtype of {library}, as "float32" is'
    )


def _name(dtype) -> str:
    return str(dtype).removeprefix("torch.")


def sqrt(x: Array) -> Array:
    """Return the root of each element, with a derivative of 0 where that is 0.

    The slope of the root is infinite there, and times the slope 0 of a square it would be NaN. A
    second `where` keeps it out of the backward pass (the first alone would multiply it by 0).
    """
    if isinstance(x, NUMPY):
        return np.sqrt(x)
    if not x.requires_grad and not is_tracing():
        return x.sqrt()
    xp, zero = namespace(x), x == 0
    root = xp.where(zero, xp.ones_like(x), x).sqrt()
    return xp.where(zero, xp.zeros_like(x), root)


# --- tracing --------------------------------------------------------------------------------------


def is_tracing() -> bool:
    """Return True under torch.compile, a torch.func transform or forward AD, where no value of a
    tensor may be read.

    Without `purenets.torch_nets`, which knows, the answer is True: always right, and slower.
    """
    return _tracing_checks[-1]()


def register_tracing(check: Callable[[], bool]) -> None:
    """Let `is_tracing` ask `check`; called where `purenets.torch_nets` is imported."""
    _tracing_checks[:] = [check]


_tracing_checks: list[Callable[[], bool]] = [lambda: True]


def outside_transforms() -> contextlib.AbstractContextManager:
    """Return the context in which an operation is no part of the transforms of torch.func that are
    running.
    """
    return _outside_contexts[-1]()


def register_outside(context: Callable[[], contextlib.AbstractContextManager]) -> None:
    """Let `outside_transforms` return `context()`; called where `purenets.torch_nets` is
    imported.
    """
    _outside_contexts[:] = [context]


_outside_contexts: list[Callable] = [contextlib.nullcontext]
