"""The count of operations: that of the products by hand, in float32 by oneDNN too."""

import pytest
import torch

from benchmarks.flops import flops
from purenets import random
from purenets.torch_nets import CNN, grad_fn, layers
from purenets.torch_nets.precision import cast

BATCH, N_IN, N_OUT = 64, 512, 1024  # large enough for an operation of ours


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_linear_layer_takes_two_products_forward_and_backward(dtype):
    net = layers.serial(one=layers.Linear(N_IN, N_OUT), two=layers.Linear(N_OUT, N_OUT))
    net = net if dtype == torch.float32 else cast(net, dtype)
    params, buffers = net.init(random.key(0))
    batch = torch.randn(BATCH, N_IN), torch.zeros(BATCH, dtype=torch.int64)
    first, second = (2 * BATCH * n * N_OUT for n in (N_IN, N_OUT))
    found = flops(lambda: grad_fn(net)(params, buffers, batch, None))
    assert found == 2 * first + 3 * second  # the images have no gradient


def test_the_reduced_vgg_takes_what_its_shapes_say():
    shapes = [(3, 64, 32), (64, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4)]
    shapes += [(512, 512, 4)]
    pixels = [2 * 9 * n_in * n_out * size**2 for n_in, n_out, size in shapes]
    few = 2 * 2 * (4 * 4) * 512 * 512  # on 2 x 2 pixels each sees the 4 there are
    model = CNN(3, 10)
    params, buffers = model.init(random.key(0))
    x = torch.randn(2, 3, 32, 32)
    found = flops(lambda: model.apply(params, buffers, x))
    assert found == 2 * (sum(pixels) + few + 2 * 512 * 10)
