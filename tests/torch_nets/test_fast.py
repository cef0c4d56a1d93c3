import pytest
import torch

from purenets import UserError, init_state, make_step, optim, random, torch_nets, train_state, tree
from purenets.core.runs import checkpoint
from purenets.core.vector import vector_step
from purenets.torch_nets import MLP, ensemble, fast_step, grad_fn, jit, stack_states


def data(n: int):
    x = random.normal(torch.as_tensor(random.key(1)), (n, 3))
    return x, (x.sum(1) > 0).long()


@pytest.mark.parametrize("name", ["adam", "nesterov", "adamw", "rmsprop"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_is_the_step_of_make_step(name, dropout):
    model, optimizer = MLP(3, [7, 4], 2, dropout=dropout), optim.OPTIMIZERS[name](lr=1e-2)
    plain, quick = make_step(grad_fn(model), optim.flat(optimizer)), fast_step(model, optimizer)
    slow = fast = init_state(model, optim.flat(optimizer), random.key(0))
    for i in range(20):
        batch = data(20 + i % 2)
        (slow, a), (fast, b) = plain(slow, batch), quick(fast, batch)
        assert a == b
    tree.check_like(fast._asdict(), slow._asdict())
    for name, leaf in slow.params.items():
        assert torch.equal(fast.params[name], leaf)


def test_changes_no_argument_and_takes_what_it_is_given():
    model, optimizer = MLP(3, [4], 2), optim.adam(1e-1)
    step, batch = fast_step(model, optimizer), data(8)
    state = init_state(model, optim.flat(optimizer), random.key(0))
    before = tree.map(torch.clone, state._asdict())
    one, metrics = step(state, batch)
    two, _ = step(one, batch)
    again, same = step(state, batch)  # from the first state once more
    for a, b in zip(tree.leaves(before), tree.leaves(state._asdict()), strict=True):
        assert torch.equal(a, b)
    assert same == metrics
    for name in one.params:
        assert torch.equal(one.params[name], again.params[name])
        assert not torch.equal(one.params[name], two.params[name])
    replaced = one._replace(params=one.params | {"fc1.bias": torch.ones(4)})
    moved, _ = step(replaced, batch)
    assert abs(moved.params["fc1.bias"] - 1).max() < 0.2  # what was put in, not what the step remembers


def test_another_order_of_the_same_leaves_is_the_same():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    step = fast_step(model, optimizer)
    state, _ = step(init_state(model, optim.flat(optimizer), random.key(0)), batch)
    expected, _ = step(state, batch)
    state, _ = step(init_state(model, optim.flat(optimizer), random.key(0)), batch)
    found, _ = step(state._replace(params=dict(sorted(state.params.items()))), batch)
    for name, leaf in expected.params.items():
        assert torch.equal(found.params[name], leaf)


def test_is_compiled_and_vmapped_as_any_step():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    step = fast_step(model, optimizer)
    state = init_state(model, optim.flat(optimizer), random.key(0))
    expected, _ = step(state, batch)
    found, _ = jit(step)(state, batch)
    members, _ = ensemble(step, same_batch=True)(stack_states([state, state]), batch)
    for name, leaf in expected.params.items():
        assert torch.allclose(found.params[name], leaf, atol=1e-6)
        assert torch.allclose(members.params[name][1], leaf, atol=1e-6)


def test_its_state_is_saved_and_read_back(tmp_path):
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    step = fast_step(model, optimizer)
    state, _ = step(init_state(model, optim.flat(optimizer), random.key(0)), batch)
    checkpoint.save(tmp_path, state._asdict(), {})
    other, _ = checkpoint.load(tmp_path, state._asdict())
    for name, leaf in state.params.items():
        assert torch.equal(other["params"][name], leaf)


def test_metrics_are_those_that_are_asked_for():
    model, optimizer, batch = MLP(3, [4], 2), optim.adam(1e-1), data(8)
    params, buffers = model.init(random.key(0))
    state = train_state(params, buffers, optim.flat(optimizer), random.key(0))
    assert fast_step(model, optimizer, metrics={})(state, batch)[1].keys() == {"loss"}
    largest = {"largest": lambda logits, targets: logits.abs().max()}
    metrics = torch_nets.metrics_fn(model, metrics=largest)(params, buffers, batch)
    assert metrics.keys() == {"loss", "largest"}
    logits, _ = model.apply(params, buffers, batch[0])
    assert metrics["largest"] == logits.abs().max()


def test_gradients_go_through_two_steps():
    """Params that the step returned and that autograd looks at are not those that the step remembers."""
    model, optimizer, batch = MLP(3, [4], 2), optim.sgd(1e-1, momentum=0.9), data(8)
    first = init_state(model, optim.flat(optimizer), random.key(0))
    found = []
    for step in (fast_step(model, optimizer), make_step(grad_fn(model), optim.flat(optimizer))):
        state, _ = step(first, batch)
        leaves = {name: leaf.requires_grad_() for name, leaf in state.params.items()}
        after, _ = step(state._replace(params=leaves), batch)
        total = sum((leaf**2).sum() for leaf in after.params.values())
        found.append(torch.autograd.grad(total, list(leaves.values())))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_leaves_of_several_types_are_refused():
    optimizer = optim.sgd(1e-1)
    params = {"a": torch.zeros(2), "b": torch.zeros(3, dtype=torch.float64)}
    state = train_state(params, {}, optim.flat(optimizer), random.key(0))
    step = vector_step(lambda *_: (torch.zeros(5), ({}, {})), optimizer)
    with pytest.raises(UserError, match="all of one dtype"):
        step(state, None)


def test_the_loss_cannot_be_replaced():
    model = MLP(3, [4], 2)
    params, _ = model.init(random.key(0))
    with pytest.raises(UserError, match="choose another name than 'loss'"):
        grad_fn(model, metrics={"loss": lambda logits, targets: 0})(params, {}, data(8), None)
