"""Contestants take turns: ratios of times that a noisy machine cannot bend."""

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from purenets.core.report.tables import Table, to_markdown, to_text
from purenets.core.runs import malloc
from purenets.core.runs.files import write_atomically


def in_turns(
    contestants: dict[str, Callable], rounds: int, seconds: float = 0.05
) -> dict[str, np.ndarray]:
    """Milliseconds a call, (rounds,) for each contestant; calls are repeated within a round to fill
    `seconds`."""
    repeats = {}
    for name, call in contestants.items():
        call(), call()  # compile, warm up
        begin = time.perf_counter()
        call()
        repeats[name] = max(1, int(seconds / (time.perf_counter() - begin)))
    times = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, call in contestants.items():
            begin = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            times[name].append(1e3 * (time.perf_counter() - begin) / repeats[name])
    return {name: np.array(values) for name, values in times.items()}


def ratio(a: np.ndarray, b: np.ndarray) -> dict:
    """The median of a / b, round by round, and its quartiles."""
    low, median, high = np.quantile(a / b, [0.25, 0.5, 0.75])
    return {"median": float(median), "quartiles": [float(low), float(high)]}


def medians(times: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(np.median(values)) for name, values in times.items()}


def write(path: str, found: dict, *tables: Table) -> None:
    """Write what a benchmark found as JSON and its tables as Markdown; print the tables."""
    write_atomically(Path(path), (json.dumps(found, indent=1) + "\n").encode())
    text = "\n".join(map(to_markdown, tables))
    write_atomically(Path(path).with_suffix(".md"), text.encode())
    print("\n\n".join(map(to_text, tables)))


def with_quartiles(ratio: dict) -> str:
    low, high = ratio["quartiles"]
    return f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})"


def apart(build: Callable[..., Callable], *arguments, memory_reused: bool) -> Callable[[], object]:
    """The function that `build(*arguments)` makes, in a process of its own, which ends with this
    one.

    memory_reused: with malloc as `malloc.keep_freed_memory` sets it, as our scripts have it; else
    in its defaults.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    before = dict(os.environ)
    os.environ.pop("THP_MEM_ALLOC_ENABLE", None)  # set by the process that measures
    try:
        context.Process(
            target=_serve, args=(theirs, build, arguments, memory_reused), daemon=True
        ).start()
    finally:
        os.environ.update(before)

    def call():
        ours.send("go")
        failed, answer = ours.recv()
        if failed:
            raise RuntimeError(answer)
        return answer

    return call


def _serve(pipe, build, arguments, memory_reused: bool) -> None:
    if memory_reused:
        malloc.keep_freed_memory()
    call = build(*arguments)
    with contextlib.suppress(EOFError):  # the one that measures has ended
        while pipe.recv() == "go":
            try:
                pipe.send((False, call()))
            except Exception as error:
                pipe.send((True, repr(error)))
