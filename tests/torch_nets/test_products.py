import pytest
import torch

from purenets import random
from purenets.core import kernel_rules
from purenets.torch_nets import MLP, grad_fn, layers
from purenets.torch_nets.fast import matmul, onednn
from purenets.torch_nets.layers import basic

RULE = kernel_rules.PRODUCT_RULES["oneDNN"]
pytestmark = pytest.mark.skipif(
    not matmul.ONEDNN, reason="this torch has no oneDNN for float32 products"
)


def matrices(m=5, k=7, n=3):
    keys = random.split(torch.as_tensor(random.key(0)), 2)
    return random.normal(keys[0], (m, k)), random.normal(keys[1], (k, n))


def close(a, b):
    return torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.fixture
def always(monkeypatch):
    """oneDNN for the smallest product too."""
    monkeypatch.setitem(kernel_rules.PRODUCT_RULES, "oneDNN", kernel_rules.ProductRule(1, 1))
    monkeypatch.setattr(kernel_rules, "_chosen", ["oneDNN"])


def test_is_the_product_whatever_the_strides(always):
    a, b = matrices()
    assert close(matmul.product(a, b), a @ b)
    assert close(matmul.product(a.mT.contiguous().mT, b.mT.contiguous().mT), a @ b)
    assert close(matmul.product(a[:, ::2], b[::2]), a[:, ::2] @ b[::2])
    assert close(onednn.onednn_addmm(torch.ones(5, 3), a, b), 1 + a @ b)
    assert matmul.product(a[:0], b).shape == (0, 3)
    assert matmul.product(a.double(), b.double()).dtype == torch.float64


def test_gradients_and_their_gradients(always):
    a, b = matrices()

    def f(multiply):
        return lambda a, b: multiply(torch.sin(multiply(a, b)), b.mT).pow(2).sum()

    for ours, theirs in zip(
        torch.func.grad(f(matmul.product), (0, 1))(a, b),
        torch.func.grad(f(torch.mm), (0, 1))(a, b),
        strict=True,
    ):
        assert close(ours, theirs)
    leaves = a.clone().requires_grad_(), b.clone().requires_grad_()
    for ours, theirs in zip(
        torch.autograd.grad(f(matmul.product)(*leaves), leaves),
        torch.autograd.grad(f(torch.mm)(*leaves), leaves),
        strict=True,
    ):
        assert close(ours, theirs)
    assert torch.allclose(
        torch.func.hessian(f(matmul.product))(a, b),
        torch.func.hessian(f(torch.mm))(a, b),
        rtol=1e-4,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    "twice", ["forward over forward", "backward over backward", "backward over forward"]
)
def test_second_derivatives_in_any_order(always, twice):
    outer, inner = (
        torch.func.jacfwd if way == "forward" else torch.func.jacrev
        for way in twice.split(" over ")
    )
    a, b = matrices(2, 3, 2)
    for argnums in (0, 1):
        ours, theirs = (
            outer(
                inner(lambda a, b, m=m: torch.sin(m(torch.sin(m(a, b)), m(a, b))).sum(), argnums), 0
            )(a, b)
            for m in (matmul.product, torch.mm)
        )
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_autocast_is_left_to_torch(always):
    a, b = matrices()
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul.product(a, b).dtype == torch.bfloat16


def test_forward_derivative(always):
    a, b = matrices()
    ours = torch.func.jvp(matmul.product, (a, b), (torch.cos(a), torch.sin(b)))
    theirs = torch.func.jvp(torch.mm, (a, b), (torch.cos(a), torch.sin(b)))
    assert close(ours[0], theirs[0]) and close(ours[1], theirs[1])
    only_b = torch.func.jvp(lambda b: matmul.product(a, b), (b,), (torch.sin(b),))
    assert close(only_b[1], a @ torch.sin(b))


@pytest.mark.parametrize("dims", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_members(always, dims):
    a, b = matrices()
    stacked = [
        matrix if dim is None else torch.stack([matrix, 2 * matrix, matrix - 1], dim)
        for matrix, dim in zip((a, b), dims, strict=True)
    ]
    ours = torch.func.vmap(matmul.product, dims)(*stacked)
    assert close(ours, torch.func.vmap(torch.mm, dims)(*stacked))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_net_of_such_products(always, monkeypatch, compiled):
    model = MLP(6, [8], 3)
    params, buffers = model.init(random.key(0))
    x, y = random.normal(torch.as_tensor(random.key(1)), (10, 6)), torch.arange(10) % 3
    expected, _ = grad_fn(model)(params, buffers, (x, y), None)
    monkeypatch.setattr(basic, "MAX_MULTIPLIES_INLINE", 0)
    gradient = grad_fn(model)
    if compiled:
        gradient = torch.compile(gradient, fullgraph=True)
    found, _ = gradient(params, buffers, (x, y), None)
    for name, leaf in expected.items():
        assert close(found[name], leaf), name


def test_large_layers_of_other_types_stay_one_operation(always):
    layer = layers.Linear(6, 4)
    params, x = layer.init(random.key(0))[0], torch.randn(3, 5, 6)
    y, _ = layer.apply(params, {}, x)
    assert close(y, torch.nn.functional.linear(x, params["weight"], params["bias"]))
    wide = {name: leaf.double() for name, leaf in params.items()}
    exact, _ = layer.apply(wide, {}, x.double())
    assert torch.equal(exact, torch.nn.functional.linear(x.double(), wide["weight"], wide["bias"]))
    assert layer.apply(params, {}, x[:0])[0].shape == (0, 5, 4)


def test_small_products_and_other_types_are_left_to_torch():
    a, b = matrices()
    assert not matmul.use_onednn(a, b, RULE.min_multiplies)
    assert not matmul.use_onednn(a.double(), b.double(), 1)
    assert not matmul.use_onednn(a.bfloat16(), b.bfloat16(), 1)
    square = torch.empty(128, 128)
    assert matmul.use_onednn(square, square, RULE.min_multiplies)
