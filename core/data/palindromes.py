"""Palindromes: strings of digits that read the same backwards; the last digit is to be told from
the rest.

T is the length of a palindrome everywhere; a network reads its first T-1 digits. Digits are
uniform, leading zeros allowed: the first ceil(T/2) digits are free, so there are 10 ** ceil(T/2)
palindromes, all as likely.
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
    """`batch` palindromes of length T, uniform over all: x (batch, T-1, 1 or 10) float32, y
    (batch,) int64.

    A pure function of the key: the same digits from a NumPy key (arrays) and a torch key (tensors).
    """
    check_length(T)
    expect_flags("palindromes", one_hot=one_hot)
    if not is_integer(batch) or batch < 1:
        raise UserError(f"batch: {batch} palindromes make no batch; needs 1 or more")
    if batch * T > LARGEST:
        raise UserError(f"palindromes: {batch} of length {T} fit into no memory")
    random.check_key(key)
    return inputs_and_targets(
        mirror_digits(random.randint(key, (batch, free_digits(T)), 0, DIGITS), T), one_hot
    )


def all_palindromes(T: int, one_hot: bool = False) -> Batch:
    """Return each of the 10 ** ceil(T/2) palindromes of length T once, in rising order (NumPy)."""
    check_listable(T)
    expect_flags("all_palindromes", one_hot=one_hot)
    n = count(T)
    places = DIGITS ** np.arange(free_digits(T))[::-1]
    return inputs_and_targets(mirror_digits(np.arange(n)[:, None] // places % DIGITS, T), one_hot)


def evaluation_batches(
    key: Array, T: int, size: int, one_hot: bool = False, chunk: int = 500
) -> Iterator[Batch]:
    """Yield all palindromes of length T where there are at most `size`, else `size` fresh ones.

    In NumPy batches of at most `chunk`, so that long palindromes need little memory.
    """
    for name, number in (("size", size), ("chunk", chunk)):
        if not is_integer(number) or number < 1:
            raise UserError(f"{name}: {number} palindromes make no evaluation; needs 1 or more")
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
    """Whether `evaluation_batches` goes through all palindromes."""
    check_length(T)
    expect_integers("is_exhaustive", 0, size=size)
    return is_listable(T) and count(T) <= size


def streams(key: Array) -> tuple[Array, Array]:
    """The keys of the training stream and of the evaluation stream: they share no draw."""
    train_key, evaluation_key = random.split(key)
    return train_key, evaluation_key


def mirror_digits(half: Array, T: int) -> Array:
    """The palindromes (batch, T) whose first ceil(T/2) digits are `half`; odd T has a digit in the
    middle.
    """
    check_length(T)
    expect_arrays("mirror_digits", 2, half=half)
    xp = namespace(half)
    return xp.concat([half, xp.flip(half[:, : T // 2], axis=1)], axis=1)


def inputs_and_targets(digits: Array, one_hot: bool) -> Batch:
    """(batch, T) integers to x: (batch, T-1, 1), or (batch, T-1, 10) one-hot, float32, and y:
    (batch,).
    """
    expect_arrays("inputs_and_targets", 2, digits=digits)
    expect_flags("inputs_and_targets", one_hot=one_hot)
    xp = namespace(digits)
    x, y = digits[:, :-1, None], digits[:, -1]
    if one_hot:
        x = x == xp.arange(DIGITS, dtype=digits.dtype, device=digits.device)
    return xp.astype(x, xp.float32), y


def free_digits(T: int) -> int:
    """Return how many digits of a palindrome of length T can be chosen."""
    check_length(T)
    return (T + 1) // 2


def is_listable(T: int) -> bool:
    """Return True if there are at most MOST_LISTED palindromes of length T."""
    return 10 ** min(free_digits(T), 7) <= MOST_LISTED


def count(T: int) -> int:
    """How many palindromes of length T there are."""
    return DIGITS ** free_digits(T)


def check_listable(T: int) -> None:
    check_length(T)
    if not is_listable(T):
        n = count(T) if T <= 60 else f"10^{free_digits(T)}"  # a number of so many digits
        raise UserError(
            f"T = {T}: has {n} palindromes, too many to list (T up to 12); draw fresh ones"
        )


def check_length(T: int) -> None:
    if type(T) is not int or not 2 <= T < TOO_LARGE:
        raise UserError(f"T: a palindrome's length must be an integer from 2 on, got {T}")
