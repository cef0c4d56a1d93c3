"""A site that needs no network and no server.

Notebooks come with scripts for formulas and diagrams from other hosts, which these have no need of.
A page that is opened from the disk may not fetch a file, so its search reads a script instead.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)
OF_OTHERS = re.compile(r"https?://|MathJax|mermaid|jupyter-widgets")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Drop the scripts of a notebook's page that load from other hosts."""
    if not page.file.src_uri.endswith(".ipynb"):
        return html
    return SCRIPT.sub(lambda script: "" if OF_OTHERS.search(script[0]) else script[0], html)


@event_priority(-100)  # after the search index is written
def on_post_build(config: MkDocsConfig) -> None:
    """Write the search index as a script beside the JSON file."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    script = f"var __index = {index.read_text(encoding='utf-8')}"
    index.with_suffix(".js").write_text(script, encoding="utf-8")
