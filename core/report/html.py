"""A document as one self-contained HTML page."""

import base64
import html
from collections.abc import Sequence

from purenets.core.report.document import (
    Document,
    Picture,
    Section,
    _numbered,
    _numbers,
    _Writer,
    png,
)
from purenets.core.report.tables import Table, numeric_columns

CSS = """
:root { color-scheme: light dark; }
body { font: 17px/1.55 Georgia, 'Times New Roman', serif; }
body { max-width: 58rem; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1, h2, h3, table, figcaption, nav { font-family: system-ui, sans-serif; }
h1 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
h3 { margin-top: 1.8rem; }
nav { font-size: 0.9rem; }
nav ul { list-style: none; padding-left: 1.2rem; }
a { color: inherit; }
code { font-size: 0.85em; background: #8882; padding: 0.1em 0.3em; border-radius: 3px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8rem; }
th, td { padding: 0.3rem 0.5rem; text-align: right; white-space: nowrap; }
th, td { border-bottom: 1px solid #8884; }
.text { text-align: left; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; background: white; border-radius: 4px; }
figcaption { font-size: 0.85rem; opacity: 0.85; padding: 0.3rem 0; }
@media (max-width: 40rem) { .wide > img { max-width: none; width: 45rem; } }
"""

WIDE = 9  # inches of a figure whose text a phone would make too small: it scrolls there


def to_html(document: Document) -> str:
    """One page that loads nothing."""
    write = _Html(_numbers(document))
    body = [f"<h1>{html.escape(document.title)}</h1>", *map(write.paragraph, document.abstract)]
    if document.contents:
        body.append(f"<nav>{_contents(document.sections)}</nav>")
    for number, section, depth in _numbered(document.sections):
        heading = f"{number} {section.title}" if document.contents else section.title
        body.append(f'<h{depth + 1} id="s{number}">{html.escape(heading)}</h{depth + 1}>')
        body += map(write.block, section.blocks)
    if document.references:
        items = "".join(f"<li>{write.text(reference)}</li>" for reference in document.references)
        body.append(f"<h2>References</h2>\n<ol>{items}</ol>")
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(document.title)}</title>\n<style>{CSS}</style>\n"
        + "\n".join(body)
        + "\n</html>\n"
    )


class _Html(_Writer):
    literal = staticmethod(html.escape)

    def code(self, text: str) -> str:
        return f"<code>{html.escape(text)}</code>"

    def emphasis(self, text: str) -> str:
        return f"<em>{html.escape(text)}</em>"

    def paragraph(self, text: str) -> str:
        return f"<p>{self.text(text)}</p>"

    def table(self, table: Table) -> str:
        numeric, (head, *body) = numeric_columns(table), table.rows
        lines = [self.row("th", head, numeric), *(self.row("td", row, numeric) for row in body)]
        inner = "".join(lines)
        caption = f"<figcaption>{self.caption(table)}</figcaption>" if table.caption else ""
        return f'<figure>{caption}<div class="wide"><table>{inner}</table></div></figure>'

    def row(self, kind: str, cells: Sequence[str], numeric: Sequence[bool]) -> str:
        opening = [f"<{kind}>" if right else f'<{kind} class="text">' for right in numeric]
        pairs = zip(opening, cells, strict=True)
        return f"<tr>{''.join(f'{tag}{self.text(cell)}</{kind}>' for tag, cell in pairs)}</tr>"

    def picture(self, picture: Picture) -> str:
        image = base64.b64encode(png(picture.figure)).decode()
        element = f'<img alt="{html.escape(picture.caption)}" src="data:image/png;base64,{image}">'
        if picture.figure.get_figwidth() > WIDE:
            element = f'<div class="wide">{element}</div>'
        return f"<figure>{element}<figcaption>{self.caption(picture)}</figcaption></figure>"


def _contents(sections: Sequence[Section]) -> str:
    items = (
        f'<li style="margin-left: {1.2 * (depth - 1)}rem"><a href="#s{number}">'
        f"{number} {html.escape(section.title)}</a></li>"
        for number, section, depth in _numbered(sections)
        if depth <= 2
    )
    return f"<ul>{''.join(items)}</ul>"
