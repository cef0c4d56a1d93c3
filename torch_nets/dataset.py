"""Palindromes: strings of digits that read the same backwards; the last digit is to be told from
the rest.

T is the length of a palindrome everywhere; a network reads its first T-1 digits. Digits are
uniform, leading zeros allowed: the first ceil(T/2) digits are free, so there are 10 ** ceil(T/2)
palindromes, all as likely.
"""

import numpy as np
import torch

from purenets.core import random
from purenets.core.base import Array
from purenets.core.data.palindromes import DIGITS, check_length, free_digits, mirror_digits
from purenets.core.memory import expect_room


def generate_palindrome(length: int, key: Array) -> np.ndarray:
    """One palindrome as its digits, int64 (length,); drawn from a key, not from a global
    generator.
    """
    check_length(length)
    expect_room(8 * length, f"length: a palindrome of {length} digits")
    random.check_key(key)
    return mirror_digits(
        random.randint(np.asarray(key), (1, free_digits(length)), 0, DIGITS), length
    )[0]


class PalindromeDataset(torch.utils.data.Dataset):
    """Palindromes of length `seq_length` (= T) for a DataLoader: item i is (the first T-1 digits as
    a float32 tensor (T-1,), the last digit), drawn from the key of i: the same whenever it is asked
    for."""

    def __init__(self, seq_length: int, key: Array | None = None, size: int = 2**31):
        check_length(seq_length)
        self.seq_length, self.size = seq_length, size
        self.key = random.key(0) if key is None else np.asarray(key)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if not 0 <= index < self.size:
            raise IndexError(index)
        digits = generate_palindrome(self.seq_length, random.fold_in(self.key, index))
        return torch.from_numpy(digits[:-1].astype(np.float32)), int(digits[-1])
