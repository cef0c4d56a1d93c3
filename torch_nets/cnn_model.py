"""The reduced VGG of the assignment, as two pure functions."""

import functools
from collections.abc import Callable

from purenets.core.architectures import reduced_vgg
from purenets.core.base import Model
from purenets.torch_nets import layers


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
