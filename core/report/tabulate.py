"""A table of a network, one row a layer: name, kind, shapes, parameters, the dimensions of the
matrix products of the forward and of the backward pass, and what they cost (`costs`).

    rows = tabulate(MLP(2, [20], 2), np.zeros((32, 2), np.float32))
    print(as_text(rows))  # dimensions
    print(as_text(rows, costs=True))  # operations and bytes

For NumPy nets, torch nets and `from_module` nets alike. The layers are those that a model names in
`Model.layers`, applied in evaluation mode to `x`. For rows of a batch y = x W^T: forward (N x
in)(in x out), backward dx = dy W: (N x out)(out x in) and dW = dy^T x: (out x N)(N x in). A
convolution is the same product of patches: N = batch * height * width of the output, in = channels
* kernel height * kernel width.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from purenets.core import random, tree
from purenets.core.arguments import expect_flags, expect_leaves, expect_models
from purenets.core.base import Array, Buffers, Model, Params, UserError
from purenets.core.report.costs import (
    ATTENTION,
    Call,
    Cost,
    arrays,
    channel_axis,
    cost_of,
    is_product,
    shape_of,
    total_cost,
)
from purenets.core.report.tables import Table, table_of, to_markdown, to_text
from purenets.core.serial import own_or_drawn_leaves

UNNAMED = "custom"  # the kind of a layer that gives none


class Row(NamedTuple):
    """A layer, or for a net without layers one of its matrices.

    cost: operations and bytes of both passes, the gradient of all params by a loss of the batch.
    """

    name: str
    operation: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    params: int
    forward: str
    backward: str
    cost: Cost = Cost()


HEADER = ("layer", "operation", "input", "output", "parameters", "forward", "backward")
COSTS_HEADER = (*HEADER[:5], "FLOPs forward", "backward", "bytes forward", "backward")


def tabulate(
    model: Model, x: Array, params: Params | None = None, buffers: Buffers | None = None
) -> list[Row]:
    """Return the rows of `model` on its inputs `x`: (batch, ...), or a tuple or dict of them.

    params, buffers: by default those that the model draws, or that its module has.
    """
    expect_models("tabulate", model=model)
    for name, leaves in (("params", params), ("buffers", buffers)):
        if leaves is not None:
            expect_leaves("tabulate", **{name: leaves})
    if params is None:
        params, buffers = own_or_drawn_leaves(model, random.key(0), x)
    rows: list[Row] = []
    _visit(rows, "", model, params, buffers or {}, x)
    alone = len(rows) == 1 and not model.layers
    if alone and len(params) > 2 and rows[0].cost.forward_flops is None:  # such as a recurrent net
        return _matrices(model, params, x)
    return rows


def as_table(rows: Sequence[Row], *, costs: bool = False) -> Table:
    """Return the rows as a Table; its last row has the sums.

    costs: with the operations and bytes of both passes instead of the dimensions of products.
        Where the shapes do not determine the operations, the cell is "?", and the total leaves it
        out.
    """
    expect_flags("as_table", costs=costs)
    if not isinstance(rows, list | tuple) or not all(isinstance(row, Row) for row in rows):
        raise UserError(f"as_table: rows: a {type(rows).__name__}, needs what tabulate returns")
    body = [
        (
            row.name,
            row.operation,
            _shape(row.input),
            _shape(row.output),
            f"{row.params:,}",
            *(map(_count, row.cost) if costs else (row.forward, row.backward)),
        )
        for row in rows
    ]
    sums = map(_count, total_cost([row.cost for row in rows])) if costs else ("", "")
    total = ("total", "", "", "", f"{sum(row.params for row in rows):,}", *sums)
    return table_of(COSTS_HEADER if costs else HEADER, [*body, total])


def _count(n: int | None) -> str:
    return "?" if n is None else f"{n:,}"


def as_text(rows: Sequence[Row], *, costs: bool = False) -> str:
    """Return the rows as a table for a terminal; `costs` as for `as_table`."""
    return to_text(as_table(rows, costs=costs))


def as_markdown(rows: Sequence[Row], *, costs: bool = False) -> str:
    """Return the rows as a table in Markdown; `costs` as for `as_table`."""
    return to_markdown(as_table(rows, costs=costs))


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
        rows += _module_rows(name, modules, params, buffers, _any_params(rows))
    else:
        call = Call(model.kind or UNNAMED, params, buffers, x, y)
        cost = cost_of(call, needs_dx=_any_params(rows))
        rows.append(_row(name or "model", call)._replace(cost=cost))
    return y


def _any_params(rows: Sequence[Row]) -> bool:
    """Return True if a layer has params: the inputs of those after it have a gradient."""
    return any(row.params for row in rows)


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
    if not hasattr(next(arrays(x), None), "detach"):
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


def _module_rows(
    prefix: str, calls: Sequence[_Call], params: Params, buffers: Buffers, needs_dx: bool
) -> list[Row]:
    """Return a row for each call, and one for each parameter that no called module holds.

    A parameter is counted once, where it is used first, so the total is the number of parameters;
    what a call costs it costs each time.
    """
    left, rows = dict(params), []
    for call in calls:
        start = f"{call.name}." if call.name else ""
        own = {name: left.pop(start + name) for name in _held(call) if start + name in left}
        name = ".".join(part for part in (prefix, call.name) if part) or "module"
        cost = cost_of(_as_call(call, start, params, buffers), needs_dx or _any_params(rows))
        kind = type(call.module).__name__
        row = _row(name, Call(kind, own, {}, call.x, call.y))
        rows.append(row._replace(cost=cost))
    for name, leaf in left.items():
        kind, shape = "parameter", tuple(leaf.shape)
        known = leaf.ndim < 2 or any(_projects(call, name) for call in calls)
        cost = Cost() if known else Cost(None, None)
        full = f"{prefix}.{name}" if prefix else name
        rows.append(Row(full, kind, (), shape, math.prod(shape), "", "", cost))
    return rows


def _held(call: _Call) -> list[str]:
    """Return the names of a module's own parameters."""
    return [name for name, _ in call.module.named_parameters(recurse=False)]


def _as_call(call: _Call, start: str, params: Params, buffers: Buffers) -> Call:
    """Return the call of a module with all that it uses, trained or not."""
    names = [*_held(call), *dict(call.module.named_buffers(recurse=False))]
    own = [
        {name: leaves[start + name] for name in names if start + name in leaves}
        for leaves in (params, buffers)
    ]
    kind = type(call.module).__name__
    return Call(kind, *own, call.x, call.y, getattr(call.module, "batch_first", False))


def _projects(call: _Call, name: str) -> bool:
    """Return True for the outputs' projection of an attention, whose row has its cost."""
    return type(call.module).__name__ == ATTENTION and name == f"{call.name}.out_proj.weight"


# --- rows -----------------------------------------------------------------------------------------


def _row(name: str, call: Call) -> Row:
    """Return the row of a layer, without its cost; weights that are buffers multiply and have no
    dW.
    """
    operation, params = call.kind, call.params
    x_shape, y_shape = shape_of(call.x), shape_of(call.y)
    weights, fixed = (
        [tuple(leaf.shape) for leaf in leaves.values() if leaf.ndim > 1]
        for leaves in (params, call.buffers)
    )
    is_fixed = not weights
    weights = weights or (fixed if len(fixed) == 1 else [])
    weights = [shape for shape in weights if 0 not in shape]  # an empty one multiplies nothing
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
    if len(weights) == 1 and y_shape and is_product(weights[0], x_shape, y_shape):
        (weight,) = weights
        n = math.prod(y_shape) // weight[0]
        groups = 1 if len(weight) == 2 else x_shape[channel_axis(weight)] // weight[1]
        kernel = "" if len(weight) == 2 else " " + "x".join(map(str, weight[2:]))
        forward, backward = _products(n, weight[0] // groups, math.prod(weight[1:]), groups)
        backward = backward.split(", dW")[0] if is_fixed else backward
        return Row(name, operation + kernel, x_shape, y_shape, size, forward, backward)
    back = f"dx = {_dims(x_shape)} of dy {_dims(y_shape)}"
    return Row(name, operation, x_shape, y_shape, size, "no product", back)


def _matrices(model: Model, params: Params, x: Array) -> list[Row]:
    """Return a row for each matrix of a net that is not made of layers, such as the recurrent one:
    each multiplies rows of a batch (there, at each step of time)."""
    n, rows, kind = shape_of(x)[0], [], model.kind or UNNAMED
    for name, leaf in params.items():
        shape, size = tuple(leaf.shape), math.prod(leaf.shape)
        if len(shape) == 2:
            cost = _matrix_cost(kind, name, leaf, x)
            sizes = (n, shape[1]), (n, shape[0])
            rows.append(Row(name, kind, *sizes, size, *_products(n, *shape), cost))
        else:
            cost = Cost(0, 0, leaf.nbytes, leaf.nbytes)
            texts = "added", "sum over rows"
            rows.append(Row(name, kind, (n, *shape), (n, *shape), size, *texts, cost))
    return rows


def _matrix_cost(kind: str, name: str, matrix: Array, x: Array) -> Cost:
    """Return what a matrix of `VanillaRNN` costs in all steps; of another net it is not known.

    The first h is zero: nothing is multiplied with it.
    """
    n, steps = shape_of(x)[:2] if kind == "VanillaRNN" else (0, 0)
    times = {"W_hx": steps, "W_hh": steps - 1, "W_ph": 1}.get(name)
    if kind != "VanillaRNN" or times is None:
        return Cost(None, None)
    (n_out, n_in), item = matrix.shape, matrix.nbytes // math.prod(matrix.shape)
    flops, rows = 2 * times * n * n_out * n_in, times * n * item
    by_x = name != "W_hx"  # the digits have no gradient
    forward = matrix.nbytes + rows * (n_in + n_out)
    by_inputs = by_x * (matrix.nbytes + rows * n_in)
    return Cost(flops, flops * (1 + by_x), forward, forward + by_inputs)


def _products(n: int, n_out: int, n_in: int, groups: int = 1) -> tuple[str, str]:
    times = f"{groups} times " if groups > 1 else ""
    forward = f"{times}{_dims((n, n_in))}{_dims((n_in, n_out))} = {_dims((n, n_out))}"
    dx = f"dx = {_dims((n, n_out))}{_dims((n_out, n_in))}"
    return forward, f"{times}{dx}, dW = {_dims((n_out, n))}{_dims((n, n_in))}"


def _dims(shape: Sequence[int]) -> str:
    return f"({' x '.join(map(str, shape))})"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
