"""Docstrings for mkdocstrings: "Example:" is a section of examples, as "Examples:" is."""

import re
from typing import Any

import griffe

HEADING = re.compile(r"^( *)Example:$", re.MULTILINE)


class Examples(griffe.Extension):
    """Rename the section, since griffe takes "Example" for a note."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rename it in the docstring of one object."""
        if obj.docstring:
            obj.docstring.value = HEADING.sub(r"\1Examples:", obj.docstring.value)
