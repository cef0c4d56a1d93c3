"""The random words of `purenets.random` on a GPU, by one kernel in place of some hundred."""

from typing import Any

import torch
from torch import Tensor

from purenets.torch_nets.fast.tracing import is_tracing

# Philox-4x32-10, as `purenets.core.random.philox`; words of 32 bits come and go in int64
CODE = """
template <typename T>
void philox(T c0, T c1, T c2, T c3, T k0, T k1, T& word0, T& word1, T& word2, T& word3) {
  unsigned int a = c0, b = c1, c = c2, d = c3, x = k0, y = k1;
  for (int i = 0; i < 10; ++i) {
    const unsigned long long p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
    a = static_cast<unsigned int>(q >> 32) ^ b ^ x;
    b = static_cast<unsigned int>(q);
    c = static_cast<unsigned int>(p >> 32) ^ d ^ y;
    d = static_cast<unsigned int>(p);
    x += 0x9E3779B9u;
    y += 0xBB67AE85u;
  }
  word0 = a;
  word1 = b;
  word2 = c;
  word3 = d;
}
"""

try:  # compiled at its first call
    KERNEL = torch.cuda.jiterator._create_multi_output_jit_fn(CODE, num_outputs=4)
except (AttributeError, RuntimeError, AssertionError):
    KERNEL = None


def philox_on_gpu(counter: tuple[Any, ...], key: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
    """Return the words of `random.philox`; None where its plain operations are to be used.

    Args:
        counter: four words, int64 arrays or integers.
        key: two words, int64 arrays.

    Returns:
        Four int64 tensors, on CUDA and outside of torch.compile and transforms.
    """
    on_gpu = isinstance(key[0], Tensor) and key[0].is_cuda
    if KERNEL is None or not on_gpu or is_tracing():
        return None
    words = (c if isinstance(c, Tensor) else torch.full_like(key[0], c) for c in counter)
    return KERNEL(*words, *key)
