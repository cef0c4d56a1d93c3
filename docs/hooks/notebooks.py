"""Notebooks as mkdocs-jupyter converts them: their links, headings and scripts set right."""

import posixpath
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import TableOfContents, get_toc
from outside import site_link

HREF = re.compile(r'(?<=href=")([^"#:]+)(?=[#"])')
SCRIPT = re.compile(r"<script\b[^>]*>.*?</script>", re.DOTALL)
OF_OTHERS = re.compile(r"https?://|MathJax|mermaid|jupyter-widgets")  # formulas.py has its own way
HEADING = re.compile(r'<h([1-3]) id="([^"]+)">(.*?)<a class="anchor-link"', re.DOTALL)
TAG = re.compile(r"<[^>]+>")


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a notebook to pages, and drop scripts that load from other hosts."""
    uri = page.file.src_uri
    if not uri.endswith(".ipynb"):
        return html

    def url(link: re.Match) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(uri), site_link(link[1], uri)))
        file = files.get_file_from_path(path)
        return link[1] if file is None else file.url_relative_to(page.file)

    html = SCRIPT.sub(lambda script: "" if OF_OTHERS.search(script[0]) else script[0], html)
    page.toc = contents_of(html)
    return HREF.sub(url, html)


def contents_of(html: str) -> TableOfContents:
    """Return the table of contents; that of mkdocs-jupyter loses the code in a heading."""
    entries: list[dict] = []
    for level, name, title in HEADING.findall(html):
        entry = {"level": int(level), "id": name, "name": TAG.sub("", title), "children": []}
        siblings = entries
        while siblings and siblings[-1]["level"] < entry["level"]:
            siblings = siblings[-1]["children"]
        siblings.append(entry)
    return get_toc(entries)
