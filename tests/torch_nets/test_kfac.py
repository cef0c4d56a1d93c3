"""KFAC against the blocks of the whole Gauss-Newton matrix, where it is exact, and what it is a
mean of where it is not.
"""

import pytest
import torch
from torch import nn
from torch.func import hessian, jacrev, vmap
from torch.nn import functional as F

from purenets import Model, UserError, random, tree
from purenets.torch_nets import CNN, MLP, VanillaRNN, from_module, jit, layers
from purenets.torch_nets.analysis.curvature import ggn_vp
from purenets.torch_nets.analysis.kfac import kfac, kfac_function, kfac_solve, kfac_vp
from purenets.torch_nets.analysis.operators import to_dense
from purenets.torch_nets.losses import cross_entropy

KEY = torch.as_tensor(random.key(0))
Y = torch.arange(7) % 3


def draw(i: int, *shape: int) -> torch.Tensor:
    return random.normal(random.fold_in(KEY, i), shape, "float64")


def squares(z, y):
    """Return the mean over examples, of the sum over all outputs."""
    return ((z - y) ** 2).flatten(1).sum(1).mean()


def init(model):
    return tree.cast(model.init(KEY)[0], "float64")


def gauss_newton(model, params, batch, loss):
    x, y = batch
    outputs = lambda p: model.apply(p, {}, x)[0]
    return to_dense(lambda v: ggn_vp(outputs, lambda z: loss(z, y), params, v), params)


def same_layer(params) -> torch.Tensor:
    """Return True for two elements of one layer: (n, n)."""
    numbers = {name.rpartition(".")[0]: i for i, name in enumerate(params)}
    each = [
        numbers[name.rpartition(".")[0]] for name, p in params.items() for _ in range(p.numel())
    ]
    each = torch.tensor(each)
    return each[:, None] == each


def kfac_matrix(model, params, batch, loss, **options):
    blocks = kfac(model, params, {}, batch, loss, **options)
    return to_dense(lambda v: kfac_vp(blocks, v), params)


def assert_is_exact(model, batch, loss, **options):
    params = init(model)
    G, mask = gauss_newton(model, params, batch, loss), same_layer(params)
    K = kfac_matrix(model, params, batch, loss, **options)
    assert torch.allclose(K, G * mask, rtol=1e-10, atol=1e-12)
    assert (G * ~mask).abs().max() > 1e-3  # what is left out is not 0


mean_over_positions = layers.elementwise(lambda x: x.mean(1))
LINEAR = {
    "deep": (
        layers.serial(a=layers.Linear(3, 4), b=layers.Linear(4, 2), c=layers.Linear(2, 2)),
        (draw(1, 7, 3), draw(2, 7, 2)),
        {},
    ),
    "without a bias": (
        layers.serial(a=layers.Linear(3, 4, bias=False), b=layers.Linear(4, 2)),
        (draw(1, 7, 3), draw(2, 7, 2)),
        {},
    ),
    "positions, each with a loss": (
        layers.serial(a=layers.Linear(3, 4), b=layers.Linear(4, 2)),
        (draw(1, 5, 6, 3), draw(2, 5, 6, 2)),
        {"sharing": "expand"},
    ),
    "positions, then their mean": (
        layers.serial(a=layers.Linear(3, 4), b=layers.Linear(4, 2), mean=mean_over_positions),
        (draw(1, 5, 6, 3), draw(2, 5, 2)),
        {"sharing": "reduce"},
    ),
    "convolution, then the mean": (
        layers.serial(
            a=layers.Conv(2, 3, 3, stride=2, padding=1),
            mean=layers.GlobalAvgPool(),
            b=layers.Linear(3, 2),
        ),
        (draw(1, 5, 2, 6, 6), draw(2, 5, 2)),
        {"sharing": "reduce"},
    ),
    "pixels, each with a loss": (
        layers.serial(a=layers.Conv(2, 3, 1), b=layers.Conv(3, 2, 1)),
        (draw(1, 5, 2, 3, 3), draw(2, 5, 2, 3, 3)),
        {"sharing": "expand"},
    ),
}


@pytest.mark.parametrize("name", LINEAR)
def test_blocks_of_a_linear_net_are_exact(name):
    model, batch, options = LINEAR[name]
    assert_is_exact(model, batch, squares, **options)


@pytest.mark.parametrize("i", range(3))
def test_blocks_of_one_example_are_exact(i):
    x, y = draw(1, 7, 3)[i : i + 1], Y[i : i + 1]
    assert_is_exact(MLP(3, [5, 4], 3, activation="tanh"), (x, y), cross_entropy)


def test_factors_of_several_examples_are_means_of_single_ones():
    """A is the mean of a a^T, B that of sum_c g_c g_c^T, from jacobians written out."""
    model = MLP(3, [5], 3, activation="tanh")
    params, x = init(model), draw(1, 7, 3)
    first, second = kfac(model, params, {}, (x, Y))
    assert (first.weight, first.bias) == ("fc1.weight", "fc1.bias")
    with_one = lambda a: torch.cat([a, torch.ones(7, 1)], dim=1)
    hidden = torch.tanh(x @ params["fc1.weight"].T + params["fc1.bias"])
    for block, a in ((first, x), (second, hidden)):
        a = with_one(a)
        assert torch.allclose(block.A, a.T @ a / 7, rtol=1e-12, atol=1e-12)
    expected = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(7):
        logits = lambda b, i=i: model.apply({**params, "fc1.bias": b}, {}, x[i : i + 1])[0][0]
        J = jacrev(logits)(params["fc1.bias"])  # (3, 5): by the output of the first layer
        H = hessian(lambda z, i=i: cross_entropy(z[None], Y[i : i + 1]))(logits(params["fc1.bias"]))
        expected += J.T @ H @ J / 7
    assert torch.allclose(first.B, expected, rtol=1e-10, atol=1e-15)


def test_random_combinations_of_outputs_approach_all_of_them():
    model, batch = MLP(3, [5], 3), (draw(1, 7, 3), Y)
    params = init(model)
    exact = kfac(model, params, {}, batch)
    sampled = kfac(model, params, {}, batch, num_samples=4000, key=KEY)
    again = kfac(model, params, {}, batch, num_samples=4000, key=KEY)
    for found, same, right in zip(sampled, again, exact, strict=True):
        assert torch.equal(found.A, right.A)
        assert torch.equal(found.B, same.B)
        assert torch.allclose(found.B, right.B, atol=0.03 * float(right.B.abs().max()))
    with pytest.raises(UserError, match="num_samples needs a key"):
        kfac(model, params, {}, batch, num_samples=1)


@pytest.mark.parametrize("chunk_size", [1, 2])
def test_outputs_a_few_at_a_time(chunk_size):
    model, batch = MLP(3, [5], 3), (draw(1, 7, 3), Y)
    params = init(model)
    pairs = zip(
        kfac(model, params, {}, batch),
        kfac(model, params, {}, batch, chunk_size=chunk_size),
        strict=True,
    )
    assert all(torch.allclose(a.B, b.B, rtol=1e-12, atol=1e-12) for a, b in pairs)


def test_functions_of_the_matrix_are_the_dense_ones():
    model, batch = MLP(3, [5], 3), (draw(1, 7, 3), Y)
    params = init(model)
    blocks = kfac(model, params, {}, batch)
    K = kfac_matrix(model, params, batch, cross_entropy)
    solve = to_dense(lambda v: kfac_solve(blocks, v, 0.125), params)
    assert torch.allclose(
        solve, torch.linalg.inv(K + 0.125 * torch.eye(len(K))), rtol=1e-9, atol=1e-12
    )
    root = to_dense(lambda v: kfac_function(blocks, v, torch.sqrt), params)
    assert torch.allclose(root @ root, K, atol=1e-12)


def test_module_of_torch_has_the_same_factors_as_its_twin():
    module = nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    ).double()
    net = from_module(module)
    params, buffers = net.init(None)
    twin = layers.serial(
        a=layers.Conv(2, 3, 3, stride=2, padding=1),
        relu=layers.ReLU(),
        flat=layers.Flatten(),
        b=layers.Linear(12, 3),
    )
    names = dict(zip(params, init(twin), strict=True))
    batch = draw(1, 7, 2, 4, 4), Y
    found = kfac(net, params, buffers, batch)
    right = kfac(twin, {names[name]: p for name, p in params.items()}, {}, batch)
    assert [names[block.weight] for block in found] == [block.weight for block in right]
    for a, b in zip(found, right, strict=True):
        assert torch.allclose(a.A, b.A, rtol=1e-12, atol=1e-12)
        assert torch.allclose(a.B, b.B, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_convolution_of_few_pixels_is_seen_too(size):
    """Such images take another path through our layer."""
    model = layers.serial(
        a=layers.Conv(2, 3, 3, padding=1), flat=layers.Flatten(), b=layers.Linear(3 * size**2, 3)
    )
    x, y = draw(1, 1, 2, size, size), Y[:1]
    params = init(model)
    [block, _] = kfac(model, params, {}, (x, y), cross_entropy)
    assert block.A.shape == (2 * 9 + 1, 2 * 9 + 1)
    if size == 1:  # one position: exact for one example
        assert_is_exact(model, (x, y), cross_entropy)


def test_large_layers_are_seen_whichever_library_multiplies():
    model = layers.serial(a=layers.Linear(512, 256), b=layers.Linear(256, 3))
    params, _ = model.init(KEY)
    x = random.normal(KEY, (160, 512))  # 21 million multiplications in float32
    [block, _] = kfac(model, params, {}, (x, torch.arange(160) % 3))
    a = torch.cat([x, torch.ones(160, 1)], dim=1)
    assert torch.allclose(block.A, a.T @ a / 160, rtol=1e-4, atol=1e-5)


def test_factors_under_vmap_over_nets():
    model, batch = MLP(3, [5], 3, activation="tanh"), (draw(1, 7, 3), Y)
    params = init(model)
    step = lambda params: kfac_solve(kfac(model, params, {}, batch), params, 0.1)
    others = tree.map(lambda p: p * 1.5, params)
    found = tree.unstack(vmap(step)(tree.stack([params, others])))
    for a, b in zip(found, [step(params), step(others)], strict=True):
        assert all(torch.allclose(a[name], b[name], rtol=1e-9, atol=1e-12) for name in params)


def test_factors_under_jit():
    model, batch = layers.serial(fc=layers.Linear(2, 2)), (draw(1, 7, 2), Y % 2)
    params = init(model)
    factors = lambda params: [(b.A, b.B) for b in kfac(model, params, {}, batch)]
    pairs = zip(jit(factors)(params)[0], factors(params)[0], strict=True)
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in pairs)


def test_leaves_that_no_layer_reads_are_named():
    rnn = VanillaRNN(4, 1, 3, 3)
    with pytest.raises(UserError, match=r"kfac: W_hh: no leaf of a Linear or Conv layer"):
        kfac(rnn, init(rnn), {}, (draw(1, 7, 3, 1), Y))
    cnn = CNN(3, 3, width=0.125)
    params, buffers = tree.cast(cnn.init(KEY)[0], "float64"), tree.cast(cnn.init(KEY)[1], "float64")
    with pytest.raises(UserError, match=r"no leaf of a Linear or Conv layer"):
        kfac(cnn, params, buffers, (draw(1, 7, 3, 32, 32), Y))


def test_weight_that_two_layers_read_and_grouped_convolutions_are_refused():
    inner = layers.Linear(3, 3)
    twice = inner._replace(
        apply=lambda p, b, x, **given: (inner.apply(p, b, inner.apply(p, b, x)[0])[0], b)
    )
    with pytest.raises(UserError, match="weight: two layers read it"):
        kfac(twice, init(inner), {}, (draw(1, 7, 3), Y))
    grouped = from_module(nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten()).double())
    with pytest.raises(UserError, match="groups=1"):
        kfac(grouped, grouped.init(None)[0], {}, (draw(1, 7, 2, 3, 3), Y))


def model_of(f) -> Model:
    """Return the model whose outputs are f(params, inputs)."""
    return Model(None, lambda p, b, x, *, train=False, key=None: (f(p, x), b), False)


SQUARE = {"w": draw(1, 3, 3)}
TWO_READERS = {
    "tied embedding": lambda p, x: F.linear(torch.tanh(F.embedding(Y % 3, p["w"])), p["w"]),
    "transposed": lambda p, x: F.linear(x, p["w"]) @ p["w"].T,
    "in a list": lambda p, x: F.linear(x, p["w"]) + torch.stack([p["w"]]).sum(),
    "as inputs": lambda p, x: F.linear(x, p["w"]) + F.linear(p["w"], p["w"]).sum(),
    "by an assignment": lambda p, x: F.linear(x, p["w"]) + assigned(p["w"]).sum(),
    "of a clone": lambda p, x: F.linear(x, p["w"].clone()) + p["w"].square().sum(),
}


def assigned(w):
    rows = torch.zeros(2, *w.shape, dtype=w.dtype)
    rows[0] = w
    return rows


@pytest.mark.parametrize("name", TWO_READERS)
def test_weight_that_something_else_reads_too_is_refused(name):
    with pytest.raises(UserError, match=r"^w: (a layer and .* read it|two layers)"):
        kfac(model_of(TWO_READERS[name]), SQUARE, {}, (draw(2, 7, 3), Y))


def test_bias_that_two_layers_read_is_refused():
    def net(p, x):
        return F.linear(torch.tanh(F.linear(x, p["w"], p["b"])), p["v"], p["b"])

    params = SQUARE | {"v": draw(3, 3, 3), "b": draw(4, 3)}
    with pytest.raises(UserError, match=r"^b: two layers read it"):
        kfac(model_of(net), params, {}, (draw(2, 7, 3), Y))


def test_reading_what_has_no_derivative_is_allowed():
    def net(p, x):
        w, like = p["w"], torch.zeros_like(p["w"])
        assert w.data.shape == w.detach().shape == w.new_zeros(3, 3).shape
        assert (w > 0).any()
        return F.linear(x.to(w).view_as(x), w.contiguous()) + like.sum()

    plain = model_of(lambda p, x: F.linear(x, p["w"]))
    batch = draw(2, 7, 3), Y
    [found], [right] = (kfac(model, SQUARE, {}, batch) for model in (model_of(net), plain))
    assert torch.equal(found.A, right.A)
    assert torch.equal(found.B, right.B)


STEPS_FIRST = model_of(lambda p, x: F.linear(x.transpose(0, 1), p["w"]).mean(0))


@pytest.mark.parametrize("steps", [5, 7])
def test_layer_whose_first_axis_is_not_that_of_the_examples(steps):
    """With 7 steps the shape alone does not tell."""
    batch = draw(2, 7, steps, 3), Y
    with pytest.raises(UserError, match=r"kfac: w: the first axis .* not that of the examples"):
        kfac(STEPS_FIRST, SQUARE, {}, batch, sharing="reduce")
    examples_first = model_of(lambda p, x: F.linear(x, p["w"]).mean(1))
    flat = model_of(
        lambda p, x: F.linear(x.reshape(-1, 3), p["w"]).unflatten(0, x.shape[:2]).mean(1)
    )
    right = kfac_matrix(examples_first, SQUARE, batch, cross_entropy)
    for model in (STEPS_FIRST, flat):  # "expand" sums over both axes
        assert torch.allclose(kfac_matrix(model, SQUARE, batch, cross_entropy), right, rtol=1e-10)


@pytest.mark.parametrize("rows", [6, 7, 14])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_layer_without_an_axis_of_examples_is_refused(rows, sharing):
    positions = draw(3, rows, 3)

    def net(p, x):
        return F.linear(x + F.linear(positions, p["e"]).mean(0), p["w"])

    with pytest.raises(UserError, match=r"kfac: e: .*(needs as many for each|is not that of)"):
        kfac(model_of(net), SQUARE | {"e": draw(4, 3, 3)}, {}, (draw(2, 7, 3), Y), sharing=sharing)


def test_inputs_without_a_batch_are_refused():
    vector = model_of(lambda p, x: x + F.linear(x[0], p["w"]))
    with pytest.raises(UserError, match=r"Linear: an input of shape \(3,\) has no axis"):
        kfac(vector, SQUARE, {}, (draw(2, 7, 3), Y))
    image = model_of(lambda p, x: x + F.conv2d(x[0], p["w"]).mean())
    with pytest.raises(UserError, match=r"Conv: an input of shape .* has no axis"):
        kfac(image, {"w": draw(3, 1, 2, 1, 1)}, {}, (draw(2, 7, 2, 3, 3), draw(4, 7, 2, 3, 3)))


@torch.jit.script
def scripted(x, w):
    return x @ w.T


@pytest.mark.parametrize(
    "hidden",
    [
        lambda x, w: vmap(lambda row: x @ row, out_dims=1)(w),
        lambda x, w: x @ torch.func.grad(lambda w: w.pow(3).sum())(w).T,
        lambda x, w: jacrev(lambda x: x @ w.T)(x).sum((2, 3)),
        scripted,
    ],
)
def test_a_leaf_that_is_read_out_of_sight_too_is_refused(hidden):
    model = Model(
        lambda key: ({}, {}),
        lambda p, b, x, *, train=False, key=None: (F.linear(x, p["w"]) + hidden(x, p["w"]), b),
        uses_key=False,
    )
    with pytest.raises(UserError, match=r"^w: .*read"):
        kfac(model, {"w": draw(2, 3, 3)}, {}, (draw(1, 7, 3), Y))


class OwnModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def test_module_that_a_user_wrote_has_the_factors_of_its_twin():
    net, batch = from_module(OwnModule().double()), (draw(1, 7, 3), Y)
    params, buffers = net.init(None)
    twin = layers.serial(first=layers.Linear(3, 4), tanh=layers.Tanh(), second=layers.Linear(4, 3))
    for a, b in zip(kfac(net, params, buffers, batch), kfac(twin, params, {}, batch), strict=True):
        assert (a.weight, a.bias) == (b.weight, b.bias)
        assert torch.allclose(a.A, b.A, rtol=1e-12, atol=1e-12)
        assert torch.allclose(a.B, b.B, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("product", [kfac_vp, lambda blocks, v: kfac_solve(blocks, v, 0.1)])
def test_wrong_blocks_and_vectors_are_named(product):
    model = MLP(3, [5], 3)
    params = init(model)
    blocks = kfac(model, params, {}, (draw(1, 7, 3), Y))
    wrong = {
        r"blocks is 3, needs a list of the blocks": (3, params),
        r"blocks\[0\]: a int, needs what kfac": ([1], params),
        r"v has the leaves a, needs those of blocks: fc1.weight, fc1.bias,": (blocks, {"a": Y}),
        r"v\['fc1.bias'\]: a float, needs a tensor": (blocks, params | {"fc1.bias": 1.0}),
        r"v\['fc1.weight'\] is of shape \(3, 5\), needs 5 rows of 3 elements": (
            blocks,
            params | {"fc1.weight": params["fc1.weight"].T},
        ),
        r"v\['fc1.bias'\] is of shape \(1,\), needs \(5,\)": (
            blocks,
            params | {"fc1.bias": params["fc1.bias"][:1]},
        ),
    }
    for message, arguments in wrong.items():
        with pytest.raises(UserError, match=f"^kfac_(vp|solve): {message}"):
            product(*arguments)
