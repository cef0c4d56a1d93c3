"""Schedules against torch.optim.lr_scheduler, at numbers, arrays and tensors."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from purenets import UserError, schedules

N = 60
TWINS = {
    "step": (schedules.step(0.4, 7, 0.5), lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
    "piecewise": (
        schedules.piecewise([10, 25], [0.4, 0.04, 0.004]),
        lambda o: lr_scheduler.MultiStepLR(o, [10, 25], 0.1),
    ),
    "cosine": (
        schedules.cosine(0.4, N, 0.01),
        lambda o: lr_scheduler.CosineAnnealingLR(o, N, 0.01),
    ),
    "exponential": (schedules.exponential(0.4, 0.9), lambda o: lr_scheduler.ExponentialLR(o, 0.9)),
    "polynomial": (
        schedules.polynomial(0.4, 0.0, 40, 2.0),
        lambda o: lr_scheduler.PolynomialLR(o, 40, 2.0),
    ),
    "one_cycle": (schedules.one_cycle(0.4, N), lambda o: lr_scheduler.OneCycleLR(o, 0.4, N)),
    "linear": (schedules.linear(0.1, 0.4, 9), lambda o: lr_scheduler.LinearLR(o, 0.25, 1.0, 9)),
    "constant": (schedules.constant(0.4), lambda o: lr_scheduler.ConstantLR(o, 1.0)),
}


def torch_values(make) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    scheduler, values = make(optimizer), []
    for _ in range(N):
        values.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return values


@pytest.mark.parametrize("name", TWINS)
def test_equals_its_twin_in_torch(name):
    ours, make = TWINS[name]
    expected = torch_values(make)
    assert np.allclose(ours(np.arange(N, dtype=float)), expected, rtol=1e-12, atol=1e-15)
    assert np.allclose(ours(torch.arange(N, dtype=torch.float64)), expected, rtol=1e-12, atol=1e-15)
    assert np.allclose([ours(i) for i in range(N)], expected, rtol=1e-12, atol=1e-15)


def test_warmup_rises_to_the_beginning_of_its_schedule():
    warm, cosine = schedules.warmup(schedules.cosine(0.4, 20), 5), schedules.cosine(0.4, 20)
    assert np.allclose([warm(i) for i in range(5)], 0.4 * np.arange(5) / 5)
    assert np.allclose([warm(i + 5) for i in range(20)], [cosine(i) for i in range(20)])


@pytest.mark.parametrize("name", ["cosine", "polynomial", "linear", "one_cycle", "piecewise"])
def test_keeps_its_last_value(name):
    ours = TWINS[name][0]
    assert ours(10 * N) == pytest.approx(float(ours(10**9)), abs=1e-9)
    assert np.isfinite(ours(10**9))


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedules.cosine(0.1, 0),
        lambda: schedules.step(0.1, 0),
        lambda: schedules.one_cycle(0.1, 2),
        lambda: schedules.join([schedules.constant(1)], [3]),
        lambda: schedules.join([schedules.constant(1)] * 3, [5, 3]),
        lambda: schedules.piecewise([1], [1.0]),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(UserError):
        call()
