from core import html, plots
from core.html import Section


def test_a_page_is_whole_and_escapes_every_text():
    figure, _ = plots.panels(1, 1)
    bad = "<script>alert('x')</script> & \"more\""
    text = html.page(bad, [Section(bad, [bad], [[bad, "n"], [bad, "1"]], [(figure, bad)])])
    assert "<script>" not in text
    assert text.count("&lt;script&gt;") == 8  # title twice, heading, paragraph, two cells, alt and caption
    assert "data:image/png;base64," in text
    assert "http" not in text


def test_text_tables_align():
    lines = html.text_table([["set", "accuracy"], ["moons", "1.0"]]).splitlines()
    assert lines == ["set    accuracy", "---------------", "moons       1.0"]
