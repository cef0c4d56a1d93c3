"""What a row of layers is in both backends: names, and one key for each layer."""

import itertools
from collections.abc import Callable, Sequence

from purenets.core import random, tree
from purenets.core.base import Array, Params, UserError

# Each is called as `see(name, layer, params, x) -> done`, and then `done(y)`; only `report.tabulate` adds one,
# and takes it away again.
OBSERVERS: list[Callable] = []


def expect(params: Params, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise a UserError that names the leaf that is unknown or misshapen (one that is missing raises the
    KeyError that `serial_apply` names)."""
    if len(params) > len(shapes):
        known = f"the layer has {', '.join(shapes) or 'none'}"
        raise UserError(f"{', '.join(params.keys() - shapes.keys())}: unknown in params; {known}")
    for name, shape in shapes.items():
        if params[name].shape != shape:
            raise UserError(f"{name}: shape is {tuple(params[name].shape)}, expected {shape}")


def expect_features(x: Array, n: int) -> None:
    """Raise a UserError if the last axis of the input is not `n` long."""
    if x.ndim == 0 or x.shape[-1] != n:
        raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, {n})")


def expect_batch(x: Array) -> None:
    """Raise a UserError if the input has no axis beside that of the batch."""
    if x.ndim < 2:
        raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, ...)")


def serial_uses_key(layers: dict) -> bool:
    """Whether any of the layers draws from its key."""
    return any(layer.uses_key for layer in layers.values())


def serial_init(layers: dict) -> Callable:
    """`init(key) -> (params, buffers)` of layers by name, each with a key of its own."""
    for name in layers:
        if not name or "." in name:
            raise UserError(f"layer {name!r}: a name must not be empty or hold a dot")

    def init(key):
        params, buffers = {}, {}
        for i, (name, layer) in enumerate(layers.items()):
            mine, state = layer.init(random.fold_in(key, i))
            params |= tree.prefixed(mine, f"{name}.")
            buffers |= tree.prefixed(state, f"{name}.")
        return params, buffers

    return init


def serial_apply(layers: dict, method: str) -> Callable:
    """`run(params, buffers, x, *, train, key) -> (x, buffers, extras)` of layers by name, one after the other, each
    by its function of the name `method`; rests: what each returns beyond x and buffers, by name.

    A UserError names the leaf that is missing, unknown or misshapen.
    """
    steps = [(i, name, layer, getattr(layer, method)) for i, (name, layer) in enumerate(layers.items())]

    def run(params: Params, buffers: dict, x: Array, *, train: bool = False, key=None) -> tuple:
        mine_of, state_of = _by_layer(layers, params, "params"), _by_layer(layers, buffers, "buffers")
        new_buffers, extras = {}, {}
        for i, name, layer, call in steps:
            mine, state = mine_of.get(name, {}), state_of.get(name, {})
            layer_key = random.fold_in(key, i) if layer.uses_key and key is not None else None
            watching = [see(name, layer, mine, x) for see in OBSERVERS] if OBSERVERS else ()
            try:
                x, state, *extras[name] = call(mine, state, x, train=train, key=layer_key)
            except (KeyError, UserError) as error:
                missing = ": missing in params" if isinstance(error, KeyError) else ""
                raise UserError(f"{name}.{error.args[0]}{missing}") from error
            if state:
                new_buffers |= tree.prefixed(state, f"{name}.")
            for done in watching:
                done(x)
        return x, new_buffers, extras

    return run


def _by_layer(layers: dict, leaves: dict, what: str) -> dict[str, dict]:
    """The leaves "fc1.weight", ... as a dict for each layer that has any; a UserError names those of no layer."""
    parts = {}
    for full, leaf in leaves.items():
        layer, _, name = full.partition(".")
        if layer not in layers:
            unknown = [other for other in leaves if other.partition(".")[0] not in layers]
            raise UserError(f"{', '.join(unknown)}: unknown in {what}; the layers are {', '.join(layers)}")
        parts.setdefault(layer, {})[name] = leaf
    return parts


def expect_channels(x: Array, n: int) -> None:
    """Raise a UserError if the input is not a batch of images of `n` channels, of one pixel or more."""
    if x.ndim != 4 or x.shape[1] != n or 0 in x.shape[2:]:
        raise UserError(f"input: shape is {tuple(x.shape)}, expected (batch, {n}, height, width)")


VGG = (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool")


def reduced_vgg(
    backend, n_channels: int, n_classes: int, width: float = 1.0, norm: Callable | None = None
) -> dict:
    """The layers of the assignment's reduced VGG by name: "conv1", "norm1", "pool1", "relu1", ... "fc".

    A convolution is 3x3, stride 1, padding 1, with BatchNorm and ReLU; a pool the maximum of 3x3, stride 2,
    padding 1. A pool comes before the ReLU that the assignment has before it: the maximum of what a ReLU
    leaves is what the ReLU leaves of the maximum, in value and gradient, and of a quarter as many pixels.
    backend: as in `mlp_layers`; width: a factor of all channels; norm: a constructor in place of BatchNorm.
    """
    norm = norm or backend.BatchNorm
    layers, convolutions, pools, channels = {}, 0, 0, n_channels
    for what, then in itertools.pairwise((*VGG, None)):
        if what == "pool":
            continue
        convolutions += 1
        more = max(1, round(what * width))
        layers[f"conv{convolutions}"] = backend.Conv(channels, more, 3, padding=1)
        layers[f"norm{convolutions}"] = norm(more)
        if then == "pool":
            pools += 1
            layers[f"pool{pools}"] = backend.MaxPool(3, stride=2, padding=1)
        layers[f"relu{convolutions}"] = backend.ReLU()
        channels = more
    return layers | {"mean": backend.GlobalAvgPool(), "fc": backend.Linear(channels, n_classes)}


RNN_INITS = (
    "default",
    "orthogonal",
    "identity",
)  # how W_hh begins, functions of purenets.torch_nets.vanilla_rnn


def rnn_shapes(input_dim: int, num_hidden: int, num_classes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of the vanilla RNN's params, by the names of the assignment's equations (1) and (2)."""
    return {
        "W_hx": (num_hidden, input_dim),
        "W_hh": (num_hidden, num_hidden),
        "b_h": (num_hidden,),
        "W_ph": (num_classes, num_hidden),
        "b_o": (num_classes,),
    }


def mlp_layers(
    backend, n_inputs: int, n_hidden: Sequence[int], n_classes: int, activation: str, dropout: float
) -> dict:
    """The layers of a multi-layer perceptron by name: "fc1", "relu1", ("dropout1",) ... and a last "fc".

    backend: what has the constructors Linear and Dropout and the table ACTIVATIONS: a module of layers.
    """
    if activation not in backend.ACTIVATIONS:
        raise UserError(f"activation: unknown {activation!r}, choose from {', '.join(backend.ACTIVATIONS)}")
    layers, width = {}, n_inputs
    for i, units in enumerate(n_hidden, start=1):
        layers[f"fc{i}"] = backend.Linear(width, units)
        layers[f"{activation}{i}"] = backend.ACTIVATIONS[activation]()
        if dropout:
            layers[f"dropout{i}"] = backend.Dropout(dropout)
        width = units
    return layers | {f"fc{len(n_hidden) + 1}": backend.Linear(width, n_classes)}
