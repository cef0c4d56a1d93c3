"""The total of a table is the number of parameters: all layers of torch.nn, and models of
torchvision.
"""

import inspect

import pytest
import torch
import torchvision
from torch import nn

from purenets.core.report.tabulate import tabulate
from purenets.torch_nets import from_module

LINE, IMAGE, CUBE = torch.zeros(2, 4, 8), torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, 8, 8)
ROWS, SEQUENCE, IDS = torch.zeros(2, 4), torch.zeros(2, 5, 4), torch.zeros(2, 3).long()

# By name: what the constructor takes, and the inputs; None: is not called by itself
LAYERS = {
    "AdaptiveAvgPool1d": ((2,), LINE),
    "AdaptiveAvgPool2d": ((2,), IMAGE),
    "AdaptiveAvgPool3d": ((2,), CUBE),
    "AdaptiveLogSoftmaxWithLoss": ((4, 9, [3, 6], 2.0), (ROWS, torch.tensor([0, 8]))),
    "AdaptiveMaxPool1d": ((2,), LINE),
    "AdaptiveMaxPool2d": ((2,), IMAGE),
    "AdaptiveMaxPool3d": ((2,), CUBE),
    "AvgPool1d": ((2,), LINE),
    "AvgPool2d": ((2,), IMAGE),
    "AvgPool3d": ((2,), CUBE),
    "BatchNorm1d": ((4,), LINE),
    "BatchNorm2d": ((4,), IMAGE),
    "BatchNorm3d": ((4,), CUBE),
    "Bilinear": ((4, 4, 3), (ROWS, ROWS)),
    "ChannelShuffle": ((2,), IMAGE),
    "CircularPad1d": ((1,), LINE),
    "CircularPad2d": ((1,), IMAGE),
    "CircularPad3d": ((1,), CUBE),
    "ConstantPad1d": ((1, 0.0), LINE),
    "ConstantPad2d": ((1, 0.0), IMAGE),
    "ConstantPad3d": ((1, 0.0), CUBE),
    "Container": None,
    "Conv1d": ((4, 6, 3), LINE),
    "Conv2d": ((4, 6, 3), IMAGE),
    "Conv3d": ((4, 6, 3), CUBE),
    "ConvTranspose1d": ((4, 6, 3), LINE),
    "ConvTranspose2d": ((4, 6, 3), IMAGE),
    "ConvTranspose3d": ((4, 6, 3), CUBE),
    "CosineSimilarity": ((), (ROWS, ROWS)),
    "CrossMapLRN2d": ((2,), IMAGE),
    "DataParallel": None,  # on a GPU only
    "Dropout1d": ((), LINE),
    "Embedding": ((10, 4), IDS),
    "EmbeddingBag": ((10, 4), IDS),
    "Fold": (((8, 8), 2), torch.zeros(2, 4, 49)),
    "FractionalMaxPool2d": None,  # draws in evaluation too
    "FractionalMaxPool3d": None,
    "GLU": ((), ROWS),
    "GRU": ((4, 6, 2), SEQUENCE),
    "GRUCell": ((4, 6), ROWS),
    "GroupNorm": ((2, 4), IMAGE),
    "InstanceNorm1d": ((4, 1e-5, 0.1, True), LINE),
    "InstanceNorm2d": ((4, 1e-5, 0.1, True), IMAGE),
    "InstanceNorm3d": ((4, 1e-5, 0.1, True), CUBE),
    "LPPool1d": ((2, 2), LINE),
    "LPPool2d": ((2, 2), IMAGE),
    "LPPool3d": ((2, 2), CUBE),
    "LogSoftmax": ((1,), ROWS),
    "LSTM": ((4, 6, 2), SEQUENCE),
    "LSTMCell": ((4, 6), ROWS),
    "LayerNorm": ((4,), ROWS),
    "Linear": ((4, 6), ROWS),
    "LinearCrossEntropyLoss": ((4, 9), (ROWS, torch.tensor([0, 8]))),
    "LocalResponseNorm": ((2,), IMAGE),
    "MaxPool1d": ((2,), LINE),
    "MaxPool2d": ((2,), IMAGE),
    "MaxPool3d": ((2,), CUBE),
    "MaxUnpool1d": ((2,), (torch.zeros(1, 4, 2), torch.tensor([[[0, 2]] * 4]))),
    "MaxUnpool2d": ((2,), (torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1).long())),
    "MaxUnpool3d": ((2,), (torch.zeros(1, 1, 1, 1, 1), torch.zeros(1, 1, 1, 1, 1).long())),
    "Module": None,
    "ModuleDict": None,
    "ModuleList": None,
    "MultiheadAttention": ((4, 2), (SEQUENCE, SEQUENCE, SEQUENCE)),
    "PReLU": ((4,), ROWS),
    "PairwiseDistance": ((), (ROWS, ROWS)),
    "ParameterDict": None,
    "ParameterList": None,
    "PixelShuffle": ((2,), IMAGE),
    "PixelUnshuffle": ((2,), IMAGE),
    "RMSNorm": ((4,), ROWS),
    "RNN": ((4, 6, 2), SEQUENCE),
    "RNNBase": None,
    "RNNCell": ((4, 6), ROWS),
    "RNNCellBase": None,
    "ReflectionPad1d": ((1,), LINE),
    "ReflectionPad2d": ((1,), IMAGE),
    "ReflectionPad3d": ((1,), CUBE),
    "ReplicationPad1d": ((1,), LINE),
    "ReplicationPad2d": ((1,), IMAGE),
    "ReplicationPad3d": ((1,), CUBE),
    "Sequential": ((nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), ROWS),
    "Softmax": ((1,), ROWS),
    "Softmax2d": ((), IMAGE),
    "Softmin": ((1,), ROWS),
    "SyncBatchNorm": None,  # on a GPU only
    "Threshold": ((0.0, 0.0), ROWS),
    "Transformer": ((4, 2, 1, 1, 8, 0.0), (SEQUENCE, SEQUENCE)),
    "TransformerDecoder": (
        (nn.TransformerDecoderLayer(4, 2, 8, 0.0), 2),
        (SEQUENCE, SEQUENCE),
    ),
    "TransformerDecoderLayer": ((4, 2, 8, 0.0), (SEQUENCE, SEQUENCE)),
    "TransformerEncoder": ((nn.TransformerEncoderLayer(4, 2, 8, 0.0), 2, None, False), SEQUENCE),
    "TransformerEncoderLayer": ((4, 2, 8, 0.0), SEQUENCE),
    "Unflatten": ((1, (2, 2)), ROWS),
    "Unfold": ((2,), IMAGE),
    "Upsample": ((None, 2), IMAGE),
    "UpsamplingBilinear2d": ((None, 2), IMAGE),
    "UpsamplingNearest2d": ((None, 2), IMAGE),
    "ZeroPad1d": ((1,), LINE),
    "ZeroPad2d": ((1,), IMAGE),
    "ZeroPad3d": ((1,), CUBE),
}
ALL = [
    name
    for name, value in vars(nn).items()
    if inspect.isclass(value) and issubclass(value, nn.Module)
]
LOSSES_AND_LAZY = [
    name for name in ALL if (("Loss" in name) and name not in LAYERS) or "Lazy" in name
]
CALLED = [name for name in ALL if name not in LOSSES_AND_LAZY and LAYERS.get(name, ()) is not None]


def total(module, x) -> int:
    return sum(row.params for row in tabulate(from_module(module), x))


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("name", CALLED)
def test_total_of_each_layer_of_torch(name):
    arguments, x = LAYERS.get(name, ((), IMAGE))  # most activations take nothing, and any shape
    module = getattr(nn, name)(*arguments)
    assert total(module, x) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("frozen", [False, True])
def test_total_counts_what_is_trained(frozen):
    module = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    module[0].requires_grad_(not frozen)
    assert total(module, ROWS) == (14 if frozen else 44)


MODELS = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_b0",
    "googlenet",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "regnet_y_400mf",
    "resnet18",
    "resnext50_32x4d",
    "shufflenet_v2_x0_5",
    "squeezenet1_0",
    "swin_t",
    "vit_b_16",
)
OPTIONS = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "vit_b_16": {"image_size": 32},
}


@pytest.mark.parametrize("name", MODELS)
def test_total_of_a_model_of_torchvision(name):
    module = getattr(torchvision.models, name)(num_classes=10, **OPTIONS.get(name, {}))
    size = 32 if name == "vit_b_16" else 64
    expected = sum(p.numel() for p in module.parameters())
    assert total(module, torch.zeros(1, 3, size, size)) == expected
