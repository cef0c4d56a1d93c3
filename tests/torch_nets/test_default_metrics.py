"""Which accuracy is measured by default: the one that loss and targets mean, or none."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from purenets import UserError, random
from purenets.core.metrics import accuracy, top_k_accuracy
from purenets.torch_nets import MLP, from_module, grad_fn, jit, metrics_fn
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.losses import cross_entropy, focal, label_smoothed

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (64, 2))
CLASSES = (X[:, 0] > 0).long()
SOFT = torch.softmax(random.normal(random.fold_in(KEY, 1), (64, 2)), dim=1)
NUMBERS = random.normal(random.fold_in(KEY, 2), (64, 1))
ONE, TWO = MLP(2, [8], 1), MLP(2, [8], 2)


def outputs(net):
    return net.apply(net.init(KEY)[0], {}, X)[0]


SIGNS = outputs(ONE)[:, 0] > 0
HITS_OF_ONE = float((SIGNS == CLASSES).float().mean())
HITS_OF_TWO = float((outputs(TWO).argmax(1) == CLASSES).float().mean())
COLUMN = CLASSES.float().unsqueeze(1)


def measured(net, loss, targets):
    """The metrics of gradient, evaluation and private gradient, which must agree."""
    params, _ = net.init(KEY)
    batch = X, targets
    found = [
        grad_fn(net, loss)(params, {}, batch, None)[1][1],
        metrics_fn(net, loss)(params, {}, batch),
        dp_grad_fn(net, 1.0, 0.0, loss)(params, {}, batch, KEY)[1][1],
    ]
    assert found[0].keys() == found[1].keys() == found[2].keys()
    for name in found[0].keys() - {"loss"}:
        assert len({float(metrics[name]) for metrics in found}) == 1
    return found[0]


@pytest.mark.parametrize(
    "loss",
    [
        F.binary_cross_entropy_with_logits,
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor(2.0)),
        functools.partial(F.binary_cross_entropy_with_logits, pos_weight=torch.tensor(2.0)),
    ],
)
def test_accuracy_of_one_logit_is_that_of_its_sign(loss):
    assert HITS_OF_ONE not in (0.0, 1.0)
    assert float(measured(ONE, loss, COLUMN)["accuracy"]) == pytest.approx(HITS_OF_ONE)


@pytest.mark.parametrize("loss", [F.soft_margin_loss, nn.SoftMarginLoss()])
def test_accuracy_of_labels_of_minus_one_and_one(loss):
    found = metrics_fn(ONE, loss)(ONE.init(KEY)[0], {}, (X, 2 * COLUMN - 1))
    assert float(found["accuracy"]) == pytest.approx(HITS_OF_ONE)


@pytest.mark.parametrize("loss", [F.binary_cross_entropy, nn.BCELoss()])
def test_accuracy_of_one_probability_is_that_of_its_half(loss):
    net = ONE._replace(apply=lambda *args, **kw: (torch.sigmoid(ONE.apply(*args, **kw)[0]), {}))
    assert float(measured(net, loss, COLUMN)["accuracy"]) == pytest.approx(HITS_OF_ONE)


def test_accuracy_of_several_labels_counts_each():
    labels = torch.stack([CLASSES, 1 - CLASSES], 1).float()
    right = ((outputs(TWO) > 0) == labels).float().mean()
    found = measured(TWO, F.binary_cross_entropy_with_logits, labels)["accuracy"]
    assert float(found) == pytest.approx(float(right))


@pytest.mark.parametrize(
    "loss", [F.mse_loss, F.l1_loss, F.huber_loss, F.smooth_l1_loss, nn.MSELoss(), nn.HuberLoss()]
)
@pytest.mark.parametrize(("net", "targets"), [(ONE, NUMBERS), (TWO, SOFT)], ids=["one", "two"])
def test_regression_has_no_accuracy(loss, net, targets):
    assert measured(net, loss, targets).keys() == {"loss"}


@pytest.mark.parametrize(
    ("net", "loss", "targets"),
    [
        (ONE, lambda f, y: ((f - y) ** 2).mean(), NUMBERS),
        (TWO, lambda f, y: ((f - y) ** 2).mean(), SOFT),
        (ONE, lambda f, y: F.binary_cross_entropy_with_logits(f[:, 0], y.float()), CLASSES),
        (ONE, lambda f, y: F.poisson_nll_loss(f[:, 0], y), CLASSES),
    ],
)
def test_loss_that_is_not_known_has_no_accuracy_where_shapes_do_not_tell(net, loss, targets):
    assert measured(net, loss, targets).keys() == {"loss"}


@pytest.mark.parametrize(
    "loss",
    [
        F.cross_entropy,
        nn.CrossEntropyLoss(label_smoothing=0.1),
        label_smoothed(0.1),
        functools.partial(
            functools.partial(F.cross_entropy, label_smoothing=0.1), reduction="mean"
        ),
        lambda logits, y: F.cross_entropy(2 * logits, y),
    ],
)
def test_accuracy_of_class_numbers(loss):
    assert float(measured(TWO, loss, CLASSES)["accuracy"]) == pytest.approx(HITS_OF_TWO)


@pytest.mark.parametrize("loss", [F.cross_entropy, nn.CrossEntropyLoss(), label_smoothed(0.1)])
def test_accuracy_of_soft_labels_where_the_loss_means_them(loss):
    right = (outputs(TWO).argmax(1) == SOFT.argmax(1)).float().mean()
    assert float(measured(TWO, loss, SOFT)["accuracy"]) == pytest.approx(float(right))


class AtEveryTime(nn.Module):
    """x: (batch, time, 2) -> logits: (batch, 3, time)."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, x):
        return self.fc(x).movedim(-1, 1)


@pytest.mark.parametrize("time", [2, 3])
def test_loss_that_turns_the_axes_itself_has_no_accuracy_where_both_may_be_the_classes(time):
    net, x = from_module(nn.Linear(2, 3)), random.normal(KEY, (6, time, 2))
    targets = random.randint(KEY, (6, time), 0, 3)
    loss = lambda logits, y: F.cross_entropy(logits.mT, y)
    _, (_, found) = grad_fn(net, loss)(*net.init(None), (x, targets), KEY)
    assert found.keys() == {"loss"}


def test_model_with_several_outputs_has_a_loss_and_no_accuracy():
    net, x = from_module(nn.LSTM(2, 3, batch_first=True)), random.normal(KEY, (6, 4, 2))
    loss = lambda outputs, y: F.cross_entropy(outputs[0][:, -1], y)
    targets = random.randint(KEY, (6,), 0, 3)
    _, (_, found) = grad_fn(net, loss)(*net.init(None), (x, targets), KEY)
    assert found.keys() == {"loss"}
    own = {"mean": lambda outputs, y: outputs[0].mean()}
    _, (_, found) = grad_fn(net, loss, own)(*net.init(None), (x, targets), KEY)
    assert found.keys() == {"loss", "mean"} and not found["mean"].requires_grad


@pytest.mark.parametrize("time", [1, 3, 5])
def test_accuracy_of_logits_at_every_time(time):
    net, x = from_module(AtEveryTime()), random.normal(KEY, (6, time, 2))
    targets = random.randint(random.fold_in(KEY, 3), (6, time), 0, 3)
    params, _ = net.init(None)
    right = float((net.apply(params, {}, x)[0].argmax(1) == targets).float().mean())
    for f in (grad_fn(net), dp_grad_fn(net, 1.0, 0.0)):
        assert float(f(params, {}, (x, targets), KEY)[1][1]["accuracy"]) == pytest.approx(right)


def test_ignored_targets_are_in_neither_loss_nor_accuracy():
    targets = CLASSES.clone()
    targets[10:] = -100
    params, _ = TWO.init(KEY)
    metrics = metrics_fn(TWO, F.cross_entropy)
    right = metrics(params, {}, (X[:10], CLASSES[:10]))
    found = metrics(params, {}, (X, targets))
    assert {k: float(v) for k, v in found.items()} == pytest.approx(
        {k: float(v) for k, v in right.items()}
    )


def test_asking_for_an_accuracy_that_means_nothing_is_refused():
    params, _ = ONE.init(KEY)
    with pytest.raises(UserError, match="accuracy: predictions"):
        grad_fn(ONE, F.mse_loss, {"accuracy": accuracy})(params, {}, (X, NUMBERS), None)


def test_private_gradient_takes_other_metrics():
    params, _ = TWO.init(KEY)
    metrics = {"top_2": top_k_accuracy(2), "share": lambda logits, y: y.float().mean()}
    found = dp_grad_fn(TWO, 1.0, 0.0, metrics=metrics)(params, {}, (X, CLASSES), KEY)[1][1]
    assert found.keys() == {"loss", "top_2", "share"}
    assert float(found["top_2"]) == 1
    assert float(found["share"]) == pytest.approx(float(CLASSES.float().mean()))
    with pytest.raises(UserError, match="'loss'"):
        dp_grad_fn(TWO, 1.0, 0.0, metrics={"loss": accuracy})


@pytest.mark.parametrize(
    ("net", "loss", "targets"),
    [
        (ONE, F.binary_cross_entropy_with_logits, COLUMN),
        (ONE, F.mse_loss, NUMBERS),
        (TWO, F.nll_loss, CLASSES),
    ],
)
def test_default_metrics_under_vmap_and_jit(net, loss, targets):
    params, _ = net.init(KEY)
    metrics, batch = metrics_fn(net, loss), (X, targets)
    many = torch.func.vmap(metrics, in_dims=(None, None, 0))
    halves = tuple(part.reshape(2, 32, *part.shape[1:]) for part in batch)
    found, right = many(params, {}, halves), metrics(params, {}, batch)
    compiled = jit(metrics)(params, {}, batch)
    assert found.keys() == compiled.keys() == right.keys()
    for name, value in right.items():
        assert float(found[name].mean()) == pytest.approx(float(value), abs=1e-6)
        assert float(compiled[name]) == pytest.approx(float(value), abs=1e-6)


@pytest.mark.parametrize("loss", [cross_entropy, focal(2.0), label_smoothed(0.1), F.cross_entropy])
@pytest.mark.parametrize("targets", [CLASSES, SOFT], ids=["classes", "soft"])
def test_logits_that_are_nan_are_never_right(loss, targets):
    params, _ = TWO.init(KEY)
    right = outputs(TWO).argmax(1) == (targets if targets is CLASSES else targets.argmax(1))
    for gone in (slice(0, 64), slice(0, 5)):
        x = X.clone()
        x[gone] = torch.nan
        expected = float((right & ~x.isnan().any(1)).float().mean())
        grad = grad_fn(TWO, loss)
        for f in (grad, jit(grad)):
            assert float(f(params, {}, (x, targets), None)[1][1]["accuracy"]) == expected
        assert float(metrics_fn(TWO, loss)(params, {}, (x, targets))["accuracy"]) == expected
