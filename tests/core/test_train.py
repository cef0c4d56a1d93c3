"""The loop, with NumPy and torch nets: the same function drives both."""

import json
import os
import signal

import numpy as np
import pytest
import torch

import purenets
from purenets import (
    Diverged,
    Interrupted,
    UserError,
    data,
    evaluate,
    fit,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    scan,
    torch_nets,
    train_state,
    tree,
)
from purenets.core.metrics import expected_calibration_error, r2
from purenets.core.sam import sam
from purenets.numpy_nets import MLP, modules
from purenets.numpy_nets.grad import model_from_module

TASK = data.load("moons", random.key(0), n=200)
MODEL = MLP(2, [8], 2)
OPTIMIZER = optim.adam(1e-2)
STEP = make_step(numpy_nets.grad_fn(MODEL), OPTIMIZER)
BATCHES = data.batches(TASK.train, 16, random.key(1))


def start():
    return init_state(MODEL, OPTIMIZER, random.key(2))


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y)
        for x, y in zip(tree.leaves(a._asdict()), tree.leaves(b._asdict()), strict=True)
    )


def test_fit_is_the_loop_written_out():
    state, history = fit(STEP, start(), BATCHES, steps=30, every=10)
    by_hand, losses = start(), []
    for i in range(30):
        by_hand, metrics = STEP(by_hand, BATCHES(i))
        losses.append(metrics["loss"])
    assert same(state, by_hand)
    assert [row["step"] for row in history] == [10, 20, 30]
    assert history[1]["loss"] == pytest.approx(np.mean(losses[10:20]), rel=1e-6)


def test_every_step_is_counted_and_draws_by_its_own_key():
    seen = []

    def grad_fn(params, buffers, batch, key):
        seen.append(tuple(np.asarray(key).tolist()))
        return tree.zeros_like(params), (buffers, {"loss": np.float32(0)})

    state = start()
    step = make_step(grad_fn, OPTIMIZER)
    for i in range(4):
        assert int(state.step) == i
        state, _ = step(state, BATCHES(i))
    assert seen == [tuple(random.fold_in(start().key, i).tolist()) for i in range(4)]


def test_history_has_the_evaluations_and_a_last_row():
    def evaluation(state):
        metrics = numpy_nets.metrics_fn(MODEL)
        return {f"test_{k}": v for k, v in evaluate(metrics, state, TASK.test).items()}

    _, history = fit(STEP, start(), BATCHES, steps=25, every=10, evaluate=evaluation)
    assert [row["step"] for row in history] == [0, 10, 20, 25]
    assert history[-1]["test_loss"] < history[0]["test_loss"]


@pytest.mark.parametrize("cut", [1, 10, 17])
def test_stopped_and_resumed_equals_not_stopped(cut):
    saved = []

    def batches(i):
        if i == cut - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return BATCHES(i)

    with pytest.raises(Interrupted, match=f"after step {cut} of 30"):
        fit(STEP, start(), batches, steps=30, every=10, save=lambda *what: saved.append(what))
    state, history, sums = saved[-1]
    assert int(state.step) == cut
    resumed, rows = fit(STEP, state, BATCHES, steps=30, every=10, history=history, metric_sums=sums)
    whole, expected = fit(STEP, start(), BATCHES, steps=30, every=10)
    assert same(resumed, whole)
    assert rows == expected


def test_divergence_names_its_step():
    def batches(i):
        x, y = BATCHES(i)
        return (x * np.float32(np.nan) if i == 17 else x), y

    saved = []
    with pytest.raises(Diverged, match="loss is nan at step 18"):
        fit(
            STEP,
            start(),
            batches,
            steps=40,
            every=10,
            save=lambda *what: saved.append(int(what[0].step)),
        )
    assert saved == [10]


def test_a_step_does_not_change_its_arguments():
    state, (x, y) = start(), BATCHES(0)
    for leaf in [*tree.leaves(state._asdict()), x, y]:
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    new, _ = STEP(state, (x, y))
    assert int(state.step) == 0
    assert int(new.step) == 1


def test_evaluate_in_parts_equals_evaluate_at_once():
    metrics, state = numpy_nets.metrics_fn(MODEL), start()
    whole = evaluate(metrics, state, TASK.test)
    parts = evaluate(metrics, state, TASK.test, batch_size=7)
    assert whole == pytest.approx(parts, rel=1e-5)


def test_evaluate_needs_scalars():
    """Those of an ensemble have an axis of members."""

    def metrics(params, buffers, batch):
        return {"loss": np.ones(8)}

    with pytest.raises(UserError, match=r"evaluate: 'loss' has the shape \(8,\), needs a scalar"):
        evaluate(metrics, start(), TASK.test)


def test_a_net_that_draws_nothing_hashes_nothing(monkeypatch):
    state = start()
    monkeypatch.setattr(random, "philox", lambda *_: pytest.fail("a key was hashed"))
    STEP(state, TASK.train)


# --- rows are means of their own steps ------------------------------------------------------------

STILL = optim.sgd(0.0)  # nothing changes, so that all rows must be equal
WHOLE = data.batches(TASK.train)
BACKENDS = {"numpy": (numpy_nets, np.asarray), "torch": (torch_nets, torch.as_tensor)}


def standing_still(backend: str, dtype: str = "float32"):
    """A step that changes nothing, its state, and one batch for all steps."""
    nets, convert = BACKENDS[backend]
    model = nets.MLP(2, [8], 2)
    params, buffers = model.init(random.key(2))
    state = train_state(tree.cast(params, dtype), buffers, STILL, random.key(3))
    x, y = (convert(part) for part in TASK.train)
    x = tree.cast({"x": x}, dtype)["x"]
    return make_step(nets.grad_fn(model), STILL), state, lambda i: (x, y)


@pytest.mark.parametrize("name", ["loss", "accuracy"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_second_fit_counts_its_own_steps(backend, name):
    step, state, batches = standing_still(backend)
    state, first = fit(step, state, batches, steps=100)
    _, second = fit(step, state, batches, steps=200)
    assert second[-1][name] == pytest.approx(first[-1][name], rel=1e-6)


@pytest.mark.parametrize("begin", [1, 95, 100, 104])
def test_every_row_of_a_later_fit_is_the_mean_of_its_own_steps(begin):
    step, state, batches = standing_still("numpy")
    state, first = fit(step, state, batches, steps=begin)
    _, rows = fit(step, state, batches, steps=123, every=10)
    assert [row["loss"] for row in rows] == pytest.approx([first[-1]["loss"]] * len(rows), rel=1e-6)


def test_fit_that_goes_on_with_a_history_but_no_sums_counts_its_own_steps():
    step, state, batches = standing_still("numpy")
    state, first = fit(step, state, batches, steps=100)
    ahead = state._replace(step=state.step + 50)  # trained on outside of fit
    _, rows = fit(step, ahead, batches, steps=200, history=first)
    assert rows[-1]["loss"] == pytest.approx(first[-1]["loss"], rel=1e-6)


def test_later_fit_that_is_stopped_and_resumed_counts_its_own_steps():
    saved, state = [], fit(STEP, start(), BATCHES, steps=100)[0]

    def batches(i):
        if i == 149:
            os.kill(os.getpid(), signal.SIGINT)
        return BATCHES(i)

    with pytest.raises(Interrupted):
        fit(STEP, state, batches, steps=200, save=lambda *what: saved.append(what))
    stopped, history, sums = saved[-1]
    sums = json.loads(json.dumps(sums))  # as a checkpoint keeps them
    resumed = fit(STEP, stopped, BATCHES, steps=200, history=history, metric_sums=sums)
    whole = fit(STEP, state, BATCHES, steps=200)
    assert same(resumed[0], whole[0])
    assert resumed[1] == whole[1]


@pytest.mark.parametrize("every", [0, 10])
def test_history_from_the_future_is_refused_by_name(every):
    for rows in ([{"step": 300}], [{"step": 0}, {"step": 300}], [{"step": 300}, {"step": 0}]):
        with pytest.raises(
            UserError, match="history: a row of step 300, but the state has taken 0"
        ):
            fit(STEP, start(), BATCHES, steps=5, every=every, history=rows)
    with pytest.raises(UserError, match="history: a row without its 'step'"):
        fit(STEP, start(), BATCHES, steps=5, history=[{"loss": 1.0}])


@pytest.mark.parametrize("begin", [0, 3])
@pytest.mark.parametrize("name", ["step", "loss", "accuracy"])
def test_evaluation_that_returns_a_name_of_the_row_is_refused(name, begin):
    state, _ = fit(STEP, start(), BATCHES, steps=begin)
    with pytest.raises(UserError, match=f"evaluate: returns {name}, which every row has already"):
        fit(STEP, state, BATCHES, steps=50, every=5, evaluate=lambda state: {name: 7.0})


def test_metric_called_step_is_refused():
    def step(state, batch):
        state, metrics = STEP(state, batch)
        return state, metrics | {"step": metrics["loss"]}

    with pytest.raises(UserError, match="metrics: 'step'"):
        fit(step, start(), BATCHES, steps=5)


def test_metric_that_not_all_steps_have_is_refused():
    def step(state, batch):
        state, metrics = STEP(state, batch)
        return state, metrics if int(state.step) < 3 else {"loss": metrics["loss"]}

    with pytest.raises(UserError, match="a step has loss, those before it accuracy, loss"):
        fit(step, start(), BATCHES, steps=5)


def test_metric_that_is_no_scalar_is_named():
    def step(state, batch):
        return STEP(state, batch)[0], {"loss": np.zeros(3)}

    with pytest.raises(UserError, match=r"metrics: loss has the shape \(3,\)"):
        fit(step, start(), BATCHES, steps=5)


def test_evaluation_that_returns_nothing_is_refused():
    with pytest.raises(UserError, match="evaluate: returned a NoneType"):
        fit(STEP, start(), BATCHES, steps=5, evaluate=lambda state: None)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(np.ones(3), r"an array of shape \(3,\)"), (torch.ones(3), "an array of"), ("x", "str")],
)
def test_evaluation_that_returns_no_number_is_named(value, kind):
    with pytest.raises(UserError, match=f"evaluate: test_loss is {kind}.*needs one number"):
        fit(STEP, start(), BATCHES, steps=5, evaluate=lambda state: {"test_loss": value})


@pytest.mark.parametrize("value", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 0.5])
def test_rows_hold_plain_numbers(value):
    _, history = fit(STEP, start(), BATCHES, steps=5, evaluate=lambda state: {"test_loss": value})
    assert [type(row["test_loss"]) for row in history] == [float, float]


def test_wrong_numbers_of_steps_are_refused():
    for options in ({"steps": -1}, {"steps": 1e3}, {"steps": "5"}, {"steps": 5, "every": -2}):
        with pytest.raises(UserError, match="needs an integer that is not negative"):
            fit(STEP, start(), BATCHES, **options)
    state, _ = fit(STEP, start(), BATCHES, steps=5)
    with pytest.raises(UserError, match="steps: 3, but the state has already taken 5"):
        fit(STEP, state, BATCHES, steps=3)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("numpy", "float32"), ("numpy", "float64"), ("torch", "bfloat16"), ("torch", "float32")],
)
def test_mean_of_2000_equal_steps_is_that_of_one(backend, dtype):
    step, state, batches = standing_still(backend, dtype)
    _, history = fit(step, state, batches, steps=2000)
    assert history[-1]["loss"] == pytest.approx(
        float(step(state, batches(0))[1]["loss"]), rel=1e-12
    )


def test_metric_that_is_not_finite_is_named_with_its_step():
    def step(state, batch):
        state, metrics = STEP(state, batch)
        return state, metrics | {"gap": np.float32(np.nan if int(state.step) == 4 else 1)}

    with pytest.raises(Diverged, match="the gap is nan at step 4"):
        fit(step, start(), BATCHES, steps=8)


# --- evaluation -----------------------------------------------------------------------------------

METRICS = numpy_nets.metrics_fn(MODEL)


@pytest.mark.parametrize("batch_size", [-4, -1, 2.5, "7"])
def test_wrong_batch_size_of_an_evaluation_is_refused(batch_size):
    with pytest.raises(UserError, match="batch_size"):
        evaluate(METRICS, start(), TASK.test, batch_size)


def test_evaluation_on_nothing_or_on_inputs_without_targets_is_refused():
    x, y = TASK.test
    with pytest.raises(UserError, match=r"evaluate: arrays of \[0, 0\] examples"):
        evaluate(METRICS, start(), (x[:0], y[:0]))
    with pytest.raises(UserError, match="evaluate: arrays of"):
        evaluate(METRICS, start(), (x, y[:-1]), 7)


@pytest.mark.parametrize("batch_size", [0, 7, 1000])
def test_evaluation_of_several_inputs_slices_each(batch_size):
    x, y = (torch.tensor(part) for part in TASK.test)
    net = torch_nets.MLP(2, [8], 2)
    metrics, state = torch_nets.metrics_fn(net), init_state(net, OPTIMIZER, random.key(0))

    def of_parts(params, buffers, batch):
        inputs, targets = batch
        first, second = inputs.values() if isinstance(inputs, dict) else inputs
        return metrics(params, buffers, (torch.stack([first, second], 1), targets))

    right = evaluate(metrics, state, (x, y))
    for inputs in ((x[:, 0], x[:, 1]), {"a": x[:, 0], "b": x[:, 1]}):
        found = evaluate(of_parts, state, (inputs, y), batch_size)
        assert found == pytest.approx(right, rel=1e-5)


@pytest.mark.parametrize("metric", [r2, expected_calibration_error])
def test_metric_that_is_no_mean_of_parts_is_evaluated_at_once_or_refused(metric):
    x, y = (torch.tensor(part) for part in TASK.test)
    y = y.unsqueeze(1).expand(-1, 2).float() if metric is r2 else y
    net = torch_nets.MLP(2, [8], 2)
    metrics = torch_nets.metrics_fn(net, torch.nn.functional.cross_entropy, {"found": metric})
    state = init_state(net, OPTIMIZER, random.key(0))
    right = float(metric(net.apply(state.params, {}, x)[0], y))
    assert evaluate(metrics, state, (x, y), len(y))["found"] == pytest.approx(right)
    with pytest.raises(UserError, match="evaluate: found on"):
        evaluate(metrics, state, (x, y), 7)


CHANGED_BUFFERS = {  # what `apply` returns as buffers, where init makes "mean" of two zeros
    "more": (lambda mean: {"mean": mean, "last": mean}, "an extra buffer 'c.last'"),
    "none": (lambda mean: {}, "no buffer 'c.mean'"),
    "renamed": (lambda mean: {"average": mean}, "no buffer 'c.mean'"),
    "shape": (lambda mean: {"mean": mean.sum()}, r"the buffer 'c.mean' as float32 of shape \(\), "),
    "dtype": (lambda mean: {"mean": mean > 0}, r"the buffer 'c.mean' as bool of shape \(2,\), "),
}


@pytest.mark.parametrize("backend", ["numpy", "torch", "jit"])
@pytest.mark.parametrize("change", [*CHANGED_BUFFERS, ""])
def test_buffers_that_no_checkpoint_could_restore_are_refused_at_the_first_step(change, backend):
    returned, message = CHANGED_BUFFERS.get(change, (lambda mean: {"mean": mean + 1}, ""))
    xp = np if backend == "numpy" else torch

    def init(key):
        return {}, {"mean": xp.zeros(2, dtype=xp.float32)}

    def apply(params, buffers, x, *, train=False, key=None):
        return x - buffers["mean"], returned(buffers["mean"])

    if backend == "numpy":
        forward = lambda *args, **options: (*apply(*args, **options), None)
        own = modules.Module(init, forward, lambda dout, cache: (dout, {}), False, "Own")
        net = model_from_module(modules.serial(c=own, fc=modules.Linear(2, 2)))
        grads_of = numpy_nets.grad_fn(net)
    else:
        own = purenets.Model(init, apply, uses_key=False, kind="Own")
        net = torch_nets.layers.serial(c=own, fc=torch_nets.layers.Linear(2, 2))
        grads_of = torch_nets.grad_fn(net)
    optimizer = optim.sgd(0.1)
    step, state = make_step(grads_of, optimizer), init_state(net, optimizer, random.key(0))
    batch = xp.ones((3, 2), dtype=xp.float32), xp.zeros(3, dtype=xp.int64)
    step = torch_nets.jit(step) if backend == "jit" else step
    if not message:
        assert step(state, batch)[0].buffers["c.mean"].tolist() == [1, 1]
        return
    with pytest.raises(UserError, match=rf"make_step: the model returned {message}"):
        step(state, batch)


def test_buffers_that_are_no_arrays_are_refused():
    with pytest.raises(UserError, match=r"train_state: buffers\['mean'\] is 3, needs an array"):
        train_state({"w": np.zeros(2)}, {"mean": 3}, optim.sgd(0.1), random.key(0))


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (lambda params: {"t": 0}, r"opt_state\['t'\] is 0, needs an array"),
        (lambda params: {"0": {"t": 0.5}}, r"opt_state\['0'\]\['t'\] is 0.5, needs an array"),
        (lambda params: {"m": None}, r"opt_state\['m'\] is None, needs an array"),
        (lambda params: {0: params}, "opt_state: the name 0 is no text"),
        (lambda params: (), r"opt_state is \(\), needs a dict of arrays"),
    ],
)
def test_state_of_an_own_optimizer_is_made_of_arrays(init, text):
    own = purenets.Optimizer(init, lambda grads, state, params: (grads, state))
    with pytest.raises(UserError, match=f"^train_state: {text}"):
        train_state({"w": np.ones(2)}, {}, own, random.key(0))


def test_steps_that_are_taken_already_are_warned_of():
    optimizer = optim.sgd(0.1)
    step = make_step(lambda p, b, batch, key: (p, (b, {"loss": np.zeros(())})), optimizer)
    state = train_state({"w": np.ones(2)}, {}, optimizer, random.key(0))
    assert fit(step, state, lambda i: None, steps=0) == (state, [])
    state, history = fit(step, state, lambda i: None, steps=5)
    assert fit(step, state, lambda i: None, steps=5, history=history) == (state, history)
    with pytest.warns(UserWarning, match="fit: the state has taken 5 steps already, steps=5 takes"):
        assert fit(step, state, lambda i: None, steps=5) == (state, [])


GRADS, LOSS = {"w": np.ones(1)}, np.float64(1.0)
RESULTS = {
    "a loss and its gradients": ((LOSS, GRADS), r"\(float64, dict\)"),
    "gradients and a loss": ((GRADS, LOSS), r"\(dict, float64\)"),
    "gradients alone": (GRADS, "dict"),
    "gradients of two leaves alone": ({"w": GRADS["w"], "ab": LOSS}, "dict"),
    "a loss and gradients of two leaves": ((LOSS, {"ab": LOSS, "cd": LOSS}), r"\(float64, dict\)"),
    "metrics that are no dict": ((GRADS, ({}, LOSS)), r"\(dict, \(dict, float64\)\)"),
    "three values": ((GRADS, {}, {"loss": LOSS}), r"\(dict, dict, dict\)"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_a_gradient_function_must_not_return_is_named(name):
    result, outline = RESULTS[name]
    state = train_state({"w": np.zeros(1)}, {}, optim.sgd(0.1), random.key(0))
    step = make_step(lambda *_: result, optim.sgd(0.1))
    with pytest.raises(UserError, match=f"make_step: grad_fn returned {outline}, needs \\(grads,"):
        step(state, None)


def test_an_error_within_a_gradient_function_is_its_own():
    def grad_fn(params, buffers, batch, key):
        raise ValueError("too many values")

    state = train_state({"w": np.zeros(1)}, {}, optim.sgd(0.1), random.key(0))
    with pytest.raises(ValueError, match=r"^too many values$"):
        make_step(grad_fn, optim.sgd(0.1))(state, None)


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
def test_a_gradient_function_without_its_model_gets_one_line(nets):
    optimizer = optim.sgd(0.1)
    with pytest.raises(
        UserError, match=r"make_step: grad_fn is the function grad_fn itself; pass grad_fn\(model\)"
    ):
        make_step(nets.grad_fn, optimizer)
    with pytest.raises(UserError, match=r"make_step: grad_fn is the function metrics_fn itself"):
        make_step(nets.metrics_fn, optimizer)
    state = init_state(nets.MLP(2, [3], 2), optimizer, random.key(0))
    with pytest.raises(UserError, match=r"evaluate: metrics is the function metrics_fn itself"):
        evaluate(nets.metrics_fn, state, (np.ones((4, 2)), np.zeros(4, int)))


def test_a_call_of_fit_with_other_arguments_says_how_it_is_called():
    right = r"call it as fit\(step, state, batches, steps=1000\)"
    for call, text in [
        (lambda: fit(lambda *_: None, None, None, 100), "positional arguments"),
        (lambda: fit(lambda *_: None, None, None, epochs=3), "steps"),
        (lambda: fit(lambda *_: None, None, None, steps=1, epochs=3), "epochs"),
        (lambda: fit(), "step"),
    ]:
        with pytest.raises(UserError, match=rf"^fit: .*{text}.*{right}"):
            call()


def test_a_type_error_within_fit_stays_what_it_is():
    def step(state, batch):
        raise TypeError("of the step itself")

    state = init_state(numpy_nets.MLP(2, [3], 2), optim.sgd(0.1), random.key(0))
    with pytest.raises(TypeError, match="of the step itself"):
        fit(step, state, lambda i: None, steps=1)


def test_batches_that_are_no_function_are_answered_by_what_makes_one():
    loader = torch.utils.data.DataLoader([1, 2], 1)
    for wrong, right in (
        (loader, r"needs a function, as torch_nets.from_loader\(loader, key\) makes it"),
        (TASK.train, r"needs a function, as data.batches\(examples, 32, key\) makes it"),
        ([TASK.train], r"needs a function, as data.batches"),
    ):
        with pytest.raises(UserError, match=rf"^fit: batches is a \w+, {right}"):
            fit(STEP, start(), wrong, steps=1)


def test_tensors_for_numpy_nets_are_answered_by_to_numpy():
    batch = tuple(map(torch.as_tensor, BATCHES(0)))
    with pytest.raises(
        UserError, match=r"inputs are a Tensor, needs NumPy arrays; torch_nets.to_nu"
    ):
        STEP(start(), batch)


OF_OTHER_ARGUMENTS = {
    r"make_step: grad_fn .* grad_fn\(params, buffers, batch, key\), which returns \(grads, ": (
        lambda nets: make_step(lambda params, batch: 0.0, OPTIMIZER)
    ),
    r"make_step: grad_fn .* grad_fn\(model\) makes one": (
        lambda nets: make_step(nets.metrics_fn(nets.MLP(2, [3], 2)), OPTIMIZER)
    ),
    r"sam: grad_fn cannot be called as": lambda nets: sam(lambda params, batch: 0.0),
    r"ensemble: step .* step\(state, batch\), which returns": (
        lambda nets: nets.ensemble(lambda state: state)
    ),
    r"ensemble_metrics: metrics .* metrics\(params, buffers, batch\)": (
        lambda nets: nets.ensemble_metrics(lambda params, batch: {})
    ),
    r"fit: step .* make_step\(grad_fn, optimizer\) makes one": (
        lambda nets: fit(lambda state: state, start(), BATCHES, steps=2)
    ),
    r"fit: batches cannot be called as batches\(step\)": (
        lambda nets: fit(STEP, start(), lambda: TASK.train, steps=2)
    ),
    r"fit: evaluate cannot be called as evaluate\(state\)": (
        lambda nets: fit(STEP, start(), BATCHES, steps=2, evaluate=lambda: None)
    ),
    r"fit: save .* save\(state, history, metric_sums\)": (
        lambda nets: fit(STEP, start(), BATCHES, steps=2, save=lambda state: None)
    ),
    r"evaluate: metrics .* metrics_fn\(model\) makes one": (
        lambda nets: evaluate(lambda state, batch: {}, start(), TASK.test)
    ),
    r"scan: f .* f\(carry, x\), which returns \(carry, y\)": (
        lambda nets: scan(lambda carry: carry, 0.0, np.arange(3))
    ),
}


@pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
@pytest.mark.parametrize("text", OF_OTHER_ARGUMENTS)
def test_a_function_of_other_arguments_is_named_with_the_right_ones(text, nets):
    with pytest.raises(UserError, match=f"^{text}"):
        OF_OTHER_ARGUMENTS[text](nets)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            lambda n: {"a": 1.0} | ({"b": 2.0} if n == 3 else {}),
            "has the metrics a, those before it",
        ),
        (lambda n: None, "metrics returned a NoneType, needs a dict"),
        (lambda n: {"a": np.complex128(1 + 2j)}, "needs one number"),
    ],
)
def test_metrics_of_the_parts_have_to_fit(metrics, message):
    state, x = start(), np.arange(10.0)
    with pytest.raises(UserError, match=message):
        evaluate(lambda params, buffers, batch: metrics(len(batch[1])), state, (x, x), 3)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"loss": 1.0, "loss (rounding)": 100.0}, "ends in ' \\(rounding\\)' is ours"),
        ({"loss": 1j}, "loss is 1j, needs a real number"),
        ({"loss": "low"}, "loss is 'low', needs a real number"),
        ({"loss": np.complex128(1j)}, "needs a real number"),
        (
            {"loss": np.ones(2)},
            r"loss has the shape \(2,\), needs a real number; fit trains one net",
        ),
    ],
)
def test_metrics_of_a_step_that_are_none(metrics, message):
    step = lambda state, batch: (state._replace(step=state.step + 1), metrics)
    with pytest.raises(UserError, match=message):
        fit(step, start(), BATCHES, steps=2)


@pytest.mark.parametrize("optimizer", [optim.sgd(0.1), optim.adam(0.1)], ids=["sgd", "adam"])
def test_gradients_of_another_library_are_named(optimizer):
    state = train_state({"w": torch.ones(2), "v": torch.ones(3)}, {}, optimizer, random.key(0))

    def gradient(params, buffers, batch, key):
        grads = {name: np.ones(tuple(p.shape), np.float32) for name, p in params.items()}
        return grads, (buffers, {"loss": torch.tensor(1.0)})

    with pytest.raises(UserError, match=r"^grads: w is a NumPy array, its param a tensor"):
        make_step(gradient, optimizer)(state, None)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_what_is_written_into_the_callers_arrays_later_changes_no_state(kind):
    w, mean, lr = kind(np.ones(2)), kind(np.ones(3)), kind(np.array(0.5))
    optimizer = optim.inject_hyperparams(optim.sgd, lr=lr)
    key = kind(random.key(0))
    state = train_state({"w": w}, {"mean": mean}, optimizer, key)
    changed = optim.set_hyperparams(state.opt_state, lr=lr)
    for array in (w, mean, lr):
        array *= 8
    assert state.params["w"].tolist() == [1, 1] and state.buffers["mean"].tolist() == [1, 1, 1]
    assert float(optim.get_state(state.opt_state, "hyper")["lr"]) == 0.5
    assert float(optim.get_state(changed, "hyper")["lr"]) == 0.5
