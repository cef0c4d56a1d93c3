"""Watch layers and losses that users write for writes into their arguments.

`x.mul_(2)` and `torch.relu_(x)` change the data set, or the tensor that a residual connection adds
afterwards, and no error tells it. torch counts the writes into each tensor, so that they can be
seen once they have happened. The package's own layers are tested instead, and pay nothing.
"""

import functools
from collections.abc import Callable
from typing import Any

from purenets.core import writes
from purenets.core.arguments import expect_models
from purenets.core.base import Model, UserError
from purenets.core.serial import is_own
from purenets.torch_nets.fast.tracing import is_torch_compiling


def checked(model: Model) -> Model:
    """Return a layer that a user wrote with its writes watched; any other as it is.

    Args:
        model: a layer or a network.

    Returns:
        A `Model` whose `apply` raises a UserError after a write into an argument. Code that
        torch.compile compiles is not watched.

    Example:
        >>> from purenets.torch_nets.layers import ReLU
        >>> from purenets.torch_nets.own_layers import checked
        >>> layer = ReLU()
        >>> checked(layer) is layer
        True
    """
    own = getattr(model, "apply", None)
    if not (callable(own) and is_own(own) and hasattr(model, "_replace")):
        return model
    return watched(model)


def may_write(f: Callable) -> bool:
    """Return True for a function of one tensor that may write into it.

    Those of the package and of torch do not, but for torch's whose names end in "_".
    """
    name = getattr(f, "__name__", "_")
    module = getattr(f, "__module__", "") or "torch"
    known = f"{module}.".startswith(("torch.", "purenets."))  # not torchmetrics
    return not known or name.endswith("_")


def watched(model: Model) -> Model:
    """Return a layer whose `apply` raises a UserError after a write into an argument."""
    expect_models("watched", ("apply",), model=model)
    own = model.apply

    @functools.wraps(own)  # a TypeError is explained by the signature
    def apply(params, buffers, x, *, train=False, key=None):
        if is_torch_compiling():
            return own(params, buffers, x, train=train, key=key)
        expect_unchanged = watch("apply", input=x, params=params, buffers=buffers)
        found = own(params, buffers, x, train=train, key=key)
        expect_unchanged()
        return found

    return model._replace(apply=apply)


def watch(name: str, **given: Any) -> Callable[[], None]:
    """Return a function that raises a UserError if an argument has been written into meanwhile.

    Args:
        name: how the message begins.
        given: the arguments by name: tensors, or tuples or dicts of them.
    """
    written = writes.watch(**given)

    def expect_unchanged() -> None:
        if what := written():
            raise UserError(
                f"{name}: writes into its {what} in place; return new tensors, as x.mul(2) in "
                "place of x.mul_(2), relu(x) in place of relu_(x)"
            )

    return expect_unchanged
