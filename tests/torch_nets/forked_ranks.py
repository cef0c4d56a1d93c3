"""Run scripts in several processes, kill them, and go on with another number of them.

    python -m tests.torch_nets.forked_ranks < jobs.json

A job is a script, its flags with --out, and legs of [processes, checkpoints]: so many processes,
killed by SIGKILL once they have written so many checkpoints; 0 lets them end. They are forked from
this process, which has imported all that takes long, and find each other as those of torchrun do.
Prints for each job a list of how each of its legs ended: True if all processes were there to be
killed.
"""

import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from sklearn.datasets import load_digits  # noqa: F401 (here and below: so that no fork has to)

from purenets import torch_nets  # noqa: F401
from purenets.core.report import plots  # noqa: F401
from purenets.core.runs import checkpoint
from purenets.core.runs.command import command
from purenets.torch_nets import distributed, images  # noqa: F401

SECONDS = 60  # a leg takes a few


def leg(module, arguments: list[str], processes: int, checkpoints: int) -> bool:
    """Run a leg; return whether it was killed."""
    port, folder = free_port(), Path(arguments[arguments.index("--out") + 1])
    before = written(folder)
    children = [forked(module, arguments, rank, processes, port) for rank in range(processes)]
    if not checkpoints:
        ends = [os.waitpid(child, 0)[1] for child in children]
        assert not any(ends), ends
        return False
    seen, until = {before}, time.monotonic() + SECONDS
    while len(seen) <= checkpoints and time.monotonic() < until:
        seen.add(written(folder))
        time.sleep(0.002)
    for child in children:
        os.kill(child, signal.SIGKILL)
    ends = [os.waitpid(child, 0)[1] for child in children]
    return all(os.WIFSIGNALED(end) for end in ends)


def forked(module, arguments: list[str], rank: int, processes: int, port: int) -> int:
    """Return the id of a new process, which runs the script as one of the ranks."""
    child = os.fork()
    if child:
        return child
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    sys.argv, code = ["script", *arguments], 1
    try:
        command(module.Config, module.main, getattr(module, "PRESETS", None))
    except SystemExit as end:
        code = end.code
    finally:
        os._exit(code)


def written(folder: Path) -> int:
    """Return when the last checkpoint was written."""
    path = folder / checkpoint.NAME
    return path.stat().st_mtime_ns if path.exists() else 0


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
