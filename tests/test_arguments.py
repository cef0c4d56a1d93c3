"""Arguments at the edge of what they may be: they work, or one line says what is right."""

import math

import numpy as np
import pytest
import torch

from purenets import (
    UserError,
    evaluate,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    torch_nets,
    train_state,
)
from purenets.core.metrics import r2
from purenets.core.runs.checkpoint import on_host
from purenets.numpy_nets import image_modules, modules
from purenets.torch_nets import layers
from purenets.torch_nets.analysis.curvature import fisher_diagonal, lanczos, landscape
from purenets.torch_nets.analysis.per_example import (
    check_per_example,
    per_example_grads,
    top_loss_indices,
)
from purenets.torch_nets.analysis.privacy import dp_grad_fn, epsilon, poisson_batches

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
Y = torch.tensor([0, 1, 2] * 2)
NET = torch_nets.MLP(4, [8], 3)
PARAMS, _ = NET.init(KEY)
SGD = optim.sgd(0.1)
STEP = make_step(torch_nets.grad_fn(NET), SGD)
both_backends = pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])


# --- layers and nets --------------------------------------------------------------------------


def test_linear_layer_of_bound_0_begins_at_0():
    params, _ = layers.Linear(4, 3, bound=0.0).init(KEY)
    assert params["weight"].shape == (3, 4)
    assert not params["weight"].any() and not params["bias"].any()


@pytest.mark.parametrize("bound", [-1.0, math.nan, math.inf])
def test_wrong_bound_of_a_linear_layer_is_refused(bound):
    with pytest.raises(UserError, match="Linear: bound"):
        layers.Linear(4, 3, bound=bound)


@pytest.mark.parametrize("size", [0, -1, 2.0, "3", None, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda n: layers.Linear(n, 3),
        lambda n: layers.Linear(3, n),
        lambda n: layers.Conv(n, 3),
        lambda n: layers.Conv(3, n),
        lambda n: layers.Conv(3, 3, n),
        lambda n: layers.Conv(3, 3, stride=n),
        lambda n: layers.MaxPool(n, stride=1),
        layers.BatchNorm,
        layers.LayerNorm,
        lambda n: modules.Linear(n, 3),
        lambda n: modules.Linear(3, n),
        lambda n: image_modules.Conv(n, 3),
        lambda n: image_modules.Conv(3, n),
        lambda n: image_modules.MaxPool(2, stride=n or 0),
        image_modules.BatchNorm,
        lambda n: numpy_nets.MLP(2, [n], 2),
        lambda n: torch_nets.MLP(n, [], 2),
        lambda n: torch_nets.MLP(2, [3], n),
        lambda n: torch_nets.CNN(n, 10),
        lambda n: numpy_nets.CNN(3, n),
    ],
)
def test_size_that_is_no_positive_integer_is_refused(make, size):
    with pytest.raises(UserError, match="needs a positive integer"):
        make(size)


@both_backends
@pytest.mark.parametrize("hidden", ["20", "20,30", 20, None])
def test_hidden_layers_that_are_no_list_are_refused(nets, hidden):
    with pytest.raises(UserError, match="MLP: n_hidden is"):
        nets.MLP(2, hidden, 2)


@both_backends
@pytest.mark.parametrize("hidden", [(5, 6), np.array([5, 6]), range(5, 7)])
def test_hidden_layers_may_be_any_sequence_of_integers(nets, hidden):
    params, _ = nets.MLP(2, hidden, 2).init(random.key(0))
    assert params["fc2.weight"].shape == (6, 5)


# --- keys -------------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("key", [0, 1.5, "0", None])
def test_number_for_a_key_is_refused(nets, key):
    net = nets.MLP(2, [3], 2)
    with pytest.raises(UserError, match=r"key: .* is no key; random.key\(seed\) makes one"):
        init_state(net, SGD, key)
    with pytest.raises(UserError, match="is no key"):
        train_state(*net.init(random.key(0)), SGD, key)


@pytest.mark.parametrize(
    "f", [random.split, random.bits, random.uniform, random.fold_in, random.normal]
)
def test_number_for_a_key_of_a_draw_is_refused(f):
    with pytest.raises(UserError, match="key: 7 is no key"):
        f(7, (3,)) if f in (random.uniform, random.normal) else f(7, 3)


@pytest.mark.parametrize(
    "key", [np.zeros(2), np.zeros((3, 2), int), np.array(5), torch.zeros(7).long()]
)
def test_array_that_is_no_key_is_refused(key):
    with pytest.raises(UserError, match=r"needs int64 of shape \(2,\)"):
        init_state(NET, SGD, key)


@pytest.mark.parametrize("seed", [1.5, "1", None, 2.0, np.float64(3)])
def test_seed_that_is_no_integer_is_refused(seed):
    with pytest.raises(UserError, match=r"seed: .* is not an integer"):
        random.key(seed)


@pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), torch.tensor(3)])
def test_any_integer_is_a_seed(seed):
    assert np.array_equal(random.key(seed), random.key(3))


@pytest.mark.parametrize("data", [-1, 2**32, 1.5])
def test_number_that_cannot_be_folded_in_is_refused(data):
    for key in (random.key(0), KEY):
        with pytest.raises(UserError, match="fold_in"):
            random.fold_in(key, data)


def test_integers_of_numpy_are_folded_into_keys_of_torch():
    assert torch.equal(random.fold_in(KEY, np.int64(5)), random.fold_in(KEY, 5))


@pytest.mark.parametrize("n", [-1, 1.5, "2"])
def test_wrong_number_of_keys_is_refused(n):
    with pytest.raises(UserError, match="split"):
        random.split(KEY, n)


# --- params, batches and states ---------------------------------------------------------------


@both_backends
def test_list_for_params_is_refused(nets):
    net = nets.MLP(4, [8], 3)
    params, batch = list(net.init(random.key(0))[0].values()), (X, Y)
    if nets is numpy_nets:
        batch = X.numpy(), Y.numpy()
    calls = (
        lambda: train_state(params, {}, SGD, random.key(0)),
        lambda: net.apply(params, {}, batch[0]),
        lambda: nets.grad_fn(net)(params, {}, batch, None),
        lambda: nets.metrics_fn(net)(params, {}, batch),
        lambda: optim.adam().init(params),
    )
    for call in calls:
        with pytest.raises(UserError, match="params: a list, needs a dict of"):
            call()


def test_numpy_batch_for_a_torch_net_is_refused():
    state = init_state(NET, SGD, KEY)
    metrics = torch_nets.metrics_fn(NET)
    for batch in ((X.numpy(), Y), (X, Y.numpy()), (X, Y.tolist()), ((X, X.numpy()), Y)):
        with pytest.raises(
            UserError, match=r"batch: the (inputs|targets) are a .*, needs tensors; see to_torch"
        ):
            STEP(state, batch)
        with pytest.raises(UserError, match="batch: the"):
            metrics(state.params, {}, batch)
        with pytest.raises(UserError, match="batch: the"):
            per_example_grads(NET)(state.params, {}, batch)


@pytest.mark.parametrize("kind", [np.ma.array, lambda x: np.array(x, ndmin=2).view(np.matrix)])
def test_masked_array_or_matrix_for_a_net_is_refused(kind):
    net, x, y = numpy_nets.MLP(4, [8], 3), kind(X.numpy()), Y.numpy()
    state, rnn = init_state(net, SGD, random.key(0)), numpy_nets.VanillaRNN(3, 1, 4, 10)
    metrics, losses = numpy_nets.metrics_fn(net), numpy_nets.losses
    params = {name: kind(leaf) for name, leaf in state.params.items()}
    for call in (
        lambda: make_step(numpy_nets.grad_fn(net), SGD)(state, (x, y)),
        lambda: numpy_nets.grad_fn(net)(params, {}, (X.numpy(), y), None),
        lambda: metrics(state.params, {}, (x, y)),
        lambda: evaluate(metrics, state, (x, y)),
        lambda: net.apply(state.params, {}, x),
        lambda: rnn.apply(rnn.init(random.key(0))[0], {}, x),
        lambda: train_state(params, {}, SGD, random.key(0)),
        lambda: train_state(state.params, {"mean": x}, SGD, random.key(0)),
        lambda: optim.adam().init({"w": x}),
        lambda: losses.cross_entropy.forward(x, y),
        lambda: losses.cross_entropy.forward(X.numpy()[:1], kind([1])),
        lambda: losses.mse.forward(X.numpy(), x),
        lambda: r2(x, X.numpy()),
        lambda: torch_nets.to_torch({"w": x}),
        lambda: torch_nets.to_numpy({"w": x}),
        lambda: on_host({"w": x}),
    ):
        with pytest.raises(UserError, match=r"a masked array, whose mask|an np.matrix, needs"):
            call()


def test_torch_batch_for_a_numpy_net_is_refused():
    net = numpy_nets.MLP(4, [8], 3)
    state = init_state(net, SGD, random.key(0))
    for batch in ((X, Y.numpy()), (X.numpy(), Y), (X.numpy(), Y.tolist())):
        with pytest.raises(UserError, match=r"batch: the .* needs NumPy arrays"):
            make_step(numpy_nets.grad_fn(net), SGD)(state, batch)
        with pytest.raises(UserError, match="batch: the"):
            numpy_nets.metrics_fn(net)(state.params, {}, batch)


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (optim.adam(), optim.sgd(0.1)),
        (optim.sgd(0.1), optim.adam()),
        (optim.adam(), optim.rmsprop()),
        (optim.chain(optim.adam(), optim.ema()), optim.adam()),
    ],
)
def test_state_of_another_optimizer_is_told(mine, other):
    optim.check_opt_state(mine, PARAMS, mine.init(PARAMS))
    with pytest.raises(
        UserError, match="opt_state: of another optimizer or other params: the names"
    ):
        optim.check_opt_state(mine, PARAMS, other.init(PARAMS))
    wider, _ = torch_nets.MLP(4, [9], 3).init(KEY)
    if mine.init(PARAMS) != {"0": {}}:
        with pytest.raises(
            UserError, match=r"opt_state: .*fc1.weight: shape is \(9, 4\), expected \(8, 4\)"
        ):
            optim.check_opt_state(mine, PARAMS, mine.init(wider))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (optim.adam(0.1), optim.sgd(0.1)),
        (optim.sgd(0.1), optim.adam(0.1)),
        (optim.adam(0.1), optim.rmsprop(0.1)),
        (optim.chain(optim.adam(0.1), optim.ema()), optim.adam(0.1)),
        (optim.adam(0.1), optim.chain(optim.adam(0.1), optim.ema())),
        (optim.muon(0.1), optim.adam(0.1)),
    ],
)
def test_step_from_the_state_of_another_optimizer_is_refused(mine, other, compiled, traced_only):
    step = make_step(torch_nets.grad_fn(NET), mine)
    step = torch_nets.jit(step) if compiled else step
    with pytest.raises(UserError, match="opt_state: of another optimizer or other params"):
        step(init_state(NET, other, KEY), (X, Y))
    state, _ = step(init_state(NET, mine, KEY), (X, Y))
    assert int(state.step) == 1


@both_backends
@pytest.mark.parametrize(
    ("mine", "other"), [(optim.adam(0.1), optim.sgd(0.1)), (optim.sgd(0.1), optim.adam(0.1))]
)
def test_state_of_another_optimizer_is_refused_in_both_backends(nets, mine, other):
    net = nets.MLP(4, [8], 3)
    batch = (X, Y) if nets is torch_nets else (X.numpy(), Y.numpy())
    with pytest.raises(UserError, match="opt_state: of another optimizer or other params"):
        make_step(nets.grad_fn(net), mine)(init_state(net, other, random.key(0)), batch)


# --- numbers of things ------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, -1, 1.5, True])
def test_no_iterations_of_lanczos_are_refused(n):
    with pytest.raises(UserError, match="lanczos: iterations"):
        lanczos(lambda v: v, PARAMS, KEY, n)


@pytest.mark.parametrize("chunk", [0, -2, 1.5, True])
def test_chunks_of_no_examples_are_refused(chunk):
    for make in (
        lambda: per_example_grads(NET, chunk_size=chunk),
        lambda: dp_grad_fn(NET, 1.0, 1.0, chunk_size=chunk),
        lambda: fisher_diagonal(NET, PARAMS, {}, (X, Y), chunk_size=chunk),
    ):
        with pytest.raises(UserError, match="chunk_size"):
            make()


def test_gradients_of_no_examples_are_refused():
    empty = X[:0], Y[:0]
    for call in (
        lambda: per_example_grads(NET)(PARAMS, {}, empty),
        lambda: check_per_example(NET, PARAMS, {}, empty),
        lambda: per_example_grads(NET)(PARAMS, {}, (X, Y[:3])),
    ):
        with pytest.raises(UserError, match="per_example"):
            call()


@pytest.mark.parametrize("k", [0, -1, 7, 1.5])
def test_wrong_number_of_hardest_examples_is_refused(k):
    with pytest.raises(UserError, match="top_loss_indices: k"):
        top_loss_indices(torch.arange(6.0), k)


def test_landscape_of_no_steps_is_refused():
    with pytest.raises(UserError, match="landscape: no steps"):
        landscape(lambda params: 0.0, PARAMS, [PARAMS, PARAMS], [])


# --- private training -------------------------------------------------------------------------


def test_empty_poisson_batch_takes_a_step_of_noise_over_the_expected_size():
    empty = X[:0], Y[:0]
    step = make_step(dp_grad_fn(NET, 1.0, 1.0, batch_size=64), SGD)
    state, metrics = step(init_state(NET, SGD, KEY), empty)
    before = init_state(NET, SGD, KEY).params
    moves = torch.cat([((state.params[k] - before[k]) / 0.1).ravel() for k in before])
    assert float(moves.std()) == pytest.approx(1 / 64, rel=0.3)  # 67 draws
    assert {name: float(value) for name, value in metrics.items()} == {"loss": 0, "accuracy": 0}


def test_empty_poisson_batch_without_an_expected_size_is_refused():
    with pytest.raises(UserError, match="dp: an empty batch; give batch_size"):
        dp_grad_fn(NET, 1.0, 1.0)(PARAMS, {}, (X[:0], Y[:0]), KEY)


@pytest.mark.parametrize("loss", [torch.nn.functional.cross_entropy, torch.nn.functional.mse_loss])
def test_empty_batch_has_the_metrics_of_others(loss):
    targets = Y if loss is torch.nn.functional.cross_entropy else X[:, :3]
    grad = dp_grad_fn(NET, 1.0, 0.0, loss, batch_size=6)
    _, (_, full) = grad(PARAMS, {}, (X, targets), None)
    grads, (_, empty) = grad(PARAMS, {}, (X[:0], targets[:0]), None)
    assert empty.keys() == full.keys()
    assert not any(leaf.any() for leaf in grads.values())


@pytest.mark.parametrize(
    "options",
    [
        {"clip": 0.0},
        {"clip": math.nan},
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"noise_multiplier": math.inf},
        {"clip": math.inf},
        {"batch_size": 0},
        {"batch_size": -8},
    ],
)
def test_wrong_numbers_of_private_training_are_refused(options):
    with pytest.raises(UserError, match="dp: "):
        dp_grad_fn(NET, **({"clip": 1.0, "noise_multiplier": 1.0} | options))


def test_noise_without_a_key_is_refused():
    with pytest.raises(UserError, match="dp: noise needs a key"):
        dp_grad_fn(NET, 1.0, 1.0)(PARAMS, {}, (X, Y), None)


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.1, math.nan])
def test_rate_that_is_no_probability_is_refused(rate):
    with pytest.raises(UserError, match="poisson_batches: rate"):
        poisson_batches((X, Y), rate, KEY)
    with pytest.raises(UserError, match="epsilon: "):
        epsilon(10, rate, 1.0, 1e-5)
