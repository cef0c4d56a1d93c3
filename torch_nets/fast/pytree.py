"""Containers of tensors as torch's pytrees.

`VectorDict` is known to them as a dict is: its leaves in order, and a plain dict when it is built
again.
"""

from collections.abc import Callable
from typing import Any

from torch.utils import _pytree

from purenets.core.vector_dict import VectorDict


def register() -> None:
    """Tell torch.func and torch.compile that a `VectorDict` is a container."""
    if VectorDict not in _pytree.SUPPORTED_NODES:
        known = _pytree.SUPPORTED_NODES[dict]
        _pytree.register_pytree_node(
            VectorDict,
            known.flatten_fn,
            known.unflatten_fn,
            serialized_type_name="purenets.VectorDict",
            flatten_with_keys_fn=known.flatten_with_keys_fn,
        )


def map_trees(f: Callable[..., Any], *trees: Any) -> Any:
    """Return a container with f of the leaves at each place of containers that are alike."""
    return _pytree.tree_map(f, *trees)
