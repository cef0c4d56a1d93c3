"""The sweeps of trainings on images: what a setting's name says, how settings are chosen, and that
every one that was tried is in the file."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from PIL import Image

from purenets import UserError, runs
from purenets.core.report.tables import to_markdown
from scripts import cifar10_cnn, cifar10_sweep, cnn_sweep, cnn_train
from scripts.figures import cifar10 as figures
from scripts.report import cifar10 as report
from scripts.shared import sweeps, training
from scripts.shared.sweeps import changes, images_of
from scripts.tables.images import ablation

DIGITS = {"data": "digits", "threads": 1}


def a_row(setting: str, seed: int, accuracy: float, **more) -> dict:
    history = [{"step": 10 * i, "valid_accuracy": accuracy - 0.1 + 0.05 * i} for i in range(3)]
    history = [row | {"loss": 1.0, "accuracy": 0.5, "valid_loss": 2.0} for row in history]
    row = {"setting": setting, "seed": seed, "history": history, "test": {}}
    laps = [{"step": 10 * i, "seconds": 30.0 * i} for i in range(3)]
    return row | {"training_seconds": 60.0, "laps": laps} | more


def test_the_images_are_named_by_the_commands():
    plain = {"command": "python scripts/cnn_train.py --learning_rate 0.001 --out runs/a"}
    folder = {"command": "python scripts/cnn_train.py --data folder --data_dir 'data/my set'"}
    moved = {"command": "python scripts/cnn_train.py --data_dir elsewhere --out runs/a"}
    assert images_of([plain, moved]) == "CIFAR-10"
    assert images_of([folder, folder]) == "my set"
    assert images_of([plain, folder]) != "CIFAR-10"


def member(setting: str, seed: int = 0, **options):
    return cifar10_sweep.member(cifar10_sweep.Config(settings=setting, **options), setting, seed)[1]


def test_the_name_of_a_setting_says_what_is_changed():
    setting = "cnn 94: epochs=7 channels=16x32x32 dirac=false hardest=0.5"
    config = member(setting, 3)
    expected = dataclasses.replace(
        cifar10_cnn.PRESETS["94"],
        epochs=7.0, channels=(16, 32, 32), dirac=False, hardest=0.5, seed=3, out=config.out,
    )  # fmt: skip
    assert config == expected
    assert member("cnn 94", 3).out != config.out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("cnn 93", "--settings cnn 93: needs one of final, ablation, cnn 94"),
        ("cnn 93: epochs=3", "--settings cnn 93: epochs=3: needs one of"),
        (0, "--settings 0: needs one of"),  # a file may hold anything
        ("cnn 94: epoch=3", "unrecognized arguments: --epoch"),
        ("cnn 94: epochs=many", "--epochs many: needs a number"),
        ("cnn 94: seed=7", "cnn 94: seed=7: seed is set by the sweep for all"),
        ("cnn 94: epochs=1 data=digits", "data is set by the sweep for all; leave it out"),
    ],
)
def test_a_setting_that_is_none_is_named_before_anything_is_trained(setting, message, monkeypatch):
    def never(*arguments):
        raise AssertionError("no training is to begin")

    monkeypatch.setattr(sweeps, "trained", never)
    with pytest.raises(UserError, match=message):
        cifar10_sweep.main(cifar10_sweep.Config(settings=(setting,)))


def test_settings_are_chosen_on_5000_images_and_the_test_is_not_looked_at():
    chosen = member("cnn 95", choose=True)
    assert chosen.valid_fraction * 50_000 == 5_000
    assert chosen.test is False
    for name in cifar10_sweep.VARIANTS:
        config = member(name)
        assert (config.valid_fraction, config.test) == (0.1, False), name


def test_final_runs_train_on_all_images():
    config = cifar10_sweep.Config(settings="final")
    for name in cifar10_sweep.GROUPS["final"]:
        final = cifar10_sweep.member(config, name, 100)[1]
        assert (final.valid_fraction, final.test) == (0.0, True)
    assert member("cnn 94").valid_fraction == cifar10_cnn.PRESETS["94"].valid_fraction


def test_choosing_holds_images_out_whatever_the_settings_say():
    config = cifar10_sweep.Config(settings="final", choose=True)
    for name in cifar10_sweep.GROUPS["final"]:
        chosen = cifar10_sweep.member(config, name, 0)[1]
        assert (chosen.valid_fraction, chosen.test) == (0.1, False)
    with pytest.raises(UserError, match="--valid_fraction 0: --choose needs held-out images"):
        member("cnn 94", choose=True, valid_fraction=0.0)
    with pytest.raises(UserError, match="--choose sets valid_fraction and test; leave them out"):
        member("cnn 94: valid_fraction=0.3", choose=True)
    assert member("cnn 94: valid_fraction=0.3").valid_fraction == 0.3


def test_an_ablation_is_a_preset_without_one_ingredient_at_the_length_it_says():
    lengths = {"cnn": 1.0, "mlp": 0.1, "vgg": 0.1}
    for base, (kind, preset, _, own) in cifar10_sweep.CHANGES.items():
        whole = member(base)
        full = cifar10_sweep.SCRIPTS[kind].PRESETS[preset]
        assert whole.epochs == pytest.approx(lengths[base] * full.epochs)
        for text, change in own.items():
            config = member(f"{base}: {text}")
            for name, value in change.items():
                assert getattr(config, name) == value
            same = {name: getattr(whole, name) for name in change} | {"out": whole.out}
            assert dataclasses.replace(config, **same) == whole
            assert config != dataclasses.replace(whole, out=config.out), text


def test_every_setting_that_was_tried_is_a_row_with_its_curves(tmp_path, monkeypatch):
    small = {"channels": (8, 8, 8), "train_images": 300, "epochs": 2.0, "views": "mirror"}
    preset = dataclasses.replace(cifar10_cnn.PRESETS["digits"], **small)
    monkeypatch.setitem(cifar10_cnn.PRESETS, "digits", preset)
    path = tmp_path / "found.json"
    options = DIGITS | {"out": str(tmp_path / "runs"), "results": str(path), "choose": True}
    names = ["cnn digits", "cnn digits: epochs=1", "cnn digits: learning_rate=0.01 epochs=1"]
    config = cifar10_sweep.Config(settings=",".join(names), seeds=1, **options)
    rows = cifar10_sweep.main(config)
    assert [row["setting"] for row in rows] == names
    kept = json.loads(path.read_text())["rows"]
    assert kept == rows
    assert path.read_text().count("\n") < 40  # a line for each row
    assert [row["step"] for row in rows[0]["history"]] == [0, 3, 6]  # after each epoch
    assert rows[0]["history"][-1].keys() == {
        "step", "loss", "accuracy", "valid_loss", "valid_accuracy"
    }  # fmt: skip
    table = path.with_suffix(".md").read_text()
    assert all(f"| {name} |" in table for name in names)
    assert rows[0]["test"] == {}
    assert all(0 < row["valid_views_accuracy"] < 1 for row in rows)


@pytest.mark.parametrize("script", [cifar10_sweep, cnn_sweep])
def test_rows_of_other_images_are_not_mixed_with_those_of_a_sweep(script, tmp_path, monkeypatch):
    def never(*arguments):
        raise AssertionError("no training is to begin")

    monkeypatch.setattr(sweeps, "trained", never)
    copy = "python scripts/cnn_train.py --data folder --data_dir data/copy --out runs/a"
    row = a_row("other", 0, 0.9, command=copy, git_commit="c" * 40, machine="m")
    about = {"n": 1, "git_commit": "c" * 40, "machine": "m"}
    path = tmp_path / "found.json"
    path.write_text(json.dumps(about | {"rows": [row]}))
    before = path.read_bytes()
    config = script.Config(**DIGITS, seeds=1, out=str(tmp_path / "runs"), results=str(path))
    with pytest.raises(UserError, match=r"--results .*: holds rows of copy, not of digits; name"):
        script.main(config)
    assert path.read_bytes() == before


TINY = {"width": 0.05, "max_steps": 4, "settings": ("adam 1e-3",), "seeds": 1} | DIGITS


def test_rows_of_other_options_are_not_mixed_with_those_of_a_sweep(tmp_path):
    path = tmp_path / "found.json"
    config = cnn_sweep.Config(**TINY, out=str(tmp_path / "a"), results=str(path))
    cnn_sweep.main(config)
    before = path.read_bytes()
    for name, value in {"width": 0.1, "max_steps": 5, "precision": "float32"}.items():
        other = dataclasses.replace(config, **{name: value}, seeds=2, out=str(tmp_path / "b"))
        with pytest.raises(UserError, match=f"adam 1e-3, seed 0, with --{name} .*, not "):
            cnn_sweep.main(other)
    assert path.read_bytes() == before
    cnn_sweep.main(dataclasses.replace(config, out=str(tmp_path / "c"), seeds=2))  # moved
    assert len(json.loads(path.read_text())["rows"]) == 2


@pytest.mark.parametrize("steps", [2, 6])
def test_a_finished_run_of_another_length_is_not_that_of_a_sweep(tmp_path, steps):
    config = cnn_sweep.Config(**TINY, out=str(tmp_path / "runs"))
    cnn_sweep.main(config)
    other = dataclasses.replace(config, max_steps=steps, seeds=2)
    with pytest.raises(
        UserError, match=rf"--max_steps {steps}: the run in .* took 4; name another"
    ):
        cnn_sweep.main(other)


def test_a_preset_with_other_images_held_out_is_another_setting(tmp_path):
    row = a_row("cnn 94", 0, 0.9, git_commit="c" * 40, machine="m")
    config = cifar10_sweep.Config(settings=("final",))
    row["command"] = runs.command_line(cifar10_sweep.member(config, "cnn 94", 0)[1])
    path = tmp_path / "found.json"
    path.write_text(json.dumps({"n": 1, "git_commit": "c" * 40, "machine": "m", "rows": [row]}))
    config = cifar10_sweep.Config("cnn 94", seeds=1, out=str(tmp_path / "r"), results=str(path))
    with pytest.raises(UserError, match=r"with --valid_fraction 0\.0, not 0\.02"):
        cifar10_sweep.main(config)
    assert cifar10_sweep.main(dataclasses.replace(config, valid_fraction=0.0)) == [row]


def test_images_that_have_changed_are_not_those_of_a_sweep(tmp_path):
    def images(place, value):
        for part, name in itertools.product(("train", "test"), "ab"):
            folder = tmp_path / place / "set" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(20):
                pixels = np.full((32, 32, 3), value + 3 * i + 80 * (name == "a"), np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
        return {"data": "folder", "data_dir": str(tmp_path / place / "set")}

    path = tmp_path / "found.json"
    options = TINY | {"max_steps": 2, "results": str(path), "out": str(tmp_path / "runs")}
    first = cnn_sweep.Config(**options | images("one", 0))
    cnn_sweep.main(first)
    other = cnn_sweep.Config(**options | images("two", 50) | {"seeds": 2})
    with pytest.raises(UserError, match="holds rows of other images than those in"):
        cnn_sweep.main(other)
    images("one", 50)
    with pytest.raises(UserError, match="its content has changed since the run"):
        cnn_sweep.main(dataclasses.replace(first, results=None))


def test_a_run_of_a_sweep_goes_on_without_its_preset(tmp_path):
    config = cnn_sweep.Config(**TINY, out=str(tmp_path))
    cnn_sweep.main(config)
    run = cnn_sweep.member(config, "adam 1e-3", 0)
    longer = dataclasses.replace(run, preset="assignment", max_steps=6, resume=True)
    assert cnn_train.main(longer) is not None


def test_the_earlier_end_of_a_run_that_went_on_is_not_taken_for_the_new_one(tmp_path, monkeypatch):
    config = cnn_sweep.Config(**TINY, out=str(tmp_path))
    (short,) = cnn_sweep.main(config)
    run = cnn_sweep.member(config, "adam 1e-3", 0)

    def killed(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "tested", killed)
        cnn_train.main(dataclasses.replace(run, max_steps=6, resume=True))
    folder = next(path.parent for path in tmp_path.rglob("config.json"))
    assert not any((folder / name).exists() for name in ("results.json", "curves.png"))
    (found,) = cnn_sweep.main(dataclasses.replace(config, max_steps=6))
    assert found["history"][-1]["step"] == 6
    assert found["test"]["loss"] != short["test"]["loss"]


def test_variants_without_held_out_images_are_not_compared(tmp_path, monkeypatch, capsys):
    def row(script, config):
        history = [{"step": 1, "loss": 1.0, "accuracy": 0.5}]
        return {"history": history, "test": {}, "git_commit": None, "machine": "here"}

    monkeypatch.setattr(sweeps, "trained", row)
    settings = ("mlp", "mlp: no crop")
    cifar10_sweep.main(cifar10_sweep.Config(settings, valid_fraction=0, out=str(tmp_path)))
    assert "points of validation" not in capsys.readouterr().out


def test_a_variant_alone_is_compared_with_nothing(tmp_path, monkeypatch, capsys):
    row = a_row("cnn: no crop", 0, 0.8, git_commit=None, machine="here")
    monkeypatch.setattr(sweeps, "trained", lambda script, config: row)
    config = cifar10_sweep.Config("cnn: no crop", seeds=1, out=str(tmp_path))
    cifar10_sweep.main(config)
    assert "cnn: no crop" in capsys.readouterr().out


def test_a_variant_without_a_seed_of_its_base_is_left_out():
    rows = [a_row("cnn", 0, 0.8), a_row("cnn: no crop", 1, 0.8), a_row("cnn: no flip", 0, 0.9)]
    for table in (cifar10_sweep.differences(rows, "cnn"), ablation(rows, "cnn")):
        (row,) = table.rows[1:]
        assert row[0] == "no flip"
        assert row[1] == "+10.00"


def test_an_ingredient_counts_by_the_difference_of_the_same_seeds():
    rows = [a_row("cnn", 0, 0.80), a_row("cnn", 1, 0.90), a_row("cnn", 2, 0.85)]
    rows += [a_row("cnn: no crop", 0, 0.79), a_row("cnn: no crop", 1, 0.87)]
    points = changes(rows, "cnn")["no crop"]
    assert points == pytest.approx([-1.0, -3.0])
    text = to_markdown(cifar10_sweep.differences(rows, "cnn"))
    error = np.std(points, ddof=1) / np.sqrt(2)
    assert f"| no crop | -2.00 | {error:.2f} | 2 |" in text
    (alone,) = (
        line
        for line in to_markdown(cifar10_sweep.differences(rows[:4], "cnn")).splitlines()
        if "no crop" in line
    )
    assert alone == "| no crop | -1.00 |  | 1 |"  # one seed has no error


# --- figures --------------------------------------------------------------------------------------


def test_training_is_drawn_beside_validation():
    rows = [a_row("cnn 94", seed, 0.8 + seed / 100) for seed in range(2)] + [a_row("mlp", 0, 0.5)]
    figure = figures.learning_curves(rows)
    titles = ["cnn 94 (n = 2)", "", "mlp (n = 1)", ""]
    assert [axis.get_title("left") for axis in figure.axes] == titles
    assert [len(axis.lines) for axis in figure.axes] == [4, 4, 2, 2]
    accuracy = figure.axes[1]
    assert list(accuracy.lines[0].get_ydata()) == [0.5, 0.5, 0.5]
    assert list(accuracy.lines[3].get_ydata()) == pytest.approx([0.71, 0.76, 0.81])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == [
        "training", "validation"
    ]  # fmt: skip


def test_runs_without_validation_images_show_the_training():
    rows = [a_row("cnn 94", seed, 0.8) for seed in range(2)]
    for row in rows:
        row["history"] = [
            {k: v for k, v in point.items() if not k.startswith("valid")}
            for point in row["history"]
        ]
        row["test"] = {"loss": 0.4, "accuracy": 0.9}
    loss, accuracy = figures.learning_curves(rows).axes
    assert loss.get_title("left") == "cnn 94 (n = 2, none held out)"
    assert accuracy.get_title("left") == ""
    for drawn, star in ((loss, 0.4), (accuracy, 0.9)):  # a line and a star for each run
        assert [list(line.get_ydata()) for line in drawn.lines[2:]] == [[star], [star]]
    (axis,) = figures.over_time(rows, {"cnn 94": 0.7}).axes
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels[1:] == ["line: training accuracy", "marker: test at the end"]
    other = a_row("mlp mlp", 0, 0.8)
    (mixed,) = figures.over_time([*rows, other], {"cnn 94": 0.7, "mlp mlp": 4.0}).axes
    labels = [text.get_text() for text in mixed.get_legend().get_texts()]
    assert labels[2] == "line: validation or training accuracy"
    assert list(axis.lines[0].get_xdata()) == [0, 0.35, 0.7]
    assert list(axis.lines[0].get_ydata()) == [0.5, 0.5, 0.5]
    assert list(axis.lines[1].get_ydata()) == [0.9]
    assert report.of_validation(rows) == {"gap": None, "late_gain": None}
    assert report.of_validation([a_row("cnn 94", 0, 0.8)])["gap"] == "-30.00"  # one seed
    assert report.of_validation(2 * [a_row("cnn 94", 0, 0.8)])["gap"] == "-30.00 ± 0.00"


def test_the_time_of_a_setting_is_that_of_trainings_as_long_as_its_own():
    recipe = {"steps": 200, "seconds": 500.0}
    pairs = {
        "cnn 94": {"recipe": recipe, "purenets cnn 94": {"steps": 20, "seconds": 350.0}},
        "cnn 95": {"recipe": recipe, "purenets cnn 95": {"steps": 21, "seconds": 900.0}},
    }
    rows = [a_row("cnn 94", 0, 0.8), a_row("cnn 95", 0, 0.8), a_row("mlp mlp", 0, 0.8)]
    found = {"time": {"unit": "recipe", "pairs": pairs}}
    assert figures.times_in_a(rows, found) == {"cnn 94": 0.7}  # 95 had another length then
    (axis,) = figures.over_time(rows, {"cnn 94": 0.7}).axes
    assert next(line.get_label() for line in axis.lines) == "cnn 94 (n = 1)"
    assert not any("95" in line.get_label() for line in axis.lines)


# --- Part II --------------------------------------------------------------------------------------


def test_every_setting_of_part_two_holds_out_as_many_images():
    for name, values in cnn_sweep.SETTINGS.items():
        config = cnn_train.Config(**values)
        assert config.valid_fraction == 0.1, name
        assert config.epochs in ((0.0,) if name not in cnn_sweep.LONG else (40.0, 36.0))


def test_the_best_of_part_two_is_the_preset_and_the_default_net_has_pytorchs_initialization():
    best = cnn_train.Config(**cnn_sweep.SETTINGS["best"])
    assert best == dataclasses.replace(cnn_train.PRESETS["vgg"], valid_fraction=0.1)
    for name, values in cnn_sweep.SETTINGS.items():
        assert values.get("dirac", False) == (name == "best")


def test_precision_is_told_apart():
    adam, in_float32 = (
        cnn_train.Config(**{"precision": "bfloat16"} | cnn_sweep.SETTINGS[name])
        for name in ("adam 1e-3", "adam 1e-3 in float32")
    )
    assert dataclasses.replace(adam, precision="float32") == in_float32
    assert cnn_sweep.Config().precision == adam.precision


def test_length_and_regularization_are_told_apart():
    plain, augmented = (
        cnn_train.Config(**cnn_sweep.SETTINGS[f"40 epochs {name}"])
        for name in ("plain", "augmented")
    )
    moves = {"flip": "random", "crop": 4, "cutout": 8}
    assert dataclasses.replace(plain, **moves) == augmented
