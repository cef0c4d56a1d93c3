"""Palindromes, digit strings that read the same backwards; the last digit is to be predicted.

T is the length of a palindrome everywhere; a network reads its first T-1 digits. Digits are
uniform and leading zeros are allowed. The first ceil(T/2) digits are free, so there are
10 ** ceil(T/2) palindromes, all equally probable.

    dataset = PalindromeDataset(5, random.key(0))
    loader = torch.utils.data.DataLoader(dataset, batch_size=128)    # x (128, 4, 1), y (128,)
    batches = LoadedBatches(lambda step: dataset, batch_size=128)    # for `fit`
"""

import operator
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from purenets.core import random
from purenets.core.arguments import expect_flags, expect_integers, is_integer
from purenets.core.base import Array, Batch, UserError
from purenets.core.data.palindromes import (
    DIGITS,
    check_length,
    free_digits,
    inputs_and_targets,
    mirror_digits,
)
from purenets.core.memory import expect_room


def generate_palindrome(length: int, key: Array) -> np.ndarray:
    """Return one palindrome, drawn from a key.

    Args:
        length: the number of its digits.
        key: the source of the draws.

    Returns:
        Its digits, an int64 NumPy array (length,).

    Raises:
        UserError: `length` is out of range, or `key` is not a key.

    Example:
        >>> from purenets import random
        >>> from purenets.torch_nets.dataset import generate_palindrome
        >>> digits = generate_palindrome(7, random.key(0))
        >>> digits.shape, bool((digits == digits[::-1]).all())
        ((7,), True)
    """
    check_length(length)
    expect_room(8 * length, f"length: a palindrome of {length} digits")
    return _digits(np.asarray(random.check_key(key)), 1, length)[0]


class PalindromeDataset(Dataset):
    """Palindromes of length T, as the network takes them.

    Item i is (the first T-1 digits, float32 (T-1, 1) or one-hot (T-1, 10); the last digit). It is a
    pure function of the key and of i: the same whenever and wherever it is asked for.

    Args:
        seq_length: T, the length of the palindromes.
        key: as `random.key(seed)` makes it; by default that of seed 0.
        size: how many items there are.
        one_hot: read a digit as a one-hot vector instead of as a number.
        block: how many items are drawn at once. Item i is row i % block of the draw of block
            i // block, so a batch that is a block costs one draw.

    Example:
        >>> dataset = PalindromeDataset(5, random.key(0))
        >>> x, y = dataset[0]
        >>> x.shape, y == x[0, 0]
        (torch.Size([4, 1]), tensor(True))
    """

    def __init__(
        self,
        seq_length: int,
        key: Array | None = None,
        size: int = 2**31,
        *,
        one_hot: bool = False,
        block: int = 128,
    ):
        check_length(seq_length)
        expect_flags("PalindromeDataset", one_hot=one_hot)
        for name, value in (("size", size), ("block", block)):
            if not is_integer(value) or not 1 <= value <= sys.maxsize:
                raise UserError(f"{name}: {value!r}, needs an integer from 1 to {sys.maxsize}")
        self.seq_length, self.size, self.one_hot, self.block = seq_length, size, one_hot, block
        self.key = np.asarray(random.key(0) if key is None else random.check_key(key))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the inputs (T-1, 1 or 10) and the target of one item."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> "Items":
        """Return the items of a batch, as a DataLoader asks for them: all at once."""
        x, y = inputs_and_targets(self._digits_of(indices), self.one_hot)
        return Items(torch.from_numpy(x), torch.from_numpy(y))

    def generate_palindrome(self, index: int = 0) -> np.ndarray:
        """Return all digits of an item, int64 (T,)."""
        return self._digits_of([index])[0]

    def _digits_of(self, indices: Sequence[int]) -> np.ndarray:
        """Return the digits of some items, (items, T); each block is drawn once."""
        places = np.asarray(indices)
        if places.dtype.kind not in "iu":
            raise TypeError(f"{indices}: needs integers")
        if places.min() < 0 or places.max() >= self.size:
            raise IndexError(f"{indices}: not all from 0 to {self.size - 1}")
        numbers, where = np.unique(places // self.block, return_inverse=True)
        keys = (random.fold_in(self.key, int(number)) for number in numbers)
        blocks = np.stack([_digits(key, self.block, self.seq_length) for key in keys])
        return blocks[where, places % self.block]


class Items(Sequence):
    """The items of a batch: a sequence of (inputs, target), made of the whole arrays x and y."""

    def __init__(self, x: Tensor, y: Tensor):
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.x[i], int(self.y[i])


def collate(items: Items) -> Batch:
    """Return the arrays that the items of a batch are made of; they need not be stacked again.

    Args:
        items: what `PalindromeDataset.__getitems__` returned.

    Returns:
        x (batch, T-1, 1 or 10) and y (batch,).

    Raises:
        UserError: `items` are something else.

    Example:
        >>> from purenets.torch_nets.dataset import PalindromeDataset, collate
        >>> x, y = collate(PalindromeDataset(5).__getitems__([0, 1, 2]))
        >>> x.shape, y.shape
        (torch.Size([3, 4, 1]), torch.Size([3]))
    """
    if not isinstance(items, Items):
        raise UserError(f"collate: items: a {type(items).__name__}, needs Items of a dataset")
    return items.x, items.y


def loader_from(dataset: PalindromeDataset, batch_size: int, step: int = 0) -> DataLoader:
    """Return a DataLoader of a dataset's batches in order, from a step on.

    Args:
        dataset: the palindromes.
        batch_size: items in a batch.
        step: the first batch holds the items from step * batch_size on.

    Returns:
        A DataLoader without end.

    Raises:
        UserError: `batch_size` is not a positive integer, or `step` is not a non-negative integer.

    Example:
        >>> from purenets.torch_nets.dataset import PalindromeDataset, loader_from
        >>> x, y = next(iter(loader_from(PalindromeDataset(5), batch_size=8)))
        >>> x.shape, y.shape
        (torch.Size([8, 4, 1]), torch.Size([8]))
    """
    expect_integers("loader_from", 1, batch_size=batch_size)
    expect_integers("loader_from", 0, step=step)
    return DataLoader(
        dataset,
        batch_sampler=InOrder(batch_size, step),
        collate_fn=collate,
        generator=torch.Generator(),  # else it would advance torch's global one
    )


class InOrder:
    """The batch sampler of a training: the batch of step i holds the items from i * batch_size."""

    def __init__(self, batch_size: int, step: int = 0):
        self.batch_size, self.step = operator.index(batch_size), operator.index(step)

    def __iter__(self) -> Iterator[range]:
        begin = self.step * self.batch_size
        while True:
            yield range(begin, begin + self.batch_size)
            begin += self.batch_size


class LoadedBatches:
    """The function from a step to its batch, for `fit`; a DataLoader samples the batches.

    Batches come from one loader as long as the steps are asked for in order. For any other step a
    loader is opened there, without loading what comes before (as `from_loader` has to). So what a
    step gets depends on the step alone, and a run that goes on sees the batches that it would have
    seen.

    Args:
        dataset_at: the function from a step to its dataset; the same one where none is to be
            opened anew.
        batch_size: items in a batch.
        device: where the batches go.
    """

    def __init__(
        self,
        dataset_at: Callable[[int], PalindromeDataset],
        batch_size: int,
        device: torch.device | str = "cpu",
    ):
        self.dataset_at, self.batch_size, self.device = dataset_at, batch_size, device
        self._dataset, self._next, self._loaded = None, -1, iter(())

    def __call__(self, step: int) -> Batch:
        dataset = self.dataset_at(step)
        if dataset is not self._dataset or step != self._next:
            self._loaded = iter(loader_from(dataset, self.batch_size, step))
        self._dataset, self._next = dataset, step + 1
        x, y = next(self._loaded)
        return x.to(self.device), y.to(self.device)


def _digits(key: Array, n: int, length: int) -> np.ndarray:
    """Draw n palindromes from one key: their digits, (n, length)."""
    return mirror_digits(random.randint(key, (n, free_digits(length)), 0, DIGITS), length)
