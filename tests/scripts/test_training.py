"""The one training of image nets: what its options do to the batches, the steps and the test."""

import contextlib
import dataclasses
import types

import pytest
import torch

from purenets import Interrupted, UserError, evaluate, optim, runs
from purenets.core.runs import checkpoint
from purenets.torch_nets import metrics_fn, update_batchnorm
from purenets.torch_nets.augment import resized
from purenets.torch_nets.distributed import Group
from purenets.torch_nets.losses import cross_entropy
from purenets.torch_nets.tta import flip_averaged, shift_averaged
from scripts import cifar10_cnn, cifar10_mlp, cnn_train
from scripts.shared import training
from scripts.shared.images import has_ended, logits_of, results_of, valid_views_of

VGG = cnn_train.Config(data="digits", width=0.125, batch_size=64, eval_freq=0, threads=1)
FAST = dataclasses.replace(
    cifar10_cnn.PRESETS["digits"], channels=(8, 8, 8), epochs=1.0, train_images=400, threads=1
)
MLP = dataclasses.replace(
    cifar10_mlp.PRESETS["digits"], width=16, depth=1, epochs=1.0, train_images=400, threads=1
)


def prepared(script, config):
    plan = training.plan_of(config, script.RECIPE, torch.device("cpu"), Group())
    if config.out is None:
        return types.SimpleNamespace(**plan._asdict(), **training.prepare(plan)._asdict())
    with runs.open_run(config) as folder:
        return types.SimpleNamespace(**plan._asdict(), **training.prepare(plan, folder)._asdict())


def first_steps(script, config, n=2):
    """The params after n steps."""
    run = prepared(script, config)
    state = run.state
    for i in range(n):
        state, _ = run.step(state, run.batches(i))
    return state.params


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# --- averaged params ------------------------------------------------------------------------------


def test_averaged_params_are_evaluated_with_statistics_of_their_own():
    config = dataclasses.replace(VGG, max_steps=60, ema=0.98, learning_rate=3e-3)
    run = prepared(cnn_train, config)
    state = run.state
    for i in range(60):
        state, _ = run.step(state, run.batches(i))
    stale = optim.with_averaged_params(state)
    x, y = run.task.train
    fresh = update_batchnorm(
        run.model,
        stale.params,
        stale.buffers,
        list(zip(x.split(64), y.split(64), strict=True))[:-1],
    )
    metrics = metrics_fn(run.model)
    of = {
        name: evaluate(metrics, stale._replace(buffers=buffers), run.task.valid)
        for name, buffers in (("stale", stale.buffers), ("fresh", fresh))
    }
    found = run.evaluate(state)
    assert found["valid_loss"] == pytest.approx(of["fresh"]["loss"], rel=1e-4)
    assert found["valid_loss"] < of["stale"]["loss"] - 0.5
    assert found["valid_accuracy"] > of["stale"]["accuracy"] + 0.2
    assert all(torch.equal(state.buffers[k], stale.buffers[k]) for k in state.buffers)


def test_the_test_takes_these_statistics_too(tmp_path):
    config = dataclasses.replace(VGG, max_steps=20, ema=0.9, learning_rate=3e-3)
    result = cnn_train.train(config)
    x, y = result.task.test
    logits = logits_of(result.model, result.state, x)
    assert result.test["loss"] == float(cross_entropy(logits, y))
    run = prepared(cnn_train, config)
    valid = evaluate(metrics_fn(result.model), result.state, run.task.valid, batch_size=500)
    assert result.history[-1]["valid_loss"] == valid["loss"]


def test_a_training_without_an_average_evaluates_the_state_itself():
    run = prepared(cnn_train, VGG)
    assert run.averaged(run.state) is run.state


# --- fewer operations -----------------------------------------------------------------------------


def test_the_first_steps_see_small_images_the_same_in_the_same_order():
    config = dataclasses.replace(
        VGG, image_size=32, max_steps=10, small_size=20, small_fraction=0.4
    )
    run, plain = (
        prepared(cnn_train, config),
        prepared(cnn_train, dataclasses.replace(config, small_size=0, small_fraction=0.5)),
    )
    for i in range(10):
        (x, y), (whole, classes) = run.batches(i), plain.batches(i)
        assert torch.equal(y, classes)
        assert x.shape[2:] == ((20, 20) if i < 4 else (32, 32))
        assert torch.equal(x, resized(whole, 20) if i < 4 else whole)
    state, _ = run.step(run.state, run.batches(0))
    run.step(state, run.batches(4))


def test_the_small_net_says_which_images_are_trained_on(tmp_path):
    config = dataclasses.replace(FAST, hardest=0.25, crop=2, out=str(tmp_path / "run"))
    run = prepared(cifar10_cnn, config)
    whole = prepared(cifar10_cnn, dataclasses.replace(config, hardest=1.0, out=None))
    rows = checkpoint.read(tmp_path / "run" / training.ROWS)[0]["rows"].array
    assert rows.shape == (run.steps, 25)
    x, y = run.batches(1)
    assert torch.equal(y, whole.batches(1)[1][rows[1]])
    assert torch.equal(run.batches(1)[0], x)
    moved = (x != whole.batches(1)[0][rows[1]]).flatten(1).any(1)
    assert moved.any()  # the batches are cropped already
    laps = runs.timings(tmp_path / "run")
    assert laps[0]["step"] == 0
    assert laps[0]["seconds"] > 0


def test_the_hardest_images_have_the_larger_loss():
    config = dataclasses.replace(FAST, hardest=0.5, epochs=4.0)
    plan = training.plan_of(config, cifar10_cnn.RECIPE, torch.device("cpu"), Group())
    whole = training.batches_of(config, plan.recipe, plan.task, plan.batch_key, plan.steps)
    rows = training.hardest_rows_of(plan, whole)
    model, step, state = training.proxy_of(plan)
    for i in range(0, 16, 4):
        x, y = whole(i)
        state, _ = step(state, (x[rows[i]], y[rows[i]]))
    from purenets.torch_nets.selection import losses

    loss = losses(model, state, whole(13))
    chosen = torch.zeros(len(loss), dtype=torch.bool)
    chosen[rows[13]] = True
    assert loss[chosen].min() >= loss[~chosen].max()


def test_a_stopped_run_of_the_hardest_images_goes_on_as_if_nothing_had_happened(
    tmp_path, monkeypatch
):
    config = dataclasses.replace(FAST, hardest=0.5, precision="bfloat16", small_size=26)
    whole = cifar10_cnn.train(dataclasses.replace(config, out=str(tmp_path / "whole")))
    asked = iter([False])
    monkeypatch.setattr(
        "purenets.core.train.stop_requested",
        lambda: contextlib.nullcontext(lambda: next(asked, True)),
    )
    stopped = dataclasses.replace(config, out=str(tmp_path / "stopped"))
    with pytest.raises(Interrupted):
        cifar10_cnn.train(stopped)
    monkeypatch.undo()

    def never(*arguments):
        raise AssertionError("the rows are kept in the folder")

    monkeypatch.setattr(training, "hardest_rows_of", never)
    resumed = cifar10_cnn.train(dataclasses.replace(stopped, resume=True))
    assert same(resumed.state.params, whole.state.params)
    assert resumed.test == whole.test


def test_views_of_unsure_images_only_are_reported():
    config = dataclasses.replace(FAST, views="shift", views_below=0.5)
    some = cifar10_cnn.train(config)
    every = cifar10_cnn.train(dataclasses.replace(config, views_below=1.0))
    assert some.test["accuracy"] == every.test["accuracy"]
    assert 0 < some.test["views_part"] <= 1
    assert "views_part" not in every.test


@pytest.mark.parametrize("test", [True, False])
def test_the_held_out_images_are_looked_at_over_the_views_of_the_test(test, tmp_path, capsys):
    out = str(tmp_path / "run")
    config = dataclasses.replace(FAST, views="shift", valid_fraction=0.4, test=test, out=out)
    result = cifar10_cnn.main(config)
    x, y = result.task.valid
    views = logits_of(shift_averaged(flip_averaged(result.model)), result.state, x)
    expected = float((views.argmax(1) == y).double().mean())
    assert result.valid == {"valid_views_accuracy": pytest.approx(expected)}
    assert valid_views_of(tmp_path / "run") == pytest.approx(expected)
    assert results_of(tmp_path / "run") == (result.test or {})
    assert has_ended(tmp_path / "run")
    assert f"valid, mean over views  accuracy {expected:.2%}" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [{"views": "none"}, {"views": "shift", "valid_fraction": 0.0}])
def test_without_views_or_held_out_images_there_are_no_views_of_them(flags, tmp_path):
    out = str(tmp_path / "run")
    result = cifar10_cnn.train(dataclasses.replace(FAST, **flags, out=out))
    assert result.valid is None
    assert valid_views_of(tmp_path / "run") is None


# --- each option is what it says ------------------------------------------------------------------

BOTTLENECK = {
    "net": "bottleneck",
    "hidden": (20, 20),
    "bottleneck": 4,
    "width": 512,
    "depth": 4,
}  # the residual net's options as they are by default
CHANGES = [
    (cifar10_cnn, FAST, {"brightness": 0.3}),
    (cifar10_cnn, FAST, {"contrast": 0.3}),
    (cifar10_cnn, FAST, {"cutout": 12}),
    (cifar10_cnn, FAST, {"mixup": True}),
    (cifar10_cnn, FAST, {"lookahead": 2}),
    (cifar10_cnn, FAST, {"label_smoothing": 0.0}),
    (cifar10_cnn, FAST, {"muon_method": "gram"}),
    (cifar10_cnn, FAST, {"whiten_epochs": 1.0}),
    (cnn_train, VGG, {"dirac": True}),
    (cnn_train, VGG, {"optimizer": "filter_muon"}),
    (cifar10_mlp, MLP, {"norm": "batch"}),
    (cifar10_mlp, MLP, {"pca": 20}),
    (cifar10_mlp, MLP, BOTTLENECK),
    (cifar10_mlp, MLP, {"mixup": True}),
]


@pytest.mark.parametrize(
    ("script", "config", "changes"), CHANGES, ids=lambda v: str(v) if isinstance(v, dict) else ""
)
def test_each_ingredient_changes_the_training(script, config, changes):
    changed = dataclasses.replace(config, **changes)
    assert not same(first_steps(script, config), first_steps(script, changed))
    assert same(first_steps(script, changed), first_steps(script, changed))


def test_mixup_alpha_is_a_draw_of_its_own():
    mixed = dataclasses.replace(MLP, mixup=True)
    other = dataclasses.replace(mixed, mixup_alpha=0.8)
    assert not same(first_steps(cifar10_mlp, mixed), first_steps(cifar10_mlp, other))


def test_gram_moves_the_params_as_direct_does():
    config = dataclasses.replace(FAST, precision="float32")
    one, other = (
        first_steps(cifar10_cnn, dataclasses.replace(config, muon_method=method), n=1)
        for method in ("direct", "gram")
    )
    start = prepared(cifar10_cnn, config).state.params
    for name in one:
        moved = float((one[name] - start[name]).norm())
        assert float((one[name] - other[name]).norm()) <= 0.1 * moved, name


def test_filter_muon_keeps_the_length_of_the_filters_and_trains_all_else():
    config = dataclasses.replace(VGG, optimizer="filter_muon", learning_rate=0.05, dirac=True)
    run = prepared(cnn_train, config)
    state = run.state
    for i in range(3):
        state, _ = run.step(state, run.batches(i))
    for name, leaf in state.params.items():
        assert not torch.equal(leaf, run.state.params[name]) or name.endswith("conv1.bias"), name
        if leaf.ndim == 4:  # one step after it was brought back
            assert float(leaf.norm()) == pytest.approx(len(leaf) ** 0.5, rel=0.2)


def test_without_a_look_at_the_test_images_there_is_no_test(tmp_path, capsys, monkeypatch):
    def never(*arguments):
        raise AssertionError("the test images are not to be looked at")

    monkeypatch.setattr(training, "tested", never)
    config = dataclasses.replace(FAST, test=False, out=str(tmp_path / "run"))
    result = cifar10_cnn.main(config)
    assert result.test is None
    assert results_of(tmp_path / "run") == {}
    assert has_ended(tmp_path / "run")
    assert not (tmp_path / "run" / "confusion.png").exists()
    assert "test" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "flags", "message"),
    [
        (cifar10_mlp, {"net": "s_fc", "dropout": 0.5}, "--dropout 0.5: the net s_fc has none"),
        (cifar10_mlp, {"beta": 9.0}, "--beta 9.0: means nothing without --lasso"),
        (cifar10_mlp, {"hidden": (64, 64)}, "--hidden 64,64: means nothing with --net residual"),
        (cifar10_mlp, {"net": "plain", "width": 7}, "--width 7: means nothing with --net plain"),
        (cifar10_mlp, {"net": "s_fc", "depth": 9}, "--depth 9: means nothing with --net s_fc"),
        (cifar10_mlp, {"net": "batch_norm", "norm": "batch"}, "--norm batch: means nothing with"),
        (cifar10_mlp, {"bottleneck": 7}, "--bottleneck 7: means nothing with --net residual"),
        (
            cifar10_mlp,
            {"optimizer": "adamw", "muon_method": "gram"},
            "--muon_method gram: means nothing with --optimizer adamw",
        ),
        (
            cifar10_cnn,
            {"optimizer": "nesterov", "momentum": 0.9},
            "--momentum 0.9: means nothing with --optimizer nesterov",
        ),
        (
            cifar10_cnn,
            {"whiten": False, "whiten_epochs": 0.0},
            "--whiten_epochs 0.0: without --whiten the first layer has a bias",
        ),
        (cifar10_cnn, {"mixup_alpha": 0.8}, "--mixup_alpha 0.8: means nothing without --mixup"),
        (cifar10_cnn, {"views_below": 0.8}, "--views_below 0.8: means nothing without --views"),
        (cifar10_cnn, {"small_fraction": 0.3}, "--small_fraction 0.3: means nothing without"),
        (cifar10_cnn, {"hardest": 0.0}, "--hardest 0.0: needs a number above 0 and at most 1"),
        (cnn_train, {"head_rate": 1.0}, "--head_rate 1.0: needs --optimizer filter_muon"),
        (cnn_train, {"keep": 5}, "--keep 5: means nothing without --out"),
        (
            cnn_train,
            {"optimizer": "filter_muon", "weight_decay": 0.1},
            "means nothing with --optimizer filter_muon",
        ),
    ],
)
def test_options_that_would_mean_nothing_are_refused(script, flags, message):
    with pytest.raises(UserError, match=message):
        script.Config(**flags)


@pytest.mark.parametrize(
    ("script", "config", "message"),
    [
        (
            cifar10_cnn,
            dataclasses.replace(FAST, small_size=20),
            "--small_size 20: the net needs 25",
        ),
        (cifar10_cnn, dataclasses.replace(FAST, small_size=32), "needs a smaller one"),
        (cifar10_mlp, dataclasses.replace(MLP, small_size=4), "takes images of one size"),
        (cifar10_mlp, dataclasses.replace(MLP, hardest=0.5), "there is no small net for the"),
        (cifar10_mlp, dataclasses.replace(MLP, pca=65), "--pca 65: an image has 64 numbers"),
        (cifar10_mlp, dataclasses.replace(MLP, crop=8), "--crop 8: images have a side of 8"),
        (cifar10_mlp, dataclasses.replace(MLP, cutout=9), "--cutout 9: images have a side of 8"),
    ],
)
def test_options_that_do_not_fit_the_net_are_refused(script, config, message):
    with pytest.raises(UserError, match=message):
        prepared(script, config)


def test_several_processes_refuse_what_they_do_not_share():
    config = dataclasses.replace(FAST, hardest=0.5)
    with pytest.raises(UserError, match="--hardest: not with several processes"):
        training.plan_of(config, cifar10_cnn.RECIPE, torch.device("cpu"), Group(rank=0, size=2))


# --- the same bits --------------------------------------------------------------------------------


def test_no_preset_asks_the_clock():
    for script in (cifar10_cnn, cifar10_mlp, cnn_train):
        for name, preset in script.PRESETS.items():
            assert preset.precision in ("float32", "bfloat16"), name


def test_the_preset_94_gives_the_same_bits_again_and_when_it_goes_on(tmp_path, monkeypatch):
    def clock():
        raise AssertionError("what is measured on the clock changes no result")

    stopped_clock = types.SimpleNamespace(perf_counter=clock)
    monkeypatch.setattr("purenets.torch_nets.precision.time", stopped_clock)
    small = {"data": "digits", "image_size": 32, "batch_size": 100, "channels": (8, 16, 16)}
    small |= {"train_images": 600, "epochs": 1.0, "evaluations": 0, "threads": 1}
    config = dataclasses.replace(cifar10_cnn.PRESETS["94"], **small)
    first, second = (cifar10_cnn.train(config) for _ in range(2))
    assert same(first.state.params, second.state.params)
    assert first.history == second.history
    asked = iter([False, False])
    monkeypatch.setattr(
        "purenets.core.train.stop_requested",
        lambda: contextlib.nullcontext(lambda: next(asked, True)),
    )
    stopped = dataclasses.replace(config, out=str(tmp_path / "run"))
    with pytest.raises(Interrupted):
        cifar10_cnn.train(stopped)
    monkeypatch.setattr("purenets.core.train.stop_requested", lambda: contextlib.nullcontext(bool))
    resumed = cifar10_cnn.train(dataclasses.replace(stopped, resume=True))
    assert same(first.state.params, resumed.state.params)
    assert resumed.test == first.test
