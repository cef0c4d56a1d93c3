"""Losses: torch's own numbers, the NumPy backend's by hand, and published forms."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from purenets import UserError, accuracy, numpy_nets, random, torch_nets, tree
from purenets.core.gradcheck import check_gradient
from purenets.numpy_nets import losses as by_hand
from purenets.torch_nets import losses

DRAW = np.random.default_rng(0)
X, NUMBERS = torch.tensor(DRAW.normal(size=(6, 4)) * 3), torch.tensor(DRAW.normal(size=(6, 4)))
YES = torch.tensor(DRAW.integers(0, 2, (6, 4)))
CLASSES = torch.tensor(DRAW.integers(0, 4, 6))
SOFT = torch.tensor(DRAW.dirichlet(np.ones(4), 6))

# name: ours, the second way, targets
PAIRS = {
    "mse": (losses.mse, F.mse_loss, NUMBERS),
    "huber": (losses.huber(), F.huber_loss, NUMBERS),
    "huber 0.3": (losses.huber(0.3), lambda x, t: F.huber_loss(x, t, delta=0.3), NUMBERS),
    "binary": (
        losses.binary_cross_entropy,
        lambda x, t: F.binary_cross_entropy(torch.sigmoid(x), t.double()),
        YES,
    ),
    "focal of no gamma": (losses.focal(0.0), F.cross_entropy, CLASSES),
    "focal": (
        losses.focal(2.0),
        lambda x, t: ((1 - x.softmax(1)) ** 2 * -x.log_softmax(1)).gather(1, t[:, None]).mean(),
        CLASSES,
    ),
    "focal of labels": (
        losses.focal(1.5),
        lambda x, t: -(t * (1 - x.softmax(1)) ** 1.5 * x.log_softmax(1)).sum(1).mean(),
        SOFT,
    ),
    "binary focal of no gamma": (
        losses.binary_focal(0.0), losses.binary_cross_entropy, YES
    ),
    "label smoothed": (
        losses.label_smoothed(0.1),
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.1),
        CLASSES,
    ),
}  # fmt: skip


def value_and_grad(f, x, targets):
    x = x.clone().requires_grad_()
    value = f(x, targets)
    return value.detach(), *torch.autograd.grad(value, x)


@pytest.mark.parametrize("name", PAIRS)
def test_value_and_gradient_equal_the_second_way(name):
    mine, other, targets = PAIRS[name]
    for a, b in zip(*(value_and_grad(f, X, targets) for f in (mine, other)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    each = torch.func.vmap(lambda x, t: mine(x[None], t[None]))(X, targets)
    torch.testing.assert_close(each.mean(), mine(X, targets), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_binary_focal_loss_is_torchvisions(alpha):
    theirs = pytest.importorskip("torchvision.ops").sigmoid_focal_loss
    call = lambda x, t: theirs(x, t.double(), -1 if alpha is None else alpha, 2.0, "mean")
    mine = losses.binary_focal(2.0, alpha)
    for a, b in zip(*(value_and_grad(f, X, YES) for f in (mine, call)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_the_focal_gradient_of_what_is_certain_is_finite():
    far = torch.tensor([[50.0, -50.0]], dtype=torch.float64)
    for loss, t in (
        (losses.focal(), torch.tensor([0])),
        (losses.binary_focal(), torch.tensor([[1, 0]])),
    ):
        value, grad = value_and_grad(loss, far, t)
        assert 0 <= value < 1e-20 and grad.isfinite().all()


NUMPY = {
    "mse": (by_hand.mse, losses.mse, NUMBERS),
    "huber": (by_hand.huber(0.7), losses.huber(0.7), NUMBERS),
    "binary": (by_hand.binary_cross_entropy, losses.binary_cross_entropy, YES),
    "classes": (by_hand.cross_entropy, losses.cross_entropy, CLASSES),
}


@pytest.mark.parametrize("name", NUMPY)
def test_by_hand_equals_torch_and_central_differences(name):
    mine, other, targets = NUMPY[name]
    value, cache = mine.forward(X.numpy(), targets.numpy())
    grad = mine.backward(1.0, cache)
    expected, expected_grad = value_and_grad(other, X, targets)
    assert np.isclose(value, expected, rtol=1e-13)
    assert np.allclose(grad, expected_grad, rtol=1e-12, atol=1e-15)
    f = lambda leaves: mine.forward(leaves["x"], targets.numpy())[0]
    assert check_gradient(f, {"x": X.numpy()}, {"x": grad}, random.key(0)) < 1e-8


@pytest.mark.parametrize("name", NUMPY)
def test_gradients_of_a_net_are_those_of_the_other_backend(name):
    mine, other, targets = NUMPY[name]
    params, _ = numpy_nets.MLP(4, [5], 4).init(random.key(1))
    params = tree.cast(params, "float64")
    grads, (_, metrics) = numpy_nets.grad_fn(numpy_nets.MLP(4, [5], 4), mine)(
        params, {}, (X.numpy(), targets.numpy()), None
    )
    expected, (_, torch_metrics) = torch_nets.grad_fn(torch_nets.MLP(4, [5], 4), other)(
        tree.map(torch.tensor, params), {}, (X, targets), None
    )
    for leaf in params:
        assert np.allclose(grads[leaf], expected[leaf], rtol=1e-11, atol=1e-14)
    assert metrics.keys() == torch_metrics.keys()
    assert all(np.isclose(metrics[key], torch_metrics[key], rtol=1e-12) for key in metrics)
    found = numpy_nets.metrics_fn(numpy_nets.MLP(4, [5], 4), mine)(
        params, {}, (X.numpy(), targets.numpy())
    )
    assert all(np.isclose(found[key], metrics[key], rtol=1e-12) for key in metrics)


def test_a_column_and_a_vector_go_together_and_nothing_else_is_broadcast():
    x, t = X[:, :1], NUMBERS[:, 0]
    for mine, hand in ((losses.mse, by_hand.mse), (losses.huber(), by_hand.huber())):
        assert torch.equal(mine(x, t), mine(x, t[:, None]))
        assert np.isclose(hand.forward(x.numpy(), t.numpy())[0], mine(x, t), rtol=1e-13)
    for call in (
        lambda: losses.mse(X, NUMBERS[:, 0]),
        lambda: by_hand.mse.forward(X.numpy(), NUMBERS[:, 0].numpy()),
    ):
        with pytest.raises(UserError, match=r"mse: outputs \(6, 4\) and targets \(6,\), needs"):
            call()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: losses.huber(0.0), "huber: delta: 0.0 is not a finite number above 0"),
        (lambda: by_hand.huber(-1.0), "huber: delta: -1.0 is not"),
        (lambda: losses.focal(-1.0), "focal: gamma: -1.0 is not a finite number from 0 on"),
        (lambda: losses.binary_focal(2.0, 1.5), "binary_focal: alpha: 1.5 is not from 0 to 1"),
        (lambda: losses.focal()(X, CLASSES + 4), "is none of the classes 0 to 3"),
        (lambda: losses.mse(X[:0], NUMBERS[:0]), "mse: an empty batch has no mean"),
        (lambda: by_hand.mse.forward(X[:0].numpy(), X[:0].numpy()), "an empty batch has no mean"),
    ],
)
def test_wrong_arguments_are_named(call, text):
    with pytest.raises(UserError, match=text):
        call()


@pytest.mark.parametrize("function", [losses.cross_entropy, accuracy], ids=["loss", "accuracy"])
def test_classes_along_the_last_axis_are_told_where_they_belong(function):
    logits = torch.as_tensor(random.normal(random.key(1), (2, 5, 3)))
    targets = torch.tensor([[0, 1, 2, 0, 1], [2, 2, 1, 0, 0]])
    with pytest.raises(UserError, match=r"classes are axis 1, .* pass \w+\.movedim\(-1, 1\)"):
        function(logits, targets)
    flat = function(logits.flatten(0, 1), targets.flatten())
    assert torch.isclose(function(logits.movedim(-1, 1), targets), flat, rtol=1e-6)


# --- logits that leave no doubt, or are masked --------------------------------------------------

GAMMAS = [0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0]


def focal_slope(p, gamma):
    """The derivative of -(1 - p)^gamma log p by log p; its limits where p is 0 or 1."""
    if p == 0:
        return -1.0
    if p == 1:
        return 0.0 if gamma else -1.0
    return -((1 - p) ** gamma) + gamma * p * (1 - p) ** (gamma - 1) * np.log(p)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("logits", [[0.0, 20.0], [0.0, 2000.0], [0.0, 0.5, -np.inf]])
def test_focal_gradients_are_right_where_a_class_is_sure_or_masked(logits, target, gamma):
    z = torch.tensor([logits], dtype=torch.float64, requires_grad=True)
    p = z.detach()[0].softmax(0).numpy()
    labels = np.eye(len(logits))[target]
    expected = focal_slope(p[target], gamma) * (labels - p)
    for targets in (torch.tensor([target]), torch.tensor(labels)[None]):
        loss = losses.focal(gamma)(z, targets)
        (found,) = torch.autograd.grad(loss, z)
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6, atol=1e-12)
        assert loss.isfinite()
        assert torch.func.hessian(losses.focal(gamma))(z.detach(), targets).isfinite().all()
    (found,) = torch.autograd.grad(losses.focal(gamma)(z.float(), torch.tensor([target])), z)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("logit", [-200.0, 0.3, 200.0])
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_binary_focal_gradients_are_right_where_the_answer_is_sure(logit, target, gamma):
    x = torch.tensor([logit], requires_grad=True)
    p = torch.sigmoid(x.detach().double() if target else -x.detach().double()).item()
    expected = focal_slope(p, gamma) * (1 - p) * (1 if target else -1)
    loss = losses.binary_focal(gamma)(x, torch.tensor([target]))
    (found,) = torch.autograd.grad(loss, x)
    np.testing.assert_allclose(found.item(), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("labels", [[[0.5, 0.5, 0.0]], [[1, 0, 0]]])
def test_a_masked_class_of_label_0_adds_nothing_in_both_backends(labels):
    logits = np.array([[0.0, 1.0, -np.inf]])
    value, cache = by_hand.cross_entropy.forward(logits, np.array(labels))
    z = torch.tensor(logits, requires_grad=True)
    loss = losses.cross_entropy(z, torch.tensor(labels))
    (found,) = torch.autograd.grad(loss, z)
    np.testing.assert_allclose(loss.item(), value, rtol=1e-12)
    np.testing.assert_allclose(found, by_hand.cross_entropy.backward(1.0, cache), atol=1e-12)


def test_huber_of_huge_residuals_overflows_nowhere():
    y = np.float32([1e30, -1e30, 0.5])
    with np.errstate(all="raise"):
        value, _ = by_hand.huber(2.0).forward(y, np.zeros(3, np.float32))
    assert value == losses.huber(2.0)(torch.tensor(y), torch.zeros(3)).item()


@pytest.mark.parametrize(
    "loss", [losses.cross_entropy, losses.focal(2.0), losses.label_smoothed(0.1)]
)
def test_a_class_that_was_nan_is_refused(loss):
    classes = torch.tensor([float("nan"), 1.0]).long()
    with pytest.raises(UserError, match="none of the classes 0 to 3"):
        loss(X[:2], classes)


@pytest.mark.parametrize("name", ["mse", "huber", "binary_cross_entropy"])
def test_complex_targets_by_hand_are_told(name):
    loss = by_hand.huber() if name == "huber" else getattr(by_hand, name)
    targets = np.array([1.0 + 1j, 0.0])
    with pytest.raises(UserError, match=f"^{name}: the targets are complex128, needs real numbers"):
        loss.forward(np.zeros(2), targets)
