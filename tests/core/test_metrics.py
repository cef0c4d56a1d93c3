"""Metrics against scikit-learn's, on NumPy and torch, under vmap and torch.compile."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, r2_score, top_k_accuracy_score

from purenets import UserError
from purenets.core.metrics import (
    accuracy,
    binary_accuracy,
    class_accuracy,
    confusion,
    expected_calibration_error,
    r2,
    top_k_accuracy,
)
from purenets.torch_nets import jit

SCORES = np.array([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]])
TARGETS = np.array([1, 0, 2, 2])
DRAW = np.random.default_rng(0)
LOGITS, CLASSES = DRAW.normal(size=(200, 5)).astype(np.float32), DRAW.integers(0, 5, 200)
FLOATS = [np.float16, np.float32, np.float64]
both_backends = pytest.mark.parametrize("xp", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
OF_CLASSES = [accuracy, top_k_accuracy(1), top_k_accuracy(3), expected_calibration_error]


@both_backends
def test_accuracy_takes_classes_and_one_hot(xp):
    assert float(accuracy(xp(SCORES), xp(TARGETS))) == 0.75
    for dtype in (float, int, bool):
        assert float(accuracy(xp(SCORES), xp(np.eye(3)[TARGETS].astype(dtype)))) == 0.75
    assert float(accuracy(xp(SCORES), xp(TARGETS.astype(np.int32)))) == 0.75


@both_backends
@pytest.mark.parametrize(("predicted", "targets"), [([0, 3], [1, 1]), ([0, 1], [1, -1])])
def test_confusion_refuses_a_number_of_no_class(xp, predicted, targets):
    with pytest.raises(UserError, match="confusion: needs class numbers from 0 to 2"):
        confusion(xp(np.array(predicted)), xp(np.array(targets)), 3)


def test_confusion_of_a_number_of_no_class_lands_nowhere_under_vmap():
    predicted, targets = torch.tensor([[0, 3, 2]]), torch.tensor([[0, 0, 2]])
    (counts,) = torch.func.vmap(lambda p, t: confusion(p, t, 3))(predicted, targets)
    assert counts.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]


def test_confusion_equals_sklearns():
    draw = np.random.default_rng(0).integers
    predicted, targets = draw(0, 4, 200), draw(0, 4, 200)
    assert np.array_equal(confusion(predicted, targets, 4), confusion_matrix(targets, predicted))


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match="4 predictions for 3 targets"):
        accuracy(SCORES, TARGETS[:3])
    with pytest.raises(UserError, match="needs one example"):
        accuracy(SCORES[:0], TARGETS[:0])


# --- NaN, and classes that do not exist ---------------------------------------------------------

WITH_NAN = LOGITS[:6].copy()
WITH_NAN[0], WITH_NAN[1, 4] = np.nan, np.nan  # a row of them, and one NaN beside other scores
RIGHT = WITH_NAN.argmax(1)  # what the index of the largest would be
MEANS = [accuracy, class_accuracy, *map(top_k_accuracy, (1, 2, 5))]


def evaluations(metric, xp, predictions, targets):
    """The metric in NumPy; or in torch eagerly, under vmap and compiled."""
    predictions, targets = xp(predictions), xp(targets)
    yield float(metric(predictions, targets))
    if xp is torch.as_tensor:
        yield float(torch.func.vmap(metric)(predictions[None], targets[None])[0])
        yield float(jit(metric)(predictions, targets))


@both_backends
@pytest.mark.parametrize("metric", MEANS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_row_with_nan_is_never_right(xp, metric, dtype):
    for found in evaluations(metric, xp, WITH_NAN.astype(dtype), RIGHT):
        assert found == pytest.approx(4 / 6)
    for found in evaluations(metric, xp, np.full_like(WITH_NAN, np.nan), 0 * RIGHT):
        assert found == 0
    one_hot = np.eye(5)[RIGHT]
    assert float(metric(xp(WITH_NAN), xp(one_hot))) == pytest.approx(4 / 6)


@both_backends
def test_calibration_and_r2_of_nan_are_nan(xp):
    for found in evaluations(expected_calibration_error, xp, WITH_NAN, RIGHT):
        assert np.isnan(found)
    numbers, flat = np.array([1.0, np.nan, 2.0]), np.ones(3)
    for predictions, targets in ((numbers, flat), (flat, numbers), (numbers, numbers)):
        for found in evaluations(r2, xp, predictions, targets):
            assert np.isnan(found)


@both_backends
@pytest.mark.parametrize("metric", OF_CLASSES)
def test_a_class_beyond_the_last_is_refused_or_nan(xp, metric):
    targets = CLASSES.copy()
    targets[3] = 7
    with pytest.raises(UserError, match="target 7 is none of the classes 0 to 4"):
        metric(xp(LOGITS), xp(targets))
    if xp is torch.as_tensor:
        logits, targets = xp(LOGITS), xp(targets)
        assert torch.func.vmap(metric)(logits[None], targets[None]).isnan().all()
        assert jit(metric)(logits, targets).isnan()


# --- classes ----------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("dtype", FLOATS)
def test_accuracy_and_top_k_accuracy_equal_sklearns(xp, dtype):
    logits = LOGITS.astype(dtype)
    right = accuracy_score(CLASSES, logits.argmax(1))
    assert float(accuracy(xp(logits), xp(CLASSES))) == pytest.approx(right)
    for k in range(1, 6):
        found = top_k_accuracy(k)(xp(LOGITS), xp(CLASSES))
        right = top_k_accuracy_score(CLASSES, LOGITS, k=k, labels=range(5)) if k < 5 else 1
        assert float(found) == pytest.approx(right)


@both_backends
def test_of_equal_scores_the_first_class_is_the_largest(xp):
    logits, classes = xp(np.zeros((4, 3))), xp(np.array([0, 1, 2, 2]))
    found = [float(top_k_accuracy(k)(logits, classes)) for k in (1, 2, 3)]
    assert found == [0.25, 0.5, 1.0]
    assert float(accuracy(logits, classes)) == 0.25


@both_backends
@pytest.mark.parametrize("metric", OF_CLASSES)
def test_logits_at_every_time_count_as_examples(xp, metric):
    logits = DRAW.normal(size=(4, 3, 6)).astype(np.float32)
    classes = DRAW.integers(0, 3, (4, 6))
    flat = np.moveaxis(logits, 1, -1).reshape(-1, 3)
    right = float(metric(xp(flat), xp(classes.reshape(-1))))
    assert float(metric(xp(logits), xp(classes))) == pytest.approx(right)
    one_hot = np.moveaxis(np.eye(3)[classes], -1, 1)
    assert float(metric(xp(logits), xp(one_hot))) == pytest.approx(right)


@both_backends
@pytest.mark.parametrize("metric", OF_CLASSES)
def test_ignored_targets_do_not_count(xp, metric):
    ignored = CLASSES.copy()
    ignored[::3] = -100
    kept = ignored >= 0
    right = float(metric(xp(LOGITS[kept]), xp(CLASSES[kept])))
    assert float(metric(xp(LOGITS), xp(ignored))) == pytest.approx(right)


@both_backends
@pytest.mark.parametrize("metric", OF_CLASSES)
@pytest.mark.parametrize(
    ("shape", "targets"),
    [
        ((6, 3), np.zeros((6, 1), int)),  # a column of labels
        ((6, 1), np.zeros((6, 1))),  # one logit, or a regression
        ((6, 1), np.zeros(6, int)),
        ((6,), np.zeros(6, int)),
        ((6, 3), np.zeros(6)),  # a regression's numbers
        ((6, 3), np.zeros((6, 4))),
        ((6, 3, 4), np.zeros((6, 3), int)),
        ((6, 4, 3), np.zeros((6, 5), int)),
    ],
)
def test_targets_that_are_no_classes_are_refused(xp, metric, shape, targets):
    with pytest.raises(UserError, match=r"accuracy: pred|calibration_error: pred"):
        metric(xp(np.zeros(shape)), xp(targets))


def test_a_single_class_is_always_right_where_the_loss_means_classes():
    assert float(class_accuracy(np.zeros((6, 1)), np.zeros(6, int))) == 1
    with pytest.raises(UserError):
        class_accuracy(np.zeros((6, 3)), np.zeros((6, 1), int))


@both_backends
def test_a_score_that_is_no_number_is_no_hit(xp):
    logits = np.full((4, 3), np.nan)
    assert float(top_k_accuracy(1)(xp(logits), xp(TARGETS))) == 0
    assert float(binary_accuracy(xp(logits), xp(np.zeros((4, 3))))) == 0


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_wrong_k_is_refused(k):
    with pytest.raises(UserError, match="k is"):
        top_k_accuracy(k)


def test_k_of_more_than_all_classes_is_refused():
    with pytest.raises(UserError, match="k is 4, but there are 3 classes"):
        top_k_accuracy(4)(SCORES, TARGETS)


# --- calibration ------------------------------------------------------------------------------


def calibration_by_hand(logits, classes, n_bins):
    """Guo et al. 2017, equation 3, bin by bin."""
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    confidence, hits, total = p.max(1), logits.argmax(1) == classes, 0.0
    for low in np.arange(n_bins) / n_bins:
        chosen = (confidence > low) & (confidence <= low + 1 / n_bins)
        if chosen.any():
            total += chosen.mean() * abs(hits[chosen].mean() - confidence[chosen].mean())
    return total


@both_backends
@pytest.mark.parametrize("n_bins", [1, 7, 15])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0, 1000.0])
def test_calibration_error_is_that_of_the_paper(xp, n_bins, scale):
    logits = (scale * LOGITS).clip(-700, 700)
    found = expected_calibration_error(xp(logits), xp(CLASSES), n_bins)
    right = calibration_by_hand(logits.astype(np.float64), CLASSES, n_bins)
    assert float(found) == pytest.approx(right, abs=1e-6)


def test_confident_and_right_is_calibrated_and_confident_and_wrong_is_not():
    logits = 100 * np.eye(3)[TARGETS]
    assert float(expected_calibration_error(logits, TARGETS)) == pytest.approx(0)
    assert float(expected_calibration_error(logits, (TARGETS + 1) % 3)) == pytest.approx(1)


@pytest.mark.parametrize("n_bins", [0, -3, 2.5])
def test_wrong_number_of_bins_is_refused(n_bins):
    with pytest.raises(UserError, match="n_bins"):
        expected_calibration_error(LOGITS, CLASSES, n_bins)


# --- yes or no --------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("shape", [(200,), (200, 1), (40, 5)])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, bool])
def test_binary_accuracy_equals_sklearns(xp, shape, dtype):
    logits, labels = LOGITS.reshape(-1)[:200], DRAW.integers(0, 2, 200)
    right = accuracy_score(labels, logits > 0)
    found = binary_accuracy(xp(logits.reshape(shape)), xp(labels.astype(dtype).reshape(shape)))
    assert float(found) == pytest.approx(right)


@both_backends
def test_binary_accuracy_of_a_column_and_a_vector(xp):
    logits, labels = LOGITS[:, 0], (LOGITS[:, 0] > 0.3).astype(int)
    right = float(binary_accuracy(xp(logits), xp(labels)))
    assert right < 1
    assert float(binary_accuracy(xp(logits[:, None]), xp(labels))) == right
    assert float(binary_accuracy(xp(logits), xp(labels[:, None]))) == right
    assert float(binary_accuracy(xp(logits), xp(2 * labels - 1))) == right
    probabilities = 1 / (1 + np.exp(-logits))
    assert float(binary_accuracy(xp(probabilities), xp(labels), threshold=0.5)) == right


@both_backends
@pytest.mark.parametrize("metric", [binary_accuracy, r2])
def test_other_shapes_of_predictions_and_targets_are_refused(xp, metric):
    for shape in ((6, 3), (5,), (6, 1, 1)):
        with pytest.raises(UserError, match=r"same shape|6 predictions for 5"):
            metric(xp(np.zeros(6)), xp(np.zeros(shape)))


# --- numbers ----------------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_r2_equals_sklearns(xp, dtype, offset):
    targets = (DRAW.normal(size=(50, 3)) + offset).astype(dtype)
    predictions = (targets + DRAW.normal(size=(50, 3)) / 2).astype(dtype)
    wide = targets.astype(float), predictions.astype(float)  # scikit-learn's would be in float16
    right = r2_score(*wide)
    assert float(r2(xp(predictions), xp(targets))) == pytest.approx(right, rel=1e-5)
    right = r2_score(*(part[:, 0] for part in wide))
    assert float(r2(xp(predictions[:, :1]), xp(targets[:, 0]))) == pytest.approx(right, rel=1e-5)


@both_backends
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("value", [0.0, 14.62, -1e-3, 2.0**10])
def test_r2_of_equal_targets_is_1_if_perfect_and_else_0(xp, dtype, value):
    targets = np.full(47, value, dtype)
    assert float(r2(xp(targets), xp(targets))) == 1
    assert float(r2(xp(targets + dtype(1)), xp(targets))) == 0


def test_r2_of_one_example_is_refused():
    with pytest.raises(UserError, match="r2: 1 example"):
        r2(np.zeros((1, 2)), np.zeros((1, 2)))


# --- transforms -------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["vmap", "jit", "jit of vmap"])
@pytest.mark.parametrize(
    "metric", [*OF_CLASSES, binary_accuracy, r2], ids=lambda f: getattr(f, "__name__", str(f))
)
def test_metrics_under_vmap_and_jit(metric, transform):
    logits = torch.tensor(LOGITS).reshape(4, 50, 5)
    targets = torch.tensor(CLASSES).reshape(4, 50)
    if metric in (binary_accuracy, r2):
        targets = torch.nn.functional.one_hot(targets, 5).float()
    one_by_one = torch.stack([metric(*pair) for pair in zip(logits, targets, strict=True)])
    many = torch.func.vmap(metric) if "vmap" in transform else metric
    f = torch.compile(many, fullgraph=True) if "jit" in transform else many
    if "vmap" in transform:
        assert torch.allclose(f(logits, targets), one_by_one)
    else:
        assert torch.allclose(f(logits[0], targets[0]), one_by_one[0])
    assert one_by_one.dtype == torch.float32


# --- dtypes of labels -------------------------------------------------------------------------

INTEGERS = ["uint8", "int8", "int16", "uint16", "uint32", "uint64", "int64"]


@both_backends
@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_dtype_give_one_number(xp, dtype):
    scores, targets = np.eye(300, dtype=np.float32)[:100], xp(np.arange(100).astype(dtype))
    for metric in (accuracy, class_accuracy, top_k_accuracy(2)):
        for found in evaluations(metric, xp, scores, targets):
            assert found == 1
    one_hot = xp(np.eye(300)[:100].astype(dtype))
    assert float(accuracy(xp(scores), one_hot)) == 1
    for predicted in (targets, xp(np.arange(100))):
        counts = confusion(predicted, targets, 101)
        assert counts.shape == (101, 101) and int(counts.diagonal().sum()) == 100


def test_binary_accuracy_of_a_missing_target_is_nan():
    scores, targets = np.array([1.0, -1.0]), np.array([1.0, np.nan])
    assert np.isnan(binary_accuracy(scores, targets))
    assert bool(binary_accuracy(torch.tensor(scores), torch.tensor(targets)).isnan())


@pytest.mark.parametrize("rows", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones((3, 3), int)])
def test_rows_that_are_no_distribution_have_no_accuracy(rows):
    for array in (np.asarray, torch.tensor):
        with pytest.raises(UserError, match=r"accuracy: .* must be"):
            accuracy(array(np.eye(3)), array(rows))


def test_confusion_of_many_classes_needs_little_memory():
    predicted, targets = (np.random.default_rng(i).integers(0, 1000, 9999) for i in range(2))
    expected = np.zeros((1000, 1000), int)
    np.add.at(expected, (targets, predicted), 1)
    assert (confusion(predicted, targets, 1000) == expected).all()
    found = confusion(torch.tensor(predicted), torch.tensor(targets), 1000)
    assert (found.numpy() == expected).all()


class Series:
    """What a column of pandas has."""

    def __init__(self, array):
        self.array, self.dtype, self.shape, self.ndim = array, array.dtype, array.shape, array.ndim

    def to_numpy(self):
        return self.array


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize(
    "metric",
    [accuracy, top_k_accuracy(1), expected_calibration_error, binary_accuracy, r2],
    ids=lambda metric: getattr(metric, "__name__", "top_k"),
)
def test_tables_are_refused(metric, place):
    numbers = metric in (binary_accuracy, r2)
    pair = [np.arange(4.0), np.array([0.0, 1, 0, 1])]
    pair = pair if numbers else [np.arange(8.0).reshape(4, 2), np.array([0, 1, 0, 1])]
    pair[place] = Series(pair[place])
    with pytest.raises(UserError, match=r"a Series, needs an array, as its to_numpy\(\) returns"):
        metric(*pair)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_binary_accuracy_refuses_classes_1_and_2(array):
    scores = array(np.array([1.0, -1.0, 2.0]))
    for targets in (np.array([1, 2, 1]), np.array([1.0, 2.0, 1.0])):
        with pytest.raises(UserError, match=r"target 2 is neither no .* pass targets == 2"):
            binary_accuracy(scores, array(targets))
    for targets in (np.array([1, 0, 1]), np.array([1, -1, 1]), np.array([True, False, True])):
        assert binary_accuracy(scores, array(targets)) == 1


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("scores", [[np.nan, 0.0], [-np.inf, -np.inf]])
def test_scores_of_examples_that_are_not_counted_may_be_anything(kind, scores):
    logits, classes = kind(np.array([[2.0, 1.0], scores])), kind(np.array([0, -100]))
    expected = 1 - 1 / (1 + math.exp(-1))
    assert float(expected_calibration_error(logits, classes)) == pytest.approx(expected)
