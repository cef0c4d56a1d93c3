"""Formulas: the same parts as MathML and as Typst, and nothing that is not known."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from purenets.core.report.document import Document, Formula, Section
from purenets.core.report.formulas import to_mathml, to_typst
from purenets.core.report.html import to_html
from purenets.core.report.tables import table_of
from purenets.core.report.typst import write_pdf
from scripts.report import layer_formulas, one_step
from scripts.report.prose import DISPLAYED, INLINE, TEXT

EXAMPLES = {
    r"h_t": ("<msub><mi>h</mi><mi>t</mi></msub>", "attach(h, b: t)"),
    r"W^\top": (
        '<msup><mi>W</mi><mi mathvariant="normal">\u22a4</mi></msup>',
        "attach(W, t: \u22a4)",
    ),
    r"x_i^2": ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "attach(x, b: i, t: 2)"),
    r"x^2_i": ("<msubsup><mi>x</mi><mi>i</mi><mn>2</mn></msubsup>", "attach(x, t: 2, b: i)"),
    r"\frac{a}{b}": ("<mfrac><mi>a</mi><mi>b</mi></mfrac>", "frac(a, b)"),
    r"\tanh": ("<mi>tanh</mi>", 'op("tanh")'),
    r"a - b": ("<mi>a</mi><mo>\u2212</mo><mi>b</mi>", "a \u2212 b"),
    r"a/b": ("<mi>a</mi><mo>/</mo><mi>b</mi>", r"a \/ b"),
    r"\mathrm{diag} \qquad J": (
        '<mi>diag</mi><mspace width="2em"/><mi>J</mi>',
        'op("diag") wide J',
    ),
    r"\text{a \"b\"}": ("<mtext>a\u00a0&quot;b&quot;</mtext>", r'"a \"b\""'),
}


def of_reports() -> list[str]:
    """Return every formula of the reports' texts and tables."""
    found = [kind.forward for kind in layer_formulas.KINDS.values()]
    found += [tex for kind in layer_formulas.KINDS.values() for tex in kind.backward.values()]
    found += [tex for layer in one_step.LAYERS for tex in (layer.forward, layer.backward)]
    for path in sorted(TEXT.glob("*.md")):
        for line in path.read_text().splitlines():
            displayed = DISPLAYED.fullmatch(line)
            found += [displayed[1]] if displayed else [f[2:-2] for f in INLINE.findall(line)]
    return found


@pytest.mark.parametrize("tex", EXAMPLES)
def test_both_forms(tex):
    assert to_mathml(tex) == f"<math>{EXAMPLES[tex][0]}</math>"
    assert to_typst(tex) == EXAMPLES[tex][1]


@pytest.mark.parametrize("tex", of_reports())
def test_formulas_of_the_reports_are_well_formed(tex):
    element = ElementTree.fromstring(to_mathml(tex, display=True))
    letters = "".join(element.itertext())
    # what a reader sees of the source is there, letter by letter
    plain = re.sub(r"\\mathcal\{.\}", "", tex)  # a letter of another shape
    for letter in re.findall(r"(?<![\\A-Za-z])[A-Za-z](?![A-Za-z])", plain):
        assert letter in letters


@pytest.mark.parametrize(
    ("tex", "message"),
    [
        (r"\unknown", "unknown command"),
        ("{a", "a brace is not closed"),
        ("a}", "without what belongs to it"),
        (r"\text a", "needs braces"),
    ],
)
def test_what_is_not_known_is_refused(tex, message):
    with pytest.raises(ValueError, match=message):
        to_mathml(tex)


def test_no_letter_of_a_formula_becomes_markup():
    assert "<b>" not in to_mathml(r"a <b> c")
    assert "<b>" not in to_mathml(r"\text{<b>}")


def test_all_formulas_are_set_in_a_pdf(tmp_path):
    pytest.importorskip("typst", reason='typst: pip install -e ".[report]"')
    pypdf = pytest.importorskip("pypdf", reason="needs the test extras")
    blocks = [Formula(tex, f"({i})") for i, tex in enumerate(of_reports(), start=1)]
    table = table_of(["name", "formula"], [["a", "$`y = W x`$"], ["b", "text $`h_t`$"]])
    write_pdf(Document("t", [Section("s", [*blocks, table])]), tmp_path / "a.pdf")
    text = "".join(page.extract_text() for page in pypdf.PdfReader(tmp_path / "a.pdf").pages)
    assert f"({len(blocks)})" in text
    assert "softmax" in text


def test_a_formula_alone_in_a_cell_is_large():
    page = to_html(Document("t", [Section("s", [table_of(["a", "b"], [["$`x`$", "at $`y`$"]])])]))
    assert '<math displaystyle="true"><mi>x</mi></math>' in page
    assert "at <math><mi>y</mi></math>" in page
