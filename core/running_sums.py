"""Sums of the metrics of many steps, without waiting for a device and without losing small terms.

On the CPU a sum is a Python float, which is a float64. Elsewhere reading a metric would wait for
the device, so the sum stays there: in float64 on CUDA, where adding one number takes as long in any
precision; in float32 on devices that lack float64 (MPS), beside what the rounding of its additions
lost.

The sums are flat and made of scalars, so that they can be saved and passed back in:

    {"step": 300, "loss": 12.3, "accuracy": 8.5}     # of the steps after the 300th
    {..., "loss (rounding)": 1e-7, ...}              # compensated: to be added to the sum of that
    name
"""

from collections.abc import Iterable

from purenets.core.arrays import NUMPY
from purenets.core.base import Array, History, Metrics, UserError

STEP = "step"
ROUNDING = " (rounding)"


def begin(saved: Metrics | None, history: History, step: int) -> Metrics:
    """Return the sums to go on with at `step`: those that were saved, or empty ones."""
    if not saved:
        return {STEP: step}
    last = history[-1][STEP] if history else 0  # of sums that were saved without their step
    return {STEP: last, **saved}


def add(sums: Metrics, metrics: Metrics) -> Metrics:
    """Return the sums with the metrics of one more step."""
    new = {STEP: sums[STEP]}
    for name, value in metrics.items():
        total = sums.get(name, 0.0)
        if isinstance(value, NUMPY) or value.is_cpu:
            new[name] = total + _number(name, value)
        elif value.is_cuda:
            new[name] = total + value.double()
        else:
            rounding = name + ROUNDING
            new[name], new[rounding] = add_compensated(total, sums.get(rounding, 0.0), value)
    return new


def add_compensated(
    total: float | Array, rounding: float | Array, value: Array
) -> tuple[Array, Array]:
    """Return total + rounding + value as two numbers: the sum and what its rounding lost.

    Knuth's sum of two numbers (total + value = new + lost, exactly), and Dekker's to bring what is
    lost up to date: an addition of numbers of twice the digits (Dekker 1971), without a branch.
    """
    value = value.float() if value.element_size() < 4 else value
    new = total + value
    added = new - total
    lost = (total - (new - added)) + (value - added) + rounding
    rounded = new + lost
    return rounded, lost - (rounded - new)


def means(sums: Metrics, names: Iterable[str], step: int) -> dict[str, float]:
    """Return the means over the steps up to `step` as numbers; here a device is waited for."""
    count = step - int(sums[STEP])
    totals = {
        name: _number(name, sums[name]) + float(sums.get(name + ROUNDING, 0.0)) for name in names
    }
    return {name: total / count for name, total in totals.items()}


def check_names(sums: Metrics, metrics: Metrics) -> None:
    """Raise a UserError if a metric is called "step", or not all steps have the same."""
    if STEP in metrics:
        raise UserError("metrics: 'step' is a row's own entry; give the metric another name")
    for name, value in metrics.items():
        if not isinstance(value, NUMPY) and not hasattr(value, "is_cpu"):
            raise UserError(f"metrics: {name} is {value!r}, needs a real number")
        if name.endswith(ROUNDING):
            raise UserError(f"metrics: a name that ends in {ROUNDING!r} is ours: rename {name!r}")
    known = {name for name in sums if name != STEP and not name.endswith(ROUNDING)}
    if known and known != metrics.keys():
        names = (", ".join(sorted(each)) for each in (metrics, known))
        raise UserError("metrics: a step has {}, those before it {}".format(*names))


def _number(name: str, value) -> float:
    """Return a scalar as a float, also one that belongs to a graph."""
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = tuple(getattr(value, "shape", ()))
        wrong = f"has the shape {shape}" if shape else f"is {value!r}"
        hint = "; fit trains one net, so call the step of an ensemble in a loop" if shape else ""
        raise UserError(f"metrics: {name} {wrong}, needs a real number{hint}") from error
