"""A run's folder: `config.json`, `history.csv`, checkpoints and figures."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from purenets.core import train
from purenets.core.arguments import (
    ANY,
    expect_flags,
    expect_functions,
    expect_integers,
    expect_named,
    expect_numbers,
    expect_paths,
    expect_states,
)
from purenets.core.base import Array, Metrics, Step, TrainState, UserError
from purenets.core.runs import checkpoint, history, rotation
from purenets.core.runs.files import exclusive_lock, folder_at, is_folder, remove_unfinished
from purenets.core.runs.notes import warn
from purenets.core.runs.options import Options
from purenets.core.runs.record import (
    NAME,
    begin_or_resume,
    holds_no_run,
    read_config,
    use_kernels,
)
from purenets.core.runs.saving import saver
from purenets.core.runs.schema import mismatch


@contextlib.contextmanager
def open_run(
    config: Options,
    writes: bool = True,
    processes: int = 1,
    data: dict[str, str] | None = None,
) -> Iterator[Path | None]:
    """Hold the folder `config.out`, new or to be resumed (`config.resume`), within a `with` block.

    No other process can open it meanwhile. In the block it has its `config.json`, its files are
    those of its newest checkpoint, and nothing half-written lies there.

    Args:
        config: options with `out` and `resume`; also `keep`, the number of checkpoints, if it has
            that.
        writes: False in a process that only reads the folder, while another one of the same run
            checks, locks and writes it.
        processes: how many processes the run has; recorded.
        data: a digest, such as `file_digest(path)`, of each file that the run reads. The keys, such
            as "--dataset own.csv", name the files in messages. Recorded, and compared when the run
            is resumed.

    Yields:
        The folder, or None if `config.out` is None.

    Raises:
        UserError: another process holds the folder; it holds a run and `config.resume` is False;
            the run has other options or other data; or the folder has files but no run. A folder in
            which nothing was saved yet may be begun again.
        RunWarning: (a warning) `config.resume` is True, but no run was ever started there.

    Example:
        >>> import tempfile
        >>> from purenets import runs
        >>> from scripts.train_mlp_numpy import Config
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with runs.open_run(Config(out=f"{place}/run")) as folder:
        ...         sorted(path.name for path in folder.glob("*.json"))
        ['config.json']
    """
    if not all(hasattr(config, name) for name in ("out", "resume", "to_dict")):
        raise UserError(
            f"open_run: config is a {type(config).__name__}, needs Options with out and resume"
        )
    expect_flags("open_run", writes=writes)
    expect_integers("open_run", 1, processes=processes)
    wrong = None if data is None else mismatch(data, {str: str}, "data")
    if wrong:
        raise UserError(f"open_run: {wrong}")
    if config.out is None:
        if config.resume:
            raise UserError("--resume: needs --out, the folder of the run to go on with")
        yield None
    elif not writes:
        yield Path(config.out)
    else:
        folder = folder_at(config.out)
        is_fresh = holds_no_run(folder)
        with exclusive_lock(folder):  # before anything is read or written there
            remove_unfinished(folder)
            begin_or_resume(config, folder, processes, data)
            if config.resume and is_fresh:  # a mistyped --out, perhaps
                warn(f"--resume: --out {folder} holds no run; begins a new one")
            rotation.settle(folder, getattr(config, "keep", rotation.KEEP))
            yield folder


def save(
    folder: Path,
    state: TrainState,
    rows: Sequence[dict] = (),
    metric_sums: Metrics | None = None,
    keep: int = rotation.KEEP,
    newest: int | None = None,
) -> int:
    """Write a checkpoint of what `fit` hands to its `save`, and `history.csv`.

    Both are written whole or not at all. Of the older checkpoints the last ones stay, and the one
    with the best validation.

    Args:
        folder: the run's folder.
        state: the state to save.
        rows, metric_sums: the other two values that `fit` hands over; nothing, where only the state
            is to be saved.
        keep: how many checkpoints to keep, the best one apart.
        newest: the step of the checkpoint that is there and may be kept; None to look for it.

    Returns:
        The step of the state, which is the newest from then on.

    Raises:
        UserError: an argument has the wrong type or value, the folder has a history and `rows` is
            empty, or a file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from purenets import optim, random, runs, train_state
        >>> state = train_state({"w": np.zeros(2)}, {}, optim.sgd(0.1), random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     step = runs.save(folder, state._replace(step=np.array(7)))
        ...     names = sorted(path.name for path in pathlib.Path(folder).iterdir())
        >>> step, names
        (7, ['checkpoint.json', 'checkpoint.safetensors', 'history.csv'])
    """
    expect_paths("save", folder=folder)
    expect_states("save", state=state)
    if getattr(state.step, "ndim", 0):
        raise UserError(
            f"save: state.step has the shape {tuple(state.step.shape)}, as vmap stacks it; members"
            " share one count, state._replace(step=state.step[0])"
        )
    expect_integers("save", 1, keep=keep)
    if newest is not None:
        expect_integers("save", 0, newest=newest)
    rows = list(rows) if isinstance(rows, tuple) else rows
    metric_sums = {} if metric_sums is None else metric_sums
    wrong = mismatch(rows, history.check_rows, "rows")
    if wrong:
        raise UserError(f"save: {wrong}")
    expect_named("save", "sums", metric_sums=metric_sums)
    for name, value in metric_sums.items():
        if getattr(value, "shape", ()) != ():
            raise UserError(f"save: metric_sums[{name!r}] is an array, needs a number")
        expect_numbers("save", ANY, metric_sums=value)
    _expect_step(state.step, rows[-1]["step"] if rows else 0)
    folder = Path(folder)
    if not is_folder(folder):
        raise UserError(f"save: {folder} is no folder; make it first, or let open_run make it")
    newest = _newest(folder, rows) if newest is None else newest
    meta = {"history": rows, "sums": {name: float(value) for name, value in metric_sums.items()}}
    return rotation.commit(folder, checkpoint.on_host(state._asdict()), meta, keep, newest)


def _newest(folder: Path, rows: Sequence[dict]) -> int | None:
    """Return the step of the newest good checkpoint; refuse to replace its history by none."""
    try:
        found = rotation.first_good(folder)
    except UserError:  # all are damaged: nothing that could be kept
        return None
    if found and found[2]["history"] and not rows:
        raise UserError(f"save: {folder} holds a history; pass its rows, or name another folder")
    return rotation.step_of(found[1]) if found else None


def restore(
    folder: Path, state: TrainState, *, missing_ok: bool = False, best: bool = False
) -> tuple[TrainState, history.History, Metrics]:
    """Return what the last `save` in a folder was given, or that of the best row by validation.

    If the newest checkpoint is damaged, a warning names it and the one before it is taken.

    Args:
        folder: the run's folder.
        state: a state of the same model and optimizer; it says which names, shapes, dtypes and
            devices to expect.
        missing_ok: True to return `state` itself, [] and {} where nothing was saved.
        best: True for the saved checkpoint with the largest "valid_accuracy"; among equals, the one
            with the smallest "valid_loss". If the rows have only one of these columns, it alone
            decides. Only rows at which `save` was called are candidates.

    Returns:
        State, rows and metric_sums.

    Raises:
        UserError: there is no checkpoint, it is of another model or optimizer (the leaf that
            differs is named), all checkpoints are damaged, or the best one is, or no row was
            validated.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from purenets import optim, random, runs, train_state
        >>> start = train_state({"w": np.zeros(2)}, {}, optim.sgd(0.1), random.key(0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = runs.save(folder, start._replace(params={"w": np.ones(2)}))
        ...     state, rows, metric_sums = runs.restore(folder, start)
        >>> state.params["w"]
        array([1., 1.])
    """
    expect_paths("restore", folder=folder)
    expect_states("restore", state=state)
    expect_flags("restore", missing_ok=missing_ok, best=best)
    found = rotation.first_good(Path(folder))
    if found is not None and best:
        found = (rotation.best_one(Path(folder)),)
    if found is None and not missing_ok:
        there = "" if Path(folder).is_dir() else ", which is no folder"
        raise UserError(
            f"restore: no checkpoint in {folder}{there}; missing_ok=True begins with `state`"
        )
    if found is None:
        return state, [], {}
    arrays, meta = checkpoint.load_file(found[0], state._asdict(), rotation.META)
    return TrainState(**arrays), meta["history"], meta["sums"]


def fit_and_save(
    folder: Path | None,
    step: Step,
    state: TrainState,
    batches,
    *,
    steps: int,
    hint: str = "",
    writes: bool = True,
    keep: int = rotation.KEEP,
    steps_flag: str = "--max_steps",
    epoch: float | None = None,
    resume_hint: str = "",
    **options,
):
    """Train as `fit` does from a folder's checkpoint on, and save there after each row.

    Call it while `open_run` holds the folder. An error that ends the training says what is saved
    and how to go on.

    Args:
        folder: the run's folder; None: nothing is read or saved.
        step, state, batches, steps: arguments of `fit`; `state` is used where nothing was saved.
        hint: what may help if the loss diverges, for the message; "" for nothing.
        writes: False if the folder is only read, since another process of the same run writes it.
        keep: how many checkpoints to keep, the best one by validation apart.
        steps_flag: the flag that sets `steps`, for a message.
        epoch: the steps of an epoch, where that flag counts epochs.
        resume_hint: how to go on after an interruption; "" for the options of this folder.
        options: further arguments of `fit`: `every`, `evaluate`, `label`.

    Returns:
        The last state and the rows, as `fit` returns them.

    Raises:
        UserError: an argument has the wrong type or value, or the run has taken more than `steps`
            steps.
        Diverged, PeerLost, Interrupted: as `fit` raises them, with what is saved in the message.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from purenets import optim, random, runs, train_state
        >>> def step(state, batch):
        ...     return state._replace(step=state.step + 1), {"loss": np.float64(batch)}
        >>> start = train_state({"w": np.zeros(1)}, {}, optim.sgd(0.1), random.key(0))
        >>> def train(folder, steps):
        ...     return runs.fit_and_save(folder, step, start, float, steps=steps)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = train(folder, steps=2)
        ...     state, history = train(folder, steps=5)  # goes on from step 2
        >>> history
        [{'step': 2, 'loss': 0.5}, {'step': 5, 'loss': 3.0}]
    """
    expect_functions("fit_and_save", step=step, batches=batches)
    expect_states("fit_and_save", state=state)
    expect_integers("fit_and_save", 1, keep=keep)
    if folder is not None:
        expect_paths("fit_and_save", folder=folder)
        folder = Path(folder)
    rows, metric_sums = [], {}
    if folder:
        if not writes and (folder / NAME).exists():
            use_kernels(folder, read_config(folder))  # as the process that writes has done
        state, rows, metric_sums = restore(folder, state, missing_ok=True)
        _expect_steps(folder, int(state.step), steps, steps_flag, epoch)
    options |= {"steps": steps, "history": rows, "metric_sums": metric_sums}
    newest = int(state.step) if folder and rotation.any_checkpoint(folder) else None
    saving = saver(folder, keep, newest) if folder and writes else contextlib.nullcontext()
    try:
        with saving as save_row:
            return train.fit(step, state, batches, save=save_row, **options)
    except train.Diverged as error:
        why = [str(error), _last_good(folder), *([hint] if hint else [])]
        raise train.Diverged("; ".join(why)) from error
    except train.PeerLost as error:
        how = f"; go on with the same options, --out {folder} and --resume" if folder else ""
        raise train.PeerLost(f"{error}; {_last_good(folder)}{how}") from error
    except train.Interrupted as error:
        raise train.Interrupted(f"{error}; {_go_on(folder, resume_hint)}") from error


def _expect_step(step: Array, last: int) -> None:
    """Raise a UserError for a step that `restore` would take for damaged."""
    dtype = str(getattr(step, "dtype", type(step).__name__)).removeprefix("torch.")
    if dtype != "int64" or int(step) < last:
        raise UserError(f"save: state.step is {step} ({dtype}), needs an int64 from {last} on")


def _expect_steps(folder: Path, taken: int, steps: int, flag: str, epoch: float | None) -> None:
    if steps < taken:
        asked, done = (
            "" if epoch is None else f" ({number / epoch:.4g} epochs)" for number in (steps, taken)
        )
        raise UserError(
            f"{flag}: asks for {steps} steps{asked}, but the run in {folder} has taken {taken}"
            f"{done} and cannot go back; ask for as many or more, or name another --out"
        )


def _go_on(folder: Path | None, hint: str) -> str:
    if hint:
        return hint
    if folder is None:
        return "nothing is saved without --out"
    saved = "saved" if rotation.any_checkpoint(folder) else "there was nothing to save yet"
    return f"{saved}; go on with the same options and --out {folder} --resume"


def _last_good(folder: Path | None) -> str:
    if folder is None:
        return "nothing is saved without --out"
    if not rotation.any_checkpoint(folder):
        return "there is no good checkpoint yet"
    return f"the last good checkpoint is {folder / checkpoint.NAME}"
