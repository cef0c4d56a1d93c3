"""Products with the Hessian and its kin against the whole matrices, on nets small enough to build them."""

import numpy as np
import pytest
import torch
from torch.func import hessian, jacrev

from purenets import UserError, make_step, optim, random, train_state, tree
from purenets.core.report import plots
from purenets.torch_nets import MLP, VanillaRNN, grad_fn
from purenets.torch_nets.analysis.curvature import (
    filter_normalized,
    fisher_diagonal,
    ggn_vp,
    hvp,
    lanczos,
    landscape,
    linearize,
    loss_at,
    ntk,
)
from purenets.torch_nets.losses import cross_entropy

KEY = torch.as_tensor(random.key(3))
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
    columns = [tree.ravel(product(unravel(e)))[0] for e in torch.eye(len(vector), dtype=vector.dtype)]
    return torch.stack(columns, dim=1)


def of_vector(f, params):
    vector, unravel = tree.ravel(params)
    return (lambda v: f(unravel(v))), vector


def test_hvp_is_the_hessian(net):
    model, params, batch = net
    f = loss_at(model, {}, batch)
    whole = hessian(of_vector(f, params)[0])(of_vector(f, params)[1])
    assert torch.allclose(matrix_of(lambda v: hvp(f, params, v), params), whole, rtol=1e-10, atol=1e-13)


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
        assert torch.allclose(got[name], sum(g[name] ** 2 for g in each) / 7, rtol=1e-10, atol=1e-16)


def test_lanczos_finds_the_largest_and_the_smallest(net):
    model, params, batch = net
    f = loss_at(model, {}, batch)
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


def test_random_directions_have_the_rows_of_the_params(net):
    _, params, _ = net
    direction = filter_normalized(params, KEY)
    for name, p in params.items():
        if p.ndim > 1:
            assert torch.allclose(
                direction[name].flatten(1).norm(dim=1), p.flatten(1).norm(dim=1), rtol=1e-12
            )
        else:
            assert not direction[name].any()


def test_a_landscape_is_the_loss_on_a_plane(net):
    model, params, batch = net
    f = loss_at(model, {}, batch)
    directions = [filter_normalized(params, KEY + i) for i in range(2)]
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
    f, before = loss_at(model, {}, batch), [p.clone() for p in params.values()]
    hvp(f, params, params)
    lanczos(lambda v: hvp(f, params, v), params, KEY, 3)
    fisher_diagonal(model, params, {}, batch)
    ntk(model, params, {}, batch[0], batch[0])
    linearize(model, params).apply(params, {}, batch[0])
    landscape(f, params, [params, params], [0.0, 1.0])
    assert all(map(torch.equal, before, params.values()))
