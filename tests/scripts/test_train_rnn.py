"""The RNN's training script and the sweep as a user calls them: results, resumption, wrong
input.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from purenets import Interrupted, UserError, tree
from purenets.core.runs import checkpoint, history
from scripts import palindrome_sweep, train

ROOT = Path(__file__).parents[2]
SMALL = {"num_hidden": 16, "batch_size": 16, "eval_freq": 10, "eval_size": 200, "compile": False}


def call(name: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def largest(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_it_learns_length_5():
    result = train.train(
        train.Config(input_length=4, train_steps=1000, compile=False, eval_size=1000)
    )
    assert result.history[0]["test_accuracy"] < 0.3
    assert max(row["test_accuracy"] for row in result.history) > 0.95


def test_the_command_writes_a_folder(tmp_path):
    out = tmp_path / "run"
    done = call(
        "train",
        "--input_length",
        4,
        "--train_steps",
        30,
        "--eval_freq",
        10,
        "--no-compile",
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    assert "T = 5: accuracy 0." in done.stdout and "all 1000 palindromes" in done.stdout
    assert {path.name for path in out.iterdir()} >= {
        "config.json",
        "history.csv",
        checkpoint.NAME,
        "curves.png",
    }
    assert [row["step"] for row in history.read_csv(out / "history.csv")] == [0, 10, 20, 30]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input_length", "0"], "--input_length 0: needs a positive"),
        (["--input_length", "2.5"], "--input_length 2.5: needs an integer"),
        (
            ["--input_length", "29", "--exhaustive"],
            "--exhaustive: too many palindromes, needs --input_length up to 11",
        ),
    ],
)
def test_wrong_input_ends_in_one_line(arguments, message):
    done = call("train", *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {message}") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "--batch_size 0: needs a positive"),
        ({"input_dim": 2}, "--input_dim 2: needs 1"),
        ({"num_classes": 9}, "--num_classes 9: needs 10"),
        ({"init": "zeros"}, "--init zeros: needs one of"),
        ({"schedule": "exp"}, "--schedule exp: needs one of"),
        ({"curriculum": "5,x"}, "--curriculum 5,x: needs lengths T"),
        ({"max_norm": -1.0}, "--max_norm -1.0: needs a number that is not negative"),
        ({"resume": True}, "--resume: needs --out"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(UserError, match=message):
        train.train(train.Config(**{**SMALL, "train_steps": 1, **options}))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--keep 3", "--keep 3: means nothing without --out"),
        ("--optimizer lbfgs", "--optimizer lbfgs: .* --max_norm 0"),
        (
            "--optimizer strong_wolfe --max_norm 0 --freeze_recurrence",
            "--freeze_recurrence True: --optimizer strong_wolfe moves all params at once",
        ),
        ("--curriculum 5,6 --train_steps 1", "--curriculum 5,6: some of its lengths"),
        ("--curriculum 5 --train_steps 2 --curriculum_fraction 0.9", "--curriculum 5: some of"),
    ],
)
def test_options_without_effect_are_refused(line, message):
    with pytest.raises(UserError, match=message):
        train.Config.parse(line.split())
    right = "--optimizer lbfgs --max_norm 0 --curriculum 5 --train_steps 20"
    train.Config.parse(right.split())


def test_resumed_equals_uninterrupted(tmp_path):
    options = {
        **SMALL,
        "input_length": 6,
        "curriculum": "3,5",
        "schedule": "cosine",
        "train_steps": 40,
    }
    whole = train.train(train.Config(**options))
    interrupted = train.Config(**options, out=str(tmp_path / "run"))
    stop_after(interrupted, step=17)
    resumed = train.train(train.Config(**options, out=str(tmp_path / "run"), resume=True))
    assert largest(whole.state.params, resumed.state.params) == 0
    assert whole.history == resumed.history


def stop_after(config, step: int, module=train, run=None):
    """Run until SIGINT arrives while the batch of `step` is drawn."""
    import signal

    original = module.batches if module is train else module.ensemble_batches
    name = original.__name__

    def drawing(*arguments):
        batch_at = original(*arguments)

        def batch(i):
            if i == step:
                signal.raise_signal(signal.SIGINT)
            return batch_at(i)

        return batch

    setattr(module, name, drawing)
    try:
        with pytest.raises(Interrupted, match="resume"):
            (run or module.train)(config)
    finally:
        setattr(module, name, original)


def test_the_curriculum_goes_through_its_lengths():
    length = train.length_at(train.Config(input_length=29, train_steps=100, curriculum="5,10,20"))
    assert [length(i) for i in (0, 19, 20, 39, 40, 59, 60, 99)] == [5, 5, 10, 10, 20, 20, 30, 30]
    assert train.length_at(train.Config(input_length=29))(0) == 30


def test_frozen_recurrence_and_clipping():
    options = {**SMALL, "train_steps": 5}
    frozen = train.train(train.Config(**options, freeze_recurrence=True))
    assert torch.equal(frozen.state.params["W_hh"], frozen.first_params["W_hh"])
    assert not torch.equal(frozen.state.params["W_hx"], frozen.first_params["W_hx"])
    for max_norm in (0.0, 1e-3):
        assert train.train(train.Config(**options, max_norm=max_norm)).state.step == 5


def sweep_options(tmp_path, name: str, **more) -> palindrome_sweep.Config:
    return palindrome_sweep.Config(
        settings="default,latches", lengths="3,6", also="4,20", seeds=2, steps=20,
        out=str(tmp_path / name), results=str(tmp_path / f"{name}.json"), **SMALL, **more,
    )  # fmt: skip


def found_in(path: Path) -> dict:
    content = json.loads(path.read_text())
    return {name: content[name] for name in ("n", "settings", "cells")}


def test_a_sweep_resumes_to_the_same_results(tmp_path):
    whole = palindrome_sweep.main(sweep_options(tmp_path, "whole"))
    for stop in (0, 13):  # in the first cell, twice
        resume = stop > 0
        stop_after(
            sweep_options(tmp_path, "parts", resume=resume),
            stop,
            palindrome_sweep,
            palindrome_sweep.main,
        )
    palindrome_sweep.main(sweep_options(tmp_path, "parts", resume=True))
    assert found_in(tmp_path / "whole.json") == found_in(tmp_path / "parts.json")
    assert len(whole["cells"]) == 4 and whole["command"].startswith(
        "python scripts/palindrome_sweep.py"
    )
    for cell in whole["cells"]:
        assert set(cell["accuracy"]) == {str(cell["T"]), "4", "20"}
        assert all(len(found["by_seed"]) == 2 for found in cell["accuracy"].values())


def test_a_member_is_what_the_script_trains_alone(tmp_path):
    config = sweep_options(tmp_path, "members")
    palindrome_sweep.main(config)
    member = palindrome_sweep.rnn_config(config, "default", 6)
    alone = train.train(train.Config(**(member.to_dict() | {"seed": 1})))
    folder = tmp_path / "members" / "default-T6"
    meta = json.loads((folder / "checkpoint.json").read_text())
    template = tree.map(lambda leaf: torch.stack([leaf, leaf]), alone.state.params)
    import safetensors.torch

    stored = safetensors.torch.load_file(folder / checkpoint.NAME)
    assert meta["history"][-1]["step"] == 20
    for name in template:
        assert float((stored[f"params/{name}"][1] - alone.state.params[name]).abs().max()) <= 1e-5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"settings": "nothing"}, "--settings nothing: needs one of default"),
        ({"lengths": ""}, "--lengths : needs lengths T"),
        ({"lengths": "5,1"}, "--lengths 5,1: needs lengths T"),
        ({"seeds": 0}, "--seeds 0: needs a positive"),
    ],
)
def test_wrong_sweeps(options, message):
    with pytest.raises(UserError, match=message):
        palindrome_sweep.Config(**options)
