"""Where a result comes from: versions, git commit, machine and command."""

import dataclasses
import functools
import importlib.metadata
import inspect
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from purenets.core.base import UserError
from purenets.core.processor import cpu_info
from purenets.core.runs.options import Options

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().relative_to(ROOT).as_posix()
OUTPUTS = ("results", "notebooks", "docs/figures")  # written by runs and read by none of them
DIRTY = "-dirty"
INTERACTIVE = "interactive"  # the name of a script that is no file


def environment() -> dict:
    """Return the versions and the git commit that a result comes from.

    Returns:
        "python", the version; "versions", those of torch, torchvision, numpy and scikit-learn by
        name, None for a package that is not installed; and "git_commit", as `origin` has it.

    Example:
        >>> from purenets import runs
        >>> sorted(runs.environment())
        ['git_commit', 'python', 'versions']
    """
    packages = ("torch", "torchvision", "numpy", "scikit-learn")
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
        "git_commit": git_commit(),
    }


def machine() -> dict:
    """Return what a table says of the machine: processor, cores and system; first of all the GPU,
    where this process uses one.

    Returns:
        One entry, "machine", a text.

    Example:
        >>> from purenets import runs
        >>> list(runs.machine())
        ['machine']
    """
    host = f"{_processor()}, {os.cpu_count()} cores, {platform.system()}"
    return {"machine": ", ".join([*_gpus(), host])}


def origin() -> dict:
    """Return what every row of a result names: the commit and the machine.

    Returns:
        "git_commit", with "-dirty" at its end if files differ from the commit, None outside of a
        checkout of this repository; and "machine", a text.

    Example:
        >>> from purenets import runs
        >>> sorted(runs.origin())
        ['git_commit', 'machine']
    """
    return {"git_commit": git_commit(), **machine()}


def command_line(config: Options) -> str:
    """Return the command that gives the same results again.

    Args:
        config: the options of a script.

    Returns:
        `python scripts/NAME.py` with the options that differ from their defaults or from their
        preset; `--resume` is never one of them.

    Raises:
        UserError: `config` does not derive from `Options`.

    Example:
        >>> from purenets import runs
        >>> from scripts.train_mlp_numpy import Config
        >>> runs.command_line(Config(optimizer="adam", dnn_hidden_units=(100, 50)))
        'python scripts/train_mlp_numpy.py --dnn_hidden_units 100,50 --optimizer adam'
    """
    if not isinstance(config, Options):
        raise UserError(f"command_line: config is a {type(config).__name__}, needs Options")
    texts, preset = config.to_dict(), preset_of(config)
    own = getattr(config, "preset", "")
    parts = [f"--preset {shlex.quote(own)}"] if own else []
    for field in dataclasses.fields(config):
        value, text = getattr(config, field.name), str(texts[field.name])
        differs = value != field.default or value != getattr(preset, field.name)
        if differs and value is not None and field.name not in ("preset", "resume"):
            flag = f"--{field.name}" if value is not False else f"--no-{field.name}"
            parts.append(flag if isinstance(value, bool) else f"{flag} {shlex.quote(text)}")
    return " ".join([f"python scripts/{script_of(config)}.py", *parts])


def preset_of(config: Options) -> Options:
    """Return what all options of a script begin with: those of `--preset`, which is the first one
    where it is not given; the config itself if the script has no presets."""
    presets = getattr(sys.modules.get(type(config).__module__), "PRESETS", {})
    name = getattr(config, "preset", None) or next(iter(presets), None)
    return presets.get(name, config)


def script_of(config: Options) -> str:
    """Return the name of the script that a Config belongs to."""
    try:
        return Path(inspect.getfile(type(config))).stem
    except (OSError, TypeError):  # defined at a prompt or in a notebook, which have no file
        return INTERACTIVE


@functools.cache  # the code of a process is that of its start
def git_commit() -> str | None:
    """Return the commit of the source, with "-dirty" if `changed_files` has any.

    None outside of a checkout of this repository, and where git is not installed. A copy that is
    installed or unpacked within another project's checkout has no part in its commits.
    """
    commit = _head()
    return commit and commit + (DIRTY if changed_files() else "")


def changed_files() -> list[str]:
    """Return the files of this checkout that differ from the commit or are not in it.

    Ignored files do not count, nor what lies in OUTPUTS. None differs outside of a checkout.
    """
    if _head() is None:
        return []
    excluded = (f":(exclude){folder}" for folder in OUTPUTS)
    status = ("--no-optional-locks", "status", "--porcelain", "--no-renames", "-z")
    found = _git(*status, "--", ".", *excluded)
    return [entry[3:] for entry in (found or "").split("\0") if entry]


def _head() -> str | None:
    found = _git("rev-parse", "--show-toplevel", "HEAD")
    if found is None:
        return None
    top, commit = found.splitlines()
    if Path(top).resolve() != ROOT:
        return None  # unpacked or installed somewhere below another repository
    # or right at its top: then our files are none of its own
    return commit if _git("ls-files", "--error-unmatch", "--", HERE) is not None else None


def _git(*arguments: str) -> str | None:
    """Return what git prints, or None if it fails."""
    # GIT_DIR and the like are of whoever calls, such as a hook of another project
    kept = ("GIT_CEILING_DIRECTORIES", "GIT_CONFIG")
    own = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k.startswith(kept)}
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, env=own, capture_output=True, text=True, check=True
        )
    except (OSError, ValueError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _processor() -> str:
    """Return the processor's name, with family and model where the system tells them."""
    info = cpu_info()
    name = info.get("model name") or platform.processor() or platform.machine()
    if "cpu family" not in info or "model" not in info:
        return name
    return f"{name} (family {info['cpu family']}, model {info['model']})"


def _gpus() -> list[str]:
    """Return the name of the GPU of this process; [] where none is in use."""
    torch = sys.modules.get("torch")  # without it there is none
    in_use = torch is not None and torch.cuda.is_initialized()
    return [torch.cuda.get_device_name()] if in_use else []


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
