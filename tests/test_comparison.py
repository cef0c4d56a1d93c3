"""docs/comparison.md says what the installed libraries have."""

import importlib
import re

import pytest

from purenets import optim
from tests.comparison.libraries import (
    LIBRARIES,
    expression,
    found,
    is_installed,
    is_named,
    names_of,
    run_mapped,
)
from tests.comparison.page import PAGE, SECTIONS, section_text

ROWS = [(section, row) for section in SECTIONS for row in section.rows]
CELLS = [
    pytest.param(library, row, id=f"{row.what}-{library}")
    for section, row in ROWS
    for library in section.libraries
]
FULL = [cell for cell in CELLS if cell.values[0] in cell.values[1].cells]
OF_ONE_RATE = [cell for cell in FULL if cell.values[1].cells[cell.values[0]].vmap == "params"]
NO_ROWS = {
    "optim.momentum",  # `optim.sgd`
    "schedules.SCHEDULES",  # tables of what has rows
    "torch_nets.layers.ACTIVATIONS",
    "torch_nets.losses.focal_binary_cross_entropy",  # what `binary_focal(...)` and others call
    "torch_nets.losses.focal_cross_entropy",
    "torch_nets.losses.huber_loss",
    "torch_nets.losses.smoothed_cross_entropy",
}
FAILURES = (TypeError, ValueError, RuntimeError)  # of what does not run under vmap


def skip_without(library: str) -> None:
    if not is_installed(library):
        pytest.skip(f"{LIBRARIES[library].distribution} is not installed")


@pytest.mark.parametrize(("library", "row"), CELLS)
def test_what_a_cell_names_is_there_and_nothing_of_an_empty_one(library, row):
    skip_without(library)
    if library in row.cells:
        assert found(library, row.cells[library].name)
    else:
        assert not [name for name in names_of(library) if is_named(name, row.words)]


@pytest.mark.filterwarnings("ignore")  # of peers, about themselves
@pytest.mark.parametrize(("library", "row"), FULL)
def test_a_cell_runs_under_vmap_if_it_says_so(library, row):
    skip_without(library)
    cell = row.cells[library]
    if cell.vmap:
        run_mapped(library, cell)
    elif cell.make or cell.members:
        with pytest.raises(FAILURES):
            run_mapped(library, cell)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # TorchOpt's
@pytest.mark.parametrize(("library", "row"), OF_ONE_RATE)
def test_a_cell_of_one_rate_has_no_rate_for_each_member(library, row):
    skip_without(library)
    cell = row.cells[library]
    with pytest.raises(FAILURES):
        LIBRARIES[library].probe(expression(library, cell), "rates")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.title)
def test_the_page_has_the_section_as_it_is_written(section):
    assert section_text(section) in PAGE.read_text()


def test_the_page_has_no_other_rows():
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| [^- ]", line)]
    assert len(rows) == len(ROWS)


def test_everything_of_ours_that_has_peers_has_a_row():
    ours = {row.cells["purenets"].name for _, row in ROWS if "purenets" in row.cells}
    names = {f"optim.{name}" for name in {**optim.OPTIMIZERS, **optim.SAMPLERS}}
    for module in ("schedules", "torch_nets.layers", "torch_nets.losses"):
        public = importlib.import_module(f"purenets.{module}").__all__
        names |= {f"{module}.{name}" for name in public}
    assert names - ours == NO_ROWS
