"""Pages from outside of docs/, and links that work in the repository and on the site.

A page's links are paths in the repository, where GitHub follows them. On the site README.md is the
first page, tables and notebooks keep their paths, and a page shows each other file that is linked.
"""

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
KEPT = ("notebooks", "results")  # folders whose files keep their paths on the site
CODE = re.compile(r"(```.*?```|`[^`\n]+`)", re.DOTALL)
LINK = re.compile(r"(?<=\]\()([^)#\s]+)")  # its target, without the anchor
LANGUAGES = {".py": "python", ".md": "markdown", ".json": "json", ".cfg": "ini", ".css": "css"}


def site_path(path: str) -> str:
    """Return the path on the site of a file or folder of the repository."""
    folder, _, rest = path.partition("/")
    if path in PAGES:
        return PAGES[path]
    if folder == "docs":
        return rest
    return path if folder in KEPT and rest else f"source/{path}.md"


def repository_path(uri: str) -> str:
    """Return the path in the repository of a page of the site."""
    original = {site: path for path, site in PAGES.items()}
    if uri in original:
        return original[uri]
    return uri if uri.partition("/")[0] in KEPT else f"docs/{uri}"


def target_of(link: str, page: str) -> str | None:
    """Return the path in the repository that a link of a page leads to; None: to another host."""
    if "://" in link or link.startswith("mailto:"):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


# --- files ----------------------------------------------------------------------------------------


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside of docs/, and a page for each other file that is linked."""
    root = Path(config.config_file_path).parent
    for path, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(root / path)))
    kept = [str(path.relative_to(root)) for path in _kept_files(root)]
    for path in kept:
        files.append(File(path, str(root), config.site_dir, config.use_directory_urls))
    outside = [*PAGES, *kept]
    pages = [path for path in outside if path.endswith((".md", ".ipynb"))]
    pages += [f"docs/{file.src_uri}" for file in files if _is_page_of_docs(file, config)]
    for path in sorted(_linked_sources(root, pages)):
        files.append(File.generated(config, site_path(path), content=_source_page(root, path)))
    return files


def _kept_files(root: Path) -> list[Path]:
    found = [path for folder in KEPT for path in sorted((root / folder).iterdir())]
    return [path for path in found if path.suffix in (".md", ".json", ".ipynb")]


def _is_page_of_docs(file: File, config: MkDocsConfig) -> bool:
    return file.src_dir == config.docs_dir and file.src_uri.endswith(".md")


def _linked_sources(root: Path, pages: list[str]) -> set[str]:
    """Return the files and folders that pages link and that the site has under source/."""
    linked = {path for page in pages for path in _targets(root, page)}
    sources = {path for path in linked if site_path(path).startswith("source/")}
    folders = [path for path in sources if (root / path).is_dir()]
    within = [str(f.relative_to(root)) for folder in folders for f in _listed(root / folder)]
    sources |= {path for path in within if site_path(path).startswith("source/")}
    return {path for path in sources if (root / path).exists()}  # the others end in a warning


def _targets(root: Path, page: str) -> Iterator[str]:
    text = (root / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        cells = nbformat.reads(text, as_version=4).cells
        text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for link in LINK.findall("".join(CODE.split(text)[::2])):
        target = target_of(link, page)
        if target:
            yield target


def _listed(folder: Path) -> list[Path]:
    """Return the files of a folder that its page lists."""
    return sorted(path for path in folder.iterdir() if path.suffix in LANGUAGES or _has_page(path))


def _has_page(path: Path) -> bool:
    return path.suffix == ".ipynb"


def _source_page(root: Path, path: str) -> str:
    """Return the page of a file or of a folder, which no search finds."""
    head = f"---\ntitle: {path}\nhide: [toc]\nsearch: {{exclude: true}}\n---\n\n# {path}\n\n"
    here, file = posixpath.dirname(site_path(path)), root / path
    if file.is_dir():
        paths = [str(inner.relative_to(root)) for inner in _listed(file)]
        return head + "\n".join(f"- [{p}]({posixpath.relpath(site_path(p), here)})" for p in paths)
    text = file.read_text(encoding="utf-8")
    return f"{head}`````{LANGUAGES.get(file.suffix, 'text')}\n{text}\n`````\n"


# --- links ----------------------------------------------------------------------------------------


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to where their targets are on the site."""
    uri = page.file.src_uri
    if uri.endswith(".ipynb") or uri.startswith(("source/", "reference/")):
        return markdown
    if uri.startswith("results/"):
        page.meta |= {"search": {"exclude": True}, "hide": ["toc"]}
        markdown = f"# {uri}\n\n{markdown}"
    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(lambda link: site_link(link[1], uri), part) for part in parts[::2]]
    return "".join(parts)


def site_link(link: str, uri: str) -> str:
    """Return a link of the page at `uri`, as it is in the repository, as the site has it."""
    target = target_of(link, repository_path(uri))
    return link if target is None else posixpath.relpath(site_path(target), posixpath.dirname(uri))
