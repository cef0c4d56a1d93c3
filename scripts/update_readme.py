"""Put the tables of results/*.md into README.md and docs, between `<!-- results/NAME.md -->` and
`<!-- end -->`.

python scripts/update_readme.py
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import UserError
from purenets.core.runs.command import command
from purenets.core.runs.files import write_atomically
from purenets.core.runs.options import (
    Options,
    file_path,
    option,
)
from scripts.shared import result_files

PAGES = ("README.md", "docs/reliability.md")
BLOCK = re.compile(r"(<!-- (results/[\w.]+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Config(Options):
    """Put the tables of results/ into README.md and docs."""

    root: str = option(str(Path(__file__).parents[1]), "the folder of README.md", file_path)


def filled(text: str, root: Path) -> str:
    """Return the text with every block holding its file's tables.

    Raises:
        UserError: a file is missing, or is a draft.
    """

    def fill(block: re.Match) -> str:
        path = root / block[2]
        if not path.exists():
            raise UserError(f"{path}: named in a page, but it does not exist")
        result_files.read(path.with_suffix(".json"))  # refuses a draft
        return f"{block[1]}\n{path.read_text(encoding='utf-8')}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main(config: Config) -> None:
    root = Path(config.root)
    for page in PAGES:
        write_atomically(
            root / page, filled((root / page).read_text(encoding="utf-8"), root).encode()
        )


if __name__ == "__main__":
    command(Config, main)
