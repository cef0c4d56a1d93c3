"""The table of a network: all parameters once, and rows that are right for layers of any kind."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from purenets import UserError, random
from purenets.core.report.tabulate import tabulate
from purenets.torch_nets import from_module

KEY = torch.as_tensor(random.key(0))
IDS = random.randint(KEY, (6, 3), 0, 10)


class Last(nn.Module):
    """The last output of a sequence module, and a linear layer."""

    def __init__(self, part):
        super().__init__()
        self.part, self.out = part, nn.Linear(8, 3)

    def forward(self, x):
        z = self.part(x)
        return self.out((z[0] if isinstance(z, tuple) else z)[:, -1])


class Tied(nn.Module):
    """An embedding that is the last layer too."""

    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, ids):
        return self.out(self.embedding(ids).mean(1))


def reused():
    layer = nn.Linear(4, 4)
    return nn.Sequential(layer, nn.ReLU(), layer)


NETS = {
    "lstm": lambda: (Last(nn.LSTM(4, 8, batch_first=True)), torch.zeros(6, 5, 4)),
    "encoder": lambda: (
        Last(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)),
        torch.zeros(6, 5, 8),
    ),
    "tied": lambda: (Tied(), IDS),
    "reused": lambda: (reused(), torch.zeros(6, 4)),
    "weight_norm": lambda: (nn.Sequential(weight_norm(nn.Linear(4, 6))), torch.zeros(6, 4)),
}


@pytest.mark.parametrize("name", NETS)
def test_total_of_the_table_is_the_number_of_parameters(name):
    module, x = NETS[name]()
    total = sum(row.params for row in tabulate(from_module(module), x))
    assert total == sum(p.numel() for p in module.parameters())


def row_of(layer, x):
    (row,) = tabulate(from_module(nn.Sequential(layer)), x)
    return row


def test_row_of_an_embedding():
    row = row_of(nn.Embedding(100, 5), torch.zeros(2, 7).long())
    assert (row.output, row.params) == ((2, 7, 5), 500)
    assert "(0 x" not in row.forward
    assert "(100 x 5)" in row.forward or " x " not in row.forward


def test_row_of_a_convolution_of_one_image():
    row = row_of(nn.Conv2d(3, 5, 3), torch.zeros(3, 8, 8))
    assert row.forward == "(36 x 27)(27 x 5) = (36 x 5)"


def test_row_of_a_convolution_of_a_batch():
    row = row_of(nn.Conv2d(3, 5, 3), torch.zeros(2, 3, 8, 8))
    assert row.forward == "(72 x 27)(27 x 5) = (72 x 5)"


def test_row_of_a_transposed_convolution():
    row = row_of(nn.ConvTranspose2d(3, 5, 3), torch.zeros(2, 3, 8, 8))
    assert (row.output, row.params) == ((2, 5, 10, 10), 140)
    assert " x " not in row.forward or row.forward == "(128 x 3)(3 x 45) = (128 x 45)"


def test_leaves_in_the_place_of_inputs_are_named():
    model = from_module(reused())
    with pytest.raises(UserError, match="tabulate: params is float32 of shape"):
        tabulate(model, model.init(None)[0], torch.zeros(6, 4))


def test_layer_without_outputs_has_a_row():
    with pytest.warns(UserWarning, match="zero-element"):  # of torch's own initialization
        module = nn.Sequential(nn.Linear(4, 0), nn.Linear(0, 2))
    rows = tabulate(from_module(module), torch.zeros(6, 4))
    assert [row.output for row in rows] == [(6, 0), (6, 2)]
    assert [row.params for row in rows] == [0, 2]
