"""Checks of layers and losses that users write: what they return, and that they change no argument.

A layer that writes into its input changes the data set, or the output that the layer before keeps
for its backward pass; a gradient of another shape broadcasts. Neither raises an error by itself.
Layers of the package are tested for both and pass through unchanged, so they pay nothing.
"""

import functools
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from purenets.core.base import Params, UserError
from purenets.core.optim.internals.precision import expect_like
from purenets.core.serial import is_own


def checked(module: Any) -> Any:
    """Return a module whose passes are checked if a user wrote one of them, else the module itself.

    Args:
        module: a `Module`, or what has its fields.

    Returns:
        A module. Its `forward` gets read-only views, its `backward` one of dout. Its `backward`
        raises a UserError unless it returns (dx, grads): dx in the shape of the input, grads in
        those of the params.

    Example:
        >>> import numpy as np
        >>> from purenets.numpy_nets.modules import ReLU
        >>> from purenets.numpy_nets.own_layers import checked
        >>> module = ReLU()
        >>> checked(module) is module
        True
    """
    passes = [getattr(module, name, None) for name in ("forward", "backward")]
    if not (
        hasattr(module, "_replace") and all(map(callable, passes)) and any(map(is_own, passes))
    ):
        return module
    by_params = getattr(module, "backward_params", None)
    return module._replace(
        forward=_checked_forward(module.forward),
        backward=_checked_backward(module.backward),
        backward_params=_checked_backward_params(module.backward, by_params),
    )


# --- forward --------------------------------------------------------------------------------------


def _checked_forward(forward: Callable) -> Callable:
    @functools.wraps(forward)  # a TypeError is explained by the signature
    def wrapped(params, buffers, x, *, train=False, key=None):
        seen_params, seen_buffers, seen = _all_read_only(params), _all_read_only(buffers), _view(x)
        try:
            found = forward(seen_params, seen_buffers, seen, train=train, key=key)
        except ValueError as error:
            _explain("forward", error, f"the input has shape {np.shape(x)}")
        y, new, cache = _expect_three(found)
        new = buffers if new is seen_buffers else _originals(new, seen_buffers, buffers)
        return (x if y is seen else y), new, (cache, x, params)

    return wrapped


def _view(x: Any) -> Any:
    """Return a read-only view of an array; anything else as it is."""
    if not isinstance(x, np.ndarray):
        return x
    view = x.view()
    view.setflags(False)  # by position: half the time
    return view


def _all_read_only(leaves: Any) -> Any:
    if not isinstance(leaves, dict):
        return leaves
    return {name: _view(leaf) for name, leaf in leaves.items()}


def _originals(new: Any, seen: Any, old: Any) -> Any:
    """Return new buffers, with the arrays themselves in place of their views."""
    if not (isinstance(new, dict) and isinstance(seen, dict)):
        return new
    return {name: old[name] if seen.get(name) is leaf else leaf for name, leaf in new.items()}


def _expect_three(found: Any) -> tuple:
    if not isinstance(found, tuple) or len(found) != 3:
        kind = f"a tuple of {len(found)}" if isinstance(found, tuple) else _kind(found)
        raise UserError(f"forward: returned {kind}, needs (y, buffers, cache)")
    return found


def _explain(name: str, error: ValueError, about: str) -> NoReturn:
    """Raise the error as a UserError, which `serial` begins with the name of the layer."""
    if isinstance(error, UserError):
        raise error
    if "read-only" in str(error):
        raise UserError(
            f"{name}: writes into one of its arguments in place; return new arrays, as 0.5 * x in "
            "place of x *= 0.5"
        ) from error
    raise UserError(f"{name}: {str(error).strip()}; {about}") from error


# --- backward -------------------------------------------------------------------------------------


def _checked_backward(backward: Callable) -> Callable:
    def wrapped(dout, kept):
        cache, x, params = kept
        dx, grads = _expect_pair(_called(backward, dout, cache))
        _expect_grads(grads, params)
        _expect_dx(dx, x)
        return dx, grads

    return wrapped


def _checked_backward_params(backward: Callable, by_params: Callable | None) -> Callable:
    """Return the pass of a first layer, whose dx nobody needs, so that it may be anything."""

    def wrapped(dout, kept):
        cache, _, params = kept
        if by_params is None:
            grads = _expect_pair(_called(backward, dout, cache))[1]
        else:
            grads = _called(by_params, dout, cache)
        _expect_grads(grads, params)
        return grads

    return wrapped


def _called(backward: Callable, dout: Any, cache: Any) -> Any:
    try:
        return backward(_view(dout), cache)
    except ValueError as error:
        _explain("backward", error, f"dout has shape {np.shape(dout)}")


def _expect_pair(found: Any) -> tuple:
    right = "needs (dx, grads), where grads is a dict by the names of the params"
    if not isinstance(found, tuple | list) or len(found) != 2:
        kind = f"{len(found)} values" if isinstance(found, tuple | list) else _kind(found)
        raise UserError(f"backward: returned {kind}, {right}")
    if not isinstance(found[1], dict):
        kinds = ", ".join(type(part).__name__ for part in found)
        raise UserError(f"backward: returned ({kinds}), {right}")
    return tuple(found)


def _expect_dx(dx: Any, x: Any) -> None:
    """Raise a UserError unless dx has the shape of the input; that of integers is not needed."""
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "fc":
        return
    if not isinstance(dx, np.ndarray | np.generic):
        raise UserError(f"backward: dx is {_kind(dx)}, needs an array of shape {x.shape}")
    if dx.shape != x.shape:
        raise UserError(f"backward: dx has shape {dx.shape}, the input {x.shape}")


def _expect_grads(grads: Params, params: Params) -> None:
    """Raise a UserError unless there is a gradient for each param, in its shape."""
    if not isinstance(grads, dict):
        raise UserError(f"backward_params: returned {_kind(grads)}, needs a dict of arrays by name")
    expect_like("backward: grads", grads, params)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"


# --- losses ---------------------------------------------------------------------------------------


def checked_loss(loss: Any) -> Any:
    """Return a loss whose passes are checked if a user wrote one of them, else the loss itself.

    Args:
        loss: a `Loss`.

    Returns:
        A `Loss`. Its `forward` gets read-only views and must return (scalar, cache); its `backward`
        must return an array in the shape of the outputs.

    Example:
        >>> from purenets.numpy_nets import losses
        >>> from purenets.numpy_nets.own_layers import checked_loss
        >>> checked_loss(losses.mse) is losses.mse
        True
    """
    passes = [getattr(loss, name, None) for name in ("forward", "backward")]
    if not (hasattr(loss, "_replace") and any(map(is_own, passes))):
        return loss

    def forward(outputs, targets):
        try:
            found = loss.forward(_view(outputs), _view(targets))
        except ValueError as error:
            shapes = f"outputs {np.shape(outputs)}, targets {np.shape(targets)}"
            _explain("loss", error, shapes)
        if not isinstance(found, tuple) or len(found) != 2:
            kind = f"a tuple of {len(found)}" if isinstance(found, tuple) else _kind(found)
            raise UserError(f"loss: forward returned {kind}, needs (value, cache)")
        if np.shape(found[0]):
            raise UserError(f"loss: has shape {np.shape(found[0])}, needs a scalar, as its mean")
        return found[0], (found[1], outputs)

    def backward(dout, kept):
        cache, outputs = kept
        grad = loss.backward(dout, cache)
        if np.shape(grad) != outputs.shape:
            shapes = f"{np.shape(grad)}, the outputs {outputs.shape}"
            raise UserError(f"loss: backward returned shape {shapes}")
        return grad

    accuracy = loss.accuracy and (lambda outputs, kept: loss.accuracy(outputs, kept[0]))
    return loss._replace(forward=forward, backward=backward, accuracy=accuracy)
