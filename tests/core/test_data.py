import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, data, random
from purenets.core.runs.notes import RunWarning

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
    batch_at = data.batches((x, x), batch_size, random.key(seed), repeat=True)
    steps = -(-3 * n // batch_size)
    stream = np.concatenate([batch_at(step)[0] for step in range(steps)])
    assert len(stream) == steps * batch_size
    for epoch in range(3):
        assert np.array_equal(np.sort(stream[epoch * n : (epoch + 1) * n]), x)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize("batch_size", [0, 1, 7, 20])
def test_every_input_keeps_its_target(convert, batch_size):
    x = np.random.default_rng(0).normal(size=(20, 3))
    y = np.arange(20)
    batch_at = data.batches((convert(x), convert(y)), batch_size, KEY)
    for step in range(12):  # within an epoch, and across two
        inputs, targets = map(np.asarray, batch_at(step))
        assert np.array_equal(inputs, x[targets])


def test_every_epoch_has_an_order_of_its_own():
    x = np.arange(97)
    batch_at = data.batches((x, x), 97, KEY)
    orders = [batch_at(epoch)[0] for epoch in range(5)]
    for epoch, order in enumerate(orders):
        assert np.array_equal(order, random.permutation(random.fold_in(KEY, epoch), 97))
    assert len({tuple(order) for order in orders}) == 5


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


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_step_may_be_an_integer_of_numpy(dtype):
    x = np.arange(300)
    batch_at = data.batches((x, x), 200, KEY)
    for step in (1, 100):
        found = batch_at(np.dtype(dtype).type(step))
        assert np.array_equal(found[0], batch_at(step)[0])


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
        (
            np.array([[0.0], [np.nan]]),
            np.array([0, 1]),
            "input 1 has a value that is not finite: nan",
        ),
        (
            np.array([[np.inf], [0.0]]),
            np.array([0, 1]),
            "input 0 has a value that is not finite: inf",
        ),
        (np.zeros((2, 1)), np.array([0.0, 1.0]), "targets must be integers"),
        (np.zeros((2, 1)), np.array([0]), "2 inputs and 1 targets"),
        (np.zeros((0, 1)), np.zeros(0, int), "0 inputs"),
    ],
)
def test_wrong_data_are_named(x, y, message):
    with pytest.raises(UserError, match=message):
        data.check((x, y), 2)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([0, 1, 1_000_000], "no example has target 2, but one has 1000000"),
        ([1, 2, 3], "no example has target 0"),
        ([0, 2], "no example has target 1"),
    ],
)
def test_a_gap_in_the_classes_is_refused(classes, message):
    batch = np.arange(60.0).reshape(30, 2), np.resize(classes, 30)
    with pytest.raises(UserError, match=message):
        data.check(batch)
    with pytest.raises(UserError, match=message):
        data.prepare(batch, KEY, 0.2, "float32")


def test_a_class_without_examples_is_there_if_that_is_said():
    batch = np.arange(60.0).reshape(30, 2), np.resize([0, 2], 30)
    assert data.prepare(batch, KEY, 0.2, "float32", n_classes=4).n_classes == 4
    with pytest.raises(UserError, match="target 2 is none of the classes 0 to 1"):
        data.prepare(batch, KEY, 0.2, "float32", n_classes=2)


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "float128", ">f4", "f", None])
def test_inputs_are_standardized_into_dtypes_of_both_backends(dtype, tmp_path):
    path = tmp_path / "set.csv"
    path.write_text("1.5,0\n2.5,1\n3.5,0\n4.5,1\n0.5,0\n")
    calls = (
        lambda: data.load("moons", KEY, dtype=dtype),
        lambda: data.from_csv(path, KEY, dtype=dtype),
        lambda: data.prepare((np.ones((4, 2)), np.arange(4) % 2), KEY, 0.5, dtype),
    )
    for call in calls:
        if dtype == "f":
            assert call().train[0].dtype == np.float32
            continue
        with pytest.raises(UserError, match="standardized inputs; needs float16, float32 or float"):
            call()


MASKED = np.ma.masked_equal(np.array([[-999.0, 1], [2, 3], [4, 5], [6, 7]]), -999.0)
Y = np.arange(4) % 2


@pytest.mark.parametrize("x", [MASKED, MASKED.data.view(np.matrix)], ids=["mask", "matrix"])
@pytest.mark.parametrize(
    "take",
    [
        lambda x: data.prepare((x, Y), KEY, 0.5),
        lambda x: data.prepare((MASKED.data, Y), test=(x, Y)),
        lambda x: data.prepare((x, ["cat", "dog"] * 2), KEY, 0.5),
        lambda x: data.prepare((MASKED.data, Y), KEY, 0.5).standardize(x),
        lambda x: data.standardize(x),
        lambda x: data.standardize(MASKED.data, x),
        lambda x: data.batches((x, Y), 2, KEY),
        lambda x: data.batches(({"a": x}, Y)),
        lambda x: data.batches((MASKED.data, x)),
        lambda x: data.check((x, Y)),
        lambda x: data.split((x, Y), KEY, 0.5),
    ],
)
def test_mask_that_would_be_ignored_is_refused(take, x):
    with pytest.raises(UserError, match=r"a masked array, whose mask|an np.matrix, needs"):
        take(x)


@pytest.mark.parametrize("y", [Y, np.array(["cat", "dog"] * 2)], ids=["numbers", "names"])
def test_mask_of_the_targets_is_refused(y):
    with pytest.raises(UserError, match="data: targets: a masked array, whose mask"):
        data.prepare((MASKED.data, np.ma.masked_equal(y, y[0])), KEY, 0.5)


# --- new examples, test sets and labels of one's own ----------------------------------------------

RAW = random.normal(random.key(2), (60, 3), "float64") * [1, 10, 1e-5] + [0, 5, 1e4]
NUMBERS = np.arange(60) % 3
NAMES = np.array(["dog", "ape", "cat"])[NUMBERS]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["float16", "float32", "float64", "int64"])
def test_new_examples_are_standardized_as_the_test_part_was(dtype, given):
    raw = (RAW * (1 if given == "float16" else 100)).astype(given)
    task = data.prepare((raw, NUMBERS), KEY, 0.25, dtype)
    train, test = data.split((raw, NUMBERS), KEY, 0.25)
    for (x, _), part in ((train, task.train), (test, task.test)):
        assert task.standardize(x).dtype == part[0].dtype
        assert np.array_equal(task.standardize(x), part[0])
        found = task.standardize(torch.tensor(x))
        assert isinstance(found, torch.Tensor)
        assert np.array_equal(found.numpy(), part[0])
    assert np.allclose(task.mean, train[0].mean(axis=0, dtype="float64"))
    assert np.allclose(task.std[:2], train[0].std(axis=0, dtype="float64")[:2], rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("given", ["float16", "float32"])
def test_inputs_are_rounded_once_to_the_dtype_that_was_asked_for(dtype, given):
    raw = RAW.astype(given)
    right = data.standardize(raw.astype("float64"))[0].astype(dtype)
    task = data.prepare((raw, NUMBERS), None, None, dtype, test=(raw, NUMBERS))
    assert np.array_equal(task.train[0][:, :2], right[:, :2])
    assert np.array_equal(task.test[0], task.train[0])
    assert np.array_equal(task.standardize(torch.tensor(raw)).numpy(), task.train[0])


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_inputs_that_a_dtype_cannot_hold_are_named(convert):
    x = np.array([[1.0, 2.0], [3.0, 2.5]], "float16")
    far = convert(np.array([[0, 6e4]], "float16"))
    with pytest.raises(UserError, match=r"feature 1 are too far apart .* in float16"):
        data.standardize(convert(x), far)
    task = data.prepare((x, np.array([0, 1])), None, None, "float16", test=(x, np.array([0, 1])))
    with pytest.raises(UserError, match=r"feature 1 are too far apart .* in float16"):
        task.standardize(far)


def test_a_task_is_a_tuple_of_four_that_knows_its_scaling():
    task = data.load("iris", KEY)
    train, test, n_features, n_classes = task
    assert (n_features, n_classes, task.classes) == (4, 3, (0, 1, 2))
    for same in (task._replace(test=train), pickle.loads(pickle.dumps(task)), copy.copy(task)):
        assert type(same) is data.Dataset
        assert np.array_equal(same.mean, task.mean)
        assert same.classes == task.classes
    assert task._replace(test=train).test is train
    by_hand = data.Dataset(train, test, 4, 3)
    assert by_hand.classes == (0, 1, 2)
    with pytest.raises(UserError, match="made by hand, it knows no mean"):
        by_hand.standardize(train[0])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (RAW[:, :2], r"float64 of shape \(60, 2\), needs real numbers \(n, features\)"),
        (RAW[0], r"of shape \(3,\), needs real numbers \(n, features\)"),
        (RAW.tolist(), "a list, needs an array"),
        (RAW * np.nan, "a value of example 0 is not finite"),
    ],
)
def test_new_examples_that_do_not_fit_are_named(x, message):
    with pytest.raises(UserError, match=message):
        data.prepare((RAW, NUMBERS), KEY, 0.25).standardize(x)


@pytest.mark.parametrize("convert", [np.asarray, list, lambda y: y.astype(object)])
def test_names_of_classes_are_numbered(convert):
    task = data.prepare((RAW, convert(NAMES)), KEY, 0.25)
    right = data.prepare((RAW, np.array([2, 0, 1])[NUMBERS]), KEY, 0.25)
    assert task.classes == ("ape", "cat", "dog")
    assert np.array_equal(task.train[1], right.train[1])
    assert np.array_equal(task.test[0], right.test[0])


def test_listed_labels_are_numbered_in_their_order():
    task = data.prepare((RAW, NAMES), KEY, 0.25, classes=["dog", "ape", "cat", "bee"])
    assert (task.n_classes, task.classes[0]) == (4, "dog")
    assert np.array_equal(task.train[1], data.prepare((RAW, NUMBERS), KEY, 0.25).train[1])
    signs = data.prepare((RAW, np.where(NUMBERS, 1, -1)), KEY, 0.25, classes=[-1, 1])
    assert np.array_equal(signs.train[1], (task.train[1] > 0).astype(int))


def test_a_set_may_have_a_test_set_of_its_own():
    task = data.prepare((RAW, NAMES), test=(RAW[:6] + 1, np.array(["ape", "cat"] * 3)))
    train, test = data.standardize(RAW, RAW[:6] + 1)
    assert np.array_equal(task.train[0], train.astype("float32"))
    assert np.array_equal(task.test[0], test.astype("float32"))
    assert task.test[1].tolist() == [0, 1] * 3
    assert task.classes == ("ape", "cat", "dog")


def test_a_class_of_the_test_part_alone_is_warned_of():
    y = NUMBERS.copy()
    y[data.split((np.arange(60), y), KEY, 0.25)[1][0][0]] = 3
    with pytest.warns(RunWarning, match=r"1 of 4 classes have no example in the training part \(3"):
        data.prepare((RAW, y), KEY, 0.25)
    with pytest.warns(RunWarning, match=r"no example in the training part \(bee\)"):
        data.prepare((RAW, NAMES), test=(RAW[:1], ["bee"]))
    assert data.prepare((RAW, y), KEY, 0.25, n_classes=4).n_classes == 4  # without a warning


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": KEY}, "needs test_fraction, such as 0.2, or a set as test"),
        ({"test_fraction": 0.2}, "a split needs a key"),
        ({"test": (RAW, NUMBERS), "test_fraction": 0.2}, "test and test_fraction are given"),
        ({"test": (RAW[:, :2], NUMBERS)}, "needs as many features as data"),
        ({"test": (RAW, NAMES)}, "targets are names in one of data and test"),
        ({"test": RAW}, "test: needs a pair"),
        ({"test": (RAW * np.nan, NUMBERS)}, "test: input 0 has a value that is not finite"),
        ({"test": (RAW, NUMBERS + 5)}, "data: no example has target 3"),
        ({"test": (RAW, NUMBERS + 5), "n_classes": 3}, "test: target 7 is none|test: target 5 is"),
        (
            {"test": (RAW, NUMBERS), "classes": [1, 2, 0.5]},
            "classes is .*needs a list of the label",
        ),
        ({"test": (RAW, NUMBERS), "classes": [1, 2]}, r"target 0: 0 is none of the classes \[1, 2"),
        ({"test": (RAW, NUMBERS), "classes": [0, 1, 2], "n_classes": 4}, "n_classes is 4, but"),
    ],
)
def test_what_makes_no_task_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        data.prepare((RAW, NUMBERS), **arguments)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["a", None] * 30, object), "target 1 is None, needs the name of a class"),
        (np.array(["a", 2.5] * 30, object), "target 1 is 2.5, needs the name of a class"),
        (["a", ""] * 30, "target 1 is '', needs the name of a class"),
        (["a", "b"] * 20, "60 inputs and 40 targets"),
    ],
)
def test_what_is_no_name_of_a_class_is_named(names, message):
    with pytest.raises(UserError, match=message):
        data.prepare((RAW, names), KEY, 0.25)


# --- batches --------------------------------------------------------------------------------------

X = random.normal(random.key(1), (6, 4))
TARGETS = {
    "classes": np.arange(6) % 3,
    "one-hot": np.eye(3, dtype=np.int64)[np.arange(6) % 3],
    "booleans": np.eye(3, dtype=bool)[np.arange(6) % 3],
    "soft labels": np.full((6, 3), 1 / 3, np.float32),
    "regression": X[:, 0],
    "regression of columns": X[:, :1],
    "regression of negative numbers": np.full(6, -100.0),
    "each position of a sequence": np.arange(30).reshape(6, 5),
}


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("kind", TARGETS)
def test_batches_take_every_target_that_a_loss_may_mean(kind, convert):
    y = convert(TARGETS[kind])
    rows, targets = data.batches((convert(np.arange(6)), y), 4, KEY)(0)
    assert targets.dtype == y.dtype
    assert np.array_equal(targets, y[rows])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_batches_of_tensors_keep_their_dtype(dtype):
    x, _ = data.batches((torch.tensor(X).to(dtype), torch.zeros(6).long()), 3, KEY)(0)
    assert x.dtype == dtype
    assert x.shape == (3, 4)


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_inputs_of_several_arrays_come_in_the_same_rows(convert):
    rows = convert(np.arange(6))
    x = {"a": rows, "b": (rows * 10, convert(X))}
    found, y = data.batches((x, rows), 4, KEY)(1)
    assert np.array_equal(found["a"], y)
    assert np.array_equal(found["b"][0], y * 10)
    assert np.array_equal(found["b"][1], X[np.asarray(y)])
    assert data.batches((x, rows))(3)[0] is x


FLAWS = {
    "a column": ((X, TARGETS["classes"][:, None]), r"column of integers \(6, 1\)"),
    "a column of booleans": ((X, X[:, :1] > 0), r"column of integers \(6, 1\)"),
    "minus 1": ((X, np.array([0, 1, 2, -1, 0, 1])), "target -1 of example 3 is no class"),
    "minus 100 in a sequence": ((X, np.full((6, 5), -100)), "target -100 of example 0 is no class"),
    "fewer targets": ((X, np.arange(5)), "6 inputs and 5 targets"),
    "fewer inputs of one": (((X, X[:5]), np.arange(6)), "5 inputs and 6 targets"),
    "nan": ((X * np.nan, np.arange(6)), "input 0 has a value that is not finite: nan"),
    "nan in a target": ((X, X[:, 0] * np.inf), "target 0 has a value that is not finite"),
    "words": ((X, np.array(list("abcdef"))), "targets are <U1 of shape"),
    "objects": ((X.astype(object), np.arange(6)), "inputs are object of shape"),
    "a number": ((X, np.array(1)), r"targets are int64 of shape \(\)"),
    "lists": ((X.tolist(), [0] * 6), "inputs must be an array, got list"),
    "three parts": ((X, X, X), "needs a pair"),
    "both libraries": (
        (torch.tensor(X), np.arange(6)),
        "inputs are a tensor on cpu, targets a NumPy array",
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
@pytest.mark.parametrize("batch_size", [0, 3])
def test_batches_name_what_is_wrong(flaw, batch_size):
    batch, message = FLAWS[flaw]
    with pytest.raises(UserError, match=message):
        data.batches(batch, batch_size, KEY)


def test_a_batch_is_never_larger_than_its_set_unless_that_is_said():
    small = np.zeros((800, 2), np.float32), np.zeros(800, np.int64)
    with pytest.raises(
        UserError, match="batch_size: 5000 is more than the 800 examples; 0 is full-batch"
    ):
        data.batches(small, 5000, KEY)
    assert len(data.batches(small, 5000, KEY, repeat=True)(0)[1]) == 5000
    assert len(data.batches(small, 800, KEY)(0)[1]) == 800


# --- standardization ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.1, 14.62, 1 / 3, 100.0, 1e-300, 5e-324, 1e300, -1e9 / 3, 0.0])
@pytest.mark.parametrize("n", [1, 7, 1000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_constant_feature_becomes_0(value, n, dtype):
    with np.errstate(over="ignore"):
        column = np.full((n, 1), value).astype(dtype)
    if np.isfinite(column).all():
        (train,) = data.standardize(column)
        assert train.dtype == column.dtype
        assert np.array_equal(train, np.zeros((n, 1)))


@pytest.mark.parametrize("value", [0.1, 14.62, 1 / 3, 100.0])
def test_value_that_training_never_saw_stays_small(value):
    _, test = data.standardize(np.full((1000, 1), value), np.array([[value], [value + 1]]))
    assert np.allclose(test.ravel(), [0, 1], atol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_feature_that_varies_by_rounding_only_is_constant(dtype):
    column = np.full((1000, 1), 14.62, dtype)
    column[::3] = np.nextafter(column[0], np.inf, dtype=dtype)
    two = np.concatenate([np.arange(1000.0, dtype=dtype)[:, None], column], axis=1)
    with pytest.warns(RunWarning, match=rf"1 features, the first is 1, vary .* of {dtype} and bec"):
        train, test = data.standardize(two, two + 1)
    assert np.array_equal(train[:, 1], np.zeros(1000))
    assert np.allclose(test[:, 1], 1, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "unit", "dtype"),
    [
        (2000, 1, "float16"),
        (1000, 0.5, "float16"),
        (1.9, 2**-23, "float32"),
        (1.9, 2**-52, "float64"),
    ],
)
@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
@pytest.mark.filterwarnings("error")
def test_feature_that_varies_by_more_units_in_the_last_place_is_kept(first, unit, dtype, convert):
    """Of 5 to 7 units, wherever the largest value lies between two powers of two."""
    for units in (5, 7):
        x = (np.dtype(dtype).type(first) + unit * np.arange(units + 1)).astype(dtype)[:, None]
        (z,) = data.standardize(convert(x))
        steps = np.arange(units + 1.0)
        expected = (steps - steps.mean()) / steps.std()
        assert np.allclose(np.asarray(z)[:, 0], expected, atol=2e-3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shift", [0.0, -3.0, 1e4, 1e6, 1e12])
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-44, 1e-170, 1e-310, 1e30, 1e160, 1e300])
def test_any_offset_and_scale_is_standardized(dtype, shift, scale):
    draws = random.normal(random.key(4), (3000, 1), "float64")
    with np.errstate(over="ignore"):
        x = ((draws + shift) * scale).astype(dtype)
    if not np.isfinite(x).all() or len(np.unique(x)) < 100:
        pytest.skip("beyond the dtype")
    (z,) = data.standardize(x)
    assert abs(z.mean(dtype="float64")) < 1e-6
    assert abs(z.std(dtype="float64") - 1) < 1e-6
    if len(np.unique(x)) == len(x):
        assert np.corrcoef(z.ravel(), draws.ravel())[0, 1] > 0.99


def test_huge_offset_of_many_rows_leaves_mean_0():
    x = 1e9 + random.normal(random.key(5), (200_000, 1), "float64") * 1e-3
    (z,) = data.standardize(x)
    assert abs(z.mean()) < 1e-9
    assert abs(z.std() - 1) < 1e-9


def test_ordinary_features_are_standardized_by_the_plain_formula():
    x = random.normal(random.key(6), (100, 3), "float64") * [1, 10, 1e-5] + [0, 5, 1e-4]
    for wild in (np.full((100, 1), 14.62), 1e12 + x[:, :1]):
        (z,) = data.standardize(np.concatenate([x, wild], axis=1))
        assert np.array_equal(z[:, :3], (x - x.mean(axis=0)) / x.std(axis=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_tensors_are_standardized_as_arrays_are(dtype):
    x = torch.tensor(X).to(dtype)
    z, constant = data.standardize(x, x[:1])
    right, _ = data.standardize(x.double().numpy(), x[:1].double().numpy())
    assert z.dtype == constant.dtype == dtype
    assert torch.equal(z, torch.tensor(right).to(dtype))


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_integers_are_standardized_as_their_numbers(dtype):
    x = (X > 0).astype(dtype) * (1 if dtype == "bool" else 100)
    (z,) = data.standardize(x)
    assert np.array_equal(z, data.standardize(x.astype(float))[0])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((X[:0],), "no examples in train"),
        ((X, X[:, :1]), r"float32 of shape \(6, 1\), needs real numbers"),
        ((X * np.nan,), "a value of example 0 is not finite"),
        ((X, X * np.inf), "a value of example 0 is not finite"),
        ((X.astype(complex),), "complex128"),
        ((X.astype(str),), "needs real numbers"),
    ],
)
def test_what_cannot_be_standardized_is_named(arrays, message):
    with pytest.raises(UserError, match=message):
        data.standardize(*arrays)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: data.load("moon", KEY), "unknown 'moon', choose from moons"),
        (lambda: data.load("digits", KEY, noise=0.1), "takes no noise"),
        (lambda: data.load("moons", KEY, n=0), "n: 0 examples make no set"),
        (lambda: data.load("spirals", KEY, n=-5), "n: -5 examples make no set"),
        (lambda: data.load("moons", KEY, n=9.5), "n: 9.5 examples make no set"),
        (lambda: data.load("moons", KEY, noise=-1.0), "noise: -1.0 is no deviation"),
        (lambda: data.load("spirals", KEY, noise=float("nan")), "noise: nan is no deviation"),
        (
            lambda: data.load("moons", KEY, n=2, test_fraction=0.1),
            "test_fraction: 0.1, needs a number",
        ),
        (lambda: data.batches((np.zeros(3), np.zeros(3, int)), 2), "needs a key"),
        (lambda: data.batches((np.zeros(0), np.zeros(0, int)), 2, KEY), "at least one"),
        (lambda: data.batches((np.zeros(3), np.zeros(3, int)), -2, KEY), "is negative"),
        (lambda: data.batches((np.zeros(3), np.zeros(3, int)), 2.5, KEY), "2.5 is no integer"),
        (lambda: data.batches((np.zeros(3), np.zeros(3, int)), 2, 7), "7 is no key"),
        (lambda: data.steps_per_epoch((np.zeros(3), np.zeros(3, int)), -2), "is negative"),
        (lambda: data.split((np.zeros(3), np.zeros(4)), KEY, 0.5), "3 inputs and 4 targets"),
        (lambda: data.batches((np.zeros(2), np.array([-1, 0])), 2, KEY), "target -1"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


# --- hints ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (NAMES[:, None], {}),
        (NAMES[:, None].astype(object), {}),
        (NUMBERS[:, None], {"classes": [0, 1, 2]}),
        (NUMBERS[:, None], {"n_classes": 3}),
        (NUMBERS[:, None] + 0.5, {}),
    ],
)
def test_targets_in_a_column_are_told_how_to_be_passed(targets, options):
    with pytest.raises(UserError, match=r"^data: targets .*targets\[:, 0\]"):
        data.prepare((RAW, targets), KEY, 0.25, **options)
    assert data.prepare((RAW, NAMES[:, None][:, 0]), KEY, 0.25).n_classes == 3


def test_names_of_more_columns_have_no_such_hint():
    with pytest.raises(UserError, match=r"names of shape \(60, 2\), needs names \(n,\)$"):
        data.prepare((RAW, np.stack([NAMES, NAMES], axis=1)), KEY, 0.25)


def test_one_row_is_told_how_to_be_standardized():
    task = data.prepare((RAW, NUMBERS), KEY, 0.25)
    row = RAW[0]
    for one in (row, torch.tensor(row)):
        with pytest.raises(UserError, match=r"with the features of train .*: pass row\[None\] for"):
            task.standardize(one)
    assert np.array_equal(task.standardize(row[None]), task.standardize(RAW)[:1])
    with pytest.raises(UserError, match=r"features of train \(n, \d\)$"):
        task.standardize(row[:-1])
    with pytest.raises(
        UserError, match=r"^standardize: a list, needs an array .*: np\.array\(x\)$"
    ):
        task.standardize([list(row)])


def test_split_by_a_fraction_in_half_precision():
    x = np.arange(100_000)
    (train, _), (test, _) = data.split((x, x), random.key(0), np.float16(0.5))
    assert (len(train), len(test)) == (50_000, 50_000)


class Table:
    """What a table of pandas and a sparse matrix have: a shape, and a function to an array."""

    def __init__(self, array, convert):
        self.array, self.dtype, self.shape, self.ndim = array, array.dtype, array.shape, array.ndim
        setattr(self, convert, lambda: array)

    def __len__(self):
        return len(self.array)

    def __array__(self, dtype=None, copy=None):
        return self.array

    def __getitem__(self, rows):  # by label, not by place
        return self.array[::-1][rows]


@pytest.mark.parametrize("convert", ["to_numpy", "toarray"])
@pytest.mark.parametrize("place", [0, 1])
def test_tables_are_refused_wherever_data_enter(place, convert):
    """`part[rows]` of a Series goes by its index: inputs would get the targets of other rows."""
    x, y = np.arange(12.0).reshape(6, 2), np.array([0, 1, 0, 1, 0, 1])
    pair = [x, y]
    pair[place] = Table(pair[place], convert)
    batch, key = tuple(pair), random.key(0)
    doors = [
        lambda: data.split(batch, key, 0.3),
        lambda: data.prepare(batch, key, 0.3),
        lambda: data.prepare((x, y), test=batch),
        lambda: data.batches(batch, 2, key),
        lambda: data.check(batch, 2),
    ]
    if place == 0:
        doors.append(lambda: data.standardize(batch[0], batch[0]))
    for door in doors:
        with pytest.raises(UserError, match=rf"a Table, needs an array, as its {convert}\(\)"):
            door()


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_large_integers_that_are_rounded_are_told(array):
    x = array((2**62 + np.arange(100))[:, None])
    with pytest.warns(RunWarning, match=r"integers above 2\*\*53 are rounded"):
        data.standardize(x)
    (small,) = data.standardize(x - x[0])
    assert abs(float(small.std()) - 1) < 0.01
