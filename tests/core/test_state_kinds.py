"""A state of another optimizer is refused, on every path of a step and by `restore`."""

import itertools

import numpy as np
import pytest
import torch

from purenets import (
    UserError,
    make_step,
    numpy_nets,
    optim,
    random,
    runs,
    scan,
    schedules,
    torch_nets,
    train_state,
    tree,
)
from purenets.core.runs import checkpoint
from purenets.core.vector_dict import with_vector

RATE = schedules.cosine(1e-2, 10)
KINDS = {
    "adam": optim.adam(1e-2),
    "adam, decayed": optim.adam(1e-2, weight_decay=0.1),
    "adam, scheduled": optim.adam(RATE),
    "amsgrad": optim.adam(1e-2, amsgrad=True),
    "adamw": optim.adamw(1e-2),
    "adamw, amsgrad": optim.adamw(1e-2, amsgrad=True),
    "lamb": optim.lamb(1e-2),
    "radam": optim.radam(1e-2),
    "adopt": optim.adopt(1e-2),
    "sgd": optim.sgd(1e-2),
    "sgd, scheduled": optim.sgd(RATE),
    "momentum": optim.momentum(1e-2),
    "dampened": optim.sgd(1e-2, momentum=0.9, dampening=0.5),
    "rmsprop": optim.rmsprop(1e-2),
    "rmsprop, scheduled": optim.rmsprop(1e-2, alpha=lambda count: 0.9 + 0 * count),
    "ema": optim.chain(optim.sgd(1e-2), optim.ema()),
    "ema, scheduled": optim.chain(optim.sgd(1e-2), optim.ema(lambda count: 0.9 + 0 * count)),
    "own": optim.chain(optim.stateless(lambda grads, params: grads), optim.adam(1e-2)),
}
PAIRS = list(itertools.permutations(KINDS, 2))
NETS = pytest.mark.parametrize("nets", [numpy_nets, torch_nets], ids=["numpy", "torch"])
MESSAGE = "^opt_state: of another optimizer or other params"


def start(nets, name: str, plain: bool = False):
    """Return a first state of an optimizer, and a batch."""
    model = nets.MLP(3, [4], 2)
    params, _ = model.init(random.key(0))
    state = train_state(params, {}, KINDS[name], random.key(1))
    if plain:
        copies = [tree.map(lambda leaf: leaf + 0, part) for part in (state.params, state.opt_state)]
        state = state._replace(params=copies[0], opt_state=copies[1])
    batch = np.ones((5, 3), np.float32), np.zeros(5, np.int64)
    batch = tuple(map(torch.as_tensor, batch)) if nets is torch_nets else batch
    return model, state, batch


@NETS
@pytest.mark.parametrize("plain", [False, True])
def test_step_refuses_a_state_of_another_kind(nets, plain):
    for name, other in PAIRS:
        model, state, batch = start(nets, other, plain)
        with pytest.raises(UserError, match=MESSAGE):
            make_step(nets.grad_fn(model), KINDS[name])(state, batch)


@NETS
@pytest.mark.parametrize("name", KINDS)
def test_step_takes_its_own_state(nets, name):
    for plain in (False, True):
        model, state, batch = start(nets, name, plain)
        step = make_step(nets.grad_fn(model), KINDS[name])
        for _ in range(2):
            state, _ = step(state, batch)
        assert state.step == 2


@NETS
def test_large_leaves_refuse_a_state_of_another_kind(nets, monkeypatch):
    """Which are no vector: kernels on lists of leaves, and blocks."""
    monkeypatch.setattr("purenets.core.vector_dict.MAX_MEAN_SIZE", 0)
    for name, other in PAIRS:
        model, state, batch = start(nets, other)
        with pytest.raises(UserError, match=MESSAGE):
            make_step(nets.grad_fn(model), KINDS[name])(state, batch)


CROSSED = [("adam", "amsgrad"), ("amsgrad", "adam"), ("adamw", "adam"), ("adam", "adamw")]
CROSSED += [("radam", "adam"), ("adam", "radam"), ("adam", "adam, scheduled")]


@NETS
@pytest.mark.parametrize(("name", "other"), CROSSED)
def test_scan_and_ensemble_refuse_a_state_of_another_kind(nets, name, other):
    model, state, batch = start(nets, other)
    step = make_step(nets.grad_fn(model), KINDS[name])
    stacked = nets.stack_states([state, state])
    with pytest.raises(UserError, match=MESSAGE):
        nets.ensemble(step, same_batch=True)(stacked, batch)
    with pytest.raises(UserError, match=MESSAGE):
        scan(step, state, tuple(part[None] for part in batch))


@pytest.mark.parametrize(("name", "other"), CROSSED[:3])
def test_jit_refuses_a_state_of_another_kind(name, other):
    model, state, batch = start(torch_nets, other)
    step = torch_nets.jit(make_step(torch_nets.grad_fn(model), KINDS[name]))
    with pytest.raises(UserError, match=MESSAGE):
        step(state, batch)


def test_kinds_change_no_number():
    """RAdam's entry without arrays goes through vectors, blocks and pairs of complex numbers."""
    params = {"w": np.ones((2, 3)), "b": np.zeros(3)}
    for name in ("radam", "adopt", "lamb"):
        optimizer = KINDS[name]
        apart, together = optimizer.init(params), optimizer.init(with_vector(params))
        for part in (apart, together):
            updates, new = optimizer.update(params, part, params)
            assert tree.flatten(new).keys() == tree.flatten(part).keys()
            assert all(np.isfinite(u).all() for u in updates.values())


def test_a_checkpoint_keeps_the_kind(tmp_path):
    for name in KINDS:
        _, state, _ = start(numpy_nets, name)
        (tmp_path / name).mkdir()
        runs.save(tmp_path / name, state)
    for name, other in itertools.product(KINDS, KINDS):
        _, state, _ = start(numpy_nets, other)
        if name == other:
            restored, _, _ = runs.restore(tmp_path / name, state)
            assert restored.opt_state.keys() == state.opt_state.keys()
        else:
            with pytest.raises(UserError, match="not of this model and optimizer"):
                runs.restore(tmp_path / name, state)


def test_a_checkpoint_without_kinds_is_restored_by_its_arrays(tmp_path):
    """As earlier versions wrote them."""
    _, adam, _ = start(numpy_nets, "adam")
    _, radam, _ = start(numpy_nets, "radam")
    flat = checkpoint.on_host(adam._asdict())
    meta = {"history": [], "sums": {}}
    content = checkpoint.encoded(checkpoint.Flat(flat, None), meta)
    assert b'"empty' not in content
    (tmp_path / checkpoint.NAME).write_bytes(content)
    for state in (adam, radam):
        restored, _, _ = runs.restore(tmp_path, state)
        np.testing.assert_array_equal(restored.params["fc1.weight"], adam.params["fc1.weight"])
        assert restored.opt_state["0"].keys() == state.opt_state["0"].keys()
