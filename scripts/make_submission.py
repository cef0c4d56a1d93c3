"""Make the archive to hand in, NUMBER_assignment2.zip: code, notebooks, results and report.

    python scripts/make_submission.py --student-number 12345678  # or: make submission

The archive has no data, caches or checkpoints, and the same files give the same bytes in the same
environment; its report is that of `make report`. Before it is written, it is unpacked into an empty
folder and its quick path runs there.
"""

import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from an unpacked copy without install

from purenets import UserError
from purenets.core.report.typst import compiler
from purenets.core.runs.command import command
from purenets.core.runs.files import folder_at, write_atomically
from purenets.core.runs.options import (
    Options,
    file_path,
    option,
)
from scripts import make_report

ROOT = Path(__file__).parents[1]
FOLDERS = (
    "purenets",
    "core",
    "numpy_nets",
    "torch_nets",
    "scripts",
    "notebooks",
    "docs",
    "results",
    "tests",
    "benchmarks",
)
FILES = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff"),
    *("Makefile", "setup.cfg", "pyproject.toml", "ruff.toml", "mkdocs.yml"),
)
SUFFIXES = (
    *(".py", ".ipynb", ".md", ".json", ".csv", ".typed"),
    *(".png", ".svg", ".css", ".js", ".html"),
)
LONGEST = 1800  # seconds for the quick path

FIRST = """\
# Assignment 2, student {number}

- `report.pdf`: the report (`report.html` is the same page for a browser)
- `notebooks/`: the experiments, executed: `part1_mlp`, `part1_cifar10`, `part2_cnn`, `part3_rnn`,
  and `functional_tour` beyond the assignment
- `docs/assignment.md`: every sentence of the assignment with its command, code and result

| file of the assignment | where it is | run |
|---|---|---|
{files}

`MLPModule`, `CNNModule` and `VanillaRNNModule` in these files are the networks as the skeletons
call them; `docs/assignment.md` shows how.

    make run       # own venv, install, then the whole assignment in small: minutes
    make notebook  # open the notebooks
    make report    # the report again, from results/: a minute or two
    make test      # all tests

`make submission STUDENT={number}` makes this archive again, in some minutes on two CPU
cores, since it runs the assignment in small too. The first command also installs packages.

Without `make`, `python -m pip install --editable .` installs the packages. In a Python environment
that has those of `setup.cfg`, the scripts run without an install and without a network:
`python scripts/run_quick.py`, and each script above; a bar shows the time left. The notebooks need
Jupyter too, and the report as PDF needs typst:
`python -m pip install --editable ".[notebooks,report]"`. In the table
above, the CNN trains on scikit-learn's digits. With CIFAR-10 in `data/`, as the assignment asks
for, it takes much longer: `python scripts/cnn_train.py --learning_rate 1e-3`. Without CIFAR-10 the
notebooks on images run in quick mode.

Code, notebooks, results and the texts of the report are the work of the purenets authors
(`LICENSE`: MIT; `CITATION.cff`), and the student's own only as far as the student is one of them.
The papers and the public code that they follow are named in the report's references and in the
docstrings.
"""
DIGITS = "--data digits --max_steps 200"
SEVEN = {
    "pytorch_mlp.py": ("torch_nets", ""),
    "pytorch_train_mlp.py": ("scripts", ""),
    "cnn_model.py": ("torch_nets", ""),
    "cnn_train.py": ("scripts", f" {DIGITS}"),
    "dataset.py": ("torch_nets", ""),
    "vanilla_rnn.py": ("torch_nets", ""),
    "train.py": ("scripts", " --input_length 4"),
}


def student_number(text: str) -> str | None:
    good = text.isascii() and text.isdecimal()
    return None if good else "the digits of a student number, as 12345678"


@dataclass(frozen=True)
class Config(Options):
    """Make the archive to hand in."""

    student_number: str = option("", "yours: it names the archive", student_number)
    name: str = option("", "yours, for the title page of the report")
    out: str = option(".", "folder for the archive", file_path)
    check: bool = option(True, "unpack the archive and run its quick path before it is done")


def main(config: Config) -> Path:
    """Make, check and write the archive; return its path."""
    top = f"{config.student_number}_assignment2"
    path = folder_at(config.out) / f"{top}.zip"
    compiler()
    report = made_report(config)
    first = {"READ_ME_FIRST.md": read_me_first(config.student_number).encode()}
    content = packed(
        {
            f"{top}/{name}": data
            for name, data in sorted({**first, **report, **dict(files())}.items())
        }
    )
    if config.check:
        check(content, top)
    write_atomically(path, content)
    print(f"{path}: {len(content) / 1e6:.1f} MB" + (", its quick path ran" if config.check else ""))
    return path


def read_me_first(number: str) -> str:
    """Return the overview page, with a table of the files that the assignment names."""
    rows = []
    for name, (folder, flags) in SEVEN.items():
        command = f"`python {folder}/{name}{flags}`" if folder == "scripts" else ""
        rows.append(f"| `{name}` | `{folder}/{name}` | {command} |")
    return FIRST.format(number=number, files="\n".join(rows))


def made_report(config: Config) -> dict[str, bytes]:
    """Return the report as PDF and HTML, by file name; its title page has the student number."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"name": config.name, "student_number": config.student_number}
        document = make_report.make(make_report.Config(out=folder, **own))
        make_report.write(document, Path(folder))  # as `make report` does: the same bytes
        return {path.name: path.read_bytes() for path in Path(folder).glob("report.*")}


def files(root: Path = ROOT) -> Iterator[tuple[str, bytes]]:
    """Yield the files to hand in, each as its path below the root and its content."""
    paths = [root / name for name in FILES]
    for folder in FOLDERS:
        paths += [path for path in (root / folder).rglob("*") if path.suffix in SUFFIXES]
    for path in paths:
        name = path.relative_to(root)
        hidden = any(part.startswith((".", "__pycache__")) for part in name.parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield name.as_posix(), path.read_bytes()


def packed(contents: dict[str, bytes]) -> bytes:
    """Return a ZIP archive of these files, in their order, without times and user names."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            file.writestr(entry, data)
    return archive.getvalue()


def check(content: bytes, top: str) -> None:
    """Unpack the archive into an empty folder and run its quick path there.

    Raises:
        UserError: the quick path fails.
    """
    print("unpacking the archive and running its quick path ...", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
        place = Path(folder) / top
        own_code = {**os.environ, "PYTHONPATH": str(place)}  # whatever is installed
        command = [sys.executable, "scripts/run_quick.py", "--out", "runs/quick"]
        try:
            done = subprocess.run(
                command,
                cwd=place,
                env=own_code,
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST,
            )
        except subprocess.TimeoutExpired:
            raise UserError(
                f"the archive is not written: its quick path takes more than {LONGEST} s; "
                "run it again when the machine is less busy, or with --no-check"
            ) from None
        if done.returncode or not (place / "runs" / "quick" / "report.html").exists():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise UserError(f"the archive is not written: its quick path fails ({last})")


if __name__ == "__main__":
    command(Config, main)
