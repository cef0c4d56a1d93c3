"""A run's folder: `config.json`, `history.csv`, the checkpoint and the figures."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from purenets.core import train
from purenets.core.base import Metrics, Step, TrainState, UserError
from purenets.core.runs import checkpoint, history
from purenets.core.runs.files import (
    exclusive_lock,
    folder_at,
    remove_unfinished,
    write_atomically,
)
from purenets.core.runs.options import Options
from purenets.core.runs.provenance import _script, environment

TIME = "seconds.json"  # apart from the history, which is the same whenever and wherever it is made
FREE = ("out", "resume", "max_steps", "train_steps")  # may differ between a run and its resumption


@contextlib.contextmanager
def open_run(config: Options, writes: bool = True) -> Iterator[Path | None]:
    """Hold the folder `config.out`, new or to be resumed (`config.resume`), within the block.

    No other process can open it meanwhile. It has its `config.json`, and nothing that a killed
    process left half-written.

    Args:
        config: options with `out` and `resume`.
        writes: False in a process that only reads the folder, while another one of the same run
            checks, locks and writes it.

    Yields:
        The folder, or None if none is asked for.

    Raises:
        UserError: another process holds it, or it holds a run and no resumption is asked for, or a
            run of other options.
    """
    if config.out is None:
        if config.resume:
            raise UserError("--resume: needs --out, the folder of the run to go on with")
        yield None
    elif not writes:
        yield Path(config.out)
    else:
        folder = folder_at(config.out)
        with exclusive_lock(folder):  # before anything is read or written there
            remove_unfinished(folder)
            _begin_or_resume(config, folder)
            yield folder


def _begin_or_resume(config: Options, folder: Path) -> None:
    path = folder / "config.json"
    about = {"script": _script(config), "config": config.to_dict()}
    try:
        before = json.loads(path.read_text()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"--out {folder}: cannot be used ({error})") from error
    if not isinstance(before, dict | None) or not isinstance(
        (before or {}).get("config", {}), dict
    ):
        raise UserError(
            f"--out {folder}: its config.json is not that of a run; restore it or name another "
            "folder"
        )
    if before is None:
        if (folder / checkpoint.NAME).exists():
            raise UserError(
                f"--out {folder}: holds a checkpoint but no config.json; name another folder"
            )
        text = json.dumps({**about, **environment()}, indent=1)
        write_atomically(path, (text + "\n").encode())
    elif not config.resume:
        raise UserError(
            f"--out {folder}: holds a run; go on with it by --resume, or name another folder"
        )
    else:
        _check_same(folder, before, about)


def save(folder: Path, state: TrainState, rows: history.History, metric_sums: Metrics) -> None:
    """What `fit` hands to its `save`: a checkpoint of all three, and `history.csv`."""
    meta = {"history": rows, "sums": {name: float(value) for name, value in metric_sums.items()}}
    checkpoint.save(folder, state._asdict(), meta)
    history.write_csv(folder / "history.csv", rows)


def restore(folder: Path, state: TrainState) -> tuple[TrainState, history.History, Metrics]:
    """What the last `save` was given, or `state` and nothing where there was none."""
    if not (folder / checkpoint.NAME).exists():
        return state, [], {}
    arrays, meta = checkpoint.load(folder, state._asdict())
    return TrainState(**arrays), meta["history"], meta["sums"]


def fit_and_save(
    folder: Path | None,
    step: Step,
    state: TrainState,
    batches,
    *,
    hint: str,
    writes: bool = True,
    **options,
):
    """`purenets.core.train.fit` from the folder's checkpoint on, saving there after each row;
    returns its results. To be called while `open_run` holds the folder. With `writes=False` it is
    only read: another process of the same run writes it.

    What ends it early says what is saved and how to go on; `hint` is what may help a loss that
    diverges.
    """
    history_, metric_sums = [], {}
    if folder:
        state, history_, metric_sums = restore(folder, state)
    lap = timer(folder)

    def keep(state: TrainState, rows: history.History, metric_sums: Metrics) -> None:
        save(folder, state, rows, metric_sums)
        lap(int(state.step))

    if folder and writes:
        options |= {"save": keep}
    try:
        return train.fit(step, state, batches, history=history_, metric_sums=metric_sums, **options)
    except train.Diverged as error:
        raise train.Diverged(f"{error}; {_last_good(folder)}; {hint}") from error
    except train.PeerLost as error:
        how = f"; go on with the same options, --out {folder} and --resume" if folder else ""
        raise train.PeerLost(f"{error}; {_last_good(folder)}{how}") from error
    except train.Interrupted as error:
        how = f"saved; go on with the same options and --out {folder} --resume"
        raise train.Interrupted(
            f"{error}; {how if folder else 'nothing is saved without --out'}"
        ) from error


def timer(folder: Path | None) -> Callable[[int], None]:
    """Starts; the function that it returns adds a lap, the step and the seconds since the run
    began, to `seconds.json`. Evaluations and saving are included, what a killed process took after
    its last lap is not.
    """
    before, begin = (
        timings(folder)[-1]["seconds"] if folder and timings(folder) else 0.0,
        time.perf_counter(),
    )

    def lap(step: int) -> None:
        new = {"step": step, "seconds": before + time.perf_counter() - begin}
        rows = [row for row in timings(folder) if row["step"] < step] + [new]
        write_atomically(folder / TIME, json.dumps(rows).encode())

    return lap


def timings(folder: Path) -> list[dict]:
    """The step and the seconds of each time that the run of a folder was saved."""
    path = folder / TIME
    return json.loads(path.read_text()) if path.exists() else []


def training_seconds(folder: Path) -> float:
    """Seconds that the run of a folder has trained for."""
    return timings(folder)[-1]["seconds"] if timings(folder) else 0.0


def _last_good(folder: Path | None) -> str:
    if folder is None:
        return "nothing is saved without --out"
    path = folder / checkpoint.NAME
    return (
        f"the last good checkpoint is {path}"
        if path.exists()
        else "there is no good checkpoint yet"
    )


def _check_same(folder: Path, before: dict, about: dict) -> None:
    old, new = (
        {"script": a.get("script")}
        | {f"--{k}": v for k, v in a.get("config", {}).items() if k not in FREE}
        for a in (before, about)
    )
    for name in {**old, **new}:
        if old.get(name) != new.get(name):
            raise UserError(
                f"--out {folder}: holds a run with {name} {old.get(name)}, not {new.get(name)}"
            )
