import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from purenets import UserError, numpy_nets, random, torch_nets
from purenets.torch_nets import jit

# Random123's published vectors of philox4x32_10 (kat_vectors): counter, key, result
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
DRAWS = {
    "bits": lambda k: random.bits(k, 1001),
    "uniform": lambda k: random.uniform(k, (7, 143)),
    "uniform in an interval": lambda k: random.uniform(k, (1001,), low=-3.0, high=0.1),
    "uniform float64": lambda k: random.uniform(k, (1001,), "float64"),
    "normal": lambda k: random.normal(k, (10007,)),
    "normal float64": lambda k: random.normal(k, (10007,), "float64"),
    "truncated_normal": lambda k: random.truncated_normal(k, (1001,)),
    "bernoulli": lambda k: random.bernoulli(k, 0.3, (1001,)),
    "randint": lambda k: random.randint(k, (1001,), -5, 2**30),
    "permutation": lambda k: random.permutation(k, 1001),
    "split": lambda k: random.split(k, 5),
    "fold_in": lambda k: random.fold_in(k, 2**32 - 1),
}


@pytest.mark.parametrize("xp", [np.array, torch.tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_vectors(xp, counter, key, expected):
    result = random.philox([xp([c]) for c in counter], [xp([k]) for k in key])
    assert tuple(int(word[0]) for word in result) == expected


@pytest.mark.parametrize("folds", [(), (3,), (3, 2**31), (3, 4, 5)])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_numpy_and_torch_draw_the_same_bits(draw, folds):
    key = random.key(12345678901234567890)
    for number in folds:
        key = random.fold_in(key, number)
    a, b = draw(key), draw(torch.as_tensor(key))
    assert isinstance(b, torch.Tensor)
    assert a.dtype == b.numpy().dtype
    assert np.array_equal(a, b.numpy())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_cuda_draws_the_same_bits(draw):
    for folds in ((), (3,), (3, 2**31), (3, 4, 5)):
        key = random.key(12345678901234567890)
        for number in folds:
            key = random.fold_in(key, number)
        assert np.array_equal(draw(key), draw(torch.as_tensor(key, device="cuda")).cpu().numpy())


def test_vmap_over_keys_equals_a_loop():
    keys = random.split(torch.as_tensor(random.key(1)), 4)
    for name in ("uniform", "normal", "bernoulli", "permutation", "split"):
        together = torch.func.vmap(DRAWS[name])(keys)
        assert torch.equal(together, torch.stack([DRAWS[name](key) for key in keys])), name


def test_compiled_draws_the_same_bits():
    key = torch.as_tensor(random.key(3))

    def draws(key):
        return [DRAWS[name](key) for name in ("bits", "normal", "bernoulli", "uniform float64")]

    for eager, compiled in zip(draws(key), torch.compile(draws, fullgraph=True)(key), strict=True):
        assert torch.equal(eager, compiled)


@pytest.mark.parametrize(
    ("draw", "cdf"),
    [
        (random.uniform, stats.uniform.cdf),
        (random.normal, stats.norm.cdf),
        (
            lambda k, s: random.truncated_normal(k, s, low=-1.0, high=2.5),
            stats.truncnorm(-1.0, 2.5).cdf,
        ),
        (lambda k, s: random.uniform(k, s, "float64", low=-2, high=6), stats.uniform(-2, 8).cdf),
    ],
    ids=["uniform", "normal", "truncated_normal", "interval"],
)
def test_draws_follow_their_distribution(draw, cdf):
    x = draw(random.key(0), (200_000,))
    assert stats.kstest(x, cdf).pvalue > 1e-3
    pairs = np.corrcoef(x[:-1], x[1:])[0, 1]
    assert abs(pairs) < 4 / np.sqrt(len(x))


def test_normal_is_the_inverse_of_its_distribution_to_the_grid():
    words = np.concatenate(
        [np.arange(2000), random.bits(random.key(0), 50_000), 2**32 - 1 - np.arange(2000)]
    )
    z = random._normal(words, words.shape, "float64")
    expected = stats.norm.ppf((words + 0.5) / 2**32)
    assert np.abs(z - expected).max() < 1e-9
    assert (np.diff(random._normal(np.sort(words), words.shape, "float64")) >= 0).all()


def test_truncated_normal_stays_within_its_bounds():
    x = random.truncated_normal(random.key(0), (100_000,), "float64", low=-0.5, high=3.0)
    assert x.min() >= -0.5 - 1e-8
    assert x.max() <= 3.0 + 1e-8


def test_bernoulli_and_randint_hit_with_their_probability():
    n = 200_000
    hits = random.bernoulli(random.key(0), 0.3, (n,)).sum()
    assert abs(hits - 0.3 * n) < 4 * np.sqrt(0.3 * 0.7 * n)
    counts = np.bincount(random.randint(random.key(1), (n,), 0, 10))
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > 1e-3
    assert random.bernoulli(random.key(0), 1.0, (1000,)).all()
    assert not random.bernoulli(random.key(0), 0.0, (1000,)).any()


@given(st.integers(0, 2**64 - 1), st.integers(1, 300))
def test_permutation_holds_each_number_once(seed, n):
    assert np.array_equal(np.sort(random.permutation(random.key(seed), n)), np.arange(n))


def test_every_order_is_as_likely():
    """Neighbors change places in half of all permutations, and a number comes anywhere."""
    n, draws = 50, 400
    orders = np.stack(
        [random.permutation(random.fold_in(random.key(3), i), n) for i in range(draws)]
    )
    places = np.argsort(orders, axis=1)
    swapped = (places[:, 1:] < places[:, :-1]).sum()
    pairs = draws * (n - 1)
    assert abs(swapped - pairs / 2) < 4 * np.sqrt(pairs / 4)
    counts = np.bincount(places[:, 0] // 10, minlength=5)
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_new_key_is_nothing_that_its_key_draws():
    key = random.key(0)
    drawn = set(random.bits(key, 400).tolist())
    for made in (
        random.split(key, 100),
        random.fold_in(random.fold_in(random.fold_in(key, 1), 2), 3),
    ):
        assert drawn.isdisjoint(np.ravel(made[..., :2]).tolist())


def test_keys_do_not_collide():
    key = random.key(0)
    derived = [key, *random.split(key, 100)]
    derived += [random.fold_in(key, i) for i in range(100)]
    derived += [random.fold_in(random.fold_in(key, i), j) for i in range(10) for j in range(10)]
    derived += [
        random.fold_in(random.fold_in(random.fold_in(key, 0), i), j)
        for i in range(5)
        for j in range(5)
    ]
    draws = {tuple(random.bits(k, 4)) for k in derived}
    assert len(draws) == len(derived)


def test_fold_in_takes_arrays_and_numbers_alike():
    for key in (random.key(5), torch.as_tensor(random.key(5))):
        number = key[:1] * 0 + 9
        assert (random.fold_in(key, 9) == random.fold_in(key, number)).all()


def test_a_float32_draw_is_the_rounded_float64_draw():
    key = random.key(2)
    wide = random.normal(key, (1000,), "float64")
    assert np.array_equal(random.normal(key, (1000,)), wide.astype(np.float32))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: random.key(-1), "seed: -1"),
        (lambda: random.key(2**64), "seed: "),
        (lambda: random.randint(random.key(0), (1,), 3, 3), "high - low is 0, needs 1"),
        (lambda: random.truncated_normal(random.key(0), (1,), low=2, high=1), "not an interval"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


# --- half precision and bounds --------------------------------------------------------------------

DTYPES = ["float16", "bfloat16", "float32", "float64"]
N = 1 << 16
# of a dtype: the distance of numbers just below 1
SPACING = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_draws_of_every_dtype_are_uniform_from_0_to_below_1(dtype):
    draws = random.uniform(torch.as_tensor(random.key(3)), (N,), dtype)
    assert str(draws.dtype) == f"torch.{dtype}"
    u = draws.double().numpy()
    assert u.min() >= 0
    assert u.max() == pytest.approx(1, abs=6e-4 if dtype[:5] == "float" else 5e-3)
    assert u.max() < 1
    assert u.mean() == pytest.approx(0.5, abs=4 / math.sqrt(12 * N) + SPACING[dtype] ** 2)
    assert u.std() == pytest.approx(math.sqrt(1 / 12), abs=2e-3)
    share = np.histogram(u, bins=16, range=(0, 1))[0] * 16 / N
    assert np.abs(share - 1).max() < 0.08


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_draws_are_those_of_float32_rounded(dtype):
    key = torch.as_tensor(random.key(4))
    for draw in (random.uniform, random.normal):
        wide, narrow = draw(key, (N,)), draw(key, (N,), dtype)
        rounded = wide.to(narrow.dtype)
        rounded = (
            torch.where(rounded == 1, 1 - SPACING[dtype], rounded)
            if draw is random.uniform
            else rounded
        )
        assert torch.equal(narrow, rounded.to(narrow.dtype))


@pytest.mark.parametrize("draw", [random.uniform, random.normal])
def test_float16_draws_of_numpy_and_torch_are_the_same_bits(draw):
    key = random.key(5)
    ours, theirs = draw(key, (N,), "float16"), draw(torch.as_tensor(key), (N,), "float16")
    assert ours.dtype == np.float16
    assert np.array_equal(ours, theirs.numpy())
    bounds = {"low": -0.3, "high": 0.7}
    ours, theirs = (
        random.uniform(k, (N,), "float16", **bounds) for k in (key, torch.as_tensor(key))
    )
    assert np.array_equal(ours, theirs.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("low", "high"),
    [(-1.0, 1.0), (0.0, 3.0), (1000.0, 1001.0), (-3.3, -3.2), (0.1, 0.7), (-1e-7, 0.0)],
)
def test_uniform_draws_stay_within_their_bounds_after_rounding(dtype, low, high):
    draws = random.uniform(torch.as_tensor(random.key(6)), (N,), dtype, low=low, high=high).double()
    assert draws.min() >= low
    assert draws.max() < high


@pytest.mark.parametrize("dtype", DTYPES)
def test_truncated_draws_stay_within_their_bounds_after_rounding(dtype):
    key = torch.as_tensor(random.key(7))
    draws = random.truncated_normal(key, (N,), dtype, low=-1.999, high=0.1)
    assert draws.double().min() >= -1.999
    assert draws.double().max() <= 0.1


@pytest.mark.parametrize(
    ("low", "high"), [(5.9, 6), (-6, -5.9), (5, 6), (5.99, 6), (0.5, 0.5 + 1e-6), (0, 1e-6)]
)
def test_narrow_intervals_have_many_different_draws(low, high):
    draws = random.truncated_normal(random.key(3), (20_000,), "float64", low=low, high=high)
    assert len(np.unique(draws)) > 10_000
    assert low <= draws.min() <= draws.max() <= high
    assert stats.kstest(draws, stats.truncnorm(low, high).cdf).pvalue > 0.01
    key = torch.as_tensor(random.key(3))
    for dtype in ("float16", "float32", "float64"):
        if dtype != "float16" or high - low > 0.05:
            same = (
                random.truncated_normal(k, (999,), dtype, low=low, high=high)
                for k in (key, random.key(3))
            )
            assert np.array_equal(*map(np.asarray, same))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [(1e-8, 2e-8, "float16"), (1 + 1e-12, 1 + 2e-12, "float32"), (1.0001, 1.0002, "bfloat16")],
)
@pytest.mark.parametrize("draw", [random.uniform, random.truncated_normal])
def test_bounds_without_a_number_between_them_are_named(draw, low, high, dtype):
    with pytest.raises(
        UserError, match=f"{dtype} has no number between|is not an interval|is too narrow"
    ):
        draw(torch.as_tensor(random.key(0)), (3,), dtype, low=low, high=high)


def test_bounds_that_are_equal_are_the_draw():
    assert (random.uniform(random.key(0), (9,), low=0.3, high=0.3) == np.float32(0.3)).all()


K, T = random.key(0), torch.as_tensor(random.key(0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: random.uniform(K, (2,), "bfloat16"),
            "'bfloat16' is no floating-point dtype of NumPy",
        ),
        (
            lambda: random.normal(K, (2,), "bfloat16"),
            "'bfloat16' is no floating-point dtype of NumPy",
        ),
        (lambda: random.uniform(T, (2,), "int32"), "'int32' is no floating-point dtype of torch"),
        (
            lambda: random.uniform(T, (2,), "float16", low=0, high=7e4),
            "more than torch.float16 holds",
        ),
        (lambda: random.uniform(T, (2,), "sum"), "'sum' is no floating-point dtype of torch"),
        (lambda: random.uniform(T, (2,), torch.int32), "torch.int32 is no floating-point dtype"),
        (lambda: random.uniform(T, (2,), object()), "is no floating-point dtype of torch"),
        (lambda: random.normal(T, (2,), None), "None is no floating-point dtype of torch"),
        (lambda: random.uniform(K, 3), "uniform: shape is 3"),
        (lambda: random.normal(K, (-1,)), r"normal: shape is \(-1,\)"),
        (lambda: random.bernoulli(K, 0.5, "ab"), "bernoulli: shape is 'ab'"),
        (lambda: random.uniform(K, (2,), low=1.0, high=0.0), "uniform: low 1.0 is over high 0.0"),
        (lambda: random.uniform(K, (2,), low=math.nan), "uniform: low: nan"),
        (lambda: random.uniform(K, (2,), high="1"), "uniform: high: '1'"),
        (lambda: random.truncated_normal(K, (2,), low=math.nan), "truncated_normal: low: nan"),
        (lambda: random.bernoulli(K, 1.5), "bernoulli: p: 1.5 is not from 0 to 1"),
        (lambda: random.bernoulli(K, math.nan), "bernoulli: p: nan"),
        (lambda: random.bernoulli(K, None), "bernoulli: p: None"),
        (lambda: random.randint(K, (2,), 0, 2.5), "randint: high is 2.5, needs an integer"),
        (lambda: random.randint(K, (2,), None, 2), "randint: low is None, needs an integer"),
        (lambda: random.permutation(K, -1), "permutation: n is -1"),
        (lambda: random.permutation(K, 2.0), "permutation: n is 2.0"),
        (lambda: random.bits(K, -1), "bits: -1"),
        (lambda: random.fold_in(K, "a"), "fold_in: 'a' is not an integer"),
        (lambda: random.fold_in(K, None), "fold_in: None is not an integer"),
        (lambda: random.fold_in(T, torch.tensor(1.5)), "fold_in: .*1.5.* is not an integer"),
        (lambda: random.fold_in(T, torch.tensor([1, 2])), r"fold_in: .* is not an integer"),
        (lambda: random.fold_in(K, np.int64(-1)), "fold_in: -1 is not between 0 and"),
        (lambda: random.fold_in(T, np.int64(2**32)), "fold_in: 4294967296 is not between 0 and"),
        (lambda: random.uniform(K, low=np.array(2.0), high=np.array([1.0])), "2.0 is over high 1"),
        (lambda: random.uniform(T, low=-3e38, high=3e38), "uniform: .* more than .* apart"),
        (lambda: random.uniform(K, dtype="float64", low=-1e308, high=1e308), "more than .* apart"),
    ],
)
def test_draw_that_means_nothing_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


NETS = {np.ndarray: numpy_nets, torch.Tensor: torch_nets}
USES_OF_A_KEY = {
    "split": random.split,
    "fold_in": lambda key: random.fold_in(key, 1),
    "uniform": lambda key: random.uniform(key, (2,)),
    "normal": lambda key: random.normal(key, (2,)),
    "bits": lambda key: random.bits(key, 3),
    "words": lambda key: random.words(key, 0, 3),
    "init": lambda key: (
        (torch_nets if torch.is_tensor(key) else numpy_nets).MLP(2, [4], 2).init(key)
    ),
}


@pytest.mark.parametrize("use", USES_OF_A_KEY.values(), ids=USES_OF_A_KEY)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "uint64", "float64"])
def test_words_of_another_dtype_are_no_key(use, dtype):
    """Products of 64 bits wrap in them: uint32, which JAX's keys have, drew equal numbers."""
    for words in (np.array([0, 42], dtype), torch.tensor([0, 42]).to(getattr(torch, dtype))):
        with pytest.raises(UserError, match=rf"key: {dtype} of shape \(2,\), needs int64"):
            use(words)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (1,), (1000,)])
def test_a_probability_means_the_same_in_every_dtype(dtype, shape):
    p = np.full(shape, 0.25, dtype)
    expected = random.bernoulli(K, 0.25, (1000,))
    np.testing.assert_array_equal(random.bernoulli(K, p, (1000,)), expected)
    np.testing.assert_array_equal(random.bernoulli(T, torch.tensor(p), (1000,)), expected)
    halves = torch.tensor(p).bfloat16()
    np.testing.assert_array_equal(random.bernoulli(T, halves, (1000,)), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float32, np.float64])
def test_bounds_mean_the_same_in_every_dtype(dtype):
    expected = random.uniform(K, (9,), low=-100, high=100)
    low, high = dtype(-100), dtype(100)
    np.testing.assert_array_equal(random.uniform(K, (9,), low=low, high=high), expected)
    bounds = {"low": torch.tensor(low), "high": torch.tensor(high)}
    np.testing.assert_allclose(random.uniform(T, (9,), **bounds), expected, rtol=1e-6)
    if dtype is np.int8:
        expected = random.randint(K, (9,), -100, 100)
        np.testing.assert_array_equal(random.randint(K, (9,), low, high), expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_a_number_of_any_integer_dtype_is_folded_in(dtype):
    expected = random.fold_in(K, 3)
    for key in (K, T):
        for number in (dtype(3), np.array([3], dtype)):
            np.testing.assert_array_equal(random.fold_in(key, number), expected)
    if dtype is not np.uint64:
        np.testing.assert_array_equal(random.fold_in(T, torch.tensor(dtype(3))), expected)


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_dtype_may_be_that_of_either_library(name):
    for dtype in (getattr(torch, name), getattr(np, name), np.dtype(name)):
        assert random.uniform(T, (2,), dtype).dtype == getattr(torch, name)
        assert random.normal(random.key(0), (2,), dtype).dtype == name
    assert random.uniform(T, (2,), torch.bfloat16).dtype == torch.bfloat16


BESIDE_A_TENSOR = {
    "fold_in": lambda key, t: random.normal(random.fold_in(key, t), (2,)),
    "fold_in beside others": lambda key, t: random.fold_in(random.fold_in(key, 3), t),
    "fold_in of a hashed key": lambda key, t: random.fold_in(
        random.fold_in(random.fold_in(key, 3), 4), t
    ),
    "uniform": lambda key, t: random.uniform(key, (2,), high=t + 1.0),
    "bernoulli": lambda key, t: random.bernoulli(key, t / 8, (50,)),
}


@pytest.mark.parametrize("name", BESIDE_A_TENSOR)
def test_a_numpy_key_beside_a_tensor_draws_what_the_torch_key_draws(name):
    f, key, numbers = BESIDE_A_TENSOR[name], random.key(5), torch.arange(1, 4)
    expected = torch.stack([f(torch.as_tensor(key), t) for t in numbers])
    assert torch.equal(torch.stack([f(key, t) for t in numbers]), expected)
    assert torch.equal(torch.func.vmap(lambda t: f(key, t))(numbers), expected)


def test_a_numpy_key_is_folded_under_jit_without_a_warning():
    f = lambda step: random.normal(random.fold_in(random.key(5), step), (2,))
    assert torch.equal(jit(f)(torch.tensor(2)), f(torch.tensor(2)))


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_bernoulli_takes_a_probability_for_each_element(convert):
    p, key = np.array([0.0, 0.3, 1.0]), convert(random.key(3))
    drawn = random.bernoulli(key, convert(p), (500, 3))
    for i, number in enumerate(p):
        alone = random.bernoulli(key, float(number), (500, 3))  # the bits of one number
        assert (drawn[:, i] == alone[:, i]).all()
    assert not drawn[:, 0].any() and drawn[:, 2].all() and 100 < int(drawn[:, 1].sum()) < 200
    assert random.bernoulli(key, convert(p[1:2]), ()).shape == ()


def test_bernoulli_names_probabilities_that_do_not_fit():
    for wrong in ((), (2,), (2, 3, 1)):
        with pytest.raises(UserError, match=r"bernoulli: p is float64 of shape \(3,\), does not"):
            random.bernoulli(K, np.array([0.0, 0.3, 1.0]), wrong)
    with pytest.raises(UserError, match=r"bernoulli: p is .*, needs an array"):
        random.bernoulli(K, np.array(["a", "b"]), (2,))


def test_integers_of_64_bits_at_most():
    end = random.randint(random.key(0), (8,), 2**63 - 2, 2**63)
    assert set(end.tolist()) == {2**63 - 2, 2**63 - 1}
    for low, high in ((2**63 - 2, 2**63 + 1), (2**64, 2**64 + 2), (-(2**63) - 1, -(2**63) + 1)):
        with pytest.raises(UserError, match="integers of 64 bits"):
            random.randint(random.key(0), (8,), low, high)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint64"])
def test_sizes_may_be_small_integers_of_numpy(dtype):
    n = np.dtype(dtype).type(100)
    assert random.normal(random.key(0), (n, 64)).shape == (100, 64)
    assert (
        random.uniform(random.key(0), (n, n)) == random.uniform(random.key(0), (100, 100))
    ).all()
    assert (random.permutation(random.key(0), n) == random.permutation(random.key(0), 100)).all()
