"""A long training in one process: memory and speed stay what they were; and which bits depend on
threads.
"""

import hashlib
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from purenets import data, init_state, make_step, optim, random
from purenets.data import batches
from purenets.numpy_nets import MLP, grad_fn
from tests.faults.record import record, scaled

ROOT = Path(__file__).parents[2]


def resident() -> int:
    """Bytes of memory that the process holds now (the largest so far where there is no /proc)."""
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def test_a_long_training_keeps_its_memory_and_its_speed():
    steps = scaled(4_000, 1_000_000)
    task = data.load("moons", random.key(0))
    model, optimizer = MLP(2, [20], 2), optim.adam(lr=1e-3)
    step = make_step(grad_fn(model), optimizer)
    state, draw = (
        init_state(model, optimizer, random.key(0)),
        batches(task.train, 32, random.key(1)),
    )
    block, times = steps // 100, []
    for i in range(1000):
        state, metrics = step(state, draw(i))
    before = resident()
    for begin in range(1000, 1000 + steps, block):
        start = time.perf_counter()
        for i in range(begin, begin + block):
            state, metrics = step(state, draw(i))
        times.append((time.perf_counter() - start) / block)
    growth = resident() / before - 1
    assert growth < 0.05
    assert metrics["accuracy"] > 0.9
    assert all(np.isfinite(leaf).all() for leaf in state.params.values())
    slower = float(np.median(times[-10:]) / np.median(times[:10]) - 1)
    record(
        "soak",
        steps=steps,
        memory_growth=growth,
        slower=slower,
        microseconds=1e6 * float(np.median(times)),
    )


def digest_of(script: str, flags: list[str], threads: int, folder: Path) -> str:
    """Of the params that a script ends with on so many threads."""
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), *flags, "--out", str(folder)]
    environment = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    subprocess.run(
        ["env", *(f"{k}={v}" for k, v in environment.items()), *command],
        check=True,
        capture_output=True,
    )
    return hashlib.sha256((folder / "history.csv").read_bytes()).hexdigest()


def test_the_same_bits_with_one_and_with_two_threads(tmp_path):
    """Promised for the MLPs, whose products are too small to be shared among threads."""
    scripts, differing = ("train_mlp_numpy", "pytorch_train_mlp"), 0
    for script in scripts:
        flags = ["--max_steps", "20", "--optimizer", "adam"] + ["--no-compile"] * (
            script != "train_mlp_numpy"
        )
        digests = {digest_of(script, flags, n, tmp_path / f"{script}-{n}") for n in (1, 2)}
        differing += len(digests) - 1
    record("same bits with 1 and 2 threads", scripts=len(scripts), differing=differing)
    assert differing == 0
