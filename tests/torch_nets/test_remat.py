"""`checkpoint`: the numbers of the function itself, with less stored for the backward pass."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from purenets import UserError, init_state, make_step, optim, random
from purenets.torch_nets import MLP, checkpoint, from_module, grad_fn, jit


def block(params: dict, x, power: int = 2):
    """Two layers, a static value, and a result with an integer and a constant in it."""
    h = torch.tanh(x @ params["a"]).sin() ** power
    return {"h": torch.tanh(h @ params["b"]), "index": h.argmax(-1), "power": power, "none": None}


def loss(f):
    def total(params, x):
        for _ in range(3):
            found = f(params, x, power=2)
            x = found["h"] + found["index"][..., None] * 1e-2
        return (x * x).sum()

    return total


PARAMS = {"a": torch.randn(4, 6, dtype=torch.float64), "b": torch.randn(6, 4, dtype=torch.float64)}
X = torch.randn(5, 4, dtype=torch.float64)
PLAIN, STORED = loss(block), loss(checkpoint(block))


def assert_close(found, expected):
    found, expected = (torch.utils._pytree.tree_leaves(value) for value in (found, expected))
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-10)


def test_the_result_is_that_of_the_function():
    found, expected = checkpoint(block)(PARAMS, X, 3), block(PARAMS, X, 3)
    assert found.keys() == expected.keys()
    assert torch.equal(found["h"], expected["h"])
    assert torch.equal(found["index"], expected["index"])
    assert (found["power"], found["none"]) == (3, None)


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(f, argnums=(0, 1)),
    "vjp": lambda f: (
        lambda p, x: torch.func.vjp(f, p, x)[1](torch.tensor(2.0, dtype=torch.float64))
    ),
    "jvp": lambda f: lambda p, x: torch.func.jvp(f, (p, x), (p, x)),
    "vmap": lambda f: torch.func.vmap(f, in_dims=(None, 0)),
    "per-example gradients": lambda f: torch.func.vmap(torch.func.grad(f), in_dims=(None, 0)),
    "gradient of vmap": lambda f: torch.func.grad(
        lambda p, x: torch.func.vmap(f, in_dims=(None, 0))(p, x).sin().sum()
    ),
    "second derivative": lambda f: torch.func.hessian(f, argnums=1),
    "reverse over reverse": lambda f: torch.func.jacrev(torch.func.grad(f, argnums=1), argnums=1),
    "forward over forward": lambda f: torch.func.jacfwd(torch.func.jacfwd(f, argnums=1), argnums=1),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("compiled", [False, True])
def test_derivatives_are_those_of_the_function(name, compiled):
    if compiled and name not in ("grad", "per-example gradients"):
        pytest.skip("two of them show it")
    transform = TRANSFORMS[name]
    found = jit(transform(STORED)) if compiled else transform(STORED)
    assert_close(found(PARAMS, X), transform(PLAIN)(PARAMS, X))


def test_autograd_to_any_order():
    def derivatives(f):
        x = X.clone().requires_grad_()
        (first,) = torch.autograd.grad(f(PARAMS, x), x, create_graph=True)
        (second,) = torch.autograd.grad(first.sin().sum(), x)
        return first.detach(), second

    assert_close(derivatives(STORED), derivatives(PLAIN))


def test_forward_mode():
    def tangent(f):
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(
                f(PARAMS, forward_ad.make_dual(X, torch.ones_like(X)))
            ).tangent

    assert_close(tangent(STORED), tangent(PLAIN))


def stored_bytes(f) -> int:
    """The bytes of all tensors that autograd stores between the passes, each storage once."""
    sizes = {}

    def pack(x):
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    leaves = {name: leaf.clone().requires_grad_() for name, leaf in PARAMS.items()}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        value = f(leaves, X)
    torch.autograd.grad(value, list(leaves.values()))
    return sum(sizes.values())


def test_less_is_stored():
    assert stored_bytes(STORED) < 0.6 * stored_bytes(PLAIN)


def test_autocast_is_that_of_the_forward_pass():
    dtypes = []

    def product(w, x):
        y = x @ w
        dtypes.append(y.dtype)
        return y.float()

    w = torch.randn(4, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = checkpoint(product)(w, torch.randn(3, 4))
    torch.autograd.grad(y.sum(), w)
    assert dtypes == [torch.bfloat16, torch.bfloat16]


def test_a_closed_over_tensor_that_needs_a_gradient_is_refused():
    w = torch.randn(4, 4, dtype=torch.float64)
    assert torch.equal(checkpoint(lambda x: x @ w)(X), X @ w)
    leaf = w.clone().requires_grad_()
    with pytest.raises(UserError, match="checkpoint: the function closes over a tensor"):
        checkpoint(lambda x: x @ leaf)(X)
    with pytest.raises(UserError, match="checkpoint: the function closes over a tensor"):
        torch.func.grad(lambda w: checkpoint(lambda x: x @ w)(X).sum())(w)
    with pytest.raises(UserError, match="checkpoint: the function closes over a tensor"):
        torch.func.grad(lambda w, x: checkpoint(lambda x: x @ w)(x).sum())(w, X)


def sgd_step(w, x):
    """A gradient step, which differentiates by torch.func itself."""
    return w - 0.1 * torch.func.grad(lambda w: (x @ w).pow(3).mean())(w)


OWN_TRANSFORMS = {  # functions of (w, x) that run a transform of torch.func
    "a step": sgd_step,
    "two steps": lambda w, x: sgd_step(sgd_step(w, x), x),
    "vmap": lambda w, x: torch.func.vmap(lambda row: row @ w)(x),
    "per-example gradients": lambda w, x: torch.func.vmap(
        torch.func.grad(lambda w, row: (row @ w).pow(3).mean()), (None, 0)
    )(w, x),
    "hessian": lambda w, x: torch.func.hessian(lambda v: (v @ w).pow(3).sum())(x[0]),
    "of a constant": lambda w, x: torch.func.grad(lambda c: (c @ w).pow(3).sum())(X),
}


@pytest.mark.parametrize("name", OWN_TRANSFORMS)
@pytest.mark.parametrize("transform", ["grad", "vmap", "hessian"])
def test_a_function_may_transform_its_arguments(name, transform):
    f, w = OWN_TRANSFORMS[name], torch.randn(4, 4, dtype=torch.float64)
    total = lambda f: lambda w: f(w, X).sin().sum()
    derivative = {
        "grad": torch.func.grad,
        "vmap": lambda f: torch.func.vmap(torch.func.grad(f)),
        "hessian": torch.func.hessian,
    }[transform]
    w = torch.stack([w, 2 * w]) if transform == "vmap" else w
    assert_close(derivative(total(checkpoint(f)))(w), derivative(total(f))(w))


@pytest.mark.parametrize(
    "f",
    [
        lambda w: lambda x: torch.func.grad(lambda x: (x @ w).pow(3).sum())(x),
        lambda w: lambda x: torch.func.grad(lambda w: (x @ w).pow(3).sum())(w),
        lambda w: lambda x: torch.func.vmap(lambda row: (row @ w).pow(3))(x),
    ],
    ids=["beside what it differentiates", "what it differentiates", "under vmap"],
)
def test_a_tensor_closed_over_by_a_transform_within_gets_its_gradient(f):
    """Such a function is computed plainly."""
    w = torch.randn(4, 4, dtype=torch.float64)
    total = lambda apply: lambda w: apply(f(w))(X).sin().sum()
    found = torch.func.grad(total(checkpoint))(w)
    assert_close(found, torch.func.grad(total(lambda f: f))(w))


DRAWING = {
    "dropout": lambda w, x: F.dropout(x @ w, 0.5),
    "normal": lambda w, x: x @ w + torch.randn(4, dtype=torch.float64),
    "bernoulli": lambda w, x: (x @ w) * torch.bernoulli(torch.full((5, 4), 0.5)),
}


@pytest.mark.parametrize("name", DRAWING)
def test_draws_from_the_generator_are_refused(name):
    """The backward pass would draw another mask."""
    w, f = torch.randn(4, 4, dtype=torch.float64), checkpoint(DRAWING[name])
    with pytest.raises(UserError, match="draws from torch's generator; draw from a key"):
        f(w.requires_grad_(), X)
    with pytest.raises(UserError, match="draws from torch's generator; draw from a key"):
        torch.func.grad(lambda w: f(w, X).sum())(w.detach())
    with pytest.raises(UserError, match="draws from torch's generator; draw from a key"):
        torch.func.vmap(f, (None, 0), randomness="different")(w.detach(), X.expand(2, 5, 4))


def test_draws_of_a_module_are_those_of_the_key():
    net = from_module(nn.Sequential(nn.Linear(4, 6), nn.Dropout(0.5)).double())
    (params, _), key = net.init(None), torch.as_tensor(random.key(3))
    apply = lambda params: net.apply(params, {}, X, train=True, key=key)[0].square().sum()
    assert_close(torch.func.grad(checkpoint(apply))(params), torch.func.grad(apply)(params))


def test_a_model_trains_the_same():
    model, optimizer = MLP(3, [7, 7], 2), optim.adam(1e-2)
    stored = model._replace(apply=checkpoint(model.apply))
    x = random.normal(torch.as_tensor(random.key(1)), (8, 3))
    batch, state = (x, (x.sum(1) > 0).long()), init_state(model, optimizer, random.key(0))
    steps = [make_step(grad_fn(net), optimizer) for net in (model, stored)]
    (plain, a), (found, b) = (step(state, batch) for step in (*steps,))
    assert torch.equal(a["loss"], b["loss"])
    for name, leaf in plain.params.items():
        assert torch.allclose(found.params[name], leaf, atol=1e-7)
