import numpy as np
import pytest
import torch

from purenets import UserError, random, tree
from purenets.core.gradcheck import check_gradient, random_direction


def f(params):
    return sum(np.sin(leaf).sum() for leaf in params.values())


def test_right_gradients_pass_and_wrong_ones_do_not(params):
    right = tree.map(np.cos, params)
    assert check_gradient(f, params, right, random.key(0)) < 1e-9
    for name in params:
        wrong = {**right, name: 1.01 * right[name]}
        with pytest.raises(
            UserError, match=rf"gradient along a random direction.*differs most in {name}"
        ):
            check_gradient(f, params, wrong, random.key(0))


def test_a_direction_has_norm_one(params):
    direction = random_direction(params, random.key(0))
    assert np.isclose(tree.norm(direction), 1)
    assert [d.shape for d in direction.values()] == [p.shape for p in params.values()]


X = np.random.default_rng(0).normal(size=(8, 3))
PARAMS = {"w": np.ones(2), "b": np.zeros(3)}
RIGHT = {"w": np.ones(2), "b": X.sum(0)}


def square(params):
    """The loss of a layer that adds a bias: its gradient must be summed over the batch."""
    return ((X + params["b"]) ** 2).sum() / 2 + params["w"].sum()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"b": X}, r"grads: b has shape \(8, 3\), its param \(3,\)"),
        ({"b": X.sum(0, keepdims=True)}, r"grads: b has shape \(1, 3\), its param \(3,\)"),
        ({"c": X}, "unknown c"),
        ({"w": np.ones(2, int)}, "grads: w is int64, needs real"),
        ({"w": np.ones(2) + 1j}, "grads: w is complex128, its param float64"),
        ({"w": torch.ones(2)}, "grads: w is a tensor, its param a NumPy array"),
        ({"w": [1.0, 1.0]}, "w is a list"),
    ],
)
def test_a_gradient_that_would_broadcast_is_no_right_one(wrong, text):
    assert check_gradient(square, PARAMS, RIGHT, random.key(0)) < 1e-9
    with pytest.raises(UserError, match=text):
        check_gradient(square, PARAMS, {**RIGHT, **wrong}, random.key(0))
    nested = lambda p: square(p["net"])
    with pytest.raises(UserError, match="w is a list" if "list" in text else "grads"):
        check_gradient(nested, {"net": PARAMS}, {"net": {**RIGHT, **wrong}}, random.key(0))


def test_a_missing_leaf_is_named():
    with pytest.raises(UserError, match="missing w"):
        check_gradient(square, PARAMS, {"b": RIGHT["b"]}, random.key(0))


def test_float32_is_named_where_it_is_the_reason():
    params, grads = tree.cast(PARAMS, "float32"), tree.cast(RIGHT, "float32")
    with pytest.raises(UserError, match=r'float32.*tree.cast\(params, "float64"\)'):
        check_gradient(square, params, grads, random.key(0))
    with pytest.raises(UserError) as error:
        check_gradient(square, PARAMS, {**RIGHT, "w": 2 * RIGHT["w"]}, random.key(0))
    assert "differs most in w" in str(error.value)
    assert "float32" not in str(error.value)


@pytest.mark.parametrize(
    ("f", "text"),
    [
        (lambda p: (X + p["b"]) ** 2, r"f: returned an array of shape \(8, 3\), needs a scalar"),
        (lambda p: None, "f: returned a NoneType, needs a real scalar"),
        (lambda p: square(p) + 1j, "needs a real scalar"),
    ],
)
def test_a_function_of_no_scalar_gets_one_line(f, text):
    with pytest.raises(UserError, match=text):
        check_gradient(f, PARAMS, RIGHT, random.key(0))


def test_tensors_are_checked_with_a_key_of_either_library():
    params, right = ({n: torch.as_tensor(v) for n, v in d.items()} for d in (PARAMS, RIGHT))
    x, key = torch.as_tensor(X), random.key(0)
    f = lambda p: ((x + p["b"]) ** 2).sum() / 2 + p["w"].sum()
    same = check_gradient(square, PARAMS, RIGHT, key)
    assert np.isclose(check_gradient(f, params, right, key), same, atol=1e-9)
    assert check_gradient(f, params, right, torch.as_tensor(key)) < 1e-9


def test_leaves_are_paired_by_name_whatever_their_order():
    params = {"query": np.array([1.0, 2.0]), "key": np.array([3.0, 4.0])}

    def f(params):
        return (params["query"] ** 2).sum() + (params["key"] ** 3).sum()

    dquery, dkey = 2 * params["query"], 3 * params["key"] ** 2
    assert check_gradient(f, params, {"key": dkey, "query": dquery}, random.key(0)) < 1e-7
    with pytest.raises(UserError, match="it differs most in key"):
        check_gradient(f, params, {"key": dquery, "query": dkey}, random.key(0))
