"""Docstrings for mkdocstrings, which takes the sections "Example" and "Source" for boxed notes."""

import re
import textwrap
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
SOURCE = re.compile(r"^Source:\n((?: +\S.*\n?)+)", re.MULTILINE)


class Sections(griffe.Extension):
    """Make an example a section of examples, and a source a paragraph with its name in bold."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of one object."""
        if obj.docstring:
            text = EXAMPLE.sub("Examples:", obj.docstring.value)
            obj.docstring.value = SOURCE.sub(_paragraph, text)


def _paragraph(section: re.Match) -> str:
    return f"**Source:** {textwrap.dedent(section[1])}"
