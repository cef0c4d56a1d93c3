"""Labels in both backends: each form that means something gives one number, all others one line."""

import numpy as np
import pytest
import torch

from purenets import UserError, data, init_state, make_step, numpy_nets, optim, random, torch_nets
from purenets.numpy_nets import modules
from purenets.torch_nets import jit, losses
from purenets.torch_nets.analysis.per_example import per_example_grads
from purenets.torch_nets.losses import (
    binary_cross_entropy,
    binary_focal,
    cross_entropy,
    focal,
    label_smoothed,
)

X = random.normal(random.key(1), (6, 4))
Y = np.array([0, 1, 2, 0, 1, 2])
ONE_HOT = np.eye(3, dtype=np.int64)[Y]
SOFT = modules.softmax_forward(random.normal(random.key(2), (6, 3), "float64"))[0]
NET, TORCH_NET = numpy_nets.MLP(4, [8], 3), torch_nets.MLP(4, [8], 3)
PARAMS, _ = NET.init(random.key(0))


def by_numpy(labels, x=X):
    """The gradient and the loss by hand."""
    grads, (_, metrics) = numpy_nets.grad_fn(NET)(PARAMS, {}, (x, labels), None)
    return grads, float(metrics["loss"])


def by_torch(labels, x=X):
    """The same by autograd."""
    params = torch_nets.to_torch(PARAMS)
    batch = torch.as_tensor(x), torch.as_tensor(labels)
    grads, (_, metrics) = torch_nets.grad_fn(TORCH_NET, metrics={})(params, {}, batch, None)
    return torch_nets.to_numpy(grads), float(metrics["loss"])


BACKENDS = pytest.mark.parametrize("backend", [by_numpy, by_torch])


def assert_same(found, right):
    assert found[1] == pytest.approx(right[1], rel=1e-5)
    for name, gradient in right[0].items():
        assert np.allclose(found[0][name], gradient, rtol=1e-4, atol=1e-6)


FORMS = {
    **{
        dtype: Y.astype(dtype)
        for dtype in ("int8", "uint8", "int16", "int32", "uint32", "int64", "uint64")
    },
    **{
        f"one-hot {dtype}": ONE_HOT.astype(dtype)
        for dtype in ("bool", "uint8", "int64", "float32", "float64")
    },
}


@BACKENDS
@pytest.mark.parametrize("form", FORMS)
def test_class_numbers_and_one_hot_labels_of_any_dtype_give_one_number(backend, form):
    assert_same(backend(FORMS[form]), by_numpy(Y))


@BACKENDS
def test_booleans_are_the_classes_0_and_1(backend):
    assert_same(backend(Y > 0), by_numpy((Y > 0).astype(int)))


def test_soft_labels_give_the_same_number_in_both_backends():
    assert_same(by_numpy(SOFT), by_torch(SOFT.astype(np.float32)))
    assert_same(by_numpy(SOFT.astype(np.float32)), by_torch(SOFT.astype(np.float32)))


NO_DISTRIBUTIONS = {
    "rows of another sum": (SOFT * np.arange(1, 7)[:, None], "but those of example 1 sum to 2"),
    "a row of zeros": (np.concatenate([SOFT[:5], 0 * SOFT[:1]]), "but those of example 5 sum to 0"),
    "logits": (np.log(SOFT), "but an entry is -"),
    "an entry below 0": (SOFT + np.array([0.9, -0.9, 0]), "but an entry is -0"),
    "nan": (SOFT * [[1, np.nan, 1]], "but an entry is nan"),
    "integers": (ONE_HOT * 3, "integer labels .* must be one-hot"),
}


@BACKENDS
@pytest.mark.parametrize("wrong", NO_DISTRIBUTIONS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_labels_that_are_no_distribution_are_refused(backend, wrong, dtype):
    labels, message = NO_DISTRIBUTIONS[wrong]
    labels = labels if labels.dtype.kind == "i" else labels.astype(dtype)
    with pytest.raises(UserError, match=message):
        backend(labels)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_example_with_wrong_labels_is_named_also_where_it_has_positions(dtype):
    labels = np.full((2, 3, 4), 1 / 3 + 0.002, dtype)  # all are off by rounding, as float16 may be
    labels[1, :, 2] = 0.5
    logits = np.zeros(labels.shape, np.float32)
    with pytest.raises(UserError, match=f"example {int(dtype == 'float16')} sum to"):
        losses.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels))


@BACKENDS
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_labels_that_round_to_a_distribution_are_taken(backend, dtype):
    many = modules.softmax_forward(random.normal(random.key(2), (6, 3)) * 4)[0].astype(dtype)
    assert np.isfinite(backend(many)[1])


@pytest.mark.parametrize("loss", [cross_entropy, focal(2.0), label_smoothed(0.1)])
def test_swapped_arguments_are_refused(loss):
    logits, classes = torch.tensor(X[:, :3]), torch.tensor(Y)
    for labels in (torch.tensor(SOFT, dtype=torch.float32), torch.tensor(ONE_HOT), classes):
        with pytest.raises(UserError, match=r"\(outputs|logits, targets\) in this order"):
            loss(labels, logits)


YES_OR_NO = [binary_cross_entropy, binary_focal(2.0), binary_focal(2.0, 0.3)]


@pytest.mark.parametrize("loss", YES_OR_NO)
@pytest.mark.parametrize("bad", [2.0, -1.0, float("nan")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_targets_of_yes_or_no_are_from_0_to_1(loss, bad, dtype):
    targets = torch.tensor([0, 1, 0.5, bad], dtype=dtype)
    with pytest.raises(UserError, match=f"target {bad:.4g} is not from 0 .no. to 1 .yes."):
        loss(torch.zeros(4), targets)
    assert loss(torch.zeros(3), targets[:3]).isfinite()
    by_hand = numpy_nets.losses.binary_cross_entropy
    with pytest.raises(UserError, match=f"target {bad:.4g} is not from 0 .no. to 1 .yes."):
        by_hand.forward(np.zeros(4), np.array([0, 1, 0.5, bad]))


@pytest.mark.parametrize("column", [False, True])
def test_one_output_has_no_cross_entropy(column):
    y, outputs = Y * 0, X[:, :1]
    y = y[:, None].astype(np.float32) if column else y
    with pytest.raises(UserError, match="one class"):
        numpy_nets.grad_fn(numpy_nets.MLP(4, [8], 1))(
            numpy_nets.MLP(4, [8], 1).init(random.key(0))[0], {}, (X, y), None
        )
    for loss in (cross_entropy, focal(2.0), label_smoothed(0.1)):
        with pytest.raises(UserError, match="one class"):
            loss(torch.tensor(outputs), torch.tensor(y))
        with pytest.raises(UserError, match="one class"):
            jit(loss)(torch.tensor(outputs), torch.tensor(y))


@pytest.mark.parametrize(
    ("loss", "by_hand"),
    [
        (losses.mse, numpy_nets.losses.mse),
        (losses.huber(1.0), numpy_nets.losses.huber(1.0)),
        (losses.binary_cross_entropy, numpy_nets.losses.binary_cross_entropy),
        (losses.cross_entropy, numpy_nets.losses.cross_entropy),
    ],
)
@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_outputs_that_are_integers_are_refused(loss, by_hand, dtype):
    outputs = ONE_HOT.astype(dtype)
    with pytest.raises(UserError, match=f"the outputs are {dtype}, needs floating point"):
        loss(torch.tensor(outputs), torch.tensor(SOFT))
    with pytest.raises(UserError, match=f"the outputs are {dtype}, needs floating point"):
        by_hand.forward(outputs, SOFT)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_soft_labels_do_not_change_the_dtype_of_the_gradient(dtype):
    grads, _ = by_numpy(SOFT.astype(dtype))
    assert {g.dtype for g in grads.values()} == {np.dtype(np.float32)}


WRONG = {
    "a column": (Y[:, None], r"are a column \(6, 1\), needs class numbers \(6,\)"),
    "a column of numbers": (Y[:, None].astype(np.float32), r"are a column \(6, 1\)"),
    "a row": (Y[None], r"targets of shape \(1, 6\)"),
    "too few": (Y[:4], r"targets of shape \(4,\) for logits of shape \(6, 3\)"),
    "other classes": (np.eye(4)[Y], r"targets of shape \(6, 4\)"),
    "a number": (np.array(1), r"targets of shape \(\)"),
    "floats": (Y.astype(np.float32), "class numbers must be integers, got .*float32"),
    "minus 1": (np.full(6, -1), "target -1 is none of the classes 0 to 2"),
    "minus 1 in int8": (np.full(6, -1, np.int8), "target -1 is none of the classes 0 to 2"),
    "minus 100": (
        np.array([0, 1, 2, -100, -100, -100]),
        "target -100 is none of the classes 0 to 2",
    ),
    "beyond": (np.array([0, 1, 2, 3, 1, 2]), "target 3 is none of the classes 0 to 2"),
    "from 1": (Y + 1, "target 3 is none of the classes 0 to 2"),
}


@BACKENDS
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_label_is_refused(backend, wrong):
    labels, message = WRONG[wrong]
    with pytest.raises(UserError, match=message):
        backend(labels)


def test_the_class_that_torch_ignores_is_answered_with_torchs_loss():
    logits, y = torch.zeros(4, 3, 5), torch.zeros(4, 5, dtype=torch.long)
    y[0, 2] = -100
    with pytest.raises(UserError, match=r"0 to 2; torch\.nn\.functional\.cross_entropy\(z, y\)"):
        torch_nets.losses.cross_entropy(logits, y)
    assert torch.nn.functional.cross_entropy(logits, y).isfinite()
    with pytest.raises(UserError, match=r"target -1 is none of the classes 0 to 2$"):
        torch_nets.losses.cross_entropy(logits, y.clamp(min=-1))


@BACKENDS
def test_empty_batch_has_no_loss(backend):
    with pytest.raises(UserError, match="empty batch"):
        backend(Y[:0], X[:0])


@pytest.mark.parametrize("labels", [Y[:, None], np.full(6, -1), np.full(6, 3)])
def test_evaluation_refuses_what_training_refuses(labels):
    batch = torch.tensor(X), torch.tensor(labels)
    with pytest.raises(UserError, match="cross_entropy"):
        numpy_nets.metrics_fn(NET)(PARAMS, {}, (X, labels))
    with pytest.raises(UserError, match="cross_entropy"):
        torch_nets.metrics_fn(TORCH_NET)(torch_nets.to_torch(PARAMS), {}, batch)


@pytest.mark.parametrize("labels", [Y[:, None], np.full(6, -1), np.full(6, 3)])
@pytest.mark.parametrize(
    ("forward", "scores"),
    [
        (modules.cross_entropy_forward, SOFT),
        (modules.softmax_cross_entropy_forward, SOFT),
    ],
)
def test_losses_by_hand_refuse_it_too(forward, scores, labels):
    with pytest.raises(UserError, match="cross_entropy"):
        forward(scores, labels)


@pytest.mark.parametrize("bad", [-1, -100, 3])
def test_vmapped_loss_refuses_what_is_no_class(bad):
    labels = torch.tensor([0, 1, 2, bad, 1, 2])
    per_example = per_example_grads(TORCH_NET)
    with pytest.raises(UserError, match=f"target {bad} is none of the classes 0 to 2"):
        per_example(torch_nets.to_torch(PARAMS), {}, (torch.tensor(X), labels))


def test_one_logit_with_a_column_of_targets_is_refused():
    for column in (np.ones((6, 1), np.float32), np.ones((6, 1), np.int64)):
        with pytest.raises(UserError, match="leave one class to choose from"):
            modules.softmax_cross_entropy_forward(np.ones((6, 1)), column)
        with pytest.raises(UserError, match="leave one class to choose from"):
            cross_entropy(torch.ones(6, 1), torch.tensor(column))


def test_squeezed_logit_is_not_taken_for_classes():
    with pytest.raises(UserError, match="binary cross-entropy"):
        cross_entropy(torch.ones(6), torch.ones(6))
    with pytest.raises(UserError, match="binary cross-entropy"):
        modules.softmax_cross_entropy_forward(np.ones(6), np.ones(6))


def test_integer_labels_that_are_not_one_hot_are_refused_by_hand():
    with pytest.raises(UserError, match="must be one-hot"):
        by_numpy(np.ones((6, 3), int))
    for dtype in (torch.int64, torch.uint8):
        with pytest.raises(UserError, match="must be one-hot"):
            cross_entropy(torch.ones(6, 3), torch.ones(6, 3, dtype=dtype))


def test_labels_of_each_position_of_a_sequence():
    logits, labels = torch.randn(6, 3, 5), torch.randint(0, 3, (6, 5))
    right = torch.nn.functional.cross_entropy(logits, labels)
    assert cross_entropy(logits, labels) == right
    assert torch.isclose(cross_entropy(logits, torch.eye(3)[labels].movedim(-1, 1)), right)


def test_probability_of_0_where_the_label_is_0_costs_nothing():
    p, labels = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0, 1], [1, 0]])
    loss, cache = modules.cross_entropy_forward(p, labels)
    right, right_cache = modules.cross_entropy_forward(p, np.array([1, 0]))
    assert loss == right == 0
    gradients = (modules.cross_entropy_backward(1.0, c) for c in (cache, right_cache))
    assert np.array_equal(*gradients)


@pytest.mark.parametrize("labels", [Y, ONE_HOT, SOFT])
def test_loss_of_probabilities_takes_the_labels_of_the_loss_of_logits(labels):
    logits = random.normal(random.key(3), (6, 3), "float64")
    p, softmax_cache = modules.softmax_forward(logits)
    loss, cache = modules.cross_entropy_forward(p, labels)
    dx = modules.softmax_backward(modules.cross_entropy_backward(1.0, cache), softmax_cache)
    fused, fused_cache = modules.softmax_cross_entropy_forward(logits, labels)
    assert np.isclose(loss, fused, rtol=1e-12)
    assert np.allclose(dx, modules.softmax_cross_entropy_backward(1.0, fused_cache), rtol=1e-10)


@pytest.mark.parametrize("labels", [Y, Y.astype(np.int32), ONE_HOT, SOFT.astype(np.float32)])
def test_label_smoothing_takes_the_same_labels(labels):
    logits, even = torch.tensor(SOFT), torch.full((6, 3), 1 / 3, dtype=torch.float64)
    right = torch.tensor(SOFT if labels.dtype.kind == "f" else ONE_HOT) * 0.9 + even * 0.1
    found = label_smoothed(0.1)(logits, torch.tensor(labels))
    assert torch.isclose(found, cross_entropy(logits, right), rtol=1e-6)


@pytest.mark.parametrize("amount", [-0.1, 1.1, float("nan")])
def test_label_smoothing_of_no_fraction_is_refused(amount):
    with pytest.raises(UserError, match="label_smoothed: amount"):
        label_smoothed(amount)


def test_column_of_labels_does_not_pass_a_step():
    optimizer = optim.sgd(0.1)
    state = init_state(NET, optimizer, random.key(0))
    step = make_step(numpy_nets.grad_fn(NET), optimizer)
    with pytest.raises(UserError, match="are a column"):
        step(state, (X, Y[:, None]))
    assert step(state, (X, ONE_HOT))[1] == pytest.approx(step(state, (X, Y))[1])


def test_compiled_step_stops_at_a_class_that_does_not_exist():
    step = torch.compile(make_step(torch_nets.grad_fn(TORCH_NET), optim.sgd(0.1)), fullgraph=True)
    state = init_state(TORCH_NET, optim.sgd(0.1), torch.as_tensor(random.key(0)))
    step(state, (torch.tensor(X), torch.tensor(Y)))
    for bad in (-100, 3):
        labels = torch.tensor([0, 1, 2, bad, 1, 2])
        with pytest.raises((UserError, RuntimeError), match=r"out of bounds|none of the classes"):
            step(state, (torch.tensor(X), labels))


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_batches_refuse_a_column_of_class_numbers(convert):
    with pytest.raises(UserError, match=r"column of integers \(6, 1\)"):
        data.batches((convert(X), convert(Y[:, None])), 6, random.key(0))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
def test_tensors_of_unsigned_labels_are_taken_by_step_and_check(dtype):
    net = torch_nets.to_torch(PARAMS)
    step = lambda labels: torch_nets.grad_fn(TORCH_NET)(net, {}, (torch.tensor(X), labels), None)
    for labels in (Y, ONE_HOT):
        found = step(torch.tensor(labels.astype(dtype)))[1][1]
        right = step(torch.tensor(labels))[1][1]
        assert found == right
        assert data.checks.expect_examples((torch.tensor(X), torch.tensor(labels.astype(dtype))))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("loss", [cross_entropy, focal(2.0), label_smoothed(0.1)])
def test_the_dtype_of_soft_labels_does_not_round_the_loss(loss, dtype):
    logits, labels = torch.tensor([[2.0, -1.0, 0.5, 0.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    found = loss(logits, labels.to(dtype))
    assert found.dtype == torch.float32
    assert torch.equal(found, loss(logits, labels))


def test_large_integers_are_different_classes():
    x, ids = np.arange(8.0).reshape(4, 2), np.array([2**53 + 1, 5, 2**53, 5])
    with pytest.raises(UserError, match=f"{2**53} is none of the classes"):
        data.prepare((x, ids), random.key(0), 0.5, classes=[2**53 + 1, 5])
    assert data.prepare((x, ids), random.key(0), 0.5, classes=[2**53 + 1, 2**53, 5]).n_classes == 3


def test_labels_are_compared_exactly():
    x, ids = np.arange(12.0).reshape(6, 2), ["9007199254740993.0", "9007199254740992"] * 3
    task = data.prepare((x, ids), random.key(0), 0.5, classes=[2**53, 2**53 + 1])
    assert sorted([*task.train[1], *task.test[1]]) == [0, 0, 0, 1, 1, 1]
    with pytest.raises(UserError, match="'10' is none of the classes"):
        data.prepare((x, ["10", "1_1"] * 3), random.key(0), 0.5, classes=["1_0", "1_1"])


def test_classes_that_no_memory_holds_are_refused():
    with pytest.raises(UserError, match="1,000,000,000,000 classes: needs about"):
        data.prepare((np.ones((10, 2)), np.arange(10) % 2), random.key(0), 0.5, n_classes=10**12)
