"""Formulas as MathML, by the report's own typesetting: no script, nothing from another host."""

import html
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

from purenets.core.report.formulas import to_mathml

MARKED = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
OF_NOTEBOOK = re.compile(r"(\$\$?)([^$<>]+)\1")
TEXT_CELL = re.compile(r'(data-mime-type="text/markdown">)(.*?)(?=</div>)', re.DOTALL)


def on_page_content(content: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Typeset the formulas of a page."""
    try:
        if page.file.src_uri.endswith(".ipynb"):
            return TEXT_CELL.sub(lambda cell: cell[1] + _typeset(OF_NOTEBOOK, cell[2]), content)
        return _typeset(MARKED, content)
    except ValueError as error:
        raise PluginError(f"{page.file.src_uri}: {error}") from error


def _typeset(formulas: re.Pattern, content: str) -> str:
    """Replace each formula; its first group is "div" or "$$" if it has a line of its own."""
    return formulas.sub(
        lambda found: to_mathml(html.unescape(found[2]), display=found[1] in ("div", "$$")), content
    )
