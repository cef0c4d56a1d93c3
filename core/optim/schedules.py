"""Schedules: functions from the count of updates (from 0) to the value of a hyper-parameter.

They are built of array operations, so a count may be a Python number, a NumPy array (then: all
values at once, as for a plot) or a tensor under vmap and torch.compile. After its end a schedule
keeps its last value.
"""

import math
from collections.abc import Callable, Sequence
from typing import NoReturn

import numpy as np

from purenets.core.arguments import (
    FINITE,
    NOT_NEGATIVE,
    OPEN_FRACTION,
    POSITIVE,
    expect_call,
    expect_choice,
    expect_flags,
    expect_integers,
    expect_numbers,
    is_integer,
    shown,
)
from purenets.core.arrays import kind_of, namespace
from purenets.core.base import Array, Schedule, UserError
from purenets.core.optim.internals.optax_names import refuse

__all__ = [
    "SCHEDULES",
    "constant",
    "cosine",
    "cosine_restarts",
    "cyclic",
    "exponential",
    "join",
    "linear",
    "multi_step",
    "one_cycle",
    "piecewise",
    "polynomial",
    "step",
    "swa",
    "warmup",
]


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of optax is here."""
    refuse("schedules", name)


def constant(value: float) -> Schedule:
    """Return a schedule that always has the same value.

    Args:
        value: the value of the hyper-parameter.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: the value is not a finite number.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.constant(0.1)(np.arange(3))
        array([0.1, 0.1, 0.1])

    Source:
        optax.constant_schedule.
    """
    expect_numbers("constant", FINITE, value=value)
    return lambda count: value + 0 * _as_float(count)


def step(value: float, every: int, gamma: float = 0.1) -> Schedule:
    """Return a schedule that is multiplied by `gamma` after each `every` updates.

        value * gamma ** floor(count / every)

    Args:
        value: the value before the first multiplication.
        every: updates from one multiplication to the next.
        gamma: the factor.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a number or is out of range.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.step(8.0, every=2, gamma=0.5)(np.arange(6))
        array([8., 8., 4., 4., 2., 2.])

    Source:
        torch.optim.lr_scheduler.StepLR.
    """
    expect_numbers("step", FINITE, value=value)
    _expect_updates("step", _swapped("step", value, every), every=every)
    expect_numbers("step", NOT_NEGATIVE, gamma=gamma)
    every = _whole(every)
    return lambda count: value * _power(gamma, _quotient(_as_float(count), every))


def piecewise(boundaries: Sequence[int], values: Sequence[float]) -> Schedule:
    """Return a schedule of given values, each from its boundary on.

    Args:
        boundaries: counts of updates in ascending order; `values[i]` holds from `boundaries[i - 1]`
            on.
        values: one more than boundaries.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: the numbers of boundaries and values do not fit, the boundaries do not rise, or a
            value is not a finite number.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.piecewise([2, 5], [1.0, 0.5, 0.1])(np.arange(7))
        array([1. , 1. , 0.5, 0.5, 0.5, 0.1, 0.1])

    Source:
        optax.piecewise_constant_schedule, which takes factors instead of values.
    """
    _expect_counts("piecewise", boundaries=boundaries)
    if not _is_listed(values) or len(values) != len(boundaries) + 1:
        raise UserError(
            f"piecewise: {len(boundaries)} boundaries need {len(boundaries) + 1} values"
        )
    for value in values:
        expect_numbers("piecewise", FINITE, values=value)
    return join([constant(value) for value in values], boundaries)


def exponential(value: float, gamma: float) -> Schedule:
    """Return a schedule that is multiplied by `gamma` at every update: value * gamma ** count.

    Args:
        value: the value at the first update.
        gamma: the factor.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: `value` is not a finite number, or `gamma` is negative or not one.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.exponential(8.0, 0.5)(np.arange(4))
        array([8., 4., 2., 1.])

    Source:
        torch.optim.lr_scheduler.ExponentialLR.
    """
    expect_numbers("exponential", FINITE, value=value)
    expect_numbers("exponential", NOT_NEGATIVE, gamma=gamma)
    return lambda count: value * _power(gamma, _as_float(count))


def polynomial(begin: float, end: float, steps: int, power: float = 1.0) -> Schedule:
    """Return a schedule that falls from `begin` to `end` as a power of the share of updates left.

        end + (begin - end) * (1 - count / steps) ** power, and `end` after `steps` updates

    Args:
        begin: the value at the first update.
        end: the value that is kept after `steps` updates.
        steps: how many updates the change takes.
        power: 1 is a straight line; larger powers fall faster at first.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a number or is out of range.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.polynomial(16.0, 0.0, steps=4, power=2)(np.arange(6))
        array([16.,  9.,  4.,  1.,  0.,  0.])

    Source:
        torch.optim.lr_scheduler.PolynomialLR (end 0), optax.polynomial_schedule.
    """
    expect_numbers("polynomial", FINITE, begin=begin, end=end)
    swapped = _swapped("polynomial", begin, steps, end)
    _expect_updates("polynomial", swapped, steps=steps)
    expect_numbers("polynomial", POSITIVE, power=power)
    return _polynomial(begin, end, steps, power)


def _polynomial(begin: float, end: float, steps: float, power: float = 1.0) -> Schedule:
    """Return `polynomial` for a number of updates that may be any fraction."""
    return lambda count: end + (begin - end) * (1 - _fraction(count, steps)) ** power


def linear(begin: float, end: float, steps: int) -> Schedule:
    """Return a schedule in a straight line from `begin` to `end`.

    Args:
        begin: the value at the first update.
        end: the value that is kept after `steps` updates.
        steps: how many updates the change takes.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a finite number, or `steps` is below 1.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.linear(0.0, 1.0, steps=4)(np.arange(6))
        array([0.  , 0.25, 0.5 , 0.75, 1.  , 1.  ])

    Source:
        optax.linear_schedule.
    """
    expect_numbers("linear", FINITE, begin=begin, end=end)
    _expect_updates("linear", _swapped("linear", begin, steps, end), steps=steps)
    return _polynomial(begin, end, steps)


def cosine(begin: float, steps: int, end: float = 0.0) -> Schedule:
    """Return a schedule along half a cosine from `begin` to `end`, without restarts.

        end + (begin - end) * (1 + cos(pi * count / steps)) / 2

    After `steps` updates it stays at `end`; torch's CosineAnnealingLR would rise again.

    Args:
        begin: the value at the first update.
        steps: how many updates the change takes.
        end: the value that is kept after them.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a finite number, or `steps` is below 1.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.cosine(1.0, steps=4)(np.arange(6)).round(3)
        array([1.   , 0.854, 0.5  , 0.146, 0.   , 0.   ])

    Source:
        Loshchilov and Hutter 2017, arXiv 1608.03983.
    """
    expect_numbers("cosine", FINITE, begin=begin, end=end)
    _expect_updates("cosine", _swapped("cosine", begin, steps), steps=steps)
    return _cosine(begin, steps, end)


def _cosine(begin: float, steps: float, end: float) -> Schedule:
    """Return `cosine` for a number of updates that may be any fraction."""

    def schedule(count):
        fraction = _fraction(count, steps)
        return end + (begin - end) * (1 + namespace(fraction).cos(math.pi * fraction)) / 2

    return schedule


def warmup(schedule: Schedule, steps: int, begin: float = 0.0) -> Schedule:
    """Return a schedule that begins with a straight line up to another one.

    Args:
        schedule: what follows the warm-up; it counts from 0 there.
        steps: updates of the warm-up; 0 for none.
        begin: the value at the first update.

    Returns:
        The schedule: from `begin` to `schedule(0)` in `steps` updates, then `schedule`.

    Raises:
        UserError: `schedule` is not a function, `steps` is negative, or `begin` is not a finite
            number.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.warmup(schedules.linear(1.0, 0.0, steps=2), steps=4)(np.arange(7))
        array([0.  , 0.25, 0.5 , 0.75, 1.  , 0.5 , 0.  ])

    Source:
        Goyal et al. 2017, arXiv 1706.02677.
    """
    _expect_schedule("warmup", schedule=schedule)
    _expect_updates("warmup", least=0, steps=steps)
    expect_numbers("warmup", FINITE, begin=begin)
    return join([linear(begin, schedule(0), steps), schedule], [steps]) if steps else schedule


def multi_step(value: float, milestones: Sequence[int], gamma: float = 0.1) -> Schedule:
    """Return a schedule that is multiplied by `gamma` at each milestone.

    Args:
        value: the value before the first milestone.
        milestones: counts of updates in ascending order; one that is named twice counts twice.
        gamma: the factor at each milestone.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: the milestones do not rise, or an argument is not a number or is out of range.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.multi_step(8.0, milestones=[2, 3], gamma=0.5)(np.arange(5))
        array([8., 8., 4., 2., 2.])

    Source:
        torch.optim.lr_scheduler.MultiStepLR.
    """
    expect_numbers("multi_step", FINITE, value=value)
    _expect_counts("multi_step", milestones=milestones)
    expect_numbers("multi_step", NOT_NEGATIVE, gamma=gamma)

    def schedule(count):
        count = _as_float(count)
        passed = sum([(count >= m) * 1 for m in milestones], 0 * count)
        return value * _power(gamma, passed)

    return schedule


def cosine_restarts(begin: float, steps: int, multiply: int = 1, end: float = 0.0) -> Schedule:
    """Return a schedule along half a cosine from `begin` to `end`, again and again.

    Args:
        begin: the value after each restart.
        steps: updates of the first cycle.
        multiply: the length of each cycle divided by that of the one before; 1 for equal cycles.
        end: the value that a cycle falls to.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: `begin` or `end` is not a finite number, `steps` is below 1, or `multiply`
            is not a positive integer.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.cosine_restarts(1.0, steps=2, multiply=2)(np.arange(7)).round(3)
        array([1.   , 0.5  , 1.   , 0.854, 0.5  , 0.146, 1.   ])

    Source:
        Loshchilov and Hutter 2017, arXiv 1608.03983;
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts.
    """
    expect_numbers("cosine_restarts", FINITE, begin=begin, end=end)
    _expect_updates("cosine_restarts", _swapped("cosine_restarts", begin, steps), steps=steps)
    expect_integers("cosine_restarts", 1, multiply=multiply)
    steps = _whole(steps)

    def schedule(count):
        count = _as_float(count)
        begin_of, length_of = _growing_cycles(steps, multiply)
        cycle = _cycle_of(count, begin_of, steps, multiply)
        fraction = (count - begin_of(cycle)) / length_of(cycle)
        return end + (begin - end) * (1 + namespace(count).cos(math.pi * fraction)) / 2

    return schedule


def _growing_cycles(steps: int, multiply: int) -> tuple[Callable, Callable]:
    """Return the functions from the number of a cycle to its first count and to its length."""
    if multiply == 1:
        return lambda n: n * steps, lambda n: steps

    def power(n):  # exact: a power of floats may not be
        return multiply**n if kind_of(n) == "i" else namespace(n).round(multiply**n)

    return lambda n: steps * ((power(n) - 1) // (multiply - 1)), lambda n: steps * power(n)


def _cycle_of(count: Array, begin_of: Callable, steps: int, multiply: int) -> Array:
    """Return the number, from 0, of the cycle that a count lies in."""
    if multiply == 1:
        return _quotient(count, steps)
    xp = namespace(count)
    n = _floor(xp.log(count * ((multiply - 1) / steps) + 1) / math.log(multiply))
    n = xp.astype(n, xp.int64) if kind_of(count) == "i" else n
    # the logarithm may be off by a rounding where a cycle begins
    return n + 1 * (count >= begin_of(n + 1)) - 1 * (count < begin_of(n))


# how high the peak of the n-th cycle (from 0) is, or that at a count, against the first one
CYCLE_SCALES: dict[str, Callable] = {
    "triangular": lambda cycle, count, gamma: 1.0,
    "triangular2": lambda cycle, count, gamma: 0.5**cycle,
    "exp_range": lambda cycle, count, gamma: _power(gamma, count),
}


def cyclic(
    low: float,
    high: float,
    steps_up: int = 2000,
    steps_down: int | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> Schedule:
    """Return a schedule in straight lines from `low` up to `high` and down again.

    Args:
        low: the value at the beginning of each cycle.
        high: the peak of the first cycle.
        steps_up: updates from `low` to the peak.
        steps_down: updates back to `low`; None for as many as `steps_up`.
        mode: "triangular" for equal peaks, "triangular2" for peaks half as high in each cycle,
            "exp_range" for peaks times `gamma` at each update.
        gamma: the factor of "exp_range".

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a number or is out of range, or `mode` is unknown.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.cyclic(0.0, 1.0, steps_up=2, mode="triangular2")(np.arange(8))
        array([0.  , 0.5 , 1.  , 0.5 , 0.  , 0.25, 0.5 , 0.25])

    Source:
        Smith 2017, arXiv 1506.01186; torch.optim.lr_scheduler.CyclicLR.
    """
    steps_down = steps_up if steps_down is None else steps_down
    expect_numbers("cyclic", FINITE, low=low, high=high)
    _expect_updates("cyclic", steps_up=steps_up, steps_down=steps_down)
    expect_choice("cyclic", CYCLE_SCALES, mode=mode)
    expect_numbers("cyclic", NOT_NEGATIVE, gamma=gamma)
    steps_up, steps_down = _whole(steps_up), _whole(steps_down)  # integers of 8 bits would overflow
    length, ratio = steps_up + steps_down, steps_up / (steps_up + steps_down)

    def schedule(count):
        count = _as_float(count)
        cycle = _quotient(count, length)
        x = (count - cycle * length) / length
        height = namespace(count).where(x <= ratio, x / ratio, (x - 1) / (ratio - 1))
        return low + (high - low) * height * CYCLE_SCALES[mode](cycle, count, gamma)

    return schedule


def one_cycle(
    peak: float,
    steps: int,
    warmup_fraction: float = 0.3,
    divide=25.0,
    divide_final=1e4,
    anneal: str = "cosine",
    three_phase: bool = False,
) -> Schedule:
    """Return a schedule that rises to `peak` once and falls far below its first value.

    It begins at `peak / divide` and ends, at update `steps - 1`, at `peak / divide / divide_final`.

    Args:
        peak: the largest value.
        steps: updates of the whole training.
        warmup_fraction: the share of them in which the value rises.
        divide: the ratio of the peak to the first value.
        divide_final: the ratio of the first value to the last.
        anneal: the form of rise and fall, "cosine" or "linear".
        three_phase: fall to the first value in as many updates as the rise took, then to the last.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a number or is out of range, `anneal` is unknown, or there are
            too few steps for such a warm-up.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> rate = schedules.one_cycle(1.0, steps=10, divide=4, divide_final=100, anneal="linear")
        >>> rate(np.array([0, 1, 2, 9]))
        array([0.25  , 0.625 , 1.    , 0.0025])

    Source:
        Smith and Topin 2018, arXiv 1708.07120; torch.optim.lr_scheduler.OneCycleLR.
    """
    expect_numbers("one_cycle", FINITE, peak=peak)
    _expect_updates("one_cycle", _swapped("one_cycle", peak, steps), steps=steps)
    expect_numbers("one_cycle", POSITIVE, divide=divide, divide_final=divide_final)
    expect_numbers("one_cycle", OPEN_FRACTION, warmup_fraction=warmup_fraction)
    expect_flags("one_cycle", three_phase=three_phase)
    top = warmup_fraction * steps - 1
    last = 2 * top if three_phase else top
    if top <= 0:
        raise UserError(
            f"one_cycle: {steps} steps are too few for a warm-up of {warmup_fraction} of them, "
            f"needs {int(1 / warmup_fraction) + 1} or more"
        )
    if last >= steps - 1:
        raise UserError(
            f"one_cycle: warmup_fraction={warmup_fraction} leaves none of the {steps} steps for "
            "the third phase, needs less than 0.5"
        )
    line = _line("one_cycle", anneal)
    low = peak / divide
    parts, ends = [line(low, top, peak)], [top]
    if three_phase:
        parts, ends = [*parts, line(peak, top, low)], [top, last]
    return _join([*parts, line(parts[-1](top), steps - 1 - last, low / divide_final)], ends)


def swa(
    schedule: Schedule | float, start: int, rate: float, steps: int = 10, anneal: str = "cosine"
) -> Schedule:
    """Return a schedule that leaves another one at `start` and is annealed to a constant rate.

    This is the constant, larger rate at which `optim.swa` averages the params.

    Args:
        schedule: what holds before `start`, a schedule or a number.
        start: the update at which the annealing begins, from the value that `schedule` has there.
        rate: the value that is kept in the end.
        steps: updates of the annealing; 0 for none.
        anneal: the form of the annealing, "cosine" or "linear".

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: an argument is not a number or is out of range, or `anneal` is unknown.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> schedules.swa(1.0, start=2, rate=0.5, steps=2, anneal="linear")(np.arange(6))
        array([1.  , 1.  , 1.  , 0.75, 0.5 , 0.5 ])

    Source:
        Izmailov et al. 2018, arXiv 1803.05407; torch.optim.swa_utils.SWALR.
    """
    if callable(schedule):
        _expect_schedule("swa", schedule=schedule)
    else:
        expect_numbers("swa", FINITE, schedule=schedule)
    expect_numbers("swa", FINITE, rate=rate)
    _expect_updates("swa", least=0, start=start, steps=steps)
    first = schedule if callable(schedule) else constant(schedule)
    line = _line("swa", anneal)
    later = line(first(start), steps, rate) if steps else constant(rate)
    return join([first, later], [start])


def _line(name: str, anneal: str) -> Callable[[float, float, float], Schedule]:
    """Return `f(begin, steps, end)`, the schedule that `anneal` names."""
    lines = {"cosine": _cosine, "linear": lambda begin, steps, end: _polynomial(begin, end, steps)}
    expect_choice(name, lines, anneal=anneal)
    return lines[anneal]


def join(schedules: Sequence[Schedule], boundaries: Sequence[float]) -> Schedule:
    """Return several schedules as one, each from its boundary on.

    Args:
        schedules: one more than boundaries. Each counts from 0 at its own beginning.
        boundaries: counts of updates in ascending order; `schedules[i]` holds from
            `boundaries[i - 1]` on.

    Returns:
        The schedule, a function from the count of updates to the value.

    Raises:
        UserError: the numbers of schedules and boundaries do not fit, or the boundaries do not
            rise.

    Example:
        >>> import numpy as np
        >>> from purenets import schedules
        >>> up, down = schedules.linear(0.0, 1.0, 2), schedules.linear(1.0, 0.0, 2)
        >>> schedules.join([up, down], [2])(np.arange(5))
        array([0. , 0.5, 1. , 0.5, 0. ])

    Source:
        optax.join_schedules.
    """
    _expect_counts("join", boundaries=boundaries)
    if not isinstance(schedules, list | tuple) or len(schedules) != len(boundaries) + 1:
        raise UserError("join: needs a list of schedules, one more than boundaries")
    _expect_schedule("join", **{f"schedules[{i}]": part for i, part in enumerate(schedules)})
    return _join(schedules, boundaries)


def _join(schedules: Sequence[Schedule], boundaries: Sequence[float]) -> Schedule:
    """Return `join` for boundaries that may be any numbers."""

    def schedule(count):
        count = _as_float(count)
        xp, zero = namespace(count), 0 * count
        if kind_of(count) == "i":
            count = xp.astype(count, xp.int64)  # a boundary may be beyond the smaller ones
        # of two Python numbers `where` would make torch's default dtype
        own = lambda value: value + zero if isinstance(value, int | float) else value
        value = own(schedules[0](count))
        for begin, later in zip(boundaries, schedules[1:], strict=True):
            value = xp.where(count >= begin, own(later(xp.clip(count - begin, 0, None))), value)
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


def _as_float(count) -> Array:
    return np.asarray(count, dtype=float) if isinstance(count, (int, float)) else count


def _power(gamma: float | Array, count: Array) -> Array:
    """Return gamma ** count in the dtype of the count, computed in float64.

    A gamma such as 0.999999 has two digits of its distance from 1 in float32, and a power of a
    million has none that is right.
    """
    xp, own = namespace(count), (1.0 * count).dtype
    power = gamma ** xp.astype(count, xp.float64)
    return xp.astype(power, own) if namespace(power) is xp else power  # gamma may be a tensor


def _fraction(count, steps) -> Array:
    """Return count / steps, within [0, 1]."""
    fraction = _as_float(count) / steps
    return namespace(fraction).clip(fraction, 0.0, 1.0)


def _floor(x) -> Array:
    return namespace(x).floor(x)


def _whole(steps):
    """Return a number of updates as an integer if it is one, else as it is."""
    is_number = isinstance(steps, int | float | np.integer | np.floating)
    return int(steps) if is_number and steps == int(steps) else steps


def _quotient(count, steps) -> Array:
    """Return floor(count / steps); of integers in integers: above 2^24 float32 does not hold them.

    One off would be another cycle.
    """
    if kind_of(count) == "i" and is_integer(steps):
        xp = namespace(count)
        return xp.astype(count, xp.int64) // steps
    return _floor(count / steps)


def _expect_counts(function: str, **values: Sequence[float]) -> None:
    """Raise a UserError for an argument that is no list of counts in ascending order."""
    for name, counts in values.items():
        if not _is_listed(counts) or isinstance(counts, str):
            raise UserError(f"{function}: {name} is {counts!r}, needs a list of counts")
        for count in counts:
            _expect_updates(function, least=0, **{name: count})
        if list(counts) != sorted(counts):
            raise UserError(f"{function}: {name} {list(counts)} are not in ascending order")


def _expect_updates(function: str, swapped: str = "", least: int = 1, **values: float) -> None:
    """Raise a UserError for an argument that is no number of updates.

    A fraction above 1 is one, as that of 0.3 epochs; one below 1 is a rate in its place.

    Args:
        function: how the message begins.
        swapped: the call with its arguments in the right order, where they seem to be swapped.
        least: 0 or 1; nothing lies between.
        values: the arguments. The value of an array is not looked at.
    """
    for name, value in values.items():
        expect_numbers(function, POSITIVE if least else NOT_NEGATIVE, **{name: value})
        is_number = isinstance(value, int | float | np.integer | np.floating)
        if is_number and (0 < value < 1 or (swapped and value != int(value))):
            hint = f"; is it {swapped}?" if swapped else ""
            raise UserError(f"{function}: {name}: {value!r} is not a number of updates{hint}")


def _swapped(function: str, begin: float, steps: float, *end: float) -> str:
    """Return the call with its arguments in the right order, if a count seems to be the value that
    a schedule begins with.
    """
    if not is_integer(begin) or begin <= 1:
        return ""
    return f"{function}({', '.join(map(repr, (steps, *end, int(begin))))})"


def _expect_schedule(function: str, **values: Schedule) -> None:
    """Raise a UserError for an argument that is no function of a count, or gives no number."""
    expect_call(function, ("count",), **values)
    for name, schedule in values.items():
        try:
            value = schedule(np.asarray(0.0))
        except (TypeError, AttributeError, RuntimeError):  # it may take tensors only
            continue
        if value is None or callable(value) or isinstance(value, str | tuple | list):
            raise UserError(f"{function}: {name} returns {shown(value)}, needs to return a number")
