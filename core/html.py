"""One self-contained HTML page of sections: paragraphs, a table, figures. Nothing is loaded."""

import base64
import html
import io
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from core.plots import STYLE

CSS = """
:root { color-scheme: light dark; }
body { font: 17px/1.55 Georgia, 'Times New Roman', serif; }
body { max-width: 54rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, table, figcaption { font-family: system-ui, sans-serif; }
h1 { line-height: 1.2; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #8886; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; }
th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; background: white; border-radius: 4px; }
figcaption { font-size: 0.85rem; opacity: 0.85; }
"""


class Section(NamedTuple):
    """A part of a page. table: a header and rows of texts; figures: pairs of a Figure and its caption."""

    title: str
    paragraphs: Sequence[str] = ()
    table: Sequence[Sequence[str]] = ()
    figures: Sequence[tuple[Figure, str]] = ()


def page(title: str, sections: Sequence[Section]) -> str:
    """The whole page; every text is escaped."""
    body = "\n".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{CSS}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def text_table(table: Sequence[Sequence[str]]) -> str:
    """The same table for a terminal, in columns; the first is flush left."""
    columns = range(len(table[0]))
    widths = [max(len(row[i]) for row in table) for i in columns]
    lines = [
        "  ".join(row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in columns) for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.paragraphs]
    if section.table:
        parts.append(_table(section.table))
    parts += [_figure(figure, caption) for figure, caption in section.figures]
    return "\n".join(parts)


def _table(table: Sequence[Sequence[str]]) -> str:
    head, *rows = table
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    inner = "".join(f"<tr>{line}</tr>" for line in [cells, *lines])
    return f'<div class="wide"><table>{inner}</table></div>'


def _figure(figure: Figure, caption: str) -> str:
    content = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(content, format="png")
    image = base64.b64encode(content.getvalue()).decode()
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/png;base64,{image}">'
        f"<figcaption>{text}</figcaption></figure>"
    )
