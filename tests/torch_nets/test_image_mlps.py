import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn

from purenets import UserError, random, tree
from purenets.torch_nets import layers
from purenets.torch_nets.image_mlps import (
    batch_norm_mlp,
    bottleneck_mlp,
    plain_mlp,
    residual_mlp,
    s_fc,
    whitened,
    whitening_map,
)

NETS = {
    "plain": lambda: plain_mlp(27, (8, 6), 4),
    "batch_norm": lambda: batch_norm_mlp(27, (8, 6), 4, dropout=0.1),
    "residual": lambda: residual_mlp(27, 8, 2, 4, dropout=0.1),
    "residual, BatchNorm": lambda: residual_mlp(27, 8, 2, 4, norm=layers.BatchNorm),
    "bottleneck": lambda: bottleneck_mlp(27, (8, 6), 3, 4, dropout=0.1),
    "s_fc": lambda: s_fc(27, 1, 4),
}


@pytest.mark.parametrize("name", NETS)
def test_takes_images_and_knows_nothing_of_their_neighbors(name):
    """A net without convolution and patches is the same net after any fixed permutation of the
    pixels.
    """
    model, order = NETS[name](), random.permutation(torch.as_tensor(random.key(3)), 27)
    params, buffers = model.init(random.key(0))
    x = torch.randn(5, 3, 3, 3)
    y, _ = model.apply(params, buffers, x, train=True, key=torch.as_tensor(random.key(1)))
    assert y.shape == (5, 4)
    first = (
        "embed.weight"
        if name.startswith("residual")
        else "mlp.fc1.weight"
        if name == "plain"
        else "fc1.weight"
    )
    permuted = params | {first: params[first][:, order]}
    moved = x.flatten(1)[:, order].view_as(x)
    again, _ = model.apply(permuted, buffers, moved, train=True, key=torch.as_tensor(random.key(1)))
    torch.testing.assert_close(again, y, rtol=1e-4, atol=1e-5)


def test_residual_mlp_equals_its_module_twin():
    params, _ = residual_mlp(12, 6, 2, 3, expansion=2).init(random.key(0))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.fc1, self.fc2 = nn.LayerNorm(6), nn.Linear(6, 12), nn.Linear(12, 6)

        def forward(self, x):
            return x + self.fc2(nn.functional.gelu(self.fc1(self.norm(x)), approximate="tanh"))

    twin = nn.ModuleDict({"embed": nn.Linear(12, 6), "block1": Block(), "block2": Block()})
    twin.update({"norm": nn.LayerNorm(6), "fc": nn.Linear(6, 3)})
    twin.load_state_dict(params)
    x = torch.randn(4, 3, 2, 2)
    expected = x.flatten(1)
    for part in twin.values():
        expected = part(expected)
    torch.testing.assert_close(
        residual_mlp(12, 6, 2, 3, expansion=2).apply(params, {}, x)[0], expected
    )


def test_s_fc_has_the_sizes_of_the_paper():
    params, _ = s_fc(3072, 2, 10).init(random.key(0))
    assert params["fc1.weight"].shape == (512, 3072)
    assert params["fc2.weight"].shape == (48, 512)
    assert tree.size(params) == 512 * 3072 + 48 * 512 + 2 * (512 + 48) + 480 + 10


def test_wrong_images_are_named():
    params, buffers = plain_mlp(27, (8,), 4).init(random.key(0))
    with pytest.raises(UserError, match=r"shape is \(2, 48\), expected \(batch, 27\)"):
        plain_mlp(27, (8,), 4).apply(params, buffers, torch.zeros(2, 3, 4, 4))


def test_residual_mlp_with_batchnorm_equals_its_module_twin():
    model = residual_mlp(12, 6, 1, 3, expansion=2, norm=layers.BatchNorm)
    params, buffers = model.init(random.key(0))
    embed, fc1, fc2, fc = nn.Linear(12, 6), nn.Linear(6, 12), nn.Linear(12, 6), nn.Linear(6, 3)
    inner, outer = nn.BatchNorm1d(6), nn.BatchNorm1d(6)
    names = {"embed": embed, "block1.norm": inner, "block1.fc1": fc1, "block1.fc2": fc2}
    twin = nn.ModuleDict({name.replace(".", "_"): part for name, part in names.items()})
    twin.update({"norm": outer, "fc": fc})
    state = {name.replace("block1.", "block1_"): v for name, v in {**params, **buffers}.items()}
    twin.load_state_dict(state)

    def forward(x):
        x = embed(x.flatten(1))
        x = x + fc2(nn.functional.gelu(fc1(inner(x)), approximate="tanh"))
        return fc(outer(x))

    x = torch.randn(16, 3, 2, 2)
    found, new = model.apply(params, buffers, x, train=True)
    torch.testing.assert_close(found, forward(x))
    torch.testing.assert_close(new["norm.running_var"], outer.running_var)
    twin.eval()
    torch.testing.assert_close(model.apply(params, new, x)[0], forward(x))


def test_the_bottleneck_is_one_matrix_of_low_rank_between_two_layers():
    model = bottleneck_mlp(12, (9, 8), 3, 4, norm=layers.LayerNorm)
    params, _ = model.init(random.key(0))
    assert params["narrow2.weight"].shape == (3, 9)
    assert params["fc2.weight"].shape == (8, 3)
    product = params["fc2.weight"] @ params["narrow2.weight"]
    assert torch.linalg.matrix_rank(product) == 3
    x = torch.randn(5, 12)

    def hidden(name, h):
        norm = nn.functional.layer_norm(h, (h.shape[1],))
        return torch.relu(norm * params[f"{name}.weight"] + params[f"{name}.bias"])

    h = hidden("norm1", x @ params["fc1.weight"].T)
    h = hidden("norm2", h @ product.T)
    expected = h @ params["fc.weight"].T + params["fc.bias"]
    torch.testing.assert_close(model.apply(params, {}, x)[0], expected)


def test_whitened_inputs_are_the_components_of_scikit_learn():
    mix = torch.randn(12, 12)
    x = (torch.randn(400, 12) @ mix + 3).view(400, 3, 2, 2)
    weight, bias = whitening_map(x.split(150), 5, eps=0.0)
    found = (x.flatten(1) @ weight.T + bias).double()
    expected = torch.tensor(PCA(5, whiten=True, svd_solver="full").fit_transform(x.flatten(1)))
    expected = expected * (400 / 399) ** 0.5  # it divides by n - 1
    signs = torch.sign((found * expected).sum(0))
    torch.testing.assert_close(found, signs * expected, rtol=1e-3, atol=1e-3)
    covariance = found.T @ found / len(found)
    torch.testing.assert_close(covariance, torch.eye(5).double(), rtol=0, atol=1e-3)


def test_the_net_of_whitened_inputs_trains_only_what_comes_after_them():
    x = torch.randn(50, 3, 3, 3)
    weight, bias = whitening_map([x], 6)
    model = whitened(plain_mlp(6, (8,), 4), weight, bias)
    params, buffers = model.init(random.key(0))
    assert all(name.startswith("net.") for name in params)
    assert buffers["whiten.weight"].shape == (6, 27)
    inner = {name.removeprefix("net."): leaf for name, leaf in params.items()}
    expected, _ = plain_mlp(6, (8,), 4).apply(inner, {}, x.flatten(1) @ weight.T + bias)
    torch.testing.assert_close(model.apply(params, buffers, x)[0], expected)


def test_components_that_are_not_there_are_named():
    with pytest.raises(UserError, match="n is 28, needs at most the 27 numbers"):
        whitening_map([torch.randn(50, 3, 3, 3)], 28)
    with pytest.raises(UserError, match="parts: holds no images"):
        whitening_map([], 3)


def images(mean, deviation, dtype=torch.float32):
    draws = torch.randn(300, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    return (mean + deviation * draws).to(dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64])
def test_whitening_of_any_dtype_is_that_of_the_same_numbers_in_float64(dtype):
    x = images(120, 30, dtype)
    weight, bias = whitening_map(x.split(100), 12, eps=0.0)
    found = x.flatten(1).double() @ weight.double().T + bias.double()
    covariance = torch.cov(found.T, correction=0)
    torch.testing.assert_close(covariance, torch.eye(12).double(), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.mean(0), torch.zeros(12).double(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("eps", [0.0, 1e-2])
def test_a_large_mean_costs_no_digits(eps):
    x = images(1000, 1)
    weight, bias = (part.double() for part in whitening_map(x.split(100), 12, eps=eps))
    values = torch.linalg.eigvalsh(torch.cov(x.flatten(1).double().T, correction=0))
    expected = torch.diag(values / (values + eps)).flip(0, 1)
    covariance = torch.cov(weight @ x.flatten(1).double().T, correction=0)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-5)
    assert bias.isfinite().all()


def test_the_map_of_normalized_images_keeps_its_bits():
    """It is part of stored trainings: float32 products of what is not shifted."""
    x = images(0.2, 1).flatten(1)
    products = (x.T @ x).double() / len(x)
    mean = x.sum(0, dtype=torch.float64) / len(x)
    variances, directions = torch.linalg.eigh(products - torch.outer(mean, mean))
    rows = (directions / (variances + 1e-2).sqrt()).T.flip(0)[:5]
    weight, bias = whitening_map([images(0.2, 1)], 5)
    assert torch.equal(weight, rows.float())
    assert torch.equal(bias, -(rows @ mean).float())


def test_components_without_variance_and_what_is_not_finite_are_named():
    flat = torch.zeros(50, 1, 2, 2)
    flat[:, 0, 0, 0] = torch.arange(50.0)
    with pytest.raises(UserError, match="2 components, but the images vary in 1; needs fewer"):
        whitening_map([flat], 2, eps=0.0)
    assert whitening_map([flat], 2)[0].isfinite().all()
    with pytest.raises(UserError, match="parts: a value is not finite"):
        whitening_map([flat, flat / 0], 2)
