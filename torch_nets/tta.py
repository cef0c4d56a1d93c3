"""Test-time augmentation: models that average their logits over views of an image."""

import torch
from torch import Tensor

from purenets.core.arguments import ANY, expect_models, expect_numbers
from purenets.core.arrays import widened
from purenets.core.base import Model, UserError
from purenets.torch_nets.augment import expect_images


def flip_averaged(model: Model) -> Model:
    """Return a model that averages its logits over an image and its mirror image, in evaluation.

    In training it is the model itself.

    Args:
        model: a model of images (batch, C, H, W).

    Returns:
        A model with the same params; evaluation takes twice the time.

    Raises:
        UserError: `model` is not a model.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.tta import flip_averaged
        >>> left = layers.elementwise(lambda x: x[:, 0, 0, :1])  # reads the first pixel
        >>> x = torch.tensor([[[[1.0, 3.0]]]])
        >>> flip_averaged(left).apply({}, {}, x)[0]
        tensor([[2.]])
    """
    expect_models("flip_averaged", model=model)

    def apply(params, buffers, x, *, train=False, key=None):
        expect_images("flip_averaged", x)
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        if train:
            return logits, new
        mean = (widened(logits) + model.apply(params, buffers, x.flip(3))[0]) / 2
        return mean.to(logits.dtype), new

    return model._replace(apply=apply, layers={})


def shift_averaged(model: Model) -> Model:
    """Return a model that averages its logits over an image and two shifts of it, in evaluation.

    The image has a weight of 1/2; its shifts by one pixel up and left, and down and right, have 1/4
    each. In training it is the model itself.

    Args:
        model: a model of images (batch, C, H, W).

    Returns:
        A model with the same params; evaluation takes three times as long.

    Raises:
        UserError: `model` is not a model.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.tta import shift_averaged
        >>> first = layers.elementwise(lambda x: x[:, 0, 0, :1])  # reads the first pixel
        >>> x = torch.tensor([[[[0.0, 0.0], [0.0, 4.0]]]])  # its reflection comes in
        >>> shift_averaged(first).apply({}, {}, x)[0]
        tensor([[2.]])
    """
    expect_models("shift_averaged", model=model)

    def apply(params, buffers, x, *, train=False, key=None):
        expect_images("shift_averaged", x)
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        if train:
            return logits, new
        rows, columns = x.shape[2:]
        if min(rows, columns) < 2:
            raise UserError(f"shift_averaged: images of {rows} x {columns} pixels, needs 2 or more")
        wide = x if x.is_floating_point() else x.double()
        wide = torch.nn.functional.pad(wide, (1, 1, 1, 1), mode="reflect").to(x.dtype)
        moved = (wide[:, :, i : i + rows, i : i + columns] for i in (0, 2))
        both = sum(widened(model.apply(params, buffers, view)[0]) for view in moved)
        return (widened(logits) / 2 + both / 4).to(logits.dtype), new

    return model._replace(apply=apply, layers={})


def where_unsure(model: Model, averaged: Model, below: float) -> Model:
    """Return a model that asks a slower one about the images it is unsure of, in evaluation.

    Which images these are depends on values, so it runs in eager mode only.

    Args:
        model: the model.
        averaged: a model of the same params, such as `flip_averaged(model)`.
        below: an image is unsure if its largest class probability is below this.

    Returns:
        A model with the same params.

    Raises:
        UserError: an argument is wrong.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import layers
        >>> from purenets.torch_nets.tta import where_unsure
        >>> model, averaged = layers.Scale(1.0), layers.Scale(10.0)
        >>> logits = torch.tensor([[0.1, 0.0], [5.0, 0.0]])  # probabilities 0.52 and 0.99
        >>> where_unsure(model, averaged, below=0.9).apply({}, {}, logits)[0]
        tensor([[1., 0.],
                [5., 0.]])
    """
    expect_models("where_unsure", model=model, averaged=averaged)
    expect_numbers("where_unsure", ANY, below=below)

    def apply(params, buffers, x, *, train=False, key=None):
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        rows = () if train else unsure(logits, below).nonzero()[:, 0]
        if len(rows) == 0:
            return logits, new
        return logits.index_copy(0, rows, averaged.apply(params, buffers, x[rows])[0]), new

    return model._replace(apply=apply, layers={})


def unsure(logits: Tensor, below: float) -> Tensor:
    """Return which images have no class of at least a given probability.

    Args:
        logits: (batch, classes).
        below: that probability.

    Returns:
        Booleans (batch,), True for an image whose largest probability is below it.

    Raises:
        UserError: `logits` is not a floating-point tensor of two axes.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.tta import unsure
        >>> unsure(torch.tensor([[0.1, 0.0], [5.0, 0.0]]), below=0.9)
        tensor([ True, False])
    """
    expect_numbers("unsure", ANY, below=below)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise UserError("unsure: logits: needs a tensor of real numbers (batch, classes)")
    return widened(logits).softmax(dim=1).amax(dim=1) < below
