"""The origin of the results in the report, and the replacement for missing ones."""

import re
import shlex
from collections.abc import Callable, Sequence

from purenets.core.report.document import Block, Section
from purenets.core.report.tables import Table
from purenets.core.runs.files import folder_at
from purenets.core.runs.options import Options
from scripts import run_quick
from scripts.report.prose import sections
from scripts.shared.comparison import MEAN_SE
from scripts.shared.result_files import ORIGIN, origin_cells
from scripts.shared.sweeps import MEAN_SD

OPTIONS = ("noise", "optimizer", "batch")  # columns that are left out where they say nothing
SHOWN = (
    *("part1_sets", "part1_strategies", "part1_noise", "part1_shuffled", "part1_cifar10"),
    *(
        "benchmarks_cifar10",
        "part1_cifar10_ablation",
        "part2_settings",
        "rnn_lengths",
        "rnn_holdout",
        "rnn_states",
    ),
    *("rnn_settings", "rnn_memory_why", "rnn_memory", "rnn_memory_T500"),
)
EXPLAINED = re.compile(rf" \(({re.escape(MEAN_SD)}|{re.escape(MEAN_SE)})\)")  # behind a header
SCIENTIFIC = re.compile(r"([-+]?\d\.\d)e([-+]\d+)")
SUPERSCRIPTS = "\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079"
FILE_FLAGS = ("--out", "--results")  # they only say where files go


def compact(table: Table) -> Table:
    """Return a table of results as the report shows it.

    It leaves out commits and machines, which the appendix names, empty columns, and options that
    are the same in all rows. Headers do not name the kind of deviation, which the caption does.
    Numbers of a column with a very small or large one are written with powers of ten, all of them.
    """
    head, *body = table.rows
    kept = [
        i
        for i, name in enumerate(head)
        if name not in ORIGIN
        and any(row[i] for row in body)
        and not (name in OPTIONS and len({row[i] for row in body}) == 1)
    ]
    short = [EXPLAINED.sub("", name) for name in head]
    columns = [same_powers(column) for column in zip(*body, strict=True)]
    shown = [short, *zip(*columns, strict=True)]
    return table._replace(rows=[[row[i] for i in kept] for row in shown])


def same_powers(column: Sequence[str]) -> list[str]:
    """Return the cells of a column without e-notation: if one has a power of ten, all have.

    >>> same_powers(["1.4e-04", "4.5e+00"]), same_powers(["4.5e+00", ""])
    (['1.4 \u00d7 10\u207b\u2074', '4.5 \u00d7 10\u2070'], ['4.5', ''])
    """
    texts = [in_powers(cell) for cell in column]
    if not any("\u00d7 10" in text for text in texts):
        return texts
    return [in_powers(cell, plain=range(0)) for cell in column]


def in_powers(cell: str, plain: range = range(2)) -> str:
    """Return a cell with its number as it is printed, without e-notation.

    Numbers with an exponent in `plain` have no power of ten.

    >>> in_powers("1.4e-04"), in_powers("4.5e+00"), in_powers("1.4 \u00b1 0.2")
    ('1.4 \u00d7 10\u207b\u2074', '4.5', '1.4 \u00b1 0.2')
    """
    found = SCIENTIFIC.fullmatch(cell)
    if not found:
        return cell
    digits, exponent = found[1], int(found[2])
    if exponent in plain:
        return f"{float(cell):.{1 - exponent}f}"
    raised = str(exponent).translate(str.maketrans("-0123456789", SUPERSCRIPTS))
    return f"{digits} \u00d7 10{raised}"


def parsed(config: type[Options], found: dict) -> Options:
    """Return the options of the command that a results file comes from."""
    return config.parse(shlex.split(found["command"])[2:])


def origins(found: dict[str, dict]) -> list[str]:
    """Return a paragraph for each results file that is shown, with its command and origin."""
    texts = []
    for name in SHOWN:
        if name in found:
            content = found[name]
            parts = content.get("rows") or content.get("cells") or [content]
            command = content.get("command") or parts[0].get("command", "")
            commits, machines = origin_cells(parts)
            where = f"`results/{name}.json` (commit {commits}; {machines})"
            texts.append(f"{where}: `{short(command)}`{others(parts, content)}.")
    return texts


def others(rows: list[dict], content: dict) -> str:
    """Return how many more commands a file names, if each run has its own; else ""."""
    n = len(rows) - 1
    if "command" in content or not n:
        return ""
    return f", and {n} more {'run' if n == 1 else 'runs'}, whose commands the file names"


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
    """Return the blocks of a quick run of a part."""
    folder_at(config.out)
    return list(part(config).blocks)
