"""The functional MLP against its nn.Module twin, and shapes as jaxtyping writes them."""

import numpy as np
import pytest
import torch
from beartype import beartype
from jaxtyping import Float, Int64, jaxtyped
from torch import Tensor

from purenets import UserError, data, fit, init_state, make_step, optim, random, tree
from purenets.torch_nets import MLP, from_module, grad_fn, jit, metrics_fn, to_torch


def twin() -> torch.nn.Sequential:
    """The same net as a module; OrderedDict names as in our params."""
    module = torch.nn.Sequential()
    module.add_module("fc1", torch.nn.Linear(2, 20))
    module.add_module("relu1", torch.nn.ReLU())
    module.add_module("fc2", torch.nn.Linear(20, 2))
    return module.double()


def test_params_load_into_the_module_and_compute_the_same():
    model, module = MLP(2, [20], 2), twin()
    params = to_torch(model.init(random.key(0))[0], dtype=torch.float64)
    module.load_state_dict(params)
    x, y = torch.randn(32, 2, dtype=torch.float64), torch.randint(0, 2, (32,))
    loss = torch.nn.functional.cross_entropy(module(x), y)
    loss.backward()
    assert torch.allclose(model.apply(params, {}, x)[0], module(x), rtol=1e-14)
    grads, (_, metrics) = grad_fn(model)(params, {}, (x, y), random.key(0))
    assert torch.isclose(metrics["loss"], loss)
    for name, parameter in module.named_parameters():
        assert torch.allclose(grads[name], parameter.grad, rtol=1e-13, atol=1e-16)


def test_training_equals_nn_module_and_torch_optim():
    model, module, optimizer = MLP(2, [20], 2), twin(), optim.adam(1e-2)
    task = data.load("moons", random.key(0), dtype="float64")
    batch_at = data.batches(tuple(map(torch.tensor, task.train)), 32, random.key(1))
    state = init_state(model, optimizer, random.key(2))
    state = state._replace(params=to_torch(state.params, dtype=torch.float64))
    state = state._replace(opt_state=optimizer.init(state.params))
    module.load_state_dict(state.params)
    theirs = torch.optim.Adam(module.parameters(), lr=1e-2)
    state, _ = fit(make_step(grad_fn(model), optimizer), state, batch_at, steps=300)
    for i in range(300):
        x, y = batch_at(i)
        theirs.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        theirs.step()
    for name, parameter in module.named_parameters():
        assert torch.allclose(state.params[name], parameter, rtol=0, atol=1e-11)


def test_shapes_hold_for_any_batch():
    @jaxtyped(typechecker=beartype)
    def logits(
        x: Float[Tensor, "batch features"], y: Int64[Tensor, "batch"]
    ) -> Float[Tensor, "batch 4"]:
        return MLP(x.shape[1], [7, 5], 4).apply(params, {}, x)[0]

    params, _ = MLP(3, [7, 5], 4).init(random.key(0))
    for batch in (0, 1, 9):
        logits(torch.zeros(batch, 3), torch.zeros(batch, dtype=torch.int64))


def test_per_example_gradients_by_vmap_equal_a_loop():
    model = MLP(2, [20], 2, dropout=0.2)
    params, _ = model.init(random.key(0))
    x, y = torch.randn(6, 2), torch.randint(0, 2, (6,))
    keys = random.split(torch.as_tensor(random.key(1)), 6)

    def one(x, y, key):
        return grad_fn(model)(params, {}, (x[None], y[None]), key)[0]

    together = torch.func.vmap(one)(x, y, keys)
    for i in range(6):
        alone = one(x[i], y[i], keys[i])
        assert all(torch.allclose(together[name][i], alone[name], atol=1e-6) for name in alone)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_the_compiled_step_is_the_eager_step(dropout):
    model, optimizer = MLP(2, [20], 2, dropout=dropout), optim.adamw(1e-2)
    task = data.load("moons", random.key(0))
    batch_at = data.batches(tuple(map(torch.tensor, task.train)), 32, random.key(1))
    eager = make_step(grad_fn(model), optimizer)
    runs = [
        fit(step, init_state(model, optimizer, random.key(2)), batch_at, steps=20)[0]
        for step in (eager, jit(eager))
    ]
    for a, b in zip(*(tree.leaves(state._asdict()) for state in runs), strict=True):
        assert torch.allclose(a.double(), b.double(), atol=1e-5)


def test_an_ensemble_trains_under_vmap_with_a_rate_for_each_member():
    model = MLP(2, [8], 2)
    task = data.load("moons", random.key(0))
    batch = tuple(map(torch.tensor, task.train))
    rates, keys = torch.tensor([0.1, 0.01]), random.split(torch.as_tensor(random.key(3)), 2)

    def train(lr, key):
        optimizer = optim.adam(lr=lr)
        step, state = make_step(grad_fn(model), optimizer), init_state(model, optimizer, key)
        for _ in range(3):
            state, metrics = step(state, batch)
        return state.params, metrics

    together, _ = torch.func.vmap(train)(rates, keys)
    for i in range(2):
        alone, _ = train(rates[i], keys[i])
        assert all(torch.allclose(together[name][i], alone[name], atol=1e-6) for name in alone)


def test_metrics_are_those_of_evaluation_mode():
    model = MLP(2, [20], 2, dropout=0.9)
    params, _ = model.init(random.key(0))
    batch = torch.randn(50, 2), torch.randint(0, 2, (50,))
    one, two = (metrics_fn(model)(params, {}, batch) for _ in range(2))
    assert torch.equal(one["loss"], two["loss"])
    assert not one["loss"].requires_grad


class WithBuffers(torch.nn.Module):
    """A module that writes its buffers and draws."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.norm = torch.nn.BatchNorm2d(4)
        self.drop = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(4 * 36, 5)

    def forward(self, x):
        return self.fc(self.drop(torch.relu(self.norm(self.conv(x)))).flatten(1))


def test_from_module_returns_buffers_and_writes_none():
    module, x = WithBuffers(), torch.randn(7, 3, 8, 8)
    before = {name: b.clone() for name, b in module.state_dict().items()}
    model = from_module(module)
    params, buffers = model.init(None)
    kept = {name: b.clone() for name, b in buffers.items()}
    key = torch.as_tensor(random.key(0))
    grads, (new, metrics) = grad_fn(model)(params, buffers, (x, torch.arange(7) % 5), key)
    assert all(torch.equal(buffers[name], kept[name]) for name in kept)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert int(new["norm.num_batches_tracked"]) == 1
    module.train()(x)
    assert torch.allclose(new["norm.running_var"], module.norm.running_var)
    assert torch.isfinite(metrics["loss"])
    assert grads.keys() == params.keys()


def test_from_module_draws_from_its_key_alone():
    model, key = from_module(WithBuffers()), torch.as_tensor(random.key(0))
    params, buffers = model.init(random.key(1))
    again, _ = model.init(random.key(1))
    other, _ = model.init(random.key(2))
    assert all(torch.equal(params[name], again[name]) for name in params)
    assert not torch.equal(params["fc.weight"], other["fc.weight"])
    x, before = torch.randn(7, 3, 8, 8), torch.random.get_rng_state()
    one, two = (model.apply(params, buffers, x, train=True, key=key)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.random.get_rng_state())
    three = model.apply(params, buffers, x, train=True, key=random.fold_in(key, 1))[0]
    assert not torch.equal(one, three)


def test_from_module_trains_like_our_own_net():
    module, ours = twin(), MLP(2, [20], 2)
    model = from_module(module)
    params, _ = model.init(None)
    batch = torch.randn(32, 2, dtype=torch.float64), torch.randint(0, 2, (32,))
    a, b = (grad_fn(m)(params, {}, batch, random.key(0))[0] for m in (model, ours))
    assert all(torch.allclose(a[name], b[name], rtol=1e-13, atol=1e-16) for name in params)
    with pytest.raises(UserError, match=r"fc1\.bias is missing"):
        model.apply({name: p for name, p in params.items() if name != "fc1.bias"}, {}, batch[0])


def test_convert_keeps_values_and_shares_no_memory():
    host = {"w": np.arange(4, dtype=np.float32), "count": np.array(3)}
    tensors = to_torch(host, dtype=torch.float64)
    assert tensors["w"].dtype == torch.float64
    assert tensors["count"].dtype == torch.int64
    tensors["w"][0] = 9
    assert host["w"][0] == 0
