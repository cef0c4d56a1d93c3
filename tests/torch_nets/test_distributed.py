"""Several processes train as one: the same params, and a lost one ends the run with a line."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from purenets import UserError
from purenets.core.runs import checkpoint
from purenets.core.runs.notes import RunWarning
from purenets.torch_nets.distributed import Group, processes
from scripts import cnn_train
from scripts.shared import training
from tests.torch_nets import forked_ranks

ROOT = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
STEPS, BATCH = 12, 8

# what each rank does: train three nets in float64, and write what rank 0 ends with
RANK = f"""
import functools, sys
import numpy as np, torch
from core import optim, random, tree
from purenets.core.train import make_step, train_state
from torch_nets import grad_fn, layers, metrics_fn, to_numpy
from purenets.torch_nets.cnn_model import CNN
from purenets.torch_nets.distributed import data_parallel, parallel_metrics, processes, total
from purenets.torch_nets.pytorch_mlp import MLP
from purenets.torch_nets.vanilla_rnn import VanillaRNN

torch.set_num_threads(1)
with processes(torch.device("cpu")) as group:
    norm = functools.partial(layers.BatchNorm, total=total if group.size > 1 else None)
    models = {{
        "mlp": (MLP(6, [5], 10), (6,)),
        "cnn": (CNN(3, 10, width=1 / 16, norm=norm), (3, 32, 32)),
        "rnn": (VanillaRNN(7, 1, 9, 10), (7, 1)),
    }}
    for name, (model, shape) in models.items():
        # not Adam: it steps by the rounding errors that a bias's gradient ahead of BatchNorm is
        optimizer = optim.nesterov(1e-2)
        params, buffers = (tree.cast(part, "float64") for part in model.init(random.key(0)))
        state = train_state(params, buffers, optimizer, random.key(1))
        draw = np.random.default_rng(0)
        x = torch.from_numpy(draw.normal(size=({STEPS}, {BATCH}, *shape)))
        y = torch.from_numpy(draw.integers(0, 10, ({STEPS}, {BATCH})))
        step = make_step(data_parallel(grad_fn(model), group), optimizer)
        for i in range({STEPS}):
            state, metrics = step(state, (x[i], y[i]))
        few = (x[0, :5], y[0, :5])
        found = parallel_metrics(metrics_fn(model), group)(state.params, state.buffers, few)
        if group.writes:
            tested = {{f"test_{{key}}": value for key, value in found.items()}}
            leaves = to_numpy(state.params | state.buffers | metrics | tested)
            np.savez(f"{{sys.argv[1]}}/{{name}}.npz", **leaves)
"""


def environment() -> dict:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_end_as_one_does(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    for how, start in {"one": [sys.executable], "two": [*TORCHRUN, "2"]}.items():
        (tmp_path / how).mkdir()
        command = [*start, script, tmp_path / how]
        subprocess.run(command, check=True, env=environment(), capture_output=True)
    for name in ("mlp", "cnn", "rnn"):
        one, two = (np.load(tmp_path / how / f"{name}.npz") for how in ("one", "two"))
        assert set(one) == set(two)
        for leaf in one:
            limit = 1e-6 if leaf.endswith("accuracy") else 1e-10
            assert np.abs(one[leaf] - two[leaf]).max() < limit, (name, leaf)


SMALL = (
    "--data digits --width 0.125 --batch_size 64 --eval_freq 5 --precision float32 --threads 1 "
    "--flip random --crop 4 --cutout 4 --optimizer nesterov"
)


def test_a_lost_rank_ends_the_run_with_a_line_and_one_process_goes_on(tmp_path):
    script = [str(ROOT / "scripts" / "cnn_train.py"), *SMALL.split(), "--max_steps", "60"]
    folder = tmp_path / "run"
    both = subprocess.Popen(
        [*TORCHRUN, "2", *script, "--out", folder],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    while not (folder / checkpoint.NAME).exists():
        assert both.poll() is None
        time.sleep(0.02)
    os.kill(rank_of(folder, 1), signal.SIGKILL)
    _, err = both.communicate(timeout=60)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert both.returncode != 0
    assert len(lines) == 1
    assert "lost another of the 2 processes" in lines[0]
    assert f"--out {folder} and --resume" in lines[0]
    few = [*SMALL.split(), "--max_steps", "20"]  # rounding, which two do otherwise, grows with each
    cnn_train.train(cnn_train.Config.parse([*few, "--out", str(tmp_path / "whole")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # of other steps, and of other processes
        cnn_train.train(cnn_train.Config.parse([*few, "--out", str(folder), "--resume"]))
    params = [checkpoint_params(path) for path in (folder, tmp_path / "whole")]
    assert all(np.abs(params[0][leaf] - params[1][leaf]).max() < 1e-4 for leaf in params[0])


def test_each_process_needs_a_gpu_of_its_own(monkeypatch):
    for name, value in {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    message = "--device cuda: 2 processes on this machine need a GPU each, it has 1"
    with pytest.raises(UserError, match=message), processes(torch.device("cuda")):
        pass


def test_processes_do_not_wait_for_a_torchrun_that_has_ended(monkeypatch):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    values = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "TORCHELASTIC_USE_AGENT_STORE": True}
    for name, value in (values | {"MASTER_ADDR": "localhost", "MASTER_PORT": port}).items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UserError, match="torchrun has ended"), processes(torch.device("cpu")):
        pass


def test_torchrun_may_end_while_the_processes_connect(monkeypatch):
    code = """import time; from torch.distributed import TCPStore
store = TCPStore("localhost", 0, is_master=True); print(store.port, flush=True); time.sleep(600)"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as torchrun:
        values = {
            "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "RANK": 0, "TORCHELASTIC_USE_AGENT_STORE": True,
            "MASTER_ADDR": "localhost", "MASTER_PORT": torchrun.stdout.readline().strip(),
        }  # fmt: skip
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        threading.Timer(2.0, torchrun.kill).start()  # rank 0 waits for rank 1 then
        with pytest.raises(UserError, match="torchrun has ended"), processes(torch.device("cpu")):
            pass


IN_TWO = {
    "cifar10_cnn": "--epochs 1 --channels 8,8,8 --learning_rate 1e-3 --members 2 --mixup",
    "cifar10_mlp": "--epochs 2 --net batch_norm --hidden 20 --learning_rate 1e-2 --ema 0.9",
}


def test_two_processes_train_a_preset_as_one_does(tmp_path):
    flags = (
        "--preset digits --flip alternating --optimizer nesterov --precision float32 --threads 1"
    )
    jobs = [
        (name, f"{flags} {IN_TWO[name]} --out {tmp_path / name / str(processes)}", [[processes, 0]])
        for name in IN_TWO
        for processes in (1, 2)
    ]
    ends, _ = forked_ranks.run(jobs)
    assert ends == [[False]] * len(jobs)
    for name in IN_TWO:
        one, two = (checkpoint_params(tmp_path / name / processes) for processes in "12")
        for leaf in one:  # float32, whose rounding grows from step to step
            limit = 1e-3 * max(1, np.abs(one[leaf]).max())
            assert np.abs(one[leaf] - two[leaf]).max() < limit, (name, leaf)
        results = [json.loads((tmp_path / name / n / "results.json").read_text()) for n in "12"]
        assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-4)


def test_compile_is_refused_in_several_processes():
    config = cnn_train.Config(data="digits", compile=True)
    with pytest.raises(UserError, match="--compile: not with several processes; leave it out"):
        training.train_as(config, cnn_train.RECIPE, torch.device("cpu"), Group(rank=0, size=2))


def test_a_batch_that_cannot_be_shared_is_named(tmp_path):
    script = [ROOT / "scripts" / "cnn_train.py", *SMALL.split(), "--batch_size", "63"]
    done = subprocess.run(
        [*TORCHRUN, "2", *map(str, script)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "error: --batch_size 63: needs a multiple of the 2 processes" in done.stderr
    assert 'cnn_train.py", line' not in done.stderr  # no traceback of ours


def rank_of(folder: Path, rank: int) -> int:
    """The process of a rank of the run in a folder (Linux)."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command, variables = (
                (process / "cmdline").read_bytes(),
                (process / "environ").read_bytes(),
            )
        except OSError:
            continue
        if str(folder).encode() in command and f"\0RANK={rank}\0".encode() in variables:
            return int(process.name)
    raise AssertionError(f"rank {rank} does not run")


def checkpoint_params(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    leaves = load_file(folder / checkpoint.NAME)
    return {name: leaf for name, leaf in leaves.items() if name.startswith("params/")}
