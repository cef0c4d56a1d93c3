"""Where a result of the report comes from, and what stands in for one that is missing."""

from collections.abc import Callable

from purenets.core.report.document import Block, Section
from purenets.core.runs.files import folder_at
from scripts import run_quick
from scripts.report.prose import sections

FILE_FLAGS = ("--out", "--results")  # they only say where files go


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
