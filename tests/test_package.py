"""The package: one name, three doors, and nothing loaded that is not asked for."""

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import purenets
from purenets import numpy_nets, torch_nets

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "purenets.core": "core",
    "purenets.numpy_nets": "numpy_nets",
    "purenets.torch_nets": "torch_nets",
}
HEAVY = ("torch", "torchvision", "sklearn", "matplotlib", "scipy", "PIL")


def run(code: str, cwd: Path = ROOT) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("door", ["purenets", "purenets.numpy_nets"])
def test_the_doors_load_nothing_heavy(door):
    loaded = run(f"import sys, {door}; print([m for m in {HEAVY} if m in sys.modules])")
    assert loaded.strip() == "[]"


@pytest.mark.parametrize("door", [purenets, numpy_nets, torch_nets], ids=lambda door: door.__name__)
def test_all_names_of_a_door_are_there(door):
    assert sorted(door.__all__) == list(door.__all__)
    assert all(hasattr(door, name) for name in door.__all__)


def test_what_both_backends_have_bears_the_same_name():
    shared = set(numpy_nets.__all__) & set(torch_nets.__all__)
    assert shared >= {"CNN", "MLP", "VanillaRNN", "ensemble", "grad_fn", "metrics_fn"}


@pytest.mark.parametrize("name", ["optim", "data", "random", "runs", "schedules", "tree"])
def test_a_module_of_the_front_door_is_one_module(name):
    code = f"import purenets.{name} as a; from purenets import {name} as b; assert a is b"
    run(code)


def test_setup_cfg_lists_every_package():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {"purenets"}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("__init__.py"):
            inner = path.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *inner)))
    assert listed == found


def test_the_version_is_the_same_everywhere():
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    version = config["metadata"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    newest = re.search(r"^## \[(\S+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest[1] == version


def test_an_unpacked_copy_runs_without_install(tmp_path):
    copy = tmp_path / "a folder with spaces"
    for folder in ("purenets", "core", "numpy_nets", "torch_nets", "scripts"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    flags = [
        "--input_length",
        "4",
        "--train_steps",
        "20",
        "--no-compile",
        "--num_hidden",
        "8",
        "--eval_size",
        "100",
    ]
    for command in (["scripts/train.py", *flags], ["-m", "scripts.train", "--help"]):
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=copy)
        assert done.returncode == 0, done.stderr
    where = (
        "import sys; sys.path.insert(0, '.'); import purenets.core; print(purenets.core.__file__)"
    )
    assert run(where, copy).strip() == str(copy / "core" / "__init__.py")
