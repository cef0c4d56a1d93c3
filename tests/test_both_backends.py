"""The NumPy net by hand and the torch net by torch.func are the same function, and stay so in
training.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import (
    UserError,
    data,
    evaluate,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    torch_nets,
    train_state,
    tree,
)
from purenets.core.gradcheck import check_gradient
from purenets.core.metrics import r2
from purenets.numpy_nets import mlp_numpy
from purenets.numpy_nets.losses import Loss
from purenets.torch_nets import pytorch_mlp

sizes, classes = st.integers(1, 9), st.integers(2, 9)


def setting(n_inputs, n_hidden, n_classes, batch, activation="relu", dropout=0.0):
    """Both models, the same float64 params for both, and a batch for both."""
    make = {"activation": activation, "dropout": dropout}
    models = [
        backend.MLP(n_inputs, n_hidden, n_classes, **make) for backend in (mlp_numpy, pytorch_mlp)
    ]
    params = tree.cast(models[0].init(random.key(1))[0], "float64")
    draw = np.random.default_rng(2)
    params = tree.map(lambda p: p + 0.1 * draw.normal(size=p.shape), params)
    x, y = draw.normal(size=(batch, n_inputs)), draw.integers(0, n_classes, batch)
    return (
        models,
        (params, tree.map(torch.tensor, params)),
        ((x, y), (torch.tensor(x), torch.tensor(y))),
    )


@given(
    sizes,
    st.lists(sizes, max_size=4),
    classes,
    sizes,
    st.sampled_from(["relu", "tanh", "silu"]),
    st.sampled_from([0, 0.4]),
)
def test_gradients_are_equal(n_inputs, n_hidden, n_classes, batch, activation, dropout):
    models, params, batches = setting(n_inputs, n_hidden, n_classes, batch, activation, dropout)
    key = random.fold_in(random.key(0), 3)
    by_hand, (_, metrics) = numpy_nets.grad_fn(models[0])(params[0], {}, batches[0], key)
    by_func, (_, torch_metrics) = torch_nets.grad_fn(models[1])(
        params[1], {}, batches[1], torch.as_tensor(key)
    )
    scale = max(np.abs(leaf).max() for leaf in by_hand.values())
    for name, grad in by_hand.items():
        assert np.abs(grad - by_func[name].numpy()).max() <= 1e-12 * max(scale, 1e-3), name
    assert np.isclose(metrics["loss"], float(torch_metrics["loss"]), rtol=1e-13)
    assert float(metrics["accuracy"]) == float(torch_metrics["accuracy"])


@given(sizes, st.lists(sizes, max_size=3), classes, sizes)
def test_gradients_equal_central_differences(n_inputs, n_hidden, n_classes, batch):
    (model, _), (params, _), (numpy_batch, _) = setting(
        n_inputs, n_hidden, n_classes, batch, "tanh"
    )
    grad_fn = numpy_nets.grad_fn(model)
    grads, _ = grad_fn(params, {}, numpy_batch, None)
    check_gradient(
        lambda p: grad_fn(p, {}, numpy_batch, None)[1][1]["loss"], params, grads, random.key(5)
    )


def test_1000_adam_steps_stay_together():
    task = data.load("moons", random.key(0), dtype="float64")
    models, params, _ = setting(2, [20], 2, 1)
    optimizer, key = optim.adam(1e-2), random.key(3)
    runs = []
    for backend, model, start, convert in zip(
        (numpy_nets, torch_nets), models, params, (np.asarray, torch.as_tensor), strict=True
    ):
        step = make_step(backend.grad_fn(model), optimizer)
        batch_at = data.batches(tuple(map(convert, task.train)), 32, key)
        state = train_state(start, {}, optimizer, key)
        for i in range(1000):
            state, metrics = step(state, batch_at(i))
        runs.append(state)
    assert float(metrics["loss"]) < 0.05
    for name in params[0]:
        assert np.abs(runs[0].params[name] - runs[1].params[name].numpy()).max() < 1e-9


@pytest.mark.parametrize("backend", [mlp_numpy, pytorch_mlp], ids=["numpy", "torch"])
def test_params_have_the_names_and_shapes_of_a_state_dict(backend):
    params, buffers = backend.MLP(2, [20], 2).init(random.key(0))
    assert {name: tuple(p.shape) for name, p in params.items()} == {
        "fc1.weight": (20, 2),
        "fc1.bias": (20,),
        "fc2.weight": (2, 20),
        "fc2.bias": (2,),
    }
    assert tree.size(params) == 102
    assert buffers == {}
    assert {str(p.dtype).removeprefix("torch.") for p in params.values()} == {"float32"}


@pytest.mark.parametrize("index", [0, 1], ids=["numpy", "torch"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda p: {k: v for k, v in p.items() if k != "fc2.bias"},
            r"fc2\.bias: missing in params",
        ),
        (
            lambda p: {**p, "fc3.bias": p["fc2.bias"]},
            r"fc3\.bias: unknown in params; the layers are fc1",
        ),
        (lambda p: {**p, "fc1.wieght": p["fc2.bias"]}, r"fc1\.wieght: unknown in params"),
        (
            lambda p: {**p, "fc1.weight": p["fc1.weight"][:3]},
            r"fc1\.weight: shape is \(3, 2\), expected \(4, 2\)",
        ),
        (
            lambda p: {**p, "fc2.bias": p["fc2.bias"][:1]},
            r"fc2\.bias: shape is \(1,\), expected \(3,\)",
        ),
    ],
)
def test_wrong_params_are_named_by_their_leaf(index, change, message):
    models, params, batches = setting(2, [4], 3, 5)
    with pytest.raises(UserError, match=message):
        models[index].apply(change(params[index]), {}, batches[index][0])


@pytest.mark.parametrize("index", [0, 1], ids=["numpy", "torch"])
def test_a_wrong_input_is_named_by_its_layer(index):
    models, params, batches = setting(2, [4], 3, 5)
    with pytest.raises(UserError, match=r"fc1\.input: shape is \(5, 1\), expected \(batch, 2\)"):
        models[index].apply(params[index], {}, batches[index][0][:, :1])


@pytest.mark.parametrize("backend", [mlp_numpy, pytorch_mlp], ids=["numpy", "torch"])
def test_an_unknown_activation_is_named(backend):
    with pytest.raises(UserError, match="activation: unknown 'gelu', choose from relu, tanh"):
        backend.MLP(2, [3], 2, activation="gelu")


def distance(outputs, targets):
    return abs(outputs - targets).mean()


def test_metrics_by_name_are_equal_in_training_and_evaluation():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(30, 4)), draw.normal(size=(30, 1))
    params = tree.cast(numpy_nets.MLP(4, [5], 1).init(random.key(0))[0], "float64")
    metrics, found = {"r2": r2, "distance": distance}, []
    for nets, convert in ((numpy_nets, np.asarray), (torch_nets, torch.as_tensor)):
        net, losses = nets.MLP(4, [5], 1), nets.losses
        leaves, batch = tree.map(convert, params), (convert(x), convert(y))
        _, (_, trained) = nets.grad_fn(net, losses.mse, metrics)(leaves, {}, batch, None)
        measured = nets.metrics_fn(net, losses.mse, metrics)(leaves, {}, batch)
        assert list(trained) == list(measured) == ["loss", "r2", "distance"]
        found += [trained, measured]
        assert list(nets.metrics_fn(net, losses.mse, {})(leaves, {}, batch)) == ["loss"]
    for name in found[0]:
        assert np.allclose([float(part[name]) for part in found], float(found[0][name]), rtol=1e-6)


def test_a_metric_that_is_no_mean_needs_the_whole_set_in_both():
    optimizer, batch = optim.sgd(0.1), (np.ones((6, 2), np.float32), np.ones((6, 1), np.float32))
    for nets, convert in ((numpy_nets, np.asarray), (torch_nets, torch.as_tensor)):
        net = nets.MLP(2, [], 1)
        state, both = init_state(net, optimizer, random.key(0)), tuple(map(convert, batch))
        measure = nets.metrics_fn(net, nets.losses.mse, {"r2": r2})
        assert "r2" in evaluate(measure, state, both)
        with pytest.raises(UserError, match="r2"):
            evaluate(measure, state, both, batch_size=4)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ([r2], "metrics: a list, needs a dict of functions by name"),
        ({1: r2}, "metrics: the names are"),
        ({"loss": r2}, "the loss is always there"),
        ({"r2": 3}, "metrics: r2 is 3"),
    ],
)
@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_metrics_that_are_no_functions_by_name_are_refused(nets, metrics, message):
    for make in (nets.grad_fn, nets.metrics_fn):
        with pytest.raises(UserError, match=message):
            make(nets.MLP(2, [], 1), nets.losses.mse, metrics)


def test_a_metric_in_numpy_that_broadcasts_or_is_no_scalar_is_refused():
    net = numpy_nets.MLP(2, [], 1)
    params, x = net.init(random.key(0))[0], np.ones((6, 2), np.float32)
    column, row = np.ones((6, 1), np.float32), np.ones(6, np.float32)
    flat = Loss(lambda outputs, y: ((outputs[:, 0] ** 2).mean(), outputs), lambda d, c: d * c)
    wrong = numpy_nets.metrics_fn(net, flat, {"distance": distance})
    with pytest.raises(UserError, match=r"^metrics: distance: outputs \(6, 1\) and targets \(6,\)"):
        wrong(params, {}, (x, row))
    each = numpy_nets.metrics_fn(net, numpy_nets.losses.mse, {"each": lambda o, y: o - y})
    with pytest.raises(UserError, match=r"^metrics: each returned .*, needs a scalar"):
        each(params, {}, (x, column))
