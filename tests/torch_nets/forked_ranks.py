"""Run scripts in several processes, kill them, and go on with another number of them.

    python -m tests.torch_nets.forked_ranks < jobs.json

A job is a script, its flags, and legs of [processes, steps]: so many processes, killed by SIGKILL
in so many steps of that leg; 0 lets them end. They are forked from this process, which has imported
all that takes long, and find each other as those of torchrun do. Prints for each job a list of how
each of its legs ended: True if it was killed.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from sklearn.datasets import load_digits  # noqa: F401 (here and below: so that no fork has to)

from purenets import torch_nets  # noqa: F401
from purenets.core import running_sums
from purenets.core.report import plots  # noqa: F401
from purenets.core.runs.command import command
from purenets.torch_nets import distributed, images  # noqa: F401

ROOT = Path(__file__).parents[2]


def run(jobs: list[tuple[str, str, list[list[int]]]]) -> tuple[list[list[bool]], str]:
    """Run jobs in a process of their own; return what it prints, and what stands on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.torch_nets.forked_ranks"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        input=json.dumps(jobs), cwd=ROOT, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def leg(module, arguments: list[str], processes: int, steps: int) -> bool:
    """Run a leg; return whether it was killed."""
    port = free_port()
    first, *others = (
        forked(module, arguments, rank, processes, port, 0 if rank else steps)
        for rank in range(processes)
    )
    end = os.waitpid(first, 0)[1]
    if end:
        for child in others:  # which write nothing
            os.kill(child, signal.SIGKILL)
    ends = [os.waitpid(child, 0)[1] for child in others]
    killed = os.WIFSIGNALED(end) and os.WTERMSIG(end) == signal.SIGKILL
    assert killed or not any([end, *ends]), (end, ends)
    return killed


def forked(module, arguments: list[str], rank: int, processes: int, port: int, steps: int) -> int:
    """Return the id of a new process, which runs the script as one of the ranks.

    In its last one of `steps` it kills itself, when other ranks may be in it too.
    """
    child = os.fork()
    if child:
        return child
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    sys.argv, code = ["script", *arguments], 1
    if steps:
        kill_in_step(steps)
    try:
        command(module.Config, module.main, getattr(module, "PRESETS", None))
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code)


def kill_in_step(steps: int) -> None:
    """Let this process kill itself when `fit` adds the metrics of that step, of those it takes."""
    taken, add = iter(range(1, steps)), running_sums.add

    def add_or_die(sums, metrics):
        if next(taken, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return add(sums, metrics)

    running_sums.add = add_or_die


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    ends = []
    for script, flags, legs in json.load(sys.stdin):
        module = importlib.import_module(f"scripts.{script}")
        killed = [
            leg(module, flags.split() + ["--resume"] * bool(number), *each)
            for number, each in enumerate(legs)
        ]
        ends.append(killed)
    print(json.dumps(ends))


if __name__ == "__main__":
    main()
