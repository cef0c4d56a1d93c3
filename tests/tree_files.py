"""The files of this tree, for tests that work on a copy of it."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (
    *("purenets", "core", "numpy_nets", "torch_nets", "scripts", "benchmarks", "tests"),
    *("docs", "results", "notebooks"),
)


def checked_in_files() -> list[str]:
    """Return the files that git has or does not ignore; without git, those of all folders."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        names = done.stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        parts = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*")]
        names = [str(path.relative_to(ROOT)) for path in [*parts, *ROOT.glob("*.*")]]
    names = [name for name in names if name and "__pycache__" not in name]
    return sorted(name for name in names if (ROOT / name).is_file())
