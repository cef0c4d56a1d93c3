"""The recurrent net unrolled in time, with the dimensions of its forward and backward pass.

Forward is blue, backward orange. One unit of the axes is an inch, so that the text keeps its size.
"""

import itertools
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from purenets.core.report.diagrams import box
from purenets.core.report.plots import COLORS, panels

FORWARD, BACKWARD = COLORS[0], COLORS[3]
FONT_SIZE = 9.0
PLACES = (1.35, 3.0, 5.75)  # x of the first two states and the last one
DOTS = 4.35  # x of the dots for the states between
Y = 1.0  # of all states


@dataclass(frozen=True)
class Sizes:
    """The dimensions of a net and of its batch."""

    batch: int
    input_dim: int
    hidden: int
    classes: int
    steps: int

    @property
    def state(self) -> str:
        return times_sign(self.batch, self.hidden)


def unrolled(batch: int, input_dim: int, hidden: int, classes: int, steps: int) -> Figure:
    """Draw a recurrent net of these sizes."""
    width, height = 6.5, 3.0
    figure, ((axis,),) = panels(1, 1, width, height)
    axis.set(xlim=(0, width), ylim=(0, height))
    axis.set_axis_off()
    sizes = Sizes(batch, input_dim, hidden, classes, steps)
    _draw_states(axis, sizes)
    _draw_recurrence(axis)
    _draw_output(axis, sizes)
    _write_sums(axis, sizes)
    return figure


def _draw_states(axis: Axes, sizes: Sizes) -> None:
    """Draw h_0, the boxes of the states, and their inputs."""
    _label(axis, 0.05, Y + 0.1, f"$h_0 = 0$\n{sizes.state}", FORWARD, ha="left")
    _arrow(axis, (0.05, Y), (PLACES[0] - 0.5, Y), FORWARD)
    for t, x in zip(("1", "2", str(sizes.steps)), PLACES, strict=True):
        box(axis, x, Y, 1.04, 0.54, f"$h_{t} = \\tanh(a_{t})$\n{sizes.state}", FONT_SIZE)
        _arrow(axis, (x, 0.38), (x, Y - 0.28), FORWARD)
        _label(axis, x, 0.2, f"$x_{t}$: {times_sign(sizes.batch, sizes.input_dim)}", FORWARD)


def _draw_recurrence(axis: Axes) -> None:
    """Draw the arrows from state to state, and those of the gradient back."""
    ends = [PLACES[0], PLACES[1], DOTS, PLACES[2]]
    for i, (x, end) in enumerate(itertools.pairwise(ends)):
        begin, end = x + (0.5 if i < 2 else 0.25), end - (0.25 if i == 1 else 0.5)
        _arrow(axis, (begin, Y + 0.08), (end, Y + 0.08), FORWARD)
        _arrow(axis, (end, Y - 0.08), (begin, Y - 0.08), BACKWARD)
        _label(axis, (begin + end) / 2, Y + 0.16, "$W_{hh}^\\top$", FORWARD)
        _label(axis, (begin + end) / 2, Y - 0.28, "$dh$", BACKWARD)
    _label(axis, DOTS, Y - 0.04, ". . .")


def _draw_output(axis: Axes, sizes: Sizes) -> None:
    """Draw the output layer above the last state, and the loss above it."""
    x = PLACES[2]
    output = f"$o = h_{sizes.steps} W_{{ph}}^\\top + b_o$\n{times_sign(sizes.batch, sizes.classes)}"
    box(axis, x, 2.05, 1.3, 0.5, output, FONT_SIZE)
    _arrow(axis, (x - 0.07, Y + 0.28), (x - 0.07, 1.77), FORWARD)
    _arrow(axis, (x + 0.07, 1.77), (x + 0.07, Y + 0.28), BACKWARD)
    _label(axis, x + 0.15, 1.48, "$do \\, W_{ph}$", BACKWARD, ha="left")
    _arrow(axis, (x, 2.33), (x, 2.58), FORWARD)
    _label(axis, x, 2.66, "softmax, cross-entropy (4)")


def _write_sums(axis: Axes, sizes: Sizes) -> None:
    """Write the shapes of the matrices, and their gradients, which are sums over time."""
    shapes = {
        "W_{hx}": times_sign(sizes.hidden, sizes.input_dim),
        "W_{hh}": times_sign(sizes.hidden, sizes.hidden),
        "W_{ph}": times_sign(sizes.classes, sizes.hidden),
    }
    named = "   ".join(f"${name}$: {shape}" for name, shape in shapes.items())
    _label(axis, 0.05, 2.55, f"{named}\nevery $h_t$ and $dh_t$: {sizes.state}", ha="left")
    sums = "$dW_{hx} = \\sum_t da_t^\\top x_t$\n$dW_{hh} = \\sum_t da_t^\\top h_{t-1}$"
    _label(axis, 0.05, 1.85, sums, BACKWARD, ha="left")
    rest = (
        "$dW_{ph} = do^\\top h_{T-1}$\n$db_h = \\sum_t da_t$,  $db_o = do$, summed over the batch"
    )
    _label(axis, 1.6, 1.85, rest, BACKWARD, ha="left")


def _arrow(axis: Axes, begin: tuple, end: tuple, color: str) -> None:
    style = {"arrowstyle": "->", "color": color, "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, begin, arrowprops=style)


def _label(axis: Axes, x: float, y: float, text: str, color: str = "black", ha="center") -> None:
    axis.text(x, y, text, fontsize=FONT_SIZE, color=color, ha=ha)


def times_sign(*shape: int) -> str:
    """Return a shape as a text with multiplication signs."""
    return " \u00d7 ".join(map(str, shape))
