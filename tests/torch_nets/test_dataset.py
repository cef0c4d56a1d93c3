"""Palindromes: right, uniform, the same from every kind of key, and never shared by two streams."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, random
from purenets.core.data.palindromes import (
    all_palindromes,
    check_listable,
    count,
    evaluation_batches,
    is_exhaustive,
    palindromes,
    streams,
)
from purenets.torch_nets.dataset import PalindromeDataset, generate_palindrome

lengths = st.integers(2, 40)


def digits_of(x, y) -> np.ndarray:
    """(batch, T) again."""
    x = np.asarray(x)
    read = x[..., 0] if x.shape[-1] == 1 else x.argmax(axis=-1)
    return np.concatenate([read, np.asarray(y)[:, None]], axis=1).astype(int)


@given(lengths, st.integers(0, 10**6), st.booleans())
def test_they_read_the_same_backwards(T, seed, one_hot):
    x, y = palindromes(random.key(seed), 7, T, one_hot)
    assert x.shape == (7, T - 1, 10 if one_hot else 1) and x.dtype == np.float32
    assert y.shape == (7,) and y.dtype == np.int64
    digits = digits_of(x, y)
    assert (digits == digits[:, ::-1]).all() and digits.min() >= 0 and digits.max() <= 9


@given(lengths, st.booleans())
def test_numpy_and_torch_keys_draw_the_same(T, one_hot):
    key = random.fold_in(random.key(3), T)
    x, y = palindromes(key, 5, T, one_hot)
    torch_x, torch_y = palindromes(torch.as_tensor(key), 5, T, one_hot)
    assert torch_x.dtype == torch.float32 and torch_y.dtype == torch.int64
    assert (torch_x.numpy() == x).all() and (torch_y.numpy() == y).all()


def test_scalar_and_one_hot_are_the_same_digits():
    key = random.key(5)
    scalar, one_hot = (digits_of(*palindromes(key, 50, 9, flag)) for flag in (False, True))
    assert (scalar == one_hot).all()


@pytest.mark.parametrize("T", [4, 5])
def test_all_are_equally_likely(T):
    """Chi-square over all 100 or 1,000 palindromes: within 4 deviations of its mean."""
    n, kinds = 200_000, count(T)
    digits = digits_of(*palindromes(random.key(T), n, T))
    number = digits[:, : (T + 1) // 2] @ (10 ** np.arange((T + 1) // 2)[::-1])
    seen = np.bincount(number, minlength=kinds)
    chi_square = ((seen - n / kinds) ** 2 / (n / kinds)).sum()
    assert len(seen) == kinds
    assert abs(chi_square - (kinds - 1)) < 4 * np.sqrt(2 * (kinds - 1))


@pytest.mark.parametrize("T", [2, 3, 4, 5])
def test_the_list_holds_each_once(T):
    digits = digits_of(*all_palindromes(T))
    assert len(digits) == 10 ** ((T + 1) // 2) == len(np.unique(digits, axis=0))
    assert (digits == digits[:, ::-1]).all()
    assert digits[0].tolist() == [0] * T  # leading zeros are allowed


def test_evaluation_is_exhaustive_where_it_can_be():
    parts = list(evaluation_batches(random.key(0), 5, 1000, chunk=300))
    assert [len(y) for _, y in parts] == [300, 300, 300, 100]
    assert len(np.unique(np.concatenate([digits_of(*part) for part in parts]), axis=0)) == 1000
    assert is_exhaustive(5, 1000) and not is_exhaustive(5, 999) and not is_exhaustive(30, 10**9)
    fresh = np.concatenate(
        [digits_of(*part) for part in evaluation_batches(random.key(0), 30, 700)]
    )
    assert len(np.unique(fresh, axis=0)) == 700


def test_streams_are_disjoint():
    train_key, evaluation_key = streams(random.key(0))
    seen = {
        digits_of(*palindromes(random.fold_in(train_key, i), 100, 30)).tobytes() for i in range(20)
    }
    parts = evaluation_batches(random.fold_in(evaluation_key, 30), 30, 2000, chunk=100)
    assert not seen & {digits_of(*part).tobytes() for part in parts}


def test_the_dataset_of_the_assignment():
    dataset = PalindromeDataset(6, random.key(1), size=10)
    assert len(dataset) == 10
    x, y = dataset[3]
    assert x.shape == (5,) and x.dtype == torch.float32 and y == int(x[0])
    assert (dataset[3][0] == x).all()
    with pytest.raises(IndexError):
        dataset[10]
    inputs, targets = next(iter(torch.utils.data.DataLoader(dataset, batch_size=4)))
    assert inputs.shape == (4, 5) and (inputs[:, 0] == targets).all()
    digits = generate_palindrome(7, random.key(2))
    assert digits.shape == (7,) and (digits == digits[::-1]).all()


@pytest.mark.parametrize("T", [1, 0, -3, 2.5, "5"])
def test_lengths_that_are_none(T):
    with pytest.raises(UserError, match="length must be an integer from 2 on"):
        palindromes(random.key(0), 3, T)


def test_other_wrong_inputs():
    with pytest.raises(UserError, match="batch: 0 palindromes"):
        palindromes(random.key(0), 0, 5)
    for size, chunk in ((0, 500), (-3, 500), (100, 0), (100, -1)):
        with pytest.raises(UserError, match="palindromes make no evaluation"):
            next(evaluation_batches(random.key(0), 5, size, chunk=chunk))
    with pytest.raises(UserError, match="T = 13: has 10000000 palindromes, too many to list"):
        all_palindromes(13)
    check_listable(12)
