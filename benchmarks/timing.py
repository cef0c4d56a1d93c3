"""Contestants take turns: ratios of times that a noisy machine cannot bend.

In each round every contestant has one turn, in an order that is drawn anew, so that none always
follows the same neighbor. All have the same number of threads.
"""

import contextlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from purenets import random, runs
from purenets.core.report.tables import Table, to_text
from purenets.core.runs import malloc
from purenets.core.runs.provenance import DIRTY
from scripts.shared import result_files


def in_turns(
    contestants: dict[str, Callable], rounds: int, seconds: float = 0.05, key=None
) -> dict[str, np.ndarray]:
    """Return the milliseconds of a call, (rounds,) for each contestant.

    Args:
        contestants: what to call, by name.
        rounds: in each of them every contestant has one turn.
        seconds: a turn's; calls are repeated to fill it.
        key: of the order of the turns; None: `random.key(0)`.

    Raises:
        RuntimeError: a contestant changes the number of threads for those that come after it.
    """
    names, key = list(contestants), random.key(0) if key is None else key
    repeats, threads = {}, torch_threads()
    for name, call in contestants.items():
        call(), call()  # compile, warm up
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds / (time.perf_counter() - begin)))
    times = {name: [] for name in names}
    for i in range(rounds):
        for turn in random.permutation(random.fold_in(key, i), len(names)):
            name = names[turn]
            times[name].append(1e3 * turn_of(contestants[name], repeats[name]) / repeats[name])
            if torch_threads() != threads:
                raise RuntimeError(
                    f"{name}: leaves {torch_threads()} threads to others, not {threads}"
                )
    return {name: np.array(values) for name, values in times.items()}


def turn_of(call: Callable, repeats: int) -> float:
    """Return the seconds of so many calls."""
    begin = time.perf_counter()
    for _ in range(repeats):
        call()
    return time.perf_counter() - begin


def torch_threads() -> int | None:
    """Return torch's number of threads in this process; None where torch is not loaded."""
    torch = sys.modules.get("torch")
    return torch.get_num_threads() if torch else None


def ratio(a: np.ndarray, b: np.ndarray) -> dict:
    """Return the median of a / b, round by round, and its quartiles; below 1 if a takes less time.

    a, b: (rounds,), times of the same rounds.
    """
    low, median, high = np.quantile(a / b, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartiles": [float(low), float(high)]}


def medians(times: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in times.items()}


def write(path: str, found: dict, *tables: Table) -> None:
    """Write what a benchmark found as JSON and its tables as Markdown; print the tables."""
    result_files.write(path, found, *tables)
    print("\n\n".join(map(to_text, tables)))


def save_figure(figure, path: str) -> None:
    """Save a figure of what was measured, but not of a draft (`result_files`)."""
    if str(runs.origin()["git_commit"]).endswith(DIRTY):
        print(f"{path}: not drawn; a draft, {result_files.DRAFT}")
        return
    from purenets.core.report import plots  # matplotlib, which no contestant needs

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    plots.save(figure, Path(path))


def with_quartiles(ratio: dict) -> str:
    """Return a ratio with its quartiles, to two decimals, or to three if it is below 0.1."""
    decimals = 3 if ratio["median"] < 0.1 else 2
    median, low, high = (f"{v:.{decimals}f}" for v in (ratio["median"], *ratio["quartiles"]))
    return f"{median} ({low} to {high})"


def apart(build: Callable[..., Callable], *arguments, memory_reused: bool) -> Callable[[], object]:
    """Return the function that `build(*arguments)` makes, in a process of its own.

    That process has as many threads as this one, and ends with it.

    memory_reused: with malloc as `malloc.keep_freed_memory` sets it, as our scripts have it; else
    in its defaults.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = dict(os.environ)
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)  # set by the process that measures
    try:
        options = (build, arguments, memory_reused, torch_threads())
        context.Process(target=_serve, args=(theirs, *options), daemon=True).start()
    finally:
        os.environ.update(before)

    def call():
        ours.send("go")
        failed, answer = ours.recv()
        if failed:
            raise RuntimeError(answer)
        return answer

    return call


def _serve(pipe, build, arguments, memory_reused: bool, threads: int | None) -> None:
    if memory_reused:
        malloc.keep_freed_memory()
    if threads:
        import torch

        torch.set_num_threads(threads)
    call = build(*arguments)
    with contextlib.suppress(EOFError):  # the one that measures has ended
        while pipe.recv() == "go":
            try:
                pipe.send((False, call()))
            except Exception as error:
                pipe.send((True, repr(error)))
