"""The reduced VGG of the assignment, as two pure functions."""

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
) -> Model:
    """x: (batch, n_channels, 32, 32) -> logits: (batch, n_classes); 9,231,114 params for 3 and 10.

    Other sizes of images work too: what the last pooling leaves is averaged. width: a factor of all
    channels. norm: the constructor of the normalization, from the number of channels.
    """
    return layers.serial(**reduced_vgg(layers, n_channels, n_classes, width, norm))
