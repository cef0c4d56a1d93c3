"""The formulas of each kind of layer, forward and backward, with the dimensions of a network.

dY is the gradient of the loss with respect to Y. The formulas are those of docs/backprop.md, with
the names of `numpy_nets/modules.py`; rows are examples.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from purenets.core.report.diagrams import times
from purenets.core.report.tables import Table, table_of
from purenets.core.report.tabulate import Row

HEADER = ("layer", "pass", "formula", "dimensions")


class Kind(NamedTuple):
    """A kind of layer: its forward formula, and its backward formulas by the array they are for."""

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
        "b": r"db = \sum_n dY_n",
    },
)
NORMALIZATION = {
    "X": r"dX = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} ( dY - \operatorname{mean}(dY) - "
    r"\hat{X} \odot \operatorname{mean}(dY \odot \hat{X}) )",
    "gamma": r"d\gamma = \sum dY \odot \hat{X}, \quad d\beta = \sum dY",
}
OF_FEATURES = (  # LayerNorm's means run over the features, each of which has a gamma of its own
    r"dX = \frac{1}{\sqrt{\sigma^2 + \epsilon}} ( d\hat{X} - \operatorname{mean}(d\hat{X}) - "
    r"\hat{X} \odot \operatorname{mean}(d\hat{X} \odot \hat{X}) ), \quad "
    r"d\hat{X} = \gamma \odot dY"
)
NORMALIZED = (
    r"Y = \gamma \odot \hat{X} + \beta, \quad \hat{X} = \frac{X - \mu}{\sqrt{\sigma^2 + \epsilon}}"
)
SHIFTED = Kind(
    NORMALIZED.replace(r"\gamma \odot ", ""),
    {"X": NORMALIZATION["X"].replace(r"\gamma", "1"), "beta": r"d\beta = \sum dY"},
)
KINDS = {
    "Linear": LINEAR,
    "Conv": CONVOLUTION,
    "FixedConv": Kind(
        CONVOLUTION.forward, {"X": CONVOLUTION.backward["X"], "b": r"db = \sum_n dY_n"}
    ),
    "BatchNorm": Kind(NORMALIZED, NORMALIZATION),
    "LayerNorm": Kind(NORMALIZED, NORMALIZATION | {"X": OF_FEATURES}),
    "ReLU": Kind(r"Y = \max(0, X)", {"X": r"dX = dY \odot [X > 0]"}),
    "GELU": Kind(r"Y = X \odot \Phi(X)", {"X": r"dX = dY \odot (\Phi(X) + X \odot \Phi'(X))"}),
    "Tanh": Kind(r"Y = \tanh(X)", {"X": r"dX = dY \odot (1 - Y \odot Y)"}),
    "MaxPool": Kind(
        r"Y_j = \max_{i \in \text{window } j} X_i",
        {"X": r"dX_i = \sum_j dY_j \, [X_i \text{ is the first maximum of window } j]"},
    ),
    "GlobalAvgPool": Kind(
        r"Y = \frac{1}{H W} \sum_{\text{pixels}} X", {"X": r"dX = \frac{1}{H W} dY"}
    ),
    "Flatten": Kind(r"Y = X \text{ as one row}", {"X": r"dX = dY \text{ reshaped to the input}"}),
    "Scale": Kind(r"Y = s X", {"X": r"dX = s \, dY"}),
}
LOSS = Kind(  # Q, in the gradient: the classes y as one-hot rows
    r"P = \softmax(O), \quad L = - \frac{1}{N} \sum_n \log P_{n, y_n}",
    {"O": r"dO = \frac{1}{N} (P - Q)"},
)
SOFT_LOSS = Kind(
    r"P = \softmax(O), \quad L = - \frac{1}{N} \sum_{n, k} Q_{n, k} \log P_{n, k}",
    {"O": r"dO = \frac{1}{N} (P - Q)"},
)


def formulas(rows: Sequence[Row], soft: bool = False, every: bool = False) -> Table:
    """Return the formulas of a network, forward and backward, with the dimensions of its arrays.

    The first layer of each kind stands for all others; the loss comes last.

    Args:
        rows: As `tabulate` returns them.
        soft: Whether the targets are soft labels Q, as with label smoothing, instead of classes.
        every: Whether to list every layer, not only the first of each kind.
    """
    first = {}
    for row in rows:
        first.setdefault(row.name if every else row.operation.split()[0], row)
    lines = [line for row in first.values() for line in of_layer(kind_of(row), row)]
    return table_of(HEADER, [*lines, *of_loss(rows[-1], SOFT_LOSS if soft else LOSS)])


def kind_of(row: Row) -> Kind:
    """Return the formulas of a layer, without bias or scale where it has none."""
    kind = row.operation.split()[0]
    if kind in ("BatchNorm", "LayerNorm") and row.params == row.output[1]:
        return SHIFTED
    known = KINDS[kind]
    if "b" not in known.backward or has_bias(row):
        return known
    backward = {name: tex for name, tex in known.backward.items() if name != "b"}
    return Kind(known.forward.replace(" + b", ""), backward)


def has_bias(row: Row) -> bool:
    """Return whether a layer has params besides its weights."""
    products = backward_products(row)
    if "W" not in products:  # fixed weights: all params are biases
        return row.params > 0
    n_out, n_in = products["W"].split(" = (")[1].strip(")").split(" x ")
    return row.params > int(n_out) * int(n_in)


def of_layer(kind: Kind, row: Row) -> Iterator[tuple[str, ...]]:
    """Yield the table rows of a layer."""
    products = backward_products(row)
    forward = row.forward if products else f"{_shape(row.input)} to {_shape(row.output)}"
    yield row.name, "forward", _inline(kind.forward), times(forward)
    if products and len(row.input) > 2:  # the product's rows are patches
        products["X"] += f", added up to {_shape(row.input)}"
    channels = row.output[1] if len(row.output) > 1 else row.output[-1]
    shapes = {"X": _shape(row.input), "b": _shape((channels,))} | products
    for i, (name, tex) in enumerate(kind.backward.items()):
        shape = shapes.get(name, _shape(row.output[1:2]))
        yield "", "backward" if i == 0 else "", _inline(tex), times(shape)


def backward_products(row: Row) -> dict[str, str]:
    """Return the matrix products for dX and dW, with the shapes of their results; {} if none."""
    if ", dW = " not in row.backward:
        return {}
    dx, dw = row.backward.split(", dW = ")
    found = {}
    for name, product in (("X", dx.split("dx = ")[1]), ("W", dw)):
        first, last = (part.strip("()") for part in product.split(")("))
        rows, columns = first.split(" x ")[0], last.split(" x ")[1]
        found[name] = f"{product} = ({rows} x {columns})"
    return found


def of_loss(last: Row, loss: Kind = LOSS) -> Iterator[tuple[str, ...]]:
    """Yield the table rows of softmax and cross-entropy on the logits of the last layer."""
    shape = _shape(last.output)
    yield "loss", "forward", _inline(loss.forward), times(f"{shape} to a number")
    yield "", "backward", _inline(loss.backward["O"]), times(shape)


def _inline(tex: str) -> str:
    return f"$`{tex}`$"


def _shape(shape: Sequence[int]) -> str:
    return f"({' x '.join(map(str, shape))})"
