"""Two settings side by side: the difference of their means, with its standard error.

>>> paired([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]).mean.__round__(3)
0.1
>>> unpaired([0.9], [0.8, 0.7]).standard_error is None  # of one seed nothing is concluded
True
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MEAN_SE = "mean ± SE"  # of a difference: the standard error of its mean


class Difference(NamedTuple):
    """The mean of a - b, its standard error (None of one seed), and the seeds of both."""

    mean: float
    standard_error: float | None
    n: tuple[int, int]

    @property
    def errors(self) -> float | None:
        """Return how many standard errors the difference is away from zero."""
        if self.standard_error is None:
            return None
        return abs(self.mean) / self.standard_error if self.standard_error else math.inf

    def points(self) -> str:
        """Return the difference in percentage points, as "+1.20 ± 0.30"; without an error for
        one seed."""
        text = f"{100 * self.mean:+.2f}"
        error = self.standard_error
        return text if error is None else f"{text} ± {100 * error:.2f}"


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare two settings whose values belong together, seed by seed.

    The standard error is that of the mean of the differences, SD (n - 1) / sqrt(n).
    """
    differences = np.subtract(a, b)
    error = _standard_error(differences)
    return Difference(float(differences.mean()), error, (len(differences), len(differences)))


def unpaired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare two settings of independent seeds; the error is Welch's, of unequal deviations."""
    errors = [_standard_error(a), _standard_error(b)]
    error = None if None in errors else math.hypot(*errors)
    return Difference(float(np.mean(a) - np.mean(b)), error, (len(a), len(b)))


def _standard_error(values: Sequence[float]) -> float | None:
    n = len(values)
    return float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
