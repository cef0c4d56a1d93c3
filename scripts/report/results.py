"""The result files that the report is made of, and what stands in for one that is missing."""

from collections.abc import Callable
from pathlib import Path

from purenets import UserError
from purenets.core.report.document import Block, Section
from purenets.core.runs.files import folder_at
from purenets.core.runs.json_files import read_json
from scripts import run_quick
from scripts.report.prose import sections
from scripts.shared.schemas import of_results

FILE_FLAGS = ("--out", "--results")  # they only say where files go


def load(folder: str) -> dict[str, dict]:
    """Return the content of every JSON file in a folder, by its name without suffix."""
    try:
        paths = sorted(path for path in Path(folder).iterdir() if path.suffix == ".json")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--results {folder}: cannot be read ({reason})") from error
    return {path.stem: read_json(path, of_results(path.stem)) for path in paths}


def source(found: dict) -> str:
    """Return where a result comes from, for a caption: command, number of seeds and machine."""
    return f"`{short(found['command'])}`, n = {found['n']}, {found['machine']}."


def short(command: str) -> str:
    """Return a command without the flags that only say where files go."""
    words = command.split()
    pairs = zip(["", *words], words, strict=False)
    return " ".join(word for last, word in pairs if not {last, word} & set(FILE_FLAGS))


def in_small(part: Callable[[run_quick.Config], Section], config: run_quick.Config) -> list[Block]:
    """Return the blocks of a quick run, below a note that the results are missing."""
    (section,) = sections("missing", {"quick": quick_run(part, config)})
    return list(section.blocks)


def quick_run(part: Callable[[run_quick.Config], Section], config: run_quick.Config) -> list[Block]:
    """Return the blocks of a quick run."""
    folder_at(config.out)
    return list(part(config).blocks)
