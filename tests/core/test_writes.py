"""A function of the user's that writes into its arguments is told, in both libraries."""

import numpy as np
import pytest
import torch

from purenets import UserError, make_step, optim, random, scan, train_state
from purenets.core.writes import watch

ARRAYS = pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])


def add_to_carry(total, x):
    total += x
    return total, total


def double_x(total, x):
    x *= 2
    return total + x, total


def replace_entry(carry, x):
    carry["total"] = carry["total"] + x
    return carry, x


@ARRAYS
@pytest.mark.parametrize(("f", "what"), [(add_to_carry, "carry"), (double_x, "x")])
def test_scan_refuses_a_function_that_writes(f, what, array):
    init, xs = array(np.zeros(2)), array(np.ones((3, 2)))
    with pytest.raises(UserError, match=rf"^scan: f: changes its {what} in place; return new"):
        scan(f, init, xs)


@ARRAYS
def test_scan_refuses_a_function_that_replaces_an_entry_of_its_carry(array):
    with pytest.raises(UserError, match=r"^scan: f: changes its carry in place"):
        scan(replace_entry, {"total": array(np.zeros(2))}, array(np.ones((3, 2))))


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: torch.func.vmap(f),
        lambda f: torch.func.grad(lambda x: f(x).sum()),
        lambda f: torch.func.vmap(torch.func.grad(lambda x: f(x).sum())),
    ],
)
def test_scan_sees_writes_under_the_transforms_of_torch(transform):
    x = torch.ones(2, 3, 4)
    with pytest.raises(UserError, match=r"^scan: f: changes its carry in place"):
        transform(lambda x: scan(add_to_carry, 0 * x[0], x)[1])(x)


@ARRAYS
def test_scan_of_a_pure_function_with_an_inner_write_is_taken(array):
    def f(total, x):
        new = total + x
        new += 1
        return new, new

    assert [float(y) for y in scan(f, array(np.zeros(())), array(np.ones(3)))[1]] == [2, 4, 6]


def gradient(write):
    def gradient_of(params, buffers, batch, key):
        write(params, buffers, batch)
        error = batch[0] @ params["w"] - batch[1]
        return {"w": batch[0].T @ error}, (buffers, {"loss": (error**2).sum() / 2})

    return gradient_of


def halve_param(params, buffers, batch):
    params["w"] *= 0.5


def replace_param(params, buffers, batch):
    params["w"] = 0.5 * params["w"]


def halve_buffer(params, buffers, batch):
    buffers["mean"] *= 0.5


def center_inputs(params, buffers, batch):
    x, _ = batch
    x -= 1


WRITES = [
    (halve_param, "params"),
    (replace_param, "params"),
    (halve_buffer, "buffers"),
    (center_inputs, "batch"),
]


@ARRAYS
@pytest.mark.parametrize(("write", "what"), WRITES)
def test_step_refuses_a_gradient_function_that_writes(write, what, array):
    optimizer = optim.sgd(0.1)
    params, buffers = {"w": array(np.ones(2))}, {"mean": array(np.ones(2))}
    state = train_state(params, buffers, optimizer, random.key(0))
    batch = array(np.arange(6.0).reshape(3, 2)), array(np.ones(3))
    with pytest.raises(UserError, match=rf"^make_step: grad_fn: changes its {what} in place"):
        make_step(gradient(write), optimizer)(state, batch)
    step = make_step(gradient(lambda *parts: None), optimizer)
    first, second = step(state, batch)[0], step(state, batch)[0]
    assert (first.params["w"] == second.params["w"]).all()


def test_watch_sees_bytes_not_values():
    x = np.array([np.nan, 0.0])
    written = watch(x=x)
    assert written() is None  # NaN is not equal to itself
    x[1] = -0.0
    assert written() == "x"
