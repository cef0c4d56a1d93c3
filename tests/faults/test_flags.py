"""Every option at its extremes: a training takes it, or refuses it in one line."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch

from purenets import UserError, init_state, numpy_nets, optim, random, torch_nets
from purenets.core import memory
from purenets.core.data.palindromes import is_exhaustive
from scripts import cifar10_mlp, cnn_train, make_report, pytorch_train_mlp, train, train_mlp_numpy
from tests.faults.record import record, scaled

ROOT = Path(__file__).parents[2]


def test_every_option_at_its_extremes():
    command = [sys.executable, "-m", "tests.faults.flags", str(scaled(20, 10**6))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    counts = {"other": 0} | found["counts"]
    record("flags at their extremes", **counts, of=found["of"])
    assert found["wrong"] == []


REFUSED = [
    (train_mlp_numpy, {"dnn_hidden_units": [10**9]}, "of memory, .* --dnn_hidden_units"),
    (train_mlp_numpy, {"dnn_hidden_units": [10**30]}, "needs positive integers with commas"),
    (
        train_mlp_numpy,
        {"dnn_hidden_units": [2**63]},
        "9223372036854775808, needs an integer below",
    ),
    (pytorch_train_mlp, {"dnn_hidden_units": [10**5, 10**5]}, "of memory"),
    (train_mlp_numpy, {"n_samples": 10**12}, "n: a set of 1,000,000,000,000 examples: needs about"),
    (train, {"num_hidden": 10**9}, "of memory, .* smaller --num_hidden"),
    (train, {"input_length": 10**12}, "of memory, .*--input_length"),
    (train, {"batch_size": 10**12}, "of memory, .*--batch_size"),
    (cnn_train, {"data": "digits", "width": 1e300}, "which no memory holds"),
    (cnn_train, {"data": "digits", "image_size": 10**9}, "--image_size 1,000,000,000: 1,797"),
    (cifar10_mlp, {"data": "digits", "width": 10**6, "members": 1000}, "of memory"),
    (pytorch_train_mlp, {"device": "meta"}, "--device meta: not available here"),
    (pytorch_train_mlp, {"threads": 10**12}, "--threads 1000000000000: needs at most 1,024"),
    (
        train_mlp_numpy,
        {"eval_freq": 10**400},
        r"--eval_freq 10+\.\.\.: needs an integer below 2\^64",
    ),
    (train_mlp_numpy, {"eval_freq": 10**5000}, "--eval_freq of so many digits: needs an integer"),
    (train_mlp_numpy, {"out": ""}, "--out : needs a path"),
    (train_mlp_numpy, {"out": "a\0b"}, r"--out a\\x00b: needs a text without NUL"),
    (train_mlp_numpy, {"dataset": "\0.csv"}, "needs a text without NUL"),
    (make_report, {"results": "/nope", "pdf": False}, "--results /nope: cannot be read"),
]


@pytest.mark.parametrize(("script", "options", "message"), REFUSED)
def test_what_no_machine_can_is_refused_before_anything_is_allocated(
    script, options, message, tmp_path
):
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=message) as error:
            script.main(script.Config(**{"out": str(tmp_path / "run"), **options}))
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
    finally:
        tracemalloc.stop()
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_init_state_refuses_a_net_that_does_not_fit(nets):
    with pytest.raises(UserError, match=r"a net of .* params: needs about .* of memory"):
        init_state(nets.MLP(10**6, [10**6], 2), optim.sgd(0.1), random.key(0))


@pytest.mark.parametrize(
    ("model", "n"),
    [
        (torch_nets.MLP(3, [5], 2, dropout=0.5), 3 * 5 + 5 + 5 * 2 + 2),
        (numpy_nets.MLP(3, [5], 2), 3 * 5 + 5 + 5 * 2 + 2),
        (torch_nets.CNN(3, 10), 9_231_114),
        (numpy_nets.CNN(3, 10), 9_231_114),
        (torch_nets.VanillaRNN(4, 1, 8, 10), 8 + 64 + 8 + 80 + 10),
        (numpy_nets.VanillaRNN(4, 1, 8, 10), 8 + 64 + 8 + 80 + 10),
        (torch_nets.from_module(torch.nn.Linear(2, 2)), 0),  # not known
    ],
)
def test_a_net_knows_how_many_params_it_will_have(model, n):
    assert getattr(model.init, "n_params", 0) == n


def test_what_is_available_is_a_number_of_bytes():
    assert memory.available() is None or 2**26 < memory.available() < 2**50


def test_the_least_of_all_limits_counts(monkeypatch):
    for name, rooms in (("_of_system", [8]), ("_of_container", [5, 9]), ("_of_process", [])):
        monkeypatch.setattr(memory, name, lambda rooms=rooms: iter(rooms))
    assert memory.available() == 5
    memory.expect_room(5, "it")
    with pytest.raises(UserError, match=r"it: needs about 0\.0 GiB of memory"):
        memory.expect_room(6, "it")
    for name in ("_of_system", "_of_container"):
        monkeypatch.setattr(memory, name, lambda: iter(()))
    memory.expect_room(10**30, "it")  # nobody says


@pytest.mark.parametrize(("T", "size", "all_of_them"), [(12, 10**6, True), (13, 10**9, False)])
def test_long_palindromes_are_not_counted(T, size, all_of_them):
    assert is_exhaustive(T, size) is all_of_them
    assert is_exhaustive(10**12, size) is False  # at once
