"""Palindromes: digits that read the same backwards. The last one is to be predicted from the rest.

T is the length of a palindrome everywhere; a network reads its first T-1 digits. Digits are
uniform, leading zeros allowed: the first ceil(T/2) digits are free, so there are 10 ** ceil(T/2)
palindromes, all equally likely.
"""

from collections.abc import Iterator

import numpy as np

from purenets.core import random
from purenets.core.arguments import (
    TOO_LARGE,
    expect_arrays,
    expect_flags,
    expect_integers,
    is_integer,
)
from purenets.core.arrays import namespace
from purenets.core.base import Array, Batch, UserError

DIGITS = 10

LARGEST = 2**40  # digits
MOST_LISTED = 10**6  # `all_palindromes` lists no more than these: T up to 12


def palindromes(key: Array, batch: int, T: int, one_hot: bool = False) -> Batch:
    """Return random palindromes of length T, all of them equally likely.

    They are a pure function of the key: the same digits for a NumPy key (arrays) and a torch key
    (tensors).

    Args:
        key: a key of NumPy or torch.
        batch: how many palindromes.
        T: their length, 2 or more.
        one_hot: digits as one-hot vectors instead of numbers.

    Returns:
        The first T-1 digits x: (batch, T-1, 1), or (batch, T-1, 10) if `one_hot`, float32; and the
        last digits y: (batch,) int64.

    Raises:
        UserError: an argument has the wrong type or value, or the digits do not fit into memory.

    Example:
        >>> from purenets import random
        >>> from purenets.core.data.palindromes import palindromes
        >>> x, y = palindromes(random.key(0), batch=2, T=5)
        >>> x[:, :, 0], y
        (array([[3., 9., 8., 9.],
               [3., 7., 6., 7.]], dtype=float32), array([3, 3]))
    """
    check_length(T)
    expect_flags("palindromes", one_hot=one_hot)
    if not is_integer(batch) or batch < 1:
        raise UserError(f"batch: {batch} palindromes make no batch; needs 1 or more")
    if int(batch) * int(T) > LARGEST:
        raise UserError(f"palindromes: {batch} of length {T} do not fit into memory")
    random.check_key(key)
    return inputs_and_targets(
        mirror_digits(random.randint(key, (batch, free_digits(T)), 0, DIGITS), T), one_hot
    )


def all_palindromes(T: int, one_hot: bool = False) -> Batch:
    """Return every palindrome of length T once, in ascending order.

    Args:
        T: the length, from 2 to 12.
        one_hot: digits as one-hot vectors instead of numbers.

    Returns:
        NumPy arrays x: (n, T-1, 1 or 10) float32 and y: (n,) int64, with n = 10 ** ceil(T/2).

    Raises:
        UserError: T is not a length, or there are too many palindromes to list.

    Example:
        >>> from purenets.core.data.palindromes import all_palindromes
        >>> x, y = all_palindromes(3)  # 000, 010, ..., 999
        >>> x.shape, y[-1]
        ((100, 2, 1), np.int64(9))
    """
    check_listable(T)
    expect_flags("all_palindromes", one_hot=one_hot)
    n = count(T)
    places = DIGITS ** np.arange(free_digits(T))[::-1]
    return inputs_and_targets(mirror_digits(np.arange(n)[:, None] // places % DIGITS, T), one_hot)


def evaluation_batches(
    key: Array, T: int, size: int, one_hot: bool = False, chunk: int = 500
) -> Iterator[Batch]:
    """Yield all palindromes of length T if there are at most `size`, else `size` random ones.

    Args:
        key: the key of the random ones.
        T: the length, 2 or more.
        size: how many palindromes to yield at most.
        one_hot: digits as one-hot vectors instead of numbers.
        chunk: the largest batch, so that long palindromes need little memory.

    Yields:
        NumPy batches x: (m, T-1, 1 or 10) and y: (m,), with m at most `chunk`.

    Raises:
        UserError: an argument has the wrong type or value.

    Example:
        >>> from purenets import random
        >>> from purenets.core.data.palindromes import evaluation_batches
        >>> [len(y) for x, y in evaluation_batches(random.key(0), T=4, size=1000, chunk=60)]
        [60, 40]
    """
    for name, number in (("size", size), ("chunk", chunk)):
        if not is_integer(number) or number < 1:
            raise UserError(f"{name}: {number} palindromes make no evaluation; needs 1 or more")
    size, chunk = int(size), int(chunk)
    random.check_key(key)
    expect_flags("evaluation_batches", one_hot=one_hot)
    if is_exhaustive(T, size):
        x, y = all_palindromes(T, one_hot)
        for begin in range(0, len(y), chunk):
            yield x[begin : begin + chunk], y[begin : begin + chunk]
    else:
        for i, begin in enumerate(range(0, size, chunk)):
            yield palindromes(
                random.fold_in(np.asarray(key), i), min(chunk, size - begin), T, one_hot
            )


def is_exhaustive(T: int, size: int) -> bool:
    """Return True if `evaluation_batches` goes through all palindromes.

    Args:
        T: the length.
        size: how many palindromes to evaluate at most.

    Returns:
        A bool.

    Raises:
        UserError: T is not a length, or `size` is negative.

    Example:
        >>> from purenets.core.data.palindromes import is_exhaustive
        >>> is_exhaustive(4, size=100), is_exhaustive(5, size=100)
        (True, False)
    """
    check_length(T)
    expect_integers("is_exhaustive", 0, size=size)
    return is_listable(T) and count(T) <= size


def streams(key: Array) -> tuple[Array, Array]:
    """Return the keys of the training stream and of the evaluation stream, which share no draw.

    Args:
        key: the key of the run.

    Returns:
        Two keys.

    Raises:
        UserError: `key` is not a key.

    Example:
        >>> from purenets import random
        >>> from purenets.core.data.palindromes import streams
        >>> train_key, evaluation_key = streams(random.key(0))
        >>> bool((train_key == evaluation_key).all())
        False
    """
    train_key, evaluation_key = random.split(key)
    return train_key, evaluation_key


def mirror_digits(half: Array, T: int) -> Array:
    """Return the palindromes whose first digits are given.

    Args:
        half: (batch, ceil(T/2)) digits.
        T: the length; if it is odd, the last given digit stands in the middle.

    Returns:
        (batch, T) digits.

    Raises:
        UserError: T is not a length, or `half` is not an array with two axes.

    Example:
        >>> import numpy as np
        >>> from purenets.core.data.palindromes import mirror_digits
        >>> mirror_digits(np.array([[1, 2, 3]]), T=5)
        array([[1, 2, 3, 2, 1]])
    """
    check_length(T)
    expect_arrays("mirror_digits", 2, half=half)
    xp = namespace(half)
    return xp.concat([half, xp.flip(half[:, : T // 2], axis=1)], axis=1)


def inputs_and_targets(digits: Array, one_hot: bool) -> Batch:
    """Return the inputs and targets of palindromes: the first T-1 digits and the last one.

    Args:
        digits: (batch, T) integers.
        one_hot: digits as one-hot vectors instead of numbers.

    Returns:
        x: (batch, T-1, 1), or (batch, T-1, 10) if `one_hot`, float32; and y: (batch,).

    Raises:
        UserError: `digits` is not an array with two axes.

    Example:
        >>> import numpy as np
        >>> from purenets.core.data.palindromes import inputs_and_targets
        >>> x, y = inputs_and_targets(np.array([[1, 2, 1]]), one_hot=False)
        >>> x[0, :, 0], y
        (array([1., 2.], dtype=float32), array([1]))
    """
    expect_arrays("inputs_and_targets", 2, digits=digits)
    expect_flags("inputs_and_targets", one_hot=one_hot)
    xp = namespace(digits)
    x, y = digits[:, :-1, None], digits[:, -1]
    if one_hot:
        x = x == xp.arange(DIGITS, dtype=digits.dtype, device=digits.device)
    return xp.astype(x, xp.float32), y


def free_digits(T: int) -> int:
    """Return how many digits of a palindrome can be chosen: ceil(T/2).

    Args:
        T: the length.

    Returns:
        An int.

    Raises:
        UserError: T is not a length.

    Example:
        >>> from purenets.core.data.palindromes import free_digits
        >>> free_digits(5)
        3
    """
    check_length(T)
    return (T + 1) // 2


def is_listable(T: int) -> bool:
    """Return True if there are at most MOST_LISTED palindromes of length T.

    Args:
        T: the length.

    Returns:
        A bool.

    Raises:
        UserError: T is not a length.

    Example:
        >>> from purenets.core.data.palindromes import is_listable
        >>> is_listable(12), is_listable(13)
        (True, False)
    """
    return 10 ** min(free_digits(T), 7) <= MOST_LISTED


def count(T: int) -> int:
    """Return the number of palindromes of length T: 10 ** ceil(T/2).

    Args:
        T: the length.

    Returns:
        An int.

    Raises:
        UserError: T is not a length.

    Example:
        >>> from purenets.core.data.palindromes import count
        >>> count(5)
        1000
    """
    return DIGITS ** free_digits(T)


def check_listable(T: int) -> None:
    """Raise a UserError if T is not a length, or has too many palindromes to list."""
    check_length(T)
    if not is_listable(T):
        n = count(T) if T <= 60 else f"10^{free_digits(T)}"  # a number of so many digits
        raise UserError(
            f"T = {T}: has {n} palindromes, too many to list (T up to 12); draw fresh ones"
        )


def check_length(T: int) -> None:
    """Raise a UserError unless T is an integer from 2 on."""
    if type(T) is not int or not 2 <= T < TOO_LARGE:
        raise UserError(f"T: a palindrome's length is {T!r}, needs a Python integer of 2 or more")
