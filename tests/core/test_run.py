import json

import numpy as np
import pytest

from purenets import UserError, optim, random, runs, train_state
from purenets.core.runs import laps
from purenets.core.runs.files import exclusive_lock


def test_laps_add_up_over_resumed_processes(tmp_path):
    lap = runs.timer(tmp_path)
    lap(10)
    lap(20)
    first = runs.timings(tmp_path)
    assert [row["step"] for row in first] == [10, 20]
    assert 0 < first[0]["seconds"] <= first[1]["seconds"] == runs.training_seconds(tmp_path)
    (tmp_path / laps.TIME).write_text(
        json.dumps([{"step": 10, "seconds": 100.0}, {"step": 20, "seconds": 200.0}])
    )
    runs.timer(tmp_path)(
        15
    )  # a process that was killed after step 20 and goes on from the checkpoint of step 10
    rows = runs.timings(tmp_path)
    assert [row["step"] for row in rows] == [10, 15]
    assert 200 < rows[1]["seconds"] < 201
    assert (
        runs.timings(tmp_path / "nowhere") == []
        and runs.training_seconds(tmp_path / "nowhere") == 0
    )


def test_a_folder_is_one_run_at_a_time(tmp_path):
    with (
        exclusive_lock(tmp_path),
        pytest.raises(UserError, match="another process is training there"),
        exclusive_lock(tmp_path),
    ):
        pass
    with pytest.raises(KeyError), exclusive_lock(tmp_path):
        raise KeyError
    with exclusive_lock(tmp_path):  # given back, also by an error
        pass


def test_a_timer_takes_the_name_of_a_folder(tmp_path):
    runs.timer(str(tmp_path))(10)
    assert [row["step"] for row in runs.timings(tmp_path)] == [10]
    with pytest.raises(UserError, match="timer: folder is 3, needs a path"):
        runs.timer(3)


def test_a_count_for_each_member_is_not_saved(tmp_path):
    """As `vmap(init_state)` makes it."""
    state = train_state({"w": np.zeros((3, 2))}, {}, optim.sgd(0.1), random.key(0))
    with pytest.raises(UserError, match=r"save: state.step has the shape \(3,\), as vmap stacks"):
        runs.save(tmp_path, state._replace(step=np.zeros(3, int)))
    assert list(tmp_path.iterdir()) == []
