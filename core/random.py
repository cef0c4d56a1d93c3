"""Randomness as an argument: draws are pure functions of a key, the same bits on NumPy and on
torch.

A key is an int64 array (2,), two words of 32 bits; or (3,) or (4,), a key with one or two numbers
folded in that are not hashed yet. `fold_in` only writes the number beside the key, and a draw
hashes all of it at once: a net that draws nothing pays nothing for the key of its step.

    key  = random.key(0)
    a, b = random.split(key)         # never draw twice from one key: split it, or fold a number in
    x    = random.normal(a, (3, 2))  # a NumPy key draws NumPy arrays, a torch key tensors

The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
the counter of a draw is (index, first folded number, second folded number, tag). Its integers wrap
as int64 does in both libraries, and everything after it uses only operations that IEEE 754 rounds
exactly, hence the same bits on NumPy, torch CPU and CUDA. (The one log2 finds the octave of a
number that is never close to a power of two, so its last bit does not matter.)
"""

import math
import operator
from collections.abc import Callable
from statistics import NormalDist
from typing import NoReturn

import numpy as np

from purenets.core.arguments import (
    FINITE,
    FRACTION,
    TOO_LARGE,
    expect_arrays,
    expect_integers,
    expect_numbers,
    is_integer,
    shown,
)
from purenets.core.arrays import NUMPY, as_array, dtype_called, is_full, kind_of, namespace
from purenets.core.base import Array, UserError
from purenets.core.other_names import refuse_name

__all__ = [
    "bernoulli",
    "bits",
    "check_key",
    "fold_in",
    "key",
    "normal",
    "permutation",
    "randint",
    "split",
    "truncated_normal",
    "uniform",
]

MASK = 0xFFFFFFFF  # a word is 32 bits, held in int64
FEW, PART_BITS = 2**12, 16  # fewer than FEW of 2**32 probabilities are divided further
DRAW, SPLIT, FOLD = 0, 1, 2  # what a hash is for: keys and draws never share a counter


def __getattr__(name: str) -> NoReturn:
    """Raise the AttributeError of a name that is not here; it says what a name of JAX is here."""
    refuse_name("random", name)


def key(seed: int) -> np.ndarray:
    """Return the key of a seed.

    Args:
        seed: an integer from 0 to 2**64 - 1.

    Returns:
        A NumPy key: int64 (2,), the low and the high 32 bits of the seed. `torch.as_tensor(key)` is
        the same key in torch; it draws the same numbers, as tensors on its device.

    Raises:
        UserError: the seed is not such an integer.

    Example:
        >>> from purenets import random
        >>> random.key(7)
        array([7, 0])

    Source:
        jax.random.key.
    """
    try:
        seed = operator.index(seed)
    except TypeError:
        raise UserError(f"seed: {seed!r} is not an integer") from None
    if not 0 <= seed < 2**64:
        raise UserError(f"seed: {seed} is not between 0 and 2**64 - 1")
    return np.array([seed & MASK, seed >> 32], dtype=np.int64)


def check_key(key: Array) -> Array:
    """Return a key unchanged, or raise a UserError if it is none.

    Args:
        key: what should be a key: int64 of shape (2,), (3,) or (4,).

    Returns:
        The key.

    Raises:
        UserError: it is not a key; a seed, for example, is an integer.

    Example:
        >>> from purenets import random
        >>> random.check_key(random.key(7))
        array([7, 0])
        >>> random.check_key(7)
        Traceback (most recent call last):
        purenets.core.base.UserError: key: 7 is no key; random.key(seed) makes one
    """
    shape = getattr(key, "shape", None)
    if shape is None:
        raise UserError(f"key: {key!r} is no key; random.key(seed) makes one")
    if len(shape) != 1 or not 2 <= shape[0] <= 4 or key.dtype != namespace(key).int64:
        about = f"{str(key.dtype).removeprefix('torch.')} of shape {tuple(shape)}"
        raise UserError(f"key: {about}, needs int64 of shape (2,); random.key(seed) makes one")
    return key


def split(key: Array, n: int = 2) -> Array:
    """Return n new keys, independent of each other and of what `key` itself draws.

    Args:
        key: a key that is used for nothing else from here on.
        n: how many keys to make.

    Returns:
        (n, 2) int64; unpacking it gives the single keys.

    Raises:
        UserError: `n` is not a non-negative integer, or `key` is not a key.

    Example:
        >>> from purenets import random
        >>> params_key, data_key = random.split(random.key(0))
        >>> random.split(random.key(0), 5).shape
        (5, 2)

    Source:
        jax.random.split.
    """
    if not isinstance(n, int | np.integer) or not 0 <= n < TOO_LARGE:
        raise UserError(f"split: {n!r} keys; needs an integer that is not negative")
    first, second, *_ = _hash(key, n, SPLIT)
    return namespace(key).stack([first, second], axis=1)


def fold_in(key: Array, data: int | Array) -> Array:
    """Return a new key for a number, such as that of a step, a layer or an epoch.

    Up to two numbers are only written beside the key; the next draw hashes all at once.

    Args:
        key: the key that all of them are derived from.
        data: an integer from 0 to 2**32 - 1, or such an integer array of one element. The value of
            a tensor is not read: its lowest 32 bits count.

    Returns:
        A key of shape (3,) or (4,), independent of `key` and of the keys of other numbers. It is a
        tensor where `data` is one.

    Raises:
        UserError: `data` is not such an integer, or `key` is not a key.

    Example:
        >>> from purenets import random
        >>> key = random.key(0)
        >>> [int(random.randint(random.fold_in(key, step), (), 0, 1000)) for step in range(4)]
        [111, 160, 388, 161]

    Source:
        jax.random.fold_in.
    """
    _expect_key(key)
    key = _key_beside(key, data)
    xp = namespace(key)
    if key.shape[0] == 4:  # no room for a third number: hash the first two into a new key
        first, second, *_ = _hash(key, 1, FOLD)
        key = xp.concat([first, second])
    data = _as_number(data)
    if isinstance(data, float):
        raise UserError(f"fold_in: {data} is not an integer")
    if isinstance(data, int):
        if not 0 <= data <= MASK:
            raise UserError(f"fold_in: {data} is not between 0 and 2**32 - 1")
        data = xp.full((1,), data, dtype=key.dtype, device=key.device)
    elif not hasattr(data, "dtype") or kind_of(data) != "i" or math.prod(data.shape) != 1:
        raise UserError(f"fold_in: {data!r} is not an integer")
    else:
        data = xp.astype(data, key.dtype, copy=False)
    return xp.concat([key, xp.reshape(data, (1,)) & MASK])


def uniform(key: Array, shape=(), dtype: str = "float32", *, low=0.0, high=1.0) -> Array:
    """Return uniform draws from [low, high).

    They have 24 random bits in float32 and 53 in float64. In half precision they are those of
    float32, rounded, but never up to `high`.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        shape: the shape of the result, a tuple of sizes; () is a scalar.
        dtype: a floating-point dtype by name, such as "float32", "float64" or (in torch)
            "bfloat16".
        low, high: the bounds, numbers or arrays of one element.

    Returns:
        An array of the shape and dtype, of the library and on the device of the key; a tensor where
        a bound is one.

    Raises:
        UserError: `key` is not a key, `shape` is not a tuple of sizes, `dtype` is unknown, or the
            bounds are not finite, not in order, too large or too far apart for the dtype, or so
            close that it has no number between them; the values of tensors are not read.

    Example:
        >>> from purenets import random
        >>> random.uniform(random.key(0), (3,), low=-1.0, high=1.0).round(3)
        array([-0.202,  0.761,  0.471], dtype=float32)
    """
    key = _key_beside(check_key(key), low, high)
    xp, n = namespace(key), _size("uniform", shape)
    dtype = dtype_called(dtype, key, "uniform")
    expect_numbers("uniform", FINITE, low=low, high=high)
    low, high = _as_number(low), _as_number(high)
    _expect_in_order("uniform", low, high)
    if dtype == xp.float64:
        words = bits(key, 2 * n)
        unit = xp.astype(words[:n] >> 5, xp.float64) * 2.0**26 + xp.astype(
            words[n:] >> 6, xp.float64
        )
        unit = unit * 2.0**-53
    else:
        unit = xp.astype(bits(key, n) >> 8, xp.float32) * 2.0**-24
    of_numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if is_full(dtype) and of_numbers and (low, high) == (0.0, 1.0):
        return xp.reshape(unit, shape)
    _expect_within_range("uniform", low, high, dtype, float(xp.finfo(dtype).max))
    _expect_narrow("uniform", low, high, float(xp.finfo(unit.dtype).max))
    low, high = _of_full_precision(low, unit), _of_full_precision(high, unit)
    draws = xp.reshape(xp.astype(low + (high - low) * unit, dtype, copy=False), shape)
    return _within("uniform", draws, low, high, open_above=True)


def normal(key: Array, shape=(), dtype: str = "float32") -> Array:
    """Return draws from the standard normal distribution.

    Each is the inverse of the distribution function at one of 2**32 probabilities, so every dtype
    gets the same numbers, rounded; the largest is 6.3 away from 0.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        shape: the shape of the result, a tuple of sizes; () is a scalar.
        dtype: a floating-point dtype by name, such as "float32", "float64" or (in torch)
            "bfloat16".

    Returns:
        An array of the shape and dtype, of the library and on the device of the key.

    Raises:
        UserError: `key` is not a key, `shape` is not a tuple of sizes, or `dtype` is unknown.

    Example:
        >>> from purenets import random
        >>> random.normal(random.key(0), (3,)).round(3)
        array([-0.256,  1.178,  0.63 ], dtype=float32)
        >>> random.normal(random.key(0), (3,), "float16")
        array([-0.2559,  1.178 ,  0.6304], dtype=float16)
    """
    return _normal(bits(check_key(key), _size("normal", shape)), shape, dtype)


def truncated_normal(key: Array, shape=(), dtype: str = "float32", *, low=-2.0, high=2.0) -> Array:
    """Return draws from the standard normal distribution, conditioned on [low, high].

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        shape: the shape of the result, a tuple of sizes; () is a scalar.
        dtype: a floating-point dtype by name, such as "float32".
        low, high: the bounds, numbers from -6 to 6.

    Returns:
        An array of the shape and dtype, of the library and on the device of the key.

    Raises:
        UserError: the bounds are not an interval within [-6, 6] or the dtype has no number between
            them, `key` is not a key, `shape` is not a tuple of sizes, or `dtype` is unknown.

    Example:
        >>> from purenets import random
        >>> draws = random.truncated_normal(random.key(0), (1000,), low=-1.0, high=1.0)
        >>> bool(abs(draws).max() <= 1.0)
        True

    Source:
        jax.random.truncated_normal, with other bits.
    """
    expect_numbers("truncated_normal", FINITE, low=low, high=high)
    low, high = _as_number(low), _as_number(high)
    begin, end = (round(NormalDist().cdf(bound) * 2**32) for bound in (low, high))
    if begin == end and -6 <= low < high <= 6:
        raise UserError(
            f"truncated_normal: [{low}, {high}] is too narrow, needs a probability of 2**-32"
        )
    if not 0 < begin < end < 2**32:
        raise UserError(f"truncated_normal: [{low}, {high}] is not an interval within [-6, 6]")
    words = bits(check_key(key), _size("truncated_normal", shape))
    if end - begin < FEW and low * high >= 0:
        draws = _normal_of_one_side(words, low, high, shape, dtype)
    else:
        draws = _normal(begin + ((words >> 1) * (end - begin) >> 31), shape, dtype)
    return _within("truncated_normal", draws, low, high)


def bernoulli(key: Array, p: float | Array = 0.5, shape=()) -> Array:
    """Return draws that are True with probability p.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        p: the probability, a number or an array that broadcasts to `shape`; its resolution is
            2**-32.
        shape: the shape of the result, a tuple of sizes; () is a scalar.

    Returns:
        A boolean array of the shape, of the library and on the device of the key; a tensor where p
        is one.

    Raises:
        UserError: `p` is not from 0 to 1 (elements of an array are not looked at) or does not
            broadcast to the shape, `key` is not a key, or `shape` is not a tuple of sizes.

    Example:
        >>> from purenets import random
        >>> random.bernoulli(random.key(0), 0.5, (8,)).astype(int)
        array([1, 0, 0, 1, 0, 0, 0, 1])
    """
    key = _key_beside(check_key(key), p)
    xp = namespace(key)
    many = math.prod(getattr(p, "shape", ())) != 1
    if many:
        _expect_probabilities(p, shape)
    else:
        expect_numbers("bernoulli", FRACTION, p=p)
    words = bits(key, _size("bernoulli", shape))
    words = xp.astype(words, xp.float64)  # exact: 32 of its 53 bits
    if hasattr(p, "dtype"):  # in half precision 2**32 is infinite
        p = as_array(p, xp, xp.float64, key.device)
    if many:
        return xp.reshape(words, shape) < p * 2.0**32
    return xp.reshape(words < p * 2.0**32, shape)


def _expect_probabilities(p: Array, shape) -> None:
    """Raise a UserError for an array of probabilities that is none or does not fit `shape`."""
    expect_arrays("bernoulli", p=p)
    try:
        fits = np.broadcast_shapes(tuple(p.shape), tuple(shape)) == tuple(shape)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise UserError(f"bernoulli: p is {shown(p)}, does not broadcast to the shape {shape}")


def randint(key: Array, shape, low: int, high: int) -> Array:
    """Return uniform integers from low to high - 1.

    Their probabilities differ by 2**-32 at most.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        shape: the shape of the result, a tuple of sizes; () is a scalar.
        low, high: integers of 64 bits, high - low from 1 to 2**31.

    Returns:
        An int64 array of the shape, of the library and on the device of the key.

    Raises:
        UserError: the bounds are not such integers, `key` is not a key, or `shape` is not a tuple
            of sizes.

    Example:
        >>> from purenets import random
        >>> random.randint(random.key(0), (5,), 1, 7)  # five dice
        array([3, 6, 6, 3, 5])
    """
    for name, bound in (("low", low), ("high", high)):
        if not is_integer(bound):
            raise UserError(f"randint: {name} is {bound!r}, needs an integer")
    low, high = operator.index(low), operator.index(high)
    if not 0 < high - low <= 2**31:
        raise UserError(f"randint: high - low is {high - low}, needs 1 to 2**31")
    if low < -(2**63) or high > 2**63:
        raise UserError(f"randint: {low} to {high} - 1, needs integers of 64 bits")
    words = bits(key, _size("randint", shape)) * (high - low) >> 32
    return namespace(key).reshape(low + words, shape)


def permutation(key: Array, n: int) -> Array:
    """Return a random order of 0, ..., n - 1.

    It is the order that sorts n random numbers of 64 bits.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        n: how many numbers to order.

    Returns:
        (n,) int64, of the library and on the device of the key.

    Raises:
        UserError: `n` is not a non-negative integer, or `key` is not a key.

    Example:
        >>> from purenets import random
        >>> random.permutation(random.key(0), 5)
        array([3, 1, 2, 4, 0])
    """
    expect_integers("permutation", 0, n=n)
    n = int(n) if isinstance(n, np.integer) else n
    words = bits(key, 2 * n)
    return namespace(key).argsort((words[:n] << 32) | words[n:], stable=True)


def bits(key: Array, n: int) -> Array:
    """Return n random words of 32 bits, which all other draws are made of.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        n: how many words to draw.

    Returns:
        (n,) int64, each from 0 to 2**32 - 1, of the library and on the device of the key. A
        larger `n` gives other words, not only more of them.

    Raises:
        UserError: `n` is not a non-negative integer, or `key` is not a key.

    Example:
        >>> from purenets import random
        >>> random.bits(random.key(0), 3)
        array([1713891541, 3781805453, 3159862348])

    Source:
        Philox-4x32-10 of Salmon et al. 2011, doi 10.1145/2063384.2063405.
    """
    if not isinstance(n, int | np.integer) or not 0 <= n < TOO_LARGE:
        raise UserError(f"bits: {n!r} words; needs an integer that is not negative")
    n = int(n) if isinstance(n, np.integer) else n
    return namespace(key).concat(_hash(key, -(-n // 4), DRAW))[:n]


def words(key: Array, start: int | Array, n: int) -> tuple[Array, Array, Array, Array]:
    """Return any part of a long draw of `bits`, by itself.

    `bits(key, 4 * m)` is the concatenation of `words(key, 0, m)`.

    Args:
        key: a key, as `key`, `split` or `fold_in` makes it.
        start: where the part begins, a number or an array of one element.
        n: its length.

    Returns:
        Four arrays (n,): the elements `start` to `start + n - 1` of each of the four.

    Raises:
        UserError: `key` is not a key.

    Example:
        >>> from purenets import random
        >>> whole, part = random.words(random.key(0), 0, 6), random.words(random.key(0), 4, 2)
        >>> [bool((a[4:] == b).all()) for a, b in zip(whole, part)]
        [True, True, True, True]
    """
    return _hash(key, n, DRAW, start)


def philox(counter, key):
    """Return four random words for four words of the counter and two of the key (Philox-4x32-10).

    Args:
        counter: four words, integers from 0 to 2**32 - 1 as Python integers, or in int64 arrays of
            at least one axis.
        key: two such words.

    Returns:
        Four words, of the type and shape of the arguments.

    Example:
        >>> from purenets.core.random import philox
        >>> [f"{word:08x}" for word in philox((0, 0, 0, 0), (0, 0))]
        ['6627e8d5', 'e169c58d', 'bc57ac4c', '9b00dbd8']

    Source:
        Salmon et al. 2011, doi 10.1145/2063384.2063405; the example is the test vector of
        Random123.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # 64 bits; int64 wraps and keeps them all
        c0, c1, c2, c3 = (
            (p1 >> 32 & MASK) ^ c1 ^ k0,
            p1 & MASK,
            (p0 >> 32 & MASK) ^ c3 ^ k1,
            p0 & MASK,
        )
        k0, k1 = k0 + 0x9E3779B9 & MASK, k1 + 0xBB67AE85 & MASK
    return c0, c1, c2, c3


def _hash(key: Array, n: int, purpose: int, start: int | Array = 0):
    """Return four arrays (n,) of random words, one counter for each index from `start` on."""
    _expect_key(key)
    folded = key.shape[0] - 2
    data = [key[2 + i : 3 + i] for i in range(folded)] + [0] * (2 - folded)
    index = namespace(key).arange(n, dtype=key.dtype, device=key.device)
    index = index if isinstance(start, int) and start == 0 else index + start
    given = (index, *data, 4 * folded + purpose), (key[0:1], key[1:2])
    return _kernels[-1](*given) or philox(*given)


def register_philox(kernel: Callable[[tuple, tuple], tuple | None]) -> None:
    """Let draws take their words from `kernel(counter, key)`, which returns those of `philox`, or
    None for arrays that it does not take; called where `purenets.torch_nets` is imported.
    """
    _kernels[:] = [kernel]


_kernels: list[Callable] = [lambda counter, key: None]


def _normal(words: Array, shape, dtype: str) -> Array:
    """Return the inverse of the normal distribution at p = (words + 1/2) / 2**32.

    It is a polynomial for each octave of x = 2**32 * min(p, 1 - p), in the position of x within it.
    """
    xp = namespace(words)
    upper = words > MASK >> 1
    x = xp.astype(xp.where(upper, MASK - words, words), xp.float64) + 0.5
    return _quantiles(x, upper, shape, dtype)


def _normal_of_one_side(words: Array, low: float, high: float, shape, dtype: str) -> Array:
    """Return draws between bounds of one sign, among so few of the 2**32 probabilities that their
    parts are drawn too.

    Those of the upper side are mirrored: probabilities near 0 have more digits than those near 1.
    """
    near, far = sorted((abs(low), abs(high)))
    begin, end = (round(math.erfc(z / math.sqrt(2)) * 2 ** (31 + PART_BITS)) for z in (far, near))
    parts = begin + ((words >> 1) * (end - begin) >> 31)
    xp = namespace(words)
    x = (xp.astype(parts, xp.float64) + 0.5) * 2.0**-PART_BITS
    return _quantiles(x, xp.full_like(words, high > 0, dtype=xp.bool), shape, dtype)


def _quantiles(x: Array, upper: Array, shape, dtype: str) -> Array:
    """Return the inverse of the normal distribution at x / 2**32, its negative where `upper`."""
    xp, dtype = namespace(x), dtype_called(dtype, x, "normal")
    # x is 1/2 or half-way between integers (or their 2**16th parts), so never close to a power of
    # two: any log2 finds its octave
    octave = xp.astype(xp.clip(xp.floor(xp.log2(x)), -1, 30), xp.int64) + 1
    table, scale = (xp.asarray(t, device=x.device) for t in (QUANTILES, OCTAVE_SCALE))
    place = x * scale[octave] - 1.5  # in [-1/2, 1/2)
    z = table[-1][octave]
    for coefficient in reversed(range(len(QUANTILES) - 1)):
        z = z * place + table[coefficient][octave]
    z = xp.where(upper, -z, z)
    if dtype != xp.float64:  # also on the way to half precision, as torch rounds
        z = xp.astype(z, xp.float32)
    return xp.reshape(xp.astype(z, dtype, copy=False), shape)


# --- what may be asked for ------------------------------------------------------------------------


def _size(function: str, shape) -> int:
    """Return the number of elements of a shape; a UserError if it is none."""
    # a size may be an integer of torch.compile, which is no int
    if not isinstance(shape, tuple | list) or any(
        n < 0 if isinstance(n, int) else not hasattr(n, "__index__") or getattr(n, "ndim", 0)
        for n in shape
    ):
        raise UserError(f"{function}: shape is {shape!r}, needs a tuple of sizes, such as (3, 2)")
    return math.prod([int(n) if isinstance(n, np.integer) else n for n in shape])


def _expect_key(key: Array) -> None:
    """Raise a UserError for what is no key; the name of a dtype, which takes long, is not asked."""
    if (
        not hasattr(key, "dtype")
        or key.ndim != 1
        or not 2 <= key.shape[0] <= 4
        or key.dtype != namespace(key).int64
    ):
        check_key(key)


def _key_beside(key: Array, *values) -> Array:
    """Return a key that can be computed with beside `values`: a tensor if one of them is a tensor.

    NumPy cannot read the values of a tensor under torch.func, nor under torch.compile.
    """
    if isinstance(key, np.ndarray):
        for value in values:
            if not isinstance(value, NUMPY) and hasattr(value, "detach"):
                return namespace(value).asarray(key, device=value.device)
    return key


def _as_number(value):
    """Return a NumPy array of one element as a number, anything else as it is."""
    of_one = isinstance(value, NUMPY) and getattr(value, "size", 0) == 1
    return value.item() if of_one else value


def _of_full_precision(bound, unit: Array):
    """Return a bound whose differences and products are those of `unit`: no integer, no half."""
    if isinstance(bound, int | float) or is_full(bound.dtype):
        return bound
    return namespace(unit).astype(bound, unit.dtype)


def _expect_in_order(function: str, low, high) -> None:
    """Raise a UserError unless the bounds, where both are numbers, are in order."""
    if isinstance(low, int | float) and isinstance(high, int | float) and low > high:
        raise UserError(f"{function}: low {low} is over high {high}")


def _expect_within_range(function: str, low, high, dtype, largest: float) -> None:
    """Raise a UserError for a bound that `dtype`, up to `largest`, cannot hold."""
    for bound in (low, high):
        if isinstance(bound, int | float) and abs(bound) > largest:
            raise UserError(f"{function}: {bound} is more than {dtype} holds, {largest:.6g}")


def _expect_narrow(function: str, low, high, widest: float) -> None:
    """Raise a UserError for bounds, where both are numbers, that are too far apart."""
    of_numbers = isinstance(low, int | float) and isinstance(high, int | float)
    if of_numbers and high - low > widest:
        raise UserError(f"{function}: {low} and {high} are more than {widest:.6g} apart")


def _within(function: str, draws: Array, low, high, open_above: bool = False) -> Array:
    """Return draws, those that were rounded over a bound (a number) at the next number within.

    Raises a UserError for bounds between which the dtype has no number.
    """
    if not (isinstance(low, int | float) and isinstance(high, int | float)) or low == high:
        return draws
    info = namespace(draws).finfo(draws.dtype)
    spacing = float(info.eps), float(info.smallest_normal)
    least, most = -_floor(-low, *spacing), _floor(high, *spacing)
    if open_above and most == high:
        most = _floor(high, *spacing, below=True)
    if least > most:
        dtype = str(draws.dtype).removeprefix("torch.")
        raise UserError(f"{function}: {dtype} has no number between {low} and {high}")
    return namespace(draws).clip(draws, least, most)


def _floor(bound: float, eps: float, smallest: float, below: bool = False) -> float:
    """Return the largest number of a dtype that is at most `bound`, or below it.

    eps: the distance of 1 to the next number; smallest: the smallest normal number.
    """
    mantissa, exponent = math.frexp(bound)
    if below and mantissa == 0.5:  # below a power of two numbers lie closer
        exponent -= 1
    unit = max(math.ldexp(eps, exponent - 1) if bound else 0.0, smallest * eps)
    return (math.ceil(bound / unit) - 1 if below else math.floor(bound / unit)) * unit


def _quantile_table(degree: int) -> np.ndarray:
    """Return the coefficients (degree + 1, octaves) of `_normal`'s polynomials.

    They interpolate the inverse distribution at Chebyshev nodes. Rounding them to 2**-44 hides the
    last bits of a machine's mathematical functions.
    """
    n = degree + 1
    nodes = np.cos(np.pi * (np.arange(n) + 0.5) / n)
    chebyshev = np.polynomial.chebyshev.chebvander(nodes, degree)
    rows = []
    for octave in range(-1, 31):
        z = [NormalDist().inv_cdf((node / 2 + 1.5) * 2.0 ** (octave - 32)) for node in nodes]
        coefficients = (chebyshev * np.array(z)[:, None]).sum(axis=0) * (2 / n)
        coefficients[0] /= 2
        rows.append(np.polynomial.chebyshev.cheb2poly(coefficients) * 2.0 ** np.arange(n))
    return np.round(np.array(rows).T * 2.0**44) / 2.0**44


QUANTILES = _quantile_table(10)  # errs by 4e-10 at most, less than the distance of two draws near 0
OCTAVE_SCALE = 2.0 ** -np.arange(-1, 31)
