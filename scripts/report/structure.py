"""The layers of a network as the report shows them."""

from collections.abc import Sequence
from typing import NamedTuple

from purenets import Model
from purenets.core.report.diagrams import times
from purenets.core.report.tables import Table
from purenets.core.report.tabulate import Row, as_table

COLUMNS = 5  # layer, operation, input, output, parameters; the products stand in the diagram
WINDOWS = ("Conv", "FixedConv", "MaxPool")  # kinds of layers that move a window over an image
PROBED = (12, 4)  # rows and columns of the images that show a layer's window


class Window(NamedTuple):
    """The window of a convolution or a pooling, the same in both directions, in pixels."""

    kernel: int
    stride: int
    padding: int


def layers(rows: Sequence[Row], model: Model | None = None) -> Table:
    """Return the layers with their inputs, outputs and parameters.

    Args:
        rows: As `tabulate` returns them.
        model: The network of the rows, to show the windows of its convolutions and poolings.
    """
    table = as_table(rows)
    head, *body = [[times(cell) for cell in row[:COLUMNS]] for row in table.rows]
    if model is None:
        return table._replace(rows=[head, *body])
    windows = {row.name: window(layer_at(model, row.name)) for row in rows if has_window(row)}
    lines = [
        [row[0], row[1].split()[0] if row[1] else "", *shown(windows.get(row[0])), *row[2:]]
        for row in body
    ]
    return table._replace(rows=[[*head[:2], *Window._fields, *head[2:]], *lines])


def has_window(row: Row) -> bool:
    """Return whether a layer moves a window over an image."""
    return row.operation.split()[0] in WINDOWS


def layer_at(model: Model, name: str) -> Model:
    """Return the layer of a dotted name, as "group1.conv1"."""
    for part in name.split("."):
        model = model.layers[part]
    return model


def shown(found: Window | None) -> tuple[str, str, str]:
    """Return a window as cells; empty ones for a layer without a window."""
    if found is None:
        return "", "", ""
    return f"{found.kernel} \u00d7 {found.kernel}", str(found.stride), str(found.padding)


def window(layer: Model) -> Window:
    """Return the window of a layer, as its outputs show it.

    Image i has a 1 in row i, and all weights are 1, so the rows of output i that are not 0 are
    those whose window contains row i.
    """
    import torch

    from purenets import random

    leaves = [{**own} for own in layer.init(random.key(0))]
    for own in leaves:
        for name, leaf in own.items():
            own[name] = torch.full_like(leaf, leaf.ndim > 1)  # weights are 1, biases 0
    weights = [leaf for own in leaves for leaf in own.values() if leaf.ndim > 1]
    channels = weights[0].shape[1] if weights else 1
    height, width = PROBED
    images = torch.eye(height)[:, None, :, None].expand(-1, channels, -1, width)
    seen = layer.apply(*leaves, images)[0][:, 0].amax(-1) != 0  # image by row of the output
    kernel = int(seen[:, 2].sum())  # row 2 is far enough from the edges to see a whole window
    begins = [int(seen[:, i].nonzero()[0]) for i in (2, 3)]
    return Window(kernel, begins[1] - begins[0], kernel - int(seen[:, 0].sum()))
