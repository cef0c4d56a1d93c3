"""What each kind of layer computes, forward and backward, beside the dimensions of a network.

dY stands for the gradient of the loss by Y. The formulas are those of docs/backprop.md, in the
names of `numpy_nets/modules.py`; rows are examples.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from purenets.core.report.diagrams import times
from purenets.core.report.tables import Table, table_of
from purenets.core.report.tabulate import Row

HEADER = ("layer", "pass", "formula", "dimensions")


class Kind(NamedTuple):
    """A kind of layer: its formula forward, and those backward by what they give."""

    forward: str
    backward: dict[str, str]


LINEAR = Kind(
    r"Y = X W^\top + b",
    {
        "X": r"dX = dY \, W",
        "W": r"dW = dY^\top X",
        "b": r"db = \sum_n dY_n",
    },
)
CONVOLUTION = Kind(
    r"Y = \operatorname{patches}(X) \, W^\top + b",
    {
        "X": r"dX = \operatorname{patches}^\top (dY \, W)",
        "W": r"dW = dY^\top \operatorname{patches}(X)",
    },
)
NORMALIZATION = {
    "X": r"dX = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} ( dY - \operatorname{mean}(dY) - "
    r"\hat{X} \odot \operatorname{mean}(dY \odot \hat{X}) )",
    "gamma": r"d\gamma = \sum dY \odot \hat{X}, \quad d\beta = \sum dY",
}
NORMALIZED = (
    r"Y = \gamma \odot \hat{X} + \beta, \quad \hat{X} = \frac{X - \mu}{\sqrt{\sigma^2 + \epsilon}}"
)
KINDS = {
    "Linear": LINEAR,
    "Conv": CONVOLUTION,
    "FixedConv": Kind(CONVOLUTION.forward, {"b": r"db = \sum_n dY_n"}),
    "BatchNorm": Kind(NORMALIZED, NORMALIZATION),
    "LayerNorm": Kind(NORMALIZED, NORMALIZATION),
    "ReLU": Kind(r"Y = \max(0, X)", {"X": r"dX = dY \odot [X > 0]"}),
    "GELU": Kind(r"Y = X \odot \Phi(X)", {"X": r"dX = dY \odot (\Phi(X) + X \odot \Phi'(X))"}),
    "Tanh": Kind(r"Y = \tanh(X)", {"X": r"dX = dY \odot (1 - Y \odot Y)"}),
    "MaxPool": Kind(
        r"Y_j = \max_{i \in \text{window } j} X_i",
        {"X": r"dX_i = \sum_j dY_j \, [X_i \text{ is the maximum of window } j]"},
    ),
    "GlobalAvgPool": Kind(
        r"Y = \frac{1}{H W} \sum_{\text{pixels}} X", {"X": r"dX = \frac{1}{H W} dY"}
    ),
    "Flatten": Kind(r"Y = X \text{ in one row}", {"X": r"dX = dY \text{ in its old shape}"}),
    "Scale": Kind(r"Y = s X", {"X": r"dX = s \, dY"}),
}
LOSS = Kind(
    r"P = \softmax(O), \quad L = - \frac{1}{N} \sum_n \log P_{n, y_n}",
    {"O": r"dO = \frac{1}{N} (P - Y)"},
)


def formulas(rows: Sequence[Row]) -> Table:
    """Return the formulas of a network, forward and backward, with the dimensions of its arrays.

    Of each kind of layer the first one stands for all others; the loss is last.

    Args:
        rows: As `tabulate` returns them.
    """
    first = {}
    for row in rows:
        first.setdefault(row.operation.split()[0], row)
    lines = [line for kind, row in first.items() for line in of_layer(KINDS[kind], row)]
    return table_of(HEADER, [*lines, *of_loss(rows[-1])])


def of_layer(kind: Kind, row: Row) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a layer."""
    products = backward_products(row)
    forward = row.forward if products else f"{_shape(row.input)} to {_shape(row.output)}"
    yield row.name, "forward", _inline(kind.forward), times(forward)
    shapes = {"X": _shape(row.input), "b": _shape(row.output[-1:])} | products
    for i, (name, tex) in enumerate(kind.backward.items()):
        shape = shapes.get(name, _shape(row.output[1:2]))
        yield "", "backward" if i == 0 else "", _inline(tex), times(shape)


def backward_products(row: Row) -> dict[str, str]:
    """Return the products of `tabulate` that give dX and dW, with their results; {} without."""
    if ", dW = " not in row.backward:
        return {}
    dx, dw = row.backward.split(", dW = ")
    found = {}
    for name, product in (("X", dx.split("dx = ")[1]), ("W", dw)):
        first, last = (part.strip("()") for part in product.split(")("))
        rows, columns = first.split(" x ")[0], last.split(" x ")[1]
        found[name] = f"{product} = ({rows} x {columns})"
    return found


def of_loss(last: Row) -> Iterator[tuple[str, ...]]:
    """Yield the rows of softmax and cross-entropy on the logits of the last layer."""
    shape = _shape(last.output)
    yield "loss", "forward", _inline(LOSS.forward), times(f"{shape} to a number")
    yield "", "backward", _inline(LOSS.backward["O"]), times(shape)


def _inline(tex: str) -> str:
    return f"$`{tex}`$"


def _shape(shape: Sequence[int]) -> str:
    return f"({' x '.join(map(str, shape))})"
