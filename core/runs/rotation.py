"""Which checkpoints a run's folder keeps, and the files that follow from the newest one.

`checkpoint.safetensors` is the newest; to rename it into its place is the one moment at which a
save happens. All else follows from it: `checkpoint-STEP.safetensors` of the rows before,
`checkpoint-best.safetensors` of the best row by validation, `checkpoint.json` and `history.csv`.
So whatever a killed process leaves, `settle` makes the folder that the save would have made.
"""

import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from purenets.core.arguments import expect_paths
from purenets.core.base import History, UserError
from purenets.core.runs import checkpoint, history
from purenets.core.runs.checkpoint import NAME, Damaged, Stored
from purenets.core.runs.files import link_atomically, write_atomically
from purenets.core.runs.notes import warn

BEST = "checkpoint-best.safetensors"
OLDER = re.compile(r"checkpoint-(\d+)\.safetensors")
KEEP = 2  # the newest and the one before it
META = {"history": history.check_rows, "sums": {str: float}}


def commit(
    folder: Path, flat: dict[str, Stored], meta: dict[str, Any], keep: int, newest: int | None
) -> int:
    """Save a checkpoint as the newest one; return its step.

    Args:
        folder: the run's folder.
        flat: its arrays; "step" is one of them.
        meta: as META says.
        keep: how many checkpoints to keep, the best one apart.
        newest: the step of the one that it replaces, None if there is none.
    """
    step = step_of(flat)
    saved = {newest, *(before for _, before in older_ones(folder))}
    kept = steps_kept(meta["history"], step, keep, saved)
    if newest in kept and (folder / NAME).exists():  # it stays, under another name
        link_atomically(folder / NAME, older(folder, newest))
    write_atomically(folder / NAME, checkpoint.encoded(flat, meta))
    follow(folder, flat, meta, keep)
    return step


def settle(folder: Path, keep: int = KEEP) -> int | None:
    """Make all files of a run's folder those of its newest good checkpoint.

    A process that was killed may have left some of them behind. If the newest checkpoint is
    damaged, a warning names it and the one before it takes its place. Call it while nobody else
    writes there, as within `open_run`.

    Args:
        folder: the run's folder.
        keep: how many checkpoints to keep, the best one apart.

    Returns:
        The step of the checkpoint; None if there is none.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from purenets import optim, random, runs, train_state
        >>> state = train_state({"w": np.zeros(2)}, {}, optim.sgd(0.1), random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = runs.save(folder, state._replace(step=np.array(7)), [], {})
        ...     (pathlib.Path(folder) / "history.csv").unlink()
        ...     step = runs.settle(folder)
        ...     (pathlib.Path(folder) / "history.csv").exists(), step
        (True, 7)
    """
    expect_paths("settle", folder=folder)
    folder = Path(folder)
    found = first_good(folder)
    if found is None:
        return None
    path, flat, meta = found
    if path.name != NAME:
        link_atomically(path, folder / NAME)
    follow(folder, flat, meta, keep)
    return step_of(flat)


def follow(folder: Path, flat: dict[str, Stored], meta: dict[str, Any], keep: int) -> None:
    """Write what follows from the newest checkpoint, where it is not there yet."""
    rows, step = meta["history"], step_of(flat)
    saved = {of_step: path for path, of_step in older_ones(folder)}
    source = best_of(folder, rows, saved | {step: folder / NAME})
    here, there = checkpoint.digest_of(source), checkpoint.digest_of(folder / BEST)
    if here not in (None, there):
        link_atomically(source, folder / BEST)
    kept = steps_kept(rows, step, keep, saved)
    for of_step, path in saved.items():
        if of_step not in kept:
            path.unlink(missing_ok=True)
    _write_if_other((folder / NAME).with_suffix(".json"), checkpoint.described(flat, meta))
    _write_if_other(folder / "history.csv", history.to_csv(rows).encode())


def best_of(folder: Path, rows: History, saved: dict[int, Path]) -> Path:
    """Return the path of the checkpoint of the best row, among the rows that have one.

    Args:
        folder: the run's folder; its best checkpoint so far counts too.
        rows: the history.
        saved: the other checkpoints by their steps.
    """
    best = folder / BEST
    if best.exists():  # with a damaged header it is taken as what it was, until it can be replaced
        of_best = checkpoint.last_row_of(best)
        saved = {history.best_step(rows) if of_best is None else of_best: best} | saved
    return saved.get(history.best_step([row for row in rows if row["step"] in saved]), best)


def read_history(folder: Path) -> History:
    """Return the rows of a run: those of its newest good checkpoint.

    Args:
        folder: the run's folder.

    Returns:
        A list of dicts of numbers by name; [] if there is no checkpoint.

    Raises:
        UserError: there are checkpoints, and all of them are damaged.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from purenets import optim, random, runs, train_state
        >>> state = train_state({"w": np.zeros(2)}, {}, optim.sgd(0.1), random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     rows = [{"step": 7, "loss": 0.5}]
        ...     _ = runs.save(folder, state._replace(step=np.array(7)), rows, {})
        ...     runs.read_history(folder)
        [{'step': 7, 'loss': 0.5}]
    """
    expect_paths("read_history", folder=folder)
    found = first_good(Path(folder))
    return found[2]["history"] if found else []


def step_of(flat: dict[str, Stored]) -> int:
    """Return how many steps the state of a checkpoint has taken."""
    return int(flat["step"].array)


def steps_kept(rows: History, step: int, keep: int, saved: Container[int]) -> list[int]:
    """Return the steps of the checkpoints to keep beside the one of `step`: the last saved rows'.

    >>> steps_kept([{"step": 0}, {"step": 10}, {"step": 20}, {"step": 30}], 30, 3, {0, 10, 20})
    [10, 20]
    """
    before = [row["step"] for row in rows if 0 < row["step"] < step and row["step"] in saved]
    return before[len(before) - (keep - 1) :] if keep - 1 < len(before) else before


def older(folder: Path, step: int) -> Path:
    """Return the path of the checkpoint of an earlier step."""
    return folder / f"checkpoint-{step}.safetensors"


def older_ones(folder: Path) -> list[tuple[Path, int]]:
    """Return the checkpoints of earlier steps and their steps, the latest first."""
    found = [(path, OLDER.fullmatch(path.name)) for path in folder.glob("checkpoint-*.safetensors")]
    return sorted(((path, int(m[1])) for path, m in found if m), key=lambda pair: -pair[1])


def any_checkpoint(folder: Path) -> bool:
    """Return True if there is a checkpoint, good or not."""
    return next(_candidates(folder), None) is not None


def first_good(folder: Path) -> tuple[Path, dict[str, Stored], dict[str, Any]] | None:
    """Return path, arrays and `meta` of the newest good checkpoint; None if there is none at all.

    Raises:
        UserError: all are damaged.
    """
    wrong: list[UserError] = []
    for path in _candidates(folder):
        try:
            flat, meta = _read(path)
        except Damaged as error:
            wrong.append(error)
            continue
        if path.name != NAME:
            why = str(wrong[0]).split(";")[0] if wrong else f"{folder / NAME}: is missing"
            warn(f"{why}; going on from {path}, of step {step_of(flat)}")
        return path, flat, meta
    if wrong:
        raise wrong[0]
    return None


def best_one(folder: Path) -> Path:
    """Return the path of the checkpoint of the best row by validation.

    Raises:
        UserError: there is none.
    """
    if not (folder / BEST).exists():
        names = " or ".join(name for name, _ in history.VALIDATION)
        raise UserError(f"{folder}: no best checkpoint; rows of the history need {names}")
    return folder / BEST


def _candidates(folder: Path) -> Iterator[Path]:
    names = [folder / NAME, *(path for path, _ in older_ones(folder)), folder / BEST]
    return (path for path in names if path.exists())


def _read(path: Path) -> tuple[dict[str, Stored], dict[str, Any]]:
    flat, meta = checkpoint.read(path, META)
    last = meta["history"][-1]["step"] if meta["history"] else 0
    if "step" not in flat or flat["step"][:2] != ("int64", ()) or step_of(flat) < last:
        raise Damaged(f"{path}: {checkpoint.DAMAGED} (its step is not that of its history)")
    return flat, meta


def _write_if_other(path: Path, content: bytes) -> None:
    try:
        same = path.read_bytes() == content
    except OSError:
        same = False
    if not same:
        write_atomically(path, content)
