"""A document of sections, paragraphs, tables and figures, written once: as one self-contained HTML
page, as a PDF (by way of Typst), and its tables for a terminal.

In texts `code` and *emphasis* are marked as here, and @key stands for the number of the table or
picture of that key ("Figure 3"). Everything else is taken literally, whatever it is: no text can
become markup.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from purenets.core.report.plots import STYLE
from purenets.core.report.tables import Table


class Picture(NamedTuple):
    figure: Figure
    caption: str
    key: str = ""


Block = str | Table | Picture  # a text is a paragraph


class Section(NamedTuple):
    """A heading with the blocks below it, and then smaller sections."""

    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence["Section"] = ()


class Document(NamedTuple):
    """contents: whether it begins with a table of contents. references: a numbered list at
    the end.
    """

    title: str
    sections: Sequence[Section]
    abstract: Sequence[str] = ()
    references: Sequence[str] = ()
    contents: bool = False


def png(figure: Figure, dpi: int = 150) -> bytes:
    """A Figure as PNG, in our style; without the date, so that the same figure gives the same
    bytes.
    """
    content = io.BytesIO()
    with rc_context(STYLE):
        figure.savefig(content, format="png", dpi=dpi, metadata={"Software": None})
    return content.getvalue()


# --- what both forms share ------------------------------------------------------------------------


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
            names[id(block)] = (
                f"{'Table' if isinstance(block, Table) else 'Figure'} {counts[type(block)]}"
            )
            if block.key in names:
                raise ValueError(f"two tables or figures have the key {block.key}")
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
            for inner in re.split(
                r"((?<!\w)\*(?! )[^*\n]+(?<! )\*(?!\w))", self._with_numbers(piece)
            ):
                marked = len(inner) > 2 and inner[0] == inner[-1] == "*"
                parts.append(self.emphasis(inner[1:-1]) if marked else self.literal(inner))
        return "".join(parts)

    def _with_numbers(self, text: str) -> str:
        return re.sub(r"@([\w-]+)", lambda found: self.numbers.get(found[1], found[0]), text)

    def caption(self, block: Table | Picture) -> str:
        number = self.numbers.get(id(block))
        return self.text(f"{number}. {block.caption}") if number else ""

    def block(self, block: Block) -> str:
        if isinstance(block, str):
            return self.paragraph(block)
        return self.table(block) if isinstance(block, Table) else self.picture(block)


# --- HTML -----------------------------------------------------------------------------------------


# --- Typst ----------------------------------------------------------------------------------------
