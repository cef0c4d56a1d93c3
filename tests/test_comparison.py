"""docs/comparison.md says what the installed libraries have."""

import importlib.util
import re

import pytest

from purenets import optim, schedules
from tests.comparison import LIBRARIES, PAGE, SECTIONS, cells, expression, found, is_named, names_of

ROWS = [(section, row) for section in SECTIONS for row in section.rows]
CELLS = [
    pytest.param(library, row, id=f"{row.what}-{library}")
    for section, row in ROWS
    for library in section.libraries
]


def skip_without(library: str) -> None:
    if not importlib.util.find_spec(LIBRARIES[library].package.split(".")[0]):
        pytest.skip(f"{library} is not installed")


@pytest.mark.parametrize(("library", "row"), CELLS)
def test_what_a_cell_names_is_there_and_nothing_of_an_empty_one(library, row):
    skip_without(library)
    if library in row.cells:
        assert found(library, row.cells[library].name)
    else:
        assert not [name for name in names_of(library) if is_named(name, row.words)]


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # TorchOpt's
@pytest.mark.parametrize(("library", "row"), CELLS)
def test_a_cell_runs_under_vmap_if_it_says_so(library, row):
    skip_without(library)
    cell, probe = row.cells.get(library), LIBRARIES[library].probe
    if cell is None or probe is None:
        assert cell is None or not cell.vmap
        return
    code = expression(library, cell)
    if cell.vmap:
        probe(code, cell.vmap)
    if cell.vmap != "rates" and cell.make:
        with pytest.raises((TypeError, ValueError, RuntimeError)):
            probe(code, "rates")


def test_the_page_has_every_row():
    lines = PAGE.read_text().splitlines()
    for section, row in ROWS:
        assert f"| {' | '.join(cells(row, section.libraries))} |" in lines


def test_the_page_has_no_other_rows():
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [^- ]", line)]
    assert len(rows) == len(ROWS)


def test_every_optimizer_and_schedule_of_ours_has_a_row():
    ours = {row.cells["purenets"].name for _, row in ROWS if "purenets" in row.cells}
    optimizers = {f"optim.{name}" for name in optim.OPTIMIZERS} - {"optim.momentum"}
    values = {f"schedules.{name}" for name in schedules.SCHEDULES}
    assert optimizers | values <= ours
