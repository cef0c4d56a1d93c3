import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from purenets import UserError
from purenets.core.metrics import accuracy, confusion

SCORES = np.array([[0.1, 0.9, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 5.0], [1.0, 0.0, 0.0]])
TARGETS = np.array([1, 0, 2, 2])


@pytest.mark.parametrize("xp", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_accuracy_takes_classes_and_one_hot(xp):
    assert float(accuracy(xp(SCORES), xp(TARGETS))) == 0.75
    assert float(accuracy(xp(SCORES), xp(np.eye(3)[TARGETS]))) == 0.75


def test_confusion_equals_sklearns():
    draw = np.random.default_rng(0).integers
    predicted, targets = draw(0, 4, 200), draw(0, 4, 200)
    assert np.array_equal(confusion(predicted, targets, 4), confusion_matrix(targets, predicted))


def test_wrong_shapes_are_named():
    with pytest.raises(UserError, match="4 predictions for 3 targets"):
        accuracy(SCORES, TARGETS[:3])
    with pytest.raises(UserError, match="empty batch"):
        accuracy(SCORES[:0], TARGETS[:0])
