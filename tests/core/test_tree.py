from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import UserError, tree

names = st.text("abcdef.", min_size=1, max_size=5)
arrays = st.lists(st.integers(0, 3), max_size=3).map(
    lambda shape: np.random.default_rng(0).normal(size=shape)
)
trees = st.recursive(
    arrays, lambda inner: st.dictionaries(names, inner, max_size=4), max_leaves=8
).filter(lambda t: isinstance(t, dict))
full_trees = trees.filter(lambda t: tree.leaves(t))


def same(a: dict, b: dict) -> bool:
    return all(
        tree.leaves(tree.map(lambda x, y: np.array_equal(x, y) and x.dtype == y.dtype, a, b))
    )


@given(trees)
def test_unflatten_inverts_flatten(t):
    assert same(tree.unflatten(tree.flatten(t), t), t)


@given(full_trees)
def test_unravel_inverts_ravel(t):
    vector, unravel = tree.ravel(t)
    assert vector.shape == (tree.size(t),)
    assert same(unravel(vector), t)


def test_unravel_gives_views(params):
    vector, unravel = tree.ravel(params)
    assert all(np.shares_memory(leaf, vector) for leaf in unravel(vector).values())
    tensor = torch.tensor(vector)
    leaf = tree.ravel(tree.map(torch.tensor, params))[1](tensor)["fc2.bias"]
    tensor[-1] = 7.0
    assert leaf[-1] == 7.0
    with pytest.raises(UserError, match="a vector of 33 elements, needs 32"):
        unravel(np.zeros(len(vector) + 1))


@given(full_trees, st.integers(1, 4))
def test_unstack_inverts_stack(t, n):
    members = [tree.map(lambda leaf, i=i: leaf + i, t) for i in range(n)]
    for member, again in zip(members, tree.unstack(tree.stack(members)), strict=True):
        assert same(member, again)


def test_stack_names_the_leaf_whose_shapes_differ():
    trees = [{"a": {"w": np.zeros(2)}}, {"a": {"w": np.zeros(2)}}, {"a": {"w": np.zeros(3)}}]
    with pytest.raises(UserError, match=r"stack: a/w: shapes \(2,\) and \(3,\), needs the same"):
        tree.stack(trees)
    with pytest.raises(UserError, match=r"stack: a/w: shapes"):
        tree.stack([tree.map(torch.as_tensor, t) for t in trees])


@given(full_trees, st.floats(-3, 3))
def test_norm_is_homogeneous_and_that_of_the_vector(t, factor):
    scaled = tree.map(lambda leaf: leaf * factor, t)
    assert np.isclose(tree.norm(scaled), abs(factor) * tree.norm(t))
    assert np.isclose(tree.norm(t), np.linalg.norm(tree.ravel(t)[0]))


def test_functions_serve_tensors_too(params):
    tensors = tree.map(torch.tensor, params)
    assert np.isclose(float(tree.norm(tensors)), tree.norm(params))
    assert tree.size(tensors) == tree.size(params) == 5 * 3 + 5 + 2 * 5 + 2
    assert tree.cast(tensors, "bfloat16")["fc1.bias"].dtype == torch.bfloat16
    assert tree.cast({"count": np.int64(3)}, "float32")["count"].dtype == np.int64
    assert same(tree.zeros_like(params), tree.map(np.zeros_like, params))


def test_select_inverts_prefixed(params):
    both = tree.prefixed(params, "net.") | {"other": np.zeros(1)}
    assert tree.select(both, "net.").keys() == params.keys()


def test_differing_names_are_named(params):
    wrong = {
        ("fc1.wieght" if name == "fc1.weight" else name): leaf for name, leaf in params.items()
    }
    with pytest.raises(UserError, match=r"missing fc1\.weight; unknown fc1\.wieght"):
        tree.map(lambda a, b: a, params, wrong)
    with pytest.raises(UserError, match="expected a dict"):
        tree.map(lambda a, b: a, {"a": params}, {"a": 3})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda leaf: leaf[:1], r"fc2\.weight: shape is \(1, 5\), expected \(2, 5\)"),
        (lambda leaf: leaf.astype(np.float32), r"fc2\.weight: dtype is float32, expected float64"),
    ],
)
def test_check_like_names_the_leaf(params, change, message):
    with pytest.raises(UserError, match=message):
        tree.check_like(params | {"fc2.weight": change(params["fc2.weight"])}, params)
    tree.check_like(tree.map(torch.tensor, params), params)


class Pair(NamedTuple):
    a: float
    b: float


OF_ONE_TREE = {
    "map": lambda t: tree.map(abs, t),
    "leaves": tree.leaves,
    "flatten": tree.flatten,
    "ravel": tree.ravel,
    "size": tree.size,
    "norm": tree.norm,
    "cast": lambda t: tree.cast(t, "float32"),
    "zeros_like": tree.zeros_like,
    "stack": lambda t: tree.stack([t, t]),
    "unstack": tree.unstack,
}
NO_LEAVES = {
    "list": ([2.0, 3.0], "a list"),
    "empty": ([], "a list"),
    "tuple": ((np.ones(2), np.ones(2)), "a tuple"),
    "Pair": (Pair(1.0, 2.0), "a Pair"),
    "None": (None, "None"),
}


@pytest.mark.parametrize(("leaf", "kind"), NO_LEAVES.values(), ids=NO_LEAVES)
@pytest.mark.parametrize("function", OF_ONE_TREE)
def test_lists_tuples_and_none_are_no_leaves(function, leaf, kind):
    for one in (np.ones(2), torch.ones(2)):
        with pytest.raises(UserError, match=rf"^{function}: net/w is {kind}, needs an array"):
            OF_ONE_TREE[function]({"v": one, "net": {"b": one, "w": leaf}})


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(("leaf", "kind"), NO_LEAVES.values(), ids=NO_LEAVES)
def test_nor_are_they_in_a_second_tree(leaf, kind, n):
    first, second = {"net": {"w": np.ones(2)}}, {"net": {"w": leaf}}
    with pytest.raises(UserError, match=rf"^map: net/w is {kind}, needs an array"):
        tree.map(lambda *each: each, first, *[first] * (n - 1), second)


def test_a_leaf_of_another_kind_is_named():
    for function in ("size", "norm", "cast", "zeros_like", "ravel", "unstack"):
        with pytest.raises(UserError, match=rf"^{function}: .*a str, needs an array"):
            OF_ONE_TREE[function]({"net": {"w": "text"}})


def test_two_leaves_never_get_one_name():
    x = np.ones(1)
    assert list(tree.flatten({"a": {"b": x, "c/d": x}, "e/f": x})) == ["a/b", "a/c/d", "e/f"]
    for wrong in ({"a": {"b": x}, "a/b": x}, {"a/b": x, "a": {"b": x}}):
        for function in ("flatten", "ravel"):
            with pytest.raises(UserError, match=f"{function}: two leaves get the name 'a/b'"):
                OF_ONE_TREE[function](wrong)


def test_names_of_leaves_are_strings():
    for wrong in ({3: 1}, {"a": {3: 1}}):
        with pytest.raises(UserError, match="must be a string"):
            tree.flatten(wrong)


def test_names_are_joined_by_another_text():
    nested = {"fc1": {"weight": 1, "norm": {"scale": 2}}, "step": 3}
    flat = tree.flatten(nested, sep=".")
    assert flat == {"fc1.weight": 1, "fc1.norm.scale": 2, "step": 3}
    assert tree.unflatten(flat, like=nested, sep=".") == nested
    assert tree.flatten(nested, "net.", sep=".").keys() == {f"net.{name}" for name in flat}
    with pytest.raises(UserError, match=r"two leaves get the name 'a\.b'"):
        tree.flatten({"a": {"b": 1}, "a.b": 2}, sep=".")
    with pytest.raises(UserError, match="flatten: None is no text"):
        tree.flatten(nested, sep=None)


def test_vector_does_not_round_integers():
    assert tree.ravel({"n": torch.tensor([2**24 + 1]), "m": torch.tensor([1])})[0].tolist() == [
        2**24 + 1,
        1,
    ]
    with pytest.raises(UserError, match=r"n is of torch\.int64 beside leaves of real numbers"):
        tree.ravel({"w": torch.ones(2), "n": torch.tensor(2**24 + 1)})


def test_stack_of_two_libraries_is_refused():
    with pytest.raises(UserError, match="arrays of one library"):
        tree.stack([{"w": torch.ones(1)}, {"w": np.ones(1)}])


NO_VECTORS = {
    "matrix": (np.ones((5, 3)), r"unravel: an array of shape \(5, 3\), needs a vector \(5,\)"),
    "number": (np.float64(1), r"unravel: an array of shape \(\), needs a vector \(5,\)"),
    "list": ([1.0] * 5, r"unravel: a list, needs a vector \(5,\)"),
    "nothing": (None, r"unravel: a NoneType, needs a vector \(5,\)"),
    "longer": (np.ones(6), "a vector of 6 elements, needs 5"),
}


@pytest.mark.parametrize("what", NO_VECTORS)
def test_what_is_no_vector_of_the_dict_is_told(what):
    vector, message = NO_VECTORS[what]
    _, unravel = tree.ravel({"w": np.ones((2, 2)), "b": np.ones(1)})
    with pytest.raises(UserError, match=message):
        unravel(vector)


def test_leaf_beside_a_dict_is_told():
    leaf, nested = {"w": np.ones(2)}, {"w": {"a": np.ones(2)}}
    for first, second in ((leaf, nested), (nested, leaf)):
        for call in (
            lambda: tree.map(lambda *each: each, first, second),  # noqa: B023 (called here)
            lambda: tree.map(lambda *each: each, first, first, second),  # noqa: B023
            lambda: tree.stack([first, second]),  # noqa: B023
            lambda: tree.stack([first, first, second]),  # noqa: B023
        ):
            with pytest.raises(UserError, match=r"^(map|stack): w |^expected a dict .* a, got nd"):
                call()


def test_leaves_of_two_libraries_have_no_vector():
    arrays, tensors = np.ones(2), torch.ones(2)
    with pytest.raises(UserError, match="ravel: b is a NumPy array beside tensors"):
        tree.ravel({"a": tensors, "b": arrays})
    with pytest.raises(UserError, match="ravel: b is a tensor beside NumPy arrays"):
        tree.ravel({"a": arrays, "b": tensors})


@pytest.mark.parametrize("other", [np.array([-1], np.int8), np.array([-1], np.int64)])
def test_no_integers_are_rounded_beside_uint64(other):
    large = np.array([2**63 + 1], np.uint64)
    for call in (
        lambda: tree.ravel({"n": large, "m": other}),
        lambda: tree.stack([{"n": other}, {"n": large}]),
    ):
        with pytest.raises(UserError, match="is of uint64 beside signed integers"):
            call()
    assert tree.ravel({"n": large, "m": np.array([3], np.uint8)})[0].tolist() == [2**63 + 1, 3]
    assert tree.stack([{"n": large}, {"n": large}])["n"].tolist() == [[2**63 + 1]] * 2


def test_stack_rounds_no_integers():
    for array in (np.array, torch.tensor):
        with pytest.raises(UserError, match=r"stack: a leaf of dict 0 is of .*int64 beside leaves"):
            tree.stack([{"n": array([2**53 + 1])}, {"n": array([0.5])}])
    assert tree.stack([{"n": 1}, {"n": 2.5}])["n"].tolist() == [1, 2.5]
