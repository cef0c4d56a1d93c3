"""Every product takes and returns leaves of the params' names and shapes: nothing is broadcast."""

import pytest
import torch

from purenets import UserError, random
from purenets.torch_nets import layers, losses
from purenets.torch_nets.analysis import curvature, kfac, operators
from purenets.torch_nets.analysis.conjugate_gradients import cg

NET, KEY = layers.Linear(2, 3), torch.as_tensor(random.key(0))
PARAMS = {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
X, Y = torch.as_tensor(random.normal(random.key(1), (4, 2))), torch.zeros(4, 3)
LOSS = curvature.eval_loss_fn(NET, {}, (X, Y), losses.mse)
BLOCKS = kfac.kfac(NET, PARAMS, {}, (X, Y), losses.mse)
WRONG = {
    "one axis less": ({"bias": torch.ones(())}, "bias"),
    "one axis more": ({"bias": torch.ones(1, 3)}, "bias"),
    "a row": ({"weight": torch.ones(2)}, "weight"),
    "of as many elements": ({"weight": torch.ones(2, 3)}, "weight"),
    "integers": ({"bias": torch.ones(3, dtype=torch.int64)}, "bias.*dtype is int64"),
    "complex": ({"bias": torch.ones(3) + 1j}, "bias.*dtype is complex64"),
    "of NumPy": ({"bias": torch.ones(3).numpy()}, "bias.*needs a tensor"),
    "unknown": ({"more": torch.ones(3)}, "more"),
}
USES = {
    "hvp": lambda v: curvature.hvp(LOSS, PARAMS, v),
    "ggn_vp": lambda v: curvature.ggn_vp(
        lambda p: NET.apply(p, {}, X)[0], lambda z: z.square().mean(), PARAMS, v
    ),
    "linearize": lambda v: curvature.linearize(NET, PARAMS).apply(v, {}, X),
    "landscape, first": lambda v: curvature.landscape(LOSS, PARAMS, (v, PARAMS), [0.0, 1.0]),
    "landscape, second": lambda v: curvature.landscape(LOSS, PARAMS, (PARAMS, v), [0.0, 1.0]),
    "kfac_vp": lambda v: kfac.kfac_vp(BLOCKS, v),
    "kfac_solve": lambda v: kfac.kfac_solve(BLOCKS, v, 1.0),
    "what lanczos multiplies by": lambda v: curvature.lanczos(lambda _: v, PARAMS, KEY, 2),
    "what to_dense multiplies by": lambda v: operators.to_dense(lambda _: v, PARAMS),
    "what cg multiplies by": lambda v: cg(lambda _: v, PARAMS),
    "the beginning of cg": lambda v: cg(lambda v: v, PARAMS, x0=v),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("use", USES)
def test_a_leaf_that_does_not_fit_is_named(use, wrong):
    change, text = WRONG[wrong]
    with pytest.raises(UserError, match=text):
        USES[use](PARAMS | change)


@pytest.mark.parametrize("use", USES)
def test_leaves_that_fit_are_taken_in_any_order(use):
    USES[use]({name: PARAMS[name] for name in reversed(PARAMS)})
