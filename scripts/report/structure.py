"""The layers of a network as the report shows them."""

from collections.abc import Sequence

from purenets.core.report.diagrams import times
from purenets.core.report.tables import Table
from purenets.core.report.tabulate import Row, as_table

COLUMNS = 5  # layer, operation, input, output, parameters; the products stand in the diagram


def layers(rows: Sequence[Row]) -> Table:
    """Return the layers with their inputs, outputs and parameters."""
    table = as_table(rows)
    return table._replace(rows=[[times(cell) for cell in row[:COLUMNS]] for row in table.rows])
