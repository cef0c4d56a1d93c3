"""A document as a PDF, by way of Typst."""

import tempfile
from pathlib import Path

from purenets.core.base import UserError
from purenets.core.report.document import Document, Picture, _numbered, _numbers, _Writer, png
from purenets.core.report.tables import Table, numeric_columns
from purenets.core.runs.files import write_atomically

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

LONG = 40  # rows of a table that may be parted by the end of a page


def write_pdf(document: Document, path: Path) -> None:
    """The same as a PDF with its fonts; the same document gives the same bytes."""
    try:
        import typst
    except ImportError as error:
        raise UserError("a PDF needs the package typst: pip install 'purenets[report]'") from error
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "document.typ"
        source.write_text(to_typst(document, Path(folder)), encoding="utf-8")
        write_atomically(path, typst.compile(str(source), ignore_system_fonts=True, timestamp=0))


def to_typst(document: Document, folder: Path) -> str:
    """The source of the PDF; the pictures go to `folder`."""
    write = _Typst(_numbers(document), folder)
    lines = [TYPST, f"#set document(title: {_string(document.title)})"]
    lines.append(f"#align(center, text(size: 18pt, weight: 700, {_string(document.title)}))")
    lines += map(write.paragraph, document.abstract)
    lines += (
        ["#outline(depth: 2)", "#pagebreak()"]
        if document.contents
        else ["#set heading(numbering: none)"]
    )
    for _, section, depth in _numbered(document.sections):
        lines.append(f"#heading(level: {depth}, {_string(section.title)})")
        lines += map(write.block, section.blocks)
    if document.references:
        lines.append("#heading(numbering: none)[References]")
        lines += [f"+ {write.text(reference)}" for reference in document.references]
    return "\n\n".join(lines) + "\n"


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
        aligned = ", ".join("right" if right else "left" for right in numeric_columns(table))
        inner = f"table(columns: {columns}, align: ({aligned},), {cells})"
        small = f"#set text(size: {size}pt)\n#set par(justify: false)\n"
        if len(rows) > LONG:
            small += "#show figure: set block(breakable: true)\n"
        return f"#[{small}#{self.figure('table', table, inner)}]"

    def picture(self, picture: Picture) -> str:
        self.pictures += 1
        path = self.folder / f"picture{self.pictures}.png"
        path.write_bytes(png(picture.figure, dpi=200))
        width, height = picture.figure.get_size_inches()
        share = min(
            1, width / 7.2, 8.5 * width / (7.2 * height)
        )  # of the line; a page is 8.5 inches high
        image = f'image("{path.name}", width: {share:.0%})'
        return f"#{self.figure('image', picture, image)}"

    def figure(self, kind: str, block: Table | Picture, inner: str) -> str:
        caption = f"caption: [{self.caption(block)}], " if block.caption else ""
        return f"figure(kind: {kind}, supplement: none, numbering: none, {caption}{inner})"
