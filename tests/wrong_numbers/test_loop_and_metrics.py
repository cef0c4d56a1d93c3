"""The rows of the history, and what is measured where no class is predicted."""

import pytest
import torch
import torch.nn.functional as F

from purenets import UserError, data, evaluate, fit, init_state, make_step, optim, random, train_state
from purenets.core.metrics import accuracy
from purenets.torch_nets import MLP, from_module, grad_fn, metrics_fn
from purenets.torch_nets.analysis.privacy import dp_grad_fn
from purenets.torch_nets.ensemble import deep_ensemble
from tests.wrong_numbers.choice import or_refused

KEY = torch.as_tensor(random.key(0))
X = random.normal(KEY, (64, 2))
Y = (X[:, 0] > 0).long()
NET = MLP(2, [8], 2)
STANDING_STILL = optim.sgd(0.0)  # nothing changes, so all rows must be equal
STEP = make_step(grad_fn(NET), STANDING_STILL)


def start():
    return init_state(NET, STANDING_STILL, KEY)


def after_100_steps():
    return fit(STEP, start(), data.batches((X, Y)), steps=100)


# --- rows ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss", "accuracy"])
@pytest.mark.xfail(strict=True, raises=AssertionError, reason="divided by the absolute step")
def test_second_fit_counts_its_own_steps(name):
    state, first = after_100_steps()
    _, second = fit(STEP, state, data.batches((X, Y)), steps=200)
    assert second[-1][name] == pytest.approx(first[-1][name], rel=1e-5)


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="divided by the absolute step")
def test_first_row_of_a_later_fit_is_the_mean_of_its_own_steps():
    state, first = after_100_steps()
    _, rows = fit(STEP, state, data.batches((X, Y)), steps=120, every=10)
    assert rows[0]["loss"] == pytest.approx(first[-1]["loss"], rel=1e-5)


def test_further_rows_of_a_later_fit_are_means_of_their_own_steps():
    state, first = after_100_steps()
    _, rows = fit(STEP, state, data.batches((X, Y)), steps=120, every=10)
    assert rows[1]["loss"] == pytest.approx(first[-1]["loss"], rel=1e-5)


def test_fit_that_goes_on_with_its_history_has_the_right_means():
    state, first = after_100_steps()
    _, rows = fit(STEP, state, data.batches((X, Y)), steps=200, history=first)
    assert rows[-1]["loss"] == pytest.approx(first[-1]["loss"], rel=1e-5)


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="means become negative")
def test_history_from_the_future_is_refused_by_name():
    with pytest.raises(UserError, match="history"):
        fit(STEP, start(), data.batches((X, Y)), steps=5, history=[{"step": 300, "loss": 1.0}])


@pytest.mark.parametrize("name", ["step", "loss"])
@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="it overwrites the row's own")
def test_evaluation_that_returns_a_name_of_the_row_is_refused(name):
    with pytest.raises(UserError, match=name):
        fit(STEP, start(), data.batches((X, Y)), steps=5, evaluate=lambda state: {name: 7.0})


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="summed in bfloat16")
def test_mean_loss_of_2000_equal_bfloat16_steps_is_that_of_one():
    net = from_module(torch.nn.Linear(4, 3).bfloat16())
    batch = random.normal(KEY, (6, 4), "bfloat16"), torch.tensor([0, 1, 2] * 2)
    step = make_step(grad_fn(net), STANDING_STILL)
    state = train_state(*net.init(KEY), STANDING_STILL, KEY)
    _, history = fit(step, state, lambda i: batch, steps=2000)
    assert history[-1]["loss"] == pytest.approx(float(step(state, batch)[1]["loss"]), rel=1e-5)


# --- evaluation ---------------------------------------------------------------------------


@pytest.mark.xfail(strict=True, raises=ValueError, reason="range() has a step of zero")
def test_evaluation_on_nothing_is_refused():
    with pytest.raises(UserError):
        evaluate(metrics_fn(NET), start(), (X[:0], Y[:0]))


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="returns {}")
def test_negative_batch_size_of_an_evaluation_is_refused():
    with pytest.raises(UserError, match="batch_size"):
        evaluate(metrics_fn(NET), start(), (X, Y), -4)


@pytest.mark.xfail(strict=True, raises=pytest.fail.Exception, reason="ignores the third")
def test_ensemble_of_two_refuses_the_params_of_three():
    params, _ = deep_ensemble(NET, 3).init(KEY)
    with pytest.raises(UserError):
        deep_ensemble(NET, 2).apply(params, {}, X)


# --- accuracy -----------------------------------------------------------------------------


def measured(loss, targets) -> dict:
    """The metrics of a net of one output, before any step."""
    net = MLP(2, [8], 1)
    return grad_fn(net, loss)(net.init(KEY)[0], {}, (X, targets), None)[1][1]


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="always 1")
def test_accuracy_of_one_logit_is_that_of_its_sign():
    net, positive = MLP(2, [8], 1), X[:, :1] > 0
    found = or_refused(measured, F.binary_cross_entropy_with_logits, positive.float())
    right = ((net.apply(net.init(KEY)[0], {}, X)[0] > 0) == positive).float().mean()
    assert not found or found.get("accuracy", right) == pytest.approx(float(right))


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="always 1")
def test_regression_has_no_accuracy():
    found = or_refused(measured, F.mse_loss, random.normal(random.fold_in(KEY, 1), (64, 1)))
    assert not found or "accuracy" not in found


@pytest.mark.xfail(strict=True, raises=AssertionError, reason="takes rows of targets for one-hot")
def test_perfect_logits_at_every_time_have_accuracy_1():
    targets = torch.tensor([[0, 1, 2, 1]] * 4)
    logits = F.one_hot(targets, 3).float().movedim(2, 1)
    found = or_refused(accuracy, logits, targets)
    assert found is None or found == 1


@pytest.mark.xfail(strict=True, raises=TypeError, reason="no such argument")
def test_private_gradient_takes_other_metrics():
    params, _ = NET.init(KEY)
    grad = dp_grad_fn(NET, 1.0, 0.0, metrics={"share": lambda logits, y: y.float().mean()})
    metrics = grad(params, {}, (X, Y), KEY)[1][1]
    assert float(metrics["share"]) == pytest.approx(float(Y.float().mean()))


class AtEveryTime(torch.nn.Module):
    """x: (batch, time, 4) -> logits: (batch, 3, time)."""

    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(x).movedim(-1, 1)


@pytest.mark.xfail(strict=True, raises=RuntimeError, reason="the accuracy's shapes do not fit")
def test_private_gradient_of_logits_at_every_time():
    net, x, y = from_module(AtEveryTime()), random.normal(KEY, (6, 5, 4)), torch.zeros(6, 5).long()
    params, _ = net.init(KEY)
    found = or_refused(dp_grad_fn(net, 1.0, 0.0), params, {}, (x, y), KEY)
    if found:
        right = (net.apply(params, {}, x)[0].argmax(1) == y).float().mean()
        assert found[1][1].get("accuracy", right) == pytest.approx(float(right))
