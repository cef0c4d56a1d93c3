import numpy as np
import pytest

from purenets import UserError, init_state, make_step, optim, random, scan, train_state, tree
from purenets.numpy_nets import MLP, fast_step, grad_fn
from purenets.numpy_nets.grad import model_from_module
from purenets.numpy_nets.modules import Linear, ReLU, Tanh, serial


def data(n: int, dtype="float64"):
    x = random.normal(random.key(1), (n, 3), dtype=dtype)
    return x, (x.sum(axis=1) > 0).astype(np.int64)


@pytest.mark.parametrize("hidden", [[], [5], [7, 4]])
@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("name", ["adam", "nesterov", "adamw", "rmsprop"])
def test_is_the_step_of_make_step(hidden, activation, name):
    model = MLP(3, hidden, 2, activation=activation)
    optimizer = optim.OPTIMIZERS[name](lr=1e-2)
    params = tree.cast(model.init(random.key(0))[0], "float64")
    slow, fast = (train_state(params, {}, optim.flat(optimizer), random.key(0)) for _ in range(2))
    plain, quick = make_step(grad_fn(model), optim.flat(optimizer)), fast_step(model, optimizer)
    for i in range(50):
        batch = data(20 + i % 2)
        (slow, a), (fast, b) = plain(slow, batch), quick(fast, batch)
        assert a["accuracy"] == b["accuracy"]
        assert abs(a["loss"] - b["loss"]) < 1e-12
    tree.check_like(fast._asdict(), slow._asdict())
    for name, leaf in slow.params.items():
        np.testing.assert_allclose(fast.params[name], leaf, rtol=0, atol=1e-12)


def test_changes_no_argument_and_keeps_nothing_that_it_returned():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    step, batch = fast_step(model, optimizer), data(8, "float32")
    state = init_state(model, optim.flat(optimizer), random.key(0))
    before = tree.map(np.copy, state._asdict())
    copies = tuple(part.copy() for part in batch)
    one, metrics = step(state, batch)
    two, _ = step(one, batch)
    again, same = step(state, batch)  # from the first state once more
    assert all(np.array_equal(a, b) for a, b in zip(batch, copies, strict=True))
    for a, b in zip(tree.leaves(before), tree.leaves(state._asdict()), strict=True):
        assert np.array_equal(a, b)
    assert same == metrics
    for name in one.params:
        assert np.array_equal(one.params[name], again.params[name])
        assert not np.array_equal(one.params[name], two.params[name])
    replaced = one._replace(params=one.params | {"fc1.bias": np.ones(4, np.float32)})
    moved, _ = step(replaced, batch)
    assert abs(moved.params["fc1.bias"] - 1).max() < 0.2  # what was put in, not what the step remembers


def test_wrong_nets_and_params_are_named():
    with pytest.raises(UserError, match="fast_step: dropout1 is no row"):
        fast_step(MLP(3, [4], 2, dropout=0.5), optim.adam())
    model, optimizer = MLP(3, [4], 2), optim.adam()
    step, state = fast_step(model, optimizer), init_state(model, optim.flat(optimizer), random.key(0))
    params = {name: leaf for name, leaf in state.params.items() if name != "fc1.bias"}
    with pytest.raises(UserError, match=r"missing fc1\.bias"):
        step(state._replace(params=params), data(4, "float32"))
    with pytest.raises(UserError, match=r"fc1\.bias: shape"):
        step(state._replace(params=state.params | {"fc1.bias": np.ones((4, 1))}), data(4, "float32"))
    with pytest.raises(UserError, match=r"input: shape is \(4, 2\), expected \(batch, 3\)"):
        step(state, (np.ones((4, 2), np.float32), np.zeros(4, np.int64)))


def test_scan_is_the_steps_one_by_one():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    step = make_step(grad_fn(model), optimizer)
    first = init_state(model, optimizer, random.key(0))
    xs, ys = (np.stack(parts) for parts in zip(*[data(6 + 0 * i, "float32") for i in range(3)], strict=True))
    state, metrics = scan(step, first, (xs, ys))
    other = first
    for i in range(3):
        other, row = step(other, (xs[i], ys[i]))
        assert metrics["loss"][i] == row["loss"]
    assert all(np.array_equal(state.params[name], leaf) for name, leaf in other.params.items())
    assert state.step == 3
    with pytest.raises(UserError, match="scan: xs/1 has 3 slices, but xs/0 is 2"):
        scan(step, first, (xs[:2], ys))
    with pytest.raises(UserError, match="scan: xs/0 has 2 slices, but length is 3"):
        scan(step, first, (xs[:2], ys[:2]), 3)


def test_the_first_layer_need_not_be_linear():
    row = {"relu1": ReLU(), "fc1": Linear(3, 4), "tanh1": Tanh(), "fc2": Linear(4, 2)}
    model, optimizer, batch = model_from_module(serial(**row)), optim.adam(1e-2), data(8, "float32")
    state = init_state(model, optim.flat(optimizer), random.key(0))
    expected, _ = make_step(grad_fn(model), optim.flat(optimizer))(state, batch)
    found, _ = fast_step(model, optimizer)(state, batch)
    for name, leaf in expected.params.items():
        np.testing.assert_allclose(found.params[name], leaf, atol=1e-6)
