"""The optimizer of fast convolutional nets: Muon on filters of a fixed length.

Before each step, filters are scaled back to a fixed length. The direction of the step is
orthogonalized. A rate thus has the same effect on all filters and throughout training. Biases,
scales and the last layer use Nesterov momentum with their own rates (K. Jordan 2024,
airbench94_muon).

A schedule is given as a function that takes the largest rate and returns the schedule.
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
    """Return Nesterov momentum with a rate and a decay per image.

    Both are multiplied by the number of `images` in a step, so that more images make a longer step.
    """
    return optim.nesterov(schedule(rate * images), momentum=0.85, weight_decay=decay / rate)
