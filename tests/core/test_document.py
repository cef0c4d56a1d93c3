"""A document says the same as HTML and as Typst, numbers its figures, and lets no text become
markup.
"""

import re

import pytest

from purenets.core.report import plots
from purenets.core.report.document import Document, Picture, Section
from purenets.core.report.html import to_html
from purenets.core.report.tables import Table
from purenets.core.report.typst import write_pdf

BAD = "<script>alert('x')</script> & \"more\" #emph[x] \\ $y$ [z] // ~ <a> @b"


def example(text: str = BAD) -> Document:
    figure, _ = plots.panels(1, 1)
    inner = Section(
        text, [Picture(figure, text, "picture"), "see @picture and @table, `a*b*` and *this*"]
    )
    blocks = [text, Table([[text, "n"], [text, "1"]], text, "table")]
    return Document(text, [Section(text, blocks, [inner])], [text], [text], contents=True)


def test_a_page_is_whole_and_escapes_every_text():
    text = to_html(example())
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 14
    assert "data:image/png;base64," in text
    assert "http" not in text


def test_numbers_and_marks():
    text = to_html(example("plain"))
    assert "see Figure 1 and Table 1, <code>a*b*</code> and <em>this</em>" in text
    assert "<b>Figure 1.</b> plain" in text
    assert '<a href="#s1.1"><span class="number">1.1</span> plain</a>' in text


def test_a_key_names_one_block_only():
    blocks = [Table([["n"]], "one", "same"), Table([["n"]], "another", "same")]
    with pytest.raises(ValueError, match="two tables or figures have the key same"):
        to_html(Document("a", [Section("b", blocks)]))


def test_unknown_keys_stay_as_they_are():
    text = to_html(Document("a", [Section("b", ["mail@example and 2 * 3 * 4"])]))
    assert "<p>mail@example and 2 * 3 * 4</p>" in text


def test_the_pdf_has_all_texts_and_the_same_bytes_twice(tmp_path):
    pytest.importorskip("typst", reason='typst: pip install -e ".[report]"')
    pypdf = pytest.importorskip("pypdf", reason="needs the test extras")
    for name in ("a.pdf", "b.pdf"):
        write_pdf(example(), tmp_path / name)
    assert (tmp_path / "a.pdf").read_bytes() == (tmp_path / "b.pdf").read_bytes()
    text = "".join(page.extract_text() for page in pypdf.PdfReader(tmp_path / "a.pdf").pages)
    squeezed = "".join(text.split())
    assert squeezed.count("#emph[x]") >= 7
    assert "seeFigure1andTable1,a*b*andthis" in squeezed


def lines_of(document: Document, path) -> list[tuple[int, float, str]]:
    """Return page, distance from its top, and text of each piece of text of the PDF, in order."""
    pytest.importorskip("typst", reason="needs the extra report: pip install 'purenets[report]'")
    pypdf = pytest.importorskip("pypdf", reason="needs the test extras")
    write_pdf(document, path)
    found = []
    for i, page in enumerate(pypdf.PdfReader(path).pages):

        def visit(text, outer, inner, *_, i=i):
            found.append((i, -(inner[5] * outer[3] + outer[5]), text.strip()))

        page.extract_text(visitor_text=visit)
    return sorted(piece for piece in found if piece[2])


def test_a_figure_stands_between_its_heading_and_the_next(tmp_path):
    figures = iter(range(100))

    def section(i: int, heights: tuple[float, ...]) -> Section:
        blocks = [f"{'word ' * 150} @f{i}-{j}" for j in range(len(heights))]
        for j, height in enumerate(heights):
            figure, _ = plots.panels(1, 1, 5, height)
            blocks.append(Picture(figure, f"FIG{next(figures)}.", f"f{i}-{j}"))
        return Section(f"SEC{i}", blocks)

    heights = [(2.0,), (5.0, 3.0), (1.0,), (4.0, 4.0, 2.0), (6.0,), (3.0, 2.5)]
    document = Document("t", [section(i, own) for i, own in enumerate(heights)], contents=True)
    text = " ".join(piece for page, _, piece in lines_of(document, tmp_path / "a.pdf") if page > 0)
    shown = re.findall(r"SEC\d+|FIG\d+", text)
    count = iter(range(100))
    assert shown == [
        name
        for i, own in enumerate(heights)
        for name in (f"SEC{i}", *(f"FIG{next(count)}" for _ in own))
    ]


@pytest.mark.parametrize("lines", [23, 30, 34, 35])
def test_no_single_row_of_a_long_table_is_left_over(tmp_path, lines):
    table = Table([["row", "n"], *([f"ROW{i}", str(i)] for i in range(20))], "caption")
    document = Document("t", [Section("s", [*["text"] * lines, table])])
    pages = [page for page, _, text in lines_of(document, tmp_path / "a.pdf") if "ROW" in text]
    assert len(pages) == 20
    assert min(pages.count(page) for page in set(pages)) >= 3


def test_a_formula_in_a_table_is_not_broken(tmp_path):
    tex = r"dX = \frac{A}{B} ( Y - \softmax(C) - D \odot \softmax(E) + \softmax(F) )"
    row = ["group1.norm1", "backward", f"$`{tex}`$", "(100 \u00d7 100 \u00d7 100) " * 8]
    table = Table([["layer", "pass", "formula", "dimensions"], row], "caption")
    pieces = lines_of(Document("t", [Section("s", [table])]), tmp_path / "a.pdf")
    assert len({y for _, y, text in pieces if "softmax" in text}) == 1
