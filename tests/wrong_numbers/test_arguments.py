"""Arguments at the edge of what they may be, or over it."""

import numpy as np
import pytest
import torch

from purenets import UserError, init_state, make_step, numpy_nets, optim, random
from purenets.numpy_nets import mlp_numpy as numpy_mlp
from purenets.torch_nets import MLP, ensemble, grad_fn, layers, stack_states
from purenets.torch_nets.analysis.curvature import lanczos
from purenets.torch_nets.analysis.per_example import per_example_grads
from tests.wrong_numbers.choice import or_refused

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (6, 4))
Y = torch.tensor([0, 1, 2] * 2)
NET = MLP(4, [8], 3)
PARAMS, _ = NET.init(KEY)
SGD = optim.sgd(0.1)
STEP = make_step(grad_fn(NET), SGD)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="0 is taken for the default")
def test_linear_layer_of_bound_0_begins_at_0():
    params, _ = layers.Linear(4, 3, bound=0.0).init(KEY)
    assert not params["weight"].any()


@pytest.mark.xfail(strict=True, raises=ZeroDivisionError, reason="a traceback")
def test_linear_layer_of_no_inputs_works_or_is_refused():
    made = or_refused(lambda: layers.Linear(0, 3).init(KEY))
    assert made is None or made[0]["weight"].shape == (3, 0)


@pytest.mark.xfail(strict=True, raises=TypeError, reason="a traceback")
def test_text_for_the_hidden_layers_is_refused():
    with pytest.raises(UserError):
        MLP(2, "20", 2)


@pytest.mark.xfail(strict=True, raises=AttributeError, reason="a traceback")
def test_number_for_a_key_is_refused():
    with pytest.raises(UserError):
        init_state(NET, SGD, 0)


@pytest.mark.xfail(strict=True, raises=TypeError, reason="a traceback")
def test_seed_that_is_no_integer_is_refused():
    with pytest.raises(UserError):
        random.key(1.5)


@pytest.mark.xfail(strict=True, raises=AttributeError, reason="a traceback")
def test_numpy_batch_for_a_torch_net_works_or_is_refused():
    state, batch = init_state(NET, SGD, KEY), (X.numpy(), Y.numpy())
    found = or_refused(STEP, state, batch)
    right = float(STEP(state, (X, Y))[1]["loss"])
    assert found is None or float(found[1]["loss"]) == pytest.approx(right)


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="a traceback")
def test_no_iterations_of_lanczos_are_refused():
    with pytest.raises(UserError):
        lanczos(lambda v: v, PARAMS, KEY, 0)


@pytest.mark.xfail(strict=True, raises=ValueError, reason="torch's own words")
def test_chunks_of_no_examples_are_refused():
    with pytest.raises(UserError):
        per_example_grads(NET, chunk_size=0)(PARAMS, {}, (X, Y))


@pytest.mark.xfail(strict=True, raises=ValueError, reason="torch's own words")
def test_batch_for_a_fourth_member_of_three_is_refused():
    states = stack_states([init_state(NET, SGD, random.fold_in(KEY, i)) for i in range(3)])
    with pytest.raises(UserError):
        ensemble(STEP)(states, (torch.stack([X] * 4), torch.stack([Y] * 4)))


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="the fourth is ignored")
def test_batch_for_a_fourth_numpy_member_of_three_is_refused():
    net, keys = numpy_mlp.MLP(4, [8], 3), random.split(random.key(0), 3)
    states = numpy_nets.stack_states([init_state(net, SGD, key) for key in keys])
    step = numpy_nets.ensemble(make_step(numpy_nets.grad_fn(net), SGD))
    with pytest.raises(UserError):
        step(states, (np.stack([X.numpy()] * 4), np.stack([Y.numpy()] * 4)))
