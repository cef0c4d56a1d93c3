"""Schedules: functions from the count of updates (from 0) to the value of a hyper-parameter.

They are built of array operations, so a count may be a Python number, a NumPy array (then: all
values at once, as for a plot) or a tensor under vmap and torch.compile. After its end a schedule
keeps its last value.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

from purenets.core.arrays import namespace
from purenets.core.base import Array, Schedule, UserError


def constant(value: float) -> Schedule:
    """Always `value`."""
    return lambda count: value + 0 * _real(count)


def step(value: float, every: int, gamma: float = 0.1) -> Schedule:
    """`value`, times `gamma` after each `every` updates (torch: StepLR)."""
    _positive("every", every)
    return lambda count: value * gamma ** _floor(_real(count) / every)


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """`values[i]` from `boundaries[i - 1]` on; one value more than boundaries."""
    if len(values) != len(boundaries) + 1:
        raise UserError(
            f"piecewise: {len(boundaries)} boundaries need {len(boundaries) + 1} values"
        )
    return join([constant(value) for value in values], boundaries)


def exponential(value: float, gamma: float) -> Schedule:
    """`value * gamma ** count` (torch: ExponentialLR)."""
    return lambda count: value * gamma ** _real(count)


def polynomial(begin: float, end: float, steps: int, power: float = 1.0) -> Schedule:
    """From `begin` to `end` in `steps` updates, as (1 - count / steps) ** power (torch:
    PolynomialLR).
    """
    _positive("steps", steps)
    return lambda count: end + (begin - end) * (1 - _fraction(count, steps)) ** power


def linear(begin: float, end: float, steps: int) -> Schedule:
    """From `begin` to `end` in a straight line."""
    return polynomial(begin, end, steps)


def cosine(begin: float, steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from `begin` to `end` in `steps` updates, then `end` (torch's CosineAnnealingLR
    would rise again). Loshchilov and Hutter 2017, without restarts."""
    _positive("steps", steps)

    def schedule(count):
        fraction = _fraction(count, steps)
        return end + (begin - end) * (1 + namespace(fraction).cos(math.pi * fraction)) / 2

    return schedule


def warmup(schedule: Schedule, steps: int, begin: float = 0.0) -> Schedule:
    """From `begin` in a straight line to `schedule(0)` in `steps` updates, then `schedule` from its
    0 on.
    """
    return join([linear(begin, schedule(0), steps), schedule], [steps]) if steps else schedule


def one_cycle(
    peak: float, steps: int, warmup_fraction: float = 0.3, divide=25.0, divide_final=1e4
) -> Schedule:
    """By half cosines from `peak / divide` to `peak` and on to `peak / divide / divide_final` at
    update `steps - 1` (torch: OneCycleLR). Smith and Topin 2018."""
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
    if len(schedules) != len(boundaries) + 1 or list(boundaries) != sorted(boundaries):
        raise UserError(
            "join: needs one schedule more than boundaries, and boundaries in rising order"
        )

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


def _real(count) -> Array:
    return np.asarray(count, dtype=float) if isinstance(count, (int, float)) else count


def _fraction(count, steps) -> Array:
    """count / steps, within [0, 1]."""
    fraction = _real(count) / steps
    return namespace(fraction).clip(fraction, 0.0, 1.0)


def _floor(x) -> Array:
    return namespace(x).floor(x)


def _positive(name: str, value) -> None:
    if not value > 0:
        raise UserError(f"schedule: {name} must be positive, got {value}")
