"""Test-time augmentation: models that average their logits over views of an image."""

import torch
from torch import Tensor

from purenets.core.arguments import ANY, expect_models, expect_numbers
from purenets.core.base import Model, UserError


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


def where_unsure(model: Model, averaged: Model, below: float) -> Model:
    """Test-time augmentation of few images: in evaluation the logits of `averaged` (such as
    `flip_averaged(model)`) for the images whose largest probability by `model` is less than
    `below`, those of `model` for all others. Which images that are depends on their values, so it
    runs in eager mode only."""
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
    """Which images of logits (batch, classes) have no class as probable as `below`, (batch,)."""
    expect_numbers("unsure", ANY, below=below)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or not logits.is_floating_point():
        raise UserError("unsure: logits: needs a tensor of real numbers (batch, classes)")
    return logits.softmax(dim=1).amax(dim=1) < below
