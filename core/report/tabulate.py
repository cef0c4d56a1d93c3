"""A table of a network, one row a layer: name, kind, shapes, parameters, and the dimensions of the
matrix products of the forward and of the backward pass.

    print(as_text(tabulate(MLP(2, [20], 2), np.zeros((32, 2), np.float32))))

For NumPy nets, torch nets and `from_module` nets alike. The layers are those that a model names in
`Model.layers`, applied in evaluation mode to `x`. For rows of a batch y = x W^T: forward (N x
in)(in x out), backward dx = dy W: (N x out)(out x in) and dW = dy^T x: (out x N)(N x in). A
convolution is the same product of patches: N = batch * height * width of the output, in = channels
* kernel height * kernel width.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from purenets.core import random, tree
from purenets.core.arguments import expect_models
from purenets.core.base import Array, Buffers, Model, Params, UserError
from purenets.core.report.tables import Table, table_of, to_markdown, to_text
from purenets.core.serial import init_leaves

UNNAMED = "custom"  # the kind of a layer that gives none


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
    """Return the rows of `model` on its inputs `x`: (batch, ...), or a tuple or dict of them.

    params, buffers: by default those that the model draws, or that its module has.
    """
    expect_models("tabulate", model=model)
    if params is None:
        params, buffers = _any_leaves(model, x)
    rows: list[Row] = []
    y = _visit(rows, "", model, params, buffers or {}, x)
    if len(rows) == 1 and not model.layers and len(params) > 2:  # such as a recurrent net
        return _matrices(model, params, x, y)
    return rows


def _any_leaves(model: Model, x: Array) -> tuple[Params, Buffers]:
    """Return leaves for their shapes: drawn, or the values of a torch module that cannot be drawn
    anew.
    """
    try:
        return init_leaves(model, random.key(0), x)
    except UserError:
        return model.init(None)


def as_table(rows: Sequence[Row]) -> Table:
    """Return the rows as a Table; its last row has the sum of the parameters."""
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Row) for row in rows):
        raise UserError(f"as_table: rows: a {type(rows).__name__}, needs what tabulate returns")
    body = [
        (
            row.name,
            row.operation,
            _shape(row.input),
            _shape(row.output),
            f"{row.params:,}",
            *row[5:],
        )
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


# --- layers ---------------------------------------------------------------------------------------


def _visit(
    rows: list[Row], name: str, model: Any, params: Params, buffers: Buffers, x: Array
) -> Array:
    """Add the rows of a model or layer called `name`, and return its output on `x`."""
    with _leaf_modules(x) as modules:
        y = (getattr(model, "apply", None) or model.forward)(params, buffers, x)[0]
    if model.layers:
        inner = x
        for part, layer in model.layers.items():
            own = [tree.select(leaves, f"{part}.") for leaves in (params, buffers)]
            inner = _visit(rows, f"{name}.{part}" if name else part, layer, *own, inner)
    elif modules:
        rows += _module_rows(name, modules, params)
    else:
        rows.append(_row(name or "model", model.kind or UNNAMED, params, x, y, buffers))
    return y


class _Call(NamedTuple):
    """A call of a torch.nn.Module: its name in the outermost module, itself, its inputs and
    output.
    """

    name: str
    module: Any
    x: Any
    y: Any


@contextlib.contextmanager
def _leaf_modules(x: Array) -> Iterator[list[_Call]]:
    """Collect the calls of torch.nn.Modules that hold no other, or params of their own, within the
    block.
    """
    calls: list[_Call] = []
    if not hasattr(_first(x), "detach"):
        yield calls
        return
    from torch.nn.modules import module as hooks  # only where there are tensors

    names: dict[int, str] = {}

    def before(module, inputs):
        if not names:  # the outermost module is called first
            names.update({id(part): name for name, part in module.named_modules()})

    def after(module, inputs, output):
        if not list(module.children()) or list(module.parameters(recurse=False)):
            calls.append(_Call(names.get(id(module), ""), module, inputs, output))

    handles = [
        hooks.register_module_forward_pre_hook(before),
        hooks.register_module_forward_hook(after),
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _module_rows(prefix: str, calls: Sequence[_Call], params: Params) -> list[Row]:
    """Return a row for each call, and one for each parameter that no called module holds.

    A parameter is counted once, where it is used first, so the total is the number of parameters.
    """
    left, rows = dict(params), []
    for call in calls:
        start = f"{call.name}." if call.name else ""
        held = [f"{start}{name}" for name, _ in call.module.named_parameters(recurse=False)]
        own = {name: left.pop(name) for name in held if name in left}
        name = ".".join(part for part in (prefix, call.name) if part) or "module"
        rows.append(_row(name, type(call.module).__name__, own, call.x, call.y))
    for name, leaf in left.items():
        kind, shape = "parameter", tuple(leaf.shape)
        rows.append(
            Row(f"{prefix}.{name}" if prefix else name, kind, (), shape, math.prod(shape), "", "")
        )
    return rows


def _first(y: Any) -> Any:
    """Return the first tensor of inputs or an output, which may be nested in tuples, lists and
    dicts.
    """
    if isinstance(y, Mapping):
        y = tuple(y.values())
    return _first(y[0]) if isinstance(y, tuple | list) and y else y


# --- rows -----------------------------------------------------------------------------------------


def _row(
    name: str, operation: str, params: Params, x: Any, y: Any, buffers: Buffers | None = None
) -> Row:
    """Return the row of a layer; weights that are buffers multiply and have no dW."""
    x_shape, y_shape = (tuple(getattr(_first(a), "shape", ())) for a in (x, y))
    weights, fixed = (
        [tuple(leaf.shape) for leaf in leaves.values() if leaf.ndim > 1]
        for leaves in (params, buffers or {})
    )
    weights = weights or (fixed if len(fixed) == 1 else [])
    size = tree.size(params)
    if operation.startswith("Embedding"):
        return Row(name, operation, x_shape, y_shape, size, "rows of a table", "sum over tokens")
    if operation.startswith("ConvTranspose") and len(weights) == 1:
        n, (n_in, *out) = math.prod(x_shape) // weights[0][0], weights[0]
        kernel = " " + "x".join(map(str, out[1:]))
        products = _products(n, math.prod(out), n_in)
        return Row(name, operation + kernel, x_shape, y_shape, size, *products)
    if len(weights) > 1:
        texts = f"products with {len(weights)} matrices", "dx and dW of each"
        return Row(name, operation, x_shape, y_shape, size, *texts)
    if len(weights) == 1 and y_shape and _is_product(weights[0], x_shape, y_shape):
        (weight,) = weights
        n = math.prod(y_shape) // weight[0]
        groups = 1 if len(weight) == 2 else x_shape[_channels(weight)] // weight[1]
        kernel = "" if len(weight) == 2 else " " + "x".join(map(str, weight[2:]))
        forward, backward = _products(n, weight[0] // groups, math.prod(weight[1:]), groups)
        backward = backward.split(", dW")[0] if weights is fixed else backward
        return Row(name, operation + kernel, x_shape, y_shape, size, forward, backward)
    back = f"dx = {_dims(x_shape)} of dy {_dims(y_shape)}"
    return Row(name, operation, x_shape, y_shape, size, "by element or window", back)


def _is_product(weight: tuple[int, ...], x: tuple[int, ...], y: tuple[int, ...]) -> bool:
    """Return True if a weight (out, in) or (out, in / groups, kernel...) maps the shape x to the
    shape y.
    """
    if len(weight) == 2:
        return bool(x) and x[-1] == weight[1] and y[-1] == weight[0]
    axis = _channels(weight)
    return len(x) >= -axis and x[axis] % weight[1] == 0 and y[axis] == weight[0]


def _channels(weight: tuple[int, ...]) -> int:
    """Return the axis of the channels in images, with or without a batch."""
    return 1 - len(weight)


def _matrices(model: Model, params: Params, x: Array, y: Array) -> list[Row]:
    """Return a row for each matrix of a net that is not made of layers, such as the recurrent one:
    each multiplies rows of a batch (there, at each step of time)."""
    n, rows, kind = _first(x).shape[0], [], model.kind or UNNAMED
    for name, leaf in params.items():
        shape, size = tuple(leaf.shape), math.prod(leaf.shape)
        if len(shape) == 2:
            rows.append(Row(name, kind, (n, shape[1]), (n, shape[0]), size, *_products(n, *shape)))
        else:
            rows.append(Row(name, kind, (n, *shape), (n, *shape), size, "added", "sum over rows"))
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
