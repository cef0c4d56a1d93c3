"""Layers in sequence, for the NumPy and the torch backend: names, and one key for each layer."""

import inspect
from collections.abc import Callable
from typing import Any

from purenets.core import random, tree
from purenets.core.arguments import expect_integers, expect_leaves, expect_models, is_integer
from purenets.core.base import Array, Buffers, Params, UserError
from purenets.core.memory import sized_like

LARGEST_SIZE = 2**62


class NotDrawnError(UserError):
    """No key draws the leaves of a model that has values of its own; `init(None)` returns these."""


def expect(params: Params, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise a UserError that names the leaf that is missing, unknown or misshapen."""
    try:
        if len(params) > len(shapes):
            known = f"the layer has {', '.join(shapes) or 'none'}"
            unknown = ", ".join(map(str, params.keys() - shapes.keys()))
            raise UserError(f"{unknown}: unknown in params; {known}")
        for name, shape in shapes.items():
            if params[name].shape != shape:
                raise UserError(f"{name}: shape is {tuple(params[name].shape)}, expected {shape}")
    except KeyError as error:
        raise UserError(f"{error.args[0]}: missing in params") from error
    except (TypeError, AttributeError, IndexError) as error:  # looked into only then
        expect_leaves("layer", params=params)
        raise error


def expect_sizes(layer: str, **sizes: int) -> None:
    """Raise a UserError that names the size of a layer that is no positive integer."""
    for name, value in sizes.items():
        if is_integer(value) and value >= LARGEST_SIZE:
            raise UserError(f"{layer}: {name} has {len(str(value))} digits, which no memory holds")
    expect_integers(layer, 1, **sizes)


def expect_padding(layer: str, padding: int, size: int) -> None:
    """Raise a UserError for a padding that lets a window see nothing else."""
    expect_integers(layer, 0, padding=padding)
    if 2 * padding > size:
        raise UserError(f"{layer}: padding is {padding}, needs half of size {size} at most")


def expect_features(x: Array, n: int) -> None:
    """Raise a UserError if the last axis of the input is not `n` long."""
    if getattr(x, "ndim", 0) == 0 or x.shape[-1] != n:
        raise UserError(f"input: {_about(x)}, expected (batch, {n})")


def expect_batch(x: Array) -> None:
    """Raise a UserError if the input has no axis beside that of the batch."""
    if getattr(x, "ndim", 0) < 2:
        raise UserError(f"input: {_about(x)}, expected (batch, ...)")


def _about(x: Array) -> str:
    if not hasattr(x, "shape"):
        return f"a {type(x).__name__}"
    return f"shape is {tuple(x.shape)}"


def is_own(function: Callable) -> bool:
    """Return True for a function that is not the package's: what it does is not known."""
    return not str(getattr(function, "__module__", "")).startswith("purenets.")


def expect_named(given: tuple) -> None:
    """Raise a UserError for layers of `serial` that have no names."""
    if given:
        kind = getattr(given[0], "kind", "") or type(given[0]).__name__
        raise UserError(f"serial: a layer without a name, {kind}; name each, as in fc1={kind}(...)")


def serial_uses_key(layers: dict) -> bool:
    """Return True if any of the layers draws from its key."""
    return any(layer.uses_key for layer in layers.values())


def init_leaves(model: Any, key: Array, example: Any = None) -> tuple[Params, Buffers]:
    """Return `model.init(key)`, of a model with lazily sized layers `model.init(key, example)`.

    Raises a UserError for what is no pair of dicts: a dict of two would pass for a pair.
    """
    found = model.init(key, example) if takes_example(model) else model.init(key)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], dict)):
        raise UserError(f"init returned {_kind_of(found)}, needs (params, buffers)")
    return found


def own_or_drawn_leaves(model: Any, key: Array, example: Any = None) -> tuple[Params, Buffers]:
    """Return what `init_leaves` does, or the own values of a model that no key draws.

    Such a model is a torch module that was trained or loaded before: a part of a larger net.
    """
    try:
        return init_leaves(model, key, example)
    except NotDrawnError:
        return init_leaves(model, None, example)


def expect_output(found: Any) -> tuple:
    """Return what `apply` returned; a UserError if it is no pair: an array of two rows looks like
    one.
    """
    if not (isinstance(found, tuple) and len(found) == 2):
        raise UserError(f"apply returned {_kind_of(found)}, needs (y, buffers)")
    return found


def _kind_of(found: Any) -> str:
    if isinstance(found, tuple):
        return f"a tuple of {len(found)}"
    return f"a {type(found).__name__}"


def takes_example(model: Any) -> bool:
    """Return True if a model or a layer reads sizes from an example of its inputs."""
    return getattr(model.init, "takes_example", False)


def serial_init(layers: dict) -> Callable:
    """Return `init(key, example=None) -> (params, buffers)` of layers by name, each with a key of
    its own.

    Lazily sized layers need the example; the layers before them are applied to it. A layer that no
    key draws, such as a pretrained module of torch, has its own values.
    """
    for name in layers:
        if not name or "." in name:
            raise UserError(f"layer {name!r}: a name must not be empty or hold a dot")
    lazy = [i for i, layer in enumerate(layers.values()) if takes_example(layer)]

    def init(key, example=None):
        random.check_key(key)
        params, buffers, x = {}, {}, example
        for i, (name, layer) in enumerate(layers.items()):
            try:
                mine, state = own_or_drawn_leaves(layer, random.fold_in(key, i), x)
            except UserError as error:
                raise UserError(f"{name}: {error.args[0]}") from error
            if x is not None and lazy and i < lazy[-1]:
                x = _applied(name, layer, mine, state, x)
            params |= tree.prefixed(mine, f"{name}.")
            buffers |= tree.prefixed(state, f"{name}.")
        return params, buffers

    init.takes_example = bool(lazy)
    return sized_like(init, [*layers.values()])


def _applied(name: str, layer: Any, params: Params, buffers: Buffers, x: Array) -> Array:
    """Return the output of a layer; a UserError begins with its name."""
    try:
        return layer.apply(params, buffers, x)[0]
    except UserError as error:
        raise UserError(f"{name}.{error.args[0]}") from error


def serial_apply(layers: dict, method: str) -> Callable:
    """Return `run(params, buffers, x, *, train, key) -> (x, buffers, extras)` of layers in
    sequence.

    method: the name of the function that is called on each layer, "apply" or "forward".
    extras: what each layer returns beyond x and buffers, by its name.
    Raises a UserError that names the leaf that is missing, unknown or misshapen.
    """
    expect_models("serial", ("init", method), **layers)
    steps = [
        (i, name, layer, getattr(layer, method)) for i, (name, layer) in enumerate(layers.items())
    ]

    size, right = (2, "(y, buffers)") if method == "apply" else (3, "(y, buffers, cache)")

    def run(params: Params, buffers: dict, x: Array, *, train: bool = False, key=None) -> tuple:
        mine_of = by_layer(layers, params, "params")
        empty = buffers is None or (isinstance(buffers, dict) and not buffers)
        state_of = {} if empty else by_layer(layers, buffers, "buffers")
        new_buffers, extras = {}, {}
        for i, name, layer, call in steps:
            mine, state = mine_of.get(name, {}), state_of.get(name, {})
            layer_key = random.fold_in(key, i) if layer.uses_key and key is not None else None
            try:
                found = call(mine, state, x, train=train, key=layer_key)
            except (KeyError, UserError) as error:
                missing = ": missing in params" if isinstance(error, KeyError) else ""
                raise UserError(f"{name}.{error.args[0]}{missing}") from error
            except TypeError:
                expect_keywords(name, method, call)
                raise
            if not isinstance(found, tuple) or len(found) != size:
                raise UserError(f"{name}: {method} returned {_kind_of(found)}, needs {right}")
            x, state, *extras[name] = found
            if state:
                new_buffers |= tree.prefixed(state, f"{name}.")
        return x, new_buffers, extras

    return run


def expect_keywords(name: str, method: str, call: Callable) -> None:
    """Raise a UserError for the `apply` or `forward` of a layer that takes no `train` and `key`."""
    try:
        inspect.signature(call).bind(None, None, None, train=False, key=None)
    except TypeError as error:
        raise UserError(
            f"{name}: {method} {error}; needs {method}(params, buffers, x, *, train=False, "
            "key=None)"
        ) from error


def by_layer(layers: dict, leaves: dict, what: str) -> dict[str, dict]:
    """Return the leaves "fc1.weight", ... as a dict for each layer that has any; a UserError names
    those of no layer."""
    if not isinstance(leaves, dict):
        raise UserError(f"{what}: a {type(leaves).__name__}, needs a dict of arrays by name")
    parts = {}
    for full, leaf in leaves.items():
        if not isinstance(full, str):
            raise UserError(f"{what}: the name {full!r} is no text")
        layer, _, name = full.partition(".")
        if layer in parts:
            parts[layer][name] = leaf
        elif layer in layers:
            parts[layer] = {name: leaf}
        else:
            unknown = [other for other in leaves if other.partition(".")[0] not in layers]
            raise UserError(
                f"{', '.join(unknown)}: unknown in {what}; the layers are {', '.join(layers)}"
            )
    return parts


def expect_channels(
    x: Array, n: int | None = None, axes: tuple[str, ...] = ("height", "width")
) -> None:
    """Raise a UserError if the input is not (batch, n, *axes), of one pixel or more: a batch of
    images, or for the axes ("length",) of sequences, of `n` channels; None for any number."""
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) != 2 + len(axes) or n not in (None, shape[1]) or 0 in shape[2:]:
        expected = f"(batch, {'channels' if n is None else n}, {', '.join(axes)})"
        raise UserError(f"input: {_about(x)}, expected {expected}")


def expect_window(x: Array, size: int, padding: int = 0, dilation: int = 1) -> None:
    """Raise a UserError if a window does not fit into the pixels of an input and their padding."""
    needed = dilation * (size - 1) + 1
    if min(x.shape[2:]) + 2 * padding < needed:
        beside = f" and {padding} of padding on each side" if padding else ""
        raise UserError(f"input: {_about(x)}{beside}; a window needs {needed} pixels along an axis")


def expect_running(buffers: dict, n: int) -> None:
    """Raise a UserError that names what of the running statistics is missing, or of other shape."""
    try:
        for name in ("running_mean", "running_var"):
            shape = tuple(buffers[name].shape)
            if shape != (n,):
                raise UserError(f"{name}: shape is {shape}, expected ({n},)")
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        expect_leaves("layer", buffers=buffers)
        raise UserError(f"{name}: missing in buffers") from error
