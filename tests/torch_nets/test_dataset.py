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
from purenets.torch_nets import VanillaRNN
from purenets.torch_nets.dataset import LoadedBatches, PalindromeDataset, generate_palindrome

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


@pytest.mark.parametrize("one_hot", [False, True])
def test_items_fit_the_net(one_hot):
    dataset = PalindromeDataset(6, random.key(1), size=10, one_hot=one_hot)
    assert len(dataset) == 10 and isinstance(dataset, torch.utils.data.Dataset)
    x, y = dataset[3]
    assert x.shape == (5, 10 if one_hot else 1) and x.dtype == torch.float32 and type(y) is int
    assert (dataset[3][0] == x).all()
    model = VanillaRNN(5, x.shape[1], 4, 10)
    assert model.apply(*model.init(random.key(0)), x[None])[0].shape == (1, 10)
    for index in (10, -1):
        with pytest.raises(IndexError):
            dataset[index]


def test_a_plain_dataloader_stacks_the_items():
    dataset = PalindromeDataset(6, random.key(1), size=10, block=3)
    loaded = list(torch.utils.data.DataLoader(dataset, batch_size=4))
    assert [len(y) for _, y in loaded] == [4, 4, 2]
    x, y = (torch.cat(part) for part in zip(*loaded, strict=True))
    assert (x[:, 0, 0] == y).all()
    assert torch.equal(x, torch.stack([dataset[i][0] for i in range(10)]))
    assert y.tolist() == [dataset[i][1] for i in range(10)]
    assert [dataset.generate_palindrome(i)[0] for i in range(10)] == y.tolist()


def test_one_palindrome():
    digits = generate_palindrome(7, random.key(2))
    assert digits.shape == (7,) and (digits == digits[::-1]).all()


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 99), min_size=1, max_size=8))
def test_items_are_rows_of_the_draw_of_their_block(T, block, indices):
    dataset = PalindromeDataset(T + 1, random.key(4), size=100, block=block)
    items = dataset.__getitems__(indices)
    assert len(items) == len(indices)
    for (x, y), index in zip(items, indices, strict=True):
        draws, targets = palindromes(random.fold_in(random.key(4), index // block), block, T + 1)
        assert (x.numpy() == draws[index % block]).all() and y == targets[index % block]


def test_batches_depend_on_their_step_alone():
    datasets = [PalindromeDataset(T, random.key(5), one_hot=True, block=8) for T in (4, 7)]
    loaded = LoadedBatches(lambda step: datasets[step >= 5], 8)
    for step in (0, 1, 2, 3, 4, 5, 6, 2, 3, 9, 0):  # in order, then back and ahead
        x, y = palindromes(random.fold_in(random.key(5), step), 8, 7 if step >= 5 else 4, True)
        mine = loaded(step)
        assert (mine[0].numpy() == x).all() and (mine[1].numpy() == y).all()


def test_loading_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    dataset = PalindromeDataset(5)
    LoadedBatches(lambda step: dataset, 4)(0)
    assert torch.equal(torch.rand(3), expected)


def test_wrong_datasets():
    for options in ({"size": 0}, {"block": 2.5}, {"block": 0}):
        with pytest.raises(UserError, match=f"{next(iter(options))}: .* needs an integer from 1"):
            PalindromeDataset(5, **options)
    with pytest.raises(UserError, match="one_hot"):
        PalindromeDataset(5, one_hot=10)
    with pytest.raises(UserError, match="key: 0 is no key"):
        PalindromeDataset(5, 0)


@pytest.mark.parametrize("T", [1, 0, -3, 2.5, "5"])
def test_lengths_that_are_none(T):
    with pytest.raises(UserError, match=r"length is .*, needs a Python integer"):
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


def test_what_is_no_index_or_size_is_named():
    with pytest.raises(TypeError, match="needs integers"):
        PalindromeDataset(5)[0:2]
    with pytest.raises(UserError, match=r"size: .* needs an integer from 1 to"):
        PalindromeDataset(5, size=2**70)
