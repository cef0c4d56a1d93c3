"""Normal noise on many elements, as a function of a key: what DP-SGD adds in each step.

The numbers are the transform of Box and Muller 1958 of `random.words`, in float32 unless a leaf is
float64: equal within rounding on every device, compiled or not. `random.normal` has the same bits
everywhere instead, by a table that no vector unit likes: twenty times slower on a CPU.
"""

import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from purenets.core import random
from purenets.core.arrays import is_tracing
from purenets.core.base import Params
from purenets.torch_nets.fast.jit import jit
from purenets.torch_nets.keys import key_like

BLOCK = 1 << 17  # elements at a time, which a cache holds; the numbers do not depend on it
MIN_COMPILED = 1 << 19  # elements of all leaves from which on compiling pays, once for a process


def add_noise(grads: Params, key: Tensor, deviation: float, *, reuse: bool = False) -> Params:
    """Return gradients with normal noise on every element, a pure function of the key.

    A complex number has noise on its real and on its imaginary part.

    Args:
        grads: tensors by name.
        key: the source of the noise.
        deviation: its standard deviation.
        reuse: True if nothing else holds the gradients, so that the sums may take their memory.

    Returns:
        A dict like `grads`.

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.noise import add_noise
        >>> grads = {"w": torch.zeros(10_000)}
        >>> noisy = add_noise(grads, torch.as_tensor(random.key(0)), 2.0)
        >>> 1.9 < float(noisy["w"].std()) < 2.1
        True
    """
    complex_ones = [name for name, g in grads.items() if g.is_complex()]
    if complex_ones:
        pairs = {n: _as_pairs(g) if n in complex_ones else g for n, g in grads.items()}
        noisy = add_noise(pairs, key, deviation, reuse=reuse)
        return {n: torch.view_as_complex(g) if n in complex_ones else g for n, g in noisy.items()}
    key, sizes = key_like(key, grads), [g.numel() for g in grads.values()]
    wide = any(g.dtype == torch.float64 for g in grads.values())
    dtype = torch.float64 if wide else torch.float32
    if is_tracing():
        parts = normals(key, 0, sum(sizes), dtype).split(sizes)
        pairs = zip(grads.items(), parts, strict=True)
        return {name: g + (deviation * z).view(g.shape).to(g.dtype) for (name, g), z in pairs}
    noisy = {
        name: g if reuse and g.is_contiguous() else g.clone(memory_format=torch.contiguous_format)
        for name, g in grads.items()
    }
    flat = [g.view(-1) for g in noisy.values()]
    for leaf, at, z in _pieces(sizes, _blocks(key, sum(sizes), dtype)):
        flat[leaf][at].add_(z, alpha=deviation)
    return noisy


def _as_pairs(g: Tensor) -> Tensor:
    """Return complex numbers as pairs of reals, (..., 2)."""
    return torch.view_as_real(g.resolve_conj())


def normals(key: Tensor, start: int | Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """Return n standard normal draws of a key, from number `start` on.

    Two words of 32 bits make two draws: sqrt(-2 log u) times the cosine and the sine of 2 pi v.

    Args:
        key: the source of the draws.
        start: the number of the first one, a multiple of 4.
        n: how many.
        dtype: torch.float32 or torch.float64.

    Returns:
        A tensor (n,).

    Example:
        >>> import torch
        >>> from purenets import random
        >>> from purenets.torch_nets.analysis.noise import normals
        >>> key = torch.as_tensor(random.key(0))
        >>> a, b = normals(key, 0, 8, torch.float32), normals(key, 4, 4, torch.float32)
        >>> torch.allclose(a[4:], b)  # any part can be drawn alone
        True

    Source:
        Box and Muller 1958, "A note on the generation of random normal deviates".
    """
    words, draws = random.words(key, start // 4, -(-n // 4)), []
    for u, v in (words[:2], words[2:]):
        radius = torch.sqrt(-2 * torch.log((u.to(dtype) + 0.5) * 2.0**-32))
        angle = v.to(dtype) * (2 * math.pi * 2.0**-32)
        draws += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(draws, 1).view(-1)[:n]


def _blocks(key: Tensor, n: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield the first n draws of a key, and perhaps some more, BLOCK at a time."""
    if n >= MIN_COMPILED and key.device.type == "cpu":
        draw = _compiled(dtype)
        yield from (draw(key, torch.tensor([i])) for i in range(0, n, BLOCK))
    else:
        yield from (normals(key, i, min(BLOCK, n - i), dtype) for i in range(0, n, BLOCK))


@functools.cache
def _compiled(dtype: torch.dtype) -> Callable[[Tensor, Tensor], Tensor]:
    return jit(lambda key, start: normals(key, start, BLOCK, dtype))


def _pieces(sizes: list[int], blocks: Iterator[Tensor]) -> Iterator[tuple[int, slice, Tensor]]:
    """Yield (leaf, slice of it, draws): the draws of the blocks lie on all leaves in turn."""
    block = next(blocks, None)
    for leaf, size in enumerate(sizes):
        begin = 0
        while begin < size:
            n = min(size - begin, len(block))
            yield leaf, slice(begin, begin + n), block[:n]
            begin, block = begin + n, block[n:]
            if not len(block):
                block = next(blocks, None)
