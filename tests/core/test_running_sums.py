"""Sums of metrics: exact enough for any number of steps, on the CPU and on a device."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets.core import running_sums


def compensated_sum(values: torch.Tensor) -> float:
    total = rounding = 0.0
    for value in values:
        total, rounding = running_sums.add_compensated(total, rounding, value)
    return float(total) + float(rounding)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2000, 20_000])
def test_compensated_sum_is_that_of_float64(dtype, n):
    values = (torch.rand(n, generator=torch.Generator().manual_seed(0)) + 0.5).to(dtype)
    assert compensated_sum(values) == pytest.approx(float(values.double().sum()), rel=1e-12)


def test_plain_float32_sum_would_be_worse():
    values = torch.full((20_000,), 0.1)
    plain = 0.0
    for value in values:
        plain = plain + value
    right = 20_000 * float(values[0])
    assert (
        abs(compensated_sum(values) - right)
        < 1e-9 * right
        < 1e-6 * right
        < abs(float(plain) - right)
    )


@given(st.lists(st.floats(0, 2**10, width=32), min_size=1, max_size=50))
def test_compensated_sum_of_any_losses(values):
    exact = float(sum(map(Fraction, values)))
    assert compensated_sum(torch.tensor(values)) == pytest.approx(exact, rel=1e-10, abs=1e-10)


class OnDevice:
    """A tensor that says it is on a device and cannot be read."""

    is_cpu = False

    def __init__(self, tensor, has_float64):
        self.tensor, self.is_cuda = tensor, has_float64

    def double(self):
        assert self.is_cuda
        return self.tensor.double()

    def item(self):
        pytest.fail("waited for the device")

    __float__ = item

    def float(self):
        return self.tensor.float()

    def element_size(self):
        return self.tensor.element_size()


@pytest.mark.parametrize("has_float64", [True, False], ids=["cuda", "mps"])
@pytest.mark.parametrize("cut", [0, 1, 137, 299])
def test_sums_on_a_device_wait_for_nothing_and_go_on_bitwise_when_saved(cut, has_float64):
    draws = torch.rand(300, generator=torch.Generator().manual_seed(1)).bfloat16()
    losses = [OnDevice(value, has_float64) for value in draws]
    sums = whole = running_sums.begin(None, [], 7)
    for i, loss in enumerate(losses):
        if i == cut:
            saved = {name: float(value) for name, value in sums.items()}
            sums = running_sums.begin(json.loads(json.dumps(saved)), [], 7 + i)
        sums, whole = (running_sums.add(each, {"loss": loss}) for each in (sums, whole))
    assert {name: float(value) for name, value in sums.items()} == {
        name: float(value) for name, value in whole.items()
    }
    mean = running_sums.means(sums, ["loss"], 307)["loss"]
    assert mean == pytest.approx(float(draws.double().mean()), rel=1e-12)


def test_sums_on_the_cpu_are_numbers():
    sums = running_sums.begin(None, [], 0)
    for value in (np.float32(0.1), torch.tensor(0.1), torch.tensor(0.1, requires_grad=True), 0.5):
        sums = running_sums.add(sums, {"loss": value})
    assert type(sums["loss"]) is float
    assert sums["loss"] == 3 * float(np.float32(0.1)) + 0.5


def test_sums_that_were_saved_without_their_step_begin_at_the_last_row():
    assert running_sums.begin({"loss": 2.0}, [{"step": 30}], 34) == {"step": 30, "loss": 2.0}
    assert running_sums.begin({"loss": 2.0}, [], 34) == {"step": 0, "loss": 2.0}
