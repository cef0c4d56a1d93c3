"""The vanilla RNN: equal to nn.RNN, its two recurrences equal to each other under every
transform.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from purenets import UserError, init_state, make_step, optim, random, tree
from purenets.core.data.palindromes import palindromes
from purenets.torch_nets import VanillaRNN, grad_fn, jit
from purenets.torch_nets.vanilla_rnn import INITS, fused, loop, probabilities

few = st.integers(1, 6)


class Twin(nn.Module):
    """nn.RNN and nn.Linear with our params; nn.RNN has a second bias, which is zero here."""

    def __init__(self, params: dict):
        super().__init__()
        hidden, inputs = params["W_hx"].shape
        self.rnn = nn.RNN(inputs, hidden, batch_first=True).double()
        self.linear = nn.Linear(hidden, len(params["b_o"])).double()
        weights = {"weight_ih_l0": params["W_hx"], "weight_hh_l0": params["W_hh"]}
        biases = {"bias_ih_l0": params["b_h"], "bias_hh_l0": torch.zeros(hidden)}
        self.rnn.load_state_dict(weights | biases)
        self.linear.load_state_dict({"weight": params["W_ph"], "bias": params["b_o"]})

    def forward(self, x):
        return self.linear(self.rnn(x)[0][:, -1])


def net(T: int, input_dim: int, hidden: int = 128, classes: int = 10, **options):
    options.setdefault("recurrence", "fused")
    model = VanillaRNN(T - 1, input_dim, hidden, classes, **options)
    params = tree.cast(model.init(random.key(T))[0], "float64")
    x, y = palindromes(torch.as_tensor(random.key(T + 1)), 6, T, input_dim != 1)
    return model, params, (x.double(), y)


def loss_of(model, params, x, y, train=True):
    return nn.functional.cross_entropy(model.apply(params, {}, x, train=train)[0], y)


def largest(a: dict, b: dict) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize(("input_dim", "parameters"), [(1, 17_930), (10, 19_082)])
def test_parameters(input_dim, parameters):
    params, buffers = VanillaRNN(10, input_dim, 128, 10).init(random.key(0))
    assert tree.size(params) == parameters and buffers == {}
    assert list(params) == ["W_hx", "W_hh", "b_h", "W_ph", "b_o"]


@pytest.mark.parametrize("T", [2, 5, 30])
@pytest.mark.parametrize("input_dim", [1, 10])
@pytest.mark.parametrize("train", [False, True])
def test_logits_equal_those_of_the_twin(T, input_dim, train):
    model, params, (x, _) = net(T, input_dim)
    logits, _ = model.apply(params, {}, x, train=train)
    assert float((logits - Twin(params)(x)).detach().abs().max()) <= 1e-12
    assert torch.allclose(probabilities(logits).sum(dim=1), torch.ones(6, dtype=torch.float64))


def test_gradients_equal_those_of_the_twin():
    model, params, (x, y) = net(12, 1)
    grads, (_, metrics) = grad_fn(model)(params, {}, (x, y), None)
    twin = Twin(params)
    loss = nn.functional.cross_entropy(twin(x), y)
    loss.backward()
    assert abs(float(metrics["loss"] - loss.detach())) <= 1e-12
    rnn, linear = twin.rnn, twin.linear
    theirs = {
        "W_hx": rnn.weight_ih_l0.grad,
        "W_hh": rnn.weight_hh_l0.grad,
        "b_h": rnn.bias_ih_l0.grad,
    }
    theirs |= {"W_ph": linear.weight.grad, "b_o": linear.bias.grad}
    assert largest(grads, theirs) <= 1e-12


@given(few, few, few, few)
def test_fused_equals_the_loop(batch, steps, inputs, hidden):
    """Values, and gradients by the params and by the inputs."""
    keys = random.split(torch.as_tensor(random.key(batch + 7 * steps)), 5)
    shapes = [(batch, steps, inputs), (hidden, inputs), (hidden, hidden), (hidden,)]
    arguments = [
        random.normal(key, shape, "float64") for key, shape in zip(keys, shapes, strict=False)
    ]
    weight = random.normal(keys[4], (batch, hidden), "float64")

    def total(run, *arguments):
        return (run(*arguments) * weight).sum()

    everything = (0, 1, 2, 3)
    (grads, value), (loop_grads, loop_value) = (
        torch.func.grad_and_value(lambda *a, run=run: total(run, *a), argnums=everything)(
            *arguments
        )
        for run in (fused, loop)
    )
    assert float((value - loop_value).abs()) <= 1e-12
    for grad, loop_grad in zip(grads, loop_grads, strict=True):
        assert float((grad - loop_grad).abs().max()) <= 1e-11


@pytest.mark.parametrize("inputs", [1, 10])
def test_fused_in_float32_is_that_of_float64(inputs):
    """With as many rows and units as the assignment has, products go by another way
    (`fast/matmul.py`).
    """
    keys = random.split(torch.as_tensor(random.key(3)), 4)
    shapes = [(128, 9, inputs), (128, inputs), (128, 128), (128,)]
    arguments = [
        random.normal(key, shape) / shape[-1] ** 0.5
        for key, shape in zip(keys, shapes, strict=True)
    ]

    def total(run, *arguments):
        return torch.sin(run(*arguments)).sum()

    ours = torch.func.grad(lambda *a: total(fused, *a), (0, 1, 2, 3))(*arguments)
    exact = torch.func.grad(lambda *a: total(loop, *a), (0, 1, 2, 3))(
        *(a.double() for a in arguments)
    )
    for mine, true in zip(ours, exact, strict=True):
        assert float((mine - true).abs().max() / true.abs().max()) <= 1e-5


def test_plain_autograd_goes_through_fused():
    model, params, (x, y) = net(9, 10, hidden=12)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    grads = torch.autograd.grad(loss_of(model, leaves, x, y), list(leaves.values()))
    by_func = torch.func.grad(lambda p: loss_of(model, p, x, y))(params)
    assert largest(by_func, dict(zip(params, grads, strict=True))) <= 1e-14


@pytest.mark.parametrize("train", [False, True])
def test_per_example_gradients(train):
    """vmap over examples: their mean is the gradient of the batch."""
    model, params, (x, y) = net(7, 1, hidden=9)

    def of_one(params, x, y):
        return torch.func.grad(lambda p: loss_of(model, p, x[None], y[None], train))(params)

    each = torch.func.vmap(of_one, in_dims=(None, 0, 0))(params, x, y)
    whole = torch.func.grad(lambda p: loss_of(model, p, x, y))(params)
    assert each["W_hh"].shape == (6, 9, 9)
    assert largest(tree.map(lambda g: g.mean(0), each), whole) <= 1e-14


@pytest.mark.parametrize("inputs", [1, 10])
def test_per_example_gradients_within_an_ensemble(inputs):
    """Two vmaps in either order, and three."""
    vmap, members = torch.func.vmap, [net(7, inputs, hidden=9) for _ in range(3)]
    (model, _, (x, y)), plain = members[0], net(7, inputs, hidden=9, recurrence="loop")[0]
    params = tree.stack(
        [tree.map(lambda p, i=i: p + 0.01 * i, m[1]) for i, m in enumerate(members)]
    )

    def of_one(params, x, y, model=model):
        return torch.func.grad(lambda p: loss_of(model, p, x[None], y[None], True))(params)

    by_loop = lambda *given: of_one(*given, model=plain)
    ways = [
        lambda f: vmap(lambda p: vmap(lambda x, y: f(p, x, y))(x, y))(params),
        lambda f: vmap(lambda x, y: vmap(lambda p: f(p, x, y))(params))(x, y),
        lambda f: vmap(lambda _: vmap(lambda p: vmap(lambda x, y: f(p, x, y))(x, y))(params))(
            x[:2]
        ),
        lambda f: vmap(lambda s: vmap(lambda p: vmap(lambda x, y: f(p, s * x, y))(x, y))(params))(
            torch.tensor([1.0, 0.5], dtype=torch.float64)
        ),
    ]
    for way in ways:
        assert largest(way(of_one), way(by_loop)) <= 1e-14


@pytest.mark.skipif(fused is loop, reason="PURENETS_PLAIN=1: only the loop is there")
def test_second_derivatives_by_the_loop_only():
    model, params, (x, y) = net(5, 1, hidden=4)

    def along(params, train):
        grads = torch.func.grad(lambda p: loss_of(model, p, x, y, train))(params)
        return sum((g * g).sum() for g in grads.values())

    second = torch.func.grad(lambda p: along(p, False))(params)
    assert float(tree.norm(second)) > 0
    with pytest.raises(NotImplementedError, match='use recurrence="loop"'):
        torch.func.grad(lambda p: along(p, True))(params)
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    with pytest.raises(NotImplementedError, match='use recurrence="loop"'):
        along(leaves, True).backward()
    by_params = torch.func.grad(lambda p: loss_of(model, p, x, y))
    for f in (by_params, lambda p: loss_of(model, p, x, y)):
        with pytest.raises(NotImplementedError, match='use recurrence="loop"'):
            torch.func.jvp(f, (params,), (params,))


def test_by_default_a_training_step_is_the_plain_loop():
    """Which autograd differentiates as often as one asks, forward too."""
    default, params, (x, y) = net(5, 1, hidden=4, recurrence="loop")
    assert default.apply(params, {}, x, train=True)[0].equal(
        VanillaRNN(4, 1, 4, 10).apply(params, {}, x, train=True)[0]
    )

    def squared_gradient(params):
        grads = torch.func.grad(lambda p: loss_of(default, p, x, y, True))(params)
        return sum((g * g).sum() for g in grads.values())

    second = torch.func.grad(squared_gradient)(params)
    assert float(tree.norm(second)) > 0
    torch.func.jvp(lambda p: loss_of(default, p, x, y, True), (params,), (params,))


def test_an_unknown_recurrence_is_named():
    with pytest.raises(UserError, match="--recurrence scan: needs one of loop, fused"):
        VanillaRNN(4, 1, 8, 10, recurrence="scan")


@pytest.mark.parametrize("recurrence_", ["loop", "fused"])
def test_compiled_step_equals_eager(recurrence_):
    model, optimizer = VanillaRNN(6, 1, 16, 10, recurrence=recurrence_), optim.rmsprop(1e-3)
    step, state = make_step(grad_fn(model), optimizer), init_state(model, optimizer, random.key(0))
    state = state._replace(params=tree.cast(state.params, "float64"))
    state = state._replace(opt_state=optimizer.init(state.params))
    x, y = palindromes(torch.as_tensor(random.key(1)), 8, 7)
    (eager, _), (compiled, _) = step(state, (x.double(), y)), jit(step)(state, (x.double(), y))
    assert largest(eager.params, compiled.params) <= 1e-12
    assert largest(eager.params, state.params) > 1e-3


def test_any_length_is_read():
    model, params, _ = net(5, 10)
    x, _ = palindromes(torch.as_tensor(random.key(0)), 3, 50, one_hot=True)
    assert model.apply(params, {}, x.double())[0].shape == (3, 10)


def test_memory_and_values_stay():
    model, params, (x, y) = net(8, 1)
    before = tree.map(torch.clone, params)
    grad_fn(model)(params, {}, (x, y), None)
    assert largest(params, before) == 0


def test_initializations():
    eye = torch.eye(32, dtype=torch.float64)
    drawn = {name: net(5, 1, hidden=32, init=name)[1] for name in INITS}
    assert float(drawn["default"]["W_hh"].abs().max()) <= 1 / 32**0.5
    rotation = drawn["orthogonal"]["W_hh"]
    assert float((rotation @ rotation.T - eye).abs().max()) <= 1e-6
    assert float((drawn["identity"]["W_hh"] - eye).abs().max()) == 0
    assert (
        float(drawn["identity"]["b_h"].abs().max())
        == float(drawn["orthogonal"]["b_h"].abs().max())
        == 0
    )
    assert float(net(5, 1, init="identity", gain=2.0)[1]["W_hh"][0, 0]) == 2


def test_input_scale_multiplies_the_digits():
    model, params, (x, _) = net(6, 1)
    scaled, *_ = net(6, 1, input_scale=0.25)
    assert torch.equal(scaled.apply(params, {}, x)[0], model.apply(params, {}, 0.25 * x)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1, 128, 10), "--input_length 0: needs a positive integer"),
        ((2.5, 1, 128, 10), "--input_length 2.5: needs a positive integer"),
        ((4, 2, 128, 10), r"--input_dim 2: needs 1 \(digits\) or 10"),
        ((4, 1, 0, 10), "--num_hidden 0"),
    ],
)
def test_wrong_sizes(arguments, message):
    with pytest.raises(UserError, match=message):
        VanillaRNN(*arguments)


def test_wrong_shapes_name_the_leaf():
    model, params, (x, _) = net(5, 1)
    with pytest.raises(UserError, match="W_hh: missing in params"):
        model.apply({name: p for name, p in params.items() if name != "W_hh"}, {}, x)
    with pytest.raises(UserError, match=r"x: \(6, 4, 3\), expected \(batch, T-1, 1\)"):
        model.apply(params, {}, x.expand(6, 4, 3))
    with pytest.raises(UserError, match="--init wrong: needs one of default, orthogonal, identity"):
        VanillaRNN(4, 1, 8, 10, init="wrong")
