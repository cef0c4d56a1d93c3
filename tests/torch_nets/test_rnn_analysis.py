"""The analysis of the RNN: each number got in a second way."""

import pytest
import torch

from purenets import random, tree
from purenets.core.data.palindromes import palindromes
from purenets.torch_nets import VanillaRNN
from purenets.torch_nets.analysis import rnn_states
from purenets.torch_nets.losses import cross_entropy
from purenets.torch_nets.vanilla_rnn import loop


def setting(T=7, hidden=6, batch=5):
    params = tree.cast(VanillaRNN(T - 1, 1, hidden, 10).init(random.key(0))[0], "float64")
    x, y = palindromes(torch.as_tensor(random.key(1)), batch, T)
    return params, x.double(), y


def recurrent(params):
    return params["W_hx"], params["W_hh"], params["b_h"]


def test_the_last_state_is_that_of_the_recurrence():
    params, x, _ = setting()
    states = rnn_states.states(params, x)
    assert states.shape == (5, 6, 6)
    assert float((states[:, -1] - loop(x, *recurrent(params))).abs().max()) <= 1e-14
    later = rnn_states.states(params, x[:, 3:], h=states[:, 2])
    assert float((later - states[:, 3:]).abs().max()) <= 1e-14


def test_gradients_by_states_go_back_by_jacobians():
    """dL/dh(N) by the chain rule's last link; dL/dh(t) by the products of the Jacobians."""
    params, x, y = setting(batch=1)
    grads = rnn_states.hidden_state_grads(params, x, y)[0]

    def loss(h):
        return cross_entropy(h[None] @ params["W_ph"].T + params["b_o"], y)

    last = torch.func.grad(loss)(rnn_states.states(params, x)[0, -1])
    assert float((grads[-1] - last).abs().max()) <= 1e-14
    for k, product in enumerate(rnn_states.jacobian_products(params, x[0]), start=1):
        assert float((grads[-1 - k] - last @ product).abs().max()) <= 1e-14
    assert k == x.shape[1] - 1


def test_each_example_has_a_gradient_of_its_own():
    params, x, y = setting()
    together = rnn_states.hidden_state_grads(params, x, y)
    alone = rnn_states.hidden_state_grads(params, x[2:3], y[2:3])[0]
    assert float((together[2] - alone).abs().max()) <= 1e-14


def test_jacobians_are_those_of_the_equation():
    params, x, _ = setting()
    h = rnn_states.states(params, x[:1])[0]
    expected = (1 - h**2)[:, :, None] * params["W_hh"]
    assert float((rnn_states.jacobians(params, x[0]) - expected).abs().max()) <= 1e-14


def test_the_principal_plane_of_points_in_a_plane():
    draw = random.normal(torch.as_tensor(random.key(2)), (50, 2), "float64")
    basis = torch.linalg.qr(random.normal(torch.as_tensor(random.key(3)), (5, 2), "float64"))[0].T
    points = draw @ basis + 3
    mean, axes = rnn_states.principal_plane(points)
    assert float(((points - mean) @ axes.T @ axes + mean - points).abs().max()) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float16])
def test_the_principal_plane_takes_points_of_any_dtype(dtype):
    points = torch.tensor([[250, 3, 0], [10, 3, 9], [120, 200, 1], [30, 60, 7]], dtype=dtype)
    mean, axes = rnn_states.principal_plane(points)
    expected_mean, expected = rnn_states.principal_plane(points.double())
    torch.testing.assert_close(mean.double(), expected_mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(axes.double().abs(), expected.abs(), rtol=1e-4, atol=1e-4)
