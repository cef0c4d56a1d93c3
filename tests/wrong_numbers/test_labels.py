"""Labels that are no class numbers of shape (n,)."""

import numpy as np
import pytest
import torch

from purenets import UserError, data, init_state, make_step, numpy_nets, optim, random, torch_nets
from purenets.numpy_nets import MLP
from purenets.torch_nets import MLP as TorchMLP
from tests.wrong_numbers.choice import or_refused

X = random.normal(random.key(1), (6, 4))
Y = np.array([0, 1, 2, 0, 1, 2])
COLUMN = Y[:, None]
NET = MLP(4, [8], 3)
PARAMS, _ = NET.init(random.key(0))
TORCH_NET = TorchMLP(4, [8], 3)
TORCH_PARAMS, _ = TORCH_NET.init(random.key(0))


def gradient_and_metrics(labels, x=X):
    grads, (_, metrics) = numpy_nets.grad_fn(NET)(PARAMS, {}, (x, labels), None)
    return grads, metrics


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="another loss, in silence")
def test_column_of_labels_gives_the_same_loss():
    found = or_refused(gradient_and_metrics, COLUMN)
    assert found is None or found[1] == pytest.approx(gradient_and_metrics(Y)[1])


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="another gradient, in silence")
def test_column_of_labels_gives_the_same_gradient():
    found, right = or_refused(gradient_and_metrics, COLUMN), gradient_and_metrics(Y)[0]
    assert found is None or all(np.allclose(found[0][name], right[name]) for name in right)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="six losses, an accuracy of 2")
def test_column_of_labels_gives_the_same_step():
    optimizer = optim.sgd(0.1)
    state = init_state(NET, optimizer, random.key(0))
    step = make_step(numpy_nets.grad_fn(NET), optimizer)
    found = or_refused(step, state, (X, COLUMN))
    assert found is None or found[1] == pytest.approx(step(state, (X, Y))[1])


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="neither refuses it")
def test_column_of_labels_does_not_pass_batches_and_the_gradient_unseen():
    def through_both():
        x, labels = data.batches((X, COLUMN), 6, random.key(0))(0)
        return gradient_and_metrics(labels, x)[1]

    x, labels = data.batches((X, Y), 6, random.key(0))(0)
    found = or_refused(through_both)
    assert found is None or found == pytest.approx(gradient_and_metrics(labels, x)[1])


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="taken for the last class")
def test_label_of_minus_1_is_refused():
    with pytest.raises(UserError):
        gradient_and_metrics(np.full(6, -1))


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="the accuracy counts what is ignored")
def test_ignored_labels_are_in_neither_loss_nor_accuracy():
    x, labels = torch.tensor(X), torch.tensor([0, 1, 2, -100, -100, -100])
    grad = torch_nets.grad_fn(TORCH_NET)
    right = (TORCH_NET.apply(TORCH_PARAMS, {}, x[:3])[0].argmax(1) == labels[:3]).float().mean()
    found = or_refused(grad, TORCH_PARAMS, {}, (x, labels), None)
    assert found is None or found[1][1]["accuracy"] == pytest.approx(float(right))


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="expects int64")
def test_int32_labels_are_classes_too():
    x, labels, grad = torch.tensor(X), torch.tensor(Y), torch_nets.grad_fn(TORCH_NET)
    right = grad(TORCH_PARAMS, {}, (x, labels), None)[1][1]
    found = or_refused(grad, TORCH_PARAMS, {}, (x, labels.int()), None)
    assert found is None or found[1][1] == pytest.approx(right)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="returns 5,000 rows of 800")
def test_batch_is_never_larger_than_its_set():
    small = np.zeros((800, 2), np.float32), np.zeros(800, np.int64)
    batch = or_refused(lambda: data.batches(small, 5000, random.key(0))(0))
    assert batch is None or len(batch[1]) <= 800


@pytest.mark.xfail(strict=True, raises=UserError, reason="targets must be integers")
def test_batches_take_the_targets_of_a_regression():
    y = random.normal(random.key(2), (6, 1))
    assert data.batches((X, y), 3, random.key(0))(0)[1].shape == (3, 1)
