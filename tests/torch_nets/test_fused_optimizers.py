"""A fused step of large leaves is the plain arithmetic up to rounding, and as pure."""

import pytest
import torch

from purenets import make_step, optim, schedules, train_state, tree
from purenets.core.optim.internals import kernels
from purenets.core.vector_dict import MAX_MEAN_SIZE, vector_of
from purenets.torch_nets.fast import fused_optimizers

OPTIMIZERS = {
    "adam": optim.adam(1e-2),
    "decayed adam": optim.adam(1e-2, weight_decay=0.1),
    "amsgrad": optim.adam(1e-2, amsgrad=True, weight_decay=0.1),
    "adamw": optim.adamw(1e-2, weight_decay=0.1),
    "adamw without decay": optim.adamw(1e-2, weight_decay=0),
    "schedule": optim.adamw(schedules.cosine(1e-2, 10)),
    "rate in a tensor": optim.adam(torch.tensor(1e-2)),
    "momentum": optim.momentum(1e-2),
    "decayed nesterov": optim.nesterov(1e-2, weight_decay=0.1),
    "scheduled momentum": optim.momentum(schedules.cosine(1e-2, 10)),
    "clipped": optim.chain(optim.clip_by_global_norm(1.0), optim.adam(1e-2)),
}
SHAPES = {"w": (130, 300), "b": (130,)}
by_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


def leaves(seed: int, dtype) -> dict:
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=draw, dtype=dtype) for name, shape in SHAPES.items()}


def run(optimizer, dtype, steps: int = 20):
    """Return the state after steps along the distance from a target, and the one before."""

    def grad(params, buffers, batch, key):
        return {name: p - batch[name] for name, p in params.items()}, (
            buffers,
            {"loss": torch.zeros(())},
        )

    step, target = make_step(grad, optimizer), leaves(1, dtype)
    state = before = train_state(leaves(0, dtype), {}, optimizer, torch.tensor([0, 1]))
    for _ in range(steps):
        before = state
        state, _ = step(state, target)
    return state, before


@pytest.fixture
def calls(monkeypatch) -> list:
    """The kinds of the fused steps that were taken."""
    found = []

    def kernel(rule, *arguments):
        result = fused_optimizers.step(rule, *arguments)
        if result is not None:
            found.append(rule.kind)
        return result

    monkeypatch.setitem(kernels.KERNELS, torch.Tensor, kernel)
    return found


@by_optimizer
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 4e-15)])
def test_is_the_plain_arithmetic_up_to_rounding(name, dtype, tolerance, calls, monkeypatch):
    fused, _ = run(OPTIMIZERS[name], dtype)
    assert len(calls) == 20
    monkeypatch.delitem(kernels.KERNELS, torch.Tensor)
    plain, _ = run(OPTIMIZERS[name], dtype)
    tree.check_like(fused._asdict(), plain._asdict())
    for a, b in zip(tree.leaves(fused._asdict()), tree.leaves(plain._asdict()), strict=True):
        assert (a - b).abs().max() <= tolerance * max(1, b.abs().max())


@by_optimizer
def test_changes_no_argument(name, calls):
    _, before = run(OPTIMIZERS[name], torch.float32)
    copy = tree.map(torch.clone, before._asdict())
    grads = {name: p - 1 for name, p in before.params.items()}
    optimizer = OPTIMIZERS[name]
    make_step(lambda *_: (grads, ({}, {})), optimizer)(before, None)
    assert len(calls) == 21
    for a, b in zip(tree.leaves(copy), tree.leaves(before._asdict()), strict=True):
        assert torch.equal(a, b)


def one_step(params: dict, grads: dict, optimizer=OPTIMIZERS["adam"]):
    step = make_step(lambda *_: (grads, ({}, {})), optimizer)
    return step(train_state(params, {}, optimizer, torch.tensor([0, 1])), None)[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.to(torch.bfloat16),
        lambda p: p.t().contiguous().t() if p.ndim == 2 else p,
        lambda p: p.clone().requires_grad_(),
    ],
    ids=["bfloat16", "strides", "requires_grad"],
)
def test_other_leaves_take_the_plain_arithmetic(change, calls):
    params = {name: change(p) for name, p in leaves(0, torch.float32).items()}
    one_step(params, {name: p.detach() for name, p in params.items()})
    assert not calls


def test_a_vector_over_the_limit_takes_the_plain_arithmetic(calls):
    """One of more elements than a large leaf has, too."""
    params = {str(i): torch.zeros(MAX_MEAN_SIZE) for i in range(9)}
    assert 9 * MAX_MEAN_SIZE > fused_optimizers.MAX_VECTOR_SIZE
    assert vector_of(one_step(params, params).params) is not None
    assert not calls


def test_a_small_vector_takes_the_kernel_and_a_larger_one_does_not(calls, monkeypatch):
    params, grads = (
        {n: p[:20, ...] for n, p in leaves(i, torch.float32).items()} for i in range(2)
    )
    found = one_step(params, grads).params
    assert calls == ["adam"]
    monkeypatch.setattr(fused_optimizers, "MAX_VECTOR_SIZE", 100)
    plain = one_step(params, grads).params
    assert calls == ["adam"]
    assert all(torch.allclose(found[name], p, rtol=0, atol=1e-6) for name, p in plain.items())


def test_gradients_of_another_dtype_take_the_plain_arithmetic(calls):
    one_step(leaves(0, torch.float32), leaves(1, torch.float64))
    assert not calls


@pytest.mark.parametrize(
    "optimizer",
    [
        optim.adam(1e-2, eps=torch.tensor(1e-8)),
        optim.adam(torch.tensor(1e-2, requires_grad=True)),
        optim.sgd(1e-2, momentum=0.9, dampening=0.5),
        optim.nadam(1e-2),
        optim.chain(optim.adam(1e-2), optim.ema(0.9)),
    ],
    ids=["eps in a tensor", "rate with a gradient", "dampening", "nadam", "what reads the updates"],
)
def test_other_optimizers_take_the_plain_arithmetic(optimizer, calls):
    params = one_step(leaves(0, torch.float32), leaves(1, torch.float32), optimizer).params
    assert not calls
    assert params.keys() == SHAPES.keys()


def test_a_rate_can_be_differentiated():
    def loss(rate):
        state = one_step(leaves(0, torch.float64), leaves(1, torch.float64), optim.adam(rate))
        return (state.params["w"] ** 2).sum()

    rate = torch.tensor(1e-2, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(loss(rate), rate)
    expected = (loss(torch.tensor(1e-2 + 1e-6)) - loss(torch.tensor(1e-2 - 1e-6))) / 2e-6
    assert torch.isclose(found, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-3)


def test_under_vmap_the_plain_arithmetic_is_taken(calls):
    params, grads = (leaves(seed, torch.float32) for seed in range(2))
    found = torch.func.vmap(lambda rate: one_step(params, grads, optim.adam(rate)).params)(
        torch.tensor([1e-2, 1e-1])
    )
    assert not calls
    expected = one_step(params, grads, optim.adam(1e-1)).params
    assert calls == ["adam"]
    assert torch.allclose(found["w"][1], expected["w"], atol=1e-6)


def test_leaves_of_the_limit_have_a_vector():
    mean = sum(p.numel() for p in leaves(0, torch.float32).values()) / len(SHAPES)
    assert mean > MAX_MEAN_SIZE
