"""The diagram of a network says what its table says, in both forms of a document."""

import numpy as np

from purenets.core.report import diagrams
from purenets.core.report.document import Document, Section
from purenets.core.report.html import to_html
from purenets.core.report.tabulate import tabulate
from purenets.core.report.typst import to_typst
from purenets.numpy_nets import CNN

ROWS = tabulate(CNN(3, 10, width=1 / 16), np.zeros((2, 3, 32, 32), np.float32))
DIAGRAM = diagrams.network(ROWS, "A network.", "net")


def test_every_layer_and_every_product_is_drawn():
    names = " ".join(stage.name for stage in DIAGRAM.stages).split()
    assert names == [row.name for row in ROWS]
    drawn = {(stage.forward, stage.backward) for stage in DIAGRAM.stages}
    for row in ROWS:
        if "(" in row.forward:
            backward = row.backward.replace("dx = ", "dX = ")  # as in the formulas
            assert (diagrams.times(row.forward), diagrams.times(backward)) in drawn
    assert DIAGRAM.stages[0].entering == "2 \u00d7 3 \u00d7 32 \u00d7 32"
    assert DIAGRAM.leaving == "2 \u00d7 10"


def test_what_leaves_a_stage_enters_the_next_one():
    shapes = [stage.entering for stage in DIAGRAM.stages]
    known = {diagrams.times(" x ".join(map(str, row.input))) for row in ROWS}
    assert set(shapes) <= known


def test_both_forms_have_all_of_it(tmp_path):
    document = Document("t", [Section("s", [DIAGRAM, "see @net"])])
    page, source = to_html(document), to_typst(document, tmp_path)
    for stage in DIAGRAM.stages:
        for text in (stage.entering, stage.name, stage.forward):
            assert text in page
            assert text in source
        assert stage.backward in page
        for product in stage.backward.split(", "):  # on paper no product is broken into lines
            assert product in source
            assert not product or f'#box("{product}' in source
    assert "see Figure 1" in page
