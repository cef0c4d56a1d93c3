"""docs/several_processes.md: its code runs, in one process and in two, and its commands parse."""

import importlib
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "several_processes.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [
    line.partition("#")[0]
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]
WARN = ("-W", "error", "-W", "ignore::FutureWarning", "-W", "ignore::DeprecationWarning")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


# now and then one of torch's threads ends a process that has done its work (torch 2.14, gloo)
ABORTED = "terminate called without an active exception"


def run(command: list) -> str:
    for _ in range(3):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=120
        )
        if ABORTED not in done.stderr:
            break
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_code_of_one_process_runs():
    blocks = [block for block in BLOCKS if not block.startswith("# fsdp.py")]
    assert len(blocks) == 3
    code = "\n".join(blocks)
    checks = "assert int(state.step) == 100 and len(next(iter(own))[1]) == 16"
    run([sys.executable, *WARN, "-c", f"{code}\n{checks}"])


def test_the_code_of_two_processes_runs(tmp_path):
    blocks = [block for block in BLOCKS if block.startswith("# fsdp.py")]
    assert len(blocks) == 2
    script = tmp_path / "fsdp.py"
    # in one group: gloo may find the addresses of a first one where a second is begun
    begin = 'with processes(torch.device("cpu")) as group:'
    second = textwrap.indent(blocks[1].replace(begin, "if True:"), "    ")
    script.write_text(blocks[0] + second)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    lines = run([sys.executable, *torchrun, str(script)]).splitlines()
    assert lines == [  # of rank 0: half of each leaf
        "fc1.weight: (32, 8), of which here (16, 8)",
        "fc1.bias: (32,), of which here (16,)",
        "fc2.weight: (4, 32), of which here (2, 32)",
        "fc2.bias: (4,), of which here (2,)",
        "largest leaf of the optimizer's state here: 128 numbers",
        "fully_shard: the params of one process",
    ]


@pytest.mark.parametrize("line", COMMANDS)
def test_options_of_the_commands_are_taken(line):
    script, flags = re.search(r"scripts/(\w+)\.py (.*)", line).groups()
    module = importlib.import_module(f"scripts.{script}")
    config = module.Config.parse(shlex.split(flags), getattr(module, "PRESETS", None))
    assert config.shards in (0, 4)
