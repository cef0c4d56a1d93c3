"""The optimizer of convolutional nets that learn fast: Muon on filters of a fixed length.

Filters are brought back to a fixed length before each step, whose direction is orthogonalized, so
that a rate means the same to all of them and at all times; biases, scales and the last layer take
Nesterov's momentum at rates of their own (K. Jordan 2024, airbench94_muon).

A schedule is given as the function from the largest rate to the schedule.
"""

from collections.abc import Callable

from purenets import Optimizer, optim
from purenets.optim import Hyper

Schedule = Callable[[float], Hyper]


def muon_of_filters(rate: float, schedule: Schedule, momentum: float, method: str) -> Optimizer:
    """Return Muon on filters of a fixed length; `method` as in `optim.muon`."""
    direction = optim.scale_by_muon(momentum, ns_steps=3, precision="bfloat16", method=method)
    step = optim.scale_by_learning_rate(schedule(rate))
    return optim.normalize_weights(optim.chain(direction, step))


def nesterov_per_image(rate: float, schedule: Schedule, decay: float, images: int) -> Optimizer:
    """Return Nesterov's momentum whose rate and decay are those of one image of a step's `images`,
    so that more images make a longer step."""
    return optim.nesterov(schedule(rate * images), momentum=0.85, weight_decay=decay / rate)
