"""A dict that carries its vector looks like a plain dict and never uses a stale vector."""

import copy
import gc
import pickle
import weakref
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import init_state, make_step, numpy_nets, optim, random, torch_nets, train_state, tree
from purenets.core.runs import checkpoint
from purenets.core.vector_dict import (
    MAX_MEAN_SIZE,
    VectorDict,
    as_dict,
    from_vector,
    layout_of,
    packed,
    vector_of,
    with_vector,
)

shapes = st.dictionaries(
    st.text("abc.", min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    min_size=2,
    max_size=6,
)
BACKENDS = {"numpy": np.asarray, "torch": torch.as_tensor}
backends = pytest.mark.parametrize("convert", BACKENDS.values(), ids=BACKENDS)


def plain_of(shapes: dict, convert) -> dict:
    draw = np.random.default_rng(0)
    return {name: convert(draw.normal(size=shape)) for name, shape in shapes.items()}


def equal(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


def pair(convert) -> tuple[dict, VectorDict]:
    plain = plain_of({"w": (3, 2), "b": (3,)}, convert)
    carried = with_vector(plain)
    assert type(carried) is VectorDict
    return plain, carried


@backends
@given(shapes)
def test_reads_as_the_plain_dict(convert, shapes):
    plain = plain_of(shapes, convert)
    carried = with_vector(plain)
    assert isinstance(carried, dict)
    assert (len(carried), list(carried), "?" in carried) == (len(plain), list(plain), False)
    assert equal(dict(from_vector(carried.layout, vector_of(carried))), plain)
    assert equal({**from_vector(carried.layout, vector_of(carried))}, plain)
    assert equal(as_dict(carried), plain)
    assert type(dict(carried)) is dict
    assert repr(carried) == repr(plain)
    for (name, leaf), (other, expected) in zip(carried.items(), plain.items(), strict=True):
        assert name == other
        assert leaf.shape == expected.shape
        assert np.array_equal(leaf, expected)
        assert carried.get(name) is leaf is carried[name]
    assert equal(dict(zip(carried.keys(), carried.values(), strict=True)), plain)
    assert carried == dict(carried)
    assert dict(carried) == carried
    assert equal(tree.map(lambda leaf: leaf + 1, carried), tree.map(lambda leaf: leaf + 1, plain))


@backends
def test_unites_with_other_dicts_as_a_plain_dict(convert):
    plain, carried = pair(convert)
    new = {"b": plain["b"] + 1}
    assert equal(carried | new, plain | new)
    assert equal(new | with_vector(plain), new | plain)
    assert type(carried | new) is dict
    assert vector_of(carried) is not None
    other = {}
    other.update(with_vector(plain))
    assert equal(other, plain)
    assert equal(dict(**with_vector({"w": plain["w"], "b": plain["b"]})), plain)


CHANGES = {
    "setitem": lambda d, leaf: d.__setitem__("b", leaf),
    "update": lambda d, leaf: d.update(b=leaf),
    "ior": lambda d, leaf: d.__ior__({"b": leaf}),
    "delitem": lambda d, leaf: d.__delitem__("b"),
    "pop": lambda d, leaf: d.pop("b"),
    "popitem": lambda d, leaf: d.popitem(),
    "clear": lambda d, leaf: d.clear(),
    "setdefault": lambda d, leaf: d.setdefault("c", leaf),
}


@backends
@pytest.mark.parametrize("looked", [False, True])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_dict_has_no_vector(convert, looked, change):
    plain, carried = pair(convert)
    if looked:
        str(carried)
    leaf = plain["b"] + 7
    change(carried, leaf)
    change(plain, leaf)
    assert vector_of(carried) is None
    assert equal(carried, plain)


def replace_data(carried):
    carried["b"].data = torch.full((3,), 7.0, dtype=torch.float64)


def reshape_in_place(carried):
    carried["w"].unsqueeze_(0)


def require_grad(carried):
    carried["b"].requires_grad_()


@pytest.mark.parametrize("change", [replace_data, reshape_in_place, require_grad])
def test_a_tensor_changed_behind_the_dict_is_noticed(change):
    _, carried = pair(torch.as_tensor)
    change(carried)
    assert vector_of(carried) is None


def test_a_leaf_replaced_behind_the_dict_is_noticed():
    _, carried = pair(np.asarray)
    str(carried)
    dict.__setitem__(carried, "b", np.zeros(3))
    assert vector_of(carried) is None


@backends
def test_replaced_data_moves_from_where_it_was_put(convert):
    """The step uses what the dict shows."""
    nets = numpy_nets if convert is np.asarray else torch_nets
    model, optimizer = nets.MLP(3, [4], 2), optim.sgd(1e-3)
    step, state = (
        make_step(nets.grad_fn(model), optimizer),
        init_state(model, optimizer, random.key(0)),
    )
    batch = convert(np.ones((5, 3), np.float32)), convert(np.zeros(5, np.int64))
    state, _ = step(state, batch)
    seven = convert(np.full(4, 7, np.float32))
    changed = state._replace(params=state.params | {"fc1.bias": seven})
    if convert is torch.as_tensor:
        state.params["fc1.bias"].data = seven
        found, _ = step(state, batch)
        assert abs(found.params["fc1.bias"] - 7).max() < 0.1
    found, _ = step(changed, batch)
    assert abs(found.params["fc1.bias"] - 7).max() < 0.1


@backends
def test_writes_into_a_leaf_are_seen_by_the_vector(convert):
    plain, carried = pair(convert)
    carried["b"][0] = 42.0
    assert vector_of(carried)[6] == 42.0
    assert plain["b"][0] != 42.0  # a copy
    twin = carried.copy()
    assert vector_of(twin) is vector_of(carried)  # two dicts of the same leaves, as with dict.copy
    twin["b"] = plain["b"]
    assert carried["b"][0] == 42.0


@backends
def test_pickles_and_copies_as_a_plain_dict(convert):
    plain, carried = pair(convert)
    for again in (copy.deepcopy(carried), copy.copy(carried)):
        assert type(again) is dict
        assert equal(again, plain)
    assert not np.shares_memory(copy.deepcopy(carried)["b"], carried["b"])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(carried, protocol))
        assert type(again) is OrderedDict  # torch.load takes no other
        assert [*again] == [*plain]
        assert equal(again, plain)


def test_torch_loads_what_it_saved_of_a_training_without_trusting_the_file(tmp_path):
    model, optimizer = torch_nets.MLP(2, [4, 4], 2), optim.adamw(1e-2)
    batch = torch.ones(3, 2), torch.tensor([0, 1, 0])
    state = init_state(model, optimizer, random.key(0))
    state, _ = make_step(torch_nets.grad_fn(model), optimizer)(state, batch)
    assert type(state.params) is VectorDict
    for part in (state.params, state.opt_state, state._asdict()):
        torch.save(part, tmp_path / "part.pt")
        again = torch.load(tmp_path / "part.pt", weights_only=True)
        found, expected = tree.flatten(again), tree.flatten(part)
        assert [*found] == [*expected]
        assert all(torch.equal(found[name], expected[name]) for name in expected)


@backends
def test_a_checkpoint_holds_its_leaves(convert, tmp_path):
    plain, carried = pair(convert)
    checkpoint.save(tmp_path, {"params": carried}, {})
    again, _ = checkpoint.load(tmp_path, {"params": with_vector(plain)})
    assert equal(again["params"], plain)


def test_converts_between_the_backends():
    plain, carried = pair(np.asarray)
    tensors = torch_nets.to_torch(carried)
    assert type(tensors) is dict
    assert equal(torch_nets.to_numpy(with_vector(tensors)), plain)


def test_is_a_dict_to_the_pytrees_of_torch():
    plain, carried = pair(torch.as_tensor)
    pytree = torch.utils._pytree
    leaves, spec = pytree.tree_flatten(carried)
    assert spec == pytree.tree_structure(plain)
    assert type(pytree.tree_unflatten(leaves, spec)) is dict
    total, derivative = torch.func.jvp(
        lambda p: sum((leaf**2).sum() for leaf in p.values()), (with_vector(plain),), (plain,)
    )
    assert torch.isclose(derivative, 2 * total)
    rows = torch.func.vmap(lambda p: p["w"].sum() + p["b"].sum(), in_dims=({"w": 0, "b": None},))(
        carried
    )
    assert torch.allclose(rows, plain["w"].sum(1) + plain["b"].sum())
    grads = torch.func.grad(lambda p: (p["w"] ** 2).sum())(carried)
    assert equal(grads, {"w": 2 * plain["w"], "b": 0 * plain["b"]})


@backends
def test_is_freed_with_its_last_owner(convert):
    _, carried = pair(convert)
    str(carried)
    vector = weakref.ref(vector_of(carried))
    gc.disable()
    try:
        del carried
        assert vector() is None
    finally:
        gc.enable()


@backends
def test_a_state_of_a_step_is_freed_with_it(convert):
    nets = numpy_nets if convert is np.asarray else torch_nets
    model, optimizer = nets.MLP(3, [4], 2), optim.adam()
    step, state = (
        make_step(nets.grad_fn(model), optimizer),
        init_state(model, optimizer, random.key(0)),
    )
    batch = convert(np.ones((5, 3), np.float32)), convert(np.zeros(5, np.int64))
    state, _ = step(state, batch)
    vector = weakref.ref(vector_of(state.params))
    assert vector() is not None
    state, _ = step(state, batch)
    assert vector() is None


@backends
def test_a_step_changes_no_state_that_shares_its_leaves(convert):
    nets = numpy_nets if convert is np.asarray else torch_nets
    model, optimizer = nets.MLP(3, [4], 2), optim.adam(1e-1)
    step, state = (
        make_step(nets.grad_fn(model), optimizer),
        init_state(model, optimizer, random.key(0)),
    )
    batch = convert(np.ones((5, 3), np.float32)), convert(np.zeros(5, np.int64))
    one, _ = step(state, batch)
    before = copy.deepcopy(one.params)
    shared = one._replace(params=dict(one.params))  # a plain dict of the same views
    two, _ = step(one, batch)
    three, _ = step(shared, batch)
    assert equal(two.params, three.params)
    assert equal(one.params, before)


@backends
def test_only_leaves_that_fit_one_vector_get_one(convert):
    a, b = convert(np.zeros((4, 2))), convert(np.zeros(3))
    single = convert(np.zeros(3, np.float32))
    large = convert(np.zeros(2 * MAX_MEAN_SIZE))
    for params in ({"a": a}, {"a": a, "b": single}, {"a": a.T, "b": b}, {"a": large, "b": b}):
        assert with_vector(params) is params
    assert vector_of(with_vector({"a": a, "b": b})).shape == (11,)


def test_tensors_that_autograd_looks_at_get_no_vector():
    a, b = torch.zeros(4, 2, requires_grad=True), torch.zeros(3)
    for params in ({"a": a, "b": b}, {"a": torch.nn.Parameter(b, requires_grad=False), "b": b}):
        assert with_vector(params) is params
    layout = layout_of({"a": a, "b": b})
    assert type(from_vector(layout, torch.ones(11, requires_grad=True))) is dict


@backends
def test_another_order_of_names_is_packed_in_the_order_of_the_layout(convert):
    plain, carried = pair(convert)
    turned = dict(reversed(plain.items()))
    assert np.array_equal(packed(carried.layout, turned), vector_of(carried))
    assert np.array_equal(packed(carried.layout, with_vector(turned)), vector_of(carried))
    assert packed(carried.layout, {"w": plain["w"]}) is None
    assert packed(carried.layout, {**plain, "b": plain["w"]}) is None


@backends
def test_the_first_state_has_its_vectors(convert):
    nets = numpy_nets if convert is np.asarray else torch_nets
    params, buffers = nets.MLP(3, [4], 2).init(random.key(0))
    state = train_state(params, buffers, optim.adam(), random.key(1))
    assert type(state.params) is VectorDict
    assert type(optim.get_state(state.opt_state, "exp_avg")) is VectorDict
    assert equal(state.params, params)


def test_leaves_that_are_first_looked_at_within_a_transform_are_no_part_of_it():
    """They are kept beyond it: a wrapped one would raise an internal error of torch."""
    key = torch.as_tensor(random.key(0))
    model, x = torch_nets.MLP(3, [5], 2), torch.ones(4, 3)

    def fresh():
        return init_state(model, optim.sgd(0.1), key).params

    right = torch.func.grad(lambda p: model.apply(p, {}, x)[0].sum())(dict(fresh()))
    params = fresh()
    found = torch.func.grad(lambda p: model.apply(p, {}, x)[0].sum())(params)
    assert all(torch.equal(found[name], right[name]) for name in right)
    params = fresh()
    torch.func.grad(lambda x: model.apply(params, {}, x)[0].sum())(x)
    again = torch.func.grad(lambda p: model.apply(p, {}, x)[0].sum())(params)
    assert all(torch.equal(again[name], right[name]) for name in right)
    params = fresh()

    def one(x):
        _, pull = torch.func.vjp(lambda p: model.apply(p, {}, x[None])[0].sum(), params)
        return pull(torch.ones(()))[0]

    for name, each in torch.func.vmap(one)(x).items():
        assert torch.allclose(each.sum(0), right[name], atol=1e-6)
    assert vector_of(params) is not None
