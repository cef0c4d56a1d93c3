"""The small experiments of the analysis: what they compare is comparable, and what they find is
what another way finds."""

import contextlib
import dataclasses
import itertools
import math
import statistics

import numpy as np
import pytest
import torch
from scipy import stats

from purenets import Interrupted, UserError, random, tree
from purenets.core.data.palindromes import all_palindromes, count
from scripts import palindrome_holdout, palindrome_states, shuffled_pixels
from scripts import train as rnn
from scripts.shared.comparison import paired, unpaired

A, B = [0.9, 0.8, 0.95, 0.7], [0.7, 0.75, 0.6, 0.65]

# --- comparisons ----------------------------------------------------------------------------------


def test_a_paired_difference_has_the_error_of_its_mean():
    differences = [a - b for a, b in zip(A, B, strict=True)]
    found = paired(A, B)
    assert found.mean == pytest.approx(statistics.mean(differences))
    assert found.standard_error == pytest.approx(statistics.stdev(differences) / 2)
    assert found.reach == pytest.approx(stats.t.ppf(0.975, 3) * found.standard_error)
    assert not found.is_clear
    low, high = stats.ttest_rel(A, B).confidence_interval()
    assert (found.mean - found.reach, found.mean + found.reach) == pytest.approx((low, high))
    assert found.points() == f"{100 * found.mean:+.2f} ± {100 * found.standard_error:.2f}"


def test_an_unpaired_difference_has_the_errors_of_both_means():
    variances = (statistics.variance(A) / 4, statistics.variance(B[:3]) / 3)
    found = unpaired(A, B[:3])
    assert found.mean == pytest.approx(statistics.mean(A) - statistics.mean(B[:3]))
    assert found.standard_error == pytest.approx(math.sqrt(sum(variances)))
    assert found.n == (4, 3)
    low, high = stats.ttest_ind(A, B[:3], equal_var=False).confidence_interval()
    assert (found.mean - found.reach, found.mean + found.reach) == pytest.approx((low, high))
    assert unpaired([1.0, 1.0], [0.5, 0.5]).is_clear  # without any deviation
    assert not unpaired([1.0, 1.0], [1.0, 1.0]).is_clear


@pytest.mark.parametrize("difference", [paired([1.0], [0.5]), unpaired([1.0], B)])
def test_of_one_seed_nothing_is_concluded(difference):
    assert difference.standard_error is None
    assert difference.reach is None
    assert not difference.is_clear
    assert "±" not in difference.points()


# --- shuffled pixels ------------------------------------------------------------------------------

TINY = shuffled_pixels.Config(seeds=2, steps=5, hidden=4, width=1 / 64)


def test_shuffled_images_are_the_same_pixels_in_one_order():
    keys = random.split(random.key(0))
    (x, y), (test_x, _) = shuffled_pixels.images("MLP", "in order", *keys)
    (moved, same_y), (moved_test, _) = shuffled_pixels.images("MLP", "shuffled", *keys)
    order = random.permutation(keys[1], 64).tolist()
    assert sorted(order) == list(range(64)) != order
    assert torch.equal(moved, x[:, order])
    assert torch.equal(moved_test, test_x[:, order])
    assert torch.equal(y, same_y)
    (image, _), _ = shuffled_pixels.images("CNN", "in order", *keys)
    assert torch.equal(image, x.reshape(-1, 1, 8, 8))


def test_an_mlp_whose_columns_are_shuffled_too_is_the_same_function():
    keys = random.split(random.key(0))
    (x, _), _ = shuffled_pixels.images("MLP", "in order", *keys)
    (moved, _), _ = shuffled_pixels.images("MLP", "shuffled", *keys)
    model = shuffled_pixels.make_model(TINY, "MLP")
    params, _ = model.init(random.key(1))
    order = random.permutation(keys[1], 64).tolist()
    columns = params | {"fc1.weight": params["fc1.weight"][:, order]}
    torch.testing.assert_close(model.apply(params, {}, x)[0], model.apply(columns, {}, moved)[0])


def test_both_nets_and_orders_are_trained_and_written(tmp_path):
    path = tmp_path / "part1_shuffled.json"
    rows = shuffled_pixels.main(dataclasses.replace(TINY, results=str(path)))
    assert {(r["net"], r["pixels"], r["seed"]) for r in rows} == {
        (net, pixels, seed)
        for net in ("MLP", "CNN")
        for pixels in ("in order", "shuffled")
        for seed in (0, 1)
    }
    table = shuffled_pixels.table(rows)
    effect = shuffled_pixels.effect(rows, "CNN")
    assert table.rows[2][3] == effect.points()
    assert path.with_suffix(".md").exists()


# --- held-out palindromes -------------------------------------------------------------------------


@pytest.mark.parametrize("T", [5, 6])
def test_held_out_halves_are_never_trained_on(T):
    most = palindrome_holdout.most_halves(T)
    whole = palindrome_holdout.split_halves(3, T, most)
    assert len(whole.held_out) == round(palindrome_holdout.HELD_OUT * count(T))
    assert sorted([*whole.train, *whole.held_out]) == list(range(count(T)))
    few = palindrome_holdout.split_halves(3, T, 10)
    assert np.array_equal(few.held_out, whole.held_out)
    assert np.array_equal(few.train, whole.train[:10])
    other = palindrome_holdout.split_halves(4, T, 10)
    assert not np.array_equal(other.held_out, few.held_out)


@pytest.mark.parametrize("T", [5, 6])
def test_halves_name_palindromes(T):
    x, y = palindrome_holdout.palindromes_of(np.arange(count(T)), T)
    every = all_palindromes(T)
    assert np.array_equal(x, every[0])
    assert np.array_equal(y, every[1])


def test_members_train_on_their_own_halves_only():
    split = [palindrome_holdout.split_halves(seed, 6, 5) for seed in (0, 1)]
    keys = [rnn.keys(seed).training for seed in (0, 1)]
    batch_at = palindrome_holdout.training_batches(keys, split, 64, 6)
    x, y = batch_at(7)
    assert x.shape == (2, 64, 5, 1)
    for member, own in zip(range(2), split, strict=True):
        known, _ = palindrome_holdout.palindromes_of(own.train, 6)
        allowed = {row.tobytes() for row in known}
        assert {row.tobytes() for row in x[member].numpy()} == allowed
        assert torch.equal(x[member, :, 0, 0].long(), y[member])


def test_a_sweep_of_halves_ends_in_cells(tmp_path):
    path = tmp_path / "rnn_holdout.json"
    config = palindrome_holdout.Config(
        lengths=(4,), halves=(10, 80, 1000), seeds=2, steps=20, batch_size=8, eval_freq=10,
        eval_size=15, compile=False, results=str(path),
    )  # fmt: skip
    cells = palindrome_holdout.main(config)
    assert [(cell["T"], cell["halves"]) for cell in cells] == [(4, 10), (4, 80)]
    for cell, row in zip(cells, palindrome_holdout.table(cells).rows[1:], strict=True):
        assert cell["train"] == [cell["history"][-1][f"train_{seed}"] for seed in (0, 1)]
        gap = [a - b for a, b in zip(cell["train"], cell["held_out"], strict=True)]
        assert row[4].startswith(f"{100 * statistics.mean(gap):+.2f}")
    assert path.exists()


# --- hidden states --------------------------------------------------------------------------------


def test_a_cell_that_is_named_twice_is_trained_once():
    config = palindrome_holdout.Config(lengths=(3, 3, 4), halves=(30, 30))
    assert palindrome_holdout.grid(config) == [(3, 30), (4, 30)]


def test_an_evaluation_size_beside_all_palindromes_is_refused():
    with pytest.raises(UserError, match="--eval_size 7: --exhaustive evaluates all; leave it out"):
        rnn.Config.parse(["--exhaustive", "--eval_size", "7"])


def test_a_discriminant_tells_what_is_there_and_nothing_else():
    generator = np.random.default_rng(0)
    digits = generator.integers(0, 10, 2000)
    noise = generator.normal(size=(2000, 20))
    told = palindrome_states.discriminated(noise + 8 * np.eye(20)[digits], digits)
    assert told > 0.999
    assert palindrome_states.discriminated(noise, digits) == pytest.approx(0.1, abs=0.04)
    # it does not depend on the scale of the states
    small = palindrome_states.discriminated(1e-6 * (noise + 2 * np.eye(20)[digits]), digits)
    large = palindrome_states.discriminated(noise + 2 * np.eye(20)[digits], digits)
    assert small == pytest.approx(large, abs=0.01)


def test_gradients_over_time_are_those_of_autograd():
    member = rnn.Config(input_length=4, num_hidden=6)
    params = tree.cast(rnn.make_model(member).init(random.key(0))[0], "float64")
    found = palindrome_states.gradients(params, member, 3)
    x, y = palindrome_states.examples(member, 5, 3)
    h = [torch.zeros(3, 6, dtype=torch.float64, requires_grad=True)]
    for t in range(4):
        a = x[:, t] @ params["W_hx"].T + h[-1] @ params["W_hh"].T + params["b_h"]
        h.append(torch.tanh(a))
    loss = torch.nn.functional.cross_entropy(
        h[-1] @ params["W_ph"].T + params["b_o"], y, reduction="sum"
    )
    grads = torch.autograd.grad(loss, h[1:])
    assert found == pytest.approx([float(grad.norm(dim=1).mean()) for grad in grads])


def test_networks_are_seen_before_and_after(tmp_path, monkeypatch):
    monkeypatch.setattr(palindrome_states, "NETS", {"default": (4,), "latches": (5,)})
    monkeypatch.setattr(palindrome_states, "READ", 6)
    monkeypatch.setattr(palindrome_states, "SHOWN", (1, 4))
    path = tmp_path / "rnn_states.json"
    config = palindrome_states.Config(
        seeds=2, steps=5, examples=60, compile=False, results=str(path)
    )
    cells = palindrome_states.main(config)
    assert [(cell["setting"], cell["T"]) for cell in cells] == [("default", 4), ("latches", 5)]
    for cell in cells:
        for when in ("before", "after"):
            assert np.shape(cell[when]["gradients"]) == (2, cell["T"] - 1)
            assert np.shape(cell[when]["readable"]) == (2, 6)
        assert np.shape(cell["plane"]["points"]) == (palindrome_states.POINTS, 2, 2)
    latches = cells[1]["before"]["radius"]
    assert latches == pytest.approx([2.0, 2.0])  # W_hh = 2 I
    assert len(palindrome_states.table(cells).rows) == 5


def test_numbers_that_no_analysis_can_be_made_of_are_refused():
    with pytest.raises(UserError, match=r"--examples 20: needs a number from 40 to 10,000"):
        palindrome_states.Config(examples=20)
    config = palindrome_holdout.Config(lengths=(6,), halves=(5000,))
    with pytest.raises(UserError, match="--halves 5000: at most 800 first halves are left"):
        palindrome_holdout.grid(config)


# --- interrupted ----------------------------------------------------------------------------------

HALVES = palindrome_holdout.Config(
    lengths=(4,), halves=(10, 80), seeds=2, steps=4, batch_size=8, eval_size=15, compile=False
)
STATES = palindrome_states.Config(seeds=2, steps=2, examples=60, compile=False)
PARTS = {  # the script, its options, the number of trainings in its first part, and its rows
    "shuffled_pixels": (shuffled_pixels, TINY, 4, 4),
    "palindrome_holdout": (palindrome_holdout, HALVES, 1, 1),
    "palindrome_states": (palindrome_states, STATES, 1, 1),
}


@pytest.fixture
def stop_at(monkeypatch):
    """Return the function that lets Ctrl-C arrive at a script's n-th training, counted from 0."""
    monkeypatch.setattr(palindrome_states, "NETS", {"default": (4, 5)})
    monkeypatch.setattr(palindrome_states, "READ", 6)
    monkeypatch.setattr(palindrome_states, "SHOWN", (1, 4))

    @contextlib.contextmanager
    def stopping(script, n):
        calls, fit = itertools.count(), script.fit

        def stopped(*args, **options):
            if next(calls) == n:
                raise KeyboardInterrupt
            return fit(*args, **options)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(script, "fit", stopped)
            yield

    return stopping


@pytest.mark.parametrize("name", PARTS)
def test_an_interrupted_experiment_keeps_its_parts_and_goes_on(name, tmp_path, stop_at):
    script, config, trainings, kept = PARTS[name]
    path = tmp_path / "found.json"
    whole = script.main(config)
    config = dataclasses.replace(config, results=str(path))
    with (
        stop_at(script, trainings),
        pytest.raises(Interrupted, match=f"has {kept} .*; go on with the same .* --resume"),
    ):
        script.main(config)
    with stop_at(script, len(whole) - kept):  # no training is made again
        again = script.main(dataclasses.replace(config, resume=True))
    assert again == whole
    with stop_at(script, 0):
        assert script.main(dataclasses.replace(config, resume=True)) == whole
    other = dataclasses.replace(config, resume=True, seeds=3)
    with pytest.raises(UserError, match=r"with --seeds 2, not 3; give the same options"):
        script.main(other)


def test_without_results_there_is_nothing_to_go_on_with(stop_at):
    with (
        stop_at(shuffled_pixels, 0),
        pytest.raises(Interrupted, match="stopped; without --results nothing is kept"),
    ):
        shuffled_pixels.main(TINY)
    with pytest.raises(UserError, match="--resume: needs --results"):
        shuffled_pixels.main(dataclasses.replace(TINY, resume=True))
