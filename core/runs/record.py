"""`config.json`: the options that a run was begun with, and all commands that went on with it."""

from pathlib import Path

from purenets.core.base import UserError
from purenets.core.runs import rotation
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.notes import warn
from purenets.core.runs.options import Options
from purenets.core.runs.provenance import command_line, environment, script_of

NAME = "config.json"
LENGTHS = ("max_steps", "train_steps")
FREE = ("out", "results", "resume", "keep", *LENGTHS)  # may differ between a run and its resumption
PLACE = {"python": (str, None), "versions": ({str: (str, None)}, None), "git_commit": (str, None)}
SCHEMA = {"script": str, "config": {str: (str, int, float, bool, None)}}
RESTORE = "restore it or name another folder"


def read_config(folder: Path) -> dict:
    """Return the content of a folder's `config.json`, checked."""
    found = read_json(Path(folder) / NAME, SCHEMA, restore=RESTORE)
    about = {name: found.get(name) for name in (*PLACE, "processes")}
    return found | about | {"commands": found.get("commands", [])}


def begin_or_resume(config: Options, folder: Path, processes: int) -> None:
    """Write `config.json`, or check it and add the command that goes on with the run."""
    about = {"script": script_of(config), "config": config.to_dict()}
    here = {"command": command_line(config), **environment(), "processes": processes}
    path = folder / NAME
    if not path.exists():
        if rotation.any_checkpoint(folder):
            raise UserError(
                f"--out {folder}: holds a checkpoint but no {NAME}; name another folder"
            )
        write_json(path, {**about, **here, "commands": [here]})
        return
    before = _named(folder)
    if not config.resume:
        raise UserError(
            f"--out {folder}: holds a run; go on with it by --resume, or name another folder"
        )
    check_same(folder, before, about)
    _check_length(folder, config, before["config"])
    _tell_differences(folder, before, here)
    write_json(path, before | {"commands": [*before["commands"], here]})


def check_same(folder: Path, before: dict, about: dict) -> None:
    """Raise a UserError that names what of script and options differs from the run in a folder."""
    old, new = (
        {"script": a["script"]} | {f"--{k}": v for k, v in a["config"].items() if k not in FREE}
        for a in (before, about)
    )
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            raise UserError(
                f"--out {folder}: holds a run with {name} {old.get(name)}, not {new.get(name)}"
            )


def _named(folder: Path) -> dict:
    try:
        return read_config(folder)
    except UserError as error:
        raise UserError(f"--out {folder}: {error}") from error


def _check_length(folder: Path, config: Options, old: dict) -> None:
    """Refuse another length where the schedule is made for the first; tell of a shorter one."""
    for name in LENGTHS:
        before, now = old.get(name), getattr(config, name, None)
        if before == now or before is None or now is None:
            continue
        reason = config.needs_length()
        if reason:
            raise UserError(
                f"--{name} {now}: the run in {folder} was begun with {before}, and {reason} "
                f"depends on it; go on with --{name} {before}, or name another --out"
            )
        if type(before) in (int, float) and now < before:
            warn(f"--{name} {now}: the run in {folder} was begun with {before}")


def _tell_differences(folder: Path, before: dict, here: dict) -> None:
    """Warn of what may change the last bits: versions, the commit, the number of processes."""
    last = (before["commands"] or [before])[-1]
    last = last if isinstance(last, dict) else before
    old, new = _facts(last), _facts(here)
    changed = [
        f"{name} {old[name]}, not {new[name]}"
        for name in new
        if old.get(name) not in (None, new[name])
    ]
    if changed:
        warn(
            f"--out {folder}: the run so far is of {'; '.join(changed)}: it may not end with the "
            "same bits"
        )


def _facts(about: dict) -> dict:
    versions = about.get("versions") or {}
    return {
        **{name: about.get(name) for name in ("processes", "python")},
        **(versions if isinstance(versions, dict) else {}),
        "commit": about.get("git_commit"),
    }
