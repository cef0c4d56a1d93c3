"""A table of a network, one row a layer: name, operation, shapes, parameters, and the dimensions of the matrix
products of the forward and of the backward pass.

    print(as_text(tabulate(MLP(2, [20], 2), np.zeros((32, 2), np.float32))))

For NumPy nets, torch nets and `from_module` nets alike. The net runs once, in evaluation mode, on `x`. For rows
of a batch y = x W^T: forward (N x in)(in x out), backward dx = dy W: (N x out)(out x in) and dW = dy^T x:
(out x N)(N x in). A convolution is the same product of patches: N = batch * height * width of the output,
in = channels * kernel height * kernel width.
"""

import contextlib
import inspect
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from purenets.core import random, serial, tree
from purenets.core.base import Array, Buffers, Model, Params
from purenets.core.report.tables import Table, table_of, to_markdown, to_text


class Row(NamedTuple):
    """A layer, or for a net without layers one of its matrices."""

    name: str
    operation: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    params: int
    forward: str
    backward: str


HEADER = ("layer", "operation", "input", "output", "parameters", "forward", "backward")


def tabulate(
    model: Model, x: Array, params: Params | None = None, buffers: Buffers | None = None
) -> list[Row]:
    """The rows of `model` on the input `x`: (batch, ...); with params of its own drawing if none are given."""
    if params is None:
        params, buffers = model.init(random.key(0))
    rows: list[Row] = []
    with _layers(rows), _modules(rows) if hasattr(x, "detach") else contextlib.nullcontext():
        y, _ = model.apply(params, buffers or {}, x)
    return rows or _matrices(model, params, x, y)


def as_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a Table; its last row has the sum of the parameters."""
    body = [
        (row.name, row.operation, _shape(row.input), _shape(row.output), f"{row.params:,}", *row[5:])
        for row in rows
    ]
    total = ("total", "", "", "", f"{sum(row.params for row in rows):,}", "", "")
    return table_of(HEADER, [*body, total])


def as_text(rows: Sequence[Row]) -> str:
    """Return the rows as a table for a terminal."""
    return to_text(as_table(rows))


def as_markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown."""
    return to_markdown(as_table(rows))


# --- who sees the layers ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _layers(rows: list[Row]) -> Iterator[None]:
    """Within it each layer of a `serial` adds its row; a layer that is a row of layers leaves it to them."""
    path: list[str] = []

    def see(name, layer, params, x):
        path.append(name)
        before = len(rows)

        def done(y):
            if len(rows) == before:
                rows.append(_row(".".join(path), operation(layer), params, x, y))
            path.pop()

        return done

    serial.OBSERVERS.append(see)
    try:
        yield
    finally:
        serial.OBSERVERS.remove(see)


@contextlib.contextmanager
def _modules(rows: list[Row]) -> Iterator[None]:
    """Within it each torch.nn.Module that has no module inside adds its row."""
    from torch.nn.modules import module as hooks  # only where there are tensors

    names: dict[int, str] = {}

    def before(module, inputs):
        if not names:  # the outermost is called first
            names.update({id(part): name or "module" for name, part in module.named_modules()})

    def after(module, inputs, output):
        if not list(module.children()) and inputs and hasattr(output, "shape"):
            own = dict(module.named_parameters())
            name = names.get(id(module), "")
            rows.append(_row(name, type(module).__name__, own, inputs[0], output))

    handles = [hooks.register_module_forward_pre_hook(before), hooks.register_module_forward_hook(after)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def operation(layer) -> str:
    """The name of the constructor that made a layer, or of the function that a layer without params is."""
    run = getattr(layer, "apply", None) or layer.forward
    inside = inspect.getclosurevars(run).nonlocals
    function = inside.get("f") or inside.get("forward") or run
    maker, *local = function.__qualname__.split(".<locals>")
    if local:
        return maker
    words = function.__name__.removesuffix("_forward").split("_")
    name = "".join(word.capitalize() for word in words)
    return {"Relu": "ReLU", "Softmax": "SoftMax", "Mean": "GlobalAvgPool"}.get(name, name)


# --- rows -------------------------------------------------------------------------------------------------


def _row(name: str, operation: str, params: Params, x: Array, y: Array) -> Row:
    x_shape, y_shape = tuple(x.shape), tuple(y.shape)
    weights = [tuple(leaf.shape) for leaf in params.values() if leaf.ndim > 1]
    if len(weights) == 1 and y_shape:
        (weight,) = weights
        n = math.prod(y_shape) // weight[0]
        groups = 1 if len(weight) == 2 else x_shape[1] // weight[1]
        kernel = "" if len(weight) == 2 else " " + "x".join(map(str, weight[2:]))
        forward, backward = _products(n, weight[0] // groups, math.prod(weight[1:]), groups)
        return Row(name, operation + kernel, x_shape, y_shape, tree.size(params), forward, backward)
    back = f"dx = {_dims(x_shape)} of dy {_dims(y_shape)}"
    return Row(name, operation, x_shape, y_shape, tree.size(params), "by element or window", back)


def _matrices(model: Model, params: Params, x: Array, y: Array) -> list[Row]:
    """A row for each matrix of a net that is not made of layers, such as the recurrent one: each multiplies
    rows of a batch (there, at each step of time)."""
    n, rows = x.shape[0], []
    for name, leaf in params.items():
        shape, size = tuple(leaf.shape), math.prod(leaf.shape)
        if len(shape) == 2:
            row = Row(name, operation(model), (n, shape[1]), (n, shape[0]), size, *_products(n, *shape))
            rows.append(row)
        else:
            rows.append(Row(name, operation(model), (n, *shape), (n, *shape), size, "added", "sum over rows"))
    return rows


def _products(n: int, n_out: int, n_in: int, groups: int = 1) -> tuple[str, str]:
    times = f"{groups} times " if groups > 1 else ""
    forward = f"{times}{_dims((n, n_in))}{_dims((n_in, n_out))} = {_dims((n, n_out))}"
    dx = f"dx = {_dims((n, n_out))}{_dims((n_out, n_in))}"
    return forward, f"{times}{dx}, dW = {_dims((n_out, n))}{_dims((n, n_in))}"


def _dims(shape: Sequence[int]) -> str:
    return f"({' x '.join(map(str, shape))})"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
