"""Augmentation of whole batches as pure functions of a key, the same on CPU and GPU.

    f(key, x: (batch, C, H, W)) -> x of the same shape and dtype

`augmented(grad_fn, f)` wraps a gradient function, so that a step draws anew for every batch;
`chain` puts functions in a row, each with a key of its own. All of it runs under torch.compile.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

from purenets.core import random
from purenets.core.arguments import (
    NOT_NEGATIVE,
    PART,
    expect_functions,
    expect_integers,
    expect_numbers,
    expect_reals,
)
from purenets.core.base import Batch, GradFn, UserError
from purenets.core.batch import count_examples
from purenets.core.data.sampling import batches

Augmentation = Callable[[Tensor, Tensor], Tensor]
TRIES = 40


def augmented(grad_fn: GradFn, f: Augmentation) -> GradFn:
    """`grad_fn` on augmented inputs; it gets a key of its own."""
    expect_functions("augmented", grad_fn=grad_fn, f=f)

    def wrapped(params, buffers, batch, key):
        x, y = batch
        return grad_fn(params, buffers, (f(random.fold_in(key, 0), x), y), random.fold_in(key, 1))

    return wrapped


def with_input_transform(grad_fn: GradFn, f: Callable[[Tensor], Tensor]) -> GradFn:
    """`grad_fn` on inputs that `f` maps, such as a normalization."""
    expect_functions("with_input_transform", grad_fn=grad_fn, f=f)
    return lambda params, buffers, batch, key: grad_fn(
        params, buffers, (f(batch[0]), batch[1]), key
    )


def chain(*functions: Augmentation) -> Augmentation:
    """One augmentation after the other."""
    expect_functions("chain", **{f"functions[{i}]": f for i, f in enumerate(functions)})

    def f(key, x):
        for i, function in enumerate(functions):
            x = function(random.fold_in(key, i), x)
        return x

    return f


def flip(key: Tensor, x: Tensor) -> Tensor:
    """Each image mirrored with probability 1/2."""
    _expect_images("flip", x)
    return mirrored(x, random.bernoulli(key, 0.5, x.shape[:1]))


def mirrored(x: Tensor, which: Tensor) -> Tensor:
    """Return x with the images of `which` (batch,) bool mirrored."""
    _expect_images("mirrored", x)
    if not isinstance(which, Tensor) or which.dtype != torch.bool or which.shape != x.shape[:1]:
        raise UserError(f"mirrored: which: needs truth values ({x.shape[0]},), one an image")
    return torch.where(rearrange(which, "b -> b 1 1 1"), x.flip(3), x)


def augmented_batches(batches: Callable[[int], Batch], f: Augmentation, key) -> Callable:
    """`batches` of augmented inputs, a function of the step alone: whoever asks for a batch sees
    the same images, as `augmented` cannot show them to two gradient functions."""
    expect_functions("augmented_batches", batches=batches, f=f)
    key = torch.as_tensor(random.check_key(key))

    def batch_at(step: int) -> Batch:
        x, y = batches(step)
        return f(random.fold_in(key, step).to(x.device), x), y

    return batch_at


def alternating_flips(key, n: int, epoch: int) -> Tensor:
    """Which of n images to mirror in an epoch: each in every other epoch, half of them in any
    (K. Jordan 2024, "94% on CIFAR-10 in 3.29 seconds"). (n,) bool."""
    expect_integers("alternating_flips", 0, n=n, epoch=epoch)
    return random.bernoulli(torch.as_tensor(random.check_key(key)), 0.5, (n,)) ^ bool(epoch % 2)


def alternating_flip_batches(data: Batch, batch_size: int, key) -> Callable[[int], Batch]:
    """`data.batches` of images (n, C, H, W), half of which are mirrored at the start and all of
    which are mirrored again in every other epoch. A batch across two epochs is taken as of the
    first."""
    count_examples(data, "alternating_flip_batches")
    x, y = data
    _expect_images("alternating_flip_batches", x)
    flip_key, order_key = random.split(key)
    which = alternating_flips(flip_key, len(y), 0).to(x.device)
    drawn = batches((mirrored(x, which), y), batch_size, order_key)

    def batch_at(step: int) -> Batch:
        x_, y_ = drawn(step)
        return (x_.flip(3) if step * batch_size // len(y) % 2 else x_), y_

    return batch_at


def crop(padding: int) -> Augmentation:
    """Move each image by up to `padding` pixels in both directions; its reflection comes in."""
    expect_integers("crop", 0, padding=padding)

    def f(key, x):
        B, C, H, W = x.shape
        moves = random.randint(key, (2, B), -padding, padding + 1)
        image = rearrange(torch.arange(B, device=x.device), "b -> b 1 1 1")
        channel = rearrange(torch.arange(C, device=x.device), "c -> 1 c 1 1")
        row = rearrange(_reflected(moves[0], H), "b h -> b 1 h 1")
        column = rearrange(_reflected(moves[1], W), "b w -> b 1 1 w")
        return x[image, channel, row, column]

    return f


def cutout(size: int) -> Augmentation:
    """Set a square of `size` by `size` pixels of each image to 0, its center anywhere in the image.

    Put it after the normalization, where 0 is the mean. Source: DeVries and Taylor 2017.
    """
    expect_integers("cutout", 1, size=size)

    def f(key, x):
        B, _, H, W = x.shape
        keys = random.split(key, 2)
        rows, columns = (
            _within(random.randint(keys[i], (B, 1), 0, n), n, size) for i, n in enumerate((H, W))
        )
        hole = rearrange(rows, "b h -> b 1 h 1") & rearrange(columns, "b w -> b 1 1 w")
        return torch.where(hole, torch.zeros((), dtype=x.dtype, device=x.device), x)

    return f


def color_jitter(brightness: float = 0.2, contrast: float = 0.2) -> Augmentation:
    """Each image times one factor and plus one offset, for float images: x -> c x + b with c within
    1 - contrast ... 1 + contrast and b within - brightness ... brightness (in deviations)."""
    expect_numbers("color_jitter", NOT_NEGATIVE, brightness=brightness, contrast=contrast)

    def f(key, x):
        draws = random.uniform(key, (2, x.shape[0], 1, 1, 1), low=-1.0, high=1.0).to(x.dtype)
        return x * (1 + contrast * draws[0]) + brightness * draws[1]

    return f


def resized(x: Tensor, size: int) -> Tensor:
    """Return uint8 images (n, C, H, W) at `size` by `size` pixels, by antialiased bilinear
    interpolation: a smaller image shows all of the larger one."""
    _expect_images("resized", x)
    expect_integers("resized", 1, size=size)

    def shrink(part: Tensor) -> Tensor:
        found = torch.nn.functional.interpolate(
            part.float(), (size, size), mode="bilinear", antialias=True
        )
        return found.round().clamp(0, 255).to(torch.uint8)

    return torch.cat([shrink(part) for part in x.split(1000)])


def mixup(grad_fn: GradFn, n_classes: int, alpha: float = 1.0) -> GradFn:
    """`grad_fn` on mixtures of two examples, targets (batch, classes) mixed alike; the share is
    drawn from Beta(alpha, alpha), uniform for 1, one for a batch (Zhang et al. 2018).

    alpha: above 0 to 1.
    """
    expect_functions("mixup", grad_fn=grad_fn)
    expect_integers("mixup", 1, n_classes=n_classes)
    expect_reals("mixup", PART, alpha=alpha)
    draw = (lambda key: random.uniform(key, ())) if alpha == 1 else symmetric_beta(alpha)

    def wrapped(params, buffers, batch, key):
        x, y = batch
        share = draw(random.fold_in(key, 0)).to(x.dtype)
        other = random.permutation(random.fold_in(key, 1), x.shape[0])
        soft = torch.nn.functional.one_hot(y, n_classes).to(x.dtype)
        mixed = (torch.lerp(a[other], a, share) for a in (x, soft))
        return grad_fn(params, buffers, tuple(mixed), random.fold_in(key, 2))

    return wrapped


def symmetric_beta(alpha: float) -> Callable[[Tensor], Tensor]:
    """Return the draw from Beta(alpha, alpha), a pure function of a key; alpha above 0 to 1.

    The powers u^(1/alpha) and v^(1/alpha) of two uniform numbers, given that their sum is at most
    1, make u' / (u' + v') such a draw (M. Joehnk 1964). At least half of the pairs are good, so one
    of 40 is, but for 1 of 10^12 draws; that one is 1/2.
    """
    expect_reals("symmetric_beta", PART, alpha=alpha)

    def draw(key: Tensor) -> Tensor:
        u, v = random.uniform(key, (2, TRIES), "float64") ** (1 / alpha)
        good = (u + v <= 1) & (u + v > 0)
        first = torch.argmax(good.to(torch.int8))  # of equal values the first
        share = torch.where(good, u, 0.5) / torch.where(good, u + v, 1.0)
        return share.index_select(0, first.reshape(1))[0]

    return draw


def _expect_images(function: str, x: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 4:
        about = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise UserError(f"{function}: images are {about}, needs a tensor (batch, C, H, W)")


def _reflected(move: Tensor, n: int) -> Tensor:
    """The places (batch, n) that an image moved by `move` (batch,) is read from, reflected at its
    borders.
    """
    place = (torch.arange(n, device=move.device) + move[:, None]).abs()
    return torch.where(place >= n, 2 * (n - 1) - place, place).clamp(0, n - 1)


def _within(centre: Tensor, n: int, size: int) -> Tensor:
    place = torch.arange(n, device=centre.device) - centre + size // 2
    return (place >= 0) & (place < size)
