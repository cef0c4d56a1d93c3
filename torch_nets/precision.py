"""What changes a net wraps the model: its precision, its memory format, its evaluation."""

import fnmatch

import torch

from purenets.core.base import Model


def cast(model: Model, dtype: torch.dtype, keep: str = "*norm*") -> Model:
    """The model computed in `dtype`: params and inputs are cast on the way in, logits back to float32, so the
    params that are trained stay float32. Leaves whose names match `keep` are not cast."""

    def apply(params, buffers, x, *, train=False, key=None):
        params = {name: p if fnmatch.fnmatchcase(name, keep) else p.to(dtype) for name, p in params.items()}
        logits, buffers = model.apply(params, buffers, x.to(dtype), train=train, key=key)
        return logits.float(), buffers

    return model._replace(apply=apply)


def channels_last(model: Model) -> Model:
    """The model on images and weights whose channels lie next to each other in memory: the same numbers,
    faster convolutions on most hardware."""

    def apply(params, buffers, x, *, train=False, key=None):
        params = {
            name: p.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p
            for name, p in params.items()
        }
        x = x.contiguous(memory_format=torch.channels_last)
        return model.apply(params, buffers, x, train=train, key=key)

    return model._replace(apply=apply)


def mirror_averaged(model: Model) -> Model:
    """Test-time augmentation: in evaluation the mean of the logits of an image and of its mirror image."""

    def apply(params, buffers, x, *, train=False, key=None):
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        if train:
            return logits, new
        return (logits + model.apply(params, buffers, x.flip(3))[0]) / 2, new

    return model._replace(apply=apply)


def shift_averaged(model: Model) -> Model:
    """Test-time augmentation: in evaluation half the logits of an image and a quarter each of the image moved
    by one pixel up and left, and down and right."""

    def apply(params, buffers, x, *, train=False, key=None):
        logits, new = model.apply(params, buffers, x, train=train, key=key)
        if train:
            return logits, new
        rows, columns = x.shape[2:]
        wide = torch.nn.functional.pad(x.float(), (1, 1, 1, 1), mode="reflect").to(x.dtype)
        moved = (wide[:, :, i : i + rows, i : i + columns] for i in (0, 2))
        both = sum(model.apply(params, buffers, view)[0] for view in moved)
        return logits / 2 + both / 4, new

    return model._replace(apply=apply)
