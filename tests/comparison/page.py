"""The text of docs/comparison.md."""

import textwrap
from importlib import metadata
from pathlib import Path

from tests.comparison import curvature, layers, optimizers, privacy, training
from tests.comparison.libraries import LIBRARIES
from tests.comparison.table import Row, Section

PAGE = Path(__file__).parents[2] / "docs" / "comparison.md"
SECTIONS = [
    *optimizers.SECTIONS,
    *layers.SECTIONS,
    *privacy.SECTIONS,
    *curvature.SECTIONS,
    *training.SECTIONS,
]
VMAP = {
    "rates": " · vmap",
    "params": " · vmap of params",
    "members": " · vmap",
    "draws": " · vmap, one draw",
    "": "",
}
HEAD = """# Comparison with other libraries

`python -m tests.comparison` writes this page; do not edit it. `tests/test_comparison.py` checks
each cell against the installed library: that the name exists, and that a library with an empty
cell has no such name. "vmap" means that three members run in one vmapped call (`torch.func.vmap`,
`jax.vmap`), each with the same result as the member alone. A cell without "vmap" was not run, or
fails under vmap.

{versions}.
"""


def page() -> str:
    """Return the page."""
    names = dict.fromkeys(library.distribution for library in LIBRARIES.values())
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names if name)
    head = HEAD.format(versions=textwrap.fill(f"Versions: {versions}", 99, break_on_hyphens=False))
    return "\n".join([head, *map(section_text, SECTIONS)])


def section_text(section: Section) -> str:
    """Return a heading, the text below it and the table."""
    heads = ["", *(LIBRARIES[library].head for library in section.libraries)]
    lines = [heads, ["---"] * len(heads), *(cells(row, section.libraries) for row in section.rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"## {section.title}\n\n{section.text}\n\n{table}\n"


def cells(row: Row, libraries: tuple[str, ...]) -> list[str]:
    """Return the cells of one line."""
    texts = [row.what]
    for library in libraries:
        cell = row.cells.get(library)
        texts.append(f"`{cell.name}`{VMAP[cell.vmap]}" if cell else "")
    return texts
