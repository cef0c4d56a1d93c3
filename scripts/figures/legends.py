"""One legend for all panels of a figure."""

from matplotlib.figure import Figure


def one_legend(figure: Figure, columns: int) -> None:
    """Put the legend of the first panel below all of them, in place of their own."""
    names = figure.axes[0].get_legend_handles_labels()
    figure.legend(*names, loc="outside lower center", ncols=columns, fontsize=9, frameon=False)
    for axis in figure.axes:
        if axis.get_legend():
            axis.get_legend().remove()
