"""A trained net as a part of another one that is not trained any further."""

from purenets.core.arguments import expect_dicts, expect_models
from purenets.core.base import Buffers, Model, Params, UserError


def frozen(model: Model, params: Params, buffers: Buffers | None = None) -> Model:
    """Return the model with its params as constants: it has none to train.

    They are buffers, with those that it has, and `init(key)` returns these values. It is applied in
    evaluation mode in training too, so that its running statistics stay, and no gradient passes
    through its params; one to its inputs does. In a row of layers it is a backbone under a head:

        serial(backbone=frozen(net, *net.init(None)), head=Linear(512, 10))

    Args:
        model: the network.
        params: its values, by name.
        buffers: the same; none by default.
    """
    expect_models("frozen", ("apply",), model=model)
    buffers = {} if buffers is None else buffers
    expect_dicts("frozen", params=params, buffers=buffers)
    both = params.keys() & buffers.keys()
    if both:
        raise UserError(f"frozen: {', '.join(sorted(both))} in params and in buffers")
    values = {**params, **buffers}

    def init(key):
        return {}, dict(values)

    def apply(own, constants, x, *, train=False, key=None):
        if own:
            raise UserError(f"{', '.join(own)}: unknown in params; the layer has none")
        parts = ({name: constants[name] for name in part} for part in (params, buffers))
        y, _ = model.apply(*parts, x)
        return y, constants

    return Model(init, apply, uses_key=False, kind=model.kind)
