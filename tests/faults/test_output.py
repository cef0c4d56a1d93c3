"""Whatever becomes of what a script prints, its results are there, and no traceback."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purenets import runs
from purenets.core.runs import checkpoint
from tests.faults.record import record, scaled

ROOT = Path(__file__).parents[2]
MLP = [sys.executable, str(ROOT / "scripts" / "train_mlp_numpy.py")]
# what stands after the command in a shell, and how it ends
ENDS = {
    ">&-": 0,
    "2>&-": 0,
    ">&- 2>&- <&-": 0,
    "| head -c 0": 141,
    "2>&1 | head -c 0": 141,
    ">/dev/full": 1,
    "2>/dev/full": 0,
}


@pytest.mark.parametrize("end", ENDS)
def test_results_are_there_whoever_takes_the_output(tmp_path, end):
    shell = f'"$@" {end}; exit ${{PIPESTATUS[0]}}'
    command = ["bash", "-c", shell, "-", *MLP, "--max_steps", "1", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ENDS[end], done.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"history.csv", "curves.png", "boundary.png"} <= names
    full = "error: standard output: cannot be written (No space left on device)\n"
    assert done.stderr == (full if end == ">/dev/full" else "")
    record(f"output: {end}", tried=1, tracebacks=int("Traceback" in done.stderr))


def test_an_ascii_stdout_gets_escapes(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, str(ROOT / "scripts" / "compare_mlps.py"), "--datasets", "moons"]
    command += ["--seeds", "1", "--max_steps", "1", "--no-compile", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert r"mean \xb1 SD" in done.stdout
    assert "±" in (tmp_path / "run" / "table.md").read_text(encoding="utf-8")


def test_a_full_disk_at_a_figure_keeps_the_results(tmp_path):
    """No file may grow over a limit that only the figure needs more than."""
    folder = tmp_path / "run"
    script = [*MLP, "--max_steps", "2"]
    shell = ["bash", "-c", 'ulimit -f 20; exec "$@"', "-", *script, "--out", str(folder)]
    done = subprocess.run(shell, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {folder / 'curves.png'}: cannot be written (File too large)\n"
    assert runs.read_history(folder)[-1]["step"] == 50
    assert not list(folder.glob("*.png")) and not list(folder.glob(".*tmp"))
    done = subprocess.run([*script, "--out", str(folder), "--resume"], capture_output=True)
    assert done.returncode == 0
    assert (folder / "curves.png").exists()


@pytest.mark.parametrize("name", ["$\\frac{$", "$$", "a$b", "\\$", "x^{", "$\\alpha$"])
def test_a_class_may_be_called_anything(tmp_path, name):
    from scripts import cnn_train

    for part in ("train", "test"):
        for shade, label in ((10, name), (200, "dog")):
            for i in range(4):
                path = tmp_path / "data" / part / label / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 3), shade + i, np.uint8)).save(path)
    options = {"data": "folder", "data_dir": str(tmp_path / "data"), "width": 0.02, "max_steps": 1}
    options |= {"precision": "float32", "batch_size": 4, "valid_fraction": 0.3}
    result = cnn_train.train(cnn_train.Config(**options, out=str(tmp_path / "run")))
    assert set(result.test["classes"]) == {name, "dog"}
    assert (tmp_path / "run" / "confusion.png").exists()


def test_ctrl_c_twice_while_a_compiled_net_ends(tmp_path):
    """In a terminal all processes of the group hear it, those of the compiler too."""
    trials, tracebacks = scaled(2, 40), 0
    script = [sys.executable, str(ROOT / "scripts" / "pytorch_train_mlp.py"), "--eval_freq", "1"]
    for i in range(trials):
        folder = tmp_path / str(i)
        # odd trials are interrupted once they have ended their work, even ones while they train
        steps = "4" if i % 2 else "100000"
        process = subprocess.Popen(
            [*script, "--max_steps", steps, "--out", str(folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        awaited = folder / ("boundary.png" if i % 2 else checkpoint.NAME)
        while not awaited.exists() and process.poll() is None:
            time.sleep(0.005)
        for _ in range(2):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.02 * (i % 7))
        _, error = process.communicate(timeout=120)
        tracebacks += "Traceback" in error
        assert "Traceback" not in error, error
        assert process.returncode in ((0, 130) if i % 2 else (130,)), error
        assert runs.read_history(folder)
    record("Ctrl-C twice at the end", tried=trials, tracebacks=tracebacks)
