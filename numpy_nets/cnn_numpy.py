"""The reduced VGG of the assignment in NumPy, with the backward pass by hand."""

from purenets.core.architectures import reduced_vgg
from purenets.numpy_nets.grad import NumpyModel, model_from_module
from purenets.numpy_nets.modules import serial


def CNN(n_channels: int, n_classes: int, *, width: float = 1.0) -> NumpyModel:
    """x: (batch, n_channels, 32, 32) -> logits: (batch, n_classes); 9,231,114 params for 3 and 10.

    Other sizes of images work too: what the last pooling leaves is averaged. width: a factor of all
    channels.
    """
    from purenets.numpy_nets import image_modules  # it loads einops, which an MLP has no use for

    return model_from_module(serial(**reduced_vgg(image_modules, n_channels, n_classes, width)))
