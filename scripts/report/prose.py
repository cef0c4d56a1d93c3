"""The text files of the reports: Markdown with `{names}`, turned into sections of a document.

`text/NAME.md` holds the prose; Python computes the values that it names:

    ## Results                      a section; a heading with more # is a smaller section inside it
    Accuracy is {accuracy:.1%}.     a paragraph, up to a blank line, with a value in it
    [[table: settings]]             the table of that name; the lines below it, up to a blank line,
    Accuracy of each setting.       are its caption
    [[figure: curves]]              a figure with its caption, in the same way
    [[diagram: layers]]             a diagram or an interactive figure with its caption, in the
    [[interactive: step]]           same way
    [[blocks: quick]]               a list of finished paragraphs, tables and figures
    $$ y = W x $$ (1)               a formula on a line of its own, with its number if it has one
    [[if: curves]]                  the lines from here ...
    [[end]]                         ... to here are left out if the value is None or False

The text refers to a table or figure as @settings and marks `code`, *emphasis* and formulas
($`x^2`$; `core/report/formulas.py` lists what a formula may contain). Braces in formulas belong to
TeX, so no names are filled in there; a formula must be on one line. A name may occur several times.
A file and its values must match: every name that is needed has a value, and every value is named
somewhere in the file.
"""

import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from purenets import UserError
from purenets.core.report.document import (
    Block,
    Diagram,
    Formula,
    Interactive,
    Picture,
    Section,
)
from purenets.core.report.tables import Table

TEXT = Path(__file__).parent / "text"
HEADING = re.compile(r"(#+) +(.+)")
DIRECTIVE = re.compile(r"\[\[(\w+)(?:: *(\S+))?\]\]")
KINDS = {
    "table": Table,
    "figure": Figure,
    "diagram": Diagram,
    "interactive": Interactive,
    "blocks": list,
    "if": object,
}
OF_LAYOUT = Table | Figure | Diagram | Interactive | list | bool | None  # no texts, no numbers
DISPLAYED = re.compile(r"\$\$(.+)\$\$ *(\(\w+\))?")
INLINE = re.compile(r"(\$`[^`]+`\$)")


def sections(name: str, values: Mapping[str, Any], folder: Path = TEXT) -> list[Section]:
    """Return the sections of a text file with the values in it.

    Args:
        name: The file's name without `.md`.
        values: A text or a number, a Table, a Figure, a Diagram, an Interactive, a list of blocks,
            True, False or None for each name.
        folder: The folder of the text files.

    Raises:
        UserError: If a name has no value, or one of another kind; if a value is not named in the
            file; if a line is malformed.
    """
    return _TextFile(folder / f"{name}.md", values).sections()


class _TextFile:
    """A text file and its values; errors name the file."""

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self.path, self.values = path, values
        self.lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]

    def sections(self) -> list[Section]:
        named = self.names()
        if unused := [name for name in self.values if name not in named]:
            raise self.error(f"does not name {', '.join(unused)}")
        return self.nested(_paragraphs(self.chosen()))

    def error(self, message: str) -> UserError:
        return UserError(f"{self.path}: {message}")

    def names(self) -> set[str]:
        """Return every name in the file, also those in parts that are left out."""
        texts = [line for line in self.lines if not line.startswith("$$")]
        parts = [part for line in texts for part in INLINE.split(line)[::2]]
        found = {name for part in parts for name in self.fields(part)}
        directives = filter(None, map(self.directive, self.lines))
        return found | {self.fill(name) for kind, name in directives if kind != "end"}

    def fields(self, text: str) -> list[str]:
        """Return the names in braces."""
        try:
            return [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
        except ValueError as error:
            raise self.error(f"{text}: {error}") from error

    def directive(self, line: str) -> tuple[str, str] | None:
        """Return kind and name of a line such as [[table: settings]]; None for another line."""
        if not line.startswith("[["):
            return None
        found = DIRECTIVE.fullmatch(line)
        if not found or found[1] not in (KINDS if found[2] else ["end"]):
            raise self.error(f"{line}: needs [[end]], or one of {', '.join(KINDS)} with a name")
        return found[1], found[2] or ""

    def value(self, name: str, kind: type = object) -> Any:
        """Return the value of a name, which must be of a kind."""
        if name not in self.values:
            raise self.error(f"{name} has no value; there are {', '.join(self.values) or 'none'}")
        value = self.values[name]
        if not isinstance(value, kind):
            found = type(value).__name__
            raise self.error(f"{name} needs to be a {kind.__name__}, but is a {found}")
        return value

    def fill(self, text: str) -> str:
        """Return the text with values for its names."""
        parts = INLINE.split(text)
        parts[::2] = map(self.filled, parts[::2])  # between them are formulas
        return "".join(parts)

    def filled(self, text: str) -> str:
        """Return a text without formulas, with values for its names."""
        for name in self.fields(text):
            if isinstance(self.value(name), OF_LAYOUT):
                raise self.error(f"{{{name}}} needs a text or a number")
        try:
            return text.format_map(self.values)
        except ValueError as error:
            raise self.error(f"{text}: {error}") from error

    def chosen(self) -> Iterator[str]:
        """Yield the lines, but not [[if: ...]], [[end]] and what they leave out."""
        condition, keep = "", True
        for line in self.lines:
            kind, name = self.directive(line) or ("", "")
            if kind not in ("if", "end"):
                if keep:
                    yield line
                continue
            if (kind == "if") == bool(condition):
                raise self.error(f"{line} after {condition or 'no [[if: ...]]'}")
            condition = line if kind == "if" else ""
            value = True if kind == "end" else self.value(self.fill(name))
            keep = value is not None and value is not False
        if condition:
            raise self.error(f"{condition} has no [[end]]")

    def nested(self, paragraphs: Iterable[Sequence[str]]) -> list[Section]:
        """Return the sections, those of deeper headings as parts of the one above them."""
        path = [(0, Section("", [], []))]  # the open sections with their depth, outermost first
        for lines in paragraphs:
            heading = HEADING.fullmatch(lines[0])
            if not heading:
                path[-1][1].blocks.extend(self.blocks(*lines))
                continue
            if len(lines) > 1:
                raise self.error(f"{lines[0]} needs a blank line below it")
            section = Section(self.fill(heading[2]), [], [])
            path = [(depth, outer) for depth, outer in path if depth < len(heading[1])]
            path[-1][1].parts.append(section)
            path.append((len(heading[1]), section))
        if path[0][1].blocks:
            raise self.error("needs a heading above the first paragraph")
        return path[0][1].parts

    def blocks(self, first: str, *rest: str) -> list[Block]:
        """Return a paragraph, or the block that the first line names, with its caption."""
        if glued := [line for line in rest if line.startswith("[[")]:
            raise self.error(f"{glued[0]} needs a blank line above it")
        directive = self.directive(first)
        if directive is None:
            return [self.paragraph(" ".join([first, *rest]))]
        kind, name = directive[0], self.fill(directive[1])
        value, caption = self.value(name, KINDS[kind]), self.fill(" ".join(rest))
        if kind == "blocks" and caption:
            raise self.error(f"{first} needs a blank line below it")
        if kind == "blocks":
            return value
        if not caption:
            raise self.error(f"{first} needs its caption on the next line")
        if kind == "figure":
            return [Picture(value, caption, name)]
        return [value._replace(caption=caption, key=name)]

    def paragraph(self, text: str) -> str | Formula:
        """Return a paragraph with its values, or the formula that it is."""
        if not text.startswith("$$"):
            return self.fill(text)
        found = DISPLAYED.fullmatch(text)
        if not found:
            raise self.error(f"{text}: needs $$ at its end, and behind it only a number, as (1)")
        return Formula(found[1].strip(), found[2] or "")


def _paragraphs(lines: Iterable[str]) -> list[list[str]]:
    """Return the lines in groups; blank lines separate them."""
    groups: list[list[str]] = [[]]
    for line in lines:
        if line:
            groups[-1].append(line)
        else:
            groups.append([])
    return [group for group in groups if group]
