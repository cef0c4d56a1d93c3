"""A document says the same as HTML and as Typst, numbers its figures, and lets no text become
markup.
"""

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
