"""What a layer costs by its shapes against what torch counts while it runs, and by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from purenets import Model, UserError, random, tree
from purenets.core.report.costs import Cost, total_cost
from purenets.core.report.tabulate import as_markdown, as_table, tabulate
from purenets.numpy_nets import cnn_numpy, mlp_numpy, rnn_numpy
from purenets.torch_nets import CNN, MLP, VanillaRNN, from_module, layers
from purenets.torch_nets.fast_cnn import FastCNN
from purenets.torch_nets.layers import convolutions, serial

KEY = torch.as_tensor(random.key(4))


def draw(*shape):
    return random.normal(KEY, shape, "float64")


def resnet18():
    return from_module(pytest.importorskip("torchvision.models").resnet18())


class Last(nn.Module):
    """The last output of a sequence module, and a linear layer."""

    def __init__(self, part, n):
        super().__init__()
        self.part, self.out = part, nn.Linear(n, 3)

    def forward(self, x):
        return self.out(self.part(x)[0][:, -1])


class Attention(nn.Module):
    """Attention of a sequence to another one, which is longer."""

    def __init__(self):
        super().__init__()
        self.mix, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.out(self.mix(x[:, :2], x, x, need_weights=False)[0])


NETS = {
    "mlp": (lambda: MLP(5, [8, 9], 3), lambda: draw(4, 5)),
    "vgg": (lambda: CNN(3, 4, width=0.1), lambda: draw(2, 3, 32, 32)),
    "rnn": (lambda: VanillaRNN(7, 2, 9, 2), lambda: draw(4, 7, 2)),
    "fast cnn": (
        lambda: FastCNN(3, 4, norm=lambda n, **_: layers.GroupNorm(n, groups=8)),
        lambda: draw(2, 3, 32, 32),
    ),
    "resnet18": (resnet18, lambda: draw(2, 3, 64, 64)),
    "lstm module": (
        lambda: from_module(Last(nn.LSTM(4, 5, num_layers=2, batch_first=True), 5)),
        lambda: draw(3, 6, 4),
    ),
    "attention module": (lambda: from_module(Attention()), lambda: draw(3, 5, 8)),
    "convolutions": (
        lambda: serial(
            one=layers.Conv(3, 4, 3, stride=2, padding=1), norm=layers.GroupNorm(4, groups=2),
            silu=layers.SiLU(), two=layers.Conv(4, 6, 3, dilation=2, bias=False),
            up=layers.ConvTranspose(6, 4, 3, stride=2), last=layers.BatchNorm(4),
        ),
        lambda: draw(2, 3, 17, 15),
    ),
    "up first": (lambda: layers.ConvTranspose(3, 4, 3, stride=2), lambda: draw(2, 3, 6, 5)),
    "sequences": (
        lambda: serial(one=layers.Conv1d(3, 4, 3, stride=2, padding=1),
                       two=layers.Conv1d(4, 4, 3)),
        lambda: draw(2, 3, 17),
    ),
    "lstm": (
        lambda: serial(lstm=layers.LSTM(4, 5, num_layers=2, bidirectional=True),
                       last=layers.LastStep(), fc=layers.Linear(10, 3)),
        lambda: draw(3, 6, 4),
    ),
    "gru": (
        lambda: serial(fc=layers.Linear(4, 4), gru=layers.GRU(4, 5), last=layers.LastStep()),
        lambda: draw(3, 6, 4),
    ),
    "transformer": (
        lambda: serial(embed=layers.Embedding(7, 8), block=layers.TransformerBlock(8, 2, 16),
                       norm=layers.RMSNorm(8), fc=layers.Linear(8, 2)),
        lambda: random.randint(KEY, (3, 5), 0, 7),
    ),
    "attention": (lambda: layers.MultiheadAttention(8, 2), lambda: draw(3, 5, 8)),
    "fixed filters": (
        lambda: serial(fixed=layers.FixedConv(torch.ones(4, 3, 2, 2)), gelu=layers.GELU(),
                       conv=layers.Conv(4, 5, 2)),
        lambda: draw(2, 3, 6, 6),
    ),
}  # fmt: skip


def leaves_of(model):
    own = hasattr(model.init, "float32_leaves")  # a module has values
    return [tree.cast(part, "float64") for part in model.init(None if own else KEY)]


def counted(model, params, buffers, x):
    """Return the operations of both passes as torch counts them; attention in plain products."""
    params = {name: p.detach().clone().requires_grad_() for name, p in params.items()}
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        y = model.apply(params, buffers, x)[0]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        torch.autograd.grad(y.square().sum(), [*params.values()], allow_unused=True)
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.fixture
def convolutions_by_windows(monkeypatch):
    """Those of at most 2 x 2 pixels leave out what would meet the padding only."""
    by_windows = lambda x, w, b: F.conv2d(x, w, b, padding=1)
    monkeypatch.setattr(convolutions, "_conv_of_few_pixels", by_windows)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on attention and recurrent layers
@pytest.mark.parametrize("name", NETS)
def test_operations_are_those_that_torch_counts(name, convolutions_by_windows):
    model, x = (make() for make in NETS[name])
    params, buffers = leaves_of(model)
    cost = total_cost([row.cost for row in tabulate(model, x, params, buffers)])
    assert (cost.forward_flops, cost.backward_flops) == counted(model, params, buffers, x)


def test_torch_counts_the_gradients_of_grouped_filters_as_if_of_one_group():
    model, x = layers.Conv(4, 6, 3, groups=2), draw(2, 4, 7, 7)
    params, buffers = leaves_of(model)
    (row,) = tabulate(model, x, params, buffers)
    forward, backward = counted(model, params, buffers, x)
    assert row.cost.forward_flops == row.cost.backward_flops == forward == 2 * 50 * 6 * 18
    assert backward == 2 * forward


def test_both_backends_cost_the_same():
    pairs = [
        (MLP(5, [8], 3), mlp_numpy.MLP(5, [8], 3), (4, 5)),
        (CNN(3, 4, width=0.1), cnn_numpy.CNN(3, 4, width=0.1), (2, 3, 32, 32)),
        (VanillaRNN(7, 2, 9, 2), rnn_numpy.VanillaRNN(7, 2, 9, 2), (4, 7, 2)),
    ]
    for ours, by_hand, shape in pairs:
        x = np.zeros(shape, np.float32)
        assert tabulate(ours, torch.tensor(x)) == tabulate(by_hand, x)


# --- bytes ----------------------------------------------------------------------------------------


class Touched(TorchDispatchMode):
    """The bytes of all arrays that products and convolutions read and write, each once."""

    PRODUCTS = ("mm", "addmm", "convolution", "convolution_backward", "sum")

    def __init__(self):
        super().__init__()
        self.sizes = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name == "convolution_backward" and not args[-1][0]:
            args = args[:2]  # without a gradient of its inputs it only asks for the filters' shape
        if name in self.PRODUCTS:
            for part in (*args, *(out if isinstance(out, tuple) else (out,))):
                if isinstance(part, torch.Tensor):
                    self.sizes[part.untyped_storage().data_ptr()] = part, part.nbytes
        return out

    def total(self):
        return sum(size for _, size in self.sizes.values())


@pytest.mark.parametrize("needs_dx", [False, True])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(layers.Linear(5, 7), (4, 5)), (layers.Conv(3, 4, 3, bias=False), (2, 3, 6, 6))],
)
def test_bytes_are_those_of_what_is_read_and_written(layer, shape, needs_dx):
    before = layers.BatchNorm(shape[1]) if needs_dx else layers.ReLU()
    net, x = serial(before=before, layer=layer), draw(*shape)
    params, buffers = leaves_of(net)
    cost = tabulate(net, x, params, buffers)[1].cost
    own = {name: p.requires_grad_() for name, p in tree.select(params, "layer.").items()}
    x.requires_grad_(needs_dx)
    with Touched() as forward:
        y = layer.apply(own, {}, x)[0]
    dy = torch.ones_like(y)
    with Touched() as backward:
        torch.autograd.grad(y, [*own.values(), *([x] if needs_dx else [])], dy)
    assert cost.forward_bytes == forward.total()
    unread = own["bias"].nbytes if needs_dx and "bias" in own else 0  # no gradient needs it
    assert cost.backward_bytes == backward.total() + unread


def test_an_embedding_reads_the_rows_of_its_tokens_only():
    model, x = layers.Embedding(100, 4), random.randint(KEY, (3, 5), 0, 100)
    (row,) = tabulate(model, x)
    tokens, rows, table = 15 * 8, 15 * 4 * 4, 100 * 4 * 4
    assert row.cost == Cost(0, 0, tokens + 2 * rows, tokens + rows + table)


# --- tables ---------------------------------------------------------------------------------------


def test_a_table_has_the_sums():
    rows = tabulate(MLP(2, [20], 3), torch.zeros(32, 2))
    table = as_table(rows, costs=True)
    assert table.rows[0][-4:] == ["FLOPs forward", "backward", "bytes forward", "backward"]
    first, relu, second = (row.cost for row in rows)
    assert first == Cost(2560, 2560, 256 + 240 + 2560, 2560 + 256 + 240)
    assert relu == Cost(0, 0, 2560 + 2560, 3 * 2560)
    assert second.backward_flops == 2 * second.forward_flops == 2 * 2 * 32 * 20 * 3
    sums = [f"{sum(column):,}" for column in zip(first, relu, second, strict=True)]
    assert table.rows[-1] == ["total", "", "", "", "123", *sums]
    assert as_markdown(rows, costs=True).count("2,560") == as_table(rows, costs=True).rows[1].count(
        "2,560"
    )


def test_what_shapes_do_not_tell_is_a_question_mark():
    init = lambda key: ({"a": torch.ones(2, 3), "b": torch.ones(3, 4)}, {})
    apply = lambda p, b, x, *, train=False, key=None: (x @ p["a"] @ p["b"], b)
    model = serial(fc=layers.Linear(2, 2), two=Model(init, apply, uses_key=False))
    rows = tabulate(model, torch.zeros(5, 2))
    assert rows[1].cost.forward_flops is None
    table = as_table(rows, costs=True).rows
    assert table[2][5:7] == ["?", "?"] and table[-1][5] == "40"
    with pytest.raises(UserError, match="costs is 1, needs True or False"):
        as_table(rows, costs=1)
