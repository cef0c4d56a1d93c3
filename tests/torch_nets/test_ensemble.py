"""A member of an ensemble is what it would be alone."""

import pytest
import torch

from purenets import UserError, init_state, make_step, optim, random, schedules, tree
from purenets.core.data.palindromes import palindromes
from purenets.torch_nets import (
    MLP,
    VanillaRNN,
    ensemble,
    ensemble_metrics,
    grad_fn,
    jit,
    metrics_fn,
    stack_states,
    unstack_states,
)
from purenets.torch_nets.ensemble import deep_ensemble, per_member_grad_fn
from purenets.torch_nets.layers import BatchNorm, Conv, GlobalAvgPool, serial

SEEDS = range(3)


def largest(a: dict, b: dict) -> float:
    a, b = tree.flatten(a), tree.flatten(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def setting(make_model=lambda: VanillaRNN(6, 1, 12, 10), flatten=False):
    model = make_model()
    rate = schedules.cosine(1e-2, 5)  # with a count in the optimizer's state
    optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adam(rate))
    states = [init_state(model, optimizer, random.key(seed)) for seed in SEEDS]

    def batch(seed, i):
        x, y = palindromes(torch.as_tensor(random.fold_in(random.key(100 + seed), i)), 8, 7)
        return (x[..., 0] if flatten else x), y

    return model, make_step(grad_fn(model), optimizer), states, batch


def stacked(batches):
    return tuple(torch.stack(part) for part in zip(*batches, strict=True))


@pytest.mark.parametrize("wrap", [lambda step: step, jit], ids=["eager", "compiled"])
def test_members_train_as_if_alone(wrap):
    _, step, states, batch = setting()
    together, alone = stack_states(states), list(states)
    many = wrap(ensemble(step))
    for i in range(3):
        together, metrics = many(together, stacked([batch(seed, i) for seed in SEEDS]))
        alone = [step(state, batch(seed, i))[0] for seed, state in zip(SEEDS, alone, strict=True)]
    assert metrics["loss"].shape == (len(SEEDS),) and int(together.step) == 3
    for one, other in zip(unstack_states(together), alone, strict=True):
        assert largest(one.params, other.params) <= 1e-6
        assert largest(one.opt_state, other.opt_state) <= 1e-6
        assert torch.equal(one.key, other.key)


def test_members_draw_differently():
    """Dropout on one batch: each member has a mask of its own, the one it would have alone."""
    _, step, states, batch = setting(lambda: MLP(6, [16], 10, dropout=0.5), flatten=True)
    same = [s._replace(params=states[0].params) for s in states]
    together, metrics = ensemble(step, same_batch=True)(stack_states(same), batch(0, 0))
    assert len({float(loss) for loss in metrics["loss"]}) == len(SEEDS)
    for one, state in zip(unstack_states(together), same, strict=True):
        assert largest(one.params, step(state, batch(0, 0))[0].params) <= 1e-6


def test_metrics_of_members():
    model, _, states, batch = setting()
    together = stack_states(states)
    metrics = ensemble_metrics(metrics_fn(model))(together.params, together.buffers, batch(0, 0))
    for i, state in enumerate(states):
        alone = metrics_fn(model)(state.params, state.buffers, batch(0, 0))
        assert abs(float(metrics["loss"][i] - alone["loss"])) <= 1e-6


def test_round_trip():
    _, _, states, _ = setting()
    for one, state in zip(unstack_states(stack_states(states)), states, strict=True):
        assert largest(one.params, state.params) == 0 and torch.equal(one.key, state.key)


def test_states_of_different_steps():
    _, step, states, batch = setting()
    ahead, _ = step(states[1], batch(1, 0))
    with pytest.raises(UserError, match=r"one step, got \[0, 1\]"):
        stack_states([states[0], ahead])


def test_side_by_side_each_member_trains_as_if_alone():
    model, optimizer = MLP(6, [16], 10, dropout=0.5), optim.adam(1e-2)
    both, (x, y) = deep_ensemble(model, 2), (torch.randn(8, 6), torch.arange(8))
    grad = grad_fn(model)
    params, buffers = both.init(random.key(0))
    assert params["0.fc1.weight"].shape == (16, 6)
    assert not torch.equal(params["0.fc1.weight"], params["1.fc1.weight"])
    key = torch.as_tensor(random.key(1))
    grads, (_, metrics) = per_member_grad_fn(grad, 2)(params, buffers, (x, y), key)
    assert list(grads) == list(params)
    losses = []
    for i in range(2):
        alone = {name: params[f"{i}.{name}"] for name in model.init(key)[0]}
        expected, (_, found) = grad(alone, {}, (x, y), random.fold_in(key, i))
        assert all(torch.equal(grads[f"{i}.{name}"], leaf) for name, leaf in expected.items())
        losses.append(found["loss"])
    assert metrics["loss"] == sum(losses) / 2 and losses[0] != losses[1]
    step = make_step(per_member_grad_fn(grad, 2), optimizer)
    state = init_state(both, optimizer, random.key(0))
    for _ in range(60):
        state, metrics = step(state, (x, y))
    assert metrics["loss"] < sum(losses) / 2 - 1


def test_the_logits_of_both_are_the_mean_of_theirs_and_buffers_are_kept_apart():
    model = serial(conv=Conv(1, 2, 3), norm=BatchNorm(2), mean=GlobalAvgPool())
    both, x = deep_ensemble(model, 2), torch.randn(4, 1, 5, 5)
    params, buffers = both.init(random.key(0))
    logits, new = both.apply(params, buffers, x, train=True)
    for i in range(2):
        mine, state = tree.select(params, f"{i}."), tree.select(buffers, f"{i}.")
        one, changed = model.apply(mine, state, x, train=True)
        assert all(torch.equal(new[f"{i}.{name}"], leaf) for name, leaf in changed.items())
        logits = logits - one / 2
    assert logits.abs().max() < 1e-6 and new.keys() == buffers.keys()


def test_wrong_numbers_of_members_are_named():
    for make in (
        lambda: deep_ensemble(MLP(6, [16], 10), 0),
        lambda: per_member_grad_fn(grad_fn(MLP(6, [16], 10)), 1.5),
    ):
        with pytest.raises(
            UserError, match=r"k, the number of members: .*, needs a positive integer"
        ):
            make()


@pytest.mark.parametrize("members", [1, 3])
def test_deep_ensemble_refuses_the_params_of_more_or_fewer_members(members):
    net = serial(conv=Conv(1, 2), norm=BatchNorm(2), mean=GlobalAvgPool())
    params, buffers = deep_ensemble(net, members).init(random.key(0))
    right, right_buffers = deep_ensemble(net, 2).init(random.key(0))
    x, y = torch.zeros(4, 1, 5, 5), torch.zeros(4).long()
    both, grad = deep_ensemble(net, 2), per_member_grad_fn(grad_fn(net), 2)
    grad(right, right_buffers, (x, y), None)
    for wrong in ((params, right_buffers), (params | right, right_buffers), (right, buffers)):
        if members == 1 and wrong[0] is not params:
            continue  # fewer buffers are missed by the layer that needs them
        with pytest.raises(UserError, match=r"ensemble of 2: .* expected 0 to 1"):
            both.apply(*wrong, x)
        with pytest.raises(UserError, match=r"ensemble of 2: .* expected 0 to 1"):
            grad(*wrong, (x, y), None)


def test_integer_metrics_of_members_are_averaged():
    grad = lambda params, buffers, batch, key: (params, (buffers, {"n": torch.tensor(len(batch))}))
    params = {"0.w": torch.ones(1), "1.w": torch.ones(1)}
    _, (_, metrics) = per_member_grad_fn(grad, 2)(params, {}, (torch.ones(2), torch.ones(2)), None)
    assert float(metrics["n"]) == 2
