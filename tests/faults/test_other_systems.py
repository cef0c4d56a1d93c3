"""Windows and macOS cannot be tried here; that nothing needs what only Linux has can be."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# what other systems lack: modules of Python, and what only Linux tells of a process
WITHOUT = """
import builtins, os, sys, warnings

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None

# filelock takes the lock of Windows there, and warns that this system has none
warnings.filterwarnings("ignore", message="only soft file lock is available")
for name in ("link", "sysconf"):
    delattr(os, name)
real_open = open

def no_proc(path, *arguments, **options):
    if str(path).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", str(path))
    return real_open(path, *arguments, **options)

import io, pathlib
builtins.open = io.open = no_proc
exists, read_text = pathlib.Path.exists, pathlib.Path.read_text
hidden = lambda path: str(path).startswith(("/proc", "/sys"))
pathlib.Path.exists = lambda self, **o: not hidden(self) and exists(self, **o)

def read(self, *arguments, **options):
    if hidden(self):
        raise FileNotFoundError(2, "No such file or directory", str(self))
    return read_text(self, *arguments, **options)

pathlib.Path.read_text = read
"""
IMPORTS = """
import importlib, pkgutil
import purenets, purenets.core, purenets.numpy_nets, purenets.torch_nets, scripts

count = 0
for package in (purenets.core, purenets.numpy_nets, purenets.torch_nets, scripts):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
        count += 1
print(count)
"""
TRAINS = """
from scripts import {script}

config = {script}.Config(out={out!r}, **{options!r})
{script}.main(config)
try:
    {script}.main(config)
except Exception as error:
    assert "holds a run" in str(error), error
import dataclasses
from purenets.core.runs.files import exclusive_lock
from purenets import UserError

with exclusive_lock({out!r}):
    try:
        {script}.main(dataclasses.replace(config, resume=True))
    except UserError as error:
        assert "another process is training there" in str(error)
    else:
        raise AssertionError("the lock does not hold")
{script}.main(dataclasses.replace(config, resume=True))
"""


def run(code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c"]
    done = subprocess.run(
        [*command, WITHOUT + code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_module_is_imported():
    assert int(run(IMPORTS).splitlines()[-1]) > 100


def test_report_is_the_same_where_files_are_ascii_by_default(tmp_path):
    """As on Windows, where files are not of UTF-8 by default; texts and results hold ± and ×."""
    out = tmp_path / "out"
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    command = [sys.executable, str(ROOT / "scripts" / "make_report.py"), "--out", str(out)]
    done = subprocess.run(
        [*command, "--no-pdf"], capture_output=True, text=True, env={**os.environ, **plain}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    pages = [path.read_text(encoding="utf-8") for path in out.glob("*.html")]
    assert pages and all("±" in page for page in pages)


TRAININGS = {
    "train_mlp_numpy": {"max_steps": 2, "n_samples": 100},
    "pytorch_train_mlp": {"max_steps": 2, "n_samples": 100, "compile": False},
    "cnn_train": {"data": "digits", "width": 0.02, "max_steps": 2, "precision": "float32"},
    "train": {"input_length": 4, "train_steps": 2, "eval_size": 50, "compile": False},
}


@pytest.mark.parametrize("script", TRAININGS)
def test_training_saves_locks_and_resumes(script, tmp_path):
    out, options = str(tmp_path / "run"), TRAININGS[script]
    run(TRAINS.format(script=script, out=out, options=options))
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
