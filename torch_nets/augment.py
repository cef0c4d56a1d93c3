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
    shown,
    whole_only_of,
)
from purenets.core.arrays import int64, kind_of, widened
from purenets.core.base import Batch, GradFn, UserError
from purenets.core.batch import count_examples
from purenets.core.data.sampling import batches
from purenets.torch_nets.fast.tracing import is_tracing
from purenets.torch_nets.grad import expect_tensors
from purenets.torch_nets.keys import key_like

Augmentation = Callable[[Tensor, Tensor], Tensor]
TRIES = 40


def augmented(grad_fn: GradFn, f: Augmentation) -> GradFn:
    """Return a gradient function that sees augmented inputs, drawn anew for each batch.

    Args:
        grad_fn: the gradient function.
        f: the augmentation, `f(key, x) -> x`.

    Returns:
        A gradient function. `f` and `grad_fn` get a key each.

    Raises:
        UserError: an argument is not a function.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import CNN, grad_fn
        >>> from purenets.torch_nets.augment import augmented, chain, crop, flip
        >>> model = CNN(1, 10, width=0.05)
        >>> grad = augmented(grad_fn(model), chain(flip, crop(2)))
        >>> batch = torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> key = torch.as_tensor(random.key(1))
        >>> grads, _ = grad(*model.init(random.key(0)), batch, key)
        >>> grads["fc.bias"].shape
        torch.Size([10])
    """
    expect_functions("augmented", grad_fn=grad_fn, f=f)

    def wrapped(params, buffers, batch, key):
        x, y = batch
        key = key_like(key, x)
        return grad_fn(params, buffers, (f(random.fold_in(key, 0), x), y), random.fold_in(key, 1))

    wrapped.whole_only = whole_only_of(grad_fn)
    return wrapped


def with_input_transform(grad_fn: GradFn, f: Callable[[Tensor], Tensor]) -> GradFn:
    """Return a gradient function that sees transformed inputs, such as normalized ones.

    Args:
        grad_fn: the gradient function.
        f: the transform, `f(x) -> x`, which draws nothing.

    Returns:
        A gradient function.

    Raises:
        UserError: an argument is not a function.

    Example:
        >>> import torch
        >>> from purenets.torch_nets import grad_fn, layers, losses
        >>> from purenets.torch_nets.augment import with_input_transform
        >>> grad = grad_fn(layers.Linear(1, 1, bias=False), losses.mse)
        >>> grad = with_input_transform(grad, lambda x: x / 255)
        >>> batch = torch.tensor([[255.0]]), torch.tensor([[0.0]])
        >>> grad({"weight": torch.tensor([[2.0]])}, {}, batch, None)[0]
        {'weight': tensor([[4.]])}
    """
    expect_functions("with_input_transform", grad_fn=grad_fn, f=f)

    def wrapped(params, buffers, batch, key):
        return grad_fn(params, buffers, (f(batch[0]), batch[1]), key)

    wrapped.whole_only = whole_only_of(grad_fn)
    return wrapped


def chain(*functions: Augmentation) -> Augmentation:
    """Return the augmentation that applies several in sequence, each with a key of its own.

    Args:
        functions: augmentations, `f(key, x) -> x`.

    Returns:
        An augmentation.

    Raises:
        UserError: an argument is not a function.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import chain, crop, cutout, flip
        >>> f = chain(flip, crop(4), cutout(8))
        >>> f(torch.as_tensor(random.key(0)), torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3, 32, 32])
    """
    expect_functions("chain", **{f"functions[{i}]": f for i, f in enumerate(functions)})

    def f(key, x):
        key = key_like(key, x)
        for i, function in enumerate(functions):
            x = function(random.fold_in(key, i), x)
        return x

    return f


def flip(key: Tensor, x: Tensor) -> Tensor:
    """Return images, each mirrored left to right with probability 1/2.

    Args:
        key: the source of the draws.
        x: images (batch, C, H, W).

    Returns:
        Images of the same shape and dtype.

    Raises:
        UserError: `x` is not a tensor of four axes.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import flip
        >>> x = torch.tensor([0.0, 1.0]).repeat(1000, 1, 1, 1)
        >>> bool(400 < flip(torch.as_tensor(random.key(0)), x)[..., 0].sum() < 600)
        True

    Source:
        torchvision.transforms.RandomHorizontalFlip.
    """
    expect_images("flip", x)
    return mirrored(x, random.bernoulli(key_like(key, x), 0.5, x.shape[:1]))


def mirrored(x: Tensor, which: Tensor) -> Tensor:
    """Return images, the chosen ones mirrored left to right.

    Args:
        x: images (batch, C, H, W).
        which: booleans (batch,), True for an image to mirror.

    Returns:
        Images of the same shape and dtype.

    Raises:
        UserError: `x` is not a tensor of four axes, or `which` is not a tensor of booleans
            (batch,).

    Example:
        >>> import torch
        >>> from purenets.torch_nets.augment import mirrored
        >>> x = torch.tensor([0, 1]).view(1, 1, 1, 2).repeat(2, 1, 1, 1)
        >>> mirrored(x, torch.tensor([True, False])).flatten(1)
        tensor([[1, 0],
                [0, 1]])
    """
    expect_images("mirrored", x)
    if not isinstance(which, Tensor) or which.dtype != torch.bool or which.shape != x.shape[:1]:
        raise UserError(f"mirrored: which: needs truth values ({x.shape[0]},), one an image")
    return torch.where(rearrange(which, "b -> b 1 1 1"), x.flip(3), x)


def augmented_batches(batches: Callable[[int], Batch], f: Augmentation, key) -> Callable:
    """Return `batches` of augmented inputs, as a function of the step alone.

    Whoever asks for a batch sees the same images. `augmented` cannot do that for two gradient
    functions, which have different keys.

    Args:
        batches: the function from a step to its batch.
        f: the augmentation, `f(key, x) -> x`.
        key: the source of its draws.

    Returns:
        `batches(step)`.

    Raises:
        UserError: an argument is not a function, or `key` is not a key.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import augmented_batches, crop
        >>> images = torch.arange(64.0).view(1, 1, 8, 8), torch.tensor([0])
        >>> batches = augmented_batches(lambda step: images, crop(2), random.key(0))
        >>> torch.equal(batches(3)[0], batches(3)[0])
        True
    """
    expect_functions("augmented_batches", batches=batches, f=f)
    key = torch.as_tensor(random.check_key(key))

    def batch_at(step: int) -> Batch:
        x, y = batches(step)
        return f(random.fold_in(key, step).to(x.device), x), y

    return batch_at


def alternating_flips(key, n: int, epoch: int) -> Tensor:
    """Return which images to mirror in an epoch: each one in every other epoch.

    In any epoch it is about half of them. So in two epochs each image is seen once from each side;
    random flips show half of the images twice from the same side.

    Args:
        key: decides which images begin mirrored.
        n: how many images.
        epoch: the number of the epoch, from 0.

    Returns:
        Booleans (n,).

    Raises:
        UserError: `n` or `epoch` is negative, or `key` is not a key.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import alternating_flips
        >>> first, second = (alternating_flips(random.key(0), 5, epoch) for epoch in (0, 1))
        >>> torch.equal(first, ~second)
        True

    Source:
        Jordan 2024, arXiv 2404.00498.
    """
    expect_integers("alternating_flips", 0, n=n, epoch=epoch)
    return random.bernoulli(torch.as_tensor(random.check_key(key)), 0.5, (n,)) ^ bool(epoch % 2)


def alternating_flip_batches(data: Batch, batch_size: int, key) -> Callable[[int], Batch]:
    """Return `data.batches` of images that are mirrored in every other epoch.

    Half of them begin mirrored. A batch across two epochs counts as one of the first.

    Args:
        data: images (n, C, H, W) and targets (n,).
        batch_size: examples in a batch.
        key: the source of the order and of the flips.

    Returns:
        `batches(step)`.

    Raises:
        UserError: the images are not a tensor of four axes, or another argument is wrong.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import alternating_flip_batches
        >>> images = torch.tensor([0.0, 1.0]).repeat(4, 1, 1, 1), torch.arange(4)
        >>> batches = alternating_flip_batches(images, 4, random.key(0))
        >>> first, second = batches(0)[0].flatten(1), batches(1)[0].flatten(1)
        >>> int(first[:, 0].sum() + second[:, 0].sum())  # each of 4 images is mirrored once
        4

    Source:
        Jordan 2024, arXiv 2404.00498.
    """
    count_examples(data, "alternating_flip_batches")
    x, y = data
    expect_images("alternating_flip_batches", x)
    flip_key, order_key = random.split(key)
    which = alternating_flips(flip_key, len(y), 0).to(x.device)
    drawn = batches((mirrored(x, which), y), batch_size, order_key)

    def batch_at(step: int) -> Batch:
        x_, y_ = drawn(step)
        return (x_.flip(3) if int(step) * (int(batch_size) or len(y)) // len(y) % 2 else x_), y_

    return batch_at


def crop(padding: int) -> Augmentation:
    """Return the augmentation that shifts each image at random and fills the edge by reflection.

    Args:
        padding: the largest shift in pixels, in both directions.

    Returns:
        An augmentation of images (batch, C, H, W).

    Raises:
        UserError: `padding` is negative or not an integer. When called: the images are no tensor of
            four axes.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import crop
        >>> x, key = torch.arange(16.0).view(1, 1, 4, 4), torch.as_tensor(random.key(0))
        >>> torch.equal(crop(0)(key, x), x)
        True

    Source:
        torchvision.transforms.RandomCrop(size, padding, padding_mode="reflect").
    """
    expect_integers("crop", 0, padding=padding)
    padding = int(padding)

    def f(key, x):
        expect_images("crop", x)
        B, C, H, W = x.shape
        moves = random.randint(key_like(key, x), (2, B), -padding, padding + 1)
        image = rearrange(torch.arange(B, device=x.device), "b -> b 1 1 1")
        channel = rearrange(torch.arange(C, device=x.device), "c -> 1 c 1 1")
        row = rearrange(_reflected(moves[0], H), "b h -> b 1 h 1")
        column = rearrange(_reflected(moves[1], W), "b w -> b 1 1 w")
        return x[image, channel, row, column]

    return f


def cutout(size: int) -> Augmentation:
    """Return the augmentation that sets a random square of each image to 0.

    Put it after the normalization, where 0 is the mean. The center of the square may be anywhere in
    the image, so part of it may lie outside.

    Args:
        size: the side of the square in pixels.

    Returns:
        An augmentation of images (batch, C, H, W).

    Raises:
        UserError: `size` is not a positive integer. When called: the images are no tensor of four
            axes.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import cutout
        >>> x = cutout(1)(torch.as_tensor(random.key(0)), torch.ones(5, 1, 4, 4))
        >>> x.sum(dim=(1, 2, 3))  # one of 16 pixels is gone
        tensor([15., 15., 15., 15., 15.])

    Source:
        DeVries and Taylor 2017, arXiv 1708.04552.
    """
    expect_integers("cutout", 1, size=size)
    size = int(size)

    def f(key, x):
        expect_images("cutout", x)
        B, _, H, W = x.shape
        keys = random.split(key_like(key, x), 2)
        rows, columns = (
            _within(random.randint(keys[i], (B, 1), 0, n), n, size) for i, n in enumerate((H, W))
        )
        hole = rearrange(rows, "b h -> b 1 h 1") & rearrange(columns, "b w -> b 1 1 w")
        return torch.where(hole, torch.zeros((), dtype=x.dtype, device=x.device), x)

    return f


def color_jitter(brightness: float = 0.2, contrast: float = 0.2) -> Augmentation:
    """Return the augmentation c x + b, with a random contrast c and brightness b for each image.

    Args:
        brightness: b is drawn from -brightness to brightness, in units of x; after a normalization,
            in standard deviations.
        contrast: c is drawn from 1 - contrast to 1 + contrast.

    Returns:
        An augmentation of floating-point images (batch, C, H, W).

    Raises:
        UserError: an argument is negative. When called: the images are no tensor of four axes, or
            are integers, which a random factor would turn into fractions.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import color_jitter
        >>> key, x = torch.as_tensor(random.key(0)), torch.zeros(100, 1, 1, 1)
        >>> y = color_jitter(brightness=0.2)(key, x)
        >>> bool((y.abs() <= 0.2).all()), bool(y.std() > 0)
        (True, True)
    """
    expect_numbers("color_jitter", NOT_NEGATIVE, brightness=brightness, contrast=contrast)

    def f(key, x):
        expect_images("color_jitter", x)
        if not x.is_floating_point():
            dtype = str(x.dtype).removeprefix("torch.")
            raise UserError(f"color_jitter: images are {dtype}, needs floating point; x.float()")
        draws = random.uniform(key_like(key, x), (2, x.shape[0], 1, 1, 1), low=-1.0, high=1.0).to(
            x.dtype
        )
        return x * (1 + contrast * draws[0]) + brightness * draws[1]

    return f


def resized(x: Tensor, size: int) -> Tensor:
    """Return images at another size, by antialiased bilinear interpolation.

    A smaller image shows all of the larger one.

    Args:
        x: images (n, C, H, W), uint8 or of floating point.
        size: the new height and width.

    Returns:
        Images (n, C, size, size) of the same dtype; uint8 ones are rounded.

    Raises:
        UserError: `x` is not a tensor of four axes, or of other integers, or `size` is not a
            positive integer.

    Example:
        >>> import torch
        >>> from purenets.torch_nets.augment import resized
        >>> resized(torch.full((2, 3, 32, 32), 7, dtype=torch.uint8), 16).unique()
        tensor([7], dtype=torch.uint8)
    """
    expect_images("resized", x)
    expect_integers("resized", 1, size=size)
    if x.dtype != torch.uint8 and not x.is_floating_point():
        dtype = str(x.dtype).removeprefix("torch.")
        raise UserError(f"resized: images are {dtype}, needs uint8 or floating point")

    def shrink(part: Tensor) -> Tensor:
        wide = part.float() if part.dtype == torch.uint8 else widened(part)
        found = torch.nn.functional.interpolate(wide, (size, size), mode="bilinear", antialias=True)
        found = found.round().clamp(0, 255) if part.dtype == torch.uint8 else found
        return found.to(part.dtype)

    return torch.cat([shrink(part) for part in x.split(1000)])


def mixup(grad_fn: GradFn, n_classes: int, alpha: float = 1.0) -> GradFn:
    """Return a gradient function that sees mixtures of two examples, targets mixed alike.

    The share of the first example is drawn once for a batch, from Beta(alpha, alpha).

    Args:
        grad_fn: the gradient function, whose loss takes soft labels (batch, classes).
        n_classes: classes of the targets.
        alpha: above 0 to 1. 1 draws the share uniform; smaller values mix less.

    Returns:
        A gradient function of batches with class numbers (batch,) for targets, of any integer
        dtype.

    Raises:
        UserError: `grad_fn` is not a function, or a number is out of range. When called: inputs or
            targets are something else, or (on a CPU, in eager mode) a class does not exist.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets import MLP, grad_fn
        >>> from purenets.torch_nets.augment import mixup
        >>> model = MLP(2, [8], 3)
        >>> grad = mixup(grad_fn(model), n_classes=3)
        >>> batch, key = (torch.eye(2), torch.tensor([0, 2])), torch.as_tensor(random.key(1))
        >>> grads, (_, metrics) = grad(*model.init(random.key(0)), batch, key)
        >>> sorted(metrics)
        ['accuracy', 'loss']

    Source:
        Zhang et al. 2018, arXiv 1710.09412.
    """
    expect_functions("mixup", grad_fn=grad_fn)
    expect_integers("mixup", 1, n_classes=n_classes)
    expect_reals("mixup", PART, alpha=alpha)
    draw = (lambda key: random.uniform(key, ())) if alpha == 1 else symmetric_beta(alpha)

    def wrapped(params, buffers, batch, key):
        x, y = batch
        expect_tensors(params, batch)
        _expect_mixable(x, y, n_classes)
        key = key_like(key, x)
        share = draw(random.fold_in(key, 0)).to(x.dtype)
        other = random.permutation(random.fold_in(key, 1), x.shape[0])
        soft = torch.nn.functional.one_hot(int64(y), n_classes).to(x.dtype)
        mixed = (torch.lerp(a[other], a, share) for a in (x, soft))
        return grad_fn(params, buffers, tuple(mixed), random.fold_in(key, 2))

    wrapped.whole_only = whole_only_of(grad_fn)
    return wrapped


def _expect_mixable(x: Tensor, y: Tensor, n_classes: int) -> None:
    """Raise a UserError unless `mixup` can mix the inputs, and the targets are class numbers."""
    for name, array, kinds, right in (
        ("inputs", x, "fc", "a tensor of floating point; see with_input_transform"),
        ("targets", y, "bi", "class numbers (batch,), a tensor of integers"),
    ):
        fits = isinstance(array, Tensor) and kind_of(array) in kinds
        if not fits or (array is y and y.ndim != 1):
            raise UserError(f"mixup: the {name} are {shown(array)}, needs {right}")
    if is_tracing() or not y.is_cpu:
        return
    wrong = int64(y)
    wrong = wrong[(wrong < 0) | (wrong >= n_classes)]
    if len(wrong):
        raise UserError(f"mixup: target {wrong[0]} is none of the classes 0 to {n_classes - 1}")


def symmetric_beta(alpha: float) -> Callable[[Tensor], Tensor]:
    """Return the draw from Beta(alpha, alpha), a pure function of a key.

    The powers u^(1/alpha) and v^(1/alpha) of two uniform numbers, given that their sum is at most
    1, make u' / (u' + v') such a draw. At least half of the pairs qualify, so one of 40 does in all
    but 1 of 10^12 draws; that one is 1/2.

    Args:
        alpha: above 0 to 1.

    Returns:
        `draw(key) -> scalar`, float64.

    Raises:
        UserError: `alpha` is out of range.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.augment import symmetric_beta
        >>> share = symmetric_beta(0.2)(torch.as_tensor(random.key(0)))
        >>> bool(0 <= share <= 1)
        True

    Source:
        Joehnk 1964, "Erzeugung von betaverteilten und gammaverteilten Zufallszahlen".
    """
    expect_reals("symmetric_beta", PART, alpha=alpha)

    def draw(key: Tensor) -> Tensor:
        uniform = random.uniform(key_like(key), (2, TRIES), "float64")
        u, v = uniform ** (1 / alpha)
        good = u + v <= 1
        first = torch.argmax(good.to(torch.int8))  # of equal values the first
        share = torch.where(good, u, 0.5) / torch.where(good, u + v, 1.0)
        ratio = (uniform[1] / uniform[0]) ** (1 / alpha)  # for a small alpha u and v may both be 0
        share = torch.where(u + v == 0, 1 / (1 + ratio), share)
        return share.index_select(0, first.reshape(1))[0]

    return draw


def expect_images(function: str, x: Tensor) -> None:
    """Raise a UserError unless x is a tensor (batch, C, H, W)."""
    if not isinstance(x, Tensor) or x.ndim != 4:
        about = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise UserError(f"{function}: images are {about}, needs a tensor (batch, C, H, W)")


def _reflected(move: Tensor, n: int) -> Tensor:
    """Return the positions (batch, n) that shifted images are read from, with reflection."""
    period = max(2 * (n - 1), 1)  # there and back; a single pixel is its own reflection
    place = (torch.arange(n, device=move.device) + move[:, None]) % period
    return torch.where(place >= n, period - place, place)


def _within(centre: Tensor, n: int, size: int) -> Tensor:
    place = torch.arange(n, device=centre.device) - centre + size // 2
    return (place >= 0) & (place < size)
