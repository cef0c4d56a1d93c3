"""Steps of Adam, AdamW and SGD with momentum on one NumPy vector, in as few calls as there can be.

The numbers are those of the transforms that the optimizers are chains of, bit for bit: the same
operations in the same order. Constants are arrays without axes, which NumPy takes in half the time
of Python's floats.
"""

import functools

import numpy as np

from purenets.core.base import Array
from purenets.core.optim.internals.arithmetic import SMALL_WEIGHT, bias_correction
from purenets.core.optim.internals.kernels import Leaves, Rule

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def step(rule: Rule, lr, count: Array | None, leaves: Leaves):
    """Return the params and the moments after a step, or None where this does not suit."""
    if not leaves.is_vector:
        return None
    (p,), (g,), moments, _ = leaves
    if p.dtype not in DTYPES or g.dtype != p.dtype:
        return None
    for (array,) in moments.values():
        if array.dtype != p.dtype:
            return None
    return KINDS[rule.kind](rule, lr, count, p, g, moments)


def _adam(rule: Rule, lr, count, p, g, moments: dict):
    b1, b2, eps, weight_decay = rule.numbers
    if 1 - b1 < SMALL_WEIGHT:
        return None
    keep1, add1, b2_, add2, decay = _constants(
        (1 - (1 - b1), 1 - b1, b2, 1 - b2, weight_decay), p.dtype
    )
    if weight_decay and rule.kind == "adam":
        g = g + decay * p
    m = keep1 * moments["exp_avg"][0] + add1 * g
    v = b2_ * moments["exp_avg_sq"][0] + add2 * (g * g)
    new = {"exp_avg": [m], "exp_avg_sq": [v]}
    if "max_exp_avg_sq" in moments:
        v = np.maximum(moments["max_exp_avg_sq"][0], v)
        new["max_exp_avg_sq"] = [v]
    c1, c2 = bias_correction(b1, float(count)), bias_correction(b2, float(count))
    u = m / (np.sqrt(v) * (c1 / c2**0.5) + c1 * eps)
    if weight_decay and rule.kind == "adamw":
        u = u + decay * p
    return [p + u * _minus(lr, p.dtype)], new


def _sgd(rule: Rule, lr, count, p, g, moments: dict):
    weight_decay, momentum, dampening = rule.numbers
    if dampening:
        return None
    decay, kept = _constants((weight_decay, momentum), p.dtype)
    if weight_decay:
        g = g + decay * p
    buffer = kept * moments["momentum_buffer"][0] + g
    u = g + kept * buffer if rule.hypers["nesterov"] else buffer
    return [p + u * _minus(lr, p.dtype)], {"momentum_buffer": [buffer]}


KINDS = {"adam": _adam, "adamw": _adam, "sgd": _sgd}


def _minus(lr, dtype):
    return _constants((-lr,), dtype)[0] if type(lr) is float else -lr


@functools.lru_cache(maxsize=1024)  # a schedule of Python floats has a new one at each step
def _constants(numbers: tuple[float, ...], dtype) -> list[np.ndarray]:
    """Return each number as an array without axes, that nobody can write."""
    arrays = [np.asarray(number, dtype) for number in numbers]
    for array in arrays:
        array.flags.writeable = False
    return arrays
