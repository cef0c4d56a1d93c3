import numpy as np
import pytest

from purenets import UserError, random, tree
from purenets.core.gradcheck import check_gradient, random_direction


def f(params):
    return sum(np.sin(leaf).sum() for leaf in params.values())


def test_right_gradients_pass_and_wrong_ones_do_not(params):
    right = tree.map(np.cos, params)
    assert check_gradient(f, params, right, random.key(0)) < 1e-9
    for name in params:
        wrong = {**right, name: 1.01 * right[name]}
        with pytest.raises(UserError, match="gradient along a random direction"):
            check_gradient(f, params, wrong, random.key(0))


def test_a_direction_has_norm_one(params):
    direction = random_direction(params, random.key(0))
    assert np.isclose(tree.norm(direction), 1)
    assert [d.shape for d in direction.values()] == [p.shape for p in params.values()]
