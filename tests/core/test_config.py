import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purenets import Diverged, Interrupted, UserError
from purenets.core.runs.command import command
from purenets.core.runs.options import Options, each, fraction, one_of, option, positive, widths
from scripts import cnn_train, train
from scripts.shared.mlp import MLPConfig


@dataclass(frozen=True)
class Config(Options):
    """A few options."""

    rate: float = option(0.1, "the rate, 100%", positive)
    steps: int = option(5, "steps", positive)
    units: tuple[int, ...] = option((20,), "units", widths)
    names: tuple[str, ...] = option(("a",), "names", each(one_of(["a", "b c"])))
    rates: tuple[float, ...] = option((), "rates")
    name: str = option("a", "name", one_of(["a", "b"]))
    drop: float = option(0.0, "drop", fraction)
    resume: bool = option(False, "go on")
    compile: bool = option(True, "compile")
    noise: float = option(None, "noise")


def test_defaults_and_flags():
    assert Config.parse([]) == Config()
    arguments = ["--rate", "1e-3", "--units", "20,30", "--resume", "--no-compile", "--noise", "2"]
    expected = Config(rate=1e-3, units=(20, 30), resume=True, compile=False, noise=2.0)
    assert Config.parse(arguments) == expected


@given(
    st.builds(
        Config,
        rate=st.floats(1e-9, 1e9),
        steps=st.integers(1, 10**9),
        resume=st.booleans(),
        units=st.lists(st.integers(1, 10**9), min_size=1),
        names=st.lists(st.sampled_from(["a", "b c"])),
        rates=st.lists(st.floats(allow_nan=False)),
    )
)
def test_from_dict_inverts_to_dict(config):
    assert Config.from_dict(config.to_dict()) == config
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_list_may_come_as_text_list_or_tuple_and_goes_out_as_text():
    texts = {"units": "20, 30", "names": "b c,a", "rates": "1,.5"}
    expected = Config(units=(20, 30), names=("b c", "a"), rates=(1.0, 0.5))
    assert Config(**texts) == expected
    assert Config(units=[20, 30], names=["b c", "a"], rates=[1, 0.5]) == expected
    assert Config.parse([f"--{name}={text}" for name, text in texts.items()]) == expected
    assert {name: expected.to_dict()[name] for name in texts} == {
        "units": "20,30", "names": "b c,a", "rates": "1.0,0.5"
    }  # fmt: skip
    assert Config(names="", rates=" ") == Config(names=())


def test_names_are_taken_in_any_case_and_held_as_they_are_listed():
    @dataclass(frozen=True)
    class Named(Options):
        same: str = option("Ab", "of two that differ in case", choices=["ab", "Ab", 2])
        many: tuple[str, ...] = option((), "names", each(one_of({"a": 1, "b c": 2})))
        preset: str = option("", "a preset")

    assert Named(same="aB", many="B C,A") == Named(same="ab", many=("b c", "a"))
    assert Named.parse(["--same", "Ab", "--many", "A"]) == Named(same="Ab", many=("a",))
    presets = {"small": Named(preset="small"), "large": Named(many="a", preset="large")}
    assert Named.parse(["--preset", "LARGE"], presets) == presets["large"]
    assert Config.given(argparse.Namespace(name="B")).to_dict()["name"] == "b"
    with pytest.raises(UserError, match="--many a,C: needs one of a, b c"):
        Named(many="A,C")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"units": 20}, "--units 20: needs integers with commas between them"),
        ({"units": None}, "--units None: needs integers with commas between them"),
        (
            {"units": [20, True]},
            "--units 20,True: needs positive integers with commas between them, as 20 or",
        ),
        ({"units": ["20"]}, "--units 20: needs positive integers"),
        ({"rates": [[1.0]]}, r"--rates \[1.0\]: needs numbers with commas between them"),
        ({"names": [1]}, "--names 1: needs one of a, b c"),
    ],
)
def test_wrong_lists_are_named(values, message):
    with pytest.raises(UserError, match=message):
        Config(**values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rate", "-1"], "--rate -1.0: needs a positive number"),
        (["--rate", "nan"], "--rate nan: needs a positive number"),
        (["--rate", "inf"], "--rate inf: needs a positive number"),
        (["--rate", "fast"], "--rate fast: needs a number"),
        (["--steps", "1.5"], "--steps 1.5: needs an integer"),
        (["--units", ""], "--units : needs positive integers"),
        (["--units", "20,x"], "--units 20,x: needs positive integers"),
        (["--units", "0"], "--units 0: needs positive integers"),
        (["--units", "20,,30"], "--units 20,,30: needs positive integers"),
        (["--names", "a,c"], "--names a,c: needs one of a, b c"),
        (["--rates", "0.1,x"], "--rates 0.1,x: needs numbers with commas between them"),
        (["--name", "c"], "--name c: needs one of a, b"),
        (["--drop", "1"], "--drop 1.0: needs a number from 0 to below 1"),
        (["--unknown", "1"], "unrecognized arguments: --unknown 1"),
        (["--rat", "1"], "unrecognized arguments: --rat 1"),
        (["--rate"], "expected one argument"),
        (["--resume", "yes"], "unrecognized arguments: yes"),
    ],
)
def test_wrong_flags_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        Config.parse(arguments)


def test_wrong_values_are_named_in_a_notebook_too():
    with pytest.raises(UserError, match="--rate fast: needs a number"):
        Config(rate="fast")
    with pytest.raises(UserError, match="--steps True: needs an integer"):
        Config(steps=True)
    with pytest.raises(UserError, match="--steps '3': needs an integer"):
        Config(steps="3")
    with pytest.raises(UserError, match=r"--rate '0\.1': needs a number"):
        Config(rate="0.1")
    with pytest.raises(UserError, match="speed missing or unknown"):
        Config.from_dict({**Config().to_dict(), "speed": 1})


def test_help_lists_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        Config.parse(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "100%" in text
    assert all(f"--{name}" in text for name in Config().to_dict())


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("--rate x: needs a number"), 2),
        (Diverged("the loss is nan at step 3"), 1),
        (Interrupted("stopped after step 3"), 130),
        (None, 0),
    ],
)
def test_run_ends_in_one_line_and_a_code(error, code, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script"])

    def main(config):
        if error:
            raise error

    with pytest.raises(SystemExit) as stop:
        command(Config, main)
    assert stop.value.code == code
    assert capsys.readouterr().err == (f"error: {error}\n" if error else "")


def test_flags_may_be_spelled_with_dashes():
    assert Dashed.parse(["--learning-rate", "0.5"]) == Dashed.parse(["--learning_rate=0.5"])
    assert (
        Dashed.parse(["--no-use-bias"]) == Dashed.parse(["--no-use_bias"]) == Dashed(use_bias=False)
    )


@dataclass(frozen=True)
class Dashed(Options):
    """Options of two words."""

    learning_rate: float = option(0.1, "rate")
    use_bias: bool = option(True, "bias")


def test_a_preset_gives_the_defaults_of_the_other_options():
    presets = {
        "small": Small(preset="small", rate=0.5),
        "large": Small(preset="large", rate=2.0, on=True),
    }
    assert Small.parse([], presets) == presets["small"]
    assert Small.parse(["--preset", "large"], presets) == presets["large"]
    assert Small.parse(["--rate", "3", "--preset=large", "--no-on"], presets) == Small(
        "large", 3.0, False
    )
    with pytest.raises(UserError, match="--preset huge: needs one of small, large"):
        Small.parse(["--preset", "huge"], presets)
    with pytest.raises(UserError, match="expected one argument"):
        Small.parse(["--preset"], presets)


@dataclass(frozen=True)
class Small(Options):
    """For the presets."""

    preset: str = option("", "a name")
    rate: float = option(1.0, "a rate", positive)
    on: bool = option(False, "a switch")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_too_little_memory_is_one_line(error, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["script"])

    def main(config):
        raise error

    with pytest.raises(SystemExit) as end:
        command(Small, main)
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith("error: not enough memory for this net or batch (")


def test_other_errors_are_not_hidden(monkeypatch):
    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(RuntimeError, match="a bug"):
        command(Small, lambda config: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_messages_hold_nothing_that_cannot_be_printed():
    assert str(UserError("a\x1b[31m\nb")) == "a\\x1b[31m\\nb"


def test_a_function_takes_no_config_a_config_or_a_namespace():
    assert Config.given() == Config.given(None) == Config()
    config = Config(rate=0.5)
    assert Config.given(config) is config
    own = argparse.Namespace(rate=0.5, units="20,30")
    assert Config.given(own) == Config(rate=0.5, units=(20, 30))
    with pytest.raises(UserError, match="config: nonsense unknown"):
        Config.given(argparse.Namespace(nonsense=1))
    with pytest.raises(UserError, match="config: a dict, needs the script's Config"):
        Config.given({"rate": 0.5})


@pytest.mark.parametrize("ending", ["", "bad input"])
def test_a_second_ctrl_c_while_the_script_ends_is_no_traceback(monkeypatch, ending):
    def interrupted(*_):
        raise KeyboardInterrupt

    def main(config):
        if ending:
            raise UserError(ending)

    monkeypatch.setattr("sys.argv", ["script.py"])
    monkeypatch.setattr("atexit.register", lambda function: None)
    monkeypatch.setattr("purenets.core.runs.command._code_of_output", interrupted)
    monkeypatch.setattr("purenets.core.runs.command._complain", interrupted)
    with pytest.raises(SystemExit) as ended:
        command(Config, main)
    assert ended.value.code == 130


def test_a_path_is_taken_where_a_text_is():
    config = MLPConfig(dataset=Path("a/num.csv"), out=Path("run"))
    assert (config.dataset, config.out) == (str(Path("a/num.csv")), "run")
    assert MLPConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("config", "flag", "hint"),
    [
        (MLPConfig, "--lr", "is it --learning_rate?"),
        (MLPConfig, "--epochs", "is it --max_steps?"),
        (MLPConfig, "--hidden", "is it --dnn_hidden_units?"),
        (MLPConfig, "--batch", "is it --batch_size?"),
        (MLPConfig, "--data", "is it --dataset?"),
        (MLPConfig, "--learnig-rate", "is it --learning_rate?"),
        (MLPConfig, "--seeds", "is it --seed?"),
        (MLPConfig, "--compile", ""),
        (MLPConfig, "--gpu", ""),
        (train.Config, "--epochs", ""),  # it counts steps
        (train.Config, "--steps", "is it --train_steps?"),
        (train.Config, "--hidden_size", "is it --num_hidden?"),
        (cnn_train.Config, "--num_epochs", "is it --epochs?"),
    ],
)
def test_a_mistyped_flag_is_answered_by_what_is_meant_or_not_at_all(config, flag, hint):
    with pytest.raises(UserError, match="unrecognized arguments") as error:
        config.parse([flag, "1"])
    assert (
        str(error.value).split(" (")[1]
        == (f"{hint} " if hint else "") + "--help lists all options)"
    )
