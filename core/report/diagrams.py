"""Drawings of networks: layers as boxes, with the dimensions that go forward and backward between
them.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from purenets.core.report.plots import COLORS, panels
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


def network(rows: Sequence[Row], title: str = "") -> Figure:
    """The layers of `tabulate` from the input down to the logits. Left of the boxes, in blue, what
    each computes going forward; right, in orange, its products going backward; at the arrows the
    shapes that are handed on."""
    groups = _grouped(rows)
    figure, axes = panels(1, 1, 9.6, 0.9 + 0.72 * len(groups))
    axis = axes[0, 0]
    axis.set(xlim=(-5.2, 5.2), ylim=(-len(groups) + 0.25, 0.85), title=title)
    axis.axis("off")
    for i, group in enumerate(groups):
        _arrow(axis, -i + 0.5, group[0].input)
        names = [group[0].name, *(row.name.split(".")[-1] for row in group[1:])]
        box(axis, 0, -i, 2.9, 0.42, "  ".join(names))
        first = group[0]
        if "(" in first.forward:
            axis.text(-1.6, -i, first.forward, ha="right", va="center", fontsize=7, color=FORWARD)
            axis.text(1.6, -i, first.backward, ha="left", va="center", fontsize=7, color=BACKWARD)
    _arrow(axis, -len(groups) + 0.5, groups[-1][-1].output)
    return figure


def box(
    axis: Axes, x: float, y: float, width: float, height: float, text: str, size: float = 8.5
) -> None:
    """A box around its centre."""
    corner = (x - width / 2, y - height / 2)
    style = {
        "boxstyle": "round,pad=0.02,rounding_size=0.06",
        "facecolor": "#f3f6fa",
        "edgecolor": "black",
    }
    axis.add_patch(FancyBboxPatch(corner, width, height, **style))
    axis.text(x, y, text, ha="center", va="center", fontsize=size)


def _arrow(axis: Axes, y: float, shape: tuple[int, ...]) -> None:
    """What goes forward and its gradient that comes back: the same shape."""
    text = " x ".join(map(str, shape))
    for x, tip, tail, color in ((-0.12, -0.24, 0.24, FORWARD), (0.12, 0.24, -0.24, BACKWARD)):
        arrow = {"arrowstyle": "->", "color": color, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
        axis.annotate("", (x, y + tip), (x, y + tail), arrowprops=arrow)
    axis.text(-0.25, y, text, ha="right", va="center", fontsize=7.5, color=FORWARD)
    axis.text(0.25, y, text, ha="left", va="center", fontsize=7.5, color=BACKWARD)


def _grouped(rows: Sequence[Row]) -> list[list[Row]]:
    groups: list[list[Row]] = []
    for row in rows:
        if groups and row.operation.split()[0] in JOINED:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
