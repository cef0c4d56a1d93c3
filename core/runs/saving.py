"""Saving while the training goes on: a thread writes what the training hands over."""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from purenets.core.base import History, Metrics, TrainState
from purenets.core.runs import checkpoint, laps, rotation


@contextlib.contextmanager
def saver(
    folder: Path, keep: int, newest: int | None
) -> Iterator[Callable[[TrainState, History, Metrics], None]]:
    """Yield `save(state, history, metric_sums)`, which returns as soon as it has copies.

    A thread writes them: a lap of `seconds.json`, and then the checkpoint with all that follows
    from it (`rotation.py`). At most one save is in flight: the next one waits for it, and the end
    of the block for the last one. What is written are the bytes of `rotation.commit`.

    Args:
        folder: the run's folder, held by this process.
        keep: how many checkpoints to keep.
        newest: the step of the checkpoint that is there, None if there is none.

    Raises:
        UserError: a save failed; raised by the next one, or at the end of the block.
    """
    lap, pending = laps.stopwatch(folder), []  # pending: the save in flight

    def write(rows_of_time: list, flat: dict, meta: dict) -> None:
        nonlocal newest
        # first: a checkpoint without its lap would never get one
        laps.write(folder, rows_of_time)
        newest = rotation.commit(folder, flat, meta, keep, newest)

    def save(state: TrainState, rows: History, metric_sums: Metrics) -> None:
        _finish(pending)
        flat = checkpoint.on_host(state._asdict())
        sums = {name: float(value) for name, value in metric_sums.items()}
        rows_of_time = lap(rotation.step_of(flat), [row["step"] for row in rows])
        pending.append(pool.submit(write, rows_of_time, flat, {"history": [*rows], "sums": sums}))

    with ThreadPoolExecutor(1, "purenets-save") as pool:
        try:
            yield save
        finally:
            _finish(pending)


def _finish(pending: list[Future]) -> None:
    """Wait for the save in flight, if there is one; raise what it raised."""
    while pending:
        pending.pop().result()
