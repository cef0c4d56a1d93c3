import pytest
import torch
from torch import nn

from purenets import UserError, random, tree
from purenets.torch_nets.image_mlps import batch_norm_mlp, plain_mlp, residual_mlp, s_fc

NETS = {
    "plain": lambda: plain_mlp(27, (8, 6), 4),
    "batch_norm": lambda: batch_norm_mlp(27, (8, 6), 4, dropout=0.1),
    "residual": lambda: residual_mlp(27, 8, 2, 4, dropout=0.1),
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
        if name == "residual"
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
