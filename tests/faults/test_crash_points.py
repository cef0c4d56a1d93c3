"""At whatever write a training is killed: gone on with, all its files are those of the run that was
not."""

import contextlib
import io
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from purenets.core.runs.options import Options
from purenets.torch_nets import precision
from scripts import (
    cifar10_cnn,
    cifar10_mlp,
    cifar10_sweep,
    cnn_sweep,
    cnn_train,
    compare_mlps,
    mlp_sweep,
    palindrome_sweep,
    pytorch_train_mlp,
    train,
    train_mlp_numpy,
)
from tests.faults.crash_points import copies, differing, unfinished
from tests.faults.record import record, scaled

SMALL = {"data": "digits", "valid_fraction": 0.1}
# a few steps of every training script, on its default flags but for the size of the work
CASES: dict[str, tuple[ModuleType, dict]] = {
    "train_mlp_numpy": (train_mlp_numpy, {"max_steps": 4, "eval_freq": 1, "n_samples": 100}),
    "pytorch_train_mlp": (pytorch_train_mlp, {"max_steps": 3, "eval_freq": 1, "n_samples": 100}),
    "train": (
        train,
        {"input_length": 4, "train_steps": 6, "eval_freq": 2, "eval_size": 100, "num_hidden": 16},
    ),
    "cnn_train": (cnn_train, SMALL | {"width": 0.05, "max_steps": 6, "eval_freq": 2}),
    "cifar10_cnn": (
        cifar10_cnn,
        SMALL | {"image_size": 32, "channels": (4, 4, 4), "max_steps": 4, "eval_freq": 2}
        | {"batch_size": 50},
    ),
    "cifar10_mlp": (
        cifar10_mlp,
        SMALL | {"width": 16, "depth": 1, "max_steps": 6, "eval_freq": 2, "batch_size": 50},
    ),
    "palindrome_sweep": (
        palindrome_sweep,
        {"lengths": (5,), "seeds": 2, "num_hidden": 8, "steps": 4, "eval_freq": 2}
        | {"eval_size": 50, "results": "rows.json"},
    ),
    "mlp_sweep": (mlp_sweep, {"rates": 2, "seeds": 2, "steps": 3}),
    "compare_mlps": (
        compare_mlps,
        {"datasets": ("moons",), "seeds": 2, "max_steps": 1, "eval_freq": 1, "compile": False}
        | {"results": "rows.json"},
    ),
    "cnn_sweep": (
        cnn_sweep,
        {"settings": ("adam 1e-3",), "seeds": 2, "data": "digits", "width": 0.05, "max_steps": 2}
        | {"results": "rows.json"},
    ),
    "cifar10_sweep": (
        cifar10_sweep,
        {"settings": ("mlp digits",), "seeds": 1, "data": "digits", "results": "rows.json"},
    ),
}  # fmt: skip
KEEPERS = ("cnn_sweep", "cifar10_sweep")  # they go on by themselves


def config_of(name: str, place: Path, resume: bool) -> Options:
    """The options of a case at a place: its run in "run", its results beside it."""
    script, options = CASES[name]
    options = options | {"out": str(place / "run")}
    if "results" in options:
        options["results"] = str(place / options["results"])
    return script.Config(**options, **({} if name in KEEPERS else {"resume": resume}))


def run(name: str, place: Path, resume: bool = False) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        CASES[name][0].main(config_of(name, place, resume))


@pytest.fixture(autouse=True)
def no_measurement(monkeypatch):
    """The fastest precision is measured anew where none is recorded yet, and may be another."""
    seconds = lambda model, batch, variants, repeats=2: dict.fromkeys(variants, 1.0)
    monkeypatch.setattr(precision, "autotune", seconds)


@pytest.mark.parametrize("name", CASES)
def test_killed_at_any_write_all_files_end_as_uninterrupted(name, tmp_path):
    whole, states = tmp_path / "place", tmp_path / "states"
    whole.mkdir()
    with copies(whole, states) as found:
        run(name, whole)
    tried = spread(found, scaled(3, len(found)))
    wrong, left = {}, []
    for state in tried:
        run(name, state, resume=True)
        wrong |= {state.name: d} if (d := differing(whole, state)) else {}
        left += unfinished(state)
        shutil.rmtree(state)
    assert len(found) > 5
    record(
        f"crash points: {name}",
        tried=len(tried),
        of=len(found),
        differing=len(wrong),
        files_left=len(left),
    )
    assert wrong == {}
    assert left == []


def spread(states: list, n: int) -> list:
    """So many of the states, equally far apart; another choice each day would hide a fault."""
    return [states[int(i)] for i in np.linspace(0, len(states) - 1, min(n, len(states)))]
