"""A public function that is called wrongly says so in one line."""

import json
import subprocess
import sys
from pathlib import Path

from tests.faults import public
from tests.faults.record import record

ROOT = Path(__file__).parents[2]


def test_wrong_calls_end_in_one_line():
    """Every public function, new ones too; the message of a failure names who raised what."""
    command = [sys.executable, "-m", "tests.faults.wrong_calls", str(10**6)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    counts = found["counts"] | {"of": found["of"], "raw_errors": len(found["wrong"])}
    record("wrong calls", functions=found["functions"], **counts)
    assert found["without"] == [], "needs a good call in tests/faults/public.py"
    assert offenders(found["wrong"]) == {}


def offenders(wrong: list[list[str]]) -> dict[str, str]:
    """Return an example and the last line of its error for each argument of a function."""
    last = {call: error.strip().splitlines()[-1] for call, error in wrong}
    return {call.partition("=")[0]: f"{call}: {error}" for call, error in last.items()}


def test_the_walk_finds_what_the_doors_export():
    found = public.functions()
    for name in ("core.optim.optimizers.adam", "core.train.fit", "torch_nets.layers.basic.Linear"):
        assert name in found
    for module in ("core.data", "core.random", "core.runs", "torch_nets.losses", "core.tree"):
        assert any(name.startswith(module) for name in found)
    exported = {
        name
        for door in (public.purenets, public.purenets.numpy_nets, public.torch_nets)
        for name in door.__all__
        if isinstance(getattr(door, name), public.FunctionType)
    }
    assert exported <= {name.rpartition(".")[2] for name in found}
