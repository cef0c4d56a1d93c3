"""A document as a PDF, by way of Typst."""

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from purenets.core.base import UserError
from purenets.core.report.document import (
    FORMULA,
    TEXT_WIDTH,
    Block,
    Diagram,
    Document,
    Formula,
    Interactive,
    Picture,
    Writer,
    appended_sections,
    block_numbers,
    numbered_sections,
    svg,
    to_print,
)
from purenets.core.report.formulas import to_typst as formula_source
from purenets.core.report.tables import Table, decimal_tails, numeric_columns
from purenets.core.runs.files import write_atomically

MARGIN = (8.27 - TEXT_WIDTH) / 2  # inches, of A4
WAYS = "ways.json"  # how each figure is set: at the top of a page, or with the text that names it
TOP, BELOW, ABOVE = 0, 1, 2
TYPST = f"""
#let edge = 2.3cm
#set page(paper: "a4", margin: (x: {MARGIN:.3f}in, y: edge), numbering: "1")
#set text(font: "Libertinus Serif", size: 10.5pt, number-type: "lining")
#set par(justify: true, leading: 0.62em, spacing: 0.95em)
#set heading(numbering: "1.1")
#show heading: set text(weight: 600)
#show heading: set block(above: 1.5em, below: 0.8em, sticky: true)
#show heading.where(level: 1): set text(size: 15pt)
#show heading.where(level: 1): set block(above: 2em, below: 1em)
#show heading.where(level: 2): set text(size: 12pt)
#show heading.where(level: 3): set text(size: 10.5pt, style: "italic")
#show figure: set block(above: 1.3em, below: 1.3em)
#show figure.caption: set text(size: 9pt)
#show figure.caption: set align(left)
#show figure.caption: set par(justify: false, leading: 0.5em)
#show figure.where(kind: table): set figure.caption(position: top)
#show math.equation: set text(size: 1em)
#show raw: set text(size: 0.95em)
#show table.cell.where(y: 0): set text(weight: 600)
#set table(stroke: none, inset: (x: 4pt, y: 2.6pt))
#set outline(indent: 1.2em)
#show outline.entry.where(level: 1): set block(above: 0.7em)
#let forward = rgb("#0b5f99")
#let backward = rgb("#b04a00")
#let stage(f, name, b) = grid(
  columns: (1fr, auto, 1fr), column-gutter: 8pt, align: (right + horizon, center, left + horizon),
  text(forward, f),
  box(fill: rgb("#f4f1ea"), stroke: 0.5pt + rgb("#b9b4a8"), radius: 3pt, inset: (x: 8pt, y: 4pt),
    text(size: 8.5pt, weight: 600, name)),
  text(backward, b))
#let floating(i, body, words) = {{
  let way = json("{WAYS}").at(str(i), default: {TOP})
  let marked = block(breakable: false, width: 100%, spacing: 1.3em)[#metadata(i) <figure> #body]
  [#metadata(i) <named>]
  if way == {TOP} {{ place(top, float: true, clearance: 1.5em, marked) + words }}
  if way == {BELOW} {{ words + parbreak() + marked }}
  if way == {ABOVE} {{ marked + words }}
}}
#let pages() = context {{
  let last(it) = query(heading.where(outlined: true).before(it.location())).last()
  let begun = query(<named>).map(it => (str(it.value), last(it).location().page())).to-dict()
  let own = query(<figure>).map(it => (str(it.value), it.location().page())).to-dict()
  [#metadata((begun, own)) <pages>]
}}
#let shape(s) = grid(
  columns: (1fr, 1fr), column-gutter: 12pt, align: (right, left),
  text(forward)[#s ↓], text(backward)[↑ #s])
"""

LONG = 14  # rows of a table; with more it may be parted by the end of a page
HIGH = range(12, LONG + 1)  # rows with which a table moves to where a page has room for it
KEPT = 3  # first and last rows of a long table that stay together
SIZES = ((88, 9), (112, 8.5), (130, 8), (10**9, 7.5))  # letters of the widest row, and their size


def write_pdf(document: Document, path: Path) -> None:
    """Write a document as a PDF with its fonts; the same document gives the same bytes.

    Raises:
        UserError: If the package typst is not installed.
    """
    typst = compiler()
    with tempfile.TemporaryDirectory() as folder:
        source = laid_out(document, Path(folder))
        write_atomically(path, typst.compile(str(source), ignore_system_fonts=True, timestamp=0))


def compiler() -> ModuleType:
    """Return the package typst; call it before long work that ends in a PDF.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import typst
    except ImportError as error:
        advice = 'pip install -e ".[report]" in the folder of purenets'
        raise UserError(f"a PDF needs the package typst: {advice}") from error
    return typst


def laid_out(document: Document, folder: Path) -> Path:
    """Write the source of the PDF, with all that it needs, to a folder; return its path.

    At first each figure goes to the top of a page, and the text that names it goes on. If that is
    the page on which its section begins, or one before it, the figure stands above the heading. It
    has room on that page, then, and goes into the text: below the paragraph that names it or, if
    there it would come to the next page, above it. Each step changes only what is behind it.
    """
    typst = compiler()
    source, ways = folder / "document.typ", {}
    source.write_text(to_typst(document, folder), encoding="utf-8")
    while True:
        (folder / WAYS).write_text(json.dumps(ways))
        found = typst.query(str(source), "<pages>", "value", one=True, ignore_system_fonts=True)
        begun, own = json.loads(found)
        for i in map(str, range(1, len(own) + 1)):
            way, together = ways.get(i, TOP), own[i] <= begun[i]
            if (way == TOP and together) or (way == BELOW and not together):
                ways[i] = way + 1
                break
        else:
            return source


def to_typst(document: Document, folder: Path) -> str:
    """Return the source of the PDF, which reads WAYS; the pictures go to `folder`."""
    write = _Typst(block_numbers(document), folder)
    lines = [TYPST, f"#set document(title: {_string(document.title)})", *write.top(document)]
    if document.contents:
        lines += ["#outline(depth: 2, title: [Contents])", "#pagebreak()"]
    else:
        lines.append("#set heading(numbering: none)")
    lines += write.sections(numbered_sections(document.sections))
    if document.references:
        lines += ["#place.flush()", "#heading(numbering: none)[References]"]
        lines += [f"+ {write.text(reference)}" for reference in document.references]
    if document.appendix:
        lines += ["#counter(heading).update(0)", '#set heading(numbering: "A.1")']
        lines.append("#set par(justify: false)")  # there are commands in it
        lines += write.sections(appended_sections(document))
    return "\n\n".join([*lines, "#pages()"]) + "\n"


def _string(text: str) -> str:
    """Return a Typst string, in which nothing is markup."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'


class _Typst(Writer):
    def __init__(self, numbers: dict[int | str, str], folder: Path):
        super().__init__(numbers)
        self.folder, self.pictures, self.floats = folder, 0, 0

    def literal(self, text: str) -> str:
        return f"#{_string(text)};" if text else ""

    def code(self, text: str) -> str:
        return f"#raw({_string(text)});"

    def emphasis(self, text: str) -> str:
        return f"#emph({_string(text)});"

    def formula(self, tex: str) -> str:
        return f"${formula_source(tex)}$"

    paragraph = Writer.text

    def top(self, document: Document) -> list[str]:
        """Return the title, who wrote it, and the abstract."""
        title = f"text(size: 20pt, weight: 600, {_string(document.title)})"
        lines = [f"#v(0.6cm)\n#align(center, par(justify: false, {title}))"]
        for line in document.byline:
            lines.append(f"#align(center, text(size: 11pt)[{self.text(line)}])")
        abstract = "\n\n".join(map(self.paragraph, document.abstract))
        if abstract and document.contents:
            abstract = f"#v(0.5cm)\n#pad(x: 0.8cm)[#set text(size: 10pt)\n{abstract}]\n#v(0.5cm)"
        return [*lines, abstract]

    def sections(self, sections) -> list[str]:
        """Return the headings with all that is below them.

        All figures of a section stand before the heading of the next one.
        """
        lines = []
        for _, section, depth in sections:
            if depth <= 2:
                lines.append("#place.flush()")
            lines.append(f"#heading(level: {depth}, {_string(section.title)})")
            lines += self.flow(section.blocks)
        return lines

    def flow(self, blocks: Sequence[Block]) -> Iterator[str]:
        """Yield the blocks of a section, each figure with the paragraph that first names it.

        So there is text left to fill the page that a figure leaves. Figures keep their order.
        """
        waiting = [block for block in blocks if _moves(block)]
        for block in blocks:
            keys = re.findall(r"@([\w-]+)", block) if isinstance(block, str) else ()
            named = [i for i, it in enumerate(waiting) if it is block or it.key in keys]
            text = "" if _moves(block) else self.block(block)
            for _ in range(max(named, default=-1) + 1):
                self.floats += 1
                figure = self.block(waiting.pop(0))
                yield f"#floating({self.floats})[{figure}][{text}]"
                text = ""
            if text:
                yield text

    def formula_block(self, formula: Formula) -> str:
        number = f", numbering: _ => {_string(formula.number)}" if formula.number else ""
        return f"#math.equation(block: true{number}, $ {formula_source(formula.tex)} $)"

    def table_block(self, table: Table) -> str:
        columns = len(table.rows[0])
        widest = max(sum(map(_letters, row)) + 3 * columns for row in table.rows)
        size = next(size for letters, size in SIZES if widest < letters)
        head, *rows = self.cells(table)
        long = len(rows) > LONG
        if long:  # a last column without width holds rows together
            head += ", []"
            joined = f", table.cell(rowspan: {KEPT}, breakable: false, inset: 0pt)[]"
            rows[KEPT:-KEPT] = [f"{row}, []" for row in rows[KEPT:-KEPT]]
            rows[0] += joined
            rows[-KEPT] += joined
        parts = ["table.hline(stroke: 0.8pt)", f"table.header({head}, table.hline(stroke: 0.5pt))"]
        cells = ", ".join([*parts, *rows, "table.hline(stroke: 0.8pt)"])
        aligned = ", ".join("right" if right else "left" for right in numeric_columns(table))
        formulas = [_has_formula(column) for column in zip(*table.rows, strict=True)]
        widths = ["auto"] * columns  # a formula is not broken; what stands behind it may be
        if any(formulas) and not formulas[-1]:
            widths[-1] = "1fr"
        if long:
            widths.append("0pt")
        roomy = ", inset: (x: 4pt, y: 4pt)" if any(formulas) else ""
        inner = f"table(columns: ({', '.join(widths)},), align: ({aligned},){roomy}, {cells})"
        small = f"#set text(size: {size}pt)\n#set par(justify: false, leading: 0.5em)\n"
        if long:
            small += "#show figure: set block(breakable: true)\n"
            small += "#show figure.caption: set block(sticky: true)\n"
            small = f"#place.flush()\n{small}"  # so that no figure cuts it in two
        return f"#[{small}#{self.figure('table', table, inner)}]"

    def cells(self, table: Table) -> list[str]:
        """Return the rows with what aligns their decimal points; short words do not break."""
        head, *body = table.rows
        pads = [[""] * len(head), *decimal_tails(table)]
        return [
            ", ".join(f"[{self.cell(cell)}{_hidden(pad)}]" for cell, pad in zip(*row, strict=True))
            for row in zip([head, *body], pads, strict=True)
        ]

    def cell(self, cell: str) -> str:
        """Return a cell; a formula that stands alone in it is as large as on a line of its own."""
        alone = FORMULA.fullmatch(cell)
        return f"$display({formula_source(alone[1])})$" if alone else self.text(cell)

    def picture_block(self, picture: Picture) -> str:
        return f"#{self.figure('image', picture, self.image(picture))}"

    def image(self, picture: Picture | Interactive) -> str:
        self.pictures += 1
        path = self.folder / f"picture{self.pictures}.svg"
        path.write_bytes(svg(to_print(picture.figure)))
        return f'image("{path.name}", width: {picture.figure.get_figwidth():.3f}in)'

    interactive_block = picture_block

    def diagram_block(self, diagram: Diagram) -> str:
        parts = []
        for stage in diagram.stages:
            parts.append(f"shape({_string(stage.entering)})")
            texts = map(_string, (stage.forward, stage.name))
            parts.append(f"stage({', '.join(texts)}, {_unbroken(stage.backward)})")
        parts.append(f"shape({_string(diagram.leaving)})")
        setting = "set text(size: 7.5pt); set par(justify: false, leading: 0.4em)"
        inner = f"{{ {setting}; stack(spacing: 4.5pt, {', '.join(parts)}) }}"
        return f"#{self.figure('image', diagram, inner)}"

    def figure(
        self,
        kind: str,
        block: Table | Picture | Diagram | Interactive,
        inner: str,
    ) -> str:
        caption = f"caption: [{self.captioned(block)}], " if block.caption else ""
        return f"figure(kind: {kind}, supplement: none, numbering: none, {caption}{inner})"

    def captioned(self, block: Table | Picture | Diagram | Interactive) -> str:
        """Return the caption with its number in bold."""
        number = self.numbers.get(id(block))
        return f"#strong[{self.literal(f'{number}.')}] {self.text(block.caption)}" if number else ""


def _unbroken(products: str) -> str:
    """Return the content of products, of which none is broken into lines."""
    first, comma, second = products.partition(", dW = ")
    if not comma:
        return _string(products)
    boxes = (f"#box({_string(part)})" for part in (f"{first},", f"dW = {second}"))
    return f"[{' '.join(boxes)}]"


def _moves(block: Block) -> bool:
    """Return whether a block is moved to a page that has room for it."""
    if isinstance(block, Table):
        return len(block.rows) - 1 in HIGH
    return isinstance(block, Picture | Diagram | Interactive)


def _has_formula(row: Sequence[str]) -> bool:
    return any(map(FORMULA.fullmatch, row))


def _letters(cell: str) -> int:
    """Return about how many letters a cell is wide; of a formula every third sign is seen."""
    return len(FORMULA.sub(lambda found: "x" * (len(found[1]) // 3), cell))


def _hidden(text: str) -> str:
    return f"#hide({_string(text)})" if text else ""
