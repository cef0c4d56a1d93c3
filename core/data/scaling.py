"""Standardization: mean 0 and deviation 1 in every feature, by the statistics of one set.

`scaling_of(train)` takes the statistics, and the `Scaling` it returns is applied to any other
examples: the test set, or what arrives once the net is trained.
"""

from typing import NamedTuple

import numpy as np

from purenets.core.arrays import expect_plain, kind_of, like, namespace, to_host
from purenets.core.base import Array, UserError
from purenets.core.runs.notes import warn

EXACT = 2**53  # float64 holds all integers up to it
ROUNDINGS = (
    4.0  # a spread of so many units in the last place of a feature is noise, not information
)


class Scaling(NamedTuple):
    """The map z = (x / 2**exponent - shift - center) / deviation, feature by feature.

    Where rounding would spoil the mean (an offset that is large against the deviation), or squares
    would leave the range of float64, the feature is divided by a power of two, which is exact, and
    its first value is subtracted, before its mean and deviation are taken. Most features have
    exponent 0 and shift 0, which change no bit.

    Args:
        exponent, shift, center, deviation: (features,), as in the formula.
        constant: (features,) True for a feature that does not vary; it has deviation 1.
        rounding: (features,) distances up to which a value of a constant feature is that constant.
    """

    exponent: np.ndarray
    shift: np.ndarray
    center: np.ndarray
    deviation: np.ndarray
    constant: np.ndarray
    rounding: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Return the mean of each feature, (features,) float64."""
        return np.ldexp(self.shift + self.center, self.exponent)

    @property
    def std(self) -> np.ndarray:
        """Return the deviation of each feature, (features,) float64; 1 for a constant one."""
        return np.ldexp(self.deviation, self.exponent)

    def apply(self, x: Array, dtype=None) -> Array:
        """Return x: (n, features) standardized, in its own library; computed in float64.

        Args:
            x: real numbers.
            dtype: that of the result, of NumPy or torch; None for its own (integers as float64).

        Raises:
            UserError: `x` is no array of finite real numbers with these features, or the result is
                too large for its dtype.
        """
        expect_real_array(x)
        values = _as_float64(x, self.center.shape)
        with np.errstate(all="ignore"):
            found = np.ldexp(values, -self.exponent) - self.shift - self.center
            same = self.constant & (np.abs(found) <= self.rounding)
            found = np.where(same, 0.0, found) / self.deviation
        xp, own = namespace(x), x.dtype if kind_of(x) == "f" else "float64"
        name = str(own if dtype is None else dtype).removeprefix("torch.")
        with np.errstate(over="ignore"):
            found = like(found, x, name if isinstance(x, np.ndarray) else getattr(xp, name))
        _expect_finite_features(to_host(found), name)
        return found


def scaling_of(train: Array) -> Scaling:
    """Return the `Scaling` by mean and deviation of each feature of `train`.

    A feature is constant if its values differ by no more than rounding (4 units in the last place
    of their dtype). A warning names those that are not all equal.

    Args:
        train: (n, features), real numbers. Computed in float64.

    Returns:
        A `Scaling`.

    Raises:
        UserError: there are no examples, or a value is not a finite real number.

    Example:
        >>> import numpy as np
        >>> from purenets.core.data.scaling import scaling_of
        >>> scaling = scaling_of(np.array([[1.0], [3.0]]))
        >>> scaling.mean, scaling.std
        (array([2.]), array([1.]))
        >>> scaling.apply(np.array([[5.0]]))
        array([[3.]])
    """
    expect_real_array(train)
    if train.ndim and train.shape[0] == 0:
        raise UserError("standardize: no examples in train; needs at least one")
    x = _as_float64(train, tuple(train.shape[1:]))
    if kind_of(train) == "i" and x.size and np.abs(x).max() > EXACT:
        warn(
            "standardize: integers above 2**53 are rounded, so close ones become equal",
            "if their differences matter, subtract the first row before",
        )
    largest = np.abs(x).max(axis=0)
    with np.errstate(all="ignore"):
        unit = np.ldexp(_epsilon(train), np.frexp(largest)[1] - 1)  # in the last place of `largest`
        rounding, spread = ROUNDINGS * unit, np.ptp(x, axis=0)
        constant = spread <= rounding
        _warn_of_rounding(constant & (spread > 0), train)
        return Scaling(*_statistics(x, constant), constant, rounding)


def standardize(train: Array, *others: Array) -> tuple[Array, ...]:
    """Return `train` with mean 0 and deviation 1 in every feature, and the others by the same map.

    A feature is constant if its values on `train` differ by no more than rounding (4 units in the
    last place of their dtype). It becomes 0; in the other arrays, the difference from its value on
    `train`. A warning names constant features whose values are not all equal.

    Args:
        train: (n, features), real numbers. Computed in float64.
        others: arrays (m, features), such as the test set.

    Returns:
        As many arrays, each in its own dtype (integers as float64).

    Raises:
        UserError: there are no examples, the features differ in number, or a value is not finite or
            too large.

    Example:
        >>> import numpy as np
        >>> from purenets import data
        >>> train, test = data.standardize(np.array([[1.0], [3.0]]), np.array([[2.0], [5.0]]))
        >>> train.ravel(), test.ravel()
        (array([-1.,  1.]), array([0., 3.]))
    """
    scaling = scaling_of(train)
    return tuple(scaling.apply(array) for array in (train, *others))


def _warn_of_rounding(rounded: np.ndarray, train: Array) -> None:
    """Warn of features that become 0 although they vary, by a few units in the last place."""
    if rounded.any():
        feature, name = int(np.argmax(rounded)), str(train.dtype).removeprefix("torch.")
        warn(
            f"standardize: {np.count_nonzero(rounded)} features, the first is {feature}, vary by "
            f"no more than {ROUNDINGS:.0f} units in the last place of {name} and become 0",
            "if that is no rounding, subtract their first value before",
        )


def _statistics(x: np.ndarray, constant: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return exponent, shift, center and deviation of a `Scaling`."""
    mean, deviation, largest = x.mean(axis=0), x.std(axis=0), np.abs(x).max(axis=0)
    rounding_of_mean = len(x) * np.finfo(np.float64).eps * largest  # a bound
    plain = constant | (
        (rounding_of_mean <= 1e-8 * deviation) & (largest < 1e100) & (deviation > 1e-100)
    )
    exponent = np.where(plain, 0, np.frexp(largest)[1])
    scaled = np.ldexp(x, -exponent)
    shift = np.where(plain, 0.0, scaled[0])
    scaled -= shift
    mean = np.where(plain, mean, scaled.mean(axis=0))
    deviation = np.where(plain, deviation, scaled.std(axis=0))
    return exponent, shift, np.where(constant, x[0], mean), np.where(constant, 1.0, deviation)


def expect_real_array(x: Array) -> None:
    """Raise a UserError for what is no array."""
    if not hasattr(x, "dtype") or not hasattr(x, "shape"):
        hint = ": np.array(x)" if isinstance(x, list | tuple) else ""
        raise UserError(f"standardize: a {type(x).__name__}, needs an array (n, features){hint}")
    expect_plain("standardize", x)


def _as_float64(x: Array, features: tuple[int, ...]) -> np.ndarray:
    if x.ndim < 1 or kind_of(x) not in "bif" or tuple(x.shape[1:]) != features:
        one_row = x.ndim == 1 and kind_of(x) in "bif" and tuple(x.shape) == features
        raise UserError(
            f"standardize: {x.dtype} of shape {tuple(x.shape)}, needs real numbers (n, "
            f"features) with the features of train {('n', *features)}".replace("'", "")
            + (": pass row[None] for one row" if one_row else "")
        )
    if not isinstance(x, np.ndarray):
        x = to_host(namespace(x).astype(x, namespace(x).float64))
    x = x.astype(np.float64, copy=False)
    if not np.isfinite(x).all():
        raise UserError(
            f"standardize: a value of example {np.argwhere(~np.isfinite(x))[0][0]} is not finite"
        )
    return x


def _epsilon(x: Array) -> float:
    return float(namespace(x).finfo(x.dtype if kind_of(x) == "f" else namespace(x).float64).eps)


def _expect_finite_features(x: np.ndarray, dtype: str) -> None:
    """Raise a UserError that names the feature with a value that is not finite in `dtype`."""
    good = np.isfinite(x).all(axis=0)
    if not good.all():
        feature = np.argmin(good) if good.ndim else 0
        raise UserError(
            f"data: the values of feature {feature} are too far apart to be standardized in {dtype}"
        )
