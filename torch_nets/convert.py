"""Arrays, alone or in dicts and tuples, from NumPy to torch and back, and devices by name."""

from typing import Any

import numpy as np
import torch

from purenets.core.arguments import shown
from purenets.core.arrays import expect_plain, to_host
from purenets.core.base import UserError
from purenets.core.nested import map_leaves


def to_torch(arrays: Any, *, device=None, dtype=None) -> Any:
    """Return arrays as tensors, copied.

    Args:
        arrays: a NumPy array, a tensor or a number, or nested dicts, tuples and lists of them: the
            params, a pair (inputs, targets), a `TrainState`.
        device: where the tensors go; None leaves tensors where they are and puts others on the CPU.
        dtype: the dtype of floating-point leaves, itself of floating point or complex; None keeps
            theirs. Integers and bools keep theirs always.

    Returns:
        The same structure, whose leaves are tensors with memory of their own; a None within stays.

    Raises:
        UserError: a leaf is not an array, or has a mask or a dtype that torch lacks; `dtype` is not
            one of torch's, or of integers; or the device is not available.

    Example:
        >>> import numpy as np
        >>> import torch
        >>> from purenets.torch_nets import to_torch
        >>> to_torch({"weight": np.array([1.0, 2.0]), "count": 3}, dtype=torch.float32)
        {'weight': tensor([1., 2.]), 'count': tensor(3)}
        >>> to_torch((np.zeros(1), np.array([2])))
        (tensor([0.], dtype=torch.float64), tensor([2]))
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

    return one(None) if arrays is None else map_leaves(one, arrays)


def _tensor(leaf: np.ndarray | np.generic | float) -> torch.Tensor:
    """Return a number or an array, in any order in memory and of bytes, as a tensor."""
    if isinstance(leaf, np.ndarray):
        leaf = np.asarray(leaf, dtype=leaf.dtype.newbyteorder("="), order="C")
    try:
        return torch.tensor(leaf)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"to_torch: a leaf is {shown(leaf)}, which torch does not hold") from error


def to_numpy(tensors: Any) -> Any:
    """Return tensors as NumPy arrays, copied.

    Args:
        tensors: a tensor, on any device, or an array or a number, or nested dicts, tuples and lists
            of them.

    Returns:
        The same structure, whose leaves are NumPy arrays with memory of their own; a None
        within stays. bfloat16, which NumPy lacks, becomes float32.

    Raises:
        UserError: a leaf is not an array, or has a mask.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import to_numpy
        >>> to_numpy({"fc": {"weight": torch.tensor([1.0, 2.0])}})
        {'fc': {'weight': array([1., 2.], dtype=float32)}}
    """

    def one(leaf):
        if not isinstance(leaf, torch.Tensor | np.ndarray | np.generic | int | float):
            raise UserError(f"to_numpy: a leaf is a {type(leaf).__name__}, needs an array")
        expect_plain("to_numpy: a leaf", leaf)
        return to_host(leaf).copy()

    return one(None) if tensors is None else map_leaves(one, tensors)


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
