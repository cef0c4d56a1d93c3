"""Compare two settings: the difference of their means, its standard error and 95% interval.

>>> paired([0.9, 0.8, 0.7], [0.8, 0.7, 0.6]).mean.__round__(3)
0.1
>>> unpaired([0.9], [0.8, 0.7]).standard_error is None  # one seed allows no conclusion
True
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MEAN_SE = "mean ± SE"  # of a difference: the standard error of its mean


class Difference(NamedTuple):
    """The mean of a - b with its standard error (None for one seed).

    Args:
        mean: mean of a - b.
        standard_error: standard error of that mean.
        n: number of seeds of a and of b.
        degrees: degrees of freedom of the standard error.
    """

    mean: float
    standard_error: float | None
    n: tuple[int, int]
    degrees: float

    @property
    def reach(self) -> float | None:
        """Return half the width of the 95% interval (Student's t); None for one seed.

        >>> paired([0.9, 0.8], [0.8, 0.6]).reach.__round__(2)  # of two seeds it is 12.7 errors
        0.64
        """
        from scipy.special import stdtrit

        if self.standard_error is None:
            return None
        return float(stdtrit(self.degrees, 0.975)) * self.standard_error

    @property
    def is_clear(self) -> bool:
        """Return whether the 95% interval lies on one side of zero."""
        return self.reach is not None and abs(self.mean) > self.reach

    def points(self) -> str:
        """Return the difference in points, as "+1.20 ± 0.30"; without an error for one seed."""
        text = f"{100 * self.mean:+.2f}"
        error = self.standard_error
        return text if error is None else f"{text} ± {100 * error:.2f}"


def paired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare two settings whose values belong together, seed by seed.

    The standard error is that of the mean of the differences, SD (n - 1) / sqrt(n).
    """
    differences = np.subtract(a, b)
    error = _standard_error(differences)
    n = len(differences)
    return Difference(float(differences.mean()), error, (n, n), n - 1)


def unpaired(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Compare two settings with independent seeds.

    Standard error and degrees of freedom are Welch's, for unequal variances.
    """
    n, errors = (len(a), len(b)), [_standard_error(a), _standard_error(b)]
    mean = float(np.mean(a) - np.mean(b))
    if None in errors:
        return Difference(mean, None, n, 0)
    error = math.hypot(*errors)
    parts = sum(own**4 / (size - 1) for own, size in zip(errors, n, strict=True))
    return Difference(mean, error, n, error**4 / parts if parts else sum(n) - 2)


def _standard_error(values: Sequence[float]) -> float | None:
    n = len(values)
    return float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
