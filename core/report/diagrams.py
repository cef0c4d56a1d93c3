"""Drawings of networks: layers as boxes, with the dimensions that go forward and backward between
them.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from purenets.core.report.document import Diagram, Stage
from purenets.core.report.plots import COLORS
from purenets.core.report.tabulate import Row

FORWARD, BACKWARD = COLORS[0], COLORS[3]
JOINED = (
    "BatchNorm",
    "LayerNorm",
    "ReLU",
    "GELU",
    "Tanh",
    "Dropout",
    "Scale",
)  # drawn in the box of the layer before


def network(rows: Sequence[Row], caption: str = "", key: str = "") -> Diagram:
    """Return the layers of `tabulate` as a diagram, from the input down to the logits.

    Beside each layer stand the products that it computes forward and backward, between the layers
    the shapes that are handed on.
    """
    groups = _grouped(rows)
    stages = [_stage(group) for group in groups]
    return Diagram(stages, times(_shape(groups[-1][-1].output)), caption, key)


def times(text: str) -> str:
    """Return dimensions with the sign of multiplication: 32 x 2 with its own sign."""
    return text.replace(" x ", " \u00d7 ")


def _stage(group: Sequence[Row]) -> Stage:
    first, *joined = group
    name = "  ".join([first.name, *(row.name.split(".")[-1] for row in joined)])
    backward = first.backward.replace("dx = ", "dX = ")  # as in formulas
    products = (first.forward, backward) if "(" in first.forward else ("", "")
    return Stage(times(_shape(first.input)), name, *map(times, products))


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def box(
    axis: Axes, x: float, y: float, width: float, height: float, text: str, size: float = 8.5
) -> None:
    """Draw a box around its center."""
    corner = (x - width / 2, y - height / 2)
    style = {
        "boxstyle": "round,pad=0.02,rounding_size=0.06",
        "facecolor": "#f4f1ea",
        "edgecolor": "#8c877b",
    }
    axis.add_patch(FancyBboxPatch(corner, width, height, **style))
    axis.text(x, y, text, ha="center", va="center", fontsize=size)


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for row in rows:
        if groups and row.operation.split()[0] in JOINED:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
