import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, data, random

KEY = random.key(0)


@pytest.mark.parametrize("name", data.DATASETS)
def test_sets_are_split_and_standardized_on_train(name):
    task = data.load(name, KEY, n=300)
    (x, y), (test_x, test_y) = task.train, task.test
    assert x.dtype == np.float32
    assert y.dtype.kind == "i"
    assert abs(len(test_y) / (len(y) + len(test_y)) - 0.2) < 0.01
    assert set(np.unique(y)) == set(range(task.n_classes))
    assert np.abs(x.mean(axis=0)).max() < 1e-5
    varies = x.std(axis=0) > 0
    assert np.allclose(x.std(axis=0)[varies], 1, atol=1e-4)
    assert np.abs(test_x.mean(axis=0)).max() > 1e-4  # the test set is not standardized on itself


def test_same_key_same_data_other_key_other_data():
    one, again, other = (data.load("moons", key).train[0] for key in (KEY, KEY, random.key(1)))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_split_is_a_partition():
    x = np.arange(100)
    (a, _), (b, _) = data.split((x, x), KEY, 0.3)
    assert len(b) == 30
    assert np.array_equal(np.sort(np.concatenate([a, b])), x)


def test_constant_features_stay_finite():
    (x,) = data.standardize(np.ones((5, 2)))
    assert np.array_equal(x, np.zeros((5, 2)))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 50))
def test_batches_are_full_and_hold_each_example_once_a_pass(n, batch_size, seed):
    x = np.arange(n)
    batch_at = data.batches((x, x), batch_size, random.key(seed))
    steps = -(-3 * n // batch_size)
    stream = np.concatenate([batch_at(step)[0] for step in range(steps)])
    assert len(stream) == steps * batch_size
    for epoch in range(3):
        assert np.array_equal(np.sort(stream[epoch * n : (epoch + 1) * n]), x)


def test_a_batch_depends_on_key_and_step_alone():
    x = np.arange(97)
    forward, backward = (data.batches((x, x), 8, KEY) for _ in range(2))
    ahead = [forward(step)[0] for step in range(40)]
    for step in reversed(range(40)):
        assert np.array_equal(backward(step)[0], ahead[step])
    assert not np.array_equal(ahead[0], data.batches((x, x), 8, random.key(1))(0)[0])


def test_tensors_come_in_the_same_order():
    x = np.arange(50)
    for step in (0, 5, 6, 7):
        a = data.batches((x, x), 8, KEY)(step)[0]
        b = data.batches((torch.tensor(x), torch.tensor(x)), 8, torch.as_tensor(KEY))(step)[0]
        assert np.array_equal(a, b.numpy())


def test_full_batch_is_the_data():
    batch = (np.zeros((3, 2)), np.zeros(3, int))
    assert data.batches(batch)(7) is batch
    assert data.steps_per_epoch(batch, 0) == 1
    assert data.steps_per_epoch(batch, 2) == 1.5


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((2, 1)), np.array([0, 3]), "target 3 is none of the classes 0 to 1"),
        (np.zeros((2, 1)), np.array([0, -1]), "target -1"),
        (np.array([[0.0], [np.nan]]), np.array([0, 1]), "input 1 has a value that is not finite: nan"),
        (np.array([[np.inf], [0.0]]), np.array([0, 1]), "input 0 has a value that is not finite: inf"),
        (np.zeros((2, 1)), np.array([0.0, 1.0]), "targets must be integers"),
        (np.zeros((2, 1)), np.array([0]), "2 inputs and 1 targets"),
        (np.zeros((0, 1)), np.zeros(0, int), "0 inputs"),
    ],
)
def test_wrong_data_are_named(x, y, message):
    with pytest.raises(UserError, match=message):
        data.check((x, y), 2)


def test_csv_is_read(tmp_path):
    path = tmp_path / "points.csv"
    rows = [f"{i / 7},{-i},{i % 3}" for i in range(30)]
    path.write_text("\n".join(["a,b,class", *rows]))
    task = data.from_csv(path, KEY)
    assert (task.n_features, task.n_classes) == (2, 3)
    assert len(task.train[1]) == 24


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,0\n1,x,1\n", "row 2 is not 3 numbers: 1,x,1"),
        ("1,2,0\n1,1\n", "row 2 is not 3 numbers"),
        ("1,2,0.5\n1,2,1\n", "last column must be the class"),
        ("1,2,-1\n1,2,1\n", "last column must be the class"),
        ("1,nan,0\n1,2,1\n", "not finite"),
        ("1\n2\n", "row 1 is not 2 numbers"),
        ("", "at least two rows"),
        ("a,b,c\n", "at least two rows"),
    ],
)
def test_a_wrong_csv_is_named(tmp_path, text, message):
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        data.from_csv(path, KEY)
    with pytest.raises(UserError, match="cannot be read"):
        data.from_csv(tmp_path / "missing.csv", KEY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load("moon", KEY), "unknown 'moon', choose from moons"),
        (lambda: data.load("digits", KEY, noise=0.1), "takes no noise"),
        (lambda: data.load("moons", KEY, n=2, test_fraction=0.1), "leaves a part empty"),
        (lambda: data.batches((np.zeros(3), np.zeros(3, int)), 2), "needs a key"),
        (lambda: data.batches((np.zeros(0), np.zeros(0, int)), 2, KEY), "at least one"),
        (lambda: data.batches((np.zeros(3), np.zeros(3, int)), -2, KEY), "is negative"),
        (lambda: data.batches((np.zeros(2), np.array([-1, 0])), 2, KEY), "target -1"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
