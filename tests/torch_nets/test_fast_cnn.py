import math

import pytest
import torch
from torch import nn

from purenets import UserError, random, tree
from purenets.torch_nets import grad_fn
from purenets.torch_nets.fast_cnn import FastCNN, whitening_filters
from purenets.torch_nets.losses import cross_entropy


class Twin(nn.Module):
    """The same net as PyTorch users write it."""

    def __init__(self, n_in, widths, depth, n_classes):
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, n_in, 2), depth
        for i, n_out in enumerate(widths, start=1):
            group = nn.Module()
            group.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
            group.norm1 = nn.BatchNorm2d(n_out, eps=1e-12, momentum=0.4)
            last = group
            if depth == 3:
                last = group.branch = nn.Module()
            last.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
            last.norm2 = nn.BatchNorm2d(n_out, eps=1e-12, momentum=0.4)
            if depth == 3:
                last.conv3 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
                last.norm3 = nn.BatchNorm2d(n_out, eps=1e-12, momentum=0.4)
            setattr(self, f"group{i}", group)
            n_in = n_out
        self.fc = nn.Linear(n_in, n_classes, bias=False)

    def forward(self, x):
        def gelu(x):
            return nn.functional.gelu(x, approximate="tanh")

        x = gelu(self.first(x))
        for group in (self.group1, self.group2, self.group3):
            x = gelu(group.norm1(nn.functional.max_pool2d(group.conv1(x), 2)))
            if self.depth == 2:
                x = gelu(group.norm2(group.conv2(x)))
            else:
                branch = group.branch
                inner = gelu(branch.norm2(branch.conv2(x)))
                x = gelu(x + branch.norm3(branch.conv3(inner)))
        x = nn.functional.max_pool2d(x, 3).flatten(1)
        return self.fc(x) / x.shape[1]


@pytest.mark.parametrize("depth", [2, 3])
def test_equals_its_module_twin(depth):
    key = torch.as_tensor(random.key(0))
    x, y = random.normal(key, (16, 3, 32, 32), dtype="float64"), torch.arange(16) % 10
    filters = whitening_filters(x)
    model = FastCNN(3, 10, filters=filters, widths=(8, 12, 16), depth=depth)
    params, buffers = (
        {name: leaf.double() if leaf.is_floating_point() else leaf for name, leaf in part.items()}
        for part in model.init(random.key(1))
    )
    twin = Twin(len(filters), (8, 12, 16), depth, 10).double()
    missing, unknown = twin.load_state_dict({**params, **buffers}, strict=False)
    assert not unknown
    assert all(".norm" in name and name.endswith(".weight") for name in missing)  # ours are 1
    grads, (new_buffers, metrics) = grad_fn(model)(params, buffers, (x, y), key)
    loss = cross_entropy(twin(x), y)
    loss.backward()
    assert abs(loss.item() - metrics["loss"].item()) < 1e-12
    for name, g in grads.items():
        torch.testing.assert_close(g, twin.get_parameter(name).grad, rtol=1e-9, atol=1e-12)
    for name, b in new_buffers.items():
        torch.testing.assert_close(b, twin.state_dict()[name], rtol=1e-9, atol=1e-12)
    twin.eval()
    torch.testing.assert_close(
        model.apply(params, new_buffers, x)[0], twin(x), rtol=1e-9, atol=1e-12
    )


def test_the_fast_net_of_the_speed_runs_has_their_size():
    params, buffers = FastCNN(3, 10, filters=torch.zeros(24, 3, 2, 2)).init(random.key(0))
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    assert tree.size(params) == convolutions + 24 + 2 * (64 + 256 + 256) + 2560
    assert buffers["first.weight"].shape == (24, 3, 2, 2)


def test_whitened_patches_are_uncorrelated_with_variance_one():
    x = random.normal(torch.as_tensor(random.key(2)), (200, 3, 9, 9))
    x = x + x.roll(1, 3) + 0.5 * x.roll(1, 1)  # neighbors and colors go together
    filters = whitening_filters(x, size=2, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    torch.testing.assert_close(filters[12:], -filters[:12])
    y = nn.functional.conv2d(x, filters[:12]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(y @ y.T / y.shape[1], torch.eye(12), atol=1e-3, rtol=0)


def test_convolutions_begin_as_the_identity():
    params, _ = FastCNN(3, 10, widths=(32, 16, 64)).init(random.key(0))
    x = torch.randn(2, 24, 5, 5)
    y = nn.functional.conv2d(x, params["group1.conv1.weight"], padding=1)
    torch.testing.assert_close(y[:, :24], x)
    narrower = nn.functional.conv2d(
        torch.randn(2, 32, 5, 5), params["group2.conv1.weight"], padding=1
    )
    assert narrower.shape[1] == 16
    drawn, _ = FastCNN(3, 10, dirac=False).init(random.key(0))
    assert drawn["group1.conv1.weight"].abs().max() <= 1 / math.sqrt(24 * 9)


def test_without_a_bias_of_the_first_layer_nothing_before_the_groups_is_trained():
    filters = whitening_filters(torch.randn(50, 3, 9, 9))
    with_bias = FastCNN(3, 10, filters=filters, widths=(8, 8, 8))
    without = FastCNN(3, 10, filters=filters, widths=(8, 8, 8), first_bias=False)
    (params, buffers), (fewer, _) = (net.init(random.key(0)) for net in (with_bias, without))
    assert params.keys() - fewer.keys() == {"first.bias"}
    x = torch.randn(4, 3, 32, 32)
    batch = x, torch.arange(4)
    grads, _ = grad_fn(with_bias)(params, buffers, batch, None)  # the bias is 0 at the start
    fewer_grads, _ = grad_fn(without)(fewer, buffers, batch, None)
    for name, grad in fewer_grads.items():
        torch.testing.assert_close(grad, grads[name])


@pytest.mark.parametrize("size", [25, 26, 29, 32])
def test_images_of_several_sizes_go_through_the_same_net(size):
    net = FastCNN(3, 10, filters=torch.randn(24, 3, 2, 2), widths=(8, 8, 8))
    params, buffers = net.init(random.key(0))
    assert net.apply(params, buffers, torch.randn(2, 3, size, size))[0].shape == (2, 10)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16, torch.float64])
def test_filters_of_any_dtype_are_those_of_the_same_numbers(dtype):
    x = (120 + 30 * torch.randn(50, 3, 8, 8)).to(dtype)
    filters = whitening_filters(x, eps=0.0).double()[:12].flatten(1)
    patches = nn.functional.unfold(x.double(), 2).movedim(1, 2).flatten(0, 1)
    found = patches @ filters.T
    moments = found.T @ found / len(found)
    torch.testing.assert_close(moments, torch.eye(12).double(), rtol=0, atol=1e-4)


def test_filters_of_normalized_images_keep_their_bits():
    x = torch.randn(50, 3, 8, 8)
    patches = nn.functional.unfold(x, 2).movedim(1, 2).reshape(-1, 12)
    variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
    columns = directions / torch.sqrt(variances + 5e-4)
    assert torch.equal(whitening_filters(x)[:12].flatten(1), columns.T)


def test_images_that_cannot_be_whitened_are_named():
    with pytest.raises(
        UserError, match="eps is 0, but the numbers of a patch are linearly dependent"
    ):
        whitening_filters(torch.ones(5, 1, 4, 4), eps=0.0)
    with pytest.raises(UserError, match="x: a value is not finite"):
        whitening_filters(torch.full((5, 1, 4, 4), math.inf))
    with pytest.raises(UserError, match="x: needs a tensor of images"):
        whitening_filters(torch.ones(0, 1, 4, 4))
