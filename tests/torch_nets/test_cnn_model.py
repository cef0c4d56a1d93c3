"""The reduced VGG with convolutions that begin as the identity."""

import pytest
import torch

from purenets import random
from purenets.torch_nets import CNN


def test_with_dirac_each_convolution_lets_its_channels_pass_at_the_start():
    params, _ = CNN(3, 10, width=0.125, dirac=True).init(random.key(0))
    plain, _ = CNN(3, 10, width=0.125).init(random.key(0))
    for name, weight in params.items():
        if weight.ndim != 4:
            assert torch.equal(weight, plain[name])  # biases, norms and the last layer are drawn
            continue
        n_out, n_in = weight.shape[:2]
        x = torch.randn(2, n_in, 6, 6)
        kept = min(n_in, n_out)
        y = torch.nn.functional.conv2d(x, weight, padding=1)
        torch.testing.assert_close(y[:, :kept], x[:, :kept])
        assert torch.equal(weight[n_in:], plain[name][n_in:])  # the other filters are drawn too


@pytest.mark.parametrize("size", [16, 24, 32])
def test_images_of_several_sizes_go_through_the_same_net(size):
    net = CNN(3, 10, width=0.125)
    params, buffers = net.init(random.key(0))
    assert net.apply(params, buffers, torch.randn(2, 3, size, size))[0].shape == (2, 10)
