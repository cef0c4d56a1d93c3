"""Tables: the same cells in every format, numbers to the right, and no cell that breaks its row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purenets.core.report.document import Document, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table, numeric_columns, table_of, to_markdown, to_text
from purenets.core.report.typst import to_typst

EXAMPLE = table_of(
    ["set", "net", "gain", "accuracy"],
    [["moons", "by hand", "", 1.0], [5, 2, -0.5, "93%"]],
)


def test_cells_become_texts():
    assert EXAMPLE.rows[1:] == [["moons", "by hand", "", "1.0"], ["5", "2", "-0.5", "93%"]]


def test_text_is_in_columns():
    lines = to_text(table_of(["set", "accuracy"], [["moons", 1.0]])).splitlines()
    assert lines == ["set    accuracy", "---------------", "moons       1.0"]


def test_a_caption_stands_above():
    table = Table([["n"], ["1"]], "Runs.")
    assert to_markdown(table) == "Runs.\n\n| n |\n|---|\n| 1 |\n"
    assert to_text(table) == "Runs.\n\nn\n-\n1"


def test_numbers_are_right_and_the_first_column_is_left():
    assert numeric_columns(EXAMPLE) == [False, False, True, True]
    assert to_markdown(EXAMPLE).splitlines()[1] == "|---|---|---:|---:|"
    assert to_text(EXAMPLE).splitlines()[-1] == "5      2        -0.5       93%"


def test_documents_align_in_the_same_way(tmp_path):
    document = Document("t", [Section("s", [EXAMPLE])])
    row = (
        '<td class="text">5</td><td class="text">2</td><td>\u22120.5</td><td data-pad="0">93%</td>'
    )
    assert f"<tr>{row}</tr>" in to_html(document)
    assert "align: (left, left, right, right,)" in to_typst(document, tmp_path)


NUMBERS = ("1", "-1.5", "+2", ".5", "1.4e-05", "3 of 4", "1,000", "10%", "nan", "inf")


@pytest.mark.parametrize("cell", NUMBERS)
def test_what_is_a_number(cell):
    assert numeric_columns(table_of(["a", "b"], [["x", cell], ["y", ""]])) == [False, True]


@pytest.mark.parametrize("cell", ["own", "info", "-", "x1", "(1 to 2)"])
def test_what_is_none(cell):
    assert numeric_columns(table_of(["a", "b"], [["x", cell], ["y", "1"]])) == [False, False]


def test_a_header_alone_is_a_table():
    assert to_markdown(table_of(["a", "b"], [])) == "| a | b |\n|---|---|\n"
    assert to_text(table_of(["a", "b"], [])) == "a  b\n----"


def test_rows_of_another_length_are_refused():
    with pytest.raises(ValueError, match="a row of 1 cells below a header of 2: \\['x'\\]"):
        table_of(["a", "b"], [["x"]])


@given(st.lists(st.lists(st.text(), min_size=3, max_size=3), max_size=4))
def test_no_cell_ends_its_cell_or_its_row_in_markdown(rows):
    lines = to_markdown(table_of(["a", "b", "c"], rows)).splitlines()
    assert len(lines) == len(rows) + 2
    for line in [lines[0], *lines[2:]]:
        assert line.replace("\\|", "").count("|") == 4
