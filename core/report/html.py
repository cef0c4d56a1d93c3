"""A document as one self-contained HTML page."""

import base64
import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from purenets.core.report.document import (
    FORMULA,
    TEXT_WIDTH,
    Diagram,
    Document,
    Formula,
    Interactive,
    Picture,
    Section,
    Writer,
    appended_sections,
    block_numbers,
    numbered_sections,
    png,
    to_print,
)
from purenets.core.report.formulas import to_mathml
from purenets.core.report.tables import Table, decimal_tails, numeric_columns

CSS = Path(__file__).with_name("page.css").read_text()
DPI = 220  # of pictures, so that they are sharp at the width of the text
LONG = 45  # letters of a cell that may be broken into lines
NARROW = 0.75 * TEXT_WIDTH  # inches: a figure that a phone can show whole


def to_html(document: Document) -> str:
    """Return one page that loads nothing: style, pictures and scripts are in it.

    Args:
        document: Its texts are escaped; the HTML of an `Interactive` is taken as it is.
    """
    write = _Html(block_numbers(document))
    sections = [*numbered_sections(document.sections)]
    body = ["<main>", *write.sections(sections, document.contents)]
    if document.references:
        items = "".join(f"<li>{write.text(reference)}</li>" for reference in document.references)
        body.append(f'<h2 id="references">References</h2>\n<ol class="references">{items}</ol>')
    body += write.sections(list(appended_sections(document)), numbered=True)
    body.append("</main>")
    navigation = _contents(document) if document.contents else ""
    title = html.escape(document.title)
    return (
        f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n<body>\n"
        + "\n".join([write.header(document), navigation, *body])
        + "\n</body>\n</html>\n"
    )


class _Html(Writer):
    literal = staticmethod(html.escape)

    def code(self, text: str) -> str:
        return f"<code>{html.escape(text)}</code>"

    def emphasis(self, text: str) -> str:
        return f"<em>{html.escape(text)}</em>"

    def formula(self, tex: str) -> str:
        return to_mathml(tex)

    def paragraph(self, text: str) -> str:
        return f"<p>{self.text(text)}</p>"

    def header(self, document: Document) -> str:
        """Return the title, who wrote it, and the abstract."""
        lines = "".join(f'<p class="byline">{self.text(line)}</p>' for line in document.byline)
        abstract = "\n".join(map(self.paragraph, document.abstract))
        if abstract and document.contents:
            abstract = f'<section class="abstract"><h2>Abstract</h2>{abstract}</section>'
        return f"<header><h1>{html.escape(document.title)}</h1>{lines}{abstract}</header>"

    def sections(self, sections: Sequence[tuple], numbered: bool) -> Iterator[str]:
        """Yield the headings with all that is below them."""
        for number, section, depth in sections:
            title = html.escape(section.title)
            lead = f'<span class="number">{number}</span> ' if numbered else ""
            yield f'<h{depth + 1} id="s{number}">{lead}{title}</h{depth + 1}>'
            yield from map(self.block, section.blocks)

    def formula_block(self, formula: Formula) -> str:
        number = f'<span class="number">{html.escape(formula.number)}</span>'
        return (
            f'<div class="formula"><div class="wide">{to_mathml(formula.tex, display=True)}</div>'
            f"{number if formula.number else ''}</div>"
        )

    def table_block(self, table: Table) -> str:
        numeric, (head, *body) = numeric_columns(table), table.rows
        pads = decimal_tails(table)
        lines = [f"<thead>{self.row('th', head, numeric)}</thead><tbody>"]
        lines += [self.row("td", row, numeric, pad) for row, pad in zip(body, pads, strict=True)]
        inner = "".join([*lines, "</tbody>"])
        caption = f"<figcaption>{self.captioned(table)}</figcaption>" if table.caption else ""
        wide = f'<div class="wide"><table>{inner}</table></div>'
        return f'<figure class="table">{caption}{wide}</figure>'

    def row(
        self, kind: str, cells: Sequence[str], numeric: Sequence[bool], pads: Sequence[str] = ()
    ) -> str:
        """Return a row; `pads` stand unseen behind the cells, so that decimal points align."""
        made = []
        for cell, right, pad in zip(cells, numeric, pads or [""] * len(cells), strict=True):
            alone = FORMULA.fullmatch(cell)  # as large as on a line of its own
            padded = f' data-pad="{html.escape(pad)}"' if right and pad else ""
            name = "text long" if len(cell) > LONG and not alone else "text"
            opening = f"<{kind}{padded}>" if right else f'<{kind} class="{name}">'
            inner = to_mathml(alone[1], large=True) if alone else self.text(cell)
            made.append(f"{opening}{inner}</{kind}>")
        return f"<tr>{''.join(made)}</tr>"

    def picture_block(self, picture: Picture) -> str:
        return f"<figure>{self.image(picture)}{self.below(picture)}</figure>"

    def image(self, picture: Picture) -> str:
        """Return the figure as an image of the width that it has in print."""
        data = base64.b64encode(png(to_print(picture.figure), DPI, transparent=True)).decode()
        share = min(1.0, picture.figure.get_figwidth() / TEXT_WIDTH)
        alt = html.escape(self.plain(picture.caption))
        width = f"--share: {share:.2f}"
        image = f'<img alt="{alt}" style="{width}" src="data:image/png;base64,{data}">'
        scrolls = picture.figure.get_figwidth() > NARROW
        return f'<div class="wide picture">{image}</div>' if scrolls else image

    def diagram_block(self, diagram: Diagram) -> str:
        lines = []
        for stage in diagram.stages:
            lines.append(self.shape(stage.entering))
            left, right = (html.escape(text) for text in (stage.forward, stage.backward))
            lines.append(
                f'<li class="stage"><span class="forward">{left}</span>'
                f'<b>{html.escape(stage.name)}</b><span class="backward">{right}</span></li>'
            )
        lines.append(self.shape(diagram.leaving))
        return f'<figure class="diagram"><ol>{"".join(lines)}</ol>{self.below(diagram)}</figure>'

    def shape(self, text: str) -> str:
        """Return the arrows between two stages: the same shape goes forward and comes back."""
        escaped = html.escape(text)
        return (
            f'<li class="shape"><span class="forward">{escaped} ↓</span>'
            f'<span class="backward">↑ {escaped}</span></li>'
        )

    def interactive_block(self, interactive: Interactive) -> str:
        still = (
            f"<noscript>{self.image(Picture(interactive.figure, interactive.caption))}</noscript>"
        )
        inner = f"{interactive.html}{still}{self.below(interactive)}"
        return f'<figure class="interactive">{inner}</figure>'

    def below(self, block: Picture | Diagram | Interactive) -> str:
        caption = self.captioned(block)
        return f"<figcaption>{caption}</figcaption>" if caption else ""

    def captioned(self, block: Table | Picture | Diagram | Interactive) -> str:
        """Return the caption with its number in bold."""
        number = self.numbers.get(id(block))
        return f"<b>{number}.</b> {self.text(block.caption)}" if number else ""

    def plain(self, text: str) -> str:
        """Return a text without its marks, as what stands for a picture."""
        return re.sub(r"\$`|`\$|`", "", self._with_numbers(text))


def _contents(document: Document) -> str:
    """Return the table of contents: parts and, inside of them, their sections."""
    items = [*map(_entry, numbered_sections(document.sections))]
    if document.references:
        items.append('<li class="depth1"><a href="#references">References</a></li>')
    items += map(_entry, appended_sections(document))
    return f'<nav><p class="heading">Contents</p><ul>{"".join(items)}</ul></nav>'


def _entry(found: tuple[str, Section, int]) -> str:
    """Return a section's line in the table of contents, "" for one that is too deep."""
    number, section, depth = found
    if depth > 2:
        return ""
    label = f'<span class="number">{number}</span> {html.escape(section.title)}'
    return f'<li class="depth{depth}"><a href="#s{number}">{label}</a></li>'
