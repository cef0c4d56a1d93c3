"""Our nets as PyTorch users write them: nn.Modules whose state_dict has our names."""

from torch import nn

from purenets.core.architectures import VGG


def reduced_vgg(width: float = 1.0, n_channels: int = 3, n_classes: int = 10) -> nn.Sequential:
    """The reduced VGG: (batch, n_channels, height, width) -> (batch, n_classes)."""
    module, convolutions, pools, channels = nn.Sequential(), 0, 0, n_channels
    for what in VGG:
        if what == "pool":
            pools += 1
            module.add_module(f"pool{pools}", nn.MaxPool2d(3, 2, 1))
            continue
        convolutions += 1
        more = round(what * width)
        module.add_module(f"conv{convolutions}", nn.Conv2d(channels, more, 3, padding=1))
        module.add_module(f"norm{convolutions}", nn.BatchNorm2d(more))
        module.add_module(f"relu{convolutions}", nn.ReLU())
        channels = more
    module.add_module("mean", nn.AdaptiveAvgPool2d(1))
    module.add_module("flatten", nn.Flatten())
    module.add_module("fc", nn.Linear(channels, n_classes))
    return module
