"""Test-time augmentation: models that average their logits over views of an image."""

import torch

from purenets.core.arguments import expect_models
from purenets.core.base import Model


def flip_averaged(model: Model) -> Model:
    """Test-time augmentation: in evaluation the mean of the logits of an image and of its mirror
    image.
    """
    expect_models("flip_averaged", model=model)

    def apply(params, buffers, x, *, train=False, key=None):
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        if train:
            return logits, new
        return (logits + model.apply(params, buffers, x.flip(3))[0]) / 2, new

    return model._replace(apply=apply, layers={})


def shift_averaged(model: Model) -> Model:
    """Test-time augmentation: in evaluation half the logits of an image and a quarter each of the
    image moved by one pixel up and left, and down and right."""
    expect_models("shift_averaged", model=model)

    def apply(params, buffers, x, *, train=False, key=None):
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        if train:
            return logits, new
        rows, columns = x.shape[2:]
        wide = torch.nn.functional.pad(x.float(), (1, 1, 1, 1), mode="reflect").to(x.dtype)
        moved = (wide[:, :, i : i + rows, i : i + columns] for i in (0, 2))
        both = sum(model.apply(params, buffers, view)[0] for view in moved)
        return logits / 2 + both / 4, new

    return model._replace(apply=apply, layers={})
