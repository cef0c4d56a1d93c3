"""The reduced VGG of the assignment in NumPy, with the backward pass by hand."""

from purenets.core.architectures import reduced_vgg
from purenets.numpy_nets.grad import NumpyModel, model_from_module
from purenets.numpy_nets.modules import serial


def CNN(n_channels: int, n_classes: int, *, width: float = 1.0) -> NumpyModel:
    """Return the reduced VGG of the assignment, with the backward pass by hand.

    It has 8 convolutions with BatchNorm and ReLU, 5 poolings and a linear layer: 9,231,114 params
    for 3 channels and 10 classes. The mean over pixels before the last layer allows images of any
    size; 32 x 32 pixels shrink to one.

    Args:
        n_channels: the channels of the images.
        n_classes: outputs.
        width: a factor of the channels of all convolutions.

    Returns:
        A model from x: (batch, n_channels, height, width) to logits: (batch, n_classes).

    Raises:
        UserError: a size is not a positive integer, or `width` is not positive.

    Example:
        >>> import numpy as np
        >>> from purenets import random
        >>> from purenets.numpy_nets import CNN
        >>> model = CNN(3, 10, width=0.1)
        >>> params, buffers = model.init(random.key(0))
        >>> logits, buffers = model.apply(params, buffers, np.zeros((2, 3, 32, 32), np.float32))
        >>> logits.shape, params["conv1.weight"].shape
        ((2, 10), (6, 3, 3, 3))

    Source:
        Simonyan and Zisserman 2015, arXiv 1409.1556, reduced as the assignment says.
    """
    from purenets.numpy_nets import image_modules  # it loads einops, which an MLP has no use for

    return model_from_module(serial(**reduced_vgg(image_modules, n_channels, n_classes, width)))
