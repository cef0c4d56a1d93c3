"""`scan`: the loop written out, with its arguments checked."""

from typing import NamedTuple

import numpy as np
import pytest

from purenets import UserError, data, init_state, make_step, numpy_nets, optim, random, scan, tree


class Pair(NamedTuple):
    sum: object
    rest: dict


def step(carry: Pair, x: dict):
    new = Pair(carry.sum + x["a"], {"last": x["b"], "none": None, "empty": {}})
    return new, (carry.sum, [2 * x["b"], None])


INIT = Pair(np.zeros(3), {"last": np.zeros((), np.int64), "none": None, "empty": {}})
XS = {"a": np.arange(12.0).reshape(4, 3), "b": np.arange(4)}


def by_hand(reverse: bool):
    carry, before, doubles = INIT, [], []
    for i in range(3, -1, -1) if reverse else range(4):
        carry, (sum, (double, _)) = step(carry, {"a": XS["a"][i], "b": XS["b"][i]})
        before.append(sum), doubles.append(double)
    order = slice(None, None, -1) if reverse else slice(None)
    return carry, np.stack(before)[order], np.stack(doubles)[order]


@pytest.mark.parametrize("reverse", [False, True])
def test_is_the_loop_written_out(reverse):
    carry, before, doubles = by_hand(reverse)
    found, (sums, rest) = scan(step, INIT, XS, reverse=reverse)
    assert isinstance(found, Pair)
    assert found.rest["none"] is None
    assert found.rest["empty"] == {}
    np.testing.assert_array_equal(found.sum, carry.sum)
    np.testing.assert_array_equal(found.rest["last"], carry.rest["last"])
    np.testing.assert_array_equal(sums, before)
    np.testing.assert_array_equal(rest[0], doubles)
    assert rest[1] is None


def test_a_length_takes_the_place_of_xs():
    total, squares = scan(lambda n, _: (n + 1, n * n), np.array(0), None, 4)
    assert total == 4
    assert squares.tolist() == [0, 1, 4, 9]


def test_no_iterations_return_the_first_carry_and_empty_ys():
    xs = {"a": np.zeros((0, 3)), "b": np.zeros(0, np.int64)}
    found, (sums, rest) = scan(step, INIT, xs)
    assert found is INIT
    assert sums.shape == (0, 3)
    assert (rest[0].shape, rest[0].dtype, rest[1]) == ((0,), np.int64, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((step, INIT, XS | {"b": np.arange(3)}), "scan: xs/b has 3 slices, but xs/a is 4"),
        ((step, INIT, XS, 5), "scan: xs/a has 4 slices, but length is 5"),
        ((step, INIT, None), "scan: xs has no arrays, so it needs a length"),
        ((step, INIT, XS, -1), "scan: length is -1, needs an integer"),
        ((step, INIT, XS, 4.0), "scan: length is 4.0, needs an integer"),
        ((step, INIT, XS | {"b": np.array(1)}), "scan: xs/b has no leading axis"),
        (
            (lambda c, x: c, np.zeros(2), np.zeros(3)),
            r"scan: f returned a ndarray, needs \(carry, y\)",
        ),
        (
            (lambda c, x: ({"b": c["a"]}, x), {"a": np.zeros(2)}, np.zeros(3)),
            "carry/a, carry/b differs",
        ),
        ((lambda c, x: ([c], x), np.zeros(2), np.zeros(3)), "carry, carry/0 differs"),
        ((lambda c, x: (list(c), x), (np.zeros(2),), np.zeros(3)), "a container differs"),
        (
            (lambda c, x: ({"a": np.zeros(3)}, x), {"a": np.zeros(2)}, np.zeros(3)),
            r"scan: carry/a: f returned the shape \(3,\), was given \(2,\)",
        ),
        (
            (lambda c, x: (c.astype(np.float32), x), np.zeros(2), np.zeros(3)),
            "scan: carry: f returned the dtype float32, was given float64",
        ),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        scan(*arguments)


@pytest.mark.parametrize("unroll", [0, 1.0, True])
def test_unroll_is_a_positive_integer(unroll):
    with pytest.raises(UserError, match="scan: unroll is"):
        scan(step, INIT, XS, unroll=unroll)


def test_a_training_step_is_such_a_function():
    model, optimizer = numpy_nets.MLP(2, [8], 2), optim.adam(1e-2)
    train_step = make_step(numpy_nets.grad_fn(model), optimizer)
    task = data.load("moons", random.key(0), n=200)
    batches = [data.batches(task.train, 16, random.key(1))(i) for i in range(5)]
    first = expected = init_state(model, optimizer, random.key(2))
    losses = []
    for batch in batches:
        expected, metrics = train_step(expected, batch)
        losses.append(metrics["loss"])
    state, metrics = scan(train_step, first, tuple(map(np.stack, zip(*batches, strict=True))))
    for a, b in zip(tree.leaves(state._asdict()), tree.leaves(expected._asdict()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert metrics["loss"].tolist() == [float(loss) for loss in losses]


def test_names_of_y_may_come_in_another_order():
    def f(carry, x):
        return carry, {"a": x, "b": -x} if x < 2 else {"b": -x, "a": x}

    _, ys = scan(f, np.array(0.0), np.array([1.0, 2.0]))
    assert (ys["a"].tolist(), ys["b"].tolist()) == ([1, 2], [-1, -2])


def test_y_of_another_structure_is_refused():
    with pytest.raises(UserError, match="a y of another structure than at first"):
        scan(lambda c, x: (c, {"a": x} if x < 2 else {"b": x}), np.array(0.0), np.array([1.0, 2.0]))


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda c, x: ((c if x < 1 else np.ones(2)), c.sum()), "returned the shape"),
        (lambda c, x: ((c if x < 1 else c.astype("f4")), c.sum()), "returned the dtype"),
        (lambda c, x: (c, np.ones(int(x) + 1)), "needs one shape"),
    ],
)
def test_carry_and_y_keep_their_shapes_in_all_iterations(f, message):
    with pytest.raises(UserError, match=message):
        scan(f, np.ones(1), np.arange(3.0))
