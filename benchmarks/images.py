"""Opening a folder of images: seconds and memory, when it is decoded and when it comes from the
cache.

    python -m benchmarks.images --data_dir data/cifar10-jpeg75

Each start is a process of its own. Memory is the peak above that after the imports, while images
are decoded, split and normalized. The last line has the seconds from the imports to the end of the
first training step of scripts/cnn_train.py, the probe of the fastest way and the evaluation before
the first step included.
"""

import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from purenets import random, runs
from purenets.core.data.images import folder
from purenets.core.runs import malloc
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, option, positive
from purenets.torch_nets import images
from scripts import cnn_train
from scripts.shared import result_files


class FirstStepTaken(Exception):
    """Ends a training that is only timed up to here."""


@dataclass(frozen=True)
class Config(Options):
    """Time the opening of a folder of images."""

    data_dir: str = option("data/cifar10-jpeg75", "the folder with train/ and test/")
    repeats: int = option(3, "second starts, and starts to the first step", positive)
    results: str = option("results/benchmarks_images.json", "JSON file for the numbers")


def data_handling(root: str) -> dict:
    """Seconds and peak memory of load and prepare."""
    before, begin = peak(), time.perf_counter()
    task = images.prepare(folder(Path(root)), random.key(0), valid_fraction=0.1)
    task.normalize(task.train[0][:128])
    return {"seconds": time.perf_counter() - begin, "peak_mib": (peak() - before) / 1024}


def to_first_step(root: str) -> float:
    """Seconds of scripts/cnn_train.py, once everything is imported, up to the end of its first
    step.
    """
    import purenets.core.report.plots  # noqa: F401 (what it imports when work starts)

    begin, original = time.perf_counter(), runs.fit_and_save

    def fit(folder, step, state, batches, *, evaluate, **options):
        evaluate(state)
        step(state, batches(0))
        raise FirstStepTaken

    runs.fit_and_save = fit
    try:
        cnn_train.train(cnn_train.Config(data="folder", data_dir=root))
    except FirstStepTaken:
        return time.perf_counter() - begin
    finally:
        runs.fit_and_save = original


def peak() -> int:
    """The largest resident memory of this process so far, in KiB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def apart(f, *arguments):
    """f(*arguments) in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(malloc.keep_freed_memory).result()  # as scripts do
        return pool.submit(f, *arguments).result()


def main(config: Config) -> dict:
    root = Path(config.data_dir).resolve()
    with tempfile.TemporaryDirectory() as fresh:  # without a cache
        for part in ("train", "test"):
            (Path(fresh) / part).symlink_to(root / part)
        first = apart(data_handling, fresh)
    second = [apart(data_handling, str(root)) for _ in range(config.repeats)]
    starts = [apart(to_first_step, str(root)) for _ in range(config.repeats)]
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
