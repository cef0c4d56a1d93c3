"""The comparison of both MLPs: the same data, params and batches, and the options that are said."""

import dataclasses
import json

import numpy as np
import pytest

from purenets import Interrupted, UserError, random
from purenets.core.runs.schema import mismatch
from purenets.torch_nets import to_numpy
from scripts import compare_mlps, pytorch_train_mlp, train_mlp_numpy
from scripts.shared.mlp import MLPConfig
from scripts.shared.schemas import COMPARISON

SMALL = {"max_steps": 6, "eval_freq": 2, "compile": False, "seeds": 2, "first_seed": 3}


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("batch_size", [0, 32])
def test_both_networks_go_the_same_way(optimizer, batch_size):
    """Within rounding, from the first evaluation, before any step, to the last."""
    case = MLPConfig(
        optimizer=optimizer, batch_size=batch_size, max_steps=6, eval_freq=2, dtype="float64"
    )
    results = compare_mlps.train_both(case)
    for ours, theirs in zip(*(result.history for result in results.values()), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
    finals = [to_numpy(result.state.params) for result in results.values()]
    assert compare_mlps.largest_difference(*finals) < 1e-9


def test_the_largest_difference_is_that_of_any_leaf():
    a = {"w": np.zeros((2, 2)), "b": np.array([1.0, -2.0])}
    b = {"w": np.full((2, 2), 0.5), "b": np.array([1.0, -5.0])}
    assert compare_mlps.largest_difference(a, b) == compare_mlps.largest_difference(b, a) == 3.0


def test_every_combination_is_trained_with_the_options_that_are_said(tmp_path):
    config = compare_mlps.Config(
        **SMALL, datasets="moons,blobs", noises="0.1,0.3", optimizers="sgd,adam", batch_sizes="0,8",
        dnn_hidden_units="5", learning_rate=0.02, dtype="float64",
        out=str(tmp_path / "run"), results=str(tmp_path / "found.json"),
    )  # fmt: skip
    cases = list(compare_mlps.cases(config))
    assert len(set(cases)) == len(cases) == 2 * 2 * 2 * 2 * 2
    for case in cases:
        assert (case.max_steps, case.eval_freq, case.learning_rate) == (6, 2, 0.02)
        assert (case.dnn_hidden_units, case.dtype, case.seed in (3, 4)) == ((5,), "float64", True)


def test_a_row_is_that_of_the_run_alone(tmp_path):
    config = compare_mlps.Config(
        **SMALL, datasets="moons", out=str(tmp_path / "run"), results=str(tmp_path / "found.json")
    )
    rows = compare_mlps.main(config)
    assert (
        json.loads((tmp_path / "found.json").read_text())["rows"]
        == json.loads((tmp_path / "run" / "table.json").read_text())["rows"]
    )
    assert [row["case"]["seed"] for row in rows] == [3, 3, 4, 4]
    assert ["history" in row for row in rows] == [True, True, False, False]
    for row in rows:
        case = MLPConfig.from_dict(row["case"])
        params = compare_mlps.same_params(case)
        script = {"numpy": train_mlp_numpy, "torch": pytorch_train_mlp}[row["backend"]]
        quick = {"compile": False} if script is pytorch_train_mlp else {}
        alone = script.train(script.Config(**case.to_dict(), **quick), params)
        assert {name: row[name] for name in alone.history[-1]} == alone.history[-1]
        assert row["step"] == 6 * 25


def test_boundaries_are_those_of_the_first_seed(tmp_path):
    config = compare_mlps.Config(**SMALL, datasets="moons,digits", out=str(tmp_path))
    rows = json.loads(json.dumps(compare_mlps.main(config)))
    assert [("params" in row, row["case"]["dataset"]) for row in rows[:4]] == [
        *[(True, "moons")] * 2,
        *[(False, "moons")] * 2,
    ]
    pairs = compare_mlps.kept_pairs(rows)
    assert pairs.keys() == {"moons"}
    trained = compare_mlps.train_both(MLPConfig.from_dict(rows[0]["case"]))
    for backend, result in pairs["moons"].items():
        x, y = result.task.test
        np.testing.assert_array_equal(result.predict(x), trained[backend].predict(x))
        assert (result.predict(x) == y).mean() == pytest.approx(
            result.history[-1]["test_accuracy"], abs=1e-6
        )
    assert len(compare_mlps.boundaries(pairs).axes) == 2
    assert (tmp_path / "boundaries.png").exists()


def test_boundaries_of_an_optimizer_that_averages_are_those_of_the_averages(tmp_path):
    few = {"seeds": 1, "max_steps": 6, "learning_rate": 0.3, "optimizers": "schedule_free_adamw"}
    config = compare_mlps.Config(**SMALL | few, datasets="overlap", out=str(tmp_path))
    for result in compare_mlps.kept_pairs(compare_mlps.main(config))["overlap"].values():
        x, y = result.task.test
        accuracy = result.history[-1]["test_accuracy"]
        assert (result.predict(x) == y).mean() == pytest.approx(accuracy, abs=1e-6)


def test_params_that_do_not_fit_their_case_are_refused(tmp_path):
    config = compare_mlps.Config(**SMALL | {"seeds": 1}, datasets="moons", out=str(tmp_path))
    (row, _) = json.loads(json.dumps(compare_mlps.main(config)))
    row["params"]["fc1.weight"].pop()
    with pytest.raises(UserError, match="params of moons: not those of the network"):
        compare_mlps.kept_pairs([row])
    row["params"]["fc1.weight"][0].pop()
    wrong = mismatch({"rows": [row]}, COMPARISON)
    assert wrong.startswith("rows[0].params.fc1.weight: ")
    assert wrong.endswith("needs rows of one length")


def test_params_of_another_seed_are_others():
    case = MLPConfig(dataset="moons")
    a, b = (compare_mlps.same_params(dataclasses.replace(case, seed=seed)) for seed in (0, 1))
    assert a.keys() == b.keys()
    assert not np.array_equal(a["fc1.weight"], b["fc1.weight"])
    assert a["fc1.weight"].shape == (20, 2)
    drawn = random.fold_in(random.key(0), 0)
    model = compare_mlps.mlp_task.make_model(
        pytorch_train_mlp.backend_of(pytorch_train_mlp.Config()),
        case,
        compare_mlps.mlp_task.load_data(case, random.split(random.key(0), 4)[0]),
    )
    assert np.array_equal(a["fc1.weight"], to_numpy(model.init(drawn)[0])["fc1.weight"])


def test_noise_of_a_set_that_is_not_generated_is_refused_at_once(tmp_path):
    """Before any net is trained, with both flags named."""
    options = {"datasets": ("moons", "digits"), "noises": (0.1, 0.2), "out": str(tmp_path / "run")}
    with pytest.raises(
        UserError, match=r"--noises 0.1,0.2: .* --datasets digits, which is not gen"
    ):
        compare_mlps.Config(**options)
    assert compare_mlps.Config(**options | {"datasets": ("moons",)}).noises == (0.1, 0.2)
    assert compare_mlps.Config(**options | {"noises": ()}).datasets == ("moons", "digits")


def test_a_table_of_another_length_is_not_gone_on_with(tmp_path):
    config = compare_mlps.Config(**SMALL, datasets="iris", out=str(tmp_path / "run"))
    compare_mlps.main(config)
    other = dataclasses.replace(config, max_steps=config.max_steps + 1, resume=True)
    with pytest.raises(UserError, match=r"--max_steps 7: .* each row of its table depends on it"):
        compare_mlps.main(other)


def test_an_interruption_says_which_rows_are_kept(tmp_path, monkeypatch):
    config = compare_mlps.Config(
        datasets=("moons",), seeds=2, max_steps=1, compile=False, out=str(tmp_path / "c")
    )
    both = compare_mlps.train_both

    def stopped(case, compile):
        if case.seed:
            raise Interrupted("stopped after step 5 of 10000; nothing is saved without --out")
        return both(case, compile)

    monkeypatch.setattr(compare_mlps, "train_both", stopped)
    with pytest.raises(Interrupted, match=r"^stopped; .*table\.json has 2 rows; .* --resume$"):
        compare_mlps.main(config)
    monkeypatch.undo()
    assert len(compare_mlps.main(dataclasses.replace(config, resume=True))) == 4
