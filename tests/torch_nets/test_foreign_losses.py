"""What is wrong with a loss, a model or a layer of the caller's own, in one line."""

import functools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from purenets import Model, UserError, evaluate, init_state, numpy_nets, optim, random, train_state
from purenets.core.metrics import expected_calibration_error, r2
from purenets.torch_nets import MLP, from_module, grad_fn, jit, layers, losses, metrics_fn, to_torch

KEY = torch.as_tensor(random.key(0))
X, CLASSES = random.normal(KEY, (32, 7)), torch.arange(32) % 3
NUMBERS, COLUMN = X[:, 0], X[:, :1]
ONE, THREE = MLP(7, [4], 1), MLP(7, [4], 3)
P1, P3 = ONE.init(KEY)[0], THREE.init(KEY)[0]


def own_mse(outputs, targets):
    return ((2 * outputs - targets) ** 2).mean()


BROADCAST = [
    F.mse_loss,
    nn.MSELoss(),
    nn.L1Loss(reduction="sum"),
    functools.partial(F.huber_loss, delta=2.0),
    F.smooth_l1_loss,
    F.binary_cross_entropy_with_logits,
    own_mse,
    lambda z, y: F.mse_loss(z, y),
    lambda z, y: torch.sub(y, z).abs().mean(),
]


@pytest.mark.parametrize("loss", BROADCAST)
@pytest.mark.parametrize("call", [grad_fn, metrics_fn])
def test_a_column_and_a_row_are_not_paired(loss, call):
    rest = (None,) if call is grad_fn else ()
    f = call(ONE, loss, {})
    with pytest.raises(UserError, match=r"outputs \(32, 1\) and targets \(32,\)"):
        f(P1, {}, (X, NUMBERS), *rest)
    f(P1, {}, (X, COLUMN), *rest)


@pytest.mark.filterwarnings("ignore:jit.*runs eagerly")
@pytest.mark.parametrize("loss", [F.mse_loss, own_mse])
def test_a_column_and_a_row_are_not_paired_under_transforms(loss):
    f = grad_fn(ONE, loss)
    with pytest.raises(UserError, match=r"outputs \(32, 1\) and targets \(32,\)"):
        jit(f)(P1, {}, (X, NUMBERS), None)
    with pytest.raises(UserError, match=r"outputs \(32, 1\) and targets \(32,\)"):
        torch.func.vmap(lambda x, y: f(P1, {}, (x, y), None))(X[None], NUMBERS[None])


RIGHT = [
    (ONE, lambda z, y: F.mse_loss(z[:, 0], y), NUMBERS),
    (ONE, lambda z, y: F.mse_loss(z.squeeze(1), y), NUMBERS),
    (ONE, lambda z, y: F.mse_loss(z, y[:, None]), NUMBERS),
    (ONE, lambda z, y: (z - z.T).square().mean() + y.mean(), NUMBERS),
    (ONE, lambda z, y: F.binary_cross_entropy_with_logits(z[:, 0], y.float()), CLASSES > 0),
    (THREE, lambda z, y: F.cross_entropy(z, y), CLASSES),
    (THREE, nn.CrossEntropyLoss(), CLASSES),
    (THREE, lambda z, y: (z.softmax(1) * y[:, None]).sum(), CLASSES),
]


@pytest.mark.parametrize(("net", "loss", "targets"), RIGHT)
def test_losses_that_mean_what_they_say_are_taken(net, loss, targets):
    params = P1 if net is ONE else P3
    grads, (_, found) = grad_fn(net, loss)(params, {}, (X, targets), None)
    again, (_, compiled) = jit(grad_fn(net, loss))(params, {}, (X, targets), None)
    assert torch.allclose(found["loss"], compiled["loss"], rtol=1e-5)
    assert torch.allclose(grads["fc1.weight"], again["fc1.weight"], rtol=1e-3, atol=1e-6)


UNCALLED = [
    (nn.CrossEntropyLoss, "loss is CrossEntropyLoss itself, which makes a loss; call it"),
    (losses.label_smoothed, "loss is label_smoothed itself"),
    (losses.focal, "loss is focal itself"),
    (losses.huber, "loss is huber itself"),
    (nn.CrossEntropyLoss(reduction="none"), "CrossEntropyLoss with reduction='none', needs 'mean'"),
    ("mse", "loss is 'mse', needs a function"),
]


@pytest.mark.parametrize(("loss", "message"), UNCALLED)
@pytest.mark.parametrize("call", [grad_fn, metrics_fn])
def test_what_is_no_loss_is_named(loss, message, call):
    with pytest.raises(UserError, match=f"{call.__name__}: .*{message}"):
        call(THREE, loss)


WRONG = [
    (lambda y, z: F.cross_entropy(z, y), r"loss\(float32 \(32, 3\), int64 \(32,\)\), its outputs"),
    (lambda z, y: F.cross_entropy(z, y, reduction="none"), r"loss returned shape \(32,\), needs a"),
    (functools.partial(F.cross_entropy, reduction="none"), r"loss returned shape \(32,\), needs a"),
    (lambda z: z.mean(), "takes 1 positional argument"),
    (lambda z, y: (z.argmax(1) != y).sum(), "loss returned int64, needs floating point"),
    (lambda z, y: float(F.cross_entropy(z, y)), "loss returned a float, needs a scalar tensor"),
    (lambda z, y: F.cross_entropy(z, y + 7), "Target . is out of bounds"),
]


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
@pytest.mark.parametrize(("loss", "message"), WRONG)
def test_what_a_loss_does_wrong_is_named(loss, message):
    with pytest.raises(UserError, match=f"grad_fn: .*{message}"):
        grad_fn(THREE, loss, {})(P3, {}, (X, CLASSES), None)


DETACHED = [
    lambda z, y: F.cross_entropy(z.detach(), y),
    lambda z, y: (z.argmax(1) != y).float().mean(),
]


@pytest.mark.filterwarnings("ignore:jit.*runs eagerly")
@pytest.mark.parametrize("loss", DETACHED)
def test_a_loss_without_a_gradient_is_named_on_every_path(loss):
    f, batch = grad_fn(THREE, loss, {}), (X, CLASSES)
    one = lambda x, y: f(P3, {}, (x[None], y[None]), None)
    for call in (
        lambda: f(P3, {}, batch, None),
        lambda: jit(f)(P3, {}, batch, None),
        lambda: torch.func.vmap(one)(*batch),
    ):
        with pytest.raises(UserError, match="grad_fn: loss does not depend on the params"):
            call()
    assert metrics_fn(THREE, loss, {})(P3, {}, batch)["loss"].isfinite()


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), losses.cross_entropy])
def test_one_output_has_no_cross_entropy(loss):
    with pytest.raises(UserError, match="one class"):
        grad_fn(ONE, loss, {})(P1, {}, (X, CLASSES * 0), None)


# --- classes that do not exist, compiled ----------------------------------------------------------


@pytest.fixture
def one_thread():
    """In a loop of several threads C++ cannot hand the error on; it would end the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.label_smoothed(0.1)])
@pytest.mark.parametrize("bad", [3, -1])
def test_compiled_code_names_the_class_that_does_not_exist(loss, bad, one_thread):
    f, wrong = jit(grad_fn(THREE, loss)), CLASSES.clone()
    wrong[5] = bad
    for batch in ((X, wrong), (X, CLASSES), (X, wrong)):  # compiled by it, and then run by it
        if batch[1] is CLASSES:
            assert f(P3, {}, batch, None)[1][1]["loss"].isfinite()
            continue
        with pytest.raises(UserError, match=f"target {bad} is none of the classes 0 to 2"):
            f(P3, {}, batch, None)
    lowered = jit(grad_fn(THREE, loss)).lower(P3, {}, (X, CLASSES), None).compile()
    with pytest.raises(UserError, match=f"target {bad} is none of the classes 0 to 2"):
        lowered(P3, {}, (X, wrong), None)


# --- models and layers ----------------------------------------------------------------------------


def test_a_module_is_no_model():
    for call in (grad_fn, metrics_fn):
        with pytest.raises(UserError, match=r"model is a Linear of torch\.nn.*from_module makes"):
            call(nn.Linear(7, 3))
        with pytest.raises(UserError, match=r"the class Linear, needs a model; from_module"):
            call(nn.Linear)
    with pytest.raises(UserError, match="the class Linear cannot be called without arguments"):
        from_module(nn.Linear)


def good_init(key):
    return {"w": torch.ones(3)}, {}


def good_apply(params, buffers, x, *, train=False, key=None):
    return x * params["w"], buffers


LAYERS = [
    (Model(good_init, lambda p, b, x, **_: x), "apply returned a Tensor, needs .y, buffers."),
    (Model(good_init, lambda p, b, x, **_: [x, b]), "apply returned a list, needs .y, buffers."),
    (Model(good_init, lambda p, b, x, **_: (x, b, b)), "apply returned a tuple of 3, needs"),
]


@pytest.mark.parametrize(("layer", "message"), LAYERS)
def test_what_an_own_layer_does_not_return_is_named(layer, message):
    x = torch.ones(2, 3)  # two rows, which could be taken for a pair
    net = layers.serial(a=layer)
    params, _ = net.init(KEY)
    with pytest.raises(UserError, match=f"a: {message}"):
        net.apply(params, {}, x)
    loss = lambda z, y: z.mean()
    for f in (grad_fn(layer, loss), metrics_fn(layer, loss)):
        with pytest.raises(UserError, match=message):
            f(*layer.init(KEY), (x, x), *[None] * (f.__name__ == "grad"))


def test_an_own_layer_without_keywords_is_named():
    net = layers.serial(a=Model(good_init, lambda p, b, x: (x, b)))
    with pytest.raises(UserError, match=r"a: apply .*; needs apply\(params, buffers, x, \*, train"):
        net.apply(net.init(KEY)[0], {}, torch.ones(2, 3))
    alone = Model(good_init, lambda p, b, x: (x * p["w"], b))
    with pytest.raises(UserError, match=r"model: apply .*; needs apply\(params, buffers, x, \*"):
        grad_fn(alone, lambda z, y: z.mean())({"w": torch.ones(3)}, {}, (X[:, :3], X), None)
    typo = Model(good_init, lambda p, b, x, *, train=False, key=None: (x.bogus(1, 2), b))
    with pytest.raises(AttributeError, match="bogus"):
        layers.serial(a=typo).apply({"a.w": torch.ones(3)}, {}, torch.ones(2, 3))


@pytest.mark.parametrize("init", [lambda key: good_init(key)[0], lambda key: None])
def test_an_own_init_that_returns_no_pair_is_named(init):
    layer = Model(init, good_apply)
    with pytest.raises(UserError, match=r"a: init returned .*, needs \(params, buffers\)"):
        layers.serial(a=layer).init(KEY)
    with pytest.raises(UserError, match=r"init returned .*, needs \(params, buffers\)"):
        init_state(layer, optim.sgd(0.1), KEY)


# --- NumPy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "net", [numpy_nets.MLP(7, [4], 3), numpy_nets.MLP(7, [4], 3, activation="tanh", dropout=0.5)]
)
def test_tensors_as_params_of_a_numpy_net_are_named(net):
    params = to_torch(net.init(random.key(0))[0])
    batch = X.numpy(), CLASSES.numpy()
    for call in (
        lambda: numpy_nets.grad_fn(net)(params, {}, batch, random.key(0)),
        lambda: numpy_nets.metrics_fn(net)(params, {}, batch),
        lambda: net.apply(params, {}, batch[0]),
    ):
        with pytest.raises(UserError, match=r"params\['fc1.weight'\]: a Tensor, needs a NumPy"):
            call()


def test_an_uncalled_loss_of_numpy_is_named():
    with pytest.raises(UserError, match=r"loss is a function.*call it: huber\(...\)"):
        numpy_nets.grad_fn(numpy_nets.MLP(7, [4], 1), numpy_nets.losses.huber)
    with pytest.raises(UserError, match=r"outputs \(2, 3\) and targets \(6,\), needs the same"):
        numpy_nets.losses.mse.forward(np.ones((2, 3)), np.ones(6))


# --- metrics, and means over the examples ---------------------------------------------------------

WEIGHT = torch.tensor([1.0, 5.0, 20.0])
WITH_IGNORED = torch.where(torch.arange(32) < 4, -100, CLASSES)
own_mae = lambda outputs, y: (outputs - y).abs().mean()


@pytest.mark.parametrize("metric", [own_mae, F.l1_loss, nn.L1Loss()])
@pytest.mark.parametrize("transform", [lambda f: f, jit])
def test_metrics_do_not_pair_a_column_and_a_row(metric, transform):
    f = transform(metrics_fn(ONE, losses.mse, {"mae": metric}))
    with pytest.raises(UserError, match=r"metrics: mae: outputs \(32, 1\) and targets \(32,\) are"):
        f(P1, {}, (X, NUMBERS))
    right = float((ONE.apply(P1, {}, X)[0] - COLUMN).abs().mean())
    assert float(f(P1, {}, (X, COLUMN))["mae"]) == pytest.approx(right, rel=1e-5)
    both = metrics_fn(ONE, losses.mse, {"r2": r2})  # which the package's own reshape
    assert both(P1, {}, (X, NUMBERS)) == both(P1, {}, (X, COLUMN))


calibration = functools.partial(expected_calibration_error, n_bins=10)
NO_MEANS = [
    (nn.CrossEntropyLoss(weight=WEIGHT), {}, CLASSES, "loss"),
    (functools.partial(functools.partial(F.cross_entropy), weight=WEIGHT), {}, CLASSES, "loss"),
    (nn.CrossEntropyLoss(reduction="sum"), {}, CLASSES, "loss"),
    (F.cross_entropy, None, WITH_IGNORED, "loss, accuracy"),
    (lambda z, y: F.cross_entropy(z, y), None, WITH_IGNORED, "accuracy"),
    (losses.cross_entropy, {"ece": calibration}, CLASSES, "ece"),
    (losses.cross_entropy, {"ece": functools.partial(calibration)}, CLASSES, "ece"),
    (losses.cross_entropy, {"ece": functools.wraps(calibration)(lambda *a: 0.0)}, CLASSES, "ece"),
    (losses.cross_entropy, {"sum": nn.CrossEntropyLoss(reduction="sum")}, CLASSES, "sum"),
]


@pytest.mark.parametrize(("loss", "metrics", "targets", "names"), NO_MEANS)
@pytest.mark.parametrize("transform", [lambda f: f, jit])
def test_what_is_no_mean_is_not_evaluated_in_parts(loss, metrics, targets, names, transform):
    measure = transform(metrics_fn(THREE, loss, metrics))
    state = train_state(P3, {}, optim.sgd(0.1), KEY)
    with pytest.raises(UserError, match=f"evaluate: {names} on 32 examples is not the mean"):
        evaluate(measure, state, (X, targets), batch_size=3)
    evaluate(measure, state, (X, targets))


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), F.mse_loss])
def test_means_are_evaluated_in_parts(loss):
    targets = CLASSES if loss is not F.mse_loss else X[:, :3]
    measure, state = metrics_fn(THREE, loss), train_state(P3, {}, optim.sgd(0.1), KEY)
    whole = evaluate(measure, state, (X, targets))
    assert evaluate(measure, state, (X, targets), batch_size=3) == pytest.approx(whole, rel=1e-5)
