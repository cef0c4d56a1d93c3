"""Figures with one look: legible in black and white, safe for color-blind eyes.

A class has a color and a shape, the split shows by fill (train filled, test hollow), a run by color
and line style. Functions return a `matplotlib.figure.Figure`; nothing is global and nothing is
shown.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from matplotlib import rc_context
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from purenets.core.base import History, UserError
from purenets.core.data.tasks import Dataset
from purenets.core.runs.files import write_atomically
from purenets.core.runs.history import column

# Okabe and Ito (2008), distinct under all common kinds of color blindness; violet and gray
# make them ten, one for each digit
COLORS = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"),
    *("#56B4E9", "#8C6D1F", "#000000", "#5D3A9B", "#999999"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES = ("-", "--", "-.", ":")
STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "figure.constrained_layout.use": True,
}


def literal(text: str) -> str:
    """Return a text that a figure shows as it is: a name from a file may look like mathematics.

    >>> literal("$x$")
    '\\\\$x\\\\$'
    """
    return str(text).replace("$", r"\$")


def panels(rows: int, columns: int, width: float = 4.2, height: float = 3.4, **options):
    """Return a Figure in our style and its axes (rows, columns) of `width` by `height` inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows))
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, in our resolution, whole or not at all."""
    content = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(content, format="png")
    write_atomically(Path(path), content.getvalue())


def curves(
    runs: dict[str, History], names: Sequence[Sequence[str]], title: str = "", log: bool = False
):
    """Return a panel for each group of columns; a color for each run, a line style for each column.

    Args:
        runs: {label: history}; what `fit` returns is a history.
        names: the columns of each panel: `[("train_loss", "test_loss"), ...]`. The legend calls a
            column by what precedes its "_", one without "_" "train".
        title: of the figure.
        log: draw the loss on a logarithmic scale.

    Returns:
        A Figure with a panel for each group.

    Raises:
        UserError: runs is not a dict of histories, a group is not a list of names, or no run has
            any column of a group.

    Example:
        >>> from purenets.core.report import plots
        >>> history = [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.5}]
        >>> len(plots.curves({"adam": history}, [["loss"]]).axes)
        1
    """
    if not isinstance(runs, dict):
        raise UserError(
            f"curves: runs is a {type(runs).__name__}, needs a dict: {{label: history}}"
        )
    found = sorted({column for rows in runs.values() for row in rows for column in row})
    for group in names:
        if isinstance(group, str):
            raise UserError(
                f"curves: names has the text {group!r}, needs groups: [[{group!r}], ...]"
            )
        if not set(group) & set(found):
            missing = ", ".join(group)
            raise UserError(f"curves: no run has a column {missing}; there are {', '.join(found)}")
    return curve_grid({"": runs}, names, title, log)


def curve_grid(
    groups: dict[str, dict[str, History]],
    names: Sequence[Sequence[str]],
    title: str = "",
    log: bool = False,
) -> Figure:
    """Return `curves` of several groups of runs, a row of panels for each.

    Args:
        groups: {what is written above the panels: {label: history}}.
        names: the columns of each panel of a row, as in `curves`.
        title: of the figure.
        log: draw the loss on a logarithmic scale.
    """
    figure, axes = panels(len(groups), len(names))
    for row, (group, runs) in zip(axes, groups.items(), strict=True):
        for axis, columns in zip(row, names, strict=True):
            draw_curves(axis, runs, columns)
            kind = columns[0].split("_")[-1]
            axis.set(xlabel="step", ylabel=kind, title=literal(group))
            if log and kind == "loss":
                axis.set_yscale("log")
            axis.legend(fontsize=9, frameon=False)
    figure.suptitle(literal(title))
    return figure


def draw_curves(axis, runs: dict[str, History], names: Sequence[str]) -> None:
    """Draw columns of several runs over the steps: a color for each run, a line style for each
    column. Of two runs the first is drawn wider, so that it shows below the other."""
    for i, (label, rows) in enumerate(runs.items()):
        color, width = COLORS[i % len(COLORS)], 3.2 if len(runs) == 2 and i == 0 else 1.6
        for line, name in zip(LINES * len(names), names, strict=False):
            part = name.split("_")[0] if "_" in name else "train"
            text = literal(" ".join(filter(None, (label, part))))
            steps, values = column(rows, name)
            if steps:
                axis.plot(steps, values, line, color=color, label=text, linewidth=width)


def training_and_validation(axis, histories: Sequence[History], name: str) -> None:
    """Draw a metric of several runs over the steps: of the training solid, of the validation
    dashed, where there is one."""
    parts = ((name, "training", COLORS[0], "-"), (f"valid_{name}", "validation", COLORS[1], "--"))
    for which, label, color, line in parts:
        drawn = [column(rows, which) for rows in histories]
        for i, (steps, values) in enumerate(found for found in drawn if found[0]):
            axis.plot(steps, values, line, color=color, linewidth=1.3, label=None if i else label)


def scatter(axis, data: Dataset, title: str = "") -> None:
    """Draw the points of a set: class by color and shape, train filled, test hollow.

    More than two features are shown by their first two principal components.
    """
    project = plane_of(data.train[0])
    for name, (x, y) in (("train", data.train), ("test", data.test)):
        points = project(np.asarray(x))
        for label in range(data.n_classes):
            of_class, color = np.asarray(y) == label, COLORS[label % len(COLORS)]
            axis.scatter(
                *points[of_class].T,
                s=16,
                marker=MARKERS[label % 10],
                facecolors=color if name == "train" else "white",
                edgecolors=color,
                linewidths=0.9,
                alpha=0.75 if name == "train" else 1.0,
                label=f"class {label}" if name == "train" else None,
            )
    axis.set(title=title, xlabel="first feature", ylabel="second feature")
    if data.n_features != 2:
        axis.set(xlabel="first principal component", ylabel="second principal component")


def plane_of(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the map to the plane: two features as they are, others by two principal components, of
    which those that are missing are 0."""
    if train.shape[1] == 2:
        return lambda x: x
    mean = train.mean(axis=0)
    found = np.linalg.svd(train - mean, full_matrices=False)[2][:2]
    axes = np.zeros((2, train.shape[1]), found.dtype)
    axes[: len(found)] = found
    return lambda x: (x - mean) @ axes.T


def boundary(
    axis, predict: Callable[[np.ndarray], np.ndarray], data: Dataset, title: str = ""
) -> None:
    """Draw the regions of the predicted classes (two features only) behind the points.

    predict: (n, 2) -> (n,) class numbers.
    """
    points = np.concatenate([data.train[0], data.test[0]])
    low, high = points.min(axis=0) - 0.4, points.max(axis=0) + 0.4
    where = np.meshgrid(*np.linspace(low, high, 240).T)
    grid = rearrange(np.stack(where, axis=-1), "rows columns feature -> (rows columns) feature")
    predicted = np.asarray(predict(grid.astype(points.dtype)))
    classes = rearrange(predicted, "(rows columns) -> rows columns", rows=len(where[0]))
    colors = ListedColormap([COLORS[i % len(COLORS)] for i in range(data.n_classes)])
    axis.pcolormesh(
        *where,
        classes,
        cmap=colors,
        vmin=-0.5,
        vmax=data.n_classes - 0.5,
        alpha=0.22,
        rasterized=True,
    )
    for label in range(data.n_classes - 1):
        axis.contour(*where, classes > label, levels=[0.5], colors="black", linewidths=1.0)
    scatter(axis, data, title)
    axis.grid(False)


def confusion(axis, counts: np.ndarray, names: Sequence[str], title: str = "") -> None:
    """Draw a confusion matrix (true, predicted) of counts, each with its number."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for (i, j), n in np.ndenumerate(counts):
        if n:
            axis.text(
                j,
                i,
                str(n),
                ha="center",
                va="center",
                fontsize=8,
                color="white" if share[i, j] > 0.5 else "black",
            )
    ticks = range(len(names))
    axis.set(xticks=ticks, yticks=ticks, xlabel="predicted", ylabel="true", title=literal(title))
    axis.set_xticklabels(map(literal, names), rotation=45, ha="right")
    axis.set_yticklabels(map(literal, names))
    axis.grid(False)


def landscape(axis, losses: np.ndarray, steps: Sequence[float], title: str = "") -> None:
    """Draw the contours of a plane of losses around params, on a logarithmic scale.

    losses: (steps, steps), the first direction along the rows; a cross in the middle marks the
    params.
    """
    shown = np.log10(np.maximum(losses, 1e-12))
    levels = np.linspace(
        shown.min(), shown.max() if shown.max() > shown.min() else shown.min() + 1, 13
    )
    filled = axis.contourf(steps, steps, shown, levels=levels, cmap="cividis")
    axis.contour(
        steps, steps, shown, levels=levels, colors="white", linewidths=0.5, linestyles="solid"
    )
    axis.plot(0, 0, "+", color="white", markersize=12, markeredgewidth=2)
    axis.set(title=title, xlabel="along the second direction", ylabel="along the first direction")
    axis.grid(False)
    axis.figure.colorbar(filled, ax=axis, label="log10 of the loss", format="%.1f")
