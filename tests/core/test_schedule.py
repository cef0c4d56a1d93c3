"""Schedules against torch.optim.lr_scheduler, at numbers, arrays and tensors."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler, swa_utils

from purenets import UserError, optim, schedules

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
    "constant factor": (
        schedules.piecewise([7], [0.1, 0.4]),
        lambda o: lr_scheduler.ConstantLR(o, 0.25, 7),
    ),
    "multi_step": (
        schedules.multi_step(0.4, [5, 20, 20, 31], 0.3),
        lambda o: lr_scheduler.MultiStepLR(o, [5, 20, 20, 31], 0.3),
    ),
    "lambda": (
        lambda count: 0.4 / (1 + 0.1 * count),
        lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + 0.1 * epoch)),
    ),
    "sequential": (
        schedules.join(
            [schedules.linear(0.1, 0.4, 8), schedules.exponential(0.4, 0.9), lambda count: 0.05],
            [8, 30],
        ),
        lambda o: lr_scheduler.SequentialLR(
            o,
            [
                lr_scheduler.LinearLR(o, 0.25, 1.0, 8),
                lr_scheduler.ExponentialLR(o, 0.9),
                lr_scheduler.LambdaLR(o, lambda epoch: 0.125),
            ],
            [8, 30],
        ),
    ),
    "restarts": (
        schedules.cosine_restarts(0.4, 7, end=0.01),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 7, eta_min=0.01),
    ),
    "restarts, twice as long": (
        schedules.cosine_restarts(0.4, 5, 2),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5, 2),
    ),
    "restarts, three times as long": (
        schedules.cosine_restarts(0.4, 2, 3, 0.1),
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 2, 3, 0.1),
    ),
    "cyclic": (
        schedules.cyclic(0.1, 0.4, 6),
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 6, cycle_momentum=False),
    ),
    "cyclic, half as high": (
        schedules.cyclic(0.1, 0.4, 4, 9, "triangular2"),
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 4, 9, "triangular2", cycle_momentum=False),
    ),
    "cyclic, decaying": (
        schedules.cyclic(0.1, 0.4, 5, 3, "exp_range", 0.97),
        lambda o: lr_scheduler.CyclicLR(o, 0.1, 0.4, 5, 3, "exp_range", 0.97, cycle_momentum=False),
    ),
    "one_cycle, linear": (
        schedules.one_cycle(0.4, N, 0.2, 10.0, 100.0, "linear"),
        lambda o: lr_scheduler.OneCycleLR(
            o,
            0.4,
            N,
            pct_start=0.2,
            div_factor=10.0,
            final_div_factor=100.0,
            anneal_strategy="linear",
        ),
    ),
    "one_cycle, three phases": (
        schedules.one_cycle(0.4, N, 0.4, three_phase=True),
        lambda o: lr_scheduler.OneCycleLR(o, 0.4, N, pct_start=0.4, three_phase=True),
    ),
    "swa": (
        schedules.swa(0.4, 0, 0.05, 13),
        lambda o: swa_utils.SWALR(o, 0.05, 13),
    ),
    "swa, linear": (
        schedules.swa(0.4, 0, 0.7, 13, "linear"),
        lambda o: swa_utils.SWALR(o, 0.7, 13, "linear"),
    ),
    "swa, at once": (
        schedules.swa(0.4, 0, 0.05, 0),
        lambda o: swa_utils.SWALR(o, 0.05, 0),
    ),
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


@pytest.mark.parametrize(
    ("schedule", "exact"),
    [
        (schedules.exponential(1.0, 0.999999), lambda c: 0.999999**c),
        (schedules.exponential(1.0, 0.9999), lambda c: 0.9999**c),
        (schedules.step(1.0, 10, 0.9999), lambda c: 0.9999 ** (c // 10)),
        (
            schedules.cyclic(0.0, 1.0, 3, mode="exp_range", gamma=0.99999),
            lambda c: 0.99999**c * (1 - abs(c % 6 - 3) / 3),
        ),
    ],
    ids=["exponential", "fast", "step", "cyclic"],
)
def test_a_factor_close_to_1_keeps_its_digits_in_float32(schedule, exact):
    """The count reaches a schedule in float32; 0.999999 rounded to it is 1e6 times too small."""
    for count in (0, 1, 10, 100_001, 500_003, 1_000_000):
        expected = pytest.approx(exact(count), rel=3e-6, abs=1e-9)
        assert float(schedule(np.asarray(count, np.float32))) == expected
        assert schedule(np.asarray(count, np.float32)).dtype == np.float32
        for tensor in (torch.tensor(float(count)), torch.tensor(count)):
            assert float(schedule(tensor)) == expected
            assert schedule(tensor).dtype == torch.float32
            assert float(torch.func.vmap(schedule)(tensor[None])[0]) == expected


def test_warmup_rises_to_the_beginning_of_its_schedule():
    warm, cosine = schedules.warmup(schedules.cosine(0.4, 20), 5), schedules.cosine(0.4, 20)
    assert np.allclose([warm(i) for i in range(5)], 0.4 * np.arange(5) / 5)
    assert np.allclose([warm(i + 5) for i in range(20)], [cosine(i) for i in range(20)])


def test_swa_anneals_from_where_the_schedule_is():
    """The loop of torch's documentation: another scheduler first, then SWALR."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)
    before = lr_scheduler.ExponentialLR(optimizer, 0.97)
    ours = schedules.swa(schedules.exponential(0.4, 0.97), 25, 0.05, 8)
    after, expected = None, []
    for i in range(N):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if i + 1 == 25:
            before.step()
            after = swa_utils.SWALR(optimizer, 0.05, 8)
        else:
            (before if after is None else after).step()
    assert np.allclose(ours(np.arange(N, dtype=float)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", TWINS)
def test_in_float32_as_a_float32_net_counts(name):
    """No count lands in the wrong cycle: every value is that of float64, rounded."""
    ours = TWINS[name][0]
    counts = torch.arange(0, 3 * N, dtype=torch.float64)
    exact = ours(counts) if name != "lambda" else ours(counts).double()
    assert np.allclose(ours(counts.float()), exact, rtol=2e-5, atol=1e-6)


PERIODIC = {
    "step": schedules.step(1.0, 2**20 + 1, 0.9),
    "restarts": schedules.cosine_restarts(1.0, 7),
    "restarts, three times as long": schedules.cosine_restarts(1.0, 2, 3),
    "cyclic": schedules.cyclic(0.0, 1.0, 3),
    "cyclic, of a number of updates in floating point": schedules.cyclic(0.0, 1.0, 3.0, 5.0),
    "cyclic, decaying": schedules.cyclic(0.0, 1.0, 3, mode="exp_range", gamma=1 - 2**-24),
    "cyclic after a warm-up": schedules.warmup(schedules.cyclic(0.1, 1.0, 3), 5),
}


@pytest.mark.parametrize("name", PERIODIC)
def test_integer_counts_that_float32_does_not_hold_are_in_the_right_cycle(name):
    ours = PERIODIC[name]
    first = 16 * (2**20 + 1) - 8
    counts = [*range(first, first + 16), 2**30 + 5, 3**18 - 1, 3**18, 3**18 + 1]
    right = [float(ours(count)) for count in counts]
    one = [float(ours(torch.tensor(count))) for count in counts]
    assert np.allclose(one, right, atol=1e-5)
    assert np.allclose(torch.func.vmap(ours)(torch.tensor(counts)), right, atol=1e-5)
    assert np.allclose(ours(torch.tensor(counts, dtype=torch.int32)), right, atol=1e-5)
    assert np.allclose(ours(np.array(counts)), right, atol=1e-9)
    small = torch.arange(40, dtype=torch.uint8)
    assert np.allclose(ours(small), ours(np.arange(40)), atol=1e-6)


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
        lambda: schedules.multi_step(0.1, [5, 3]),
        lambda: schedules.cosine_restarts(0.1, 0),
        lambda: schedules.cosine_restarts(0.1, 5, 1.5),
        lambda: schedules.cyclic(0.1, 0.4, 0),
        lambda: schedules.cyclic(0.1, 0.4, 5, mode="sine"),
        lambda: schedules.one_cycle(0.1, 20, anneal="quadratic"),
        lambda: schedules.one_cycle(0.1, 20, 0.6, three_phase=True),
        lambda: schedules.swa(0.1, 5, 0.05, anneal="quadratic"),
    ],
)
def test_wrong_arguments_are_refused(call):
    with pytest.raises(UserError):
        call()


def test_one_cycle_says_how_many_steps_its_warm_up_needs():
    with pytest.raises(UserError, match=r"2 steps are too few .* needs 4 or more"):
        schedules.one_cycle(0.1, 2)
    assert schedules.one_cycle(0.1, 4)(0) == pytest.approx(0.004)
    with pytest.raises(UserError, match=r"needs 11 or more"):
        schedules.one_cycle(0.1, 10, 0.1)
    schedules.one_cycle(0.1, 11, 0.1)
    with pytest.raises(UserError, match=r"warmup_fraction=0\.6 leaves none of the 20 steps"):
        schedules.one_cycle(0.1, 20, 0.6, three_phase=True)


def test_steps_do_not_overflow_integers():
    assert schedules.multi_step(1, list(range(70)), 2)(np.array([70])) == [2.0**70]
    join = schedules.join([schedules.constant(1.0), schedules.constant(2.0)], [1000])
    assert join(np.arange(3, dtype=np.uint8)).tolist() == [1, 1, 1]


def test_joined_functions_that_return_python_numbers_keep_the_dtype_of_the_params():
    schedule = schedules.join([lambda count: 0.1, lambda count: 0.2], [1])
    optimizer, params = optim.sgd(schedule), {"w": torch.ones(1, dtype=torch.float64)}
    state, taken = optimizer.init(params), []
    for _ in range(3):
        updates, state = optimizer.update(params, state, params)
        taken.append(float(updates["w"]))
    assert taken == [-0.1, -0.2, -0.2]
