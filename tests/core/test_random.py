import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from purenets import UserError, random

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
    key = random.key(7)
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
        (lambda k, s: random.truncated_normal(k, s, -1.0, 2.5), stats.truncnorm(-1.0, 2.5).cdf),
        (lambda k, s: random.uniform(k, s, "float64", -2, 6), stats.uniform(-2, 8).cdf),
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
    x = random.truncated_normal(random.key(0), (100_000,), -0.5, 3.0, "float64")
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
        (lambda: random.randint(random.key(0), (1,), 3, 3), "no integer between 3"),
        (lambda: random.truncated_normal(random.key(0), (1,), 2, 1), "not an interval"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
