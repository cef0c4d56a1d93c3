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
    """x: (batch, n_channels, 32, 32) -> logits: (batch, n_classes); 9,231,114 params for 3 and 10.

    Other sizes of images work too: what the last pooling leaves is averaged.

    Args:
        n_channels: of the images.
        n_classes: of the logits.
        width: a factor of all channels.
        norm: the constructor of the normalization, from the number of channels.
        dirac: convolutions begin as the identity, as far as they can (see `layers.Conv`); by
            default all are drawn as PyTorch draws them.
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
        super().__init__(*with_leaves(CNN(n_channels, n_classes)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (batch, n_classes) of images x: (batch, n_channels, 32, 32)."""
        return super().forward(x)
