"""Keys where tensors are drawn: a NumPy key stands for the same key of torch."""

from typing import Any

import torch
from torch import Tensor

from purenets.core import random
from purenets.core.base import UserError

MISSING = "training needs a key"  # what a layer that draws says, after its name


def key_like(key: Any, like: Any = None) -> Tensor | None:
    """Return a key as a tensor that draws on the device of `like`; a tensor or None as it is.

    What draws in a torch model or a torch gradient calls it first, so that `random.key(0)`, a NumPy
    key, draws tensors there: the same numbers.

    Args:
        key: a NumPy key, a key in a tensor, or None.
        like: a device; or a tensor, or nested dicts, tuples and lists of them, whose first one
            names the device. The CPU if there is none.

    Returns:
        The key in an int64 tensor, or None.

    Raises:
        UserError: `key` is no key; a seed, for example, is an integer.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.keys import key_like
        >>> key_like(random.key(7), torch.zeros(2))
        tensor([7, 0])
    """
    if key is None or isinstance(key, Tensor):
        return key
    return torch.as_tensor(random.check_key(key), device=_device_of(like))


def _device_of(like: Any) -> torch.device | None:
    """Return the device of the first tensor within; None if there is none."""
    if isinstance(like, Tensor | torch.device):
        return getattr(like, "device", like)
    parts = like.values() if isinstance(like, dict) else like
    if not isinstance(like, dict | tuple | list):
        return None
    return next((d for d in map(_device_of, parts) if d is not None), None)


def expect_key_for(function: str, key: Any, error: UserError) -> None:
    """Raise a UserError that says where a key is to go, if a model has missed one.

    Args:
        function: the function that took the key, or did not.
        key: what it was given.
        error: what the model raised. Anything but a missing key is left to the caller.

    Raises:
        UserError: the model draws, and there is no key.

    Example:
        >>> from purenets import UserError
        >>> from purenets.torch_nets.keys import expect_key_for
        >>> expect_key_for("f", None, UserError("drop: training needs a key"))
        Traceback (most recent call last):
        purenets.core.base.UserError: f: the model draws (drop); pass key=random.key(0)
    """
    place, _, text = str(error).rpartition(": ")
    if key is None and (text == MISSING or "there is no key" in text):
        raise UserError(f"{function}: the model draws ({place}); pass key=random.key(0)") from error
