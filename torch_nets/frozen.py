"""A trained net as a part of another one, not trained any further."""

from typing import Any

from torch import Tensor

from purenets.core.arguments import expect_dicts, expect_models
from purenets.core.base import Buffers, Model, Params, UserError


def frozen(model: Model, params: Params, buffers: Buffers | None = None) -> Model:
    """Return the model with its params as constants, so that nothing of it is trained.

    The params become buffers. In training too the model runs in evaluation mode, so that its
    running statistics stay. Gradients pass through to its inputs, not to its params. In a `serial`
    it is a backbone below a head.

    Args:
        model: the network.
        params: its values, by name.
        buffers: its buffers, by name; none by default.

    Returns:
        A model without params. `init(key)` returns the given values for any key.

    Raises:
        UserError: an argument is wrong, or a name is in params and in buffers. When applied: there
            are params.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import frozen, layers
        >>> backbone = layers.Linear(4, 8)  # trained before
        >>> values = backbone.init(random.key(0))
        >>> net = layers.serial(backbone=frozen(backbone, *values), head=layers.Linear(8, 3))
        >>> params, buffers = net.init(random.key(1))
        >>> list(params), list(buffers)
        (['head.weight', 'head.bias'], ['backbone.weight', 'backbone.bias'])
    """
    expect_models("frozen", ("apply",), model=model)
    buffers = {} if buffers is None else buffers
    expect_dicts("frozen", params=params, buffers=buffers)
    both = params.keys() & buffers.keys()
    if both:
        raise UserError(f"frozen: {', '.join(sorted(both))} in params and in buffers")
    values = {name: _constant(leaf) for name, leaf in {**params, **buffers}.items()}

    def init(key):
        return {}, dict(values)

    def apply(own, constants, x, *, train=False, key=None):
        if own:
            raise UserError(f"{', '.join(own)}: unknown in params; the layer has none")
        parts = ({name: constants[name] for name in part} for part in (params, buffers))
        y, _ = model.apply(*parts, x)
        return y, constants

    return Model(init, apply, uses_key=False, kind=model.kind)


def _constant(leaf: Any) -> Any:
    """Return a copy that no later write changes, and without the graph of a torch.nn.Parameter."""
    return leaf.detach().clone() if isinstance(leaf, Tensor) else leaf
