"""A document of sections, paragraphs, tables and figures, written once: as one self-contained HTML page, as a
PDF (by way of Typst), and its tables for a terminal.

In texts `code` and *emphasis* are marked as here, and @key stands for the number of the table or picture of that
key ("Figure 3"). Everything else is taken literally, whatever it is: no text can become markup.
"""

import base64
import html
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from purenets.core.base import UserError
from purenets.core.report.plots import STYLE
from purenets.core.runs.files import write_atomically

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
th, td { padding: 0.3rem 0.5rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; background: white; border-radius: 4px; }
figcaption { font-size: 0.85rem; opacity: 0.85; padding: 0.3rem 0; }
@media (max-width: 40rem) { .wide > img { max-width: none; width: 45rem; } }
"""

TYPST = """
#set page(paper: "a4", margin: 2.2cm, numbering: "1")
#set text(size: 10.5pt)
#set par(justify: true)
#set heading(numbering: "1.1")
#show heading: set block(above: 1.4em, below: 0.8em)
#show figure: set block(above: 1.4em, below: 1.4em)
#show figure.caption: set text(size: 9pt)
#show figure.caption: set align(left)
#show figure.caption: set par(justify: false)
#show figure.where(kind: table): set figure.caption(position: top)
#show raw: set text(size: 9pt)
#set table(stroke: none, inset: (x: 4pt, y: 2.5pt))
"""


WIDE = 9  # inches of a figure whose text a phone would make too small: it scrolls there
LONG = 40  # rows of a table that may be parted by the end of a page


class Table(NamedTuple):
    """A header and rows of texts."""

    rows: Sequence[Sequence[str]]
    caption: str = ""
    key: str = ""


class Picture(NamedTuple):
    figure: Figure
    caption: str
    key: str = ""


class Section(NamedTuple):
    """A heading with what is below it: paragraphs (texts), tables and pictures, and then smaller sections."""

    title: str
    blocks: Sequence[str | Table | Picture] = ()
    parts: Sequence["Section"] = ()


class Document(NamedTuple):
    """contents: whether it begins with a table of contents. references: a numbered list at the end."""

    title: str
    sections: Sequence[Section]
    abstract: Sequence[str] = ()
    references: Sequence[str] = ()
    contents: bool = False


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


def write_pdf(document: Document, path: Path) -> None:
    """The same as a PDF with its fonts; the same document gives the same bytes."""
    try:
        import typst
    except ImportError as error:
        raise UserError("a PDF needs the package typst: pip install 'purenets[report]'") from error
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "document.typ"
        source.write_text(to_typst(document, Path(folder)))
        write_atomically(path, typst.compile(str(source), ignore_system_fonts=True, timestamp=0))


def to_typst(document: Document, folder: Path) -> str:
    """The source of the PDF; the pictures go to `folder`."""
    write = _Typst(_numbers(document), folder)
    lines = [TYPST, f"#set document(title: {_string(document.title)})"]
    lines.append(f"#align(center, text(size: 18pt, weight: 700, {_string(document.title)}))")
    lines += map(write.paragraph, document.abstract)
    lines += (
        ["#outline(depth: 2)", "#pagebreak()"] if document.contents else ["#set heading(numbering: none)"]
    )
    for _, section, depth in _numbered(document.sections):
        lines.append(f"#heading(level: {depth}, {_string(section.title)})")
        lines += map(write.block, section.blocks)
    if document.references:
        lines.append("#heading(numbering: none)[References]")
        lines += [f"+ {write.text(reference)}" for reference in document.references]
    return "\n\n".join(lines) + "\n"


def text_table(table: Sequence[Sequence[str]]) -> str:
    """The same table for a terminal, in columns; the first is flush left."""
    columns = range(len(table[0]))
    widths = [max(len(row[i]) for row in table) for i in columns]
    lines = [
        "  ".join(row[i].rjust(widths[i]) if i else row[i].ljust(widths[i]) for i in columns) for row in table
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A Figure as PNG, in our style; without the date, so that the same figure gives the same bytes."""
    content = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


# --- what both forms share --------------------------------------------------------------------------------


def _numbered(sections: Sequence[Section], lead: str = "", depth: int = 1) -> Iterator[tuple]:
    """All sections in their order with their number and depth."""
    for i, section in enumerate(sections, start=1):
        yield f"{lead}{i}", section, depth
        yield from _numbered(section.parts, f"{lead}{i}.", depth + 1)


def _numbers(document: Document) -> dict[int | str, str]:
    """ "Figure 1", "Table 1", ... of every captioned block, by its identity and by its key."""
    names: dict[int | str, str] = {}
    counts = {Table: 0, Picture: 0}
    for _, section, _ in _numbered(document.sections):
        for block in section.blocks:
            if isinstance(block, str) or not block.caption:
                continue
            counts[type(block)] += 1
            names[id(block)] = f"{'Table' if isinstance(block, Table) else 'Figure'} {counts[type(block)]}"
            if block.key:
                names[block.key] = names[id(block)]
    return names


class _Writer:
    """Texts of a form: `literal`, `code` and `emphasis` are its own."""

    literal: Callable[[str], str]
    code: Callable[[str], str]
    emphasis: Callable[[str], str]

    def __init__(self, numbers: dict[int | str, str]):
        self.numbers = numbers

    def text(self, text: str) -> str:
        parts = []
        for piece in re.split(r"(`[^`]+`)", text):
            if len(piece) > 2 and piece[0] == piece[-1] == "`":
                parts.append(self.code(piece[1:-1]))
                continue
            for inner in re.split(r"((?<!\w)\*(?! )[^*\n]+(?<! )\*(?!\w))", self._with_numbers(piece)):
                marked = len(inner) > 2 and inner[0] == inner[-1] == "*"
                parts.append(self.emphasis(inner[1:-1]) if marked else self.literal(inner))
        return "".join(parts)

    def _with_numbers(self, text: str) -> str:
        return re.sub(r"@([\w-]+)", lambda found: self.numbers.get(found[1], found[0]), text)

    def caption(self, block: Table | Picture) -> str:
        number = self.numbers.get(id(block))
        return self.text(f"{number}. {block.caption}") if number else ""

    def block(self, block: str | Table | Picture) -> str:
        if isinstance(block, str):
            return self.paragraph(block)
        return self.table(block) if isinstance(block, Table) else self.picture(block)


# --- HTML -------------------------------------------------------------------------------------------------


class _Html(_Writer):
    literal = staticmethod(html.escape)

    def code(self, text: str) -> str:
        return f"<code>{html.escape(text)}</code>"

    def emphasis(self, text: str) -> str:
        return f"<em>{html.escape(text)}</em>"

    def paragraph(self, text: str) -> str:
        return f"<p>{self.text(text)}</p>"

    def table(self, table: Table) -> str:
        head, *rows = table.rows
        cells = "".join(f"<th>{self.text(cell)}</th>" for cell in head)
        lines = ["".join(f"<td>{self.text(cell)}</td>" for cell in row) for row in rows]
        inner = "".join(f"<tr>{line}</tr>" for line in [cells, *lines])
        caption = f"<figcaption>{self.caption(table)}</figcaption>" if table.caption else ""
        return f'<figure>{caption}<div class="wide"><table>{inner}</table></div></figure>'

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


# --- Typst ------------------------------------------------------------------------------------------------


def _string(text: str) -> str:
    """A Typst string: nothing in it is markup."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


class _Typst(_Writer):
    def __init__(self, numbers: dict[int | str, str], folder: Path):
        super().__init__(numbers)
        self.folder, self.pictures = folder, 0

    def literal(self, text: str) -> str:
        return f"#{_string(text)};" if text else ""

    def code(self, text: str) -> str:
        return f"#raw({_string(text)});"

    def emphasis(self, text: str) -> str:
        return f"#emph({_string(text)});"

    paragraph = _Writer.text

    def table(self, table: Table) -> str:
        columns = len(table.rows[0])
        widest = max(sum(len(cell) for cell in row) + 3 * columns for row in table.rows)
        size = 9 if widest < 90 else 7.5 if widest < 125 else 6.5
        head, *rows = [", ".join(f"[{self.text(cell)}]" for cell in row) for row in table.rows]
        cells = ", ".join([f"table.header({head})", "table.hline(stroke: 0.6pt)", *rows])
        inner = f"table(columns: {columns}, align: (x, _) => if x == 0 {{ left }} else {{ right }}, {cells})"
        small = f"#set text(size: {size}pt)\n#set par(justify: false)\n"
        if len(rows) > LONG:
            small += "#show figure: set block(breakable: true)\n"
        return f"#[{small}#{self.figure('table', table, inner)}]"

    def picture(self, picture: Picture) -> str:
        self.pictures += 1
        path = self.folder / f"picture{self.pictures}.png"
        path.write_bytes(png(picture.figure, dpi=200))
        width, height = picture.figure.get_size_inches()
        share = min(1, width / 7.2, 8.5 * width / (7.2 * height))  # of the line; a page is 8.5 inches high
        image = f'image("{path.name}", width: {share:.0%})'
        return f"#{self.figure('image', picture, image)}"

    def figure(self, kind: str, block: Table | Picture, inner: str) -> str:
        caption = f"caption: [{self.caption(block)}], " if block.caption else ""
        return f"figure(kind: {kind}, supplement: none, numbering: none, {caption}{inner})"
