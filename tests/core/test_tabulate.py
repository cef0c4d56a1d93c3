"""Rows of networks in both backends and of modules, against their known shapes, and each other."""

import re

import numpy as np
import pytest
import torch
from torch import nn

from purenets import Model, random
from purenets.core.report.document import Document, Section
from purenets.core.report.html import to_html
from purenets.core.report.tabulate import as_markdown, as_table, as_text, tabulate
from purenets.numpy_nets import cnn_numpy, mlp_numpy, rnn_numpy
from purenets.torch_nets import cnn_model, from_module, pytorch_mlp, vanilla_rnn
from purenets.torch_nets.layers import FixedConv, Linear, ReLU, residual, serial
from purenets.torch_nets.precision import cast


@pytest.mark.parametrize(
    ("backend", "x"),
    [(mlp_numpy, np.zeros((32, 2), np.float32)), (pytorch_mlp, torch.zeros(32, 2))],
)
def test_an_mlp_by_hand(backend, x):
    rows = tabulate(backend.MLP(2, [20], 3), x)
    first = ("fc1", "Linear", (32, 2), (32, 20), 60, "(32 x 2)(2 x 20) = (32 x 20)")
    backward = "dx = (32 x 20)(20 x 2), dW = (20 x 32)(32 x 2)"
    flops, x_bytes, params, y_bytes = 2 * 32 * 2 * 20, 32 * 2 * 4, 60 * 4, 32 * 20 * 4
    forward_bytes, backward_bytes = x_bytes + params + y_bytes, y_bytes + x_bytes + params
    assert rows[0] == (*first, backward, (flops, flops, forward_bytes, backward_bytes))
    assert rows[1][:5] == ("relu1", "ReLU", (32, 20), (32, 20), 0)
    assert rows[2][:5] == ("fc2", "Linear", (32, 20), (32, 3), 63)


def test_filters_that_are_not_trained_multiply_and_have_no_gradient():
    model = serial(first=FixedConv(torch.ones(6, 3, 2, 2)))
    (row,) = tabulate(model, torch.zeros(5, 3, 4, 4))
    assert row[:5] == ("first", "FixedConv 2x2", (5, 3, 4, 4), (5, 6, 3, 3), 6)
    assert row[5:7] == ("(45 x 12)(12 x 6) = (45 x 6)", "dx = (45 x 6)(6 x 12)")
    assert row.cost[:2] == (2 * 45 * 12 * 6, 0)  # of the first layer there is no dx


def test_both_backends_have_the_same_cnn():
    images = np.zeros((2, 3, 32, 32), np.float32)
    mine = tabulate(cnn_model.CNN(3, 10), torch.tensor(images))
    by_hand = tabulate(cnn_numpy.CNN(3, 10), images)
    assert mine == by_hand
    assert sum(row.params for row in mine) == 9_231_114
    conv = mine[0]
    assert conv[:5] == ("conv1", "Conv 3x3", (2, 3, 32, 32), (2, 64, 32, 32), 1792)
    assert conv.forward == "(2048 x 27)(27 x 64) = (2048 x 64)"
    assert conv.backward == "dx = (2048 x 64)(64 x 27), dW = (64 x 2048)(2048 x 27)"
    pools = [row.output[2:] for row in mine if row.operation == "MaxPool"]
    assert pools == [(16, 16), (8, 8), (4, 4), (2, 2), (1, 1)]
    assert mine[-2].operation == "GlobalAvgPool"


@pytest.mark.parametrize(
    ("backend", "x"),
    [(rnn_numpy, np.zeros((4, 9, 1), np.float32)), (vanilla_rnn, torch.zeros(4, 9, 1))],
)
def test_a_recurrent_net_has_a_row_for_each_matrix(backend, x):
    rows = {row.name: row for row in tabulate(backend.VanillaRNN(9, 1, 128, 10), x)}
    assert sum(row.params for row in rows.values()) == 17_930
    assert rows["W_hh"].operation == "VanillaRNN"
    assert rows["W_hh"].forward == "(4 x 128)(128 x 128) = (4 x 128)"
    assert rows["W_ph"].backward == "dx = (4 x 10)(10 x 128), dW = (10 x 4)(4 x 128)"


def test_modules_have_the_rows_of_their_twin():
    module = nn.Sequential(nn.Linear(2, 20), nn.ReLU(), nn.Linear(20, 3))
    rows = tabulate(from_module(module), torch.zeros(32, 2))
    twin = tabulate(pytorch_mlp.MLP(2, [20], 3), torch.zeros(32, 2))
    assert [row[1:] for row in rows] == [row[1:] for row in twin]
    assert [row.name for row in rows] == ["0", "1", "2"]
    handles = (
        torch.nn.modules.module._global_forward_hooks,
        torch.nn.modules.module._global_forward_pre_hooks,
    )
    assert not any(handles)


def test_a_grouped_convolution_is_a_product_for_each_group():
    module = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8))
    conv, norm = tabulate(from_module(module), torch.zeros(5, 4, 6, 6))
    assert conv.forward == "2 times (80 x 18)(18 x 4) = (80 x 4)"
    assert norm.params == 16


def test_resnet18_has_its_known_size():
    resnet18 = pytest.importorskip("torchvision.models").resnet18
    module = resnet18()
    rows = tabulate(from_module(module), torch.zeros(1, 3, 64, 64))
    assert (
        sum(row.params for row in rows) == sum(p.numel() for p in module.parameters()) == 11_689_512
    )
    assert rows[0][:4] == ("conv1", "Conv2d 7x7", (1, 3, 64, 64), (1, 64, 32, 32))
    assert "layer4.1.conv2" in {row.name for row in rows}


def test_nested_rows_have_their_path():
    model = serial(body=serial(fc1=Linear(2, 3), relu=ReLU()), head=Linear(3, 2))
    names = [row.name for row in tabulate(model, torch.zeros(4, 2))]
    assert names == ["body.fc1", "body.relu", "head"]


def test_given_params_are_used_and_kept():
    model = mlp_numpy.MLP(2, [4], 2)
    params, _ = model.init(random.key(5))
    before = {name: p.copy() for name, p in params.items()}
    assert tabulate(model, np.zeros((3, 2)), params) == tabulate(model, np.zeros((3, 2)))
    assert all(np.array_equal(params[name], before[name]) for name in params)


def test_three_forms_show_the_same_cells():
    rows = tabulate(pytorch_mlp.MLP(2, [20], 3), torch.zeros(32, 2))
    table = as_table(rows)
    assert table.rows[-1][4] == "123"
    markdown = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in as_markdown(rows).splitlines()
    ]
    assert [markdown[0], *markdown[2:]] == table.rows
    text, html = as_text(rows), to_html(Document("An MLP", [Section("Layers", [table])]))
    for line in table.rows:
        assert all(cell in text and cell in html for cell in line)
    assert len(re.findall("<tr>", html)) == len(table.rows)
    assert "<title>An MLP</title>" in html


def test_a_failing_net_leaves_no_hook():
    with pytest.raises(ValueError, match="fc1"):
        tabulate(pytorch_mlp.MLP(2, [20], 3), torch.zeros(32, 5))
    handles = (
        torch.nn.modules.module._global_forward_hooks,
        torch.nn.modules.module._global_forward_pre_hooks,
    )
    assert not any(handles)


def gated(f, kind: str = "") -> Model:
    """A layer of a user's own: x f(w x), which holds another function."""

    def apply(params, buffers, x, *, train=False, key=None):
        return x * f(params["w"] * x), buffers

    return Model(lambda key: ({"w": torch.ones(3)}, {}), apply, uses_key=False, kind=kind)


def test_a_layer_of_ones_own_has_the_kind_that_it_gives():
    model = serial(fc=Linear(2, 3), gate=gated(torch.sigmoid, "Gated"), other=gated(torch.tanh))
    rows = tabulate(model, torch.zeros(4, 2))
    assert [row.operation for row in rows] == ["Linear", "Gated", "custom"]
    assert [row.params for row in rows] == [9, 3, 3]


def test_a_wrapper_that_replaces_apply_describes_no_other_net():
    model = cast(pytorch_mlp.MLP(2, [20], 3), torch.bfloat16)
    assert model.layers == {}
    assert sum(row.params for row in tabulate(model, torch.zeros(4, 2))) == 123


def test_inside_a_residual_branch_each_layer_sees_its_own_input():
    model = serial(block=residual(fc1=Linear(3, 5), fc2=Linear(5, 3)), head=Linear(3, 2))
    rows = tabulate(model, torch.zeros(4, 3))
    assert [row.name for row in rows] == ["block.fc1", "block.fc2", "head"]
    assert [row.output for row in rows] == [(4, 5), (4, 3), (4, 2)]


def test_a_module_inside_of_a_net_of_ours_has_its_rows():
    model = serial(body=from_module(nn.Sequential(nn.Linear(2, 3), nn.Tanh())), head=Linear(3, 2))
    names = [(row.name, row.operation, row.params) for row in tabulate(model, torch.zeros(4, 2))]
    assert names == [("body.0", "Linear", 9), ("body.1", "Tanh", 0), ("head", "Linear", 8)]
