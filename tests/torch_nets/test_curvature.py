"""Products with the Hessian and its kin against the whole matrices, on nets small enough to build
them.
"""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev

from purenets import UserError, make_step, optim, random, train_state, tree
from purenets.core.report import plots
from purenets.torch_nets import MLP, VanillaRNN, from_module, grad_fn, losses
from purenets.torch_nets.analysis.curvature import (
    eval_loss_fn,
    filter_normalized_direction,
    fisher_diagonal,
    ggn_vp,
    hvp,
    lanczos,
    landscape,
    linearize,
    ntk,
)
from purenets.torch_nets.analysis.diagonal import ggn_diagonal
from purenets.torch_nets.analysis.laplace import diagonal_laplace, linearized_predictive
from purenets.torch_nets.analysis.per_example import influence, per_example_grads
from purenets.torch_nets.losses import cross_entropy, mse

KEY = torch.as_tensor(random.key(3))
Y = torch.tensor([0, 1, 2] * 2)
NETS = {
    "mlp": (lambda: MLP(3, [4], 3, activation="tanh"), (3,)),
    "rnn": (lambda: VanillaRNN(5, 1, 3, 3), (5, 1)),
}


@pytest.fixture(params=NETS)
def net(request):
    make, shape = NETS[request.param]
    model, draw = make(), np.random.default_rng(0)
    params = tree.cast(model.init(KEY)[0], "float64")
    return model, params, (torch.tensor(draw.normal(size=(7, *shape))), torch.arange(7) % 3)


def matrix_of(product, params):
    """The matrix whose product is given, column by column."""
    vector, unravel = tree.ravel(params)
    columns = [
        tree.ravel(product(unravel(e)))[0] for e in torch.eye(len(vector), dtype=vector.dtype)
    ]
    return torch.stack(columns, dim=1)


def of_vector(f, params):
    vector, unravel = tree.ravel(params)
    return (lambda v: f(unravel(v))), vector


def test_hvp_is_the_hessian(net):
    model, params, batch = net
    f = eval_loss_fn(model, {}, batch)
    whole = hessian(of_vector(f, params)[0])(of_vector(f, params)[1])
    assert torch.allclose(
        matrix_of(lambda v: hvp(f, params, v), params), whole, rtol=1e-10, atol=1e-13
    )


def test_gauss_newton_is_built_of_its_jacobians(net):
    model, params, (x, y) = net
    outputs, loss = (lambda p: model.apply(p, {}, x)[0]), (lambda logits: cross_entropy(logits, y))
    f, vector = of_vector(outputs, params)
    J = jacrev(f)(vector).flatten(0, 1)
    H = hessian(loss)(outputs(params)).flatten(2).flatten(0, 1)
    G = matrix_of(lambda v: ggn_vp(outputs, loss, params, v), params)
    assert torch.allclose(G, J.T @ H @ J, rtol=1e-10, atol=1e-13)
    assert torch.linalg.eigvalsh(G).min() > -1e-12


def test_fisher_is_the_mean_of_squares(net):
    model, params, (x, y) = net
    got = fisher_diagonal(model, params, {}, (x, y), chunk_size=3)
    each = [grad_fn(model)(params, {}, (x[i : i + 1], y[i : i + 1]), None)[0] for i in range(7)]
    for name in params:
        assert torch.allclose(
            got[name], sum(g[name] ** 2 for g in each) / 7, rtol=1e-10, atol=1e-16
        )


def test_lanczos_finds_the_largest_and_the_smallest(net):
    model, params, batch = net
    f = eval_loss_fn(model, {}, batch)
    product = lambda v: hvp(f, params, v)
    expected = torch.linalg.eigvalsh(matrix_of(product, params))
    values, directions = lanczos(product, params, KEY, 25)
    assert torch.allclose(values[-3:], expected[-3:], rtol=1e-6)
    assert torch.allclose(values[0], expected[0], rtol=1e-6)
    top = directions[-1]
    assert float(tree.norm(top)) == pytest.approx(1, abs=1e-10)
    error = tree.map(lambda Hv, v: Hv - values[-1] * v, product(top), top)
    assert float(tree.norm(error)) < 1e-4 * float(values[-1])


def test_lanczos_stops_where_the_directions_are_exhausted():
    params = {"w": torch.zeros(6, dtype=torch.float64)}
    scale = torch.tensor([1.0, 1, 1, 1, 1, 5], dtype=torch.float64)
    values, _ = lanczos(lambda v: {"w": scale * v["w"]}, params, KEY, 20)
    assert torch.allclose(values, torch.tensor([1.0, 5.0], dtype=torch.float64), rtol=1e-12)


def test_a_linearised_net_is_linear_and_touches_the_net(net):
    model, params, (x, y) = net
    linear = linearize(model, params)
    start, buffers = linear.init(KEY)
    assert torch.equal(linear.apply(start, buffers, x)[0], model.apply(params, {}, x)[0])
    move = tree.map(lambda p: torch.ones_like(p), params)
    out = lambda scale: linear.apply(tree.map(lambda p, m: p + scale * m, params, move), {}, x)[0]
    assert torch.allclose(out(2.0) - out(0.0), 2 * (out(1.0) - out(0.0)), rtol=1e-10)
    ours = grad_fn(linear)(params, {}, (x, y), None)[0]
    expected = grad_fn(model)(params, {}, (x, y), None)[0]
    assert all(torch.allclose(ours[n], expected[n], rtol=1e-10, atol=1e-14) for n in params)
    state = train_state(start, buffers, optim.sgd(0.1), KEY)
    step = make_step(grad_fn(linear), optim.sgd(0.1))
    losses = [float(step(state, (x, y))[1]["loss"])]
    for _ in range(20):
        state, metrics = step(state, (x, y))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < losses[0]


def test_kernel_is_the_product_of_jacobians(net):
    model, params, (x, _) = net
    f, vector = of_vector(lambda p: model.apply(p, {}, x)[0], params)
    J = jacrev(f)(vector)  # (n, classes, params)
    expected = torch.einsum("iap,jbp->ijab", J[:4], J[4:])
    assert torch.allclose(ntk(model, params, {}, x[:4], x[4:]), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_outputs_of_any_shape(shape):
    """One number for an example, a vector, and classes at several positions."""
    net = MLP(3, [5], math.prod(shape), activation="tanh")
    params = tree.cast(net.init(KEY)[0], "float64")

    def apply(params, buffers, x, *, train=False, key=None):
        return net.apply(params, buffers, x)[0].reshape(len(x), *shape), buffers

    model = net._replace(apply=apply, layers={})
    x = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, (vector, unravel) = torch.zeros(5, *shape, dtype=torch.float64), tree.ravel(params)
    J = jacrev(lambda v: apply(unravel(v), {}, x)[0])(vector).reshape(5, -1, len(vector))
    kernel = torch.einsum("iap,jbp->ijab", J[:2], J[2:])
    found = ntk(model, params, {}, x[:2], x[2:])
    assert torch.allclose(found, kernel.reshape(2, 3, *shape, *shape))
    G = 2 * torch.einsum("iap,iaq->pq", J, J) / y.numel()  # of the mean square
    diagonal = tree.ravel(ggn_diagonal(model, params, {}, (x, y), mse))[0]
    assert torch.allclose(diagonal, G.diagonal())
    posterior = diagonal_laplace(model, params, {}, (x, y), mse)
    mean, covariance = linearized_predictive(model, posterior, {}, x)
    S = 1 / (5 * G.diagonal() + 1)
    expected = torch.einsum("iap,p,ibp->iab", J, S, J)
    assert torch.allclose(mean, apply(params, {}, x)[0])
    assert torch.allclose(covariance, expected.reshape(5, *shape, *shape))


def test_random_directions_have_the_rows_of_the_params(net):
    _, params, _ = net
    direction = filter_normalized_direction(params, KEY)
    for name, p in params.items():
        if p.ndim > 1:
            assert torch.allclose(
                direction[name].flatten(1).norm(dim=1), p.flatten(1).norm(dim=1), rtol=1e-12
            )
        else:
            assert not direction[name].any()


def test_a_landscape_is_the_loss_on_a_plane(net):
    model, params, batch = net
    f = eval_loss_fn(model, {}, batch)
    directions = [filter_normalized_direction(params, KEY + i) for i in range(2)]
    steps = np.linspace(-1, 1, 5)
    losses = landscape(f, params, directions, steps)
    assert losses[2, 2] == pytest.approx(float(f(params)), rel=1e-12)
    moved = tree.map(lambda p, d, e: p - 1.0 * d + 0.5 * e, params, *directions)
    assert losses[0, 3] == pytest.approx(float(f(moved)), rel=1e-12)
    figure, axes = plots.panels(1, 1)
    plots.landscape(axes[0, 0], losses, steps, "a landscape")
    figure.canvas.draw()
    assert axes[0, 0].get_title() == "a landscape"
    with pytest.raises(UserError, match="1 directions, a plane needs two"):
        landscape(f, params, directions[:1], steps)


def test_no_argument_is_changed(net):
    model, params, batch = net
    f, before = eval_loss_fn(model, {}, batch), [p.clone() for p in params.values()]
    hvp(f, params, params)
    lanczos(lambda v: hvp(f, params, v), params, KEY, 3)
    fisher_diagonal(model, params, {}, batch)
    ntk(model, params, {}, batch[0], batch[0])
    linearize(model, params).apply(params, {}, batch[0])
    landscape(f, params, [params, params], [0.0, 1.0])
    assert all(map(torch.equal, before, params.values()))


# --- modules without forward derivatives ----------------------------------------------------------


class Last(torch.nn.Module):
    """The last output of a sequence module, and a linear layer."""

    def __init__(self, part):
        super().__init__()
        self.part, self.out = part, torch.nn.Linear(4, 3)

    def forward(self, x):
        z = self.part(x)
        return self.out((z[0] if isinstance(z, tuple) else z)[:, -1])


class SelfAttention(torch.nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)


class MaxHead(torch.nn.Module):
    """A custom function without a forward derivative."""

    def forward(self, x):
        return Square.apply(x)


class Square(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.saved_tensors[0]


SEQUENCE_PARTS = {
    "lstm": lambda: torch.nn.LSTM(4, 4, batch_first=True),
    "lstm of two layers": lambda: torch.nn.LSTM(4, 2, 2, batch_first=True, bidirectional=True),
    "gru": lambda: torch.nn.GRU(4, 4, batch_first=True),
    "encoder": lambda: torch.nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0),
    "attention": lambda: SelfAttention(4, 2, batch_first=True),
    "custom function": lambda: torch.nn.Sequential(torch.nn.Linear(4, 4), MaxHead()),
}


@pytest.fixture(params=SEQUENCE_PARTS)
def sequence_net(request):
    """A float32 net, as only there fused kernels are used; and the same in float64."""
    torch.manual_seed(0)
    module = Last(SEQUENCE_PARTS[request.param]())
    found = []
    for dtype in (torch.float32, torch.float64):
        model = from_module(copy.deepcopy(module).to(dtype))
        found.append((model, *model.init(None), (random.normal(KEY, (6, 5, 4)).to(dtype), Y)))
    return found


def differences(f, params, v):
    """(f(p + h v) - f(p - h v)) / 2h in float64."""
    above, below = (f(tree.map(lambda p, d, h=h: p + h * d, params, v)) for h in (1e-4, -1e-4))
    return tree.map(lambda a, b: (a - b) / 2e-4, above, below)


def test_hessian_times_vector_of_a_sequence_module(sequence_net):
    (net, params, buffers, batch), (_, wide, _, wide_batch) = sequence_net
    double = sequence_net[1][0]
    right = differences(torch.func.grad(eval_loss_fn(double, {}, wide_batch)), wide, wide)
    for name, found in hvp(eval_loss_fn(net, buffers, batch), params, params).items():
        assert torch.allclose(found.double(), right[name], rtol=1e-3, atol=1e-5), name


def test_other_products_of_a_sequence_module(sequence_net):
    (net, params, buffers, (x, y)), (double, wide, _, (wide_x, _)) = sequence_net
    slope = differences(lambda p: {"y": double.apply(p, {}, wide_x)[0]}, wide, wide)["y"].float()
    moved = linearize(net, params).apply(tree.map(lambda p: 2 * p, params), buffers, x)[0]
    assert torch.allclose(moved, net.apply(params, buffers, x)[0] + slope, rtol=1e-3, atol=1e-4)
    outputs, loss = (
        (lambda p: net.apply(p, buffers, x)[0]),
        (lambda logits: cross_entropy(logits, y)),
    )
    bent = torch.func.hessian(loss)(outputs(params)).flatten(2).flatten(0, 1) @ slope.flatten()
    right = torch.func.vjp(outputs, params)[1](bent.view_as(slope))[0]
    for name, found in ggn_vp(outputs, loss, params, params).items():
        assert torch.allclose(found, right[name], rtol=1e-2, atol=1e-5), name


def test_vector_in_another_order_of_the_names():
    model = MLP(4, [8], 3)
    params, _ = model.init(KEY)
    batch = random.normal(KEY, (6, 4)), Y
    f, backwards = eval_loss_fn(model, {}, batch), dict(reversed(params.items()))
    right, found = hvp(f, params, params), hvp(f, params, backwards)
    assert all(torch.allclose(found[name], right[name]) for name in right)
    outputs, loss = (
        (lambda p: model.apply(p, {}, batch[0])[0]),
        (lambda logits: cross_entropy(logits, Y)),
    )
    right, found = (ggn_vp(outputs, loss, params, v) for v in (params, backwards))
    assert all(torch.allclose(found[name], right[name]) for name in right)
    linear = linearize(model, params)
    assert torch.allclose(*(linear.apply(p, {}, batch[0])[0] for p in (params, backwards)))


def test_vector_that_lacks_a_leaf_is_refused():
    model = MLP(4, [8], 3)
    params, _ = model.init(KEY)
    f = eval_loss_fn(model, {}, (random.normal(KEY, (6, 4)), Y))
    with pytest.raises(UserError, match=r"missing fc1\.bias"):
        hvp(f, params, {name: p for name, p in params.items() if name != "fc1.bias"})


TARGETS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LOSSES = {
    "mse": lambda logits: losses.mse(logits, TARGETS),
    "huber": lambda logits: losses.huber(0.5)(logits, TARGETS),
    "binary": lambda logits: losses.binary_cross_entropy(logits, (TARGETS > 0).double()),
    "focal": lambda logits: losses.focal()(logits, Y),
    "torch's soft margin": lambda logits: nn.functional.soft_margin_loss(logits, TARGETS.sign()),
}


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch's own
@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_of_every_loss_is_that_of_the_whole_matrices(name):
    loss, x = LOSSES[name], TARGETS.cos()
    weight = TARGETS[:3].sin()
    outputs = lambda params: x @ params["w"].T
    product = ggn_vp(outputs, loss, {"w": weight}, {"w": weight.cos()})["w"]
    J = jacrev(lambda w: (x @ w.T).flatten())(weight).flatten(1)
    H = jacrev(torch.func.grad(loss))(x @ weight.T).reshape(18, 18)
    torch.testing.assert_close(product.flatten(), J.T @ H @ J @ weight.cos().flatten())


def test_products_that_do_not_fit_or_are_not_finite_are_named():
    params = {"w": torch.ones(3), "b": torch.ones(2)}
    f = lambda p: (p["w"] ** 3).sum() + p["b"].prod()
    with pytest.raises(UserError, match=r"b: shape is \(3,\), expected \(2,\)"):
        hvp(f, params, {"w": torch.ones(3), "b": torch.ones(3)})
    with pytest.raises(UserError, match=r"w: shape is \(1,\), expected \(3,\)"):
        hvp(f, params, {"w": torch.ones(1), "b": torch.ones(2)})
    broken = lambda v: {name: x * torch.nan for name, x in v.items()}
    with pytest.raises(UserError, match="lanczos: product 1 is not finite"):
        lanczos(broken, params, torch.as_tensor(random.key(0)), 3)


class Modulus(nn.Module):
    """|W x| of a complex matrix."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 2, dtype=torch.cdouble))

    def forward(self, x):
        return (x.to(torch.cdouble) @ self.w).abs()


def test_fisher_and_influence_of_complex_params_are_those_of_pairs_of_reals():
    torch.manual_seed(0)
    model = from_module(Modulus())
    params, buffers = model.init(None)
    batch = torch.randn(5, 3).double(), torch.randn(5, 2).double()
    grads, _ = per_example_grads(model, losses.mse)(params, buffers, batch)
    pairs = torch.view_as_real(grads["w"])
    fisher = fisher_diagonal(model, params, buffers, batch, losses.mse)["w"]
    torch.testing.assert_close(fisher, pairs.square().sum(-1).mean(0))
    reference = {"w": grads["w"].mean(0)}
    found = influence(grads, reference)
    torch.testing.assert_close(found, (pairs * pairs.mean(0)).sum((1, 2, 3)))


class WrittenOut(torch.nn.Module):
    """PReLU, or its formula."""

    def __init__(self, n, by_formula):
        super().__init__()
        self.weight, self.by_formula = torch.nn.Parameter(torch.linspace(0.1, 0.4, n)), by_formula

    def forward(self, x):
        if not self.by_formula:
            return torch.nn.functional.prelu(x, self.weight)
        w = self.weight.reshape(-1, *[1] * (x.ndim - 2)) if len(self.weight) > 1 else self.weight
        return torch.where(x >= 0, x, w * x)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("n", [2, 3, 5])
def test_curvature_of_prelu_where_torch_confuses_examples_and_outputs(n, channels):
    """With as many examples as outputs, 3, its derivative under two vmaps is silently wrong."""
    key = torch.as_tensor(random.key(0))
    batch = random.normal(key, (n, 2, 2)), torch.arange(n) % 3
    found = []
    for by_formula in (False, True):
        parts = WrittenOut(channels, by_formula), torch.nn.Flatten(), torch.nn.Linear(4, 3)
        model = from_module(torch.nn.Sequential(*parts))
        params, _ = model.init(None)
        fixed = random.normal(random.fold_in(key, 1), (3, 4))
        params = {**params, "2.weight": fixed, "2.bias": torch.zeros(3)}
        posterior = diagonal_laplace(model, params, {}, batch)
        _, variance = linearized_predictive(model, posterior, {}, batch[0])
        kernel = ntk(model, params, {}, batch[0], batch[0])
        found.append((ggn_diagonal(model, params, {}, batch)["0.weight"], variance, kernel))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)
