"""A run's folder: `config.json`, `history.csv`, the checkpoint and the figures."""

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from purenets.core import train
from purenets.core.base import Metrics, Step, TrainState, UserError
from purenets.core.kernel_rules import product_rule_name, use_product_rule
from purenets.core.runs import checkpoint, history
from purenets.core.runs.files import exclusive_lock, write_atomically
from purenets.core.runs.options import Options
from purenets.core.runs.provenance import DIRTY, _script, environment, machine, origin

TIME = "seconds.json"  # apart from the history, which is the same whenever and wherever it is made
FREE = ("out", "resume", "max_steps", "train_steps")  # may differ between a run and its resumption


def open_run(config: Options, writes: bool = True) -> Path | None:
    """The folder `config.out`, new or to be resumed (`config.resume`), with its `config.json`; None
    if no folder is asked for. With `writes=False` nothing is checked or written: another process
    does that.

    A UserError if it holds a run and no resumption is asked for, or a run of other options.
    """
    if config.out is None:
        if config.resume:
            raise UserError("--resume: needs --out, the folder of the run to go on with")
        return None
    folder = Path(config.out)
    if not writes:
        return folder
    path = folder / "config.json"
    about = {"script": _script(config), "config": config.to_dict()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
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
        kernels = {"products": product_rule_name()}
        _write_config(path, {**about, "kernels": kernels, **environment(), **machine()})
    elif not config.resume:
        raise UserError(
            f"--out {folder}: holds a run; go on with it by --resume, or name another folder"
        )
    else:
        _check_same(folder, before, about)
        _use_kernels(folder, before)
        _mark_dirty(path, before)
    return folder


def _use_kernels(folder: Path, before: dict) -> None:
    """Let this process take the kernels of the run that it resumes; one recorded before kernels
    were has those of this processor.
    """
    kernels = before.get("kernels", {})
    try:
        use_product_rule(kernels.get("products", product_rule_name()))
    except (UserError, AttributeError, TypeError) as error:
        raise UserError(
            f"--out {folder}: its config.json names unknown kernels ({error})"
        ) from error


def origin_of(folder: Path) -> dict:
    """Return the commit and the machine of the run in a folder, as its `config.json` names them."""
    config = json.loads((folder / "config.json").read_text())
    return {name: config.get(name, value) for name, value in origin().items()}


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
    returns its results. With `writes=False` the folder is only read: another process of the same
    run writes it.

    What ends it early says what is saved and how to go on; `hint` is what may help a loss that
    diverges.
    """
    with exclusive_lock(folder) if folder and writes else contextlib.nullcontext():
        return _fit(folder, step, state, batches, hint, writes, options)


def _fit(
    folder: Path | None,
    step: Step,
    state: TrainState,
    batches,
    hint: str,
    writes: bool,
    options: dict,
):
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


def _write_config(path: Path, config: dict) -> None:
    write_atomically(path, (json.dumps(config, indent=1) + "\n").encode())


def _mark_dirty(path: Path, before: dict) -> None:
    """Name the commit of a run that changed code goes on with as dirty, and for good."""
    commit = str(origin()["git_commit"])
    if commit.endswith(DIRTY) and not str(before.get("git_commit")).endswith(DIRTY):
        _write_config(path, {**before, "git_commit": commit})


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
