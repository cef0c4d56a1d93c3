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


def environment() -> dict:
    """The versions and the git commit that a result comes from."""
    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "git_commit": _git_commit(),
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
    parts = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value != field.default and field.name != "resume":
            flag = f"--{field.name}" if value is not False else f"--no-{field.name}"
            parts.append(flag if isinstance(value, bool) else f"{flag} {shlex.quote(str(value))}")
    return " ".join([f"python scripts/{_script(config)}.py", *parts])


def _script(config: Options) -> str:
    return Path(inspect.getfile(type(config))).stem


def _git_commit() -> str | None:
    """The commit of the source, with "-dirty" where files differ from it;

    None outside a checkout.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
