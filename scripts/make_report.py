"""Write the report on structure, training and analysis of every network, as HTML and as PDF.

    python scripts/make_report.py --out runs/report        # or: make report
    python scripts/make_report.py --name "Ada Lovelace" --student-number 12345678

Its text is that of scripts/report/text, its numbers come from results/, each with the command that
wrote it. A part whose result file is missing is trained in small, and the report says so. Only the
interactive figure always shows networks that this command trains.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets.core.report.document import Document
from purenets.core.report.html import to_html
from purenets.core.report.typst import compiler, write_pdf
from purenets.core.runs.command import command
from purenets.core.runs.files import folder_at, write_atomically
from purenets.core.runs.options import (
    Options,
    file_path,
    not_negative,
    option,
)
from scripts import run_quick
from scripts.report import assemble
from scripts.shared import result_files

ROOT = Path(__file__).parents[1]


def digits_or_nothing(text: str) -> str | None:
    """Check a student number; an empty one is allowed."""
    good = not text or (text.isascii() and text.isdecimal())
    return None if good else "the digits of a student number, as 12345678"


@dataclass(frozen=True)
class Config(Options):
    """Write the report as HTML and PDF."""

    out: str = option("runs/report", "folder for report.html and report.pdf", file_path)
    results: str = option(
        str(ROOT / "results"), "folder with what the experiments found", file_path
    )
    name: str = option("", "yours, for the title page")
    student_number: str = option("", "yours, for the title page", digits_or_nothing)
    seed: int = option(0, "of what is trained here", not_negative)
    pdf: bool = option(True, "write report.pdf too (needs the package typst)")


def main(config: Config) -> Document:
    """Write the report; return it as a document."""
    folder = folder_at(config.out)
    if config.pdf:
        compiler()
    document = make(config)
    write(document, folder, config.pdf)
    return document


def write(document: Document, folder: Path, pdf: bool = True) -> None:
    """Write the report as report.html, and as report.pdf if `pdf`, to a folder.

    The page comes first: matplotlib's layout of a figure depends a little on what it was drawn as
    before, so only one order gives the same bytes.
    """
    write_atomically(folder / "report.html", to_html(document).encode())
    print(f"{folder / 'report.html'}")
    if pdf:
        write_pdf(document, folder / "report.pdf")
        print(f"{folder / 'report.pdf'}")


def make(config: Config) -> Document:
    """Return the report as a document."""
    quick = run_quick.Config(out=config.out, seed=config.seed)
    return assemble.document(result_files.load(config.results), quick, byline(config))


def byline(config: Config) -> list[str]:
    """Return the lines below the title: name and student number, if given."""
    number = f"Student number {config.student_number}" if config.student_number else ""
    return list(filter(None, (config.name, number)))


if __name__ == "__main__":
    command(Config, main)
