"""Optimizers on half-precision, complex and integer params."""

import numpy as np
import pytest
import torch
from torch import nn

from purenets import (
    Optimizer,
    TrainState,
    UserError,
    init_state,
    make_step,
    numpy_nets,
    optim,
    random,
    runs,
    schedules,
    train_state,
    tree,
)
from purenets.core.arrays import like, namespace, widened
from purenets.core.optim.internals.extra_args import with_extra_args
from purenets.core.sam import sam
from purenets.core.vector_dict import VectorDict, with_vector
from purenets.torch_nets import MLP, ensemble, grad_fn, jit, stack_states, unstack_states

KEY = torch.as_tensor(random.key(0))
HALF = [np.float16, torch.float16, torch.bfloat16]
half = pytest.mark.parametrize("dtype", HALF, ids=["numpy float16", "float16", "bfloat16"])
by_optimizer = pytest.mark.parametrize("name", optim.OPTIMIZERS)
RATES = {"lars": 0.5, "adadelta": 1.0}


def as_dtype(leaves: dict, dtype) -> dict:
    """Return float32 tensors in a dtype of NumPy or torch."""
    if isinstance(dtype, torch.dtype):
        return {name: leaf.to(dtype) for name, leaf in leaves.items()}
    return {name: leaf.numpy().astype(dtype) for name, leaf in leaves.items()}


def to_float64(leaves: dict) -> dict:
    return {name: torch.as_tensor(leaf).double() for name, leaf in leaves.items()}


def first_update(optimizer, grads, params):
    return optimizer.update(grads, optimizer.init(params), params)[0]["w"]


def draws(steps: int) -> tuple[dict, list[dict]]:
    """Return params and gradients that every half precision holds exactly."""
    shapes = {"w": (6, 4), "b": (6,)}
    keys = random.split(KEY, steps + 1)

    def draw(key):
        leaves = {
            name: random.normal(random.fold_in(key, i), shape)
            for i, (name, shape) in enumerate(shapes.items())
        }
        return {name: (leaf * 16).round() / 16 for name, leaf in leaves.items()}

    return draw(keys[0]), [draw(key) for key in keys[1:]]


def loss_at(params: dict, dtype) -> dict:
    """Return what `make_step` passes for the loss sum sin p of a net in `dtype`, which may be given
    params in float32: it rounds them first.
    """

    def f(params):
        narrow = {name: in_dtype(p, dtype) for name, p in params.items()}
        wide = tree.cast(narrow, "float32")
        xp = np if isinstance(next(iter(wide.values())), np.ndarray) else torch
        slopes = {name: in_dtype(xp.cos(p), dtype) for name, p in wide.items()}
        return sum(xp.sin(p).sum() for p in wide.values()), {
            name: in_dtype(slope, params[name].dtype) for name, slope in slopes.items()
        }

    return {"value": f(params)[0], "value_and_grad_fn": f}


def in_dtype(leaf, dtype):
    return leaf.astype(dtype) if isinstance(leaf, np.ndarray) else leaf.to(dtype)


# --- half precision -------------------------------------------------------------------------------


@half
@by_optimizer
def test_states_and_updates_of_half_precision_params_are_float32(name, dtype):
    params, grads = draws(1)
    params, grads = as_dtype(params, dtype), as_dtype(grads[0], dtype)
    optimizer = optim.OPTIMIZERS[name](lr=schedules.constant(0.1))
    update = with_extra_args(optimizer.update)
    updates, state = update(grads, optimizer.init(params), params, **loss_at(params, dtype))
    leaves = [*tree.leaves(state), *updates.values(), *tree.leaves(optimizer.init(params))]
    kinds = {str(leaf.dtype).removeprefix("torch.") for leaf in leaves}
    assert kinds <= {"float32", "int64"}
    new = optim.apply_updates(params, updates)
    assert {name: leaf.dtype for name, leaf in new.items()} == {
        name: leaf.dtype for name, leaf in params.items()
    }


@half
@by_optimizer
def test_updates_of_half_precision_params_are_those_of_float32(name, dtype):
    """The params stay where they are, so that only the arithmetic is compared."""
    params, grads = draws(6)
    optimizer = optim.OPTIMIZERS[name](lr=RATES.get(name, 1e-2))
    narrow, wide = as_dtype(params, dtype), params
    if not isinstance(dtype, torch.dtype):
        wide = as_dtype(params, np.float32)
    narrow_state, wide_state = optimizer.init(narrow), optimizer.init(wide)
    update = with_extra_args(optimizer.update)
    for grad in grads:
        given = as_dtype(grad, dtype)
        loss, wide_loss = loss_at(narrow, dtype), loss_at(wide, dtype)
        found, narrow_state = update(given, narrow_state, narrow, **loss)
        right, wide_state = update(tree.cast(given, "float32"), wide_state, wide, **wide_loss)
        for leaf in right:
            assert np.array_equal(np.asarray(found[leaf]), np.asarray(right[leaf]))


@half
@pytest.mark.parametrize("how", ["vector", "plain", "jit", "ensemble"])
def test_step_rounds_the_float32_update_once(how, dtype, monkeypatch):
    if how == "plain":
        monkeypatch.setattr("purenets.core.vector_dict.MAX_MEAN_SIZE", 0)
    if how in ("jit", "ensemble") and not isinstance(dtype, torch.dtype):
        pytest.skip("of torch")
    params, grads = draws(3)
    params = as_dtype(params, dtype)
    optimizer = optim.adam(1e-2)
    expected, opt_state = params, optimizer.init(params)
    for grad in grads:
        updates, opt_state = optimizer.update(as_dtype(grad, dtype), opt_state, expected)
        wide = tree.cast(expected, "float32")
        new = {name: wide[name] + updates[name] for name in wide}
        expected = {
            name: new[name].to(dtype) if isinstance(dtype, torch.dtype) else new[name].astype(dtype)
            for name in new
        }
    step = make_step(lambda params, buffers, batch, key: (batch, ({}, {})), optimizer)
    state = TrainState(params, {}, optimizer.init(params), KEY, KEY[0])
    state = stack_states([state, state]) if how == "ensemble" else state
    wrap = {"jit": jit, "ensemble": lambda f: ensemble(f, same_batch=True)}.get(how, lambda f: f)
    step = wrap(step)
    for grad in grads:
        state, _ = step(state, as_dtype(grad, dtype))
    state = unstack_states(state)[1] if how == "ensemble" else state
    assert isinstance(state.params, VectorDict) == (how == "vector")
    for name, leaf in expected.items():
        assert (
            np.array_equal(np.asarray(to_float64(state.params)[name]), leaf.astype(float))
            if isinstance(leaf, np.ndarray)
            else torch.equal(state.params[name], leaf)
        )


@half
def test_large_leaves_in_half_precision_take_the_same_step(dtype):
    params = as_dtype({"w": random.normal(KEY, (300, 400))}, dtype)
    optimizer = optim.adam(1e-2)
    state = TrainState(params, {}, optimizer.init(params), KEY, KEY[0])
    step = make_step(lambda params, buffers, batch, key: (params, ({}, {})), optimizer)
    new, _ = step(state, None)
    updates, _ = optimizer.update(params, state.opt_state, params)
    right = optim.apply_updates(params, updates)["w"]
    assert np.array_equal(to_float64(new.params)["w"], to_float64({"w": right})["w"])


ONE, ZERO = {"w": torch.ones(1).bfloat16()}, {"w": torch.zeros(1).bfloat16()}


def test_mean_of_512_bfloat16_gradients_of_1_is_1():
    optimizer = optim.accumulate(optim.sgd(1.0), 512)
    state = optimizer.init(ZERO)
    for _ in range(512):
        updates, state = optimizer.update(ONE, state, ZERO)
    assert float(updates["w"]) == -1


@half
def test_average_of_half_precision_params_comes_to_where_they_are(dtype):
    zero, one = (as_dtype({"w": torch.full((1,), v)}, dtype) for v in (0.0, 1.0))
    optimizer = optim.ema(0.999)
    state = optimizer.init(zero)
    for _ in range(3000):
        _, state = optimizer.update(zero, state, one)
    average = float(optim.get_state(state, "ema")["w"][0])
    assert average == pytest.approx(1 - 0.999**3000, rel=1e-4)


@half
def test_slow_params_of_lookahead_do_not_stand_still(dtype):
    """The fast ones are 0.001 ahead at each synchronization, which bfloat16 cannot add to 1."""
    params = as_dtype({"w": torch.ones(1)}, dtype)
    optimizer = optim.lookahead(optim.sgd(1.0), k=1, alpha=0.5)
    state = optimizer.init(params)
    for _ in range(100):
        _, state = optimizer.update(as_dtype({"w": torch.tensor([-1e-3])}, dtype), state, params)
    assert float(state["slow"]["w"][0]) == pytest.approx(1.001, rel=1e-4)


@half
def test_iterates_of_schedule_free_do_not_stand_still(dtype):
    params = as_dtype({"w": torch.ones(1)}, dtype)
    optimizer = optim.schedule_free(optim.sgd(1e-3), 1e-3)
    state = optimizer.init(params)
    for _ in range(100):
        _, state = optimizer.update(params, state, params)
    assert float(state["z"]["w"][0]) == pytest.approx(0.9, rel=1e-4)
    assert float(state["x"]["w"][0]) == pytest.approx(1 - 0.0505, rel=1e-4)


@half
def test_second_moment_of_adam_forgets_a_large_gradient(dtype):
    """0.999 v + 0.001 g^2 is v again in bfloat16, however often."""
    params, optimizer = as_dtype({"w": torch.zeros(1)}, dtype), optim.adam(0.1)
    state = optimizer.init(params)
    for g in [100.0] + [1.0] * 3000:
        _, state = optimizer.update(as_dtype({"w": torch.tensor([g])}, dtype), state, params)
    right = 10.0 * 0.999**3000 + (1 - 0.999**3000)
    found = float(optim.get_state(state, "exp_avg_sq")["w"][0])
    assert found == pytest.approx(right, rel=1e-3)


BETAS = {
    "numbers": lambda: optim.adam(0.1),
    "injected": lambda: optim.inject_hyperparams(optim.adam, lr=0.1, betas=(0.9, 0.999)),
    "schedule": lambda: optim.adam(0.1, betas=(0.9, schedules.constant(0.999))),
    "array": lambda: optim.adam(0.1, betas=(0.9, torch.tensor(0.999))),
    "half array": lambda: optim.adam(torch.tensor(0.1).bfloat16(), betas=(0.9, 0.999)),
    "injected adamax": lambda: optim.inject_hyperparams(optim.adamax, lr=0.1, betas=(0.9, 0.999)),
    "injected radam": lambda: optim.inject_hyperparams(optim.radam, lr=0.1, betas=(0.9, 0.999)),
}


@half
@pytest.mark.parametrize("name", BETAS)
def test_first_step_of_adam_in_half_precision_is_as_long_as_its_rate(name, dtype):
    grads, params = (as_dtype({"w": torch.full((3,), v)}, dtype) for v in (1.0, 1.0))
    found = first_update(BETAS[name](), grads, params)
    assert found.tolist() == pytest.approx([-0.1] * 3, rel=1e-2)


@half
def test_gradient_is_clipped_to_its_norm_in_half_precision(dtype):
    grads = as_dtype({"w": torch.tensor([300.0, 400.0])}, dtype)
    found = first_update(optim.clip_by_global_norm(1.0), grads, grads)
    assert found.tolist() == pytest.approx([0.6, 0.8], rel=1e-3)
    small = as_dtype({"w": torch.tensor([3e-4, 4e-4])}, dtype)
    found = first_update(optim.clip_by_global_norm(1e-4), small, small)
    assert found.tolist() == pytest.approx([6e-5, 8e-5], rel=1e-2)


@half
@pytest.mark.parametrize("scale", [100, 1e-4])
@pytest.mark.parametrize("precision", [None, "float16", "bfloat16"])
def test_step_of_muon_in_half_precision_is_as_long_as_in_float32(scale, precision, dtype):
    if precision == "bfloat16" and not isinstance(dtype, torch.dtype):
        pytest.skip("NumPy has no bfloat16")
    grads = {"w": random.normal(KEY, (30, 40)) * scale}
    wide = first_update(optim.muon(0.02), grads, tree.zeros_like(grads))
    grads = as_dtype(grads, dtype)
    found = first_update(optim.muon(0.02, precision=precision), grads, tree.zeros_like(grads))
    assert float(torch.as_tensor(found).norm()) == pytest.approx(float(wide.norm()), rel=5e-2)


def test_muon_in_float16_takes_float32_gradients_that_float16_cannot_hold():
    grads = {"w": random.normal(KEY, (30, 40)) * 1e6}
    right = first_update(optim.muon(0.02), grads, tree.zeros_like(grads))
    found = first_update(optim.muon(0.02, precision="float16"), grads, tree.zeros_like(grads))
    assert float(found.norm()) == pytest.approx(float(right.norm()), rel=1e-2)


@half
@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_trust_ratio_of_tiny_gradients_is_that_of_float32(name, dtype):
    grads, params = {"w": torch.full((4,), 1e-5)}, {"w": torch.ones(4)}
    grads, params = as_dtype(grads, dtype), as_dtype(params, dtype)
    wide = [tree.cast(part, "float32") for part in (grads, params)]
    optimizer = optim.OPTIMIZERS[name](0.1)
    right = first_update(optimizer, *wide)
    assert first_update(optimizer, grads, params).tolist() == pytest.approx(right.tolist())


@half
def test_weights_are_normalized_in_half_precision(dtype):
    params = as_dtype({"w": torch.tensor([[300.0, 400.0]])}, dtype)
    zeros = tree.zeros_like(params)
    found = first_update(optim.normalize_weights(optim.sgd(0.1)), zeros, params)
    assert found.tolist()[0] == pytest.approx([0.6 - 300, 0.8 - 400], rel=1e-5)


@half
def test_sharpness_aware_params_in_half_precision_are_refused(dtype):
    """The climb of each of 10,000 elements, 0.0005, is lost in the rounding of p + climb."""
    called, params = [], {"w": torch.ones(10_000)}
    message = r"^sam: w is b?float16, in which rounding loses the climb; keep float32 params"
    for adaptive in (False, True):
        gradient = sam(lambda p, b, x, k: (called.append(p) or p, ({}, {})), 0.05, adaptive)
        with pytest.raises(UserError, match=message):
            gradient(as_dtype(params, dtype), {}, None, None)
    assert not called


@half
def test_sharpness_aware_gradient_takes_half_precision_gradients(dtype):
    """The second pass is 0.5 away, along gradients whose squares float16 cannot hold."""
    params, grads = ({"w": torch.full((2,), v)} for v in (1.0, 300.0))
    seen = []

    def gradient(params, buffers, batch, key):
        seen.append(params)
        return as_dtype(grads, dtype), ({}, {})

    full = torch.float32 if isinstance(dtype, torch.dtype) else np.float32
    sam(gradient, rho=0.5)(as_dtype(params, full), {}, None, None)
    assert seen[1]["w"].dtype == seen[0]["w"].dtype
    assert seen[1]["w"].tolist() == pytest.approx([1 + 0.5 / 2**0.5] * 2, rel=1e-2)


def test_mixed_dtypes_keep_theirs():
    params = {"a": torch.ones(2).bfloat16(), "b": torch.ones(2), "c": torch.ones(2).double()}
    optimizer = optim.adam(0.1)
    updates, state = optimizer.update(params, optimizer.init(params), params)
    new = optim.apply_updates(params, updates)
    assert [leaf.dtype for leaf in new.values()] == [p.dtype for p in params.values()]
    moments = optim.get_state(state, "exp_avg")
    assert [leaf.dtype for leaf in moments.values()] == [
        torch.float32,
        torch.float32,
        torch.float64,
    ]
    for leaf in new.values():
        assert leaf.tolist() == pytest.approx([0.9] * 2, rel=1e-2)


def test_loss_is_evaluated_at_params_of_their_own_dtype():
    """An optimizer that asks for the loss elsewhere works in float32; the net does not."""
    seen = []

    def update(grads, state, params, *, value=None, value_and_grad_fn=None):
        value, again = value_and_grad_fn(tree.map(lambda p, g: p - g, params, grads))
        return again, {**state, "value": value}

    optimizer = optim.chain(Optimizer(lambda params: {"value": 0.0}, update))

    def f(params):
        seen.append(params["w"].dtype)
        return params["w"].sum(), params

    params = {"w": torch.ones(2).bfloat16()}
    updates, state = optimizer.update(
        params, optimizer.init(params), params, value=None, value_and_grad_fn=f
    )
    assert seen == [torch.bfloat16]
    assert updates["w"].dtype == state["0"]["value"].dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_training_in_half_precision_learns_as_in_float32(dtype):
    x = random.normal(KEY, (64, 4))
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    net, losses = MLP(4, [16], 3), {}
    for name in ("float32", dtype):
        optimizer = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(1e-2), optim.ema(0.9))
        state = init_state(net, optimizer, KEY)
        params = tree.cast(state.params, name)
        state = state._replace(params=params, opt_state=optimizer.init(params))
        step = make_step(grad_fn(net), optimizer)
        for _ in range(150):
            state, metrics = step(state, (x.to(params["fc1.weight"].dtype), y))
        assert {leaf.dtype for leaf in state.params.values()} == {params["fc1.weight"].dtype}
        losses[name] = float(metrics["loss"])
    assert losses["float32"] < 0.3
    assert losses[dtype] == pytest.approx(losses["float32"], abs=0.05)


# --- complex numbers ------------------------------------------------------------------------------

TWINS = {
    "sgd": ("SGD", {}),
    "sgd nesterov": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "sgd dampening": ("SGD", {"momentum": 0.9, "dampening": 0.2}),
    "rmsprop": ("RMSprop", {"weight_decay": 0.1}),
    "rmsprop centered": ("RMSprop", {"centered": True, "momentum": 0.5, "eps": 1e-3}),
    "adagrad": ("Adagrad", {"initial_accumulator_value": 0.3, "lr_decay": 0.1}),
    "adadelta": ("Adadelta", {"weight_decay": 0.1}),
    "adam": ("Adam", {"weight_decay": 0.1}),
    "adam amsgrad": ("Adam", {"amsgrad": True}),
    "adamw": ("AdamW", {}),
    "adamax": ("Adamax", {"weight_decay": 0.1}),
    "nadam": ("NAdam", {"weight_decay": 0.1}),
    "radam": ("RAdam", {"weight_decay": 0.1}),
    "asgd": ("ASGD", {"lambd": 0.1, "weight_decay": 0.1}),
    "rprop": ("Rprop", {"step_sizes": (1e-3, 0.3)}),
}
INEXACT = ("nadam", "asgd")  # torch's mu_product and eta are float32
REFUSED = ["lion", "lamb", "lars", "muon", "schedule_free_adamw", "adafactor"]
REFUSED += ["adan", "adopt", "ademamix", "sophia", "dadapt_adam", "prodigy", "dog", "shampoo"]
REFUSED += ["soap", "polyak", "backtracking", "momo", "momo_adam", "strong_wolfe"]


def complex_leaves(dtype, steps: int = 8) -> tuple[dict, list[dict]]:
    """Return params, of which one is real, and gradients."""
    torch.manual_seed(0)
    real = torch.float32 if dtype == torch.complex64 else torch.float64
    params = {"a": torch.randn(3, 2, dtype=dtype), "b": torch.randn((), dtype=dtype)}
    params["real"] = torch.randn(2, dtype=real)
    return params, [tree.map(torch.randn_like, params) for _ in range(steps)]


def torchs(name: str, hypers: dict, params: dict, grads: list[dict]) -> dict:
    leaves = {leaf: nn.Parameter(p.clone()) for leaf, p in params.items()}
    optimizer = getattr(torch.optim, name)(leaves.values(), lr=0.1, **hypers)
    for grad in grads:
        for leaf, p in leaves.items():
            p.grad = grad[leaf].clone()
        optimizer.step()
    return {leaf: p.detach() for leaf, p in leaves.items()}


def ours(optimizer, params: dict, grads: list[dict]) -> dict:
    state = optimizer.init(params)
    for grad in grads:
        updates, state = optimizer.update(grad, state, params)
        params = optim.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("way", ["plain", "vector", "numpy", "vmap"])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("name", TWINS)
def test_complex_params_move_as_in_torch(name, dtype, way):
    kind, hypers = TWINS[name]
    params, grads = complex_leaves(dtype)
    right = torchs(kind, hypers, params, grads)
    optimizer = optim.OPTIMIZERS[name.split()[0]](lr=0.1, **hypers)
    if way == "vector":  # one dtype
        params, *grads = ({n: p for n, p in d.items() if n != "real"} for d in (params, *grads))
        params = with_vector(params)
        assert isinstance(params, VectorDict)
    if way == "numpy":
        params, *grads = (tree.map(lambda p: p.numpy(), d) for d in (params, *grads))
    if way == "vmap":
        two = [tree.map(lambda p: torch.stack([p, p * 2]), d) for d in (params, *grads)]
        found = torch.func.vmap(lambda p, *g: ours(optimizer, p, g))(*two)
        found = tree.map(lambda p: p[0], found)
    else:
        found = ours(optimizer, params, grads)
    exact = dtype == torch.complex128 and name not in INEXACT
    for leaf, p in found.items():
        assert torch.allclose(
            torch.as_tensor(p), right[leaf], rtol=0, atol=1e-13 if exact else 1e-6
        )


@pytest.mark.parametrize("line_search_fn", [None, "strong_wolfe"])
def test_lbfgs_moves_complex_params_as_torch(line_search_fn):
    """Of the loss sum |p - p_0|^2 + |p|^4 / 9, whose gradient torch has as its conjugate's."""
    (params, (target, *_)), hyper = complex_leaves(torch.complex128), {"max_iter": 3, "lr": 0.3}

    def loss(params):
        distances = sum((p - target[n]).abs().square().sum() for n, p in params.items())
        return distances + sum(p.abs().pow(4).sum() for p in params.values()) / 9

    def value_and_grad(params):
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        value = loss(leaves)
        grads = torch.autograd.grad(value, list(leaves.values()))
        return value.detach(), dict(zip(leaves, grads, strict=True))

    leaves = {name: nn.Parameter(p.clone()) for name, p in params.items()}
    theirs = torch.optim.LBFGS(leaves.values(), line_search_fn=line_search_fn, **hyper)

    def closure():
        value, grads = value_and_grad({name: p.detach() for name, p in leaves.items()})
        for name, p in leaves.items():
            p.grad = grads[name]
        return value

    optimizer = optim.lbfgs(line_search_fn=line_search_fn, **hyper)
    state = optimizer.init(params)
    for _ in range(4):
        theirs.step(closure)
        value, grads = value_and_grad(params)
        updates, state = optimizer.update(
            grads, state, params, value=value, value_and_grad_fn=value_and_grad
        )
        params = optim.apply_updates(params, updates)
        for name, p in params.items():
            assert torch.allclose(p, leaves[name].detach(), rtol=0, atol=1e-12)


def test_state_of_complex_params_goes_to_torch_and_back():
    from purenets.torch_nets.torch_optim import from_torch_state_dict, to_torch_state_dict

    params, grads = complex_leaves(torch.complex64)
    optimizer = optim.adam(0.1)
    _, state = optimizer.update(grads[0], optimizer.init(params), params)
    theirs = torch.optim.Adam([nn.Parameter(p) for p in params.values()], lr=0.1)
    theirs.load_state_dict(to_torch_state_dict(state, "adam", params, {"lr": 0.1}))
    again = from_torch_state_dict(theirs.state_dict(), optimizer, params)
    assert all(map(torch.equal, tree.leaves(again), tree.leaves(state)))


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("name", REFUSED)
def test_optimizer_that_torch_has_not_refuses_complex_params(name, convert):
    params = {"real": convert(np.ones((2, 2))), "waves": convert(np.ones((2, 2), np.complex64))}
    with pytest.raises(UserError, match=f"^{name}: waves is complex64, needs real numbers$"):
        optim.OPTIMIZERS[name](lr=0.1).init(params)


def test_every_optimizer_is_as_torch_or_refuses_complex_params():
    known = {name.split()[0] for name in TWINS} | {"momentum", "nesterov", "lbfgs"}
    assert known | set(REFUSED) == set(optim.OPTIMIZERS)


@pytest.mark.parametrize(
    "transform",
    [
        optim.clip_by_value(1.0),
        optim.scale_by_lion(),
        optim.scale_by_muon(),
        optim.scale_by_adan(),
        optim.scale_by_adopt(),
        optim.scale_by_ademamix(),
        optim.scale_by_shampoo(),
        optim.scale_by_soap(),
        optim.scale_by_factored_rms(),
        optim.adaptive_grad_clip(),
        optim.chain(optim.clip_by_value(1.0), optim.sgd(0.1)),
    ],
)
def test_transform_that_compares_numbers_refuses_complex_gradients(transform):
    leaves = {"w": torch.ones(2, 2, dtype=torch.complex64)}
    with pytest.raises(UserError, match="w is complex64, needs real numbers"):
        transform.update(leaves, transform.init(leaves), leaves)


def test_sparse_weights_refuse_complex_params():
    optimizer = optim.beta_lasso(optim.sgd(0.1), 0.1)
    with pytest.raises(UserError, match="beta_lasso: w is complex64"):
        optimizer.init({"w": torch.ones(2, 2, dtype=torch.complex64)})


@pytest.mark.parametrize("convert", [np.asarray, torch.as_tensor])
def test_norms_of_complex_leaves_are_those_of_their_absolute_values(convert):
    leaves = {"w": convert(np.array([3 + 4j])), "v": convert(np.array([12.0]))}
    assert float(tree.norm(leaves)) == 13
    clipped, _ = optim.clip_by_global_norm(1.3).update(leaves, {}, leaves)
    assert np.allclose(clipped["w"], 0.3 + 0.4j)
    assert np.allclose(clipped["v"], 1.2)
    ratio = optim.scale_by_trust_ratio(2.0)
    grown, _ = ratio.update(tree.map(lambda p: p / 5, leaves), ratio.init(leaves), leaves)
    assert np.allclose(grown["w"], 2 * (3 + 4j))
    zeros = tree.zeros_like(leaves)
    back, _ = optim.normalize_weights(optim.sgd(0.1)).update(zeros, {"0": {}}, leaves)
    assert np.allclose(leaves["w"] + back["w"], 0.6 + 0.8j)


WRAPPERS = {
    "ema": lambda: optim.chain(optim.sgd(0.5), optim.ema(0.5)),
    "lookahead": lambda: optim.lookahead(optim.sgd(0.5), k=2),
    "accumulate": lambda: optim.accumulate(optim.sgd(0.5), k=2),
    "apply_if_finite": lambda: optim.apply_if_finite(optim.adam(0.5)),
    "inject": lambda: optim.inject_hyperparams(optim.adam, lr=0.5, betas=(0.9, 0.99)),
    "masked": lambda: optim.masked(optim.adam(0.5), optim.named("w")),
    "schedule_free": lambda: optim.schedule_free(optim.sgd(0.5), 0.5),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrapped_optimizer_moves_both_parts_of_complex_params(name):
    leaf, grad = torch.tensor([1 + 2j]), torch.tensor([3 - 4j])
    parts = (torch.view_as_real(each) for each in (leaf, grad))
    pair, pair_grad = ({"w": part} for part in parts)
    found = ours(WRAPPERS[name](), {"w": leaf}, [{"w": grad}] * 4)["w"]
    right = ours(WRAPPERS[name](), pair, [pair_grad] * 4)["w"]
    assert torch.allclose(torch.view_as_real(found), right, atol=1e-6)


def test_conjugate_gradients_of_autograd_are_taken():
    params = {"w": torch.ones(2, dtype=torch.complex64)}
    grads = {"w": torch.tensor([1 + 1j, 2 - 3j]).conj()}
    right = {"w": grads["w"].resolve_conj()}
    for optimizer in (optim.adam(0.1), optim.sgd(0.1)):
        assert torch.equal(
            first_update(optimizer, grads, params), first_update(optimizer, right, params)
        )


# --- leaves and gradients of 32 and 64 bits -------------------------------------------------------


def adam_by_schedules():
    """Return Adam whose numbers are arrays, which promote what they are multiplied by."""
    return optim.adam(schedules.constant(0.1), (schedules.constant(0.9), schedules.constant(0.99)))


def catalogue(rate) -> dict:
    """Return functions that make every optimizer, and every wrapper of one."""
    inner = adam_by_schedules
    wrapped = {
        "clip_by_global_norm": lambda: optim.chain(optim.clip_by_global_norm(1.0), inner()),
        "adaptive_grad_clip": lambda: optim.chain(optim.adaptive_grad_clip(rate), inner()),
        "reduce_on_plateau": lambda: optim.chain(inner(), optim.reduce_on_plateau()),
        "ema": lambda: optim.chain(inner(), optim.ema(schedules.constant(0.9))),
        "swa": lambda: optim.chain(optim.adam(rate), optim.swa()),
        "lookahead": lambda: optim.lookahead(inner(), 1, alpha=schedules.constant(0.5)),
        "accumulate": lambda: optim.accumulate(inner(), 1),
        "accumulate the loss": lambda: optim.accumulate(optim.momo_adam(rate), 2),
        "apply_if_finite": lambda: optim.apply_if_finite(inner()),
        "skip_first": lambda: optim.skip_first(inner()),
        "normalize_weights": lambda: optim.normalize_weights(inner()),
        "partition": lambda: optim.partition({"all": inner()}, lambda name, leaf: "all"),
        "inject": lambda: optim.inject_hyperparams(optim.adam, lr=0.1, betas=(0.9, 0.99)),
        "schedule_free": lambda: optim.schedule_free(optim.sgd(rate), rate),
        "beta_lasso": lambda: optim.beta_lasso(inner(), 0.001),
        "sgld": lambda: optim.sgld(rate, key=KEY.numpy()),
        "sghmc": lambda: optim.sghmc(rate, key=KEY.numpy()),
    }
    alone = {name: lambda make=make: make(lr=rate) for name, make in optim.OPTIMIZERS.items()}
    return alone | wrapped


CATALOGUE = catalogue(schedules.constant(0.1))
DTYPES = {  # of two params, and of both gradients, or None for those of the params
    "float64 gradients": (("float32", "float32"), "float64"),
    "float32 gradients": (("float64", "float64"), "float32"),
    "float64 first": (("float64", "float32"), None),
    "float32 first": (("float32", "float64"), None),
    "half first": (("float16", "float64"), None),
}


@pytest.mark.parametrize("dtypes", DTYPES)
@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("name", CATALOGUE)
def test_states_keep_the_dtypes_that_init_gives_them(name, library, dtypes, monkeypatch):
    """Else a run can be saved, and its checkpoint not be restored."""
    if name == "strong_wolfe" and library == "torch" and dtypes in ("float32 first", "half first"):
        pytest.skip("its loop refuses params of 32 and 64 bits, in one line")
    of_params, of_grads = DTYPES[dtypes]
    shapes = {"w": (3, 2), "s": ()}
    params = {n: np.full(shapes[n], 0.5, d) for n, d in zip(shapes, of_params, strict=True)}
    if library == "torch":
        params = tree.map(torch.tensor, params)

    def grad_fn(params, buffers, batch, key):
        grads = tree.map(lambda p: 2 * p, params)
        loss = sum((p * p).sum() for p in params.values())
        return tree.cast(grads, of_grads) if of_grads else grads, (buffers, {"loss": loss})

    def as_arrays(params, *others):  # NumPy makes a number of an array without axes
        grads, others = grad_fn(params, *others)
        if library == "numpy":
            grads = tree.map(np.asarray, grads)
        return grads, others

    for size in (None, 0):  # on a vector where one dtype allows it, and in blocks
        if size is not None:
            monkeypatch.setattr("purenets.core.vector_dict.MAX_MEAN_SIZE", size)
        optimizer = CATALOGUE[name]()
        first = state = train_state(params, {}, optimizer, KEY.numpy())
        for _ in range(2):
            state, _ = make_step(as_arrays, optimizer)(state, None)
        dtypes_of = lambda part: {n: str(leaf.dtype) for n, leaf in tree.flatten(part).items()}
        assert dtypes_of(state.opt_state) == dtypes_of(first.opt_state)
        assert dtypes_of(state.params) == dtypes_of(params)


def test_run_on_float64_inputs_is_saved_and_resumed(tmp_path):
    """NumPy would compute float32 params, float64 inputs in float64, and so keep all moments."""
    net, x = numpy_nets.MLP(3, [4], 2), np.random.default_rng(0).normal(size=(6, 3))
    y = np.arange(6) % 2
    optimizer = optim.adam(0.1)
    for inputs in (x, (10 * x).astype(int)):
        first = state = init_state(net, optimizer, KEY.numpy())
        step = make_step(numpy_nets.grad_fn(net), optimizer)
        state, metrics = step(state, (inputs, y))
        exact, right = step(first, (inputs.astype(np.float32), y))
        assert metrics["loss"] == right["loss"]
        assert metrics["loss"].dtype == np.float32
        assert tree.map(np.array_equal, exact.params, state.params) == dict.fromkeys(
            state.params, True
        )
        runs.save(tmp_path, state)
        assert int(runs.restore(tmp_path, first)[0].step) == 1


# --- integers, and what is no array ---------------------------------------------------------------

NO_PARAMS = {
    "integers": {"w": np.arange(3)},
    "integers of torch": {"w": torch.arange(3)},
    "small integers": {"v": np.ones(2), "w": np.ones(3, np.uint8)},
    "truth values": {"w": torch.ones(3, dtype=torch.bool)},
    "text": {"w": np.array(["a"])},
    "a number": {"w": 1.0},
    "nothing": {"w": None},
    "a list": {"w": [1.0, 2.0]},
    "nested": {"w": {"a": torch.ones(3)}},
}


@by_optimizer
@pytest.mark.parametrize("what", NO_PARAMS)
def test_leaf_that_no_optimizer_can_move_is_named(name, what):
    with pytest.raises(UserError, match=r"^params: w is "):
        optim.OPTIMIZERS[name](lr=0.1).init(NO_PARAMS[what])


@pytest.mark.parametrize("params", [[torch.ones(2)], None, torch.ones(2), (1.0,)])
def test_params_that_are_no_dict_are_told(params):
    for optimizer in (optim.sgd(0.1), optim.adam(), optim.ema(), optim.clip_by_global_norm(1.0)):
        with pytest.raises(UserError, match=r"params: a .*, needs a dict of arrays by name"):
            optimizer.init(params)


@pytest.mark.parametrize("state", [None, {}, [], {"0": {}}, {"0": None}])
def test_update_from_a_state_of_something_else_is_refused(state):
    params = {"w": torch.ones(2)}
    for params in (
        {"w": torch.ones(2)},
        {"w": np.ones(2)},
        with_vector({"w": torch.ones(2), "v": torch.ones(2)}),
    ):
        with pytest.raises(UserError, match="opt_state: "):
            optim.adam().update(params, state, params)


# --- predicates of leaves -------------------------------------------------------------------------


def is_narrow(name, leaf):
    return "float16" in str(leaf.dtype)


def split_by_dtype(first, second):
    label = lambda name, leaf: "narrow" if is_narrow(name, leaf) else "wide"
    return optim.partition({"narrow": first, "wide": second}, label)


PREDICATES = {
    "partition": lambda: split_by_dtype(optim.sgd(0.5), optim.sgd(0.125)),
    "nested": lambda: optim.partition(
        {"all": optim.chain(split_by_dtype(optim.sgd(0.5), optim.sgd(0.125)))}, lambda n, p: "all"
    ),
    "masked": lambda: optim.chain(
        optim.masked(optim.clip_by_value(0.5), is_narrow), optim.scale_by_learning_rate(1.0)
    ),
    "muon": lambda: optim.muon(0.5, weight_decay=0, matrices=is_narrow, other=optim.sgd(0.125)),
    "beta_lasso": lambda: optim.beta_lasso(optim.sgd(0.5), 0.125, 0.0, where=is_narrow),
}
AROUND = {
    "bare": lambda inner: inner,
    "chain": lambda inner: optim.chain(optim.clip_by_global_norm(100.0), inner),
    "chain in a chain": lambda inner: optim.chain(optim.chain(optim.chain(), inner), optim.ema()),
    "accumulate": lambda inner: optim.accumulate(inner, 1),
    "lookahead": lambda inner: optim.lookahead(inner, 5),
    "apply_if_finite": optim.apply_if_finite,
    "schedule_free": lambda inner: optim.schedule_free(inner, 1.0, 0.0),
    "beta_lasso": lambda inner: optim.beta_lasso(inner, 0.0),
    "injected": lambda inner: optim.inject_hyperparams(
        lambda limit: optim.chain(optim.clip_by_global_norm(limit), inner), limit=100.0
    ),
    "backtracking": lambda inner: optim.backtracking(direction=inner, c1=1e-9),
    "two": lambda inner: optim.lookahead(optim.chain(optim.clip_by_value(9.0), inner), 5),
}
by_predicate = pytest.mark.parametrize("name", PREDICATES)


def params_of_two_dtypes(dtype):
    leaves = {name: torch.tensor([[1.0, 0.0], [0.0, 1.0]]) for name in ("a", "b")}
    full = torch.float32 if isinstance(dtype, torch.dtype) else np.float32
    return as_dtype({"a": leaves["a"]}, dtype) | as_dtype({"b": leaves["b"]}, full)


def half_of_the_square(params):
    value = sum((p * p).sum() for p in tree.map(widened, params).values()) / 2
    return value, params


@half
@by_predicate
@pytest.mark.parametrize("around", AROUND)
def test_predicate_sees_the_dtype_of_the_leaf_in_every_wrapper(around, name, dtype):
    params = params_of_two_dtypes(dtype)
    if name == "beta_lasso" and around == "backtracking":
        pytest.skip("a direction has no penalty")

    def two_updates(optimizer):
        state, found = optimizer.init(params), []
        value, grads = half_of_the_square(params)
        extra = {"value": value, "value_and_grad_fn": half_of_the_square}
        for _ in range(2):
            updates, state = with_extra_args(optimizer.update)(grads, state, params, **extra)
            found.append(updates)
        step = make_step(lambda p, b, x, k: (p, (b, {"loss": half_of_the_square(p)[0]})), optimizer)
        return found, step(train_state(params, {}, optimizer, random.key(0)), None)[0].params

    (right, _), ends = two_updates(PREDICATES[name]())
    (found, _), other_ends = two_updates(AROUND[around](PREDICATES[name]()))
    for leaf in params:
        np.testing.assert_allclose(found[leaf], right[leaf], atol=1e-6)
        np.testing.assert_allclose(widened(other_ends[leaf]), widened(ends[leaf]), atol=1e-2)
    assert abs(right["a"] - right["b"]).max() > 0.05


@by_predicate
def test_predicate_sees_the_dtype_of_the_leaf_where_torch_compiles(name):
    optimizer = optim.chain(optim.clip_by_global_norm(100.0), PREDICATES[name]())
    params = params_of_two_dtypes(torch.bfloat16)
    step = make_step(lambda p, b, x, k: (p, (b, {"loss": half_of_the_square(p)[0]})), optimizer)
    state = train_state(params, {}, optimizer, torch.as_tensor(random.key(0)))
    right, found = (f(state, torch.zeros(1))[0].params for f in (step, jit(step)))
    for leaf in params:
        torch.testing.assert_close(found[leaf], right[leaf])


# --- curvature ------------------------------------------------------------------------------------

CURVATURES = torch.tensor([1.0, 10.0, 100.0, 1.0, 5.0, 2.0])
AT = torch.tensor([0.75, 1.5, 3.0, 0.05, 0.0, -200.0])


def quadratic(params, buffers, batch, key):
    w, xp = params["w"], namespace(params["w"])
    c, full = like(CURVATURES, w, xp.float32), widened(w)
    grads = {"w": xp.astype(c * full, w.dtype), "b": params["b"] * 3}
    return grads, (buffers, {"loss": (c * full * full).sum() / 2})


@half
@pytest.mark.parametrize("around", ["bare", "chain", "lookahead", "partition"])
def test_hessian_of_sophia_in_half_precision_is_that_of_float32(around, dtype):
    full = torch.float32 if isinstance(dtype, torch.dtype) else np.float32
    params = as_dtype({"w": AT}, dtype) | as_dtype({"b": torch.ones(2)}, full)
    sophia = optim.sophia(lr=0.0, betas=(0.0, 0.0), weight_decay=0.0)
    split = lambda: optim.partition({"all": sophia}, lambda name, leaf: "all")
    optimizer = {
        "bare": lambda: sophia,
        "chain": lambda: optim.chain(optim.clip_by_global_norm(1e9), split()),
        "lookahead": lambda: optim.lookahead(sophia, 3),
        "partition": split,
    }[around]()
    state = train_state(params, {}, optimizer, random.key(0))
    state, _ = make_step(quadratic, optimizer)(state, None)
    hessian = optim.get_state(state.opt_state, "hessian")
    assert hessian["w"].tolist() == pytest.approx(CURVATURES.tolist(), rel=0.05)
    assert hessian["b"].tolist() == pytest.approx([3, 3], rel=1e-3)


@half
def test_estimates_of_a_hessian_in_half_precision_are_right_in_the_mean(dtype):
    """Products of different elements cancel."""
    rows = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 4.0]])

    def f(params):
        w = torch.as_tensor(params["w"]).float()
        return w @ rows @ w / 2, as_dtype({"w": rows @ w}, dtype)

    def keep(grads, state, params, *, value=None, value_and_grad_fn=None):
        keys = [like(random.key(i), params["w"], namespace(params["w"]).int64) for i in range(400)]
        draws = [estimate(value_and_grad_fn, params, key)["w"] for key in keys]
        return {"w": sum(draws) / len(draws)}, state

    estimate = optim.hutchinson_diagonal()
    mean = optim.chain(Optimizer(lambda params: {}, keep))
    params = as_dtype({"w": torch.tensor([1.0, 1.5, 0.875])}, dtype)
    found, _ = mean.update(params, mean.init(params), params, value=None, value_and_grad_fn=f)
    assert found["w"].tolist() == pytest.approx([3.0, 2.0, 4.0], abs=0.4)


def test_hessian_of_sophia_in_half_precision_where_torch_compiles():
    params = as_dtype({"w": AT, "b": torch.ones(2)}, torch.bfloat16)
    optimizer = optim.sophia(lr=0.0, betas=(0.0, 0.0), weight_decay=0.0)
    state = train_state(params, {}, optimizer, torch.as_tensor(random.key(0)))
    state, _ = jit(make_step(quadratic, optimizer))(state, torch.zeros(1))
    hessian = optim.get_state(state.opt_state, "hessian")
    assert hessian["w"].tolist() == pytest.approx(CURVATURES.tolist(), rel=0.05)
