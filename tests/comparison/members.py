"""The vmap checks of functions: three members in one vmapped call, and each of them alone."""

from collections.abc import Callable
from functools import partial

N_MEMBERS = 3


def run_in_torch(called: tuple, over: str) -> None:
    """Compare f under torch.func.vmap with f of each member alone.

    Args:
        called: f and its arguments, dicts or tensors with a leading axis of members.
        over: "draws" for one draw of torch's generator that all members share, else none may be
            made.

    Raises:
        RuntimeError: f does not run under vmap.
        AssertionError: a member differs.
    """
    import torch
    from torch.utils._pytree import tree_map

    f, *arguments = called
    torch.manual_seed(0)
    randomness = "same" if over == "draws" else "error"
    together = torch.func.vmap(f, randomness=randomness)(*arguments)
    for i in range(N_MEMBERS):
        torch.manual_seed(0)
        alone = f(*member(arguments, i, tree_map))
        torch.testing.assert_close(member(together, i, tree_map), alone, rtol=1e-3, atol=1e-5)


def run_in_jax(called: tuple, over: str) -> None:
    """Compare f under jax.vmap with f of each member alone, as `run_in_torch` does."""
    import jax
    import numpy as np

    f, *arguments = called
    together, alone = jax.jit(jax.vmap(f))(*arguments), jax.jit(f)
    close = partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-5)
    for i in range(N_MEMBERS):
        jax.tree.map(
            close, member(together, i, jax.tree.map), alone(*member(arguments, i, jax.tree.map))
        )


def member(tree, i: int, tree_map: Callable):
    """Return one member of a tree of leaves with a leading axis of members."""
    return tree_map(lambda leaf: leaf[i], tree)


def numbers(*shape: int):
    """Return a tensor of three members of numbers in (-1, 1), no two the same."""
    import torch

    count = N_MEMBERS * torch.Size(shape).numel()
    return torch.sin(1.7 * torch.arange(1.0, count + 1)).reshape(N_MEMBERS, *shape)


def numbers_in_jax(*shape: int):
    """Return `numbers` as an array of JAX."""
    import jax.numpy

    return jax.numpy.asarray(numbers(*shape).numpy())


def keys():
    """Return a key for each member."""
    import torch

    from purenets import random

    return random.split(torch.as_tensor(random.key(0)), N_MEMBERS)


def members_of(params: dict) -> dict:
    """Return a dict of params as three members, each with other values."""
    import torch

    def other(p):
        return 0.1 * numbers(*p.shape).to(p.dtype) if p.is_floating_point() else torch.zeros_like(p)

    return {name: p + other(p).expand(N_MEMBERS, *p.shape) for name, p in params.items()}


def gradients(f: Callable) -> Callable:
    """Return the function of the gradients of sum sin f by all arguments of floating point."""
    import torch
    from torch.utils._pytree import tree_leaves

    def grads(*arguments):
        wanted = tuple(
            i for i, a in enumerate(arguments) if all(t.is_floating_point() for t in tree_leaves(a))
        )
        value = lambda *arguments: f(*arguments).sin().sum()
        return torch.func.grad(value, wanted)(*arguments)

    return grads
