"""The two MLP scripts as a user calls them: results, resumption after SIGKILL, and wrong input."""

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from purenets import Diverged, UserError, tree
from purenets.core.runs import checkpoint, history
from purenets.core.runs.command import command
from scripts import pytorch_train_mlp, train_mlp_numpy
from scripts.shared import mlp
from tests.faults.kills import differing

ROOT = Path(__file__).parents[2]
SCRIPTS = {"train_mlp_numpy": train_mlp_numpy, "pytorch_train_mlp": pytorch_train_mlp}
QUICK = {"train_mlp_numpy": [], "pytorch_train_mlp": ["--no-compile"]}
FILES = (checkpoint.NAME, "history.csv", "curves.png")


def call(name: str, *arguments, module: bool = False, **options) -> subprocess.CompletedProcess:
    command = ["-m", f"scripts.{name}"] if module else [str(ROOT / "scripts" / f"{name}.py")]
    return subprocess.run(
        [sys.executable, *command, *QUICK[name], *map(str, arguments)],
        capture_output=True, text=True, check=False, cwd=ROOT, **options,
    )  # fmt: skip


def config_of(name: str, **options):
    quick = {"compile": False} if name == "pytorch_train_mlp" else {}
    return SCRIPTS[name].Config(**{**quick, **options})


@pytest.mark.parametrize("name", SCRIPTS)
def test_flags_have_the_names_and_defaults_of_the_assignment(name):
    config = SCRIPTS[name].Config.parse([])
    assert (config.dnn_hidden_units, config.learning_rate) == ((20,), 1e-2)
    assert (config.max_steps, config.eval_freq) == (1500, 10)
    assert (config.dataset, config.n_samples, config.test_fraction) == ("moons", 1000, 0.2)
    assert callable(SCRIPTS[name].accuracy)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_module_and_notebook_give_the_same_bits(name, tmp_path):
    options = {"max_steps": 6, "eval_freq": 2, "seed": 3, "dropout": 0.1, "optimizer": "adam"}
    flags = [part for key, value in options.items() for part in (f"--{key}", value)]
    assert call(name, *flags, "--out", tmp_path / "script").returncode == 0
    done = call(name, *flags, "--out", tmp_path / "module", module=True)
    assert done.returncode == 0
    assert done.stderr == ""
    assert "102 parameters, 150 steps (6 epochs)" in done.stdout
    SCRIPTS[name].main(config_of(name, **options, out=str(tmp_path / "notebook")))
    assert differing(tmp_path / "script", tmp_path / "module", FILES) == []
    assert differing(tmp_path / "script", tmp_path / "notebook", FILES) == []


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path):
    folder = tmp_path / "run"
    length = ["--max_steps", "400"]
    script = [sys.executable, str(ROOT / "scripts" / "train_mlp_numpy.py"), *length]
    command = [*script, "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / checkpoint.NAME).exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: stopped after step ")
    assert f"--out {folder} --resume" in err
    assert call("train_mlp_numpy", *length, "--out", folder, "--resume").returncode == 0
    assert call("train_mlp_numpy", *length, "--out", tmp_path / "whole").returncode == 0
    assert differing(folder, tmp_path / "whole", FILES) == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_defaults_learn_moons_and_adam_learns_them_whole(name):
    sgd = SCRIPTS[name].train(config_of(name, max_steps=200, eval_freq=200))
    assert sgd.history[-1]["test_accuracy"] > 0.85
    adam = SCRIPTS[name].train(config_of(name, max_steps=200, eval_freq=200, optimizer="adam"))
    assert adam.history[-1]["train_accuracy"] == 1.0
    assert adam.history[-1]["test_accuracy"] >= 0.99
    assert (adam.predict(adam.task.test[0]) == adam.task.test[1]).mean() == pytest.approx(
        adam.history[-1]["test_accuracy"]
    )


WRONG = [
    (["--bogus", "1"], "unrecognized arguments: --bogus 1"),
    (["--dataset", "moon"], "--dataset moon: needs one of moons, circles"),
    (["--dataset", "missing.csv"], "missing.csv: cannot be read"),
    (["--test_set", "test.csv"], "--test_set test.csv: needs a CSV file as --dataset"),
    (["--label", "kind"], "--label kind: needs a CSV file as --dataset"),
    (["--optimizer", "adamm"], "--optimizer adamm: needs one of sgd"),
    (["--activation", "gelu"], "--activation gelu: needs one of relu, tanh"),
    (["--learning_rate", "-0.1"], "--learning_rate -0.1: needs a positive number"),
    (["--learning_rate", "nan"], "--learning_rate nan: needs a positive number"),
    (["--dnn_hidden_units", ""], "--dnn_hidden_units : needs positive integers"),
    (["--dnn_hidden_units", "a,b"], "--dnn_hidden_units a,b: needs positive integers"),
    (["--noise", "0.1", "--dataset", "iris"], "--noise 0.1: means nothing with --dataset iris, wh"),
    (["--n_samples", "50", "--dataset", "wine"], "--n_samples 50: means nothing with --dataset wi"),
    (["--n_samples", "50", "--dataset", "a.csv"], "--n_samples 50: means nothing with --dataset a"),
    (["--noise", "0.0", "--dataset", "a.csv"], "--noise 0.0: means nothing with --dataset a.csv, "),
    (
        ["--test_fraction", "0.3", "--dataset", "a.csv", "--test_set", "b.csv"],
        "--test_fraction 0.3: means nothing with --test_set b.csv, which is the test part",
    ),
    (["--test_fraction", "0"], "--test_fraction 0.0: needs a number between 0 and 1"),
    (["--test_fraction", "1e-9"], "--test_fraction: 1e-09, needs a number between 0 and 1"),
    (["--dataset", "README.md"], "--dataset README.md: needs a CSV file, whose name ends in .csv"),
    (["--dataset", "docs"], "--dataset docs: needs a CSV file, whose name ends in .csv"),
    (["--dataset", "no.txt"], "--dataset no.txt: needs one of moons, circles, "),
    (
        ["--dataset", "a.csv", "--test_set", "../" + ROOT.name + "/a.csv"],
        "a.csv: is the file of --dataset, needs one of its own",
    ),
    (["--seed", "-1"], "--seed -1: needs a number that is not negative"),
    (["--resume"], "--resume: needs --out"),
    (["--keep", "5"], "--keep 5: means nothing without --out"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_inputs_that_no_class_can_be_predicted_for_are_told(name, dtype):
    config = config_of(name, dataset="iris", max_steps=1, dtype=dtype)
    result = SCRIPTS[name].train(config)
    x = result.task.test[0]
    assert result.predict(x).shape == (len(x),)
    with_nan = x.copy()
    with_nan[3, 1] = np.nan
    other = "float64" if dtype == "float32" else "float32"
    wrong = {
        "row 3 of x has a value that is not finite": with_nan,
        r"x is float\d\d of shape \(4,\), needs 2 axes": x[0],
        "x is None, needs an array": None,
        r"x is <U1 of shape \(1, 4\), needs an array": np.array([list("abcd")]),
        rf"x is {other} of shape .* the params are {dtype}; x.astype\('{dtype}'\)": x.astype(other),
        r"x is int64 of shape \(2, 4\), but the params": np.zeros((2, 4), int),
    }
    for message, inputs in wrong.items():
        with pytest.raises(UserError, match=rf"^predict: {message}"):
            result.predict(inputs)
    with pytest.raises(UserError, match="3"):
        result.predict(x[:, :3])


@pytest.mark.parametrize(
    "text", ["1.5;2.5;0\n1;2;1\n", "1,2,1\n3,4,2\n5,6,3\n", "2019,2020,c\n1,2,0\n1,2,1\n"]
)
def test_arguments_of_python_are_named_as_such(text, tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"\(from Python, by data.from_csv; the scripts have no "):
        train_mlp_numpy.train(config_of("train_mlp_numpy", dataset=str(path)))


def test_a_suffix_in_any_case_is_that_of_a_table(tmp_path):
    path = tmp_path / "own.CSV"
    path.write_text("".join(f"{i},{i % 2}\n" for i in range(100)))
    out = str(tmp_path / "run")
    train_mlp_numpy.train(config_of("train_mlp_numpy", dataset=path, max_steps=1, out=out))
    with pytest.raises(UserError, match=r"--n_samples 50: means nothing with --dataset .*own.CSV"):
        train_mlp_numpy.train(config_of("train_mlp_numpy", dataset=path, n_samples=50))


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(("flags", "message"), WRONG)
def test_wrong_flags_end_in_one_line_and_code_2(name, flags, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, *QUICK[name], *flags])
    with pytest.raises(SystemExit) as stop:
        command(SCRIPTS[name].Config, SCRIPTS[name].main)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_wrong_flag_of_a_real_process_leaves_no_traceback():
    done = call("train_mlp_numpy", "--learning_rate", "fast")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --learning_rate fast: needs a number\n"


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("label", ["kind", "1"])
def test_own_files_of_a_training_and_a_test_set(name, label, tmp_path, capsys):
    files = {"train": range(40), "test": range(40, 46)}
    for part, rows in files.items():
        text = "".join(f"{(-1) ** i},{('cat', 'dog')[i % 2]},{i}\n" for i in rows)
        (tmp_path / f"{part}.csv").write_text("sign,kind,i\n" + text)
    options = {"dataset": tmp_path / "train.csv", "test_set": tmp_path / "test.csv"}
    flags = {**{name: str(path) for name, path in options.items()}, "label": label}
    SCRIPTS[name].main(config_of(name, **flags, max_steps=50, batch_size=40))
    out = capsys.readouterr().out
    assert "50 steps (50 epochs)" in out
    assert "classes 0 cat, 1 dog" in out
    task = SCRIPTS[name].train(config_of(name, **flags, max_steps=1, batch_size=40)).task
    assert np.allclose(task.mean, [0, 19.5])
    assert task.test[1].tolist() == [0, 1] * 3


CHANGES = {
    "values": lambda text: text.replace("39,", "390,"),
    "names exchanged": lambda text: "dog".join(
        part.replace("dog", "cat") for part in text.split("cat")
    ),
    "another name": lambda text: text.replace("cat", "cow"),
    "more classes": lambda text: text.replace("0,cat", "0,cow"),
    "fewer rows": lambda text: text[: text.index("20,")],
}


@pytest.mark.filterwarnings("ignore:.* no example in the training part")
@pytest.mark.filterwarnings("ignore:.*are in the training file too")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("flag", ["dataset", "test_set"])
def test_a_file_that_has_changed_is_not_gone_on_with(flag, change, tmp_path):
    files = {name: tmp_path / f"{name}.csv" for name in ("dataset", "test_set")}
    text = "".join(f"{i},{('cat', 'dog')[i % 2]}\n" for i in range(40))
    for path in files.values():
        path.write_text("i,kind\n" + text)
    files = {name: str(path) for name, path in files.items()}
    options = {**files, "max_steps": 2, "batch_size": 10, "out": str(tmp_path / "run")}
    train_mlp_numpy.train(config_of("train_mlp_numpy", **options))
    Path(files[flag]).write_text("i,kind\n" + CHANGES[change](text))
    longer = config_of("train_mlp_numpy", **{**options, "max_steps": 4}, resume=True)
    with pytest.raises(UserError, match=rf"^--{flag} .*{flag}.csv: its content has changed since"):
        train_mlp_numpy.train(longer)
    Path(files[flag]).write_text("i,kind\n" + text)
    assert train_mlp_numpy.train(longer).history[-1]["step"] == 16


def test_a_csv_with_wrong_values_is_named(tmp_path):
    path = tmp_path / "data.csv"
    for text, message in (
        ("1,2,0\nnan,2,1\n", "not finite"),
        ("1,2,0\n3,4,-1\n", "must be a class"),
    ):
        path.write_text(text * 5)
        with pytest.raises(UserError, match=message):
            train_mlp_numpy.train(config_of("train_mlp_numpy", dataset=str(path)))


def test_out_is_never_overwritten(tmp_path):
    config = {"max_steps": 2, "out": str(tmp_path / "run")}
    train_mlp_numpy.train(config_of("train_mlp_numpy", **config))
    files = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for change, message in [
        ({}, "holds a run; go on with it by --resume"),
        ({"resume": True, "seed": 5}, "holds a run with --seed 0, not 5"),
        (
            {"resume": True, "dnn_hidden_units": "30"},
            "holds a run with --dnn_hidden_units 20, not 30",
        ),
    ]:
        with pytest.raises(UserError, match=message):
            train_mlp_numpy.train(config_of("train_mlp_numpy", **{**config, **change}))
    with pytest.raises(
        UserError, match="holds a run with script train_mlp_numpy, not pytorch_train_mlp"
    ):
        pytorch_train_mlp.train(config_of("pytorch_train_mlp", **config, resume=True))
    assert files == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_a_damaged_checkpoint_and_an_unusable_out_are_named(tmp_path):
    config = {"max_steps": 2, "out": str(tmp_path / "run")}
    train_mlp_numpy.train(config_of("train_mlp_numpy", **config))
    path = tmp_path / "run" / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged or not a checkpoint"):
        train_mlp_numpy.train(config_of("train_mlp_numpy", **config, resume=True))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--out .*file.*: cannot be made"):
        train_mlp_numpy.train(config_of("train_mlp_numpy", out=str(tmp_path / "file" / "run")))
    if os.geteuid() != 0:  # root may write anywhere
        tmp_path.chmod(0o500)
        with pytest.raises(UserError, match="cannot be used"):
            train_mlp_numpy.train(config_of("train_mlp_numpy", out=str(tmp_path / "other")))


def test_more_steps_may_be_asked_of_a_finished_run(tmp_path):
    config = {"max_steps": 4, "eval_freq": 2, "out": str(tmp_path / "run")}
    train_mlp_numpy.train(config_of("train_mlp_numpy", **config))
    longer = train_mlp_numpy.train(
        config_of("train_mlp_numpy", **{**config, "max_steps": 8}, resume=True)
    )
    whole = train_mlp_numpy.train(
        config_of("train_mlp_numpy", **{**config, "max_steps": 8, "out": None})
    )
    assert longer.history == whole.history
    assert history.read_csv(tmp_path / "run" / "history.csv") == whole.history
    assert all(
        np.array_equal(a, b)
        for a, b in zip(
            tree.leaves(longer.state.params), tree.leaves(whole.state.params), strict=True
        )
    )


def test_divergence_says_the_step_the_checkpoint_and_a_hint(tmp_path):
    config = config_of(
        "train_mlp_numpy", learning_rate=1e30, out=str(tmp_path / "run"), eval_freq=1
    )
    with pytest.raises(Diverged, match=r"step \d+; there is no good checkpoint yet; try a lower"):
        train_mlp_numpy.train(config)


def test_the_run_folder_says_what_was_run(tmp_path):
    train_mlp_numpy.train(config_of("train_mlp_numpy", max_steps=1, out=str(tmp_path / "run")))
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["config"]["max_steps"] == 1
    assert about["versions"]["numpy"] == np.__version__
    assert {"curves.png", "boundary.png", "checkpoint.json"} <= {
        p.name for p in (tmp_path / "run").iterdir()
    }


def flowers(path, names, n, draw) -> str:
    """A file of n flowers of three kinds that lie apart, called by `names`."""
    kinds = draw.choice(3, n, p=[0.45, 0.45, 0.1])
    x = draw.normal(size=(n, 2)) + 6 * np.eye(3)[kinds, :2]
    rows = [f"{a},{b},{names[kind]}\n" for (a, b), kind in zip(x, kinds, strict=True)]
    path.write_text("length,width,kind\n" + "".join(rows))
    return str(path)


@pytest.mark.parametrize(
    ("names", "n", "warns"),
    [(("b", "a", "c"), 100, True), (("a", "b", "c"), 100, False), (("b", "a", "c"), 8, False)],
    ids=["exchanged", "the same", "too few to tell"],
)
def test_classes_of_the_test_file_that_are_exchanged_are_warned_of(tmp_path, names, n, warns):
    draw = np.random.default_rng(0)
    files = {"dataset": flowers(tmp_path / "train.csv", ("a", "b", "c"), 300, draw)}
    files["test_set"] = flowers(tmp_path / "test.csv", names, n, draw)
    config = config_of("train_mlp_numpy", **files, max_steps=60)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train_mlp_numpy.main(config)
    told = [str(w.message) for w in found if "far below chance" in str(w.message)]
    assert len(told) == warns
    assert all(text.startswith(f"--test_set {files['test_set']}: the accuracy ") for text in told)


def test_a_net_that_has_not_learned_is_not_warned_of(tmp_path):
    """Nor one that the test part has few classes of: all of one class, half of them right."""
    draw = np.random.default_rng(0)
    files = {"dataset": flowers(tmp_path / "train.csv", ("a", "b", "c"), 300, draw)}
    files["test_set"] = flowers(tmp_path / "test.csv", ("b", "a", "c"), 100, draw)
    result = train_mlp_numpy.train(config_of("train_mlp_numpy", **files, max_steps=60))
    row = {**result.history[-1], "train_accuracy": 0.3}
    mlp.warn_of_other_names(result._replace(history=[row]), "test.csv")
    y = np.zeros(100, int)
    one_class = result._replace(
        task=result.task._replace(test=(result.task.test[0], y)),
        predict=lambda x: np.arange(100) % 2,
        history=[{**result.history[-1], "test_accuracy": 0.5}],
    )
    mlp.warn_of_other_names(one_class, "test.csv")
