"""The scripts for CIFAR-10 as high as it goes: what they learn, their presets, their sweep, kills,
wrong input.
"""

import contextlib
import dataclasses
import json
import sys

import pytest
import torch

from purenets import Interrupted, UserError, random, runs
from purenets.core.report.document import Picture
from purenets.core.runs import provenance
from purenets.core.runs.command import command
from purenets.torch_nets import grad_fn, layers
from scripts import cifar10_cnn, cifar10_mlp, cifar10_sweep
from scripts.figures import cifar10 as figures
from scripts.report import cifar10 as report_cifar10
from scripts.shared import fixed_params, training
from scripts.shared.sweeps import spread

SCRIPTS = {"cifar10_cnn": cifar10_cnn, "cifar10_mlp": cifar10_mlp}
ALL = [(script, preset) for script in SCRIPTS.values() for preset in script.PRESETS]


def tiny(script, preset: str, **changes):
    """A preset on digits, with few units and steps: all its ingredients are there."""
    small = {
        "data": "digits",
        "image_size": 32,
        "batch_size": 100,
        "epochs": 0.6,
        "train_images": 600,
    }
    small |= {"valid_fraction": 0.1, "threads": 1, "compile": False, "precision": "float32"}
    mlp = {"width": 8, "depth": 2}
    small |= {"channels": (8, 16, 16)} if script is cifar10_cnn else mlp
    return dataclasses.replace(script.PRESETS[preset], **small | changes)


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_it_learns_digits(script):
    result = script.train(
        dataclasses.replace(script.PRESETS["digits"], threads=1, precision="float32")
    )
    assert result.test["accuracy"] > (0.97 if script is cifar10_cnn else 0.88)


@pytest.mark.parametrize(
    ("script", "preset"), ALL, ids=lambda value: getattr(value, "__name__", value)
)
def test_each_preset_runs_in_small(script, preset, tmp_path):
    config = tiny(script, preset, out=str(tmp_path / "run"))
    result = script.train(config)
    assert config.preset == preset
    found = json.loads((tmp_path / "run" / "results.json").read_text())
    assert found["accuracy"] == result.test["accuracy"]
    assert ("views_accuracy" in found) == (config.views != "none")
    laps = runs.timings(tmp_path / "run")
    assert laps[-1]["step"] == result.history[-1]["step"] == 4
    assert laps[-1]["seconds"] > 0


def test_two_nets_side_by_side_go_on_where_they_were_stopped(tmp_path, monkeypatch):
    config = tiny(cifar10_cnn, "94", evaluations=4, members=2)
    whole = cifar10_cnn.train(dataclasses.replace(config, out=str(tmp_path / "whole")))
    asked = iter([False, False])
    monkeypatch.setattr(
        "purenets.core.train.stop_requested",
        lambda: contextlib.nullcontext(lambda: next(asked, True)),
    )
    stopped = dataclasses.replace(config, out=str(tmp_path / "stopped"))
    with pytest.raises(Interrupted):
        cifar10_cnn.train(stopped)
    monkeypatch.undo()
    resumed = cifar10_cnn.train(dataclasses.replace(stopped, resume=True))
    assert resumed.test == whole.test
    histories = [(tmp_path / name / "history.csv").read_bytes() for name in ("whole", "stopped")]
    assert histories[0] == histories[1]


def test_without_a_validation_part_all_training_images_are_trained_on(tmp_path):
    config = tiny(
        cifar10_cnn, "digits", valid_fraction=0.0, train_images=0, out=str(tmp_path / "run")
    )
    result = cifar10_cnn.train(config)
    assert len(result.task.valid[1]) == 0
    assert len(result.task.train[1]) == 1438
    assert result.history[-1].keys() == {"step", "loss", "accuracy"}
    assert (tmp_path / "run" / "curves.png").exists()


def test_preset_gives_the_defaults_of_all_other_options():
    parse = cifar10_cnn.Config.parse
    presets = cifar10_cnn.PRESETS
    config = parse(["--preset", "96", "--epochs", "3", "--compile"], presets)
    assert (config.epochs, config.depth, config.compile) == (3.0, 3, True)
    assert parse(["--preset=96", "--no-whiten"], presets).whiten is False
    assert parse([], presets) == next(iter(presets.values()))


def test_the_fast_net_learns_from_cifar10(cifar10_dir):
    few = {"data": "cifar10", "image_size": 0, "train_images": 2000, "epochs": 5.0}
    few |= {"views": "none", "views_below": 1.0, "valid_fraction": 0.01}
    config = tiny(cifar10_cnn, "94", **few, data_dir=cifar10_dir, channels=(16, 32, 32))
    assert cifar10_cnn.train(config).test["accuracy"] > 0.4  # chance is 0.1


def test_a_bias_that_stands_still_changes_nothing_else():
    config = tiny(cifar10_cnn, "digits", epochs=2.0, whiten_epochs=1.0)
    plain = cifar10_cnn.RECIPE._replace(fixed=lambda config, steps_per_epoch: None)
    expected = training.train(config, plain).state
    found = training.train(config, cifar10_cnn.RECIPE).state
    for name, leaf in expected.params.items():
        assert torch.equal(found.params[name], leaf), name


def test_constants_have_no_gradient():
    model = fixed_params.with_constants(layers.Linear(2, 3), ("bias",))
    params, buffers = model.init(random.key(0))
    batch = torch.ones(4, 2), torch.tensor([0, 1, 2, 0])
    grads, _ = grad_fn(model)(params, buffers, batch, None)
    assert grads["bias"].tolist() == [0.0, 0.0, 0.0]
    expected, _ = grad_fn(layers.Linear(2, 3))(params, buffers, batch, None)
    assert torch.equal(grads["weight"], expected["weight"])


@pytest.mark.parametrize(
    ("changes", "begin"), [({}, 30), ({"whiten_epochs": 0.0}, None), ({"whiten": False}, None)]
)
def test_the_first_bias_stands_still_once_its_rate_is_0(changes, begin):
    config = dataclasses.replace(cifar10_cnn.PRESETS["94"], **changes)
    fixed = cifar10_cnn.fixed(config, 9.9)
    assert fixed == (begin and (("first.bias",), begin))
    optimizer = cifar10_cnn.make_optimizer(config, 100, 9.9)
    params = {"first.bias": torch.ones(3)}
    state = optimizer.init(params)
    moved = []
    for _ in range(40):
        updates, state = optimizer.update({"first.bias": torch.ones(3)}, state, params)
        moved.append(bool(updates["first.bias"].any()))
    assert begin is None or moved == [True] * begin + [False] * (40 - begin)


def test_sweep_keeps_the_rows_it_has(tmp_path, monkeypatch):
    for script in SCRIPTS.values():
        monkeypatch.setitem(script.PRESETS, "digits", tiny(script, "digits", flip="none"))
    monkeypatch.setattr(provenance, "git_commit", lambda: "c" * 40)  # of a tree without changes
    results = tmp_path / "results.json"
    options = {
        "data": "digits",
        "threads": 1,
        "out": str(tmp_path / "runs"),
        "results": str(results),
    }
    cifar10_sweep.main(cifar10_sweep.Config(settings="cnn digits", seeds=1, **options))
    first = json.loads(results.read_text())["rows"]
    both = cifar10_sweep.main(
        cifar10_sweep.Config(settings="cnn digits,mlp digits", seeds=2, **options)
    )
    assert [(row["setting"], row["seed"]) for row in both] == [
        ("cnn digits", 0), ("cnn digits", 1), ("mlp digits", 0), ("mlp digits", 1)
    ]  # fmt: skip
    assert both[0] == first[0]
    assert "--preset digits" in both[0]["command"]
    assert (tmp_path / "results.md").read_text().count("\n") == 4
    found = {"part1_cifar10": json.loads(results.read_text())}
    for kind in ("cnn", "mlp"):  # what the report says of such rows
        blocks = report_cifar10.analysis(found, kind)
        mine = [figures.final(row) for row in both if row["setting"].startswith(kind)]
        assert (
            f" reaches {spread(mine)}% test accuracy on single images (± standard deviation, n = 2;"
            in blocks[0]
        )
        assert len([block for block in blocks if isinstance(block, Picture)]) == 2


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (cifar10_cnn, ["--preset", "cpu"], "--preset cpu: needs one of 94, 95, "),
        (cifar10_cnn, ["--preset", "digits", "--depth", "4"], "--depth 4: needs one of 2, 3"),
        (
            cifar10_cnn,
            ["--preset", "digits", "--channels", "8,8"],
            "--channels 8,8: needs three positive integers",
        ),
        (
            cifar10_cnn,
            ["--preset", "digits", "--image_size", "8"],
            "--image_size: images are 8 x 8, the net takes 25 to 48",
        ),
        (
            cifar10_cnn,
            ["--preset", "digits", "--image_size", "49"],
            "--image_size: images are 49 x 49, the net takes 25 to 48",
        ),
        (cifar10_mlp, ["--preset", "digits", "--net", "cnn"], "--net cnn: needs one of plain"),
        (
            cifar10_mlp,
            ["--preset", "digits", "--batch_size", "9999"],
            "--batch_size 9999: more than the",
        ),
        (
            cifar10_mlp,
            ["--preset", "digits", "--optimizer", "adagrid"],
            "--optimizer adagrid: needs one of",
        ),
        (cifar10_mlp, ["--max_steps", "9"], "--max_steps 9: --epochs 250.0 decides"),
        (
            cifar10_mlp,
            ["--preset", "mlp", "--evaluations", "10", "--eval_freq", "9"],
            "--eval_freq 9: --evaluations 10 decides",
        ),
    ],
)
def test_wrong_options_end_in_one_line(script, flags, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    with pytest.raises(SystemExit) as end:
        command(script.Config, script.main, script.PRESETS)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_wrong_settings_of_the_sweep_are_named():
    with pytest.raises(UserError, match="--settings cnn best: needs one of final, ablation, cnn 9"):
        cifar10_sweep.Config(settings="cnn best")


@pytest.mark.parametrize(
    "lost",
    [{}, {"no crop": 1.0}, {"no crop": 1.0, "Nesterov": -3.0, "logits": -66.0}, {"logits": -30.0}],
)
def test_the_ablation_shows_what_is_far_and_what_is_near(lost):
    def row(setting, points):
        return {"setting": setting, "seed": 0, "history": [{"valid_accuracy": 0.8 + points / 100}]}

    rows = [row("cnn", 0.0), *(row(f"cnn: {name}", points) for name, points in lost.items())]
    axis = figures.ablation(rows, "cnn").axes[0]
    assert [text.get_text() for text in axis.texts] == [
        f"{p:.0f}" for p in lost.values() if p < figures.FAR
    ]
    left, right = axis.get_xlim()
    assert left >= figures.FAR - 1
    assert all(left < points < right for points in lost.values() if points > figures.FAR)
