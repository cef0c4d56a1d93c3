"""The sweep of rates and seeds in one run equals its members trained alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from purenets import UserError, data, init_state, make_step, optim, random
from purenets.torch_nets import MLP, grad_fn, metrics_fn
from scripts.mlp_sweep import Config, main, members, of_members, train

SMALL = {"rates": 3, "seeds": 2, "steps": 20, "compile": False, "highest": 1.0}


def test_a_member_is_what_it_would_be_alone():
    config = Config(**SMALL)
    accuracy = train(config)
    assert accuracy.shape == (3, 2)
    task = data.load("moons", random.key(0))
    x, y = map(torch.as_tensor, task.train)
    rate, seed = members(config)[5]
    assert (round(rate, 9), seed) == (1.0, 1)
    model, optimizer = MLP(2, [20], 2), optim.sgd(rate)
    state = init_state(model, optimizer, torch.as_tensor(random.key(seed)))
    step, batches = (
        make_step(grad_fn(model), optimizer),
        data.batches((x[160:], y[160:]), 32, random.key(1001)),
    )
    for i in range(20):
        state, _ = step(state, batches(i))
    alone = metrics_fn(model)(state.params, {}, (x[:160], y[:160]))["accuracy"]
    assert float(alone) == pytest.approx(accuracy[2, 1], abs=1e-6)
    assert accuracy[2].mean() > accuracy[0].mean()


def test_the_averages_of_an_optimizer_are_evaluated():
    config = Config(**SMALL | {"rates": 2, "seeds": 1}, optimizer="schedule_free_adamw")
    (accuracy,) = train(config)[1]
    task = data.load("moons", random.key(0))
    x, y = map(torch.as_tensor, task.train)
    model, optimizer = MLP(2, [20], 2), optim.schedule_free_adamw(members(config)[1][0])
    state = init_state(model, optimizer, torch.as_tensor(random.key(0)))
    batches = data.batches((x[160:], y[160:]), 32, random.key(1000))
    for i in range(20):
        state, _ = make_step(grad_fn(model), optimizer)(state, batches(i))

    def accuracy_of(params):
        return float(metrics_fn(model)(params, {}, (x[:160], y[:160]))["accuracy"])

    assert accuracy == pytest.approx(accuracy_of(optim.with_averaged_params(state).params))
    assert accuracy != pytest.approx(accuracy_of(state.params))


def test_the_folder_holds_numbers_and_map_and_can_be_drawn_again(tmp_path, capsys):
    config = Config(**SMALL, out=str(tmp_path / "sweep"))
    accuracy = main(config)
    found = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert np.allclose(found["validation_accuracy"], accuracy)
    picture = tmp_path / "sweep" / "sweep.png"
    picture.unlink()
    again = main(Config(**SMALL, out=config.out, resume=True))
    assert np.allclose(again, accuracy)
    assert picture.exists()
    assert capsys.readouterr().out.count("validation accuracy") == 2
    with pytest.raises(UserError, match="holds a run"):
        main(config)
    with pytest.raises(UserError, match="--resume: needs --out"):
        main(Config(**SMALL, resume=True))


def test_the_highest_of_one_rate_is_refused():
    assert [rate for rate, _ in members(Config(rates=1, seeds=1, lowest=0.5))] == [0.5]
    with pytest.raises(UserError, match=r"--highest 5\.0: --rates 1 takes --lowest alone"):
        Config.parse(["--rates", "1", "--highest", "5"])


def test_batch_size_0_is_all_and_more_than_all_is_refused():
    everything = Config(**SMALL | {"batch_size": 0, "steps": 3})
    assert np.array_equal(
        train(everything), train(Config(**SMALL | {"batch_size": 640, "steps": 3}))
    )
    with pytest.raises(UserError, match=r"--batch_size 641: more than the 640 .*; 0 is all"):
        train(Config(**SMALL | {"batch_size": 641}))


def test_members_that_diverge_are_told_and_left_out(tmp_path, capsys):
    config = Config(**SMALL | {"highest": 1e8, "lowest": 0.01}, out=str(tmp_path / "sweep"))
    found = main(config)
    assert np.isnan(found[-1]).all() and (found[0] > 0.3).all()
    assert "2 of 2 diverged" in capsys.readouterr().out.splitlines()[-1]
    again = main(dataclasses.replace(config, resume=True))
    assert np.array_equal(found, again, equal_nan=True)
    assert of_members(np.array([0.5, np.nan])) == "50.00%, 1 of 2 diverged"


def test_rates_rise():
    with pytest.raises(UserError, match=r"--lowest 1\.0: needs less than --highest 1\.0"):
        Config(lowest=1.0, highest=1.0)
