"""A document of sections, paragraphs, formulas, tables and figures, written once: as one
self-contained HTML page, as a PDF (by way of Typst), and its tables for a terminal.

In texts `code` and *emphasis* are marked as here, $`x^2`$ is a formula (see `formulas`), and @key
stands for the number of the table or figure of that key ("Figure 3"). Everything else is taken
literally, whatever it is: no text can become markup.
"""

import io
import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from purenets.core.report.plots import STYLE
from purenets.core.report.tables import Table


class Picture(NamedTuple):
    """A figure with its caption; `key` is the name by which texts refer to it, as in @key."""

    figure: Figure
    caption: str
    key: str = ""


class Formula(NamedTuple):
    """A formula on lines of its own, with the number that stands beside it, as "(1)"."""

    tex: str
    number: str = ""


class Stage(NamedTuple):
    """A step of a diagram: what goes in, who takes it, and the products forward and backward."""

    entering: str
    name: str
    forward: str = ""
    backward: str = ""


class Diagram(NamedTuple):
    """A network from its input down to its output, drawn by each form in its own way.

    Left of the boxes stands what goes forward, right of them what comes back.
    """

    stages: Sequence[Stage]
    leaving: str
    caption: str
    key: str = ""


class Interactive(NamedTuple):
    """A figure that a reader can move: HTML of our own for the page, a still picture for the PDF.

    The HTML is written as it is, so it may hold no text from elsewhere that is not escaped.
    """

    html: str
    figure: Figure
    caption: str
    key: str = ""


Block = str | Table | Picture | Formula | Diagram | Interactive  # a text is a paragraph


class Section(NamedTuple):
    """A heading with the blocks below it, and then smaller sections."""

    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence["Section"] = ()


class Document(NamedTuple):
    """Sections below a title.

    contents: whether it begins with a table of contents. references: a numbered list at the end.
    byline: lines below the title: who wrote it. appendix: sections behind the references.
    """

    title: str
    sections: Sequence[Section]
    abstract: Sequence[str] = ()
    references: Sequence[str] = ()
    contents: bool = False
    byline: Sequence[str] = ()
    appendix: Sequence[Section] = ()


# Of a figure in print: the width of the text in inches (A4 less its margins), and the smallest and
# largest letters in points
TEXT_WIDTH, SMALLEST, LARGEST = 6.5, 7.5, 9.5


def to_print(figure: Figure, widest: float = TEXT_WIDTH) -> Figure:
    """Make a figure no wider than the text and its letters no smaller than can be read there.

    A wider figure keeps its proportions; its letters shrink with it, within SMALLEST and LARGEST
    points, and the layout makes room for them. A figure that is as it should be is not changed.

    Args:
        figure: Changed in place.
        widest: In inches.

    Returns:
        The same figure.
    """
    width, height = figure.get_size_inches()
    scale = min(1.0, widest / width)
    figure.set_size_inches(scale * width, scale * height)
    for text in figure.findobj(Text):
        text.set_fontsize(min(max(SMALLEST, scale * text.get_fontsize()), LARGEST))
    for axis in figure.axes:  # ticks that are drawn anew take their size from here
        for which in (axis.xaxis, axis.yaxis):
            size = max((label.get_fontsize() for label in which.get_ticklabels()), default=SMALLEST)
            which.set_tick_params(labelsize=size)
    return figure


def png(figure: Figure, dpi: int = 150, transparent: bool = False) -> bytes:
    """Return a Figure as PNG, in our style.

    It has no date, so that the same figure gives the same bytes.
    """
    content, options = io.BytesIO(), {"dpi": dpi, "metadata": {"Software": None}}
    with rc_context(STYLE):
        figure.savefig(content, format="png", transparent=transparent, **options)
    return content.getvalue()


def svg(figure: Figure) -> bytes:
    """Return a Figure as SVG, in our style, its letters as paths; without the date, as `png`."""
    content, options = io.BytesIO(), {"svg.hashsalt": "purenets", "svg.fonttype": "path"}
    with rc_context(STYLE | options):
        figure.savefig(content, format="svg", dpi=300, metadata={"Date": None, "Creator": None})
    return content.getvalue()


# --- what both forms share ------------------------------------------------------------------------


def numbered_sections(
    sections: Sequence[Section], lead: str = "", depth: int = 1
) -> Iterator[tuple]:
    """Yield all sections in order, with number and depth."""
    for i, section in enumerate(sections, start=1):
        yield f"{lead}{i}", section, depth
        yield from numbered_sections(section.parts, f"{lead}{i}.", depth + 1)


def appended_sections(document: Document) -> Iterator[tuple]:
    """Yield all sections of the appendix in order, with letter and depth."""
    for letter, section in zip(string.ascii_uppercase, document.appendix, strict=False):
        yield letter, section, 1
        yield from numbered_sections(section.parts, f"{letter}.", 2)


def block_numbers(document: Document) -> dict[int | str, str]:
    """Return "Figure 1", "Table 1", ... of every captioned block, by identity and by key."""
    names: dict[int | str, str] = {}
    counts = {"Table": 0, "Figure": 0}
    for _, section, _ in (*numbered_sections(document.sections), *appended_sections(document)):
        for block in section.blocks:
            if isinstance(block, str | Formula) or not block.caption:
                continue
            kind = "Table" if isinstance(block, Table) else "Figure"
            counts[kind] += 1
            names[id(block)] = f"{kind} {counts[kind]}"
            if block.key in names:
                raise ValueError(f"two tables or figures have the key {block.key}")
            if block.key:
                names[block.key] = names[id(block)]
    return names


MINUS = re.compile(r"(?<![\w.)-])-(?=\d)")  # before a number; elsewhere it is a hyphen
FORMULA = re.compile(r"\$`([^`]+)`\$")  # in a text


class Writer:
    """Texts of a form: `literal`, `code`, `emphasis`, `formula` and the blocks are its own."""

    literal: Callable[[str], str]
    code: Callable[[str], str]
    emphasis: Callable[[str], str]
    formula: Callable[[str], str]

    def __init__(self, numbers: dict[int | str, str]):
        self.numbers = numbers

    def text(self, text: str) -> str:
        parts = []
        for piece in re.split(r"(\$`[^`]+`\$|`[^`]+`)", text):
            if len(piece) > 4 and piece[:2] == "$`":
                parts.append(self.formula(piece[2:-2]))
                continue
            if len(piece) > 2 and piece[0] == piece[-1] == "`":
                parts.append(self.code(piece[1:-1]))
                continue
            for inner in re.split(
                r"((?<!\w)\*(?! )[^*\n]+(?<! )\*(?!\w))", self._with_numbers(piece)
            ):
                marked = len(inner) > 2 and inner[0] == inner[-1] == "*"
                shown = MINUS.sub("\u2212", inner)
                parts.append(self.emphasis(shown[1:-1]) if marked else self.literal(shown))
        return "".join(parts)

    def _with_numbers(self, text: str) -> str:
        return re.sub(r"@([\w-]+)", lambda found: self.numbers.get(found[1], found[0]), text)

    def caption(self, block: Table | Picture | Diagram | Interactive) -> str:
        number = self.numbers.get(id(block))
        return self.text(f"{number}. {block.caption}") if number else ""

    def block(self, block: Block) -> str:
        if isinstance(block, str):
            return self.paragraph(block)
        return getattr(self, type(block).__name__.lower() + "_block")(block)
