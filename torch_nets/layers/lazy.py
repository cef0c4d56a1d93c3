"""Layers whose sizes are read from an example of the inputs."""

from collections.abc import Callable

from purenets.core.arguments import expect_functions, is_integer
from purenets.core.base import Model, UserError
from purenets.torch_nets.layers.basic import expect_tensor

CHANNELS = ("Conv", "Conv1d", "ConvTranspose", "BatchNorm", "GroupNorm", "CNN")  # on axis 1


def lazy(make: Callable[..., Model], *args, axis: int | None = None, **kwargs) -> Model:
    """Return the layer `make(n, *args, **kwargs)`, whose first size n is read from its inputs.

    `init(key, example)` reads n from an example of the inputs, `apply` from its inputs.

    Args:
        make: a constructor whose first argument is the size of the inputs, such as `Linear`.
        args: its further positional arguments.
        axis: the axis of the inputs that is n long. None means the channels (1) for convolutions,
            `BatchNorm`, `GroupNorm` and `CNN`, else the last axis.
        kwargs: its keyword arguments.

    Returns:
        A layer whose `init` takes an example too: inputs of the net as `apply` takes them, a batch
        of one is enough, on the device of the key. `init_state` passes its `example` on.

    Raises:
        UserError: `make` is not a function, or `axis` is not an integer. In `init`: no example, or
            an example without that axis.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.layers import Flatten, Linear, lazy, serial
        >>> net = serial(flat=Flatten(), fc=lazy(Linear, 10))
        >>> params, buffers = net.init(random.key(0), torch.zeros(1, 3, 8, 8))
        >>> params["fc.weight"].shape
        torch.Size([10, 192])

    Source:
        torch.nn.LazyLinear and the other lazy modules.
    """
    expect_functions("lazy", make=make)
    if axis is not None and not is_integer(axis):
        raise UserError(f"lazy: axis is {axis!r}, needs an integer")
    name = getattr(make, "__name__", "layer")
    axis = (1 if name in CHANNELS else -1) if axis is None else axis

    def sized(x) -> Model:
        x = x[0] if isinstance(x, tuple) else x  # with a state, or queries with keys and values
        expect_tensor(x)
        if not -x.ndim <= axis < x.ndim:
            raise UserError(f"input: shape is {tuple(x.shape)}, without the axis {axis} of {name}")
        return make(x.shape[axis], *args, **kwargs)

    def init(key, example=None):
        if example is None:
            raise UserError(f"lazy {name}: needs an example of the inputs: init(key, example)")
        return sized(example).init(key)

    def apply(params, buffers, x, *, train=False, key=None):
        return sized(x).apply(params, buffers, x, train=train, key=key)

    init.takes_example = True
    return Model(init, apply, kind=name)
