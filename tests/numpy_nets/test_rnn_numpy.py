"""Backpropagation through time by hand equals torch.func and central differences, and trains by
itself.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from purenets import (
    UserError,
    evaluate,
    fit,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    torch_nets,
    tree,
)
from purenets.core.data.palindromes import all_palindromes, palindromes, streams
from purenets.core.gradcheck import check_gradient
from purenets.numpy_nets import rnn_numpy
from purenets.torch_nets import vanilla_rnn

few = st.integers(1, 8)


def setting(T, hidden, batch, one_hot):
    """Both models, float64 params and a batch in NumPy."""
    sizes = (T - 1, 10 if one_hot else 1, hidden, 10)
    models = rnn_numpy.VanillaRNN(*sizes), vanilla_rnn.VanillaRNN(*sizes)
    params = tree.cast(models[0].init(random.key(hidden))[0], "float64")
    x, y = palindromes(random.key(T), batch, T, one_hot)
    return models, params, (x.astype(float), y)


@given(st.integers(2, 12), few, few, st.booleans())
def test_gradients_equal_torch_func(T, hidden, batch, one_hot):
    (by_hand, by_func), params, (x, y) = setting(T, hidden, batch, one_hot)
    grads, (_, metrics) = numpy_nets.grad_fn(by_hand)(params, {}, (x, y), None)
    torch_batch = torch.tensor(x), torch.tensor(y)
    others, (_, torch_metrics) = torch_nets.grad_fn(by_func)(
        tree.map(torch.tensor, params), {}, torch_batch, None
    )
    for name, grad in grads.items():
        assert np.abs(grad - others[name].numpy()).max() <= 1e-11, name
    assert abs(metrics["loss"] - float(torch_metrics["loss"])) <= 1e-11


def test_gradients_at_full_size():
    (by_hand, by_func), params, (x, y) = setting(51, 128, 32, one_hot=True)
    grads, _ = numpy_nets.grad_fn(by_hand)(params, {}, (x, y), None)
    torch_batch = torch.tensor(x), torch.tensor(y)
    others, _ = torch_nets.grad_fn(by_func)(tree.map(torch.tensor, params), {}, torch_batch, None)
    assert max(np.abs(grads[name] - others[name].numpy()).max() for name in grads) <= 1e-11


@given(st.integers(2, 8), few, few)
def test_gradients_equal_central_differences(T, hidden, batch):
    (model, _), params, data = setting(T, hidden, batch, one_hot=False)
    grad_fn = numpy_nets.grad_fn(model)
    grads, _ = grad_fn(params, {}, data, None)
    check_gradient(lambda p: grad_fn(p, {}, data, None)[1][1]["loss"], params, grads, random.key(5))


def test_gradient_by_the_input():
    (by_hand, by_func), params, (x, _) = setting(6, 5, 3, one_hot=False)
    logits, _, cache = by_hand.forward(params, {}, x)
    dx, _ = by_hand.backward(np.ones_like(logits), cache)
    torch_params = tree.map(torch.tensor, params)
    other = torch.func.grad(lambda x: by_func.apply(torch_params, {}, x)[0].sum())(torch.tensor(x))
    assert np.abs(dx - other.numpy()).max() <= 1e-12


def test_both_backends_begin_with_the_same_params():
    numpy_params, _ = rnn_numpy.VanillaRNN(4, 10, 16, 10).init(random.key(3))
    torch_params, _ = vanilla_rnn.VanillaRNN(4, 10, 16, 10).init(random.key(3))
    assert all((numpy_params[name] == torch_params[name].numpy()).all() for name in numpy_params)
    assert {leaf.dtype for leaf in numpy_params.values()} == {np.dtype("float32")}


@pytest.mark.slow
def test_it_learns_all_palindromes_of_length_5():
    """The defaults of scripts/train.py, in NumPy alone: RMSProp 1e-3, clipped at 10, batches of
    128.
    """
    model = rnn_numpy.VanillaRNN(4, 1, 128, 10)
    optimizer = optim.chain(optim.clip_by_global_norm(10.0), optim.rmsprop(1e-3))
    train_key, _ = streams(random.key(1))
    step, state = (
        make_step(numpy_nets.grad_fn(model), optimizer),
        init_state(model, optimizer, random.key(0)),
    )
    metrics, everything = numpy_nets.metrics_fn(model), all_palindromes(5)
    for steps in range(500, 4001, 500):
        state, _ = fit(
            step, state, lambda i: palindromes(random.fold_in(train_key, i), 128, 5), steps=steps
        )
        if evaluate(metrics, state, everything)["accuracy"] == 1.0:
            return
    pytest.fail("not all 1,000 palindromes of length 5 are right after 4,000 steps")


def test_wrong_shapes_name_the_leaf():
    (model, _), params, (x, _) = setting(5, 4, 2, one_hot=False)
    with pytest.raises(UserError, match="W_ph: missing in params"):
        model.apply({name: p for name, p in params.items() if name != "W_ph"}, {}, x)
    with pytest.raises(UserError, match=r"expected \(batch, T-1, 1\)"):
        model.apply(params, {}, x[:, :, 0])
    with pytest.raises(UserError, match="input_length is 0, needs a positive integer"):
        rnn_numpy.VanillaRNN(0, 1, 4, 10)


def test_it_imports_no_torch():
    code = "import sys, purenets.numpy_nets.rnn_numpy; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("make", [rnn_numpy.VanillaRNN, vanilla_rnn.VanillaRNN])
def test_complex_digits_are_refused(make):
    model = make(4, 1, 5, 2)
    x = np.ones((5, 4, 1), np.complex64)
    x = x if make is rnn_numpy.VanillaRNN else torch.tensor(x)
    with pytest.raises(UserError, match="needs real numbers"):
        model.apply(*model.init(random.key(0)), x)
