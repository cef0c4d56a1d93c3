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
from purenets.core.runs.json_files import read_json
from purenets.core.runs.options import Options, option

PAGES = ("README.md", "docs/reliability.md")
BLOCK = re.compile(r"(<!-- (results/[\w.]+\.md) -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Config(Options):
    """Put the tables of results/ into README.md and docs."""

    root: str = option(str(Path(__file__).parents[1]), "the folder of README.md")


def origin(path: Path) -> str:
    """Where the table comes from: the machine, n and the commit that its JSON names."""
    about = read_json(path.with_suffix(".json"), {"machine": str, "git_commit": str, "n?": int})
    n = f"n = {about['n']}; " if "n" in about else ""
    return f"*{about['machine']}; {n}commit {about['git_commit'][:10]}.*\n"


def filled(text: str, root: Path) -> str:
    """The text with every block holding its file's content."""

    def fill(block: re.Match) -> str:
        path = root / block[2]
        if not path.exists():
            raise UserError(f"{path}: named in a page, but it does not exist")
        return f"{block[1]}\n{path.read_text()}\n{origin(path)}\n{block[3]}"

    return BLOCK.sub(fill, text)


def main(config: Config) -> None:
    root = Path(config.root)
    for page in PAGES:
        write_atomically(root / page, filled((root / page).read_text(), root).encode())


if __name__ == "__main__":
    command(Config, main)
