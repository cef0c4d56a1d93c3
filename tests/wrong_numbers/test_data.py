"""Tables: features that say nothing, and cells that are no plain numbers."""

import numpy as np
import pytest

from purenets import UserError, data, evaluate, fit, init_state, make_step, optim, random
from purenets.numpy_nets import MLP, grad_fn, metrics_fn

ROWS = "".join(f"{i},{i % 2}\n" for i in range(100))


def test_sensor_that_moved_once_does_not_ruin_the_test_loss(tmp_path):
    draws, sensor = random.normal(random.key(0), (1000,)), np.full(1000, 14.62)
    sensor[7], draws[7] = 20.0, -draws[7]  # a row of the test part, by the key below
    table = np.c_[draws, sensor, draws > 0]
    np.savetxt(tmp_path / "sensor.csv", table, delimiter=",", fmt=["%.6f", "%.2f", "%d"])
    task = data.from_csv(tmp_path / "sensor.csv", random.key(1))
    net, optimizer = MLP(2, [20], 2), optim.sgd(0.1)
    state = init_state(net, optimizer, random.key(0))
    batches = data.batches(task.train, 32, random.key(0))
    state, _ = fit(make_step(grad_fn(net), optimizer), state, batches, steps=20)
    assert np.ptp(task.train[0][:, 1]) == 0
    assert evaluate(metrics_fn(net), state, task.test)["loss"] < 1


def read(folder, text: str):
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return data.from_csv(folder / "table.csv", random.key(0))


@pytest.mark.xfail(strict=True, raises=UserError, reason="taken for a part of the first number")
def test_byte_order_mark_is_no_part_of_a_number(tmp_path):
    task = read(tmp_path, "\ufeff" + ROWS)
    assert len(task.train[0]) + len(task.test[0]) == 100


@pytest.mark.parametrize(
    "row",
    [pytest.param("1_000,1\n", id="underscore"), pytest.param("5,1000000\n", id="class")],
)
def test_number_that_nobody_meant_is_refused(tmp_path, row):
    with pytest.raises(UserError):
        read(tmp_path, row + ROWS)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("1\0,1\n" + ROWS, id="number"),
        pytest.param(
            "a\0,b\n" + ROWS,
            id="header",
            marks=pytest.mark.xfail(
                strict=True, raises=pytest.fail.Exception, reason="the header is not looked at"
            ),
        ),
    ],
)
def test_nul_is_refused(tmp_path, text):
    with pytest.raises(UserError):
        read(tmp_path, text)
