"""The documentation site: built without a warning, whole, and readable without a network."""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest
from filelock import FileLock

import purenets
from purenets import numpy_nets, optim, torch_nets
from purenets.torch_nets import layers

ROOT = Path(__file__).parents[1]
NEEDED = ("mkdocs", "material", "mkdocstrings", "mkdocs_jupyter")
VISITED = {
    "start": "index.html",
    "how to": "how_to/own_layer.html",
    "reference": "reference/purenets/optim-optimizers.html",
    "results": "results.html",
    "notebook": "notebooks/part3_rnn.html",
}
LOADING = {(tag, "src") for tag in ("script", "img", "iframe", "source")} | {("link", "href")}

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"needs {', '.join(missing)}: pip install -e '.[docs]'"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Return the folder of the site, built once for all processes of these tests."""
    shared = tmp_path_factory.getbasetemp().parent
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    folder = shared / f"site-{run}"
    with FileLock(shared / f"site-{run}.lock"):
        if not folder.exists():
            command = ["-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
            done = subprocess.run(
                [sys.executable, *command],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Parts(HTMLParser):
    """What a page loads, links and can be linked by."""

    def __init__(self, text: str):
        super().__init__()
        self.loaded, self.links, self.anchors = [], [], {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values.get("id"), values.get("name")}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag == "link" and values.get("rel") in ("canonical", "next", "prev", "edit"):
            self.links.append(values["href"])
            return
        self.loaded += [value for name, value in attrs if (tag, name) in LOADING]


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Parts]:
    return {path: Parts(path.read_text()) for path in site.rglob("*.html")}


def test_nothing_is_loaded_from_another_host(site, pages):
    for path, parts in pages.items():
        assert not [url for url in parts.loaded if re.match(r"(https?:)?//", url)], path
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def test_every_link_leads_to_a_page_and_its_anchor(site, pages):
    assert len(pages) > 60
    wrong = []
    for path, parts in pages.items():
        if path.name == "404.html":  # served from anywhere: its links are absolute
            continue
        for link in parts.links:
            if re.match(r"\w+:", link):
                continue
            address, anchor = urldefrag(unquote(link))
            target = (path.parent / address).resolve() if address else path
            known = pages[target].anchors if target in pages else {""}
            if not target.is_file() or anchor not in known:
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert not wrong


def test_every_public_name_has_its_place_in_the_reference(site, pages):
    reference = [parts for path, parts in pages.items() if site / "reference" in path.parents]
    named = {str(anchor).rpartition(".")[2] for parts in reference for anchor in parts.anchors}
    for door in (purenets, numpy_nets, torch_nets, optim, layers):
        names = {name for name in door.__all__ if not inspect.ismodule(getattr(door, name))}
        assert names <= named, door.__name__


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("path", VISITED.values(), ids=VISITED)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_a_page_fits_and_has_the_colors_of_the_system(site, visit, path, width, scheme):
    tab = visit(site / path, width, scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert tab.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    colors = tab.evaluate(
        "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    )
    paper, ink = (sum(map(int, re.findall(r"\d+", color)[:3])) for color in colors)
    assert (paper < ink) == (scheme == "dark")


@pytest.mark.slow
def test_the_search_finds_a_function_on_a_page_from_the_disk(site, visit):
    tab = visit(site / "index.html")
    tab.click(".md-search__input")
    tab.locator(".md-search__input").press_sequentially("schedule_free_adamw")
    tab.wait_for_selector(".md-search-result__link")
    links = tab.eval_on_selector_all(".md-search-result__link", "links => links.map(a => a.href)")
    assert any("reference/" in link for link in links)


def test_formulas_are_mathml(site):
    for name, least in {"how_to/own_layer.html": 3, "notebooks/part3_rnn.html": 10}.items():
        text = re.sub(
            r"<(script|style|pre).*?</\1>", "", (site / name).read_text(), flags=re.DOTALL
        )
        assert text.count("<math") >= least
        assert not re.search(r"\\\(|\$[^$<]+\$", text)
