"""The best possible accuracy of a classifier, for classes whose densities are known.

The points of a class are distributed uniformly on a curve, and normal noise is added to both
coordinates. The best classifier chooses the class with the largest density. With equally likely
classes its accuracy is the integral of the largest density, divided by the number of classes.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

CELLS = 600  # of the grid of an integral, along each coordinate
ANGLES = 1000  # of the points that stand for a curve
BEYOND = 6  # deviations of the noise around all points; the density beyond is left out


def moons() -> list[np.ndarray]:
    """Return points on the half circles of sklearn.datasets.make_moons: (points, 2) by class."""
    angle = np.linspace(0, np.pi, ANGLES)
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [outer, np.array([1, 0.5]) - outer]


def circles(factor: float = 0.5) -> list[np.ndarray]:
    """Return points on the circles of sklearn.datasets.make_circles: (points, 2) by class."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    outer = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [outer, factor * outer]


def best_accuracy(classes: Sequence[np.ndarray], noise: float) -> float:
    """Return the accuracy of the best classifier of equally likely classes.

    Args:
        classes: Equally likely points of each class, (points, 2).
        noise: The standard deviation of the normal noise that is added to each coordinate.
    """
    points = np.concatenate(classes)
    low, high = points.min(axis=0) - BEYOND * noise, points.max(axis=0) + BEYOND * noise
    step = (high - low) / CELLS
    grid = low + (np.arange(CELLS)[:, None] + 0.5) * step  # (cells, 2): the middle of each cell
    densities = [density(own, grid, noise) for own in classes]
    return float(np.max(densities, axis=0).sum() * step.prod() / len(classes))


def density(points: np.ndarray, grid: np.ndarray, noise: float) -> np.ndarray:
    """Return the density of a class on a grid, (cells, cells): the mean of normal densities."""
    apart = (grid[:, None] - points) / noise  # (cells, points, 2)
    x, y = np.moveaxis(np.exp(-0.5 * apart**2), 2, 0)
    return x @ y.T / (len(points) * 2 * np.pi * noise**2)


CURVES: dict[str, Callable[[], list[np.ndarray]]] = {"moons": moons, "circles": circles}


@lru_cache
def best_possible(name: str, noise: float) -> float:
    """Return the best possible accuracy on a set of CURVES with this noise."""
    return best_accuracy(CURVES[name](), noise)
