"""docs/several_processes.md: its code runs, in one process and in two, and its commands parse."""

import importlib
import os
import re
import shlex
import subprocess
import sys
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


def run(command: list, timeout: float = 120) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=ENVIRONMENT, timeout=timeout
    )
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
    script.write_text("\n".join(blocks))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for attempt in range(3):  # fully_shard's collectives on gloo hang now and then on a CPU
        try:
            lines = run([sys.executable, *torchrun, str(script)], timeout=45).splitlines()
            break
        except subprocess.TimeoutExpired:
            if attempt == 2:
                raise
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
