"""Where a result comes from: versions, git commit, machine and command."""

import dataclasses
import importlib.metadata
import inspect
import os
import platform
import shlex
import subprocess
from pathlib import Path

from purenets.core.runs.options import Options

ROOT = Path(__file__).parents[2]  # of a checkout


def environment() -> dict:
    """The versions and the git commit that a result comes from."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "git_commit": git_commit(),
    }


def machine() -> dict:
    """What a figure's text says of the machine: processor, cores, system."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if "model name" in line
        ]
        name = names[0] if names else name
    return {"machine": f"{name}, {os.cpu_count()} cores, {platform.system()}"}


def command_line(config: Options) -> str:
    """The command that makes the same results again: only what differs from the defaults."""
    parts, texts = [], config.to_dict()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name != "resume":
            flag = f"--{field.name}" if value is not False else f"--no-{field.name}"
            text = str(texts[field.name])  # of a list as the command line takes it
            parts.append(flag if isinstance(value, bool) else f"{flag} {shlex.quote(text)}")
    return " ".join([f"python scripts/{script_of(config)}.py", *parts])


def script_of(config: Options) -> str:
    """Return the name of the script that a Config belongs to."""
    return Path(inspect.getfile(type(config))).stem


def git_commit(root: Path = ROOT) -> str | None:
    """Return the commit of the source, with "-dirty" where files differ from it.

    None where the source is no checkout of this project: a copy that is installed or unpacked
    within another project's checkout has no part in its commits.

    Args:
        root: the folder of the source, in which `core/runs` lies.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or not _same_folder(Path(top), root):
        return None
    here = Path(__file__).relative_to(ROOT)
    if _git(root, "ls-files", "--error-unmatch", str(here)) is None:
        return None  # it lies there, but the checkout is of something else
    return _git(root, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(root: Path, *command: str) -> str | None:
    """Return what git prints, or None if it fails."""
    # GIT_DIR and the like are of whoever calls, such as a hook of another project
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *command], cwd=root, env=own, capture_output=True, text=True, check=True
        )
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _same_folder(a: Path, b: Path) -> bool:
    try:
        return a.samefile(b)
    except OSError:
        return False


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
