"""Hyper-parameters and params that no optimizer can mean."""

import numpy as np
import pytest
import torch

from purenets import UserError, optim, random
from purenets.torch_nets import MLP
from tests.wrong_numbers.choice import or_refused

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
Y = torch.tensor([0, 1, 2] * 2)
NET = MLP(4, [8], 3)
SGD = optim.sgd(0.1)

NOT_MEANT = {
    "lr=-1": lambda: optim.adam(lr=-1.0),
    "eps=-1": lambda: optim.adam(eps=-1.0),
    "weight_decay=-1": lambda: optim.adamw(weight_decay=-1.0),
    "lr=text": lambda: optim.sgd(lr="0.1"),
    "lr=None": lambda: optim.sgd(lr=None),
    "ema=1.5": lambda: optim.ema(1.5),
    "lookahead=0": lambda: optim.lookahead(SGD, k=0),
    "norm=-1": lambda: optim.clip_by_global_norm(-1.0),
    "norm=nan": lambda: optim.clip_by_global_norm(float("nan")),
    "value=-1": lambda: optim.clip_by_value(-1.0),
    "alpha=2": lambda: optim.rmsprop(alpha=2.0),
}


@pytest.mark.parametrize("name", NOT_MEANT)
@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="accepted in silence")
def test_number_that_means_nothing_is_refused_at_once(name):
    with pytest.raises(UserError):
        NOT_MEANT[name]()


def test_schedules_and_arrays_are_taken_as_they_are():
    optim.adam(lr=lambda count: -1.0 + 0 * count)
    optim.adam(lr=torch.tensor(-1.0))


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="moments become integers")
def test_integer_params_are_refused():
    params = {"w": np.arange(3)}
    with pytest.raises(UserError):
        optim.adam().init(params)


@pytest.mark.xfail(strict=True, raises=AttributeError, reason="a traceback")
def test_nested_params_work_or_are_refused():
    adam, params = optim.adam(0.1), {"a": {"w": torch.ones(3)}}
    found = or_refused(lambda: adam.update(params, adam.init(params), params)[0])
    assert found is None or found["a"]["w"].tolist() == pytest.approx([-0.1] * 3)
