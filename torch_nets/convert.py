"""Nested dicts of arrays from NumPy to torch and back, and devices by name."""

import numpy as np
import torch

from purenets.core import tree
from purenets.core.arguments import shown
from purenets.core.arrays import expect_plain, to_host
from purenets.core.base import UserError


def to_torch(params: dict, *, device=None, dtype=None) -> dict:
    """Return a nested dict of arrays as tensors, copied.

    Args:
        params: a nested dict of NumPy arrays, tensors or numbers.
        device: where the tensors go; None leaves tensors where they are and puts others on the CPU.
        dtype: the dtype of floating-point leaves, itself of floating point or complex; None keeps
            theirs. Integers and bools keep theirs always.

    Returns:
        A dict of the same structure, whose leaves are tensors with memory of their own.

    Raises:
        UserError: a leaf is not an array, or has a mask or a dtype that torch lacks; `dtype` is not
            one of torch's, or of integers; or the device is not available.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from purenets.torch_nets import to_torch
        >>> to_torch({"weight": np.array([1.0, 2.0]), "count": 3}, dtype=torch.float32)
        {'weight': tensor([1., 2.]), 'count': tensor(3)}
    """
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise UserError(f"to_torch: dtype: {dtype!r} is none of torch's, such as torch.float32")
    if dtype is not None and not (dtype.is_floating_point or dtype.is_complex):
        raise UserError(f"to_torch: dtype: {dtype} would drop fractions; make integers with NumPy")
    if device is not None:
        expect_device("to_torch", device)

    def one(leaf):
        if not isinstance(leaf, torch.Tensor | np.ndarray | np.generic | int | float):
            raise UserError(f"to_torch: a leaf is a {type(leaf).__name__}, needs an array")
        expect_plain("to_torch: a leaf", leaf)
        tensor = leaf.detach().clone() if isinstance(leaf, torch.Tensor) else _tensor(leaf)
        return tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)

    return tree.map(one, params)


def _tensor(leaf: np.ndarray | np.generic | float) -> torch.Tensor:
    """Return a number or an array, in any order in memory and of bytes, as a tensor."""
    if isinstance(leaf, np.ndarray):
        leaf = np.asarray(leaf, dtype=leaf.dtype.newbyteorder("="), order="C")
    try:
        return torch.tensor(leaf)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"to_torch: a leaf is {shown(leaf)}, which torch does not hold") from error


def to_numpy(params: dict) -> dict:
    """Return a nested dict of arrays as NumPy arrays, copied.

    Args:
        params: a nested dict of tensors, on any device, or of arrays.

    Returns:
        A dict of the same structure, whose leaves are NumPy arrays with memory of their own.
        bfloat16, which NumPy lacks, becomes float32.

    Raises:
        UserError: a leaf has a mask, or is an np.matrix.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import to_numpy
        >>> to_numpy({"fc": {"weight": torch.tensor([1.0, 2.0])}})
        {'fc': {'weight': array([1., 2.], dtype=float32)}}
    """

    def one(leaf):
        expect_plain("to_numpy: a leaf", leaf)
        return to_host(leaf).copy()

    return tree.map(one, params)


def expect_device(function: str, device) -> None:
    """Raise a UserError for what is no device, or is not there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{function}: device is {device!r}, which is not available here") from error


def device_from_name(name: str) -> torch.device:
    """Return the device of a name, after a check that it is available.

    Args:
        name: "cpu", "cuda", "cuda:1" ..., or "auto", which is CUDA where there is one.

    Returns:
        The device.

    Raises:
        UserError: the device is not available.

    Example:
        >>> from purenets.torch_nets.convert import device_from_name
        >>> device_from_name("cpu")
        device(type='cpu')
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # "meta" has no values
    except (RuntimeError, AssertionError, ValueError, TypeError, OverflowError) as error:
        raise UserError(f"--device {name}: not available here, try cpu") from error
    return torch.device(name)
