"""The reduced VGG of the assignment, as two pure functions and as a module."""

import functools
from collections.abc import Callable

from torch import Tensor

from purenets.core.architectures import reduced_vgg
from purenets.core.base import Model
from purenets.torch_nets import layers
from purenets.torch_nets.to_module import Net, with_leaves


def CNN(
    n_channels: int,
    n_classes: int,
    *,
    width: float = 1.0,
    norm: Callable[[int], Model] = layers.BatchNorm,
    dirac: bool = False,
) -> Model:
    """Return the reduced VGG of the assignment: eight convolutions and a linear layer.

    With 3 channels and 10 classes it has 9,231,114 params. Images of other sizes than 32 x 32 work
    too: what the last pooling leaves is averaged.

    Args:
        n_channels: channels of the images.
        n_classes: classes, one logit each.
        width: a factor for the number of channels of all layers.
        norm: the constructor of the normalization, from the number of channels to a layer.
        dirac: True to let convolutions begin as the identity, as far as they can (see
            `layers.Conv`); False to draw all filters as PyTorch does.

    Returns:
        A model, images (batch, n_channels, 32, 32) -> logits (batch, n_classes).

    Raises:
        UserError: a size or the width is not positive.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import CNN
        >>> model = CNN(3, 10, width=0.125)
        >>> params, buffers = model.init(random.key(0))
        >>> logits, _ = model.apply(params, buffers, torch.zeros(2, 3, 32, 32))
        >>> logits.shape
        torch.Size([2, 10])

    Source:
        Simonyan and Zisserman 2015, arXiv 1409.1556.
    """
    conv = functools.partial(layers.Conv, dirac=dirac)
    return layers.serial(**reduced_vgg(layers, n_channels, n_classes, width, norm, conv))


class CNNModule(Net):
    """The reduced VGG as a torch.nn.Module, called as the assignment's skeleton calls it.

    It computes what `CNN` does, by `to_module`. Its params are drawn from torch's generator, as
    PyTorch draws those of convolutions and linear layers; `train()` and `eval()` switch BatchNorm.

    Args:
        n_channels: of the images.
        n_classes: of the logits.

    Example:
        >>> import torch
        >>> model = CNNModule(3, 10).eval()
        >>> sum(param.numel() for param in model.parameters())
        9231114
        >>> model(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    def __init__(self, n_channels: int, n_classes: int):
        make = functools.partial(CNN, n_channels, n_classes)
        super().__init__(*with_leaves(make()), make)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (batch, n_classes) of images x: (batch, n_channels, 32, 32)."""
        return super().forward(x)
