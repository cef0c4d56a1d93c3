import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from purenets import UserError, init_state, make_step, optim, random, scan, tree
from purenets.torch_nets import MLP, VanillaRNN, compile_for, ensemble, grad_fn, layers, stack_states


def data(*shape: int):
    x = random.normal(torch.as_tensor(random.key(1)), shape)
    return x, (x.flatten(1).sum(1) > 0).long()


def assert_same(found, expected, tolerance: float = 1e-6):
    for part, other in zip(found, expected, strict=True):
        part, other = ({"": leaf} if torch.is_tensor(leaf) else leaf for leaf in (part, other))
        tree.check_like(part, other)
        for a, b in zip(tree.leaves(part), tree.leaves(other), strict=True):
            assert torch.allclose(a, b, atol=tolerance, rtol=1e-5)


def cnn():
    return layers.serial(
        conv1=layers.Conv(3, 4, 3, padding=1, bias=False), norm1=layers.BatchNorm(4), relu1=layers.ReLU(),
        mean=layers.GlobalAvgPool(), fc=layers.Linear(4, 2),
    )  # fmt: skip


NETS = {
    "mlp with dropout": (lambda: MLP(3, [7, 4], 2, dropout=0.5), (8, 3)),
    "wide mlp": (lambda: MLP(300, [400], 2), (128, 300)),  # its products are for oneDNN
    "cnn": (cnn, (8, 3, 6, 6)),
    "rnn": (lambda: VanillaRNN(5, 1, 16, 2), (8, 5, 1)),
}


@pytest.mark.parametrize("name", NETS)
def test_a_step_is_the_same_for_twenty_steps(name):
    make, shape = NETS[name]
    model, optimizer = make(), optim.adam(1e-2)
    step, batch = make_step(grad_fn(model), optimizer), data(*shape)
    slow = fast = init_state(model, optimizer, random.key(0))
    quick = compile_for(step, slow, batch)
    for _ in range(20):
        (slow, a), (fast, b) = step(slow, batch), quick(fast, batch)
        assert_same([b], [a], 1e-4)
    assert_same(fast, slow, 1e-3)
    assert type(fast) is type(slow)
    assert list(fast.params) == list(slow.params)


@pytest.mark.parametrize("average", [optim.ema(0.5), None], ids=["ema", "lookahead"])
def test_a_leaf_at_two_places_is_two_leaves_later(average):
    """The first average of the params is the params themselves."""
    adam = optim.adam(1e-1)
    optimizer = optim.chain(adam, average) if average else optim.lookahead(adam, 2)
    model, batch = MLP(3, [4], 2), data(8, 3)
    slow = fast = init_state(model, optimizer, random.key(0))
    step = make_step(grad_fn(model), optimizer)
    quick = compile_for(step, slow, batch)
    for _ in range(4):
        (slow, _), (fast, _) = step(slow, batch), quick(fast, batch)
    assert_same(fast, slow, 1e-5)


def test_a_leaf_of_a_state_is_named():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8, 3)
    state = init_state(model, optimizer, random.key(0))
    quick = compile_for(make_step(grad_fn(model), optimizer), state, batch)
    wrong = state._replace(params=state.params | {"fc1.bias": torch.zeros(5)})
    with pytest.raises(UserError, match=r"argument/0/params/fc1\.bias: shape is \(5,\), compiled for \(4,\)"):
        quick(wrong, batch)


def test_an_expanded_example_stands_for_whole_batches():
    x = torch.ones(1, 3).expand(4, 3)
    double = compile_for(lambda x: 2 * x, x)
    for given in (x, torch.arange(12.0).reshape(4, 3)):
        assert torch.equal(double(given), 2 * given)


def test_options_are_those_of_torch_compile():
    double = compile_for(lambda x: 2 * x, torch.ones(3), options={"cpp_wrapper": True})
    assert torch.equal(double(torch.ones(3)), torch.full((3,), 2.0))


def test_arrays_of_numpy_are_refused():
    with pytest.raises(UserError, match="argument/0/x: is an array of NumPy, needs a tensor"):
        compile_for(lambda values: values, {"x": np.ones(3)})


def test_members_of_an_ensemble_and_a_scan_are_compiled_too():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8, 3)
    step = make_step(grad_fn(model), optimizer)
    states = [init_state(model, optimizer, random.key(seed)) for seed in range(3)]
    together, many = ensemble(step, same_batch=True), scan(step, 2)
    stacked, twice = stack_states(states), tuple(torch.stack([part, part]) for part in batch)
    assert_same(compile_for(together, stacked, batch)(stacked, batch)[0], together(stacked, batch)[0])
    assert_same(compile_for(many, states[0], twice)(states[0], twice)[0], many(states[0], twice)[0])


def affine(values: dict, pair: list, power: int = 2, flag: bool | None = None):
    a, b = pair
    return {"sum": values["x"] ** power + a, "rest": (b, flag, [a * 2])}


VALUES, PAIR = {"x": torch.arange(6.0).reshape(2, 3)}, [torch.ones(3), torch.zeros(2, dtype=torch.int64)]


@pytest.fixture(scope="module")
def compiled():
    return compile_for(affine, VALUES, PAIR, 3, None)


def test_containers_and_constants_come_back_as_they_are(compiled):
    found = compiled(VALUES, PAIR, 3, None)
    assert torch.equal(found["sum"], VALUES["x"] ** 3 + 1)
    assert found["rest"][0] is not None
    assert found["rest"][1] is None
    assert torch.equal(found["rest"][2][0], torch.full((3,), 2.0))
    assert isinstance(found["rest"], tuple)


def test_other_strides_are_taken(compiled):
    turned = {"x": torch.arange(6.0).reshape(3, 2).T}
    assert torch.equal(compiled(turned, PAIR, 3, None)["sum"], turned["x"] ** 3 + 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"x": torch.ones(2, 4)}, PAIR, 3, None), r"argument/0/x: shape is \(2, 4\), compiled for \(2, 3\)"),
        (({"x": VALUES["x"].double()}, PAIR, 3, None), r"argument/0/x: dtype is torch\.float64"),
        (
            ({"y": VALUES["x"]}, PAIR, 3, None),
            r"argument/0: the names of the leaves differ: missing x; unknown y",
        ),
        ((VALUES, PAIR[:1], 3, None), r"argument/1: is .* compiled for 2 parts"),
        ((VALUES, [1.0, PAIR[1]], 3, None), r"argument/1/0: is 1\.0, expected a tensor"),
        ((VALUES, PAIR, 2, None), r"argument/2: is 2, compiled for 3"),
        ((VALUES, PAIR, 3.0, None), r"argument/2: is 3\.0, compiled for 3"),
        ((VALUES, PAIR), r"argument: is .* compiled for 4 parts"),
    ],
)
def test_what_differs_is_named(compiled, arguments, message):
    with pytest.raises(UserError, match=message):
        compiled(*arguments)


def test_transforms_and_gradients_go_through_the_function_itself(compiled):
    def total(x):
        return compiled({"x": x}, PAIR, 3, None)["sum"].sum()

    x = VALUES["x"]
    assert torch.allclose(torch.func.grad(total)(x), 3 * x**2)
    leaf = x.clone().requires_grad_()
    assert torch.allclose(torch.autograd.grad(total(leaf), leaf)[0], 3 * x**2)
    members = torch.func.vmap(lambda x: compiled({"x": x}, PAIR, 3, None)["sum"])(torch.stack([x, x]))
    assert torch.equal(members[1], x**3 + 1)
    last = torch.func.vmap(lambda x: compiled({"x": x}, PAIR, 3, None)["sum"], in_dims=2)(
        torch.stack([x, x], 2)
    )
    assert torch.equal(last[1], x**3 + 1)
    with forward_ad.dual_level():
        dual = compiled({"x": forward_ad.make_dual(x, torch.ones_like(x))}, PAIR, 3, None)["sum"]
        assert torch.allclose(forward_ad.unpack_dual(dual).tangent, 3 * x**2)


def test_without_a_compiler_it_is_the_function_and_says_so(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.warns(UserWarning, match=r"compile_for: no C\+\+ compiler found"):
        assert compile_for(affine, VALUES, PAIR) is affine
