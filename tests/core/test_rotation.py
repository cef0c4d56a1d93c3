"""Which checkpoints are kept, which is used, and saving beside the training."""

import threading
import time

import numpy as np
import pytest

from purenets import UserError, data, init_state, make_step, optim, random, runs
from purenets.core.runs import checkpoint, history, rotation, saving
from purenets.core.runs.files import write_atomically
from purenets.numpy_nets import MLP, grad_fn

NET, ADAM = MLP(2, [5], 2), optim.adam(lr=1e-2)
STATE = init_state(NET, ADAM, random.key(0))


def rows(*steps: int, accuracy=None) -> list[dict]:
    found = [{"step": step, "loss": 1 / step} for step in steps]
    for row, value in zip(found, accuracy or (), strict=False):
        row["valid_accuracy"] = value
    return found


def at(step: int):
    return STATE._replace(step=np.int64(step))


def save_all(folder, *steps: int, keep: int = 2, accuracy=None) -> None:
    newest = None
    for i, step in enumerate(steps, start=1):
        newest = runs.save(
            folder, at(step), rows(*steps[:i], accuracy=accuracy), {}, keep=keep, newest=newest
        )


def names(folder) -> set[str]:
    return {path.name for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize(("keep", "older"), [(1, []), (2, [30]), (3, [20, 30]), (9, [10, 20, 30])])
def test_so_many_are_kept(tmp_path, keep, older):
    save_all(tmp_path, 10, 20, 30, 40, keep=keep)
    expected = {checkpoint.NAME, *(f"checkpoint-{step}.safetensors" for step in older)}
    assert names(tmp_path) == expected
    for step in older:
        flat, meta = checkpoint.read(tmp_path / f"checkpoint-{step}.safetensors")
        assert rotation.step_of(flat) == meta["history"][-1]["step"] == step


def test_the_best_by_validation_is_kept(tmp_path):
    save_all(tmp_path, 10, 20, 30, 40, keep=1, accuracy=[0.5, 0.9, 0.9, 0.7])
    assert names(tmp_path) == {checkpoint.NAME, rotation.BEST}
    assert rotation.step_of(checkpoint.read(tmp_path / rotation.BEST)[0]) == 20
    assert runs.restore(tmp_path, STATE)[0].step == 40
    state, best_rows, _ = runs.restore(tmp_path, STATE, best=True)
    assert state.step == best_rows[-1]["step"] == 20


def test_the_best_of_a_run_without_validation_is_refused(tmp_path):
    save_all(tmp_path, 10)
    with pytest.raises(UserError, match=r"no best checkpoint; .* valid_accuracy or valid_loss"):
        runs.restore(tmp_path, STATE, best=True)
    with pytest.raises(UserError, match="no checkpoint in"):
        runs.restore(tmp_path / "other", STATE, best=True)
    assert runs.restore(tmp_path / "other", STATE, best=True, missing_ok=True)[0] is STATE


@pytest.mark.parametrize(
    ("table", "best"),
    [
        ([], None),
        ([{"step": 0, "valid_loss": 0.1}], None),  # nothing is saved at step 0
        ([{"step": 1, "test_accuracy": 1.0}], None),  # not by the test set
        ([{"step": 1, "valid_loss": 2.0}, {"step": 2, "valid_loss": 1.0}], 2),
        ([{"step": 1, "valid_loss": 2.0}, {"step": 2, "loss": 1.0}], 1),
        (
            [
                {"step": 1, "valid_accuracy": 0.5, "valid_loss": 2.0},
                {"step": 2, "valid_accuracy": 0.5, "valid_loss": 1.0},
                {"step": 3, "valid_accuracy": 0.4, "valid_loss": 0.5},
                {"step": 4, "valid_accuracy": 0.5, "valid_loss": 1.0},
            ],
            2,
        ),
    ],
)
def test_best_step(table, best):
    assert history.best_step(table) == best


def test_a_save_between_two_rows_pushes_none_out(tmp_path):
    """As by Ctrl-C: the folder ends as that of a run that was not interrupted."""
    save_all(tmp_path, 10, 20)
    newest = runs.save(tmp_path, at(25), rows(10, 20), {"loss": 1.0}, newest=20)
    assert names(tmp_path) == {checkpoint.NAME, "checkpoint-20.safetensors"}
    runs.save(tmp_path, at(30), rows(10, 20, 30), {}, newest=newest)
    assert names(tmp_path) == {checkpoint.NAME, "checkpoint-20.safetensors"}


def test_a_damaged_newest_is_named_and_the_one_before_is_used(tmp_path):
    save_all(tmp_path, 10, 20, 30)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(runs.RunWarning, match=r"checkpoint\.safetensors: damaged.*-20.*step 20"):
        state, table, _ = runs.restore(tmp_path, STATE)
    assert state.step == 20 and table == rows(10, 20)
    with pytest.warns(runs.RunWarning, match="going on from"):
        assert runs.settle(tmp_path) == 20
    assert runs.restore(tmp_path, STATE)[0].step == 20  # without a warning
    assert history.read_csv(tmp_path / "history.csv") == rows(10, 20)
    path.rename(tmp_path / "checkpoint-20.safetensors")
    with pytest.warns(runs.RunWarning, match="is missing"):
        assert runs.restore(tmp_path, STATE)[0].step == 20


def test_damaged_ones_alone_are_refused(tmp_path):
    save_all(tmp_path, 10, 20, accuracy=[0.5, 0.6])
    for name in names(tmp_path):
        write_atomically(tmp_path / name, b"nothing")
    for call in (lambda: runs.restore(tmp_path, STATE), lambda: runs.settle(tmp_path)):
        with pytest.raises(UserError, match=r"checkpoint\.safetensors: damaged or not a"):
            call()


def test_a_right_digest_over_a_wrong_history_is_refused(tmp_path):
    flat = checkpoint.on_host(at(5)._asdict())
    wrong = [
        {},
        {"history": [], "sums": []},
        {"history": [{"loss": 1.0}], "sums": {}},
        {"history": rows(2, 1), "sums": {}},
        {"history": rows(6), "sums": {}},
        {"history": [{"step": 1, "loss": "1"}], "sums": {}},
        {"history": rows(1), "sums": {"loss": None}},
    ]
    for meta in wrong:
        write_atomically(tmp_path / checkpoint.NAME, checkpoint.encoded(flat, meta))
        with pytest.raises(UserError, match="damaged or not a checkpoint of purenets"):
            runs.restore(tmp_path, STATE)


def test_settle_makes_what_a_killed_save_did_not(tmp_path):
    save_all(tmp_path, 10, 20, 30, accuracy=[0.1, 0.2, 0.3])
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for name in ("history.csv", "checkpoint.json", rotation.BEST):
        (tmp_path / name).unlink()
        (tmp_path / "checkpoint-10.safetensors").write_bytes(b"one that was to be removed")
        assert runs.settle(tmp_path) == 30
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == whole
    assert runs.settle(tmp_path / "empty") is None


# --- in a thread ----------------------------------------------------------------------------------


def trained(folder, save):
    """Train a few steps; `save` is what `fit` calls."""
    task = data.load("moons", random.key(0), n=50)
    folder.mkdir()
    batches = data.batches(task.train, 10, random.key(1))
    step = make_step(grad_fn(NET), ADAM)
    from purenets import fit

    return fit(step, STATE, batches, steps=6, every=2, save=save)


def test_a_thread_saves_the_bits_that_a_call_saves(tmp_path):
    newest = None

    def save(state, table, sums):
        nonlocal newest
        newest = runs.save(tmp_path / "calls", state, table, sums, newest=newest)

    trained(tmp_path / "calls", save)
    with saving.saver(tmp_path / "thread", 2, None) as in_thread:
        trained(tmp_path / "thread", in_thread)
    files = {path.name: path.read_bytes() for path in (tmp_path / "calls").iterdir()}
    for name, content in files.items():
        assert (tmp_path / "thread" / name).read_bytes() == content
    others = {path.name for path in (tmp_path / "thread").iterdir()} - files.keys()
    assert others == {"seconds.json"}


def test_one_save_is_in_flight_and_the_last_is_waited_for(tmp_path, monkeypatch):
    commit, running, most = rotation.commit, [], []

    def slow(*arguments):
        running.append(1)
        most.append(len(running))
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.05)
        result = commit(*arguments)
        running.pop()
        return result

    monkeypatch.setattr(rotation, "commit", slow)
    with saving.saver(tmp_path, 2, None) as save:
        begin = time.perf_counter()
        save(at(1), rows(1), {})
        assert time.perf_counter() - begin < 0.05  # the training goes on
        save(at(2), rows(1, 2), {})
        save(at(3), rows(1, 2, 3), {})
    assert most == [1, 1, 1]
    assert runs.restore(tmp_path, STATE)[0].step == 3


def test_what_is_saved_is_what_was_handed_over(tmp_path, monkeypatch):
    """Not what became of it while the thread waited."""
    commit = rotation.commit

    def late(*arguments):
        time.sleep(0.05)
        return commit(*arguments)

    monkeypatch.setattr(rotation, "commit", late)
    params = {name: leaf.copy() for name, leaf in STATE.params.items()}
    table = rows(1)
    with saving.saver(tmp_path, 2, None) as save:
        save(at(1)._replace(params=params), table, {})
        table.append({"step": 2})
        for leaf in params.values():
            leaf[...] = 7
    state, found, _ = runs.restore(tmp_path, STATE)
    assert found == rows(1)
    assert all(np.array_equal(state.params[name], STATE.params[name]) for name in params)


@pytest.mark.parametrize("when", ["next", "end"])
def test_a_save_that_fails_is_told(tmp_path, when):
    (tmp_path / "checkpoint.safetensors").mkdir()
    with (
        pytest.raises(UserError, match=r"checkpoint\.safetensors: cannot be written"),
        saving.saver(tmp_path, 2, None) as save,
    ):
        save(at(1), rows(1), {})
        if when == "next":
            save(at(2), rows(1, 2), {})
            raise AssertionError("the failure was not told")


def test_a_mistyped_folder_is_named_instead_of_an_untrained_state(tmp_path):
    for name in ("run", "empty"):
        (tmp_path / name).mkdir()
    runs.save(tmp_path / "run", at(3))
    for name, why in (("typo", "typo, which is no folder;"), ("empty", "empty;")):
        with pytest.raises(UserError, match=f"restore: no checkpoint in .*{why} missing_ok=True"):
            runs.restore(tmp_path / name, STATE)
        assert runs.restore(tmp_path / name, STATE, missing_ok=True) == (STATE, [], {})
    assert runs.restore(tmp_path / "run", STATE)[0].step == 3


def test_a_state_is_saved_alone(tmp_path):
    assert runs.save(tmp_path, at(7)) == 7
    state, table, sums = runs.restore(tmp_path, STATE)
    assert (int(state.step), table, sums) == (7, [], {})


@pytest.mark.parametrize("step", [np.array(3), np.array(9, np.uint64), np.array(-1), np.array(9.0)])
def test_save_refuses_what_restore_would_call_damaged(step, tmp_path):
    with pytest.raises(UserError, match=r"save: state.step is .*, needs an int64 from 7 on"):
        runs.save(tmp_path, STATE._replace(step=step), [{"step": 7, "loss": 1.0}])
    assert list(tmp_path.iterdir()) == []


def test_a_save_without_the_newest_step_finds_it(tmp_path):
    for i, step in enumerate((10, 20, 30), start=1):
        runs.save(tmp_path, at(step), rows(*(10, 20, 30)[:i]), keep=3)
    assert names(tmp_path) == {
        checkpoint.NAME,
        "checkpoint-10.safetensors",
        "checkpoint-20.safetensors",
    }


def test_a_save_without_rows_does_not_replace_a_history(tmp_path):
    save_all(tmp_path, 10, 20)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(
        UserError, match=r"^save: .* holds a history; pass its rows, or name another"
    ):
        runs.save(tmp_path, at(30))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_save_over_damaged_checkpoints_alone_is_whole(tmp_path):
    (tmp_path / checkpoint.NAME).write_bytes(b"damaged")
    runs.save(tmp_path, at(30))
    assert runs.restore(tmp_path, STATE)[0].step == 30


def test_the_best_is_that_of_the_rows_that_were_saved(tmp_path):
    table = rows(10, 20, 30, 40, accuracy=[0.8, 0.95, 0.7, 0.9])
    newest = None
    for i, step in enumerate((10, 20, 30, 40), start=1):
        if step != 20:  # the best row of all is not saved
            newest = runs.save(tmp_path, at(step), table[:i], {}, keep=1, newest=newest)
        found = runs.restore(tmp_path, STATE, best=True)[0]
        assert found.step == (10 if step < 40 else 40)


def test_as_many_are_kept_of_those_that_were_saved(tmp_path):
    newest, steps = None, range(10, 101, 10)
    for i, step in enumerate(steps, start=1):
        if step % 20 == 0:
            newest = runs.save(tmp_path, at(step), rows(*steps[:i]), keep=4, newest=newest)
    kept = (f"checkpoint-{step}.safetensors" for step in (40, 60, 80))
    assert names(tmp_path) == {checkpoint.NAME, *kept}


def test_the_best_of_a_damaged_newest_is_forgotten(tmp_path):
    save_all(tmp_path, 10, 20, 30, accuracy=[0.5, 0.4, 0.9], keep=3)
    path = tmp_path / checkpoint.NAME
    write_atomically(path, path.read_bytes()[:-1])
    with pytest.warns(runs.RunWarning, match="going on from"):
        runs.settle(tmp_path)
    assert runs.restore(tmp_path, STATE, best=True)[0].step == 10


@pytest.mark.parametrize("wrong", [b"", b"nothing", b"\xff" * 500])
def test_a_damaged_best_is_replaced_by_none_but_itself(tmp_path, wrong):
    save_all(tmp_path, 10, 20, 30, accuracy=[0.5, 0.4, 0.3], keep=1)
    write_atomically(tmp_path / rotation.BEST, wrong)
    runs.save(tmp_path, at(40), rows(10, 20, 30, 40, accuracy=[0.5, 0.4, 0.3, 0.2]), {}, keep=1)
    with pytest.raises(UserError, match="damaged"):
        runs.restore(tmp_path, STATE, best=True)
    better = rows(10, 20, 30, 40, 50, accuracy=[0.5, 0.4, 0.3, 0.2, 0.6])
    runs.save(tmp_path, at(50), better, {}, keep=1)
    assert runs.restore(tmp_path, STATE, best=True)[0].step == 50
