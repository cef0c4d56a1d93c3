"""Whatever comes in at an entrance, it is taken or refused in one line: no traceback, no
file lost.
"""

import contextlib
import dataclasses
import importlib
import io
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from purenets import UserError, data, random
from purenets.core.architectures import rnn_shapes
from purenets.core.runs import checkpoint, history
from purenets.core.runs.files import LOCK
from purenets.core.runs.options import Options
from purenets.numpy_nets import mlp_numpy
from purenets.torch_nets import cnn_model, image_mlps, pytorch_mlp, vanilla_rnn
from tests.faults.record import record, scaled

SCRIPTS = (
    "train_mlp_numpy",
    "pytorch_train_mlp",
    "cnn_train",
    "cifar10_cnn",
    "cifar10_mlp",
    "cifar10_sweep",
)
SCRIPTS += (
    "train",
    "palindrome_sweep",
    "compare_mlps",
    "mlp_sweep",
    "cnn_sweep",
    "run_full",
    "make_report",
)
CONFIGS = [
    importlib.import_module(f"scripts.{name}").Config for name in (*SCRIPTS, "make_submission")
]
LEAVES = st.sampled_from(
    ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias", "W_hh", "", ".", "fc1", "fc9.x", "é"]
)
NUMBERS = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 1, 2, 1e308, 1e-308, 2**31, 2**63, 2**64, "1e3", "0x10"]),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    NUMBERS.map(str),
    st.sampled_from(
        [
            "nan",
            "inf",
            "-inf",
            "-0",
            "1,2",
            ",",
            "1,,2",
            "adam",
            "moons",
            "cpu",
            "../..",
            "/",
            "\\0",
            "--",
        ]
    ),
)


def other(counts: Counter) -> int:
    """What was neither taken nor refused in one line."""
    return counts["tried"] - counts["taken"] - counts["refused"]


def fuzzed(quick: int, full: int):
    """So many examples of a strategy, without a database and without a limit of time."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
    return settings(
        max_examples=scaled(quick, full),
        deadline=None,
        database=None,
        suppress_health_check=checks,
        derandomize=True,
    )


def taken_or_refused(call, counts: Counter) -> None:
    """Call it; anything but success and a UserError of one line goes on to the test."""
    counts["tried"] += 1
    try:
        call()
        counts["taken"] += 1
    except UserError as error:
        counts["refused"] += 1
        assert str(error), "an empty message"
        assert len(str(error).splitlines()) == 1, str(error)


def values_of(field) -> st.SearchStrategy:
    """Words after a flag: what its type takes, its default, or anything."""
    plausible = {
        int: st.integers(0, 1000),
        float: st.floats(1e-6, 1.0),
        str: st.just(field.default or "1"),
    }
    return st.one_of(plausible.get(field.type, st.nothing()).map(str), TEXTS)


@st.composite
def command_lines(draw):
    config = draw(st.sampled_from(CONFIGS))
    words = []
    for _ in range(draw(st.integers(0, 3))):
        field = draw(st.sampled_from(dataclasses.fields(config)))
        words += [f"--{field.name}"] + ([] if field.type is bool else [draw(values_of(field))])
    words += draw(st.one_of(st.just([]), st.just([]), st.lists(TEXTS, max_size=2)))
    return config, [word for word in words if word not in ("--help", "-h")]


def test_command_lines():
    counts = Counter()

    @fuzzed(300, 30_000)
    @given(command_lines())
    def check(case):
        config, words = case
        taken_or_refused(lambda: config.parse(words), counts)

    check()
    record("fuzzed: command lines", **counts, other=other(counts))


def test_values_of_a_config_file():
    counts = Counter()
    anything = st.one_of(
        TEXTS, NUMBERS, st.none(), st.booleans(), st.lists(st.integers(), max_size=2)
    )
    plausible = {int: st.integers(0, 1000), float: st.floats(1e-6, 1.0), bool: st.booleans()}

    @fuzzed(300, 20_000)
    @given(st.sampled_from(CONFIGS), st.data())
    def check(config: type[Options], data):
        values = {field.name: field.default for field in dataclasses.fields(config)}
        for _ in range(data.draw(st.integers(0, 3))):
            field = data.draw(st.sampled_from(dataclasses.fields(config)))
            good = plausible.get(field.type, st.just(field.default))
            values[field.name] = data.draw(st.one_of(good, good, good, anything))
        if data.draw(st.integers(0, 9)) == 0:
            values[data.draw(st.text(max_size=4))] = data.draw(anything)
        taken_or_refused(lambda: config.from_dict(values), counts)

    check()
    record("fuzzed: values of config.json", **counts, other=other(counts))


@st.composite
def tables(draw):
    """Rows of numbers and a class, now and then with a cell, a row or a file that is none."""
    width = draw(st.integers(1, 3))
    number, odd = st.floats(-9, 9).map(str), st.one_of(NUMBERS.map(str), st.text(max_size=3))
    cell = number if draw(st.integers(0, 2)) else st.one_of(number, odd)
    label = st.integers(0, 2).map(str) if draw(st.integers(0, 2)) else odd
    rows = [
        ",".join([*(draw(cell) for _ in range(width)), draw(label)])
        for _ in range(draw(st.integers(0, 8)))
    ]
    return "\n".join(["a,b,c"] * draw(st.integers(0, 1)) + rows).encode()


@pytest.mark.filterwarnings("ignore::purenets.core.runs.notes.RunWarning")  # a class of one example
def test_tables_of_numbers(tmp_path):
    counts, path = Counter(), tmp_path / "table.csv"

    @fuzzed(200, 15_000)
    @given(st.one_of(tables(), tables(), st.binary(max_size=40)))
    def check(content):
        path.write_bytes(content)
        taken_or_refused(lambda: data.from_csv(path, random.key(0)), counts)

    check()
    record("fuzzed: tables of numbers", **counts, other=other(counts))


def test_histories_and_checkpoints(tmp_path):
    counts, text = Counter(), st.text(alphabet="step,los1.e-+\n\r\"' nan", max_size=60)
    template = {"params": {"w": np.zeros(3)}}
    checkpoint.save(tmp_path, template, {})
    good = (tmp_path / checkpoint.NAME).read_bytes()
    parts = st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda a, b: good[:a] + b + good[a:],
            st.integers(0, len(good)),
            st.binary(min_size=1, max_size=9),
        ),
    )

    @fuzzed(200, 10_000)
    @given(st.one_of(text.map(str.encode), st.binary(max_size=40)))
    def histories(content):
        (tmp_path / "history.csv").write_bytes(content)
        taken_or_refused(lambda: history.read_csv(tmp_path / "history.csv"), counts)

    @fuzzed(200, 10_000)
    @given(parts)
    def checkpoints(content):
        (tmp_path / checkpoint.NAME).write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            checkpoint.load(tmp_path, template)
        counts.update(tried=1, refused=1)

    histories()
    checkpoints()
    record("fuzzed: histories and checkpoints", **counts, other=other(counts))


NETS = {
    "numpy": (mlp_numpy.MLP(3, [4], 2), np.zeros((2, 3), np.float32)),
    "torch": (pytorch_mlp.MLP(3, [4], 2), torch.zeros(2, 3)),
    "batch_norm": (image_mlps.batch_norm_mlp(12, (4,), 2), torch.zeros(2, 3, 2, 2)),
    "residual": (image_mlps.residual_mlp(12, 4, 1, 2), torch.zeros(2, 3, 2, 2)),
    "cnn": (cnn_model.CNN(3, 2, width=0.02), torch.zeros(2, 3, 8, 8)),
    "rnn": (vanilla_rnn.VanillaRNN(3, 1, 4, 2), torch.zeros(2, 3, 1)),
}
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 12]), max_size=5).map(tuple)


def test_dicts_of_params():
    counts = Counter()

    @fuzzed(200, 12_000)
    @given(st.sampled_from(sorted(NETS)), st.data())
    def check(name, data):
        model, x = NETS[name]
        full = np.full if name == "numpy" else torch.full
        params, buffers = model.init(random.key(0))
        for _ in range(data.draw(st.integers(0, 3))):
            leaf = data.draw(
                st.one_of(
                    st.sampled_from(sorted(params) or [""]),
                    LEAVES,
                    st.sampled_from(sorted(rnn_shapes(1, 4, 2))),
                )
            )
            what = data.draw(st.sampled_from(["gone", "shape", "value"]))
            if what == "gone":
                params.pop(leaf, None)
            else:
                shape = (
                    data.draw(SHAPES)
                    if what == "shape" or leaf not in params
                    else tuple(params[leaf].shape)
                )
                value = data.draw(st.sampled_from([0.0, 1.0, float("nan"), float("inf"), 1e38]))
                dtype = np.float32 if name == "numpy" else torch.float32
                params = params | {leaf: full(shape, value, dtype=dtype)}
        if data.draw(st.booleans()):
            x = full(data.draw(SHAPES), 1.0, dtype=x.dtype)
        with np.errstate(all="ignore"):
            taken_or_refused(lambda: model.apply(params, buffers, x), counts)

    check()
    record("fuzzed: dicts of params", **counts, other=other(counts))


@st.composite
def datasets(draw):
    """Inputs (n, 2) and targets, mostly as many, now and then with what must be refused."""
    n = draw(st.integers(0, 9))
    good, odd = st.floats(-10, 10), st.sampled_from([1e30, 1e-30, float("nan"), float("inf")])
    value = good if draw(st.integers(0, 2)) else st.one_of(good, odd)
    constant = draw(st.booleans())
    x = (
        np.full((n, 2), draw(good))
        if constant
        else np.array(draw(st.lists(value, min_size=2 * n, max_size=2 * n)))
    )
    classes = draw(st.sampled_from([[0], [0, 1], [0, 1, 2], [0, 10**6], [-1, 0], [0.5, 1.0]]))
    m = n if draw(st.integers(0, 4)) else draw(st.integers(0, 9))
    y = np.array(
        draw(st.lists(st.sampled_from(classes), min_size=m, max_size=m)), dtype=type(classes[0])
    )
    return x.reshape(-1, 2), y


@pytest.mark.filterwarnings("ignore:data. .* no example in the training part")
def test_datasets():
    counts = Counter()

    @fuzzed(200, 5_000)
    @given(datasets(), st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0, -1.0, float("nan")]))
    def check(batch, fraction):
        with np.errstate(all="ignore"):
            taken_or_refused(
                lambda: data.prepare(batch, random.key(0), fraction, "float32"), counts
            )

    check()
    record("fuzzed: datasets", **counts, other=other(counts))


def test_whole_scripts_at_the_edges(tmp_path):
    """Tiny trainings from random options: they train, or refuse, and never leave a folder
    half-written.
    """
    from scripts import train_mlp_numpy

    counts = Counter()
    options = st.fixed_dictionaries(
        {},
        optional={
            "dataset": st.sampled_from(["moons", "blobs", "overlap", "none"]),
            "dnn_hidden_units": st.sampled_from(["1", "3", "2,2", "0", "", "x", "999999999999"]),
            "batch_size": st.sampled_from([-1, 0, 1, 7, 800, 801, 10**9]),
            "learning_rate": st.sampled_from([1e-30, 1e-2, 1.0, 1e30, float("nan"), 0.0]),
            "optimizer": st.sampled_from(["sgd", "adam", "muon", "lars", "nothing"]),
            "eval_freq": st.sampled_from([0, 1, 10**12]),
            "seed": st.sampled_from([0, 2**32, 2**64, -1]),
        },
    )

    @fuzzed(15, 300)
    @given(options)
    def check(changes):
        folder = tmp_path / str(counts["tried"])
        counts["tried"] += 1
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                train_mlp_numpy.train(
                    train_mlp_numpy.Config(
                        **{"max_steps": 1, "eval_freq": 1, **changes, "out": str(folder)}
                    )
                )
            counts["taken"] += 1
        except (UserError, ArithmeticError, MemoryError) as error:  # Diverged is one
            counts["refused"] += 1
            assert len(str(error).splitlines()) == 1
        assert {path.name for path in folder.glob(".*")} <= {LOCK}

    check()
    record("fuzzed: whole trainings", **counts, other=other(counts))


def test_argparse_itself_never_prints_a_usage():
    """Even what argparse refuses comes as a UserError (its own way out is exit code 2 with several
    lines).
    """
    with pytest.raises(UserError):
        CONFIGS[0].parse(["--seed"])
