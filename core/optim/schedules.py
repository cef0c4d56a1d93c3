"""Schedules: functions from the count of updates (from 0) to the value of a hyper-parameter.

They are built of array operations, so a count may be a Python number, a NumPy array (then: all
values at once, as for a plot) or a tensor under vmap and torch.compile. After its end a schedule
keeps its last value.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from purenets.core.arguments import (
    FINITE,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    POSITIVE,
    expect_functions,
    expect_numbers,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Schedule, UserError


def constant(value: float) -> Schedule:
    """Always `value`."""
    expect_numbers("constant", FINITE, value=value)
    return lambda count: value + 0 * _real(count)


def step(value: float, every: int, gamma: float = 0.1) -> Schedule:
    """`value`, times `gamma` after each `every` updates (torch: StepLR)."""
    expect_numbers("step", FINITE, value=value)
    expect_numbers("step", POSITIVE, every=every)
    expect_numbers("step", NOT_NEGATIVE, gamma=gamma)
    return lambda count: value * gamma ** _floor(_real(count) / every)


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[i]` from `boundaries[i - 1]` on; one value more than boundaries."""
    _expect_boundaries("piecewise", boundaries)
    if not _is_listed(values) or len(values) != len(boundaries) + 1:
        raise UserError(
            f"piecewise: {len(boundaries)} boundaries need {len(boundaries) + 1} values"
        )
    for value in values:
        expect_numbers("piecewise", FINITE, values=value)
    return join([constant(value) for value in values], boundaries)


def exponential(value: float, gamma: float) -> Schedule:
    """`value * gamma ** count` (torch: ExponentialLR)."""
    expect_numbers("exponential", FINITE, value=value)
    expect_numbers("exponential", NOT_NEGATIVE, gamma=gamma)
    return lambda count: value * gamma ** _real(count)


def polynomial(begin: float, end: float, steps: int, power: float = 1.0) -> Schedule:
    """From `begin` to `end` in `steps` updates, as (1 - count / steps) ** power (torch:
    PolynomialLR).
    """
    expect_numbers("polynomial", FINITE, begin=begin, end=end)
    expect_numbers("polynomial", POSITIVE, steps=steps, power=power)
    return lambda count: end + (begin - end) * (1 - _fraction(count, steps)) ** power


def linear(begin: float, end: float, steps: int) -> Schedule:
    """From `begin` to `end` in a straight line."""
    expect_numbers("linear", FINITE, begin=begin, end=end)
    expect_numbers("linear", POSITIVE, steps=steps)
    return polynomial(begin, end, steps)


def cosine(begin: float, steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from `begin` to `end` in `steps` updates, then `end` (torch's CosineAnnealingLR
    would rise again). Loshchilov and Hutter 2017, without restarts."""
    expect_numbers("cosine", FINITE, begin=begin, end=end)
    expect_numbers("cosine", POSITIVE, steps=steps)

    def schedule(count):
        fraction = _fraction(count, steps)
        return end + (begin - end) * (1 + namespace(fraction).cos(math.pi * fraction)) / 2

    return schedule


def warmup(schedule: Schedule, steps: int, begin: float = 0.0) -> Schedule:
    """From `begin` in a straight line to `schedule(0)` in `steps` updates, then `schedule` from its
    0 on.
    """
    expect_functions("warmup", schedule=schedule)
    expect_numbers("warmup", NOT_NEGATIVE, steps=steps)
    expect_numbers("warmup", FINITE, begin=begin)
    return join([linear(begin, schedule(0), steps), schedule], [steps]) if steps else schedule


def one_cycle(
    peak: float, steps: int, warmup_fraction: float = 0.3, divide=25.0, divide_final=1e4
) -> Schedule:
    """By half cosines from `peak / divide` to `peak` and on to `peak / divide / divide_final` at
    update `steps - 1` (torch: OneCycleLR). Smith and Topin 2018."""
    expect_numbers("one_cycle", FINITE, peak=peak)
    expect_numbers("one_cycle", POSITIVE, steps=steps, divide=divide, divide_final=divide_final)
    expect_numbers("one_cycle", OPEN_FRACTION, warmup_fraction=warmup_fraction)
    top = warmup_fraction * steps - 1
    if not 0 < top < steps - 1:
        raise UserError(
            f"one_cycle: {steps} steps are too few for a warm-up of {warmup_fraction} of them"
        )
    low = peak / divide
    rise, fall = cosine(low, top, peak), cosine(peak, steps - 1 - top, low / divide_final)
    return join([rise, fall], [top])


def join(schedules: Sequence[Schedule], boundaries: Sequence[float]) -> Schedule:
    """`schedules[i]` from `boundaries[i - 1]` on; each counts from 0 at its own beginning."""
    _expect_boundaries("join", boundaries)
    if not isinstance(schedules, list | tuple) or len(schedules) != len(boundaries) + 1:
        raise UserError("join: needs a list of schedules, one more than boundaries")
    expect_functions("join", **{f"schedules[{i}]": part for i, part in enumerate(schedules)})

    def schedule(count):
        count = _real(count)
        xp = namespace(count)
        value = schedules[0](count)
        for begin, later in zip(boundaries, schedules[1:], strict=True):
            value = xp.where(count >= begin, later(xp.clip(count - begin, 0, None)), value)
        return value

    return schedule


# What a `--schedule` flag names: f(rate, steps) -> the learning rate; `rate` is its largest value.
SCHEDULES: dict[str, Callable[[float, int], float | Schedule]] = {
    "constant": lambda rate, steps: rate,
    "linear": lambda rate, steps: linear(rate, 0.0, steps),
    "cosine": lambda rate, steps: cosine(rate, steps),
    "one_cycle": lambda rate, steps: one_cycle(rate, steps),
}


def _is_listed(values) -> bool:
    return hasattr(values, "__len__") and getattr(values, "ndim", 1) == 1


def _real(count) -> Array:
    return np.asarray(count, dtype=float) if isinstance(count, (int, float)) else count


def _fraction(count, steps) -> Array:
    """count / steps, within [0, 1]."""
    fraction = _real(count) / steps
    return namespace(fraction).clip(fraction, 0.0, 1.0)


def _floor(x) -> Array:
    return namespace(x).floor(x)


def _expect_boundaries(function: str, boundaries: Sequence[float]) -> None:
    """Raise a UserError unless the boundaries are counts in rising order."""
    if not _is_listed(boundaries) or isinstance(boundaries, str):
        raise UserError(f"{function}: boundaries is {boundaries!r}, needs a list of counts")
    for boundary in boundaries:
        expect_numbers(function, NOT_NEGATIVE, boundaries=boundary)
    if list(boundaries) != sorted(boundaries):
        raise UserError(f"{function}: boundaries {list(boundaries)} are not in rising order")
