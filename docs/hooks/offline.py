"""A search that needs no server: it reads a script, since a page on the disk may fetch no file."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority


@event_priority(-100)  # after the search index is written
def on_post_build(config: MkDocsConfig) -> None:
    """Write the search index as a script beside the JSON file."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    script = f"var __index = {index.read_text(encoding='utf-8')}"
    index.with_suffix(".js").write_text(script, encoding="utf-8")
