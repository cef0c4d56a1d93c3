"""`config.json`: the options that a run was begun with, and all commands that went on with it."""

from pathlib import Path

from purenets.core.arguments import expect_paths
from purenets.core.base import UserError
from purenets.core.kernel_rules import product_rule_name, use_product_rule
from purenets.core.runs import rotation
from purenets.core.runs.files import LOCK
from purenets.core.runs.json_files import read_json, write_json
from purenets.core.runs.notes import warn
from purenets.core.runs.options import Options
from purenets.core.runs.provenance import (
    DIRTY,
    command_line,
    environment,
    machine,
    origin,
    script_of,
)

NAME = "config.json"
LENGTHS = ("max_steps", "train_steps")
FREE = ("out", "results", "resume", "keep", *LENGTHS)  # may differ between a run and its resumption
ABOUT = ("python", "versions", "git_commit", "machine", "processes")
SCHEMA = {
    "script": str,
    "config": {str: (str, int, float, bool, None)},
    "data?": {str: str},
    "kernels?": {"products": str},
    "git_commit?": (str, None),
    "machine?": (str, None),
    "versions?": ({str: (str, None)}, None),
    "commands?": [dict],
}
RESTORE = "restore it or name another folder"


def read_config(folder: Path) -> dict:
    """Return the content of a run's `config.json`, checked.

    Args:
        folder: the run's folder.

    Returns:
        "script", "config" (the options by name), "commands" (of the start and of each resumption),
        and where the run was recorded: "git_commit", "machine", "versions", "python", "processes",
        None where they are not named.

    Raises:
        UserError: the file is missing, damaged or of another form.

    Example:
        >>> import pathlib, tempfile
        >>> from purenets import runs
        >>> from scripts.train_mlp_numpy import Config
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with runs.open_run(Config(seed=3, out=f"{place}/run")) as folder:
        ...         about = runs.read_config(folder)
        >>> about["script"], about["config"]["seed"]
        ('train_mlp_numpy', 3)
    """
    expect_paths("read_config", folder=folder)
    found = read_json(Path(folder) / NAME, SCHEMA, restore=RESTORE)
    return dict.fromkeys(ABOUT) | {"commands": []} | found


def origin_of(folder: Path) -> dict:
    """Return the commit and the machine of the run in a folder.

    Args:
        folder: the run's folder.

    Returns:
        "git_commit" and "machine" of its `config.json`; those of this process where it names none.

    Raises:
        UserError: `config.json` is missing, damaged or of another form.

    Example:
        >>> import tempfile
        >>> from purenets import runs
        >>> from scripts.train_mlp_numpy import Config
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with runs.open_run(Config(out=f"{place}/run")) as folder:
        ...         runs.origin_of(folder) == runs.origin()
        True
    """
    config = read_config(folder)
    return {name: config[name] or value for name, value in origin().items()}


def begin_or_resume(
    config: Options, folder: Path, processes: int, data: dict[str, str] | None = None
) -> None:
    """Write `config.json`, or check it and add the command that goes on with the run.

    A folder in which nothing was saved, as of a script that failed before, may be begun again. Any
    other folder with files is refused, so that no run overwrites what is not its own.
    """
    about = {"script": script_of(config), "config": config.to_dict()}
    about |= {"data": data} if data else {}
    here = {**environment(), **machine(), "processes": processes}
    entry = {"command": command_line(config), **here}
    path = folder / NAME
    before = _before(folder, config.resume)
    if before is None:
        kernels = {"products": product_rule_name()}
        write_json(path, {**about, "kernels": kernels, **here, "commands": [entry]})
        return
    check_same(folder, before, about)
    check_data(folder, before.get("data", {}), data or {})
    _check_length(folder, config, before["config"])
    use_kernels(folder, before)
    _tell_differences(folder, before, here, getattr(config, "shards", 0))
    commands = [*before["commands"], entry]
    write_json(path, before | {"git_commit": _commit(before, here), "commands": commands})


def _before(folder: Path, resume: bool) -> dict | None:
    """Return the `config.json` of the run to go on with; None where a run may begin."""
    others = _other_files(folder)
    if not (folder / NAME).exists():
        if rotation.any_checkpoint(folder):
            raise UserError(
                f"--out {folder}: holds a checkpoint but no {NAME}; name another folder"
            )
        if others:
            raise UserError(
                f"--out {folder}: holds {others[0]} but no run; a new run needs an empty folder, "
                "so that it overwrites nothing; name another"
            )
        return None
    before = _named(folder)
    if resume:
        return before
    if not others:
        return None  # what `open_run` itself wrote, and nothing that a training did
    raise UserError(
        f"--out {folder}: holds a run; go on with it by --resume, or name another folder"
    )


def holds_no_run(folder: Path) -> bool:
    """Return True for a folder in which no run was ever started, not even one that was killed."""
    return not any((folder / name).exists() for name in (NAME, LOCK))


def _other_files(folder: Path) -> list[str]:
    """Return what a folder holds beside `config.json`, hidden files and folders left out."""
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be read ({error.strerror})") from error
    return [name for name in names if name != NAME and not name.startswith(".")]


def use_kernels(folder: Path, config: dict) -> None:
    """Let this process take the kernels of the run that it resumes.

    A run that was recorded before kernels were has those of this processor.
    """
    try:
        use_product_rule(config.get("kernels", {}).get("products", product_rule_name()))
    except UserError as error:
        raise UserError(f"--out {folder}: its {NAME} names unknown kernels ({error})") from error


def _commit(before: dict, here: dict) -> str | None:
    """Return the commit of a run: where it began, or dirty for good once changed code goes on."""
    now = str(here["git_commit"])
    was = before["git_commit"]
    return now if now.endswith(DIRTY) and not str(was).endswith(DIRTY) else was


def check_same(folder: Path, before: dict, about: dict) -> None:
    """Raise a UserError that names what of script and options differs from the run in a folder."""
    old, new = (
        {"script": a["script"]} | {f"--{k}": v for k, v in a["config"].items() if k not in FREE}
        for a in (before, about)
    )
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if "--preset" in differing and (differing == ["--preset"] or not old.get("--preset")):
        differing.remove("--preset")  # only a name for the values of the others
    if differing:
        name = differing[0]
        was = old.get(name)
        given = f"give {name} {was} or" if name.startswith("--") and was is not None else "name"
        raise UserError(
            f"--out {folder}: holds a run with {name} {was}, not {new.get(name)}; {given} "
            "another --out"
        )


def check_data(folder: Path, before: dict[str, str], data: dict[str, str]) -> None:
    """Raise a UserError that names the data whose digest is not that of the beginning.

    A run that was recorded before digests were is gone on with as it is.
    """
    for name, digest in data.items():
        if before.get(name, digest) != digest:
            raise UserError(
                f"{name}: its content has changed since the run in {folder} was begun; restore "
                "it, or train in another --out"
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


def _tell_differences(folder: Path, before: dict, here: dict, shards: int = 0) -> None:
    """Warn of what may change the last bits: versions, the commit, the number of processes.

    With shards any number of processes computes the same bits.
    """
    last = (before["commands"] or [before])[-1]
    last = last if isinstance(last, dict) else before
    old, new = _facts(last), _facts(here)
    changed = [
        f"{name} {old[name]}, not {new[name]}"
        for name in new
        if old.get(name) not in (None, new[name]) and not (shards and name == "processes")
    ]
    if changed:
        warn(
            f"--out {folder}: the run so far is of {'; '.join(changed)}: it may not end with the "
            "same bits"
        )


def _facts(about: dict) -> dict:
    versions = about.get("versions") or {}
    return {
        **{name: about.get(name) for name in ("processes", "python", "machine")},
        **(versions if isinstance(versions, dict) else {}),
        "commit": about.get("git_commit"),
    }
