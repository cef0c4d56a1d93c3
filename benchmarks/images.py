"""Opening the images: seconds and memory.

    python -m benchmarks.images                              # CIFAR-10 in data/
    python -m benchmarks.images --data folder --data_dir DIR

Each start is a process of its own. Memory is the peak above that after the imports, while images
are read, split and normalized. A folder of images is decoded at the first start, and comes from
the cache after it; of CIFAR-10 all starts are alike, its checksums included. The last line has the
seconds from the imports to the end of the first training step of scripts/cnn_train.py, the
evaluation before the first step included.
"""

import multiprocessing
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import torch

from purenets import random, runs
from purenets.core.runs import malloc
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, one_of, option, positive
from purenets.torch_nets import images
from purenets.torch_nets.distributed import Group
from scripts import cnn_train
from scripts.shared import result_files, training
from scripts.shared.images import SOURCES


@dataclass(frozen=True)
class Config(Options):
    """Time the opening of the images."""

    data: str = option("cifar10", f"one of {', '.join(SOURCES)}", one_of(SOURCES))
    data_dir: str = option("data", "where cifar10 is kept, or the folder with train/ and test/")
    repeats: int = option(3, "second starts, and starts to the first step", positive)
    results: str = option("results/benchmarks_images.json", "JSON file for the numbers")


def data_handling(data: str, data_dir: str) -> dict:
    """Seconds and peak memory of load and prepare."""
    before, begin = peak(), time.perf_counter()
    task = images.prepare(images.load(data, data_dir), random.key(0), valid_fraction=0.1)
    task.normalize(task.train[0][:128])
    return {"seconds": time.perf_counter() - begin, "peak_mib": (peak() - before) / 1024}


def to_first_step(data: str, data_dir: str) -> float:
    """Seconds of scripts/cnn_train.py, once everything is imported, up to the end of its first
    step.
    """
    import purenets.core.report.plots  # noqa: F401 (what it imports when work starts)

    begin = time.perf_counter()
    config = cnn_train.Config(data=data, data_dir=data_dir)
    plan = training.plan_of(config, cnn_train.RECIPE, torch.device("cpu"), Group())
    run = training.prepare(plan)
    run.evaluate(run.state)
    run.step(run.state, run.batches(0))
    return time.perf_counter() - begin


def peak() -> int:
    """The largest resident memory of this process so far, in KiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def apart(f, *arguments):
    """f(*arguments) in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(malloc.keep_freed_memory).result()  # as scripts do
        return pool.submit(f, *arguments).result()


def main(config: Config) -> dict:
    place = config.data, config.data_dir
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as empty:
        os.environ["PURENETS_CACHE"] = empty  # so that the first start finds no cache
        try:
            first, *second = (apart(data_handling, *place) for _ in range(1 + config.repeats))
            starts = [apart(to_first_step, *place) for _ in range(config.repeats)]
        finally:
            os.environ.clear()
            os.environ.update(before)
    found = {
        "command": runs.command_line(config).replace("scripts/images.py", "-m benchmarks.images"),
        "n": config.repeats,
        **runs.environment(),
        **runs.machine(),
        "first_start": first,
        "second_starts": second,
        "seconds_to_first_step": starts,
    }
    result_files.write(config.results, found)
    print(f"first start: {first['seconds']:.1f} s, {first['peak_mib']:.0f} MiB above the imports")
    for row in second:
        print(f"second start: {row['seconds']:.2f} s, {row['peak_mib']:.0f} MiB above the imports")
    print("to the first step:", ", ".join(f"{seconds:.2f} s" for seconds in starts))
    return found


if __name__ == "__main__":
    command(Config, main)
